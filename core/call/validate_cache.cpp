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

// A part that is exported: as floats, or codes of the cache as they are, with their scales and zeros.
mha_status check_exported_part(const char* name, const PartLayout& part, const mha_mut_view& v, const Dimensions& n,
                               const ScaleResults& scales, PartRowsOut* rows, mha_error* error) {
  Tensor t = {};
  MHA_TRY(check_stored_result(name, v, n, Check::kAll, &t, error));
  const bool codes = is_code(t.element);
  if (codes && t.element != part.element) {
    return fail(error, MHA_ERR_UNSUPPORTED, "%s.dtype is %s: the cache keeps %s, which alone it exports beside floats",
                name, dtype_name(enum_value(v.dtype)), dtype_name(static_cast<int>(part.element)));
  }
  ScaleResults wanted = scales;
  wanted.rows = n.t * n.h, wanted.element = part.codes.scales.element;
  if (codes) wanted.scale_bytes = part.scale_bytes, wanted.zero_bytes = part.zero_bytes;
  MHA_TRY(check_scale_results(
      wanted, codes ? "the cache has the same for all tokens" : "no codes are exported, which alone have them",
      Check::kAll, error));
  rows->data = t.data, rows->stride_t = t.stride_t, rows->stride_h = t.stride_h, rows->element = t.element;
  rows->scales = static_cast<char*>(scales.scales), rows->zeros = static_cast<char*>(scales.zeros);
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

mha_status validate_append_sizes(const mha_append_args& a, const mha_cache& cache, bool* changes_keys,
                                 mha_error* error) {
  mha_rope rope;
  MHA_TRY(check_reserved("args", a.reserved, error));
  MHA_TRY(check_sizes({{"batch", a.batch, 0}, {"length", a.length, 0}}, error));
  MHA_TRY(validate_rope(a.rope, cache.config.head_dim, &rope, error));
  *changes_keys = a.key_norm != nullptr || rope.dims > 0;
  return a.key_norm != nullptr ? check_norm("key_norm", *a.key_norm, error) : MHA_OK;
}

mha_status validate_export(const mha_cache& cache, const mha_export_args& a, PartRowsOut* rows, mha_error* error) {
  MHA_TRY(check_reserved("args", a.reserved, error));
  MHA_TRY(check_exported(cache, a, error));
  const mha_cache_config& c = cache.config;
  const struct {
    const char* name;
    const mha_mut_view& view;
    int64_t width;
    ScaleResults scales;
  } parts[kCacheParts] = {
      {"key", a.key, c.head_dim, {"key_scales", "key_zeros", a.key_scales, a.key_zeros, 0, 0, 0, Element::kF32}},
      {"value",
       a.value,
       c.value_head_dim,
       {"value_scales", "value_zeros", a.value_scales, a.value_zeros, 0, 0, 0, Element::kF32}}};
  NamedExtent results[3 * kCacheParts] = {};
  for (int n = 0; n < kCacheParts; ++n) {
    const auto& part = parts[n];
    const PartLayout& stored = cache.parts[n];
    const Dimensions size = {1, a.count, c.num_kv_heads, part.width};
    PartRowsOut* out = &rows[n];
    MHA_TRY(check_exported_part(part.name, stored, part.view, size, part.scales, out, error));
    ConstTensor t = {};
    t.data = out->data, t.stride_t = out->stride_t, t.stride_h = out->stride_h, t.element = out->element;
    const int64_t count = a.count * c.num_kv_heads;
    results[3 * n] = {part.name, extent_of(t, size)};
    results[3 * n + 1] = {part.scales.scales_name, extent_of_bytes(out->scales, count * stored.scale_bytes)};
    results[3 * n + 2] = {part.scales.zeros_name, extent_of_bytes(out->zeros, count * stored.zero_bytes)};
  }
  return check_overlaps(results, 3 * kCacheParts, nullptr, 0, error);
}

}  // namespace mha
