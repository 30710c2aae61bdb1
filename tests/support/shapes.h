// SPDX-License-Identifier: Apache-2.0
// Attention problems: sizes, every kind of mask, inputs drawn from a seed; grids of them; one call through the library
// and one through the reference.
#ifndef MHA_TESTS_SUPPORT_SHAPES_H
#define MHA_TESTS_SUPPORT_SHAPES_H

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/reference/reference.h"
#include "tests/support/calls.h"
#include "tests/support/compare.h"
#include "tests/support/targets.h"
#include "tests/support/tensors.h"

namespace mha::test {

/// Lengths around the edges of panels and chunks.
inline constexpr int64_t kEdges[] = {1, 15, 16, 17, 64, 255, 256, 257, 300, 512, 513};

struct AttentionShape {
  int64_t B, H, Hkv, Tq, Tk, D, Dv;

  Extent query() const { return {B, Tq, H, D}; }
  Extent key() const { return {B, Tk, Hkv, D}; }
  Extent value() const { return {B, Tk, Hkv, Dv}; }
  Extent output() const { return {B, Tq, H, Dv}; }
  Extent weights(mha_weights_mode mode) const {
    return {B, mode == MHA_WEIGHTS_AVERAGED ? 1 : H, Tq, Tk};  // as [B, H, Tq, Tk]
  }
};

enum class MaskKind { kNone, kCausal, kOffsetNegative, kOffsetPositive, kLengths, kBool, kAdd, kAll };
inline constexpr int kMaskKinds = 8;

/// Inputs of one call, all owned. args() points into them, dense, with no outputs.
struct AttentionProblem {
  AttentionShape shape;
  std::vector<float> query, key, value;
  std::vector<int64_t> key_lengths;
  std::vector<uint8_t> bool_mask;
  std::vector<float> add_mask;
  Masks masks;
  float scale = 0;
  int scale_is_exact = 0;

  AttentionProblem(const AttentionShape& s, MaskKind kind, uint64_t seed)
      : shape(s),
        query(random_floats(s.query().count(), seed * 8 + 1)),
        key(random_floats(s.key().count(), seed * 8 + 2)),
        value(random_floats(s.value().count(), seed * 8 + 3)) {
    set_masks(kind, seed * 8 + 4);
  }
  AttentionProblem(const AttentionProblem&) = delete;
  AttentionProblem& operator=(const AttentionProblem&) = delete;

  AttentionCall args() const {
    AttentionCall args;
    args.batch = shape.B;
    args.num_heads = shape.H;
    args.num_kv_heads = shape.Hkv;
    args.query_len = shape.Tq;
    args.key_len = shape.Tk;
    args.head_dim = shape.D;
    args.value_head_dim = shape.Dv;
    args.scale = scale, args.scale_is_exact = scale_is_exact;
    args.query = view(query.data());
    args.key = view(key.data());
    args.value = view(value.data());
    masks.put_into(&args);
    return args;
  }

  /// A boolean mask of its own for every (b, h, i): three of four keys open.
  void set_bool_mask(uint64_t seed) {
    Random random(seed);
    bool_mask.resize(static_cast<size_t>(shape.weights(MHA_WEIGHTS_PER_HEAD).count()));
    for (uint8_t& open : bool_mask) open = static_cast<uint8_t>(random.below(4));
    masks.bool_mask = {bool_mask.data(), shape.H * shape.Tq * shape.Tk, shape.Tq * shape.Tk, shape.Tk, 1};
  }
  /// An additive mask of its own for every (b, i), the same for all heads: values in [-1, 1), one of five -inf.
  void set_add_mask(uint64_t seed) {
    Random random(seed);
    add_mask.resize(static_cast<size_t>(shape.B * shape.Tq * shape.Tk));
    for (float& add : add_mask) add = random.below(5) == 0 ? -kInf : random.uniform();
    masks.add_mask = {add_mask.data(), MHA_F32, 0, shape.Tq * shape.Tk, 0, shape.Tk, 1};
  }

