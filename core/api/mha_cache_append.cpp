// SPDX-License-Identifier: Apache-2.0
// Caches: appending, as a call of its own.
#include "core/base/memory.h"
#include "core/call/cache_calls.h"
#include "core/call/validate.h"
#include "core/plan/plan.h"
#include "core/run/append_phase.h"
#include "simd/float_mode.h"

namespace mha {
namespace {

// Floats for the rows of a token that are changed before they are rounded to codes, of each thread; 0: none are.
mha_status floats_of_token(const mha_context& context, const mha_cache& cache, bool changes_keys, int64_t* floats,
                           mha_error* error) {
  *floats = 0;
  int64_t width = 0;
  for (const PartLayout& part : cache.parts) {
    const bool changes = part.codes.hadamard || (changes_keys && &part == &cache.parts[kKeys]);
    if (changes && is_code(part.element)) width = most(width, part.width);
  }
  if (width == 0) return MHA_OK;
  const int64_t heads = cache.config.num_kv_heads;
  const Size row = Size(heads) * Size(width) + Size(kPanel - 1);
  if (!(row * Size(context.num_threads) * Size(2 * kFloatBytes)).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "num_kv_heads %lld of %lld elements: the workspace exceeds 2^63 bytes",
                static_cast<long long>(heads), static_cast<long long>(width));
  }
  *floats = row.value() / kPanel * kPanel;
  return MHA_OK;
}

size_t needed_bytes(const mha_context& context, int64_t floats) {
  return floats > 0 ? workspace_bytes(context.num_threads * floats * kFloatBytes) : 0;
}

}  // namespace
}  // namespace mha

extern "C" mha_status mha_cache_append(const mha_context* context, mha_cache* cache, const mha_append_args* args,
                                       mha_error* error) {
  using namespace mha;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (cache == nullptr) return fail(error, MHA_ERR_NULL, "cache is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  mha_context lent;
  MHA_TRY(lend(*context, args->resources, &lent, error));
  AppendJob job = {};
  AppendProblem& p = job.problem;
  MHA_TRY(validate_append(*args, cache, &p, error));
  if (p.tokens == 0) return MHA_OK;
  int64_t floats = 0;
  MHA_TRY(floats_of_token(lent, *cache, p.changes_keys, &floats, error));
  Workspace workspace(lent, args->resources);
  if (floats > 0) MHA_TRY(workspace.reserve(needed_bytes(lent, floats), error));
  job.floats = reinterpret_cast<float*>(workspace.data()), job.floats_step = floats;
  MHA_TRY(cache_reserve(cache, p.batch, error));
  const PartLayout &keys = cache->parts[kKeys], &values = cache->parts[kValues];
  const int64_t token = keys.width * bytes_of(p.key.element) + keys.row_bytes +
                        values.width * bytes_of(p.value.element) + values.row_bytes;
  const double bytes =
      static_cast<double>(p.tokens) * static_cast<double>(cache->config.num_kv_heads) * static_cast<double>(token);
  const int64_t threads = useful_threads(lent.num_threads, work_of(0, bytes));
  job.table = context->table, job.item_tokens = plan_append(p.tokens, threads);
  const bool copies = !p.changes_rows() && p.key.element == keys.element && p.value.element == values.element;
  if (threads <= 1 && copies) {
    run_append(&job, 0, 0);  // plain copies need no floating-point mode, which takes long to set for one token
  } else {
    const Phase phase = append_phase(job);
    const FloatMode mode;
    run_phases(lent, threads, &phase, 1);
  }
  cache_commit(cache, p.batch);
  return MHA_OK;
}

extern "C" mha_status mha_cache_append_workspace_bytes(const mha_context* context, const mha_cache* cache,
                                                       const mha_append_args* args, size_t* bytes, mha_error* error) {
  using namespace mha;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (cache == nullptr) return fail(error, MHA_ERR_NULL, "cache is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  if (bytes == nullptr) return fail(error, MHA_ERR_NULL, "bytes is NULL");
  mha_context lent;
  MHA_TRY(lend(*context, args->resources, &lent, error));
  bool changes_keys = false;
  MHA_TRY(validate_append_sizes(*args, *cache, &changes_keys, error));
  int64_t floats = 0;
  MHA_TRY(floats_of_token(lent, *cache, changes_keys, &floats, error));
  *bytes = needed_bytes(lent, floats);
  return MHA_OK;
}
