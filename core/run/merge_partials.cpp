// SPDX-License-Identifier: Apache-2.0
// Merging partial results of chunks, to the bits of one call: what attention.cpp does between its phases.
#include "core/call/score_mods.h"
#include "core/kernels/kernel_table.h"
#include "core/math/log_sum_exp.h"
#include "core/run/merge.h"

namespace mha {
namespace {

void run_merge_row(const void* data, int64_t row, int64_t) {
  const MergePartialsJob& job = *static_cast<const MergePartialsJob*>(data);
  const PartialsProblem& p = job.problem;
  const mha_merge_partials_args& a = p.args;
  const float* partials = static_cast<const float*>(a.partials);
  const int64_t i = row % a.query_len, h = row / a.query_len % a.num_heads, b = row / a.query_len / a.num_heads;
  RowState state = {};
  MergeArgs merge = {};
  if (a.num_chunks > 0) {  // else partials may be null
    merge.partial_outputs = partials + row * a.value_head_dim;
    merge.partial_states = reinterpret_cast<const RowState*>(partials + p.rows * a.value_head_dim + row * 2);
  }
  merge.step = p.rows * partial_width(a.value_head_dim);
  merge.num_chunks = a.num_chunks;
  merge.value_head_dim = a.value_head_dim;
  char* output = p.output.data + b * p.output.stride_b + i * p.output.stride_t + h * p.output.stride_h;
  alignas(64) float rotated[kMostHadamard];
  if (a.hadamard == 0) {
    merge.output = output, merge.output_element = p.output.element;
  } else {
    merge.output = reinterpret_cast<char*>(rotated), merge.output_element = Element::kF32;
  }
  merge.state = &state;
  merge.has_sink = a.sink_logits != nullptr;
  merge.sink = a.sink_logits != nullptr ? sink_score(a.sink_logits[h]) : 0;
  job.kernels.results->merge(&merge);
  if (a.hadamard != 0) {
    HadamardArgs back = hadamard_args(1, a.value_head_dim);
    back.src = merge.output, back.src_element = merge.output_element;
    back.dst = output, back.dst_element = p.output.element;
    job.rows->hadamard(&back);
  }
  if (a.log_sum_exp != nullptr) a.log_sum_exp[row] = log_sum_exp(state);
}

}  // namespace

Phase merge_partials_phase(const MergePartialsJob& job) { return {run_merge_row, &job, job.problem.rows}; }

}  // namespace mha
