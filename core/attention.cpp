// SPDX-License-Identifier: Apache-2.0
// Attention: the public call, and its stage for the layer. A work item is a block of query rows of one key/value head
// (all heads of the group together, so keys and values are read once for them) over all chunks, or over one chunk where
// there are fewer blocks than threads; partial results are then merged in ascending order. Where queries are few, an
// item is all rows of several key/value heads.
#include "core/attention.h"

#include "core/log_sum_exp.h"
#include "core/rows.h"
#include "core/validate.h"
#include "simd/float_mode.h"

namespace mha {
namespace {

// Rows [row, row + count) of the queries that share key/value head `kv_head` of item `batch`.
struct Block {
  int64_t batch, kv_head;
  int64_t row, count;
  int64_t pair;   // batch * kv_heads + kv_head
  int64_t heads;  // key/value heads: more than one where all rows of each are meant
};

struct Slot {
  float* scratch;
  AttentionRow* rows;
  RowExtras* extras;  // null: the problem has none
};

Slot slot_memory(const AttentionJob& job, int64_t slot) {
  char* base = job.workspace + job.plan.slots_offset + slot * job.plan.slot_bytes;
  return {reinterpret_cast<float*>(base), reinterpret_cast<AttentionRow*>(base + job.plan.slot_rows_offset),
          job.problem.has_extras() ? reinterpret_cast<RowExtras*>(base + job.plan.slot_extras_offset) : nullptr};
}

RowState* row_states(const AttentionJob& job) {
  return reinterpret_cast<RowState*>(job.workspace + job.plan.states_offset);
}

Block block_of(const AttentionJob& job, int64_t index) {
  const AttentionProblem& p = job.problem;
  Block b = {};
  b.pair = index / job.plan.blocks;
  // Last blocks first: under a causal mask they see the most keys, and long items should not come last.
  const int64_t block = job.plan.blocks - 1 - index % job.plan.blocks;
  b.batch = b.pair / p.kv_heads, b.kv_head = b.pair % p.kv_heads;
  b.row = block * job.plan.block_rows;
  const int64_t left = p.group_rows() - b.row;
  b.count = left < job.plan.block_rows ? left : job.plan.block_rows;
  b.heads = 1;
  return b;
}

// The key/value heads of an item where queries are few.
Block heads_of(const AttentionJob& job, int64_t index) {
  const AttentionProblem& p = job.problem;
  Block b = {};
  b.batch = index / job.plan.head_groups;
  b.kv_head = index % job.plan.head_groups * job.plan.heads_per_item;
  const int64_t left = p.kv_heads - b.kv_head;
  b.heads = left < job.plan.heads_per_item ? left : job.plan.heads_per_item;
  b.count = b.heads * p.group_rows();
  b.pair = b.batch * p.kv_heads + b.kv_head;
  return b;
}

Block item_block(const AttentionJob& job, int64_t index) {
  return job.plan.streamed ? heads_of(job, index) : block_of(job, index);
}

void run_kernel(const AttentionJob& job, const AttentionArgs& args) {
  (job.plan.streamed ? job.table->attention_streamed : job.table->attention)(&args);
}

float* element(const Tensor& t, int64_t b, int64_t h, int64_t i) {
  return t.data + b * t.stride_b + h * t.stride_h + i * t.stride_t;
}

// Rows of keys or values of one head; null where there are none.
const float* head_rows(const AttentionProblem& p, const ConstTensor& t, int64_t b, int64_t kv_head) {
  return p.key_len == 0 ? nullptr : t.data + b * t.stride_b + kv_head * t.stride_h;
}

RowExtras* extras_of(const Slot& slot, int64_t row) { return slot.extras != nullptr ? slot.extras + row : nullptr; }

// Fills the rows of a slot for the queries of a block; returns the keys that any of them sees.
KeyRange fill_rows(const AttentionProblem& p, const Block& block, const Slot& slot) {
  AttentionRow* rows = slot.rows;
  KeyRange keys = {INT64_MAX, 0};
  int64_t h = block.kv_head * p.group() + block.row / p.query_len, i = block.row % p.query_len;
  for (int64_t r = 0; r < block.count; ++r) {
    rows[r] = make_row(p, block.batch, h, i, extras_of(slot, r));
    rows[r].output = element(p.output, block.batch, h, i);
    if (p.weights_mode == MHA_WEIGHTS_PER_HEAD) rows[r].scores = element(p.weights, block.batch, h, i);
    keys = join(keys, seen_keys(rows[r]));
    if (++i == p.query_len) i = 0, ++h;
  }
  if (keys.end == 0) keys.begin = 0;
  return keys;
}

AttentionArgs kernel_args(const AttentionProblem& p, const Block& block, const Slot& slot) {
  AttentionArgs args = {};
  args.rows = slot.rows;
  args.num_rows = block.count;
  args.kv_heads = block.heads;
  args.key = head_rows(p, p.key, block.batch, block.kv_head);
  args.key_stride = p.key.stride_t;
  args.key_stride_h = p.key.stride_h;
  args.value = head_rows(p, p.value, block.batch, block.kv_head);
  args.value_stride = p.value.stride_t;
  args.value_stride_h = p.value.stride_h;
  args.head_dim = p.head_dim;
  args.value_head_dim = p.value_head_dim;
  args.query_scale = query_scale(p);
  args.mods = kernel_mods(p);
  args.scratch = slot.scratch;
  return args;
}

// The next item is most likely this thread's too (parallel.cpp): its first chunk.
void set_next(const AttentionJob& job, int64_t item, AttentionArgs* args) {
  if (item + 1 >= job.plan.items) return;
  const AttentionProblem& p = job.problem;
  const Block next = item_block(job, item + 1);
  args->next_key = head_rows(p, p.key, next.batch, next.kv_head);
  args->next_value = head_rows(p, p.value, next.batch, next.kv_head);
  args->next_keys = p.key_len < kChunk ? p.key_len : kChunk;
  const int64_t h = next.kv_head * p.group() + next.row / p.query_len;
  args->next_query =
      p.query.data + next.batch * p.query.stride_b + h * p.query.stride_h + next.row % p.query_len * p.query.stride_t;
  args->next_query_stride = p.query.stride_t;
}

void write_log_sum_exp(const AttentionJob& job, int64_t row, int64_t count) {
  if (job.problem.log_sum_exp == nullptr) return;
  for (int64_t r = row; r < row + count; ++r) job.problem.log_sum_exp[r] = log_sum_exp(row_states(job)[r]);
}

void finish_weights(const AttentionJob& job, const AttentionRow* rows, int64_t first_row, int64_t count) {
  if (job.problem.weights_mode != MHA_WEIGHTS_PER_HEAD) return;
  const FinishWeightsArgs args = {rows, count, job.problem.key_len, row_states(job) + first_row};
  job.table->finish_weights(&args);
}

void run_block(const void* data, int64_t item, int64_t slot_index) {
  const AttentionJob& job = *static_cast<const AttentionJob*>(data);
  const AttentionProblem& p = job.problem;
  const Slot slot = slot_memory(job, slot_index);
  const Block block = item_block(job, item);
  AttentionArgs args = kernel_args(p, block, slot);
  const KeyRange seen = fill_rows(p, block, slot);
  args.key_begin = seen.begin / kChunk * kChunk;
  args.key_end = seen.end;
  const int64_t first_row = block.pair * p.group_rows() + block.row;
  args.states = row_states(job) + first_row;
  args.finish = true;
  set_next(job, item, &args);
  run_kernel(job, args);
  finish_weights(job, slot.rows, first_row, block.count);
  write_log_sum_exp(job, first_row, block.count);
}

// Partial results: states [chunk][row], outputs [row][chunk][Dv], rows counted over the whole call.
struct Partials {
  RowState* states;
  float* outputs;
  int64_t rows;
};

Partials partials(const AttentionJob& job) {
  return {reinterpret_cast<RowState*>(job.workspace + job.plan.partial_states_offset),
          reinterpret_cast<float*>(job.workspace + job.plan.partial_outputs_offset),
          job.problem.batch * job.problem.kv_heads * job.problem.group_rows()};
}

void run_chunk(const void* data, int64_t item, int64_t slot_index) {
  const AttentionJob& job = *static_cast<const AttentionJob*>(data);
  const AttentionProblem& p = job.problem;
  const Slot slot = slot_memory(job, slot_index);
  const Block block = item_block(job, item / job.plan.chunks);
  const int64_t chunk = item % job.plan.chunks;
  AttentionArgs args = kernel_args(p, block, slot);
  args.key_begin = chunk * kChunk;
  const int64_t last_key = fill_rows(p, block, slot).end;
  const int64_t chunk_end = args.key_begin + kChunk < last_key ? args.key_begin + kChunk : last_key;
  args.key_end = chunk_end > args.key_begin ? chunk_end : args.key_begin;
  const int64_t first_row = block.pair * p.group_rows() + block.row;
  const Partials parts = partials(job);
  for (int64_t r = 0; r < block.count; ++r) {
    slot.rows[r].output = parts.outputs + ((first_row + r) * job.plan.chunks + chunk) * p.value_head_dim;
  }
  args.states = parts.states + chunk * parts.rows + first_row;
  run_kernel(job, args);
}

void run_merge(const void* data, int64_t row, int64_t) {
  const AttentionJob& job = *static_cast<const AttentionJob*>(data);
  const AttentionProblem& p = job.problem;
  const Partials parts = partials(job);
  const int64_t pair = row / p.group_rows(), in_pair = row % p.group_rows();
  const int64_t h = pair % p.kv_heads * p.group() + in_pair / p.query_len;
  MergeArgs args = {};
  args.partial_outputs = parts.outputs + row * job.plan.chunks * p.value_head_dim;
  args.output_step = p.value_head_dim;
  args.partial_states = parts.states + row;
  args.state_step = parts.rows;
  args.num_chunks = job.plan.chunks;
  args.value_head_dim = p.value_head_dim;
  args.output = element(p.output, pair / p.kv_heads, h, in_pair % p.query_len);
  args.state = row_states(job) + row;
  args.has_sink = p.mods.sink_logits != nullptr;
  args.sink = sink_of(p, h);
  job.table->merge(&args);
  if (p.weights_mode == MHA_WEIGHTS_PER_HEAD) {
    RowExtras extras;
    AttentionRow finished =
        make_row(p, pair / p.kv_heads, h, in_pair % p.query_len, p.has_extras() ? &extras : nullptr);
    finished.scores = element(p.weights, pair / p.kv_heads, h, in_pair % p.query_len);
    finish_weights(job, &finished, row, 1);
  }
  write_log_sum_exp(job, row, 1);
}

WeightsArgs weights_args(const AttentionProblem& p, const Block& block, const Slot& slot) {
  const AttentionArgs a = kernel_args(p, block, slot);
  WeightsArgs args = {};
  args.rows = a.rows;
  args.num_rows = a.num_rows;
  args.key = a.key;
  args.key_stride = a.key_stride;
  args.head_dim = a.head_dim;
  args.key_len = p.key_len;
  args.query_scale = a.query_scale;
  args.mods = a.mods;
  args.factor = 1.0f;
  args.scratch = a.scratch;
  return args;
}

// A block of queries of one batch item, its heads summed in ascending order.
void run_weights_averaged(const void* data, int64_t item, int64_t slot_index) {
  const AttentionJob& job = *static_cast<const AttentionJob*>(data);
  const AttentionProblem& p = job.problem;
  const Slot slot = slot_memory(job, slot_index);
  const int64_t b = item / job.plan.average_blocks;
  const int64_t query = item % job.plan.average_blocks * job.plan.average_block_rows;
  const int64_t left = p.query_len - query;
  const int64_t count = left < job.plan.average_block_rows ? left : job.plan.average_block_rows;
  for (int64_t h = 0; h < p.heads; ++h) {
    const int64_t kv_head = h / p.group();
    for (int64_t r = 0; r < count; ++r) {
      slot.rows[r] = make_row(p, b, h, query + r, extras_of(slot, r));
      slot.rows[r].output = element(p.weights, b, 0, query + r);
    }
    WeightsArgs args = weights_args(p, {b, kv_head, query, count, b * p.kv_heads + kv_head, 1}, slot);
    args.states = row_states(job) + (b * p.heads + h) * p.query_len + query;
    args.accumulate = h > 0;
    args.factor = h + 1 == p.heads ? 1.0f / static_cast<float>(p.heads) : 1.0f;
    job.table->weights(&args);
  }
}

}  // namespace

int64_t threads_for(const mha_context& context, const AttentionProblem& problem) {
  return useful_threads(context.num_threads, problem.work());
}

int attention_phases(const AttentionJob& job, Phase* phases) {
  if (!job.plan.split) {
    phases[0] = {run_block, &job, job.plan.items};
    return 1;
  }
  phases[0] = {run_chunk, &job, job.plan.items};
  phases[1] = {run_merge, &job, job.problem.batch * job.problem.kv_heads * job.problem.group_rows()};
  return 2;
}

Phase weights_phase(const AttentionJob& job) {
  const int64_t items =
      job.problem.weights_mode == MHA_WEIGHTS_AVERAGED ? job.problem.batch * job.plan.average_blocks : 0;
  return {run_weights_averaged, &job, items};
}

}  // namespace mha

