// SPDX-License-Identifier: Apache-2.0
// The arguments of calls that put tokens into a cache or copy them out of it.
#include "core/call/cache_calls.h"
#include "core/call/checks.h"
#include "core/call/rope.h"

namespace mha {
namespace {

using ll = long long;

// The cache must keep the tokens to be exported.
mha_status check_exported(const mha_cache& cache, const mha_export_args& a, mha_error* error) {
  MHA_TRY(check_sequence(cache, "sequence", a.sequence, error));
  MHA_TRY(check_sizes({{"begin", a.begin, 0}, {"count", a.count, 0}}, error));
  if (a.key_scales != nullptr || a.key_zeros != nullptr || a.value_scales != nullptr || a.value_zeros != nullptr) {
    return fail(
        error, MHA_ERR_ARGUMENT, "%s is given, but the cache keeps no codes, which alone have them",
        a.key_scales != nullptr || a.key_zeros != nullptr ? "key_scales or key_zeros" : "value_scales or value_zeros");
  }
  const CacheSequence& s = cache.sequences[a.sequence];
  if (a.begin > s.length || a.count > s.length - a.begin) {
    return fail(error, MHA_ERR_ARGUMENT, "begin %lld and count %lld: sequence %lld has %lld tokens", ll{a.begin},
                ll{a.count}, ll{a.sequence}, ll{s.length});
  }
  if (a.count > 0 && a.begin < s.first_kept && a.begin + a.count > leading_kept(cache, s)) {
    return fail(error, MHA_ERR_ARGUMENT,
                "begin %lld and count %lld: sequence %lld keeps its first %lld tokens and those from %lld on",
                ll{a.begin}, ll{a.count}, ll{a.sequence}, ll{leading_kept(cache, s)}, ll{s.first_kept});
  }
  return MHA_OK;
}

// Norm and rotation of appended keys; the sequences must have been checked.
mha_status check_key_norm_rope(const mha_append_args& a, AppendProblem* problem, mha_error* error) {
  MHA_TRY(validate_rope(a.rope, problem->cache->config.head_dim, &problem->rope, error));
  if (a.key_norm != nullptr) {
    MHA_TRY(check_norm("key_norm", *a.key_norm, error));
    problem->epsilon = a.key_norm->epsilon, problem->weight = a.key_norm->weight;
  }
  if (a.rope == nullptr && a.positions != nullptr) {
    return fail(error, MHA_ERR_ARGUMENT, "positions is given, but there is no rope, which alone looks at it");
  }
  problem->positions = a.positions;
  problem->changes_keys = a.key_norm != nullptr || problem->rope.dims > 0;
  for (int64_t b = 0, token = 0; b < a.batch && problem->rope.dims > 0; ++b) {
    const int64_t count = problem->batch.count(b), first = problem->cache->sequences[problem->batch.sequence(b)].length;
    for (int64_t t = 0; t < count && a.positions != nullptr; ++t, ++token) {
      MHA_TRY(check_position(problem->rope, "positions", token, a.positions[token], error));
    }
    if (count > 0 && a.positions == nullptr) {
      MHA_TRY(check_position(problem->rope, "the last token's number in its sequence", -1, first + (count - 1), error));
    }
  }
  return MHA_OK;
}

}  // namespace

mha_status validate_append(const mha_append_args& a, mha_cache* cache, AppendProblem* problem, mha_error* error) {
  MHA_TRY(check_reserved("args", a.reserved, error));
  problem->cache = cache;
  problem->batch = {};
  problem->batch.batch = a.batch, problem->batch.sequences = a.sequences;
  problem->batch.length = a.length, problem->batch.offsets = a.offsets;
  MHA_TRY(check_batch(cache, problem->batch, error));
  const mha_cache_config& c = cache->config;
  MHA_TRY(check_key_norm_rope(a, problem, error));
  const int64_t items = a.offsets != nullptr ? 1 : a.batch;
  const Dimensions key = {items, a.length, c.num_kv_heads, c.head_dim};
  const Dimensions value = {items, a.length, c.num_kv_heads, c.value_head_dim};
  MHA_TRY(check_input("key", a.key, key, Check::kAll, &problem->key, error));
  MHA_TRY(check_input("value", a.value, value, Check::kAll, &problem->value, error));
  const Size tokens = Size(items) * Size(a.length);
  if (!tokens.ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "batch %lld x length %lld exceeds 2^63", ll{items}, ll{a.length});
  }
  problem->tokens = tokens.value();
  return MHA_OK;
}

mha_status validate_append_sizes(const mha_append_args& a, const mha_cache& cache, mha_error* error) {
  mha_rope rope;
  MHA_TRY(check_reserved("args", a.reserved, error));
  MHA_TRY(check_sizes({{"batch", a.batch, 0}, {"length", a.length, 0}}, error));
  MHA_TRY(validate_rope(a.rope, cache.config.head_dim, &rope, error));
  return a.key_norm != nullptr ? check_norm("key_norm", *a.key_norm, error) : MHA_OK;
}

mha_status validate_export(const mha_cache& cache, const mha_export_args& a, PartRowsOut* rows, mha_error* error) {
  MHA_TRY(check_reserved("args", a.reserved, error));
  MHA_TRY(check_exported(cache, a, error));
  const mha_cache_config& c = cache.config;
  Tensor k = {}, v = {};
  const Dimensions key = {1, a.count, c.num_kv_heads, c.head_dim},
                   value = {1, a.count, c.num_kv_heads, c.value_head_dim};
  MHA_TRY(check_result("key", a.key, key, Order::kBthd, Check::kAll, &k, error));
  MHA_TRY(check_result("value", a.value, value, Order::kBthd, Check::kAll, &v, error));
  const NamedExtent results[] = {{"key", extent_of(k, key)}, {"value", extent_of(v, value)}};
  MHA_TRY(check_overlaps(results, 2, nullptr, 0, error));
  rows[kKeys] = {k.data, k.stride_t, k.stride_h, k.element};
  rows[kValues] = {v.data, v.stride_t, v.stride_h, v.element};
  return MHA_OK;
}

}  // namespace mha
