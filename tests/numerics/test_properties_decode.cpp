// SPDX-License-Identifier: Apache-2.0
// Decoding on random histories: attention over a cache, whatever its kind, pages and forks, the batch ragged or not, is
// the bits of one plain call a sequence; so is a layer that decodes in any pieces, and so are partial results merged.
#include "tests/support/layers.h"
#include "tests/support/random_decode.h"
#include "tests/support/seeds.h"

using namespace mha::test;

namespace {

bool all_poison(const std::vector<float>& values) {
  for (const float value : values)
    if (!is_poison(value)) return false;
  return true;
}

/// Fails and returns false where `count` floats differ.
bool check_run(const std::string& what, const std::vector<float>& got, int64_t at, const std::vector<float>& want,
               int64_t want_at, int64_t count) {
  const int64_t n = first_bit_difference(got.data() + at, want.data() + want_at, static_cast<size_t>(count));
  if (n < 0) return true;
  FAIL_CHECK(what << ": element " << n << " of " << count << " is " << got[at + n] << ", not " << want[want_at + n]);
  return false;
}

/// Item b of the whole call's weights, which are padded to the longest item, against its own.
bool check_weights(const RandomDecode& d, int64_t b, const AttentionResult& all, const AttentionResult& own) {
  const AttentionCall& a = d.args();
  if (a.results.weights_mode == MHA_WEIGHTS_NONE) return true;
  const int64_t heads = a.results.weights_mode == MHA_WEIGHTS_AVERAGED ? 1 : d.H, keys = d.key_len(b);
  int64_t rows = d.rows_chosen() ? a.results.num_weights_rows : d.query_len(b);
  int64_t total = d.rows_chosen() ? rows : a.query_len, first = 0, item = b * heads * total;
  if (a.results.weights_mode == MHA_WEIGHTS_KEY_SUMS) {
    rows = total = 1, item = b * heads;
  } else if (a.items.query_offsets && !d.rows_chosen()) {
    first = d.query_begin(b), item = 0;
  }
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = (item + h * total + first + r) * d.longest_key;
      const std::string what =
          "weights of item " + std::to_string(b) + " head " + std::to_string(h) + " row " + std::to_string(r);
      if (!check_run(what, all.weights, at, own.weights, (h * rows + r) * keys, keys)) return false;
      const std::vector<float> zeros(static_cast<size_t>(d.longest_key - keys));
      if (!check_run(what + " beyond its keys", all.weights, at + keys, zeros, 0, d.longest_key - keys)) return false;
    }
  }
  return true;
}

void check_item(const RandomDecode& d, int64_t b, const AttentionResult& all, const AttentionResult& own) {
  const int64_t outputs = d.H * d.args().value_head_dim, rows = d.query_len(b) * d.H;
  const std::string item = " of item " + std::to_string(b);
  check_run("output" + item, all.output, d.query_begin(b) * outputs, own.output, 0, d.query_len(b) * outputs) &&
      check_run("log-sum-exp" + item, all.log_sum_exp, d.query_begin(b) * d.H, own.log_sum_exp, 0, rows) &&
      check_weights(d, b, all, own);
}

/// The item by a plain call; what a sum over no queries is, nobody else says.
AttentionResult plain_item(const mha_context* context, RandomDecode& d, int64_t b) {
  mha_status status = MHA_OK;
  mha_error error = {};
  AttentionResult own = run_guarded(context, d.item(b), d.key_len(b), &status, &error);
  require_ok(status, error);
  if (d.query_len(b) == 0) std::fill(own.weights.begin(), own.weights.end(), 0.0f);
  return own;
}

/// Far from exact: what matters here is that nothing is left out. Bits say the rest.
void check_reference(RandomDecode& d, int64_t b, const AttentionResult& own) {
  AttentionCall args = d.item(b);
  args.results.weights_mode = MHA_WEIGHTS_NONE;
  const AttentionReference want = reference_attention(args);
  check_close("output against the reference", own.output, want.output, {2e-3, 1e-4});
  check_close("log-sum-exp against the reference", own.log_sum_exp, want.log_sum_exp, {2e-3, 1e-4});
}

}  // namespace

