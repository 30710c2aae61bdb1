// SPDX-License-Identifier: Apache-2.0
// Random calls of attention over caches with a history: sequences in any order, queries ragged or not, masks, score
// modifications, rotation, weights; and every item as a plain call on tensors.
#ifndef MHA_TESTS_SUPPORT_RANDOM_DECODE_H
#define MHA_TESTS_SUPPORT_RANDOM_DECODE_H

#include "tests/support/guard.h"
#include "tests/support/random_cache.h"

namespace mha::test {

/// A call over such a cache.
class RandomDecode {
 public:
  explicit RandomDecode(Random& random, const RandomStorage& storage = {}) : cache(random, storage) {
    B = between(random, 1, 6);
    for (int64_t b = 0; b < B; ++b) sequences_.push_back(random.below(cache.config.max_sequences));
    if (one_in(random, 2)) std::sort(sequences_.begin(), sequences_.end());
    H = cache.config.num_kv_heads * one_of<int64_t>(random, {1, 1, 2, 4});
    const bool ragged = one_in(random, 2);
    const int64_t same = one_in(random, 3) ? 1 : draw_length(random);
    for (int64_t b = 0; b < B; ++b) {
      offsets_.push_back(offsets_.back() + (ragged ? draw_length(random) : same));
      longest_query = std::max(longest_query, query_len(b));
      longest_key = std::max(longest_key, key_len(b));
      items_.push_back(cache.dense(sequences_[b]));
    }
    query_ = random_floats(offsets_.back() * H * cache.config.head_dim, random.bits() >> 8, 3);
    masks_ = std::make_unique<RandomMasks>(random, B, H, longest_query, longest_key, RandomMasks::Lengths::kKnown);
    args_.batch = B, args_.num_heads = H, args_.num_kv_heads = cache.config.num_kv_heads;
    args_.query_len = ragged ? offsets_.back() : same;
    args_.head_dim = cache.config.head_dim, args_.value_head_dim = cache.config.value_head_dim;
    args_.query = view(query_.data());
    if (ragged) args_.items.query_offsets = offsets_.data();
    args_.cache = cache.cache.get();
    args_.items.sequences = sequences_.data();
    args_.score_mods = masks_->mods();
    draw_masks(random);
    draw_weights(random);
    if (one_in(random, 3)) draw_preparation(random);
    if (one_in(random, 4)) args_.scale = 0.4f;
  }
  RandomDecode(const RandomDecode&) = delete;
  RandomDecode& operator=(const RandomDecode&) = delete;

  RandomCache cache;
  int64_t B, H, longest_query = 0, longest_key = 0;

  int64_t query_len(int64_t b) const { return offsets_[b + 1] - offsets_[b]; }
  int64_t key_len(int64_t b) const { return cache.length(sequences_[b]); }
  int64_t query_begin(int64_t b) const { return offsets_[b]; }
  /// Inputs only; results and workspace are to be given.
  const AttentionCall& args() const { return args_; }
  void set_arithmetic(mha_arithmetic arithmetic) { args_.arithmetic = arithmetic; }
  bool rows_chosen() const { return args_.results.weights_rows != nullptr; }
  bool with_window() const { return args_.masks.window_left > 0; }

