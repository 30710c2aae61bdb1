// SPDX-License-Identifier: Apache-2.0
// Running attention as planned. A work item is a block of query rows of one key/value head (all heads of the group
// together, so keys and values are read once for them) over all chunks, or over one chunk where a block is too much for
// one thread; partial results are then merged in ascending order. Where queries are few, an item is all rows of several
// key/value heads. Sequences of a cache that begin with the same pages meet those together: an item is then one chunk
// of one head and the rows of all of them.
#include "core/run/attention.h"

#include "core/base/memory.h"
#include "core/base/search.h"
#include "core/call/items.h"
#include "core/call/rows.h"
#include "core/call/score_mods.h"
#include "core/math/log_sum_exp.h"
#include "core/run/norm_rope.h"

namespace mha {

Slot slot_memory(const AttentionJob& job, int64_t slot) {
  char* base = job.workspace + job.plan.slots_offset + slot * job.plan.slot_bytes;
  Slot s = {};
  s.scratch = reinterpret_cast<float*>(base);
  s.rows = reinterpret_cast<AttentionRow*>(base + job.plan.slot_rows_offset);
  if (job.problem.has_extras()) s.extras = reinterpret_cast<RowExtras*>(base + job.plan.slot_extras_offset);
  s.states = reinterpret_cast<RowState*>(base + job.plan.slot_states_offset);
  s.maxima = reinterpret_cast<float*>(base + job.plan.slot_maxima_offset);
  return s;
}

RowState* row_states(const AttentionJob& job, int64_t b) {
  return reinterpret_cast<RowState*>(job.workspace + job.plan.states_offset) +
         query_begin_of(job.problem, b) * job.problem.heads;
}

Place find_place(const AttentionJob& job, int64_t index, int64_t SequencePlan::*count, int64_t SequencePlan::*first) {
  if (job.plan.uniform) {
    const int64_t each = job.plan.each.*count;
    return {job.plan.each, index / each, index % each};
  }
  const SequencePlan* sequences = job.sequences();
  // The last item that begins at or before index, and has any.
  const int64_t b = partition_point(1, job.plan.batch, [&](int64_t n) { return sequences[n].*first <= index; }) - 1;
  return {sequences[b], b, index - sequences[b].*first};
}

void write_log_sum_exp(const AttentionJob& job, int64_t b, int64_t row, int64_t count) {
  if (job.problem.log_sum_exp == nullptr) return;
  float* results = job.problem.log_sum_exp + query_begin_of(job.problem, b) * job.problem.heads;
  for (int64_t r = row; r < row + count; ++r) results[r] = log_sum_exp(row_states(job, b)[r]);
}

namespace {

// Where partial results of a sequence's rows are: row r of chunk c is at outputs + c * step + r * Dv, its state at
// states + c * step + 2 r, all in floats. Of a uniform call: the rows of all items side by side.
struct Partials {
  float* outputs;
  float* states;
  int64_t step, width;

  char* output(int64_t chunk, int64_t row) const {
    return reinterpret_cast<char*>(outputs + chunk * step + row * width);
  }

