// SPDX-License-Identifier: Apache-2.0
// The stage before attention: RMS norm and rotation of queries and keys, token by token.
#pragma once

#include "core/call/checks.h"
#include "core/call/problem.h"
#include "core/math/rope.h"
#include "core/run/parallel.h"

namespace mha {

// Prepares single tokens: one of these for a thread's run of them.
class TokenPreparer {
 public:
  // epsilon 0: no norm; weight [width] may be null; rope.dims 0: no rotation.
  TokenPreparer(const KernelTable& table, const mha_rope& rope, float epsilon, const float* weight, int64_t heads,
                int64_t width);
  // The heads of a token, `stride` floats apart; output may be input.
  void run(int64_t position, const float* input, int64_t input_stride, float* output, int64_t output_stride);

 private:
  const KernelTable& table_;
  RopeAngles angles_;
  PrepareArgs args_;
};

// The tokens of one tensor. Items of a batch have `length` tokens each, or with `offsets` lie packed one after the
// other (stride_b unused). What becomes of a token depends on it and its position alone.
struct PrepareJob {
  const KernelTable* table;
  ConstTensor input;  // [batch, length, heads, width]
  Tensor output;      // alike; may be the input
  int64_t batch;
  int64_t length;          // tokens of each item, or of all of them
  const int64_t* offsets;  // [batch + 1]: item b has tokens [offsets[b], offsets[b + 1]); null: length each
  int64_t heads, width;
  mha_rope rope;                   // validated; dims 0: no rotation
  float epsilon;                   // 0: no norm
  const float* weight;             // [width] of the norm; null: ones
  const int64_t* positions;        // [batch, length], or packed; null: the item's first position + t, which is
  const int64_t* first_positions;  // [batch]; null:
  int64_t first_position;          // the same for all
  const int64_t* slots;            // [batch, length]: where in output a token goes, < 0: nowhere; null: to its place
  int64_t page_size;               // slot s is token s % page_size of output's item s / page_size
  int64_t block_tokens;            // of a work item: plan_prepare

  int64_t tokens() const { return offsets != nullptr ? length : batch * length; }
  double work() const;
};

// Up to two tensors (queries and keys) as one phase.
struct PreparePhase {
  PrepareJob jobs[2];
  int count;
};

// How many tokens make a work item.
int64_t plan_prepare(const PrepareJob& job, int64_t threads);
Phase prepare_phase(const PreparePhase& work);

// What an attention or layer call wants done, checked into problem->preparation; its sizes, items and positions must be
// set.
mha_status check_preparation(const Groups& groups, Check check, AttentionProblem* problem, mha_error* error);

// Positions of tokens that are given, or count on from `first`, which is called `name`.
mha_status check_given_positions(const mha_rope& rope, const char* name, const int64_t* positions, int64_t count,
                                 mha_error* error);
mha_status check_counted_positions(const mha_rope& rope, const char* name, int64_t first, int64_t count,
                                   mha_error* error);

// The queries of a call, and keys in a tensor; block_tokens is planned. Where items differ in length, first_positions
// has room for one each, which are written now.
PrepareJob query_job(const KernelTable& table, const AttentionProblem& problem, int64_t threads, const Tensor& output,
                     int64_t* first_positions);
PrepareJob key_job(const KernelTable& table, const AttentionProblem& problem, int64_t threads, const Tensor& keys,
                   int64_t* first_positions);

}  // namespace mha
