// SPDX-License-Identifier: Apache-2.0
// Norm and rotation of tokens. A work item is a run of tokens, each with all its heads, whose angles are computed once.
#include "core/run/norm_rope.h"

#include "core/base/layout.h"
#include "core/base/search.h"
#include "core/call/items.h"
#include "core/run/storage_error.h"

namespace mha {
namespace {

int64_t items(const NormRopeJob& job) { return divide_up(job.problem.tokens(), job.block_tokens); }

struct Token {
  int64_t batch, index;  // in its item
};

Token token_at(const NormRopeProblem& p, int64_t token) {
  if (p.offsets == nullptr) return {token / p.length, token % p.length};
  const int64_t b = part_at(p.offsets, p.batch, token);
  return {b, token - p.offsets[b]};
}

int64_t position_of(const NormRopeProblem& p, int64_t token, const Token& at) {
  if (p.positions != nullptr) return p.positions[token];
  return (p.first_positions != nullptr ? p.first_positions[at.batch] : p.first_position) + at.index;
}

// Where a token is written: in its slot, or without slots as token t of item b.
struct Place {
  bool stored;
  int64_t index;  // of all places of the output
  char* row;
};

Place place_of(const NormRopeProblem& p, int64_t token, int64_t b, int64_t t) {
  if (p.slots == nullptr) return {true, token, p.output.data + b * p.output.stride_b + t * p.output.stride_t};
  const int64_t slot = p.slots[token];
  if (slot < 0) return {false, 0, nullptr};
  b = slot / p.page_size, t = slot % p.page_size;
  return {true, slot, p.output.data + b * p.output.stride_b + t * p.output.stride_t};
}

// Rounds the heads of a token, `from` [heads, width], to codes.
void store_codes(const KernelTable& table, const NormRopeProblem& p, const ConstTensor& from, const Place& to) {
  QuantiseArgs args = quantise_args(p.storage, 0, p.heads);
  args.head_step = 1;
  args.src = from.data, args.src_stride = from.stride_h, args.src_element = from.element;
  args.dst = to.row, args.dst_stride = p.output.stride_h;
  const int64_t row = to.index * p.heads;
  if (p.storage.scale_bytes > 0) args.scales = p.scales + row * p.storage.scale_bytes;
  if (p.storage.zero_bytes > 0) args.zeros = p.zeros + row * p.storage.zero_bytes;
  args.scale_stride = p.storage.scale_bytes, args.zero_stride = p.storage.zero_bytes;
  table.rows().quantise(&args);
}

void run_norm_rope(const void* data, int64_t item, int64_t slot) {
  const NormRopeJob* job = static_cast<const NormRopePhase*>(data)->jobs;
  for (; item >= items(*job); ++job) item -= items(*job);
  const NormRopeProblem& p = job->problem;
  TokenNormRope norm_rope(*job->table, p.rope, p.epsilon, p.weight, p.heads, p.width);
  if (p.hadamard) norm_rope.add_hadamard();
  const int64_t begin = item * job->block_tokens, end = least(begin + job->block_tokens, p.tokens());
  for (int64_t token = begin; token < end; ++token) {
    const Token at = token_at(p, token);
    const int64_t b = p.offsets != nullptr ? 0 : at.batch, t = p.offsets != nullptr ? token : at.index;
    const Place place = place_of(p, token, b, t);
    if (!place.stored) continue;
    ConstTensor input = p.input;
    input.data += b * input.stride_b + t * input.stride_t;
    Tensor output = p.output;
    output.data = place.row;
    if (!is_code(output.element)) {
      norm_rope.run(position_of(p, token, at), input, output);
    } else if (!p.changes_rows()) {
      store_codes(*job->table, p, input, place);
    } else {
      const Tensor floats = dense_floats(job->floats + slot * job->floats_step, 1, p.heads, p.width);
      norm_rope.run(position_of(p, token, at), input, floats);
      store_codes(*job->table, p, as_const(floats), place);
    }
  }
}

}  // namespace

void hadamard_rotate(const KernelTable& table, const ConstTensor& input, const Tensor& output, int64_t heads,
                     int64_t width) {
  HadamardArgs args = hadamard_args(heads, width);
  args.src = input.data, args.src_stride = input.stride_h, args.src_element = input.element;
  args.dst = output.data, args.dst_stride = output.stride_h, args.dst_element = output.element;
  table.rows().hadamard(&args);
}

TokenNormRope::TokenNormRope(const KernelTable& table, const mha_rope& rope, float epsilon, const float* weight,
                             int64_t heads, int64_t width)
    : table_(table), angles_(table, rope), args_() {
  args_.count = heads, args_.width = width;
  args_.norm = epsilon > 0, args_.epsilon = epsilon, args_.weight = weight;
  args_.dims = rope.dims, args_.interleaved = rope.style == MHA_ROPE_INTERLEAVED;
  args_.cos = angles_.cosines(), args_.sin = angles_.sines();
}

void TokenNormRope::run(int64_t position, const ConstTensor& input, const Tensor& output) {
  if (hadamard_ && !args_.norm && args_.dims == 0)
    return hadamard_rotate(table_, input, output, args_.count, args_.width);
  if (args_.dims > 0) angles_.turn_to(position);
  args_.input = input.data, args_.input_stride = input.stride_h, args_.input_element = input.element;
  args_.output = output.data, args_.output_stride = output.stride_h, args_.output_element = output.element;
  table_.rows().norm_rope(&args_);
  if (hadamard_) hadamard_rotate(table_, as_const(output), output, args_.count, args_.width);
}

Phase norm_rope_phase(const NormRopePhase& work) {
  int64_t count = 0;
  for (int i = 0; i < work.count; ++i) count += items(work.jobs[i]);
  return {run_norm_rope, &work, count};
}

namespace {

// The parts of the workspace: a row before and after, and what is stored of it.
struct MeasuringLayout {
  int64_t before, after, codes, scales, zeros;
  Size bytes = Size(0);