  RowState* state(int64_t chunk, int64_t row) const {
    return reinterpret_cast<RowState*>(states + chunk * step + row * 2);
  }
};

Partials partials_of(const AttentionJob& job, const SequencePlan& s, int64_t b) {
  const AttentionProblem& p = job.problem;
  const int64_t rows = p.heads * (job.plan.uniform ? p.total_queries() : query_len_of(p, b));
  const int64_t before = job.plan.uniform ? p.heads * query_begin_of(p, b) : 0;
  float* base = job.partials() + s.first_partial;
  return {base + before * p.value_head_dim, base + rows * p.value_head_dim + before * 2,
          rows * partial_width(p.value_head_dim), p.value_head_dim};
}

// Rows [row, row + count) of the queries that share key/value heads [kv_head, kv_head + heads) of item b; more than one
// head where all rows of each are meant.
struct Block {
  int64_t b, kv_head, heads;
  int64_t row, count;
};

Block block_of(const AttentionProblem& p, const SequencePlan& s, int64_t b, int64_t index) {
  const int64_t group_rows = group_rows_of(p, b);
  Block block = {};
  block.b = b;
  if (s.in_place) {
    block.kv_head = index * s.heads_per_item, block.heads = least(s.heads_per_item, p.kv_heads - block.kv_head);
    block.count = block.heads * group_rows;
    return block;
  }
  // Last blocks first: under a causal mask they see the most keys, and long items should not come last.
  block.kv_head = index / s.blocks, block.heads = 1;
  block.row = (s.blocks - 1 - index % s.blocks) * s.block_rows;
  block.count = least(s.block_rows, group_rows - block.row);
  return block;
}

// The block's first row among all rows of its item.
int64_t first_row(const AttentionProblem& p, const Block& block) {
  return block.kv_head * group_rows_of(p, block.b) + block.row;
}

// Fills the rows of a slot from `first` on for the queries of a block; returns the keys that any of them sees.
KeyRange fill_rows(const AttentionProblem& p, const Block& block, const Slot& slot, int64_t first = 0) {
  KeyRange keys = {INT64_MAX, 0};
  const int64_t query_len = query_len_of(p, block.b), key_len = key_len_of(p, block.b);
  const bool alike = rows_are_alike(p), causal = p.causal;
  const int64_t position = position_of(p, block.b, 0);
  int64_t h = block.kv_head * p.group() + block.row / query_len, i = block.row % query_len;
  // The first row of a head, and what changes from row to row. A copy of the row before would wait for the stores that
  // made it.
  const AttentionRow* like = nullptr;
  const char* query = nullptr;
  char* output = nullptr;
  float* weights = nullptr;
  for (int64_t r = first; r < first + block.count; ++r) {
    AttentionRow& row = slot.rows[r];
    if (alike && r > first && i > 0) {
      row = *like;
      row.query = query += p.ready_query.stride_t;
      row.output = output += p.attended.stride_t;
      if (weights != nullptr) row.weights = weights += p.weights.stride_t / kFloatBytes;
      if (causal) row.key_end = most(0, least(position + i + 1, key_len));
    } else {
      row = make_row(p, block.b, h, i, slot.extras_of(r));
      row.output = query_row(p, p.attended, block.b, h, i);
      if (keeps_weights(p)) row.weights = weights_row(p, block.b, h, i);
      like = &row, query = row.query, output = row.output, weights = row.weights;
    }
    keys = join(keys, seen_keys(row));
    if (++i == query_len) i = 0, ++h;
  }
  if (keys.end == 0) keys.begin = 0;
  return keys;
}

AttentionArgs kernel_args(const AttentionProblem& p, const Block& block, const Slot& slot) {
  AttentionArgs args = {};
  args.rows = slot.rows;
  args.num_rows = block.count;
  args.kv_heads = block.heads;
  args.query_element = p.ready_query.element, args.output_element = p.attended.element;
  args.key = keys_of(p, block.b, block.kv_head);
  args.value = values_of(p, block.b, block.kv_head);
  args.head_dim = p.head_dim;
  args.value_head_dim = p.value_head_dim;
  args.query_scale = query_scale(p);
  args.mods = kernel_mods(p);
  args.scratch = slot.scratch;
  return args;
}

void run_kernel(const AttentionKernels& kernels, bool in_place, const AttentionArgs& args) {
  (in_place ? kernels.in_place->attention : kernels.packed->attention)(&args);
}

// The next item is most likely run by this thread, too (parallel.cpp), so its first chunk is named for prefetching. An
// in-place item begins with the first token that it sees, if that is known: heads of one item of the batch see the
// same.
void set_next(const AttentionJob& job, int64_t item, const Place& place, KeyRange seen, AttentionArgs* args) {
  if (item + 1 >= job.plan.items) return;
  const AttentionProblem& p = job.problem;
  const Place next = find_place(job, item + 1, &SequencePlan::items, &SequencePlan::first_item);
  if (next.plan.in_place != place.plan.in_place || next.plan.split) return;
  const Block block = block_of(p, next.plan, next.b, next.index);
  args->next_key = keys_of(p, block.b, block.kv_head);
  args->next_value = values_of(p, block.b, block.kv_head);
  if (next.plan.in_place) {
    args->next_begin = (next.b == place.b ? seen.begin : first_kept_of(p, next.b)) / kPanel * kPanel;
  }
  args->next_keys = least(key_len_of(p, block.b) - args->next_begin, kChunk);
  const int64_t query_len = query_len_of(p, block.b);
  args->next_query =
      query_row(p, p.ready_query, block.b, block.kv_head * p.group() + block.row / query_len, block.row % query_len);
  args->next_query_stride = p.ready_query.stride_t;
}

void run_block(const AttentionJob& job, const Place& place, int64_t item, const Slot& slot) {
  const AttentionProblem& p = job.problem;
  const Block block = block_of(p, place.plan, place.b, place.index);
  AttentionArgs args = kernel_args(p, block, slot);
  const KeyRange seen = fill_rows(p, block, slot);
  args.key_begin = seen.begin / kChunk * kChunk;
  args.key_end = seen.end;
  const int64_t row = first_row(p, block);
  args.states = row_states(job, block.b) + row;
  args.finish = true;
  if (keeps_weights(p)) args.maxima = slot.maxima;
  args.weights_len = p.longest_key_len;
  set_next(job, item, place, seen, &args);
  run_kernel(job.plan.kernels, place.plan.in_place, args);
  write_log_sum_exp(job, block.b, row, block.count);
}

// Bounds the kernel to one chunk, of which rows see keys before last_key.
void take_chunk(int64_t chunk, int64_t last_key, AttentionArgs* args) {
  args->key_begin = chunk * kChunk;
  args->key_end = most(args->key_begin, least(args->key_begin + kChunk, last_key));
}

void run_chunk(const AttentionJob& job, const Place& place, const Slot& slot) {
  const AttentionProblem& p = job.problem;
  const SequencePlan& s = place.plan;
  const int64_t own_chunks = s.chunks - s.shared_chunks;
  const int64_t chunk = s.shared_chunks + place.index % own_chunks;
  const Block block = block_of(p, s, place.b, place.index / own_chunks);
  AttentionArgs args = kernel_args(p, block, slot);
  take_chunk(chunk, fill_rows(p, block, slot).end, &args);
  const int64_t row = first_row(p, block);
  const Partials parts = partials_of(job, s, block.b);
  for (int64_t r = 0; r < block.count; ++r) {
    slot.rows[r].output = parts.output(chunk, row + r);
  }
  args.output_element = Element::kF32;
  args.states = parts.state(chunk, row);
  run_kernel(job.plan.kernels, s.in_place, args);
}

// The rows of one key/value head.
Block all_rows_of(int64_t b, int64_t kv_head, int64_t count) {
  Block block = {};
  block.b = b, block.kv_head = kv_head, block.heads = 1, block.count = count;
  return block;
}

// One chunk of one key/value head for the rows of all sequences of a group.
void run_shared(const AttentionJob& job, const Place& place, const Slot& slot) {
  const AttentionProblem& p = job.problem;
  const SequencePlan& first = place.plan;
  const int64_t kv_head = place.index / first.shared_chunks, chunk = place.index % first.shared_chunks;
  int64_t rows = 0, last_key = 0;
  for (int64_t b = place.b; b < place.b + first.members; ++b) {
    const Block block = all_rows_of(b, kv_head, group_rows_of(p, b));
    last_key = most(last_key, fill_rows(p, block, slot, rows).end);
    const Partials parts = partials_of(job, job.sequences()[b], b);
    for (int64_t r = 0; r < block.count; ++r) {
      slot.rows[rows + r].output = parts.output(chunk, first_row(p, block) + r);
    }
    rows += block.count;
  }
  AttentionArgs args = kernel_args(p, all_rows_of(place.b, kv_head, rows), slot);
  args.output_element = Element::kF32;
  take_chunk(chunk, last_key, &args);
  args.states = slot.states;
  run_kernel(job.plan.kernels, rows <= job.plan.kernels.in_place->head_rows, args);
  for (int64_t b = place.b, row = 0; b < place.b + first.members; ++b) {
    const int64_t count = group_rows_of(p, b);
    RowState* states = partials_of(job, job.sequences()[b], b).state(chunk, kv_head * count);
    for (int64_t r = 0; r < count; ++r) states[r] = slot.states[row + r];
    row += count;
  }
}

void run_item(const void* data, int64_t item, int64_t slot_index) {
  const AttentionJob& job = *static_cast<const AttentionJob*>(data);
  const Slot slot = slot_memory(job, slot_index);
  Place place = find_place(job, item, &SequencePlan::items, &SequencePlan::first_item);
  const int64_t shared = place.plan.shared_items(job.problem.kv_heads);
  if (place.index < shared) {
    run_shared(job, place, slot);
    return;
  }
  place.index -= shared;
  if (place.plan.split) {
    run_chunk(job, place, slot);
  } else {
    run_block(job, place, item, slot);
  }
}

void run_merge(const void* data, int64_t index, int64_t) {
  const AttentionJob& job = *static_cast<const AttentionJob*>(data);
  const AttentionProblem& p = job.problem;
  const Place place = find_place(job, index, &SequencePlan::merges, &SequencePlan::first_merge);
  const int64_t b = place.b, row = place.index, query_len = query_len_of(p, b);
  const int64_t h = row / query_len, i = row % query_len;
  const Partials parts = partials_of(job, place.plan, b);
  MergeArgs args = {};
  args.partial_outputs = parts.outputs + row * p.value_head_dim;
  args.partial_states = parts.state(0, row);
  args.step = parts.step;
  args.num_chunks = place.plan.chunks;
  args.value_head_dim = p.value_head_dim;
  args.output = query_row(p, p.attended, b, h, i), args.output_element = p.attended.element;
  args.state = row_states(job, b) + row;
  args.has_sink = p.mods.sink_logits != nullptr;
  args.sink = sink_of(p, h);
  job.plan.kernels.results->merge(&args);
  if (keeps_weights(p)) {
    RowExtras extras;
    AttentionRow finished = make_row(p, b, h, i, p.has_extras() ? &extras : nullptr);
    finished.weights = weights_row(p, b, h, i);
    FinishWeightsArgs weights = {};
    weights.row = &finished, weights.weights_len = p.longest_key_len, weights.state = *args.state;
    weights.maxima = &args.partial_states->max, weights.step = args.step, weights.num_chunks = args.num_chunks;
    job.plan.kernels.results->finish_weights(&weights);
  }
  write_log_sum_exp(job, b, row, 1);
}

}  // namespace

int attention_phases(const AttentionJob& job, Phase* phases, NormRopePhase* last) {
  if (!job.plan.uniform) {
    plan_sequences(job.problem, job.plan, job.given_partials != nullptr,
                   reinterpret_cast<SequencePlan*>(job.workspace + job.plan.sequences_offset));
  }
  int count = 0;
  phases[count++] = {job.plan.few_keys ? run_few_keys : run_item, &job, job.plan.items};
  if (job.given_partials != nullptr) return count;
  if (job.plan.merges > 0) phases[count++] = {run_merge, &job, job.plan.merges};
  if (job.plan.weights > 0) phases[count++] = {run_weights, &job, job.plan.weights};
  if (job.problem.hadamard_output) {
    const AttentionProblem& p = job.problem;
    last->count = 1;
    last->jobs[0] = hadamard_job(*job.table, p, job.plan.threads, p.heads, as_const(p.attended), p.output);
    phases[count++] = norm_rope_phase(*last);
  }
  return count;
}

namespace {

// Queries are normed and rotated into the workspace, where attention then finds them.
NormRopeJob query_norm_rope(AttentionJob* job) {
  AttentionProblem& p = job->problem;
  const Tensor dense = dense_floats(job->workspace + job->plan.queries_offset, p.query_len, p.heads, p.head_dim);
  int64_t* first_positions = reinterpret_cast<int64_t*>(job->workspace + job->plan.positions_offset);
  p.ready_query.data = dense.data;
  return query_job(*job->table, p, job->plan.threads, dense, first_positions);
}

}  // namespace

mha_status run_attention(const mha_context& context, const mha_resources* resources, AttentionJob* job,
                         mha_error* error) {
  Workspace workspace(context, resources);
  MHA_TRY(workspace.reserve(workspace_bytes(job->plan.bytes), error));
  job->workspace = workspace.data();
  Phase phases[kMaxPhases];
  int count = 0;
  NormRopePhase queries, last;  // not cleared: their jobs are assigned, and clearing costs too much in a small call
  queries.count = last.count = 0;
  if (job->problem.norm_rope.wanted()) {
    queries.jobs[queries.count++] = query_norm_rope(job);
    phases[count++] = norm_rope_phase(queries);
  }
  if (job->problem.copies_output()) job->problem.attended.data = job->workspace + job->plan.attended_offset;
  count += attention_phases(*job, phases + count, &last);
  run_phases(context, job->plan.threads, phases, count);
  return MHA_OK;
}

}  // namespace mha
