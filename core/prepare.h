// SPDX-License-Identifier: Apache-2.0
// The stage before attention: RMS norm and rotation of queries and keys, token by token.
#pragma once

#include "core/parallel.h"
#include "core/rope.h"

namespace mha {

// One tensor of tokens. Items of a batch have `length` tokens each, or with `offsets` lie packed one after the other
// (stride_b unused). What positions a token has, and where its row goes, depends on the token alone.
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
  int64_t block_tokens;            // of a work item, see plan_prepare

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

}  // namespace mha
