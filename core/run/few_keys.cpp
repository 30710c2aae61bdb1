// SPDX-License-Identifier: Apache-2.0
// Attention over few keys that all rows see. A work item is a run of rows in the order of the states, [B][H][Tq],
// across heads and items of the batch: a row takes so little time that the cost of a work item would outweigh few rows.
#include "core/call/items.h"
#include "core/call/score_mods.h"
#include "core/run/attention.h"

namespace mha {

void run_few_keys(const void* data, int64_t item, int64_t slot_index) {
  const AttentionJob& job = *static_cast<const AttentionJob*>(data);
  const AttentionProblem& p = job.problem;
  const int64_t begin = item * kFewKeysRows, count = least(kFewKeysRows, p.heads * p.total_queries() - begin);
  const char *query[kFewKeysRows], *key[kFewKeysRows], *value[kFewKeysRows];
  char* output[kFewKeysRows];
  float* weights[kFewKeysRows];
  const bool keeps = keeps_weights(p);
  int64_t i = begin % p.query_len, h = begin / p.query_len % p.heads, b = begin / p.query_len / p.heads;
  for (int64_t r = 0; r < count; ++b, h = 0) {
    const char *queries = p.ready_query.data + b * p.ready_query.stride_b, *keys = p.key.data + b * p.key.stride_b;
    const char* values = p.value.data + b * p.value.stride_b;
    char* outputs = p.attended.data + b * p.attended.stride_b;
    for (; h < p.heads && r < count; ++h, i = 0) {
      const int64_t kv_head = p.heads == p.kv_heads ? h : h / p.group();
      for (; i < p.query_len && r < count; ++i, ++r) {
        query[r] = queries + h * p.ready_query.stride_h + i * p.ready_query.stride_t;
        output[r] = outputs + h * p.attended.stride_h + i * p.attended.stride_t;
        key[r] = keys + kv_head * p.key.stride_h, value[r] = values + kv_head * p.value.stride_h;
        if (keeps) weights[r] = weights_row(p, b, h, i);
      }
    }
  }
  FewKeysArgs args = {};
  args.query = query, args.key = key, args.value = value, args.output = output, args.num_rows = count;
  args.weights = keeps ? weights : nullptr;
  args.keys = p.key_len, args.key_stride = p.key.stride_t, args.value_stride = p.value.stride_t;
  args.head_dim = p.head_dim, args.value_head_dim = p.value_head_dim;
  args.query_element = p.ready_query.element, args.output_element = p.attended.element;
  args.key_element = p.key.element, args.value_element = p.value.element;
  args.query_scale = query_scale(p);
  if (p.log_sum_exp != nullptr || job.plan.weights > 0) args.states = row_states(job, 0) + begin;
  args.scratch = slot_memory(job, slot_index).scratch;
  job.plan.kernels.few_keys->attention(&args);
  write_log_sum_exp(job, 0, begin, count);
}

}  // namespace mha