  /// Whether a ring still has all keys that the call would read.
  bool refused() const {
    for (int64_t b = 0; b < B; ++b) {
      const int64_t kept = cache.first_kept(sequences_[b]);
      if (query_len(b) == 0 || kept == 0) continue;
      if (!with_window() || position(b) - args_.masks.window_left + 1 < kept) return true;
      if (args_.masks.sink_tokens > cache.config.sink_tokens) return true;
    }
    return false;
  }
  /// Item b as a call of its own on tensors, valid until the next call of this function.
  AttentionCall item(int64_t b) {
    AttentionCall a = args_;
    a.batch = 1, a.query_len = query_len(b), a.key_len = key_len(b);
    a.query = view(query_.data() + offsets_[b] * H * a.head_dim);
    a.key = view(items_[b].key.data()), a.value = view(items_[b].value.data());
    a.items = {}, a.cache = nullptr;
    if (a.positions.offsets) a.positions.offsets += b;
    mha_masks& m = a.masks;
    if (m.prefix_lengths) m.prefix_lengths += b;
    if (m.bool_mask.data) m.bool_mask.data += b * m.bool_mask.stride_b;
    for (mha_add_mask* add : {&m.add_mask, &m.add_mask2}) {
      if (add->data) add->data = static_cast<const float*>(add->data) + b * add->stride_b;
    }
    if (m.block_mask.pair_offsets) {
      const int64_t* offsets = m.block_mask.pair_offsets + b * H;
      pair_offsets_.clear();
      for (int64_t h = 0; h <= H; ++h) pair_offsets_.push_back(offsets[h] - offsets[0]);
      m.block_mask.pairs += 2 * offsets[0], m.block_mask.num_pairs = pair_offsets_.back();
      m.block_mask.pair_offsets = pair_offsets_.data();
    }
    if (m.bit_mask.data) m.bit_mask.data += b * m.bit_mask.stride_b;
    if (m.key_segments) {
      m.query_segments += offsets_[b];
      for (int64_t before = 0; before < b; ++before) m.key_segments += key_len(before);
    }
    if (a.positions.query) a.positions.query += offsets_[b];
    return a;
  }

  std::string describe() const {
    std::ostringstream text;
    const mha_cache_config& c = cache.config;
    text << kind_name(c.kind) << " capacity " << c.capacity << " page " << c.page_size << " pinned " << c.sink_tokens
         << " H " << H << "/" << c.num_kv_heads << " D " << c.head_dim << "/" << c.value_head_dim
         << (args_.items.query_offsets ? " ragged" : "") << ", items";
    for (int64_t b = 0; b < B; ++b)
      text << " " << sequences_[b] << ":" << query_len(b) << "x" << key_len(b) << "-"
           << cache.first_kept(sequences_[b]);
    text << ";" << masks_->describe() << " (window " << args_.masks.window_left << " pinned " << args_.masks.sink_tokens
         << ") weights " << args_.results.weights_mode << (rows_chosen() ? " of rows" : "")
         << (args_.rope ? " rope" : "") << (args_.query_norm ? " norm" : "");
    return text.str();
  }

 private:
  static int64_t draw_length(Random& random) {
    if (one_in(random, 8)) return 0;
    return one_in(random, 6) ? between(random, 40, 300) : between(random, 1, 30);
  }
  int64_t position(int64_t b) const { return masks_->get().first_position(b, query_len(b), key_len(b)); }