TEST_CASE("decode properties: attention over a cache is one plain call a sequence", "[properties][cache][bits]") {
  int64_t refused = 0, rings = 0, shared = 0, closely = 0;
  for (const auto& [arithmetic, seed] : seeds_of_both(310000, 400, 200)) {
    Random random(seed);
    RandomDecode d(random);
    d.set_arithmetic(arithmetic);
    INFO("seed " << seed << " arithmetic " << arithmetic << ": " << d.describe());
    const RandomContext context = random_context(random, arithmetic);
    mha_status status = MHA_OK;
    mha_error error = {};
    if (d.refused()) {
      const AttentionResult none = run_guarded(context.get(), d.args(), d.longest_key, &status, &error);
      CHECK(status == MHA_ERR_ARGUMENT);
      CHECK((mentions(error, "masks.window_left") || mentions(error, "masks.sink_tokens")));
      CHECK((all_poison(none.output) && all_poison(none.weights) && all_poison(none.log_sum_exp)));
      ++refused;
      continue;
    }
    std::vector<AttentionResult> items;
    for (int64_t b = 0; b < d.B; ++b) items.push_back(plain_item(shared_context(context.target, 1), d, b));
    for (const int64_t threads : {context.threads, int64_t{1}, int64_t{3}}) {
      INFO(context.target << " threads " << threads);
      const AttentionResult all =
          run_guarded(shared_context(context.target, threads), d.args(), d.longest_key, &status, &error);
      require_ok(status, error);
      if (all.output.empty()) continue;  // nothing to be done, nothing written
      for (int64_t b = 0; b < d.B; ++b) check_item(d, b, all, items[b]);
    }
    const int64_t b = random.below(d.B);
    if (arithmetic == MHA_ARITHMETIC_F32 && d.cache.finite && d.query_len(b) > 0 && one_in(random, 4))
      check_reference(d, b, items[b]), ++closely;
    rings += d.cache.first_kept(d.args().items.sequences[b]) > 0;
    char text[8192];
    require_ok(attention_explain(context.get(), d.args(), text, sizeof text, nullptr, &error), error);
    shared += std::string(text).find("shared prefixes: none") == std::string::npos;
  }
  // What the draw is to contain; the seeds are fixed, so this changes only with the code above.
  for (const int64_t cases : {refused, rings, shared, closely}) CHECK(cases > share_of(5));
}

namespace {

/// A layer, causal masks and score modifications, and sequences of tokens that it decodes.
struct Decoding {
  mha_layer_config config;
  std::unique_ptr<LayerProblem> problem;
  LayerPtr layer;
  mha_cache_config cache_config;
  mha_rope rope = {};
  mha_norm norm = {};
  bool positions_given;
  std::vector<float> slopes, biases, sinks, norm_weight;
  std::vector<std::vector<float>> tokens, want;
  std::vector<std::vector<int64_t>> positions;
  LayerCall common;

  explicit Decoding(Random& random, const mha_context* context) {
    config = {};
    config.num_kv_heads = between(random, 1, 2), config.num_heads = config.num_kv_heads * between(random, 1, 3);
    config.embed_dim = between(random, 1, 40), config.head_dim = 2 * between(random, 1, 12);
    config.value_head_dim = one_in(random, 2) ? 0 : between(random, 1, 20);
    config.out_dim = one_in(random, 2) ? 0 : between(random, 1, 20);
    problem = std::make_unique<LayerProblem>(config, 1, 1, 1, Biases::kAll, random.bits() >> 8);
    layer = problem->make(context);
    mha_layer_get_config(layer.get(), &config);
    draw_mods(random);
    cache_config =
        mha::test::cache_config(one_of(random, {MHA_CACHE_CONTIGUOUS, MHA_CACHE_RING, MHA_CACHE_RING, MHA_CACHE_PAGED}),
                                700, between(random, 1, 3), one_of<int64_t>(random, {1, 16, 40, 64, 256}));
    cache_config.num_kv_heads = config.num_kv_heads;
    cache_config.head_dim = config.head_dim, cache_config.value_head_dim = config.value_head_dim;
    if (cache_config.kind == MHA_CACHE_PAGED) cache_config.capacity = 1000 * cache_config.max_sequences;
    if (one_in(random, 2) || cache_config.kind == MHA_CACHE_RING) {
      common.masks.window_left = between(random, 1, 200);
      if (one_in(random, 2)) common.masks.sink_tokens = random.below(70);
    }
    if (cache_config.kind == MHA_CACHE_RING) {
      cache_config.capacity = common.masks.window_left + random.below(100);
      cache_config.sink_tokens = common.masks.sink_tokens;
      cache_config.page_size = 0;
    }
    for (int64_t s = 0; s < cache_config.max_sequences; ++s) draw_tokens(random, context);
  }

