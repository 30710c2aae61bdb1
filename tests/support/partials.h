// SPDX-License-Identifier: Apache-2.0
// Attention over parts of the keys, and the merge of the partial results.
#ifndef MHA_TESTS_SUPPORT_PARTIALS_H
#define MHA_TESTS_SUPPORT_PARTIALS_H

#include <vector>

#include "tests/support/shapes.h"

namespace mha::test {

/// Keys [begin, begin + count) of every item: strided views into the whole problem.
inline AttentionCall part_of(const AttentionProblem& p, AttentionCall args, int64_t begin, int64_t count) {
  const AttentionShape& s = p.shape;
  const auto part = [&](const std::vector<float>& all, int64_t width) {
    return view(all.data() + begin * s.Hkv * width, {s.Tk * s.Hkv * width, s.Hkv * width, width});
  };
  args.key_len = count;
  args.score_mods.sink_logits = nullptr;  // of the merge
  args.key = part(p.key, s.D), args.value = part(p.value, s.Dv);
  if (args.positions.align != MHA_ALIGN_OFFSET) {
    args.positions.align = MHA_ALIGN_OFFSET, args.positions.offset = s.Tk - s.Tq;
  }
  args.positions.offset -= begin;
  if (args.masks.add_mask.data != nullptr) {
    args.masks.add_mask.data = static_cast<const float*>(args.masks.add_mask.data) + begin;
  }
  if (args.masks.bool_mask.data != nullptr) args.masks.bool_mask.data += begin;
  return args;
}

inline std::vector<float> partial(const mha_context* context, AttentionCall args) {
  mha_error error = {};
  size_t partial_bytes = 0, bytes = 0;
  require_ok(attention_partial_bytes(context, args, &partial_bytes, &error), error);
  std::vector<float> partials = poisoned(static_cast<int64_t>(partial_bytes / sizeof(float)));
  require_ok(attention_workspace_bytes(context, args, &bytes, &error), error);
  std::vector<float> workspace = poisoned(static_cast<int64_t>(bytes / sizeof(float) + 1));
  args.resources.workspace = workspace.data(), args.resources.workspace_bytes = bytes;
  require_ok(attention_partial(context, args, partials.data(), partial_bytes, &error), error);
  return partials;
}

inline AttentionResult merged(const mha_context* context, const AttentionShape& s, const std::vector<float>& partials,
                              const float* sinks) {
  AttentionResult result;
  result.output = poisoned(s.output().count());
  result.log_sum_exp = poisoned(s.B * s.H * s.Tq);
  mha_merge_partials_args args = {};
  args.batch = s.B, args.num_heads = s.H, args.query_len = s.Tq, args.value_head_dim = s.Dv;
  args.num_chunks = static_cast<int64_t>(partials.size()) / (s.B * s.H * s.Tq * (s.Dv + 2));
  args.partials = partials.data();
  args.sink_logits = sinks;
  args.output = mut_view(result.output.data());
  args.log_sum_exp = result.log_sum_exp.data();
  mha_error error = {};
  require_ok(mha_attention_merge_partials(context, &args, &error), error);
  return result;
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_PARTIALS_H
