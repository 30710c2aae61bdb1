// SPDX-License-Identifier: Apache-2.0
// The layer's forward: the public calls.
#include "core/base/memory.h"
#include "core/call/checks.h"
#include "core/plan/explain.h"
#include "core/plan/forward.h"
#include "core/run/layer_forward.h"
#include "core/run/parallel.h"
#include "simd/float_mode.h"

namespace mha {
namespace {

mha_status validate_and_plan(const mha_context* context, const mha_layer* layer, const mha_layer_args* args,
                             Check check, mha_context* lent, Forward* f, mha_error* error) {
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (layer == nullptr) return fail(error, MHA_ERR_NULL, "layer is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  MHA_TRY(lend(*context, args->resources, lent, error));
  f->layer = layer;
  f->attention.problem.tail = tail_keys(*layer);
  MHA_TRY(validate_forward(layer->config, args, check, &f->views, &f->attention.problem, error));
  if (f->attention.problem.appends) {
    f->cache = args->cache;
    if (check == Check::kAll) MHA_TRY(check_batch(f->cache, growth_of(*f), error));  // changes marks in the cache
  }
  return f->attention.problem.nothing_to_do() ? MHA_OK : plan_forward(*lent, PlanFor::kCall, f, error);
}

// Plans the greatest call that a bound is for: items and positions are left out, and a cache counts as full.
mha_status validate_and_bound(const mha_context* context, const mha_layer* layer, const mha_layer_args* args,
                              mha_context* lent, Forward* f, mha_error* error) {
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (layer == nullptr) return fail(error, MHA_ERR_NULL, "layer is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  MHA_TRY(lend(*context, args->resources, lent, error));
  const Groups groups = groups_of(*args);
  BoundSizes sizes;
  MHA_TRY(bound_sizes(groups, groups.keys_are_queries ? args->query_len : args->key_len, &sizes, error));
  mha_layer_args greatest = *args;
  greatest.items = nullptr, greatest.positions = nullptr, greatest.cache = nullptr,
  greatest.cache_use = MHA_CACHE_APPEND;
  mha_results results;
  drop_strides(&greatest, &results);
  if (args->cache != nullptr && !groups.keys_are_queries) greatest.key.data = greatest.value.data = args;  // not read
  f->layer = layer;
  AttentionProblem& p = f->attention.problem;
  p.tail = tail_keys(*layer);
  MHA_TRY(validate_forward(layer->config, &greatest, Check::kSizesOnly, &f->views, &p, error, args->cache));
  p.cache = args->cache, p.appends = args->cache != nullptr && groups.keys_are_queries;
  set_bound(sizes, &p);
  return p.nothing_to_do() ? MHA_OK : plan_forward(*lent, PlanFor::kBound, f, error);
}

}  // namespace
}  // namespace mha

extern "C" mha_status mha_layer_forward(const mha_context* context, const mha_layer* layer, const mha_layer_args* args,
                                        mha_error* error) {
  using namespace mha;
  const FloatMode mode;  // from here on: the default scale is rounded too
  mha_context lent;
  Forward f;
  MHA_TRY(validate_and_plan(context, layer, args, Check::kAll, &lent, &f, error));
  if (f.attention.problem.nothing_to_do()) return MHA_OK;
  Workspace workspace(lent, args->resources);
  MHA_TRY(workspace.reserve(workspace_bytes(f.plan.bytes), error));
  return run_forward(lent, f, workspace.data(), error);
}

extern "C" mha_status mha_layer_workspace_bytes(const mha_context* context, const mha_layer* layer,
                                                const mha_layer_args* args, size_t* bytes, mha_error* error) {
  using namespace mha;
  if (bytes == nullptr) return fail(error, MHA_ERR_NULL, "bytes is NULL");
  const FloatMode mode;
  mha_context lent;
  Forward f;
  MHA_TRY(validate_and_plan(context, layer, args, Check::kSizesOnly, &lent, &f, error));
  *bytes = f.attention.problem.nothing_to_do() ? 0 : workspace_bytes(f.plan.bytes);
  return MHA_OK;
}

extern "C" mha_status mha_layer_workspace_bound(const mha_context* context, const mha_layer* layer,
                                                const mha_layer_args* args, size_t* bytes, mha_error* error) {
  using namespace mha;
  if (bytes == nullptr) return fail(error, MHA_ERR_NULL, "bytes is NULL");
  const FloatMode mode;
  mha_context lent;
  Forward f;
  MHA_TRY(validate_and_bound(context, layer, args, &lent, &f, error));
  *bytes = f.attention.problem.nothing_to_do() ? 0 : workspace_bytes(f.plan.bytes);
  return MHA_OK;
}

extern "C" mha_status mha_layer_explain(const mha_context* context, const mha_layer* layer, const mha_layer_args* args,
                                        char* text, size_t capacity, size_t* needed, mha_error* error) {
  using namespace mha;
  const FloatMode mode;
  mha_context lent;
  Forward f;
  MHA_TRY(validate_and_plan(context, layer, args, Check::kSizesOnly, &lent, &f, error));
  if (text == nullptr && capacity > 0) return fail(error, MHA_ERR_NULL, "text is NULL, but capacity is %zu", capacity);
  Text out(text, capacity);
  explain_context(lent, lost_threads(lent), most(f.plan.threads, 1), work_of(f), &out);
  if (f.attention.problem.nothing_to_do()) {
    out.line("work: none, a size is 0");
  } else {
    explain_projections(f, &out);
    explain_attention(f.attention.problem, f.attention.plan, &out);
    out.line("workspace: %zu bytes: %lld for q, k, v and the heads' outputs, the rest for attention",
             workspace_bytes(f.plan.bytes), static_cast<long long>(f.plan.attention_offset));
    explain_attention_workspace("attention workspace", static_cast<size_t>(f.attention.plan.bytes), f.attention.plan,
                                &out);
  }
  out.finish(needed);
  return MHA_OK;
}