  int64_t length(size_t s) const { return static_cast<int64_t>(positions[s].size()); }

 private:
  void draw_mods(Random& random) {
    common.causal = 1;
    const auto floats = [&](int64_t count, float scale) { return random_floats(count, random.bits() >> 8, scale); };
    mha_score_mods& m = common.score_mods;
    if (one_in(random, 3)) m.softcap = 5;
    if (one_in(random, 3)) slopes = floats(config.num_heads, 0.1f), m.alibi_slopes = slopes.data();
    if (one_in(random, 3)) {
      m.relative_left = random.below(40), m.relative_right = random.below(3);
      biases = floats(config.num_heads * (m.relative_left + m.relative_right + 1), 1);
      m.relative_bias = biases.data();
    }
    if (one_in(random, 3)) sinks = floats(config.num_heads, 2), m.sink_logits = sinks.data();
    if (one_in(random, 2)) common.rope = &rope, rope.style = one_of(random, {MHA_ROPE_HALF, MHA_ROPE_INTERLEAVED});
    positions_given = one_in(random, 3) && common.rope != nullptr;  // which alone looks at them
    if (!one_in(random, 2)) return;
    common.query_norm = common.key_norm = &norm, norm.epsilon = 1e-4f;
    norm_weight = floats(config.head_dim, 1);
    if (one_in(random, 2)) norm.weight = norm_weight.data();
  }
  void draw_tokens(Random& random, const mha_context* context) {
    const int64_t count = std::max<int64_t>(1, random_length(random, 600));
    tokens.push_back(random_floats(count * config.embed_dim, random.bits() >> 8));
    positions.emplace_back();
    for (int64_t t = 0; t < count; ++t) positions.back().push_back(positions_given ? random.below(3000) : t);
    LayerCall args = common;
    args.batch = 1, args.query_len = args.key_len = count;
    args.query = view(tokens.back().data());
    if (positions_given) args.positions.query = positions.back().data();
    want.push_back(run_layer(context, layer.get(), args).output);
  }
};

}  // namespace