  explicit MeasuringLayout(const NormRopeProblem& p) {
    Layout all;
    const Size row = Size(p.width) * Size(kFloatBytes);
    before = all.append(row), after = all.append(row), codes = all.append(Size(p.storage.row_bytes));
    scales = all.append(Size(p.storage.scale_bytes)), zeros = all.append(Size(p.storage.zero_bytes));
    bytes = all.bytes();
  }
};

}  // namespace

Size measuring_bytes(const NormRopeProblem& problem) { return MeasuringLayout(problem).bytes; }

mha_storage_error measure_rounding(const NormRopeJob& job, char* workspace) {
  const NormRopeProblem& p = job.problem;
  const MeasuringLayout layout(p);
  TokenNormRope norm_rope(*job.table, p.rope, p.epsilon, p.weight, 1, p.width);
  if (p.hadamard) norm_rope.add_hadamard();
  StorageErrorSum sum(*job.table);
  const Tensor floats = dense_floats(workspace + layout.before, 1, 1, p.width);
  for (int64_t token = 0; token < p.tokens(); ++token) {
    const Token at = token_at(p, token);
    if (!place_of(p, token, at.batch, at.index).stored) continue;
    ConstTensor input = p.input;
    input.data += at.batch * input.stride_b + at.index * input.stride_t;
    for (int64_t h = 0; h < p.heads; ++h, input.data += input.stride_h) {
      norm_rope.run(position_of(p, token, at), input, floats);
      if (is_code(p.output.element)) {
        sum.add_codes(reinterpret_cast<const float*>(floats.data), p.storage, h,
                      {reinterpret_cast<float*>(workspace + layout.after), workspace + layout.codes,
                       workspace + layout.scales, workspace + layout.zeros});
      } else {
        sum.add(floats.data, Element::kF32, p.width, p.output.element);
      }
    }
  }
  return sum.error();
}

NormRopeJob query_job(const KernelTable& table, const AttentionProblem& p, int64_t threads, const Tensor& output,
                      int64_t* first_positions) {
  const NormRope& r = p.norm_rope;
  NormRopeJob job = {};
  NormRopeProblem& tokens = job.problem;
  job.table = &table, tokens.input = p.query, tokens.output = output;
  tokens.batch = p.batch, tokens.length = p.query_len, tokens.offsets = p.query_offsets;
  tokens.heads = p.heads, tokens.width = p.head_dim;
  tokens.rope = r.rope, tokens.epsilon = r.query_epsilon, tokens.weight = r.query_weight,
  tokens.positions = r.positions, tokens.hadamard = r.hadamard;
  if (p.uniform()) {
    tokens.first_position = position_of(p, 0, 0);
  } else {
    for (int64_t b = 0; b < p.batch; ++b) first_positions[b] = position_of(p, b, 0);
    tokens.first_positions = first_positions;
  }
  job.block_tokens = plan_norm_rope(tokens.tokens(), threads);
  return job;
}

NormRopeJob key_job(const KernelTable& table, const AttentionProblem& p, int64_t threads, const Tensor& keys,
                    int64_t* first_positions) {
  const NormRope& r = p.norm_rope;
  NormRopeJob job = {};
  NormRopeProblem& tokens = job.problem;
  job.table = &table, tokens.input = as_const(keys), tokens.output = keys;
  tokens.batch = p.batch, tokens.length = p.key_len - p.tail, tokens.offsets = p.key_offsets;
  tokens.heads = p.kv_heads, tokens.width = p.head_dim;
  tokens.rope = r.rope, tokens.epsilon = r.key_epsilon, tokens.weight = r.key_weight,
  tokens.positions = r.key_positions, tokens.hadamard = r.hadamard;
  if (p.cache != nullptr) {  // the new tokens, which follow those in the cache
    tokens.length = p.query_len, tokens.offsets = p.query_offsets;
    for (int64_t b = 0; b < p.batch; ++b) first_positions[b] = key_len_of(p, b) - query_len_of(p, b);
    tokens.first_positions = first_positions;
  }
  job.block_tokens = plan_norm_rope(tokens.tokens(), threads);
  return job;
}

NormRopeJob hadamard_job(const KernelTable& table, const AttentionProblem& p, int64_t threads, int64_t heads,
                         const ConstTensor& input, const Tensor& output) {
  NormRopeJob job = {};
  NormRopeProblem& tokens = job.problem;
  job.table = &table, tokens.input = input, tokens.output = output;
  tokens.batch = p.batch, tokens.length = p.query_len, tokens.offsets = p.query_offsets;
  tokens.heads = heads, tokens.width = p.value_head_dim, tokens.hadamard = true;
  job.block_tokens = plan_norm_rope(tokens.tokens(), threads);
  return job;
}

}  // namespace mha