  void draw_masks(Random& random) {
    masks_->get().put_into(&args_);
    mha_masks& m = args_.masks;
    if (m.key_segments) {  // packed
      for (int64_t b = 0; b < B; ++b) {
        const int32_t *query = m.query_segments + b * longest_query, *key = m.key_segments + b * longest_key;
        query_segments_.insert(query_segments_.end(), query, query + query_len(b));
        key_segments_.insert(key_segments_.end(), key, key + key_len(b));
      }
      query_segments_.push_back(0), key_segments_.push_back(0);  // never empty
      m.query_segments = query_segments_.data(), m.key_segments = key_segments_.data();
    }
    // Mostly a window within what rings keep.
    int64_t room = INT64_MAX;
    for (int64_t b = 0; b < B; ++b) {
      const int64_t kept = cache.first_kept(sequences_[b]);
      if (kept > 0 && query_len(b) > 0) room = std::min(room, position(b) + 1 - kept);
    }
    if (room == INT64_MAX || room < 1 || one_in(random, 10)) return;
    m.window_left = between(random, 1, room);
    m.sink_tokens = std::min(m.sink_tokens, cache.config.sink_tokens);
  }
  void draw_weights(Random& random) {
    args_.results.weights_mode = one_of(
        random, {MHA_WEIGHTS_NONE, MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED, MHA_WEIGHTS_KEY_SUMS});
    if (args_.results.weights_mode == MHA_WEIGHTS_NONE || !one_in(random, 3)) return;
    int64_t shortest = query_len(0);
    for (int64_t b = 0; b < B; ++b) shortest = std::min(shortest, query_len(b));
    for (int64_t i = 0; i < shortest; ++i) {
      if (one_in(random, 3)) rows_.push_back(i);
    }
    const int64_t count = static_cast<int64_t>(rows_.size());
    rows_.push_back(-1);  // never empty
    choose_weights_rows(&args_, rows_.data(), count);
  }
  void draw_preparation(Random& random) {
    if (cache.config.head_dim > 1 && !one_in(random, 4)) {
      rope_.style = one_of(random, {MHA_ROPE_HALF, MHA_ROPE_INTERLEAVED});
      rope_.dims = cache.config.head_dim / 2 * 2;
      args_.rope = &rope_;
      bool negative = false;
      for (int64_t b = 0; b < B; ++b) negative |= position(b) < 0;
      if (negative || one_in(random, 2)) {
        for (int64_t n = 0; n < offsets_.back(); ++n) positions_.push_back(random.below(5000));
        positions_.push_back(0);  // never empty
        args_.positions.query = positions_.data();
      }
    }
    if (one_in(random, 2)) {
      norm_.epsilon = 1e-5f;
      norm_weight_ = random_floats(cache.config.head_dim, random.bits() >> 8);
      if (one_in(random, 2)) norm_.weight = norm_weight_.data();
      args_.query_norm = &norm_;
    }
  }

  std::vector<int64_t> sequences_, offsets_{0}, rows_, positions_, pair_offsets_;
  std::vector<int32_t> query_segments_, key_segments_;
  std::vector<Tokens> items_;
  std::vector<float> query_, norm_weight_;
  std::unique_ptr<RandomMasks> masks_;
  mha_rope rope_ = {};
  mha_norm norm_ = {};
  AttentionCall args_;
};

/// Sizes of the dense results of a call over items.
struct ResultSizes {
  int64_t output, weights, log_sum_exp;

  ResultSizes(const AttentionCall& a, int64_t longest_key) {
    const int64_t queries = a.items.query_offsets ? a.query_len : a.batch * a.query_len;
    output = queries * a.num_heads * a.value_head_dim;
    log_sum_exp = queries * a.num_heads;
    const mha_results& r = a.results;
    weights = r.weights_rows ? a.batch * r.num_weights_rows : queries;
    if (r.weights_mode == MHA_WEIGHTS_KEY_SUMS) weights = a.batch;
    if (r.weights_mode != MHA_WEIGHTS_AVERAGED) weights *= a.num_heads;
    weights *= r.weights_mode == MHA_WEIGHTS_NONE ? 0 : longest_key;
  }
};

/// Runs a call with a workspace of the size that was told without data, no room around it.
inline AttentionResult run_guarded(const mha_context* context, AttentionCall args, int64_t longest_key,
                                   mha_status* status, mha_error* error) {
  const ResultSizes sizes(args, longest_key);
  size_t bytes = 0;
  AttentionCall blank = args;
  blank.query.data = blank.key.data = blank.value.data = nullptr, blank.positions.query = nullptr;
  *status = attention_workspace_bytes(context, blank, &bytes, error);
  GuardedBuffer workspace(bytes, Guard::kAfter);
  std::memset(workspace.data(), 0xff, bytes);
  AttentionResult result = {poisoned(sizes.output), poisoned(sizes.weights), poisoned(sizes.log_sum_exp)};
  args.output = mut_view(result.output.data());
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) args.results.weights = mut_view(result.weights.data());
  args.results.log_sum_exp = result.log_sum_exp.data();
  args.resources.workspace = workspace.data(), args.resources.workspace_bytes = bytes;
  const mha_status told = *status;
  *status = attention(context, args, error);
  CHECK(*status == told);
  return result;
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_RANDOM_DECODE_H