TEST_CASE("decode properties: a layer decodes in any pieces to the bits of one call", "[properties][cache][bits]") {
  int64_t refused = 0, dropped = 0;
  for (const uint64_t seed : seeds(320000, 120)) {
    Random random(seed);
    const RandomContext first = random_context(random);
    Decoding d(random, shared_context(first.target, 1));
    INFO("seed " << seed << " " << first.target << " " << kind_name(d.cache_config.kind) << " capacity "
                 << d.cache_config.capacity << " window " << d.common.masks.window_left);
    CachePtr cache = make_cache(cache_context(), d.cache_config);
    const auto done = [&](size_t s) { return mha_cache_length(cache.get(), static_cast<int64_t>(s)); };
    for (int64_t left = 1; left > 0;) {
      std::vector<int64_t> sequences, offsets{0}, positions;
      std::vector<float> input, want;
      left = 0;
      for (size_t s = 0; s < d.tokens.size(); ++s) {
        const int64_t most = d.length(s) - done(s);
        left += most;
        if (one_in(random, 4)) continue;
        const int64_t count = std::min(most, one_in(random, 3) ? 1 : random_length(random, 300));
        sequences.push_back(static_cast<int64_t>(s)), offsets.push_back(offsets.back() + count);
        const auto copy = [&](auto* to, const auto& from, int64_t width) {
          to->insert(to->end(), from.begin() + done(s) * width, from.begin() + (done(s) + count) * width);
        };
        copy(&input, d.tokens[s], d.config.embed_dim), copy(&positions, d.positions[s], 1);
        copy(&want, d.want[s], d.config.out_dim);
      }
      input.push_back(0), positions.push_back(0);  // never empty
      LayerCall args = d.common;
      args.batch = static_cast<int64_t>(sequences.size());
      args.query_len = offsets.back(), args.items.query_offsets = offsets.data();
      args.cache = cache.get(), args.items.sequences = sequences.data();
      const mha_context* context = shared_context(first.target, one_of<int64_t>(random, {1, 2, 3, 5}));
      mha_error error = {};
      size_t bytes = 0;
      const mha_status told = layer_workspace_bytes(context, d.layer.get(), args, &bytes, &error);
      GuardedBuffer workspace(bytes, Guard::kAfter);
      std::memset(workspace.data(), 0xff, bytes);
      args.resources.workspace = workspace.data(), args.resources.workspace_bytes = bytes;
      args.query = view(input.data());
      if (d.positions_given) args.positions.query = positions.data();
      std::vector<float> output = poisoned(args.query_len * d.config.out_dim);
      args.output = mut_view(output.data());
      const std::vector<float> before =
          sequences.empty() ? std::vector<float>() : save_sequence(cache.get(), sequences[0]);
      const mha_status status = layer_forward(context, d.layer.get(), args, &error);
      CHECK(status == told);
      if (status != MHA_OK) {  // a ring that would drop what the first query sees: in smaller pieces
        REQUIRE((status == MHA_ERR_ARGUMENT && mentions(error, "masks.window_left")));
        REQUIRE(d.cache_config.kind == MHA_CACHE_RING);
        CHECK(all_poison(output));
        CHECK(same_bits(save_sequence(cache.get(), sequences[0]), before));
        ++refused;
        continue;
      }
      for (const int64_t s : sequences) dropped += mha_cache_first_kept(cache.get(), s) > 0;
      if (!check_run("output", output, 0, want, 0, static_cast<int64_t>(output.size()))) break;
    }
  }
  CHECK(refused > 5);
  CHECK(dropped > 5);
}

namespace {

/// What keys [begin, begin + count) of every item see of the masks.
class PartMasks {
 public:
  PartMasks(const Masks& whole, const AttentionShape& s, int64_t begin, int64_t count) : masks(whole) {
    const auto moved = [&](const int64_t* lengths, int64_t most, std::vector<int64_t>* own) {
      for (int64_t b = 0; b < s.B; ++b) own->push_back(std::clamp<int64_t>(lengths[b] - begin, 0, most));
      own->push_back(0);  // never empty
      return own->data();
    };
    masks.set_offset(masks.offsets[0] - begin);  // of all items
    if (masks.key_lengths) masks.key_lengths = moved(masks.key_lengths, count, &lengths_);
    if (masks.prefix_lengths) masks.prefix_lengths = moved(masks.prefix_lengths, int64_t{1} << 41, &prefixes_);
    masks.sink_tokens = std::max<int64_t>(0, masks.sink_tokens - begin);
    const auto first = [&](const auto& m) {
      return m.stride_k == MHA_BROADCAST ? 0 : begin * std::max<int64_t>(m.stride_k, 1);
    };
    if (masks.bool_mask.data) masks.bool_mask.data += first(masks.bool_mask);
    for (mha_add_mask* m : {&masks.add_mask, &masks.add_mask2}) {
      if (m->data) m->data = static_cast<const float*>(m->data) + first(*m);
    }
    if (masks.bit_mask.data) masks.bit_mask.data += begin / 8;
    if (masks.key_segments) {
      for (int64_t b = 0; b < s.B; ++b) {
        const int32_t* keys = masks.key_segments + b * s.Tk + begin;
        segments_.insert(segments_.end(), keys, keys + count);
      }
      segments_.push_back(0);  // never empty
      masks.key_segments = segments_.data();
    }
    mha_block_mask& m = masks.block_mask;
    if (!m.pairs) return;
    for (int64_t list = 0; list < s.B * s.H; ++list) {  // each has its own, see masks_from
      for (int64_t n = m.pair_offsets[list]; n < m.pair_offsets[list + 1]; ++n) {
        const int64_t key = m.pairs[2 * n + 1] - begin / m.key_block;
        if (key >= 0) pairs_.insert(pairs_.end(), {m.pairs[2 * n], key});
      }
      pair_offsets_.push_back(static_cast<int64_t>(pairs_.size()) / 2);
    }
    m.num_pairs = pair_offsets_.back();
    pairs_.push_back(0);  // never empty
    m.pairs = pairs_.data(), m.pair_offsets = pair_offsets_.data();
  }
  PartMasks(const PartMasks&) = delete;
  PartMasks& operator=(const PartMasks&) = delete;

