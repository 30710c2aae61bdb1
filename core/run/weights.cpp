// SPDX-License-Identifier: Apache-2.0
// The second pass over the scores, for attention weights that the first pass does not write: of chosen queries,
// averaged over heads, or summed over queries.
#include <cstring>

#include "core/call/items.h"
#include "core/call/rows.h"
#include "core/call/score_mods.h"
#include "core/run/attention.h"

namespace mha {
namespace {

// Rows [begin, begin + count) of the attention weights of head h.
struct WeightsBlock {
  int64_t b, h, begin, count;
};

WeightsArgs weights_args(const AttentionJob& job, const WeightsBlock& block, const Slot& slot) {
  const AttentionProblem& p = job.problem;
  const int64_t query_len = query_len_of(p, block.b);
  for (int64_t r = 0; r < block.count; ++r) {
    const int64_t i = weight_query(p, block.begin + r);
    slot.rows[r] = make_row(p, block.b, block.h, i, slot.extras_of(r));
    slot.rows[r].output = reinterpret_cast<char*>(weights_row(p, block.b, block.h, block.begin + r));
    slot.rows[r].state = row_states(job, block.b)[block.h * query_len + i];
  }
  WeightsArgs args = {};
  args.rows = slot.rows;
  args.num_rows = block.count;
  args.query_element = p.ready_query.element;
  args.key = keys_of(p, block.b, block.h / p.group());
  args.head_dim = p.head_dim;
  args.key_len = key_len_of(p, block.b);
  args.query_scale = query_scale(p);
  args.mods = kernel_mods(p);
  args.factor = 1.0f;
  args.scratch = slot.scratch;
  return args;
}

void clear_floats(float* p, int64_t count) {
  if (count > 0) memset(p, 0, static_cast<size_t>(count) * sizeof(float));  // null where there are no keys
}

// Heads [first_head, end_head) of a block of rows, added up in ascending order where there are several.
void run_weights_block(const AttentionJob& job, int64_t b, int64_t block, int64_t first_head, int64_t end_head,
                       const Slot& slot) {
  const AttentionProblem& p = job.problem;
  const int64_t begin = block * job.plan.weights_block_rows;
  const int64_t count = least(job.plan.weights_block_rows, weight_rows_of(p, b) - begin);
  for (int64_t h = first_head; h < end_head; ++h) {
    WeightsArgs args = weights_args(job, {b, h, begin, count}, slot);
    args.accumulate = h > first_head;
    args.factor = end_head - first_head > 1 && h + 1 == end_head ? 1.0f / static_cast<float>(p.heads) : 1.0f;
    job.plan.kernels.packed->weights(&args);
    for (int64_t r = 0; r < count; ++r)
      clear_floats(reinterpret_cast<float*>(slot.rows[r].output) + args.key_len, p.longest_key_len - args.key_len);
  }
}

// The attention weights of a head, summed over queries in ascending order.
void run_key_sums(const AttentionJob& job, int64_t b, int64_t h, const Slot& slot) {
  const AttentionProblem& p = job.problem;
  clear_floats(weights_row(p, b, h, 0), p.longest_key_len);
  const int64_t rows = weight_rows_of(p, b), block_rows = job.plan.weights_block_rows;
  for (int64_t begin = 0; begin < rows; begin += block_rows) {
    WeightsArgs args = weights_args(job, {b, h, begin, least(block_rows, rows - begin)}, slot);
    args.accumulate = true;
    job.plan.kernels.packed->weights(&args);
  }
}

}  // namespace

void run_weights(const void* data, int64_t item, int64_t slot_index) {
  const AttentionJob& job = *static_cast<const AttentionJob*>(data);
  const AttentionProblem& p = job.problem;
  const Slot slot = slot_memory(job, slot_index);
  const Place place = find_place(job, item, &SequencePlan::weights, &SequencePlan::first_weights);
  const int64_t blocks = divide_up(weight_rows_of(p, place.b), job.plan.weights_block_rows);
  switch (p.weights_mode) {
    case MHA_WEIGHTS_AVERAGED:
      run_weights_block(job, place.b, place.index, 0, p.heads, slot);
      break;
    case MHA_WEIGHTS_PER_HEAD:
      run_weights_block(job, place.b, place.index % blocks, place.index / blocks, place.index / blocks + 1, slot);
      break;
    default:
      run_key_sums(job, place.b, place.index, slot);
  }
}

}  // namespace mha
