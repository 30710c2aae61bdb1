// SPDX-License-Identifier: Apache-2.0
// The stage before attention: RMS norm and rotation of queries and keys, token by token.
#pragma once

#include "core/math/rope.h"
#include "core/plan/plan.h"
#include "core/run/parallel.h"

namespace mha {

// Norms and rotates one token after another. Each work item makes its own.
class TokenNormRope {
 public:
  // epsilon 0: no norm; weight [width] may be null; rope.dims 0: no rotation.
  TokenNormRope(const KernelTable& table, const mha_rope& rope, float epsilon, const float* weight, int64_t heads,
                int64_t width);
  // Adds the Walsh-Hadamard rotation as the last step. Output is then floats, unless it is the only step.
  void add_hadamard() { hadamard_ = true; }
  // The heads of a token, at `data` and stride_h apart; output may be input.
  void run(int64_t position, const ConstTensor& input, const Tensor& output);

 private:
  const KernelTable& table_;
  RopeAngles angles_;
  NormRopeArgs args_;
  bool hadamard_ = false;
};

// The Walsh-Hadamard rotation of the heads of a token, at `data` and stride_h apart; output may be input.
void hadamard_rotate(const KernelTable& table, const ConstTensor& input, const Tensor& output, int64_t heads,
                     int64_t width);

// The tokens of one tensor, and how they are cut.
struct NormRopeJob {
  const KernelTable* table;
  NormRopeProblem problem;
  int64_t block_tokens;  // of a work item: plan_norm_rope
  // Where problem.needs_floats(): floats [heads, width] of each thread, so many apart.
  float* floats;
  int64_t floats_step;
};

// Up to three tensors (queries, keys and values) as one phase.
struct NormRopePhase {
  NormRopeJob jobs[3];
  int count;
};

Phase norm_rope_phase(const NormRopePhase& work);

// The error of rounding the results of a job. To be called before the job runs, since its output may be its input.
mha_storage_error measure_rounding(const NormRopeJob& job, char* workspace);
// The bytes of its workspace.
Size measuring_bytes(const NormRopeProblem& problem);

// The jobs for the queries of a call and for its keys in a tensor, with block_tokens planned. If items differ in
// length, the first position of each item is written to first_positions [batch].
NormRopeJob query_job(const KernelTable& table, const AttentionProblem& problem, int64_t threads, const Tensor& output,
                      int64_t* first_positions);
NormRopeJob key_job(const KernelTable& table, const AttentionProblem& problem, int64_t threads, const Tensor& keys,
                    int64_t* first_positions);
// The Walsh-Hadamard rotation of what each query of a call has as wide as values: results, or new values of a cache.
NormRopeJob hadamard_job(const KernelTable& table, const AttentionProblem& problem, int64_t threads, int64_t heads,
                         const ConstTensor& input, const Tensor& output);

}  // namespace mha
