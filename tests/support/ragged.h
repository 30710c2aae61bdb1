// SPDX-License-Identifier: Apache-2.0
// Batches of items of unequal length: the same items packed into one call, in a cache, and one by one.
#ifndef MHA_TESTS_SUPPORT_RAGGED_H
#define MHA_TESTS_SUPPORT_RAGGED_H

#include <memory>
#include <utility>
#include <vector>

#include "tests/support/shapes.h"

namespace mha::test {

using Lengths = std::vector<std::pair<int64_t, int64_t>>;  // (Tq, Tk) of each item

/// Items [Tq_b, H, D] and [Tk_b, Hkv, D], each drawn from a seed of its own, and packed one after the other.
struct RaggedProblem {
  AttentionShape shape;  // B, and the heads and widths; its lengths are the totals
  std::vector<std::unique_ptr<AttentionProblem>> items;
  std::vector<int64_t> query_offsets{0}, key_offsets{0};
  std::vector<float> query, key, value;
  int64_t longest_key_len = 0;

  RaggedProblem(const Lengths& lengths, int64_t H, int64_t Hkv, int64_t D, int64_t Dv, uint64_t seed) {
    for (const auto& [Tq, Tk] : lengths) {
      items.push_back(std::make_unique<AttentionProblem>(AttentionShape{1, H, Hkv, Tq, Tk, D, Dv}, MaskKind::kNone,
                                                         seed * 1000 + items.size()));
      const AttentionProblem& item = *items.back();
      query.insert(query.end(), item.query.begin(), item.query.end());
      key.insert(key.end(), item.key.begin(), item.key.end());
      value.insert(value.end(), item.value.begin(), item.value.end());
      query_offsets.push_back(query_offsets.back() + Tq);
      key_offsets.push_back(key_offsets.back() + Tk);
      longest_key_len = std::max(longest_key_len, Tk);
    }
    shape = {static_cast<int64_t>(lengths.size()), H, Hkv, query_offsets.back(), key_offsets.back(), D, Dv};
  }

  int64_t query_len(int64_t b) const { return query_offsets[b + 1] - query_offsets[b]; }
  int64_t key_len(int64_t b) const { return key_offsets[b + 1] - key_offsets[b]; }

  AttentionCall args() const {
    AttentionCall args = items.empty() ? AttentionCall() : items[0]->args();
    args.batch = shape.B, args.num_heads = shape.H, args.num_kv_heads = shape.Hkv;
    args.head_dim = shape.D, args.value_head_dim = shape.Dv;
    args.query_len = shape.Tq, args.key_len = shape.Tk;
    args.query = view(query.data()), args.key = view(key.data()), args.value = view(value.data());
    args.items.query_offsets = query_offsets.data(), args.items.key_offsets = key_offsets.data();
    return args;
  }
};

/// Dense results of a call over items of unequal length, poison before it.
inline AttentionResult run_ragged(const mha_context* context, AttentionCall args, int64_t longest_key_len) {
  AttentionResult result;
  const int64_t rows = args.items.query_offsets != nullptr ? args.query_len : args.batch * args.query_len;
  result.output = poisoned(rows * args.num_heads * args.value_head_dim);
  result.log_sum_exp = poisoned(rows * args.num_heads);
  args.output = mut_view(result.output.data());
  args.results.log_sum_exp = result.log_sum_exp.data();
  int64_t weight_rows = args.results.weights_rows != nullptr ? args.batch * args.results.num_weights_rows : rows;
  if (args.results.weights_mode == MHA_WEIGHTS_KEY_SUMS) weight_rows = args.batch;
  if (args.results.weights_mode != MHA_WEIGHTS_AVERAGED) weight_rows *= args.num_heads;
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) {
    result.weights = poisoned(weight_rows * longest_key_len);
    args.results.weights = mut_view(result.weights.data());
  }
  call_attention(context, args);
  return result;
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_RAGGED_H