  Masks masks;

 private:
  std::vector<int64_t> lengths_, prefixes_, pairs_, pair_offsets_{0};
  std::vector<int32_t> segments_;
};

/// The partial results of a call, with no room around them or the workspace.
std::vector<float> partial_of(const mha_context* context, AttentionCall args) {
  mha_error error = {};
  size_t bytes = 0, partial_bytes = 0;
  require_ok(attention_partial_bytes(context, args, &partial_bytes, &error), error);
  require_ok(attention_workspace_bytes(context, args, &bytes, &error), error);
  GuardedBuffer workspace(bytes, Guard::kAfter);
  std::memset(workspace.data(), 0xff, bytes);
  args.resources.workspace = workspace.data(), args.resources.workspace_bytes = bytes;
  GuardedFloats own(poisoned(static_cast<int64_t>(partial_bytes / sizeof(float))), Guard::kAfter);
  require_ok(attention_partial(context, args, own.floats(), partial_bytes, &error), error);
  return own.values();
}

}  // namespace

TEST_CASE("decode properties: partial results of any parts merge to the bits of one call",
          "[properties][partial][bits]") {
  int64_t one_by_one = 0;
  for (const auto& [arithmetic, seed] : seeds_of_both(330000, 200, 100)) {
    Random random(seed);
    AttentionShape s = {between(random, 1, 3),     0, between(random, 1, 3),
                        random_length(random, 60), 0, between(random, 1, 40),
                        between(random, 1, 40)};
    s.H = s.Hkv * one_of<int64_t>(random, {1, 2, 4});
    s.Tk = random_length(random, 1500);
    AttentionProblem p(s, MaskKind::kNone, random.bits() >> 8);
    if (one_in(random, 4)) spoil(random, &p.key), spoil(random, &p.value);
    const RandomMasks masks(random, s.B, s.H, s.Tq, s.Tk);
    AttentionCall args = p.args();
    args.score_mods = masks.mods(), args.arithmetic = arithmetic;
    masks.get().put_into(&args);
    const RandomContext first = random_context(random, arithmetic);
    const auto any = [&, of = arithmetic] {  // targets without FMA have bits of their own
      RandomContext context = random_context(random, of);
      if (has_fma(context.target) != has_fma(first.target)) context.target = first.target;
      return context.get();
    };
    const AttentionResult want = run_attention(shared_context(first.target, 1), args);
    const int64_t key_block = masks.get().block_mask.pairs ? masks.get().block_mask.key_block : 1;
    if (256 % key_block != 0) continue;
    INFO("seed " << seed << " arithmetic " << arithmetic << ": " << describe(s) << masks.describe());
    // Items that differ in length or position come one by one.
    const bool apart = masks.get().key_lengths || masks.get().offsets;
    for (int64_t b = 0; b < s.B; b += apart ? 1 : s.B) {
      AttentionShape items = s;
      items.B = apart ? 1 : s.B;
      one_by_one += apart;
      // From here on an offset says where the queries stand.
      const Masks whole = masks_from(masks.get(), {b, items.B, 0, s.H, 0, s.Tq, s.H, s.Tq, s.Tk});
      std::vector<float> partials;
      int64_t chunks = 0;
      for (int64_t begin = 0; begin < s.Tk || begin == 0;) {
        const int64_t count = std::min(s.Tk - begin, 256 * between(random, 1, 4));
        const PartMasks part(whole, items, begin, count);
        AttentionCall a = args;
        part.masks.put_into(&a);
        a.score_mods.sink_logits = nullptr;  // of the merge
        a.batch = items.B, a.key_len = count;
        a.query = view(p.query.data() + b * s.Tq * s.H * s.D);
        a.key = view(p.key.data() + (b * s.Tk + begin) * s.Hkv * s.D, {s.Tk * s.Hkv * s.D, s.Hkv * s.D, s.D});
        a.value = view(p.value.data() + (b * s.Tk + begin) * s.Hkv * s.Dv, {s.Tk * s.Hkv * s.Dv, s.Hkv * s.Dv, s.Dv});
        const std::vector<float> values = partial_of(any(), a);
        partials.insert(partials.end(), values.begin(), values.end());
        const int64_t keys = part.masks.key_lengths ? part.masks.key_lengths[0] : count;
        chunks += std::max<int64_t>(1, (keys + 255) / 256);
        begin += std::max<int64_t>(count, 1);
      }
      const int64_t outputs = items.output().count(), rows = items.B * s.H * s.Tq;
      AttentionResult got = {poisoned(outputs), {}, poisoned(rows)};
      mha_merge_partials_args merge = {};
      merge.batch = items.B, merge.num_heads = s.H, merge.query_len = s.Tq, merge.value_head_dim = s.Dv;
      merge.num_chunks = chunks, merge.partials = partials.data(), merge.sink_logits = args.score_mods.sink_logits;
      merge.arithmetic = arithmetic;
      merge.output = mut_view(got.output.data()), merge.log_sum_exp = got.log_sum_exp.data();
      mha_error error = {};
      require_ok(mha_attention_merge_partials(any(), &merge, &error), error);
      check_run("output", got.output, 0, want.output, b * s.Tq * s.H * s.Dv, outputs);
      check_run("log-sum-exp", got.log_sum_exp, 0, want.log_sum_exp, b * s.H * s.Tq, rows);
    }
  }
  CHECK(one_by_one > share_of(20));
}

