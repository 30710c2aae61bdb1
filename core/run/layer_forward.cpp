// SPDX-License-Identifier: Apache-2.0
// The layer's forward: its phases, in one parallel region.
#include "core/run/layer_forward.h"

#include <cstring>

#include "core/run/append_phase.h"
#include "core/run/attention.h"
#include "core/run/norm_rope.h"
#include "core/run/project.h"

namespace mha {
namespace {

// The keys and values that the layer adds to those of each item: bias_key and bias_value, then zeros.
void write_tail(const Forward& f, int projection, char* workspace, const float* bias) {
  const AttentionProblem& p = f.attention.problem;
  const Tensor tokens = projected(f, projection, workspace);
  const int64_t width = tokens.stride_t / kFloatBytes;
  for (int64_t b = 0; b < p.batch; ++b) {
    char* row = tokens.data + b * tokens.stride_b + (p.key_len - p.tail) * tokens.stride_t;
    const size_t bytes = static_cast<size_t>(width * kFloatBytes);
    if (bias != nullptr) {
      memcpy(row, bias, bytes);
      row += tokens.stride_t;
    }
    if (f.layer->config.add_zero_attn != 0) memset(row, 0, bytes);
  }
}

// Sets the addresses of a planned projection. `data` is what it writes in the workspace, or the output projection
// reads.
const LinearJob* bound_projection(Forward& f, int projection, char* data, char* workspace) {
  LinearJob& job = f.plan.linears[projection];
  if (projection == kOutput) {
    job.problem.input.data = data;
  } else {
    job.problem.output.data = data;
  }
  job.scratch = reinterpret_cast<float*>(workspace + f.plan.linear_offset), job.scratch_step = f.plan.linear_scratch;
  return &job;
}

}  // namespace

CacheBatch growth_of(const Forward& f) {
  const AttentionProblem& p = f.attention.problem;
  CacheBatch batch = {};
  batch.batch = p.batch, batch.sequences = p.sequences, batch.length = p.query_len, batch.offsets = p.query_offsets;
  return batch;
}

mha_status run_forward(const mha_context& context, Forward& f, char* workspace, mha_error* error) {
  LinearPhase in;  // not cleared, here and below: clearing what nobody reads costs too much in a small call
  in.count = 0;
  AttentionProblem& p = f.attention.problem;
  ConstTensor* outputs[3] = {&p.ready_query, &p.key, &p.value};
  for (int i = 0; i < 3; ++i) {
    if (!f.projects(i)) continue;
    char* data = workspace + f.plan.projected_offset[i];
    outputs[i]->data = data;
    in.jobs[in.count++] = bound_projection(f, i, data, workspace);
  }
  p.query.data = p.ready_query.data, p.output.data = workspace + f.plan.projected_offset[kOutput];
  p.attended.data = p.output.data;
  if (p.tail > 0) {
    write_tail(f, kKey, workspace, f.layer->bias_key);
    write_tail(f, kValue, workspace, f.layer->bias_value);
  }
  NormRopePhase norm_rope;
  norm_rope.count = 0;
  if (f.attention.problem.norm_rope.wanted()) {
    int64_t* first_positions =
        reinterpret_cast<int64_t*>(workspace + f.plan.attention_offset + f.attention.plan.positions_offset);
    norm_rope.jobs[norm_rope.count++] = query_job(*context.table, f.attention.problem, f.plan.threads,
                                                  projected(f, kQuery, workspace), first_positions);
    const NormRope& r = f.attention.problem.norm_rope;
    if (f.projects(kKey) && (r.rotate || r.key_epsilon > 0 || r.hadamard)) {
      norm_rope.jobs[norm_rope.count++] =
          key_job(*context.table, f.attention.problem, f.plan.threads, projected(f, kKey, workspace),
                  first_positions + f.attention.problem.batch);
    }
  }
  if (f.projects(kValue) && p.hadamard_output) {
    const Tensor values = projected(f, kValue, workspace);
    norm_rope.jobs[norm_rope.count++] =
        hadamard_job(*context.table, p, f.plan.threads, p.kv_heads, as_const(values), values);
  }
  f.attention.table = context.table, f.attention.workspace = workspace + f.plan.attention_offset;
  LinearPhase out;
  out.count = 0;
  out.jobs[out.count++] = bound_projection(f, kOutput, p.output.data, workspace);
  Phase phases[kMaxPhases];
  int count = 0;
  phases[count++] = linear_phase(in);
  if (norm_rope.count > 0) phases[count++] = norm_rope_phase(norm_rope);
  AppendJob append = {};
  if (f.cache != nullptr) {
    AppendProblem& tokens = append.problem;
    tokens.cache = f.cache, tokens.batch = growth_of(f), tokens.tokens = p.total_queries();
    tokens.key = p.key, tokens.value = p.value, tokens.hadamard_done = true;
    append.table = context.table, append.item_tokens = plan_append(tokens.tokens, f.plan.threads);
    phases[count++] = append_phase(append);
  }
  NormRopePhase attended;
  count += attention_phases(f.attention, phases + count, &attended);
  phases[count++] = linear_phase(out);
  if (f.cache != nullptr) MHA_TRY(cache_reserve(f.cache, append.problem.batch, error));
  run_phases(context, f.plan.threads, phases, count);
  if (f.cache != nullptr) cache_commit(f.cache, append.problem.batch);
  return MHA_OK;
}

}  // namespace mha
