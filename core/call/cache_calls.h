// SPDX-License-Identifier: Apache-2.0
// Calls that put tokens into a cache or copy them out of it, after validation.
#pragma once

#include "core/cache/cache.h"
#include "core/call/problem.h"

namespace mha {

// Tokens to be stored: key [batch, length, Hkv, D] and value, or packed (stride_b unused).
struct AppendProblem {
  const mha_cache* cache;
  CacheBatch batch;
  ConstTensor key, value;
  int64_t tokens;  // of all sequences

  bool changes_keys;  // keys are normed and rotated as in core/run/norm_rope.h
  mha_rope rope;
  float epsilon;
  const float* weight;
  const int64_t* positions;  // [batch, length], or packed; null: the tokens' numbers
  bool hadamard_done;        // rows that are stored rotated (mha_storage) come so

  // Whether rows of a part are rotated as mha_storage says before they are stored.
  bool hadamard(CachePart part) const { return !hadamard_done && cache->parts[part].codes.hadamard; }
  bool changes_rows() const { return changes_keys || hadamard(kKeys) || hadamard(kValues); }
};

mha_status validate_append(const mha_append_args& args, mha_cache* cache, AppendProblem* problem, mha_error* error);
// Checks only what a size query looks at; *changes_keys as in AppendProblem.
mha_status validate_append_sizes(const mha_append_args& args, const mha_cache& cache, bool* changes_keys,
                                 mha_error* error);

// The cache must keep the tokens, and the destination must have room for them. rows [kCacheParts]: the destination.
mha_status validate_export(const mha_cache& cache, const mha_export_args& args, PartRowsOut* rows, mha_error* error);

}  // namespace mha