 private:
  void set_masks(MaskKind kind, uint64_t seed) {
    const bool all = kind == MaskKind::kAll;
    Random random(seed);
    if (kind == MaskKind::kCausal || all) masks.causal = 1;
    if (kind == MaskKind::kOffsetNegative || kind == MaskKind::kOffsetPositive) {
      masks.causal = 1;
      masks.set_offset(kind == MaskKind::kOffsetNegative ? -(shape.Tq / 3 + 1) : shape.Tk / 2 + 1);
    }
    if (kind == MaskKind::kLengths || all) {
      for (int64_t b = 0; b < shape.B; ++b) key_lengths.push_back(random.below(shape.Tk + 1));
      masks.key_lengths = key_lengths.data();
      masks.set_offset(shape.Tk - shape.Tq);  // positions do not depend on the lengths
    }
    if (kind == MaskKind::kBool || all) set_bool_mask(seed + 1);
    if (kind == MaskKind::kAdd || all) set_add_mask(seed + 2);
  }
};

inline std::string describe(const AttentionShape& s) {
  std::ostringstream text;
  text << "B " << s.B << " H " << s.H << "/" << s.Hkv << " Tq " << s.Tq << " Tk " << s.Tk << " D " << s.D << "/"
       << s.Dv;
  return text.str();
}
inline std::string describe(const AttentionShape& s, MaskKind kind) {
  static const char* const kNames[kMaskKinds] = {"none",    "causal", "offset-", "offset+",
                                                 "lengths", "bool",   "add",     "all"};
  return describe(s) + " mask " + kNames[static_cast<int>(kind)];
}

struct AttentionResult {
  std::vector<float> output, weights, log_sum_exp;
};

inline void check_same_results(const std::string& what, const AttentionResult& got, const AttentionResult& want) {
  check_same_bits(what + ": output", got.output, want.output);
  check_same_bits(what + ": weights", got.weights, want.weights);
  check_same_bits(what + ": log-sum-exp", got.log_sum_exp, want.log_sum_exp);
}

/// Row (b, i, h) of a dense output.
inline std::vector<float> output_row(const AttentionShape& s, const std::vector<float>& output, int64_t b, int64_t i,
                                     int64_t h) {
  const auto first = output.begin() + ((b * s.Tq + i) * s.H + h) * s.Dv;
  return std::vector<float>(first, first + s.Dv);
}

/// Calls mha_attention with a workspace of exactly the size asked for, poison before the call.
inline void call_attention(const mha_context* context, AttentionCall args) {
  mha_error error = {};
  size_t bytes = 0;
  require_ok(attention_workspace_bytes(context, args, &bytes, &error), error);
  std::vector<float> workspace = poisoned(static_cast<int64_t>(bytes / sizeof(float) + 1));
  args.resources.workspace = workspace.data();
  args.resources.workspace_bytes = bytes;
  require_ok(attention(context, args, &error), error);
}

/// Calls mha_attention on `args` with dense results of its own, poison before the call. weights come as [B, H, Tq, Tk] or [B, Tq, Tk].
inline AttentionResult run_attention(const mha_context* context, AttentionCall args, bool with_lse = true) {
  const int64_t Dv = args.value_head_dim ? args.value_head_dim : args.head_dim;
  AttentionResult result;
  result.output = poisoned(args.batch * args.query_len * args.num_heads * Dv);
  args.output = mut_view(result.output.data());
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) {
    const int64_t heads = args.results.weights_mode == MHA_WEIGHTS_AVERAGED ? 1 : args.num_heads;
    result.weights = poisoned(args.batch * heads * args.query_len * args.key_len);
    args.results.weights = mut_view(result.weights.data());
  }
  if (with_lse) {
    result.log_sum_exp = poisoned(args.batch * args.num_heads * args.query_len);
    args.results.log_sum_exp = result.log_sum_exp.data();
  }
  call_attention(context, args);
  return result;
}

struct AttentionReference {
  std::vector<double> output, weights, log_sum_exp;
};

inline AttentionReference reference_attention(const AttentionCall& args) {
  const int64_t Dv = args.value_head_dim ? args.value_head_dim : args.head_dim;
  AttentionReference result;
  result.output.resize(static_cast<size_t>(args.batch * args.query_len * args.num_heads * Dv));
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) {
    const int64_t heads = args.results.weights_mode == MHA_WEIGHTS_AVERAGED ? 1 : args.num_heads;
    result.weights.resize(static_cast<size_t>(args.batch * heads * args.query_len * args.key_len));
  }
  result.log_sum_exp.resize(static_cast<size_t>(args.batch * args.num_heads * args.query_len));
  reference::attention<double>(args.raw(), result.output.data(),
                               result.weights.empty() ? nullptr : result.weights.data(), result.log_sum_exp.data());
  return result;
}

/// Rows of indices, one per factor of the given number of levels, such that every pair of levels of every two factors
/// occurs in some row. Greedy, deterministic; close to the product of the two largest factors.
inline std::vector<std::vector<int>> pairwise(const std::vector<int>& levels, uint64_t seed) {
  using Pair = std::pair<std::pair<int, int>, std::pair<int, int>>;  // (factor, level), (factor, level)
  const int factors = static_cast<int>(levels.size());
  std::set<Pair> open;
  for (int f = 0; f < factors; ++f)
    for (int g = f + 1; g < factors; ++g)
      for (int x = 0; x < levels[f]; ++x)
        for (int y = 0; y < levels[g]; ++y) open.insert({{f, x}, {g, y}});

  Random random(seed);
  std::vector<std::vector<int>> rows;
  while (!open.empty()) {
    // Start from a pair that is not yet covered; give every other factor the level that covers most.
    std::vector<int> row(static_cast<size_t>(factors), -1);
    const auto [first, second] = *open.begin();
    row[first.first] = first.second;
    row[second.first] = second.second;
    for (int f = 0; f < factors; ++f) {
      if (row[f] >= 0) continue;
      int best_gain = -1;
      const int start = static_cast<int>(random.below(levels[f]));
      for (int n = 0; n < levels[f]; ++n) {
        const int x = (start + n) % levels[f];
        int gain = 0;
        for (int g = 0; g < factors; ++g) {
          if (row[g] < 0 || g == f) continue;
          const std::pair<int, int> a{f, x}, b{g, row[g]};
          gain += static_cast<int>(open.count(f < g ? Pair{a, b} : Pair{b, a}));
        }
        if (gain > best_gain) {
          best_gain = gain;
          row[f] = x;
        }
      }
    }
    for (int f = 0; f < factors; ++f)
      for (int g = f + 1; g < factors; ++g) open.erase({{f, row[f]}, {g, row[g]}});
    rows.push_back(row);
  }
  return rows;
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_SHAPES_H
