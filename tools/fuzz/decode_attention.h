// SPDX-License-Identifier: Apache-2.0
// fuzz_decode's session: attention over the cache, beside the reference and beside a call over plain tensors.
#ifndef MHA_TOOLS_FUZZ_DECODE_ATTENTION_H
#define MHA_TOOLS_FUZZ_DECODE_ATTENTION_H

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "core/reference/reference.h"
#include "tools/fuzz/decode_session.h"
#include "tools/fuzz/row_codes.h"

namespace mha::fuzz {

inline Call Session::choose_call() {
  Call c;
  c.sequences = choose_sequences();
  const bool packed = input_.ConsumeBool();
  c.counts.assign(c.sequences.size(), integer(0, 9));
  if (packed)
    for (std::int64_t& count : c.counts) count = integer(0, integer(0, 7) == 0 ? 40 : 5);
  c.offsets = running_sums(c.counts);
  AttentionCall& a = c.args;
  a.batch = static_cast<std::int64_t>(c.sequences.size());
  a.num_kv_heads = config_.num_kv_heads;
  a.num_heads = a.num_kv_heads * integer(1, 3);
  a.query_len = packed ? c.offsets.back() : c.counts[0];
  a.head_dim = config_.head_dim;
  a.value_head_dim = config_.value_head_dim;
  a.cache = cache_.get();
  c.is_packed = packed;
  c.query = uniforms(c.offsets.back() * a.num_heads * a.head_dim, 2);
  c.query_dtype = choose_dtype(input_), c.output_dtype = choose_dtype(input_);
  keep(c.query_dtype, c.query);
  for (const std::int64_t s : c.sequences) c.lengths.push_back(at(s).length);
  choose_masks(input_, random_, c);
  if (config_.kind == MHA_CACHE_RING && input_.ConsumeBool()) {
    // As far as the ring reaches, or one token more or less.
    const std::int64_t reach = c.position(0) - first_kept(c.sequences[0]) + 1 + integer(-1, 1);
    a.masks.window_left = std::max<std::int64_t>(1, reach);
  }
  choose_mods(input_, random_, c);
  if (a.head_dim > 1 && input_.ConsumeBool()) {
    c.has_rope = true;
    c.rope = choose_rope();
    for (std::int64_t n = 0; n < c.offsets.back(); ++n)
      c.positions.push_back(static_cast<std::int64_t>(random_() % 5000));
  }
  if (integer(0, 3) == 0) c.norm.epsilon = 1e-5F;
  const bool int8 = is_int8(config_.key, config_.head_dim) && is_int8(config_.value, config_.value_head_dim);
  a.arithmetic = choose_arithmetic(input_, int8);
  return c;
}

// Where a ring dropped tokens, the window must leave them out.
inline bool Session::is_allowed(const Call& c) {
  const mha_masks& masks = c.args.masks;
  for (std::size_t b = 0; b < c.sequences.size(); ++b) {
    const std::int64_t kept = first_kept(c.sequences[b]);
    if (kept == 0 || c.counts[b] == 0) continue;
    if (masks.window_left == 0 || c.position(b) - masks.window_left + 1 < kept) return false;
    if (masks.sink_tokens > config_.sink_tokens) return false;
  }
  return true;
}

// All that the sequence keeps, as codes.
inline void Session::export_codes(std::int64_t s, const CodedTokens& key, const CodedTokens& value) {
  const std::int64_t kept = first_kept(s), length = at(s).length;
  const std::int64_t sinks = kept == 0 ? 0 : std::min(config_.sink_tokens, length);
  for (const auto& [begin, end] : {std::pair{std::int64_t{0}, sinks}, std::pair{kept, length}}) {
    mha_export_args args{};
    args.sequence = s, args.begin = begin, args.count = end - begin;
    key.written_by(begin, args.key, args.key_scales);
    value.written_by(begin, args.value, args.value_scales);
    check_ok(cache_.export_to(args));
  }
}

// How far an item's results may be from the reference.
inline double Session::bound_of_item(const Call& c, const AttentionCall& item, const Floats& query, const Floats& key) {
  if (item.arithmetic != MHA_ARITHMETIC_INT8) return bound_of(item.arithmetic, kF32Bound);
  double most = 0;
  for (std::size_t begin = 0; begin < key.size(); begin += static_cast<std::size_t>(item.head_dim)) {
    double sum = 0;
    for (std::int64_t d = 0; d < item.head_dim; ++d)
      sum += std::fabs(static_cast<double>(key[begin + static_cast<std::size_t>(d)]));
    if (sum > most) most = sum;
  }
  const double scale =
      c.args.scale > 0 ? static_cast<double>(c.args.scale) : 1 / std::sqrt(static_cast<double>(item.head_dim));
  return kF32Bound + int8_bound(greatest_of(query.data(), query.size()), most, scale, item.key_len);
}

// An item over plain floats or codes has the bits of the cache.
inline void Session::check_plain(const Context& context, const AttentionCall& item, const float* output,
                                 const float* lse) {
  const std::int64_t rows = item.query_len * item.num_heads;
  const Elements made(MHA_F32, rows * item.value_head_dim, kPoison);
  const Buffer<float> sums(rows);
  AttentionCall args = item;
  made.written_by(args.output);
  args.results.log_sum_exp = sums.data();
  check_ok(context.attention(args));
  MHA_FUZZ_CHECK(made.are(output) && std::memcmp(sums.data(), lse, sums.size() * sizeof(float)) == 0,
                 "the cache changes bits");
}

// The rows of item `b`, beside the reference on the model's tokens.
inline void Session::check_item(const Context& context, const Call& c, std::size_t b, const Results& results) {
  const AttentionCall& a = c.args;
  Sequence sequence = at(c.sequences[b]);
  for (std::int64_t t = config_.sink_tokens; t < first_kept(c.sequences[b]); ++t)  // dropped: must not matter
    std::fill_n(sequence.key.begin() + t * key_row(), key_row(), std::numeric_limits<float>::quiet_NaN());
  const std::int64_t row = a.num_heads * a.head_dim;
  Floats query(c.query.begin() + c.offsets[b] * row, c.query.begin() + c.offsets[b + 1] * row);
  if (c.has_rope || c.norm.epsilon > 0)
    prepare(context, query, c.query_dtype, a.num_heads, c.has_rope ? &c.rope : nullptr,
            c.norm.epsilon > 0 ? &c.norm : nullptr, c.has_rope ? c.positions.data() + c.offsets[b] : nullptr, 0);
  AttentionCall item = c.item(b);
  item.query = view<float>(query.data());
  item.key = view<float>(sequence.key.data());
  item.value = view<float>(sequence.value.data());
  const auto first = static_cast<std::size_t>(c.offsets[b] * a.num_heads);
  const float* made = results.output.floats().data() + first * static_cast<std::size_t>(a.value_head_dim);
  AttentionCall plain = item;
  const bool int8 = a.arithmetic == MHA_ARITHMETIC_INT8;
  const CodedTokens keys(config_.key, int8 ? sequence.length : 0, config_.num_kv_heads, config_.head_dim);
  const CodedTokens values(config_.value, int8 ? sequence.length : 0, config_.num_kv_heads, config_.value_head_dim);
  if (int8) {
    export_codes(c.sequences[b], keys, values);
    plain.key = keys.view(), plain.value = values.view();
  }
  check_plain(context, plain, made, results.lse.data() + first);
  for (Floats* operand : {&query, &sequence.key, &sequence.value}) keep_operands(a.arithmetic, *operand);
  const std::int64_t rows = c.counts[b] * a.num_heads;
  std::vector<double> output(static_cast<std::size_t>(rows * a.value_head_dim));
  std::vector<double> lse(static_cast<std::size_t>(rows));
  mha::reference::attention<double>(item.raw(), output.data(), nullptr, lse.data());
  const double bound = bound_of_item(c, item, query, sequence.key);
  for (std::size_t n = 0; n < output.size(); ++n) check_value(made[n], output[n], bound, "output");
  for (std::size_t n = 0; n < lse.size(); ++n) check_value(results.lse[first + n], lse[n], bound, "log_sum_exp");
}

inline void Session::attend() {
  const Call c = choose_call();
  const bool allowed = is_allowed(c);
  Results fma;
  bool have_fma = false;
  for (const Target& target : targets()) {
    if (!target.computes(c.args.arithmetic)) continue;
    Called made = call(target.one_thread, c, true);
    Results& results = made.results;
    MHA_FUZZ_CHECK(made.status.code() == (allowed ? MHA_OK : MHA_ERR_ARGUMENT), "attention: %s (%s)",
                   mha_status_string(made.status.code()), made.status.message());
    if (!allowed) {
      for (std::size_t n = 0; n < results.output.size(); ++n) MHA_FUZZ_CHECK(results.output.is(n, kPoison), "written");
      continue;
    }
    const Results threaded = call(target.host_threads, c, true).results;
    MHA_FUZZ_CHECK(same_bits(threaded, results), "threads change bits on %s", target.name.c_str());
    const Called typed = call(input_.ConsumeBool() ? target.one_thread : target.host_threads, c, false);
    MHA_FUZZ_CHECK(typed.status && same_bits(typed.results, results), "other types change bits on %s: %s",
                   target.name.c_str(), typed.status.message());
    for (std::size_t b = 0; b < c.sequences.size(); ++b)
      if (c.counts[b] > 0) check_item(target.one_thread, c, b, results);
    // Rows are normed and rotated with fused multiply-adds, where there are.
    const bool prepares = c.has_rope || c.norm.epsilon > 0;
    if (!target.same_bits && (prepares || !target.same_bits_in(c.args.arithmetic))) continue;
    if (have_fma) MHA_FUZZ_CHECK(same_bits(results, fma), "%s gives other bits", target.name.c_str());
    have_fma = true;
    fma = std::move(results);
  }
}

}  // namespace mha::fuzz

#endif  // MHA_TOOLS_FUZZ_DECODE_ATTENTION_H