TEST_CASE("decode: numbers at the ends of their ranges, over a cache as over tensors", "[cache][overflow]") {
  constexpr int64_t kMost = int64_t{1} << 62;
  const float slopes[] = {0.5f, 0.0f}, biases[] = {1, 2};
  const int64_t prefixes[] = {kMost, 0}, pairs[] = {0, 0, 0, INT64_MAX};
  for (const uint64_t seed : seeds(340000, 200)) {
    Random random(seed);
    RandomDecode d(random);
    AttentionCall args = d.args();
    if (d.cache.config.kind == MHA_CACHE_RING || d.H > 2) continue;
    args.masks = {}, args.score_mods = {}, args.rope = nullptr, args.positions = {};
    args.causal = one_in(random, 2);
    args.positions.align = one_of(random, {MHA_ALIGN_DEFAULT, MHA_ALIGN_OFFSET});
    const int64_t offset = one_of(random, {kMost, -kMost, int64_t{0}});
    if (args.positions.align == MHA_ALIGN_OFFSET) args.positions.offset = offset;
    if (one_in(random, 2)) args.masks.window_left = one_of(random, {kMost, int64_t{1}});
    if (one_in(random, 2)) args.masks.window_right = one_of(random, {kMost, int64_t{1}});
    if (one_in(random, 2)) args.masks.sink_tokens = kMost;
    if (one_in(random, 2)) args.masks.block_mask = {kMost, kMost, pairs, 2};
    if (one_in(random, 2)) args.score_mods.alibi_slopes = slopes;
    if (one_in(random, 2)) args.score_mods.relative_bias = biases, args.score_mods.relative_right = 0;
    if (d.B <= 2 && one_in(random, 2)) args.masks.prefix_lengths = prefixes;
    INFO("seed " << seed << ": " << d.describe());
    mha_status status = MHA_OK;
    mha_error error = {};
    const RandomContext context = random_context(random);
    const AttentionResult all = run_guarded(context.get(), args, d.longest_key, &status, &error);
    require_ok(status, error);
    if (all.output.empty()) continue;
    for (int64_t b = 0; b < d.B; ++b) {
      AttentionCall item = d.item(b);
      item.masks = args.masks, item.score_mods = args.score_mods, item.rope = nullptr;
      item.causal = args.causal, item.positions = args.positions;
      if (item.masks.prefix_lengths) item.masks.prefix_lengths += b;
      AttentionResult own = run_guarded(shared_context(context.target, 1), item, d.key_len(b), &status, &error);
      require_ok(status, error);
      if (d.query_len(b) == 0) std::fill(own.weights.begin(), own.weights.end(), 0.0f);
      check_item(d, b, all, own);
    }
  }
}