extern "C" mha_status mha_attention(const mha_context* context, const mha_attention_args* args, mha_error* error) {
  using namespace mha;
  const FloatMode mode;  // from here on: the default scale is rounded too
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  AttentionJob job = {};
  job.table = context->table;
  mha_status status = validate_attention(args, Check::kAll, &job.problem, error);
  if (status != MHA_OK || job.problem.nothing_to_do()) return status;
  status = plan_attention(*context->table, threads_for(*context, job.problem), job.problem, &job.plan, error);
  if (status != MHA_OK) return status;
  Workspace workspace(*context, args->workspace);
  status = workspace.reserve(workspace_bytes(job.plan.bytes), args->workspace_bytes, error);
  if (status != MHA_OK) return status;
  job.workspace = workspace.data();
  Phase phases[kMaxPhases];
  int count = attention_phases(job, phases);
  const Phase weights = weights_phase(job);
  if (weights.count > 0) phases[count++] = weights;
  run_phases(*context, job.plan.threads, phases, count);
  return MHA_OK;
}

extern "C" mha_status mha_attention_workspace(const mha_context* context, const mha_attention_args* args, size_t* bytes,
                                              mha_error* error) {
  using namespace mha;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (bytes == nullptr) return fail(error, MHA_ERR_NULL, "bytes is NULL");
  AttentionProblem problem = {};
  mha_status status = validate_attention(args, Check::kSizesOnly, &problem, error);
  if (status != MHA_OK) return status;
  AttentionPlan plan = {};
  if (!problem.nothing_to_do()) {
    status = plan_attention(*context->table, threads_for(*context, problem), problem, &plan, error);
    if (status != MHA_OK) return status;
  }
  *bytes = problem.nothing_to_do() ? 0 : workspace_bytes(plan.bytes);
  return MHA_OK;
}
