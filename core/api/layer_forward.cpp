// SPDX-License-Identifier: Apache-2.0
// The layer's forward: query, key and value projections side by side, keys and values appended to a cache where there
// is one, attention, output projection, in one parallel region.
#include <cstring>

#include "core/cache/cache.h"
#include "core/call/checks.h"
#include "core/call/items.h"
#include "core/call/layer.h"
#include "core/plan/explain.h"
#include "core/run/attention.h"
#include "core/run/norm_rope.h"
#include "core/run/project.h"
#include "simd/float_mode.h"

namespace mha {
namespace {

struct ForwardPlan {
  int64_t threads;
  // Workspace, in bytes from its start: projected q, k, v, the heads' outputs side by side, and attention's own.
  int64_t projected_offset[kProjections];
  int64_t attention_offset;
  int64_t bytes;
};

struct Forward {
  const mha_layer* layer;
  ForwardViews views;
  AttentionJob attention;
  mha_cache* cache;  // that grows, or null
  ForwardPlan plan;

  // Keys and values are projected unless they are in a cache already.
  bool projects(int projection) const {
    const AttentionProblem& p = attention.problem;
    return projection == kQuery || projection == kOutput || p.cache == nullptr || p.appends;
  }
};

// The tokens that a projection reads or writes: [batch, rows]. With a cache keys are projected from the new tokens,
// which the queries are.
struct Tokens {
  int64_t batch, rows;
};
Tokens tokens_of(const AttentionProblem& p, int projection) {
  const bool keys = (projection == kKey || projection == kValue) && p.cache == nullptr;
  const bool packed = (keys ? p.key_offsets : p.query_offsets) != nullptr;
  return {packed ? 1 : p.batch, keys ? p.key_len : p.query_len};
}

// A projection's sizes alone.
LinearProblem projection_sizes(const Forward& f, int projection) {
  const ProjectionSize size = projection_size(f.layer->config, projection);
  const Tokens tokens = tokens_of(f.attention.problem, projection);
  LinearProblem p = {};
  if (!f.projects(projection)) return p;
  p.in_features = size.in_features, p.out_features = size.out_features;
  p.batch = tokens.batch, p.rows = tokens.rows;
  if (projection == kKey || projection == kValue) p.rows -= f.attention.problem.tail;
  return p;
}

LinearProblem projection_problem(const Forward& f, int projection, const ConstTensor& input, const Tensor& output) {
  LinearProblem p = projection_sizes(f, projection);
  p.input = input.data, p.input_stride = input.stride_t, p.input_stride_b = input.stride_b;
  p.output = output.data, p.output_stride = output.stride_t, p.output_stride_b = output.stride_b;
  p.panels = f.layer->panels[projection], p.bias = f.layer->bias[projection];
  const bool one_block = p.batch <= 1 || p.rows == 0 ||
                         (p.input_stride_b == p.rows * p.input_stride && p.output_stride_b == p.rows * p.output_stride);
  if (one_block || p.rows == 1) {
    if (p.batch > 1 && p.rows == 1) p.input_stride = p.input_stride_b, p.output_stride = p.output_stride_b;
    p.rows *= p.batch;
    p.batch = 1;
  }
  return p;
}

// What a projection writes, or the output projection reads: [B, T, heads * dim] dense in the workspace.
Tensor projected(const Forward& f, int projection, char* workspace) {
  const mha_layer_config& c = f.layer->config;
  const int64_t width =
      projection == kOutput ? c.num_heads * c.value_head_dim : projection_size(c, projection).out_features;
  const int64_t head_dim = projection == kQuery || projection == kKey ? c.head_dim : c.value_head_dim;
  float* data =
      workspace != nullptr ? reinterpret_cast<float*>(workspace + f.plan.projected_offset[projection]) : nullptr;
  return {data, tokens_of(f.attention.problem, projection).rows * width, width, head_dim};
}

ConstTensor as_const(const Tensor& t) { return {t.data, t.stride_b, t.stride_t, t.stride_h}; }

// What the call costs, in multiply-adds: the stages' work, each bound by computing or by reading.
double work(const Forward& f) {
  double total = work_of_call(f.attention.problem);
  for (int i = 0; i < kProjections; ++i) total += projection_sizes(f, i).work();
  return total;
}

// Whether a plan is for a call, or for all calls of at most its sizes.
enum class PlanFor { kCall, kBound };

mha_status plan_forward(const mha_context& context, PlanFor what, Forward* f, mha_error* error) {
  const mha_layer_config& c = f->layer->config;
  ForwardPlan& plan = f->plan;
  // The planner looks at strides.
  f->attention.problem.query = as_const(projected(*f, kQuery, nullptr));
  f->attention.problem.key = as_const(projected(*f, kKey, nullptr));
  f->attention.problem.value = as_const(projected(*f, kValue, nullptr));
  if (what == PlanFor::kBound) {
    plan.threads = context.num_threads;
    MHA_TRY(bound_attention(*context.table, plan.threads, f->attention.problem, &f->attention.plan, error));
  } else {
    plan.threads = context.num_threads > 1 ? useful_threads(context.num_threads, work(*f)) : 1;
    MHA_TRY(plan_attention(*context.table, plan.threads, f->attention.problem, false, &f->attention.plan, error));
  }
  Layout layout;
  for (int i = 0; i < kProjections; ++i) {
    const int64_t width = i == kOutput ? c.num_heads * c.value_head_dim : projection_size(c, i).out_features;
    const Tokens tokens = tokens_of(f->attention.problem, i);
    const Size floats = f->projects(i) ? Size(tokens.batch) * Size(tokens.rows) * Size(width) : Size(0);
    plan.projected_offset[i] = layout.append(floats * Size(sizeof(float)));
  }
  plan.attention_offset = layout.append(Size(f->attention.plan.bytes));
  if (!(layout.bytes() + Size(64)).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "batch %lld, query_len %lld, key_len %lld: the workspace exceeds 2^63 bytes",
                static_cast<long long>(f->attention.problem.batch),
                static_cast<long long>(f->attention.problem.query_len),
                static_cast<long long>(f->attention.problem.key_len));
  }
  plan.bytes = layout.bytes().value();
  return MHA_OK;
}

// The sequences that grow, where there is a cache.
CacheBatch growth(const Forward& f) {
  const AttentionProblem& p = f.attention.problem;
  return {p.batch, p.sequences, p.query_len, p.query_offsets, nullptr};
}

mha_status prepare(const mha_context* context, const mha_layer* layer, const mha_layer_args* args, Check check,
                   mha_context* lent, Forward* f, mha_error* error) {
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (layer == nullptr) return fail(error, MHA_ERR_NULL, "layer is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  MHA_TRY(lend(*context, args->resources, lent, error));
  f->layer = layer;
  f->attention.problem.tail = tail_keys(*layer);
  MHA_TRY(validate_forward(layer->config, args, check, &f->views, &f->attention.problem, error));
  if (f->attention.problem.appends) {
    f->cache = args->cache;
    if (check == Check::kAll) MHA_TRY(check_batch(f->cache, growth(*f), error));  // which marks sequences
  }
  return f->attention.problem.nothing_to_do() ? MHA_OK : plan_forward(*lent, PlanFor::kCall, f, error);
}

// The greatest call that a bound is for: its items and positions are not looked at, and keys of a cache are as many as
// there can be.
mha_status prepare_bound(const mha_context* context, const mha_layer* layer, const mha_layer_args* args,
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
  if (args->cache != nullptr && !groups.keys_are_queries) greatest.key.data = greatest.value.data = args;  // not read
  f->layer = layer;
  AttentionProblem& p = f->attention.problem;
  p.tail = tail_keys(*layer);
  MHA_TRY(validate_forward(layer->config, &greatest, Check::kSizesOnly, &f->views, &p, error));
  p.cache = args->cache, p.appends = args->cache != nullptr && groups.keys_are_queries;
  set_bound(sizes, &p);
  return p.nothing_to_do() ? MHA_OK : plan_forward(*lent, PlanFor::kBound, f, error);
}

// The keys and values that the layer adds to those of each item: bias_key and bias_value, then zeros.
void write_tail(const Forward& f, const Tensor& tokens, const float* bias, int64_t width) {
  const AttentionProblem& p = f.attention.problem;
  for (int64_t b = 0; b < p.batch && p.tail > 0; ++b) {
    float* row = tokens.data + b * tokens.stride_b + (p.key_len - p.tail) * tokens.stride_t;
    const size_t bytes = static_cast<size_t>(width) * sizeof(float);
    if (bias != nullptr) {
      memcpy(row, bias, bytes);
      row += tokens.stride_t;
    }
    if (f.layer->config.add_zero_attn != 0) memset(row, 0, bytes);
  }
}

mha_status run_forward(const mha_context& context, Forward& f, char* workspace, mha_error* error) {
  const Tensor heads_out = projected(f, kOutput, workspace);
  LinearPhase in;  // here and below, what nobody reads is not cleared: with the copies saved 0.1 us of notebook_f32
  in.count = 0;
  const ConstTensor* inputs[3] = {&f.views.query, &f.views.key, &f.views.value};
  ConstTensor* outputs[3] = {&f.attention.problem.query, &f.attention.problem.key, &f.attention.problem.value};
  for (int i = 0; i < 3; ++i) {
    if (!f.projects(i)) continue;
    const Tensor out = projected(f, i, workspace);
    *outputs[i] = as_const(out);
    in.jobs[in.count++] = make_linear_job(*context.table, f.plan.threads, projection_problem(f, i, *inputs[i], out));
  }
  f.attention.problem.output = heads_out;
  const mha_layer_config& c = f.layer->config;
  write_tail(f, projected(f, kKey, workspace), f.layer->bias_key, c.num_kv_heads * c.head_dim);
  write_tail(f, projected(f, kValue, workspace), f.layer->bias_value, c.num_kv_heads * c.value_head_dim);
  PreparePhase prepare;
  prepare.count = 0;
  if (f.attention.problem.preparation.wanted()) {
    int64_t* first_positions =
        reinterpret_cast<int64_t*>(workspace + f.plan.attention_offset + f.attention.plan.positions_offset);
    prepare.jobs[prepare.count++] = query_job(*context.table, f.attention.problem, f.plan.threads,
                                              projected(f, kQuery, workspace), first_positions);
    const Preparation& r = f.attention.problem.preparation;
    if (f.projects(kKey) && (r.rotate || r.key_epsilon > 0)) {
      prepare.jobs[prepare.count++] =
          key_job(*context.table, f.attention.problem, f.plan.threads, projected(f, kKey, workspace),
                  first_positions + f.attention.problem.batch);
    }
  }
  f.attention.table = context.table, f.attention.workspace = workspace + f.plan.attention_offset;
  LinearPhase out;
  out.count = 0;
  out.jobs[out.count++] = make_linear_job(*context.table, f.plan.threads,
                                          projection_problem(f, kOutput, as_const(heads_out), f.views.output));
  Phase phases[kMaxPhases];
  int count = 0;
  phases[count++] = linear_phase(in);
  if (prepare.count > 0) phases[count++] = prepare_phase(prepare);
  AppendJob append = {};
  if (f.cache != nullptr) {
    append.table = context.table, append.cache = f.cache, append.batch = growth(f);
    append.key = f.attention.problem.key, append.value = f.attention.problem.value,
    append.tokens = f.attention.problem.total_queries();
    append.item_tokens = plan_append(append.tokens, f.plan.threads);
    phases[count++] = append_phase(append);
  }
  count += attention_phases(f.attention, phases + count);
  phases[count++] = linear_phase(out);
  if (f.cache != nullptr) MHA_TRY(cache_reserve(f.cache, append.batch, error));
  run_phases(context, f.plan.threads, phases, count);
  if (f.cache != nullptr) cache_commit(f.cache, append.batch);
  return MHA_OK;
}

void explain_projections(const mha_context& context, const Forward& f, Text* out) {
  static const char* const kNames[kProjections] = {"query projection", "key projection", "value projection",
                                                   "output projection"};
  explain_linear_kernel(*context.table, out);
  for (int i = 0; i < kProjections; ++i) {
    if (!f.projects(i)) {
      out->line("%s: none, the cache is read as it is", kNames[i]);
      continue;
    }
    const ConstTensor none = {};
    const LinearProblem p = projection_problem(f, i, none, projected(f, i, nullptr));
    explain_linear(kNames[i], p, plan_linear(*context.table, f.plan.threads, p), f.plan.threads, out);
  }
}

}  // namespace
}  // namespace mha

extern "C" mha_status mha_layer_forward(const mha_context* context, const mha_layer* layer, const mha_layer_args* args,
                                        mha_error* error) {
  using namespace mha;
  const FloatMode mode;  // from here on: the default scale is rounded too
  mha_context lent;
  Forward f = {};
  MHA_TRY(prepare(context, layer, args, Check::kAll, &lent, &f, error));
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
  Forward f = {};
  MHA_TRY(prepare(context, layer, args, Check::kSizesOnly, &lent, &f, error));
  *bytes = f.attention.problem.nothing_to_do() ? 0 : workspace_bytes(f.plan.bytes);
  return MHA_OK;
}

extern "C" mha_status mha_layer_workspace_bound(const mha_context* context, const mha_layer* layer,
                                                const mha_layer_args* args, size_t* bytes, mha_error* error) {
  using namespace mha;
  if (bytes == nullptr) return fail(error, MHA_ERR_NULL, "bytes is NULL");
  const FloatMode mode;
  mha_context lent;
  Forward f = {};
  MHA_TRY(prepare_bound(context, layer, args, &lent, &f, error));
  *bytes = f.attention.problem.nothing_to_do() ? 0 : workspace_bytes(f.plan.bytes);
  return MHA_OK;
}

extern "C" mha_status mha_layer_explain(const mha_context* context, const mha_layer* layer, const mha_layer_args* args,
                                        char* text, size_t capacity, size_t* needed, mha_error* error) {
  using namespace mha;
  const FloatMode mode;
  mha_context lent;
  Forward f = {};
  MHA_TRY(prepare(context, layer, args, Check::kSizesOnly, &lent, &f, error));
  if (text == nullptr && capacity > 0) return fail(error, MHA_ERR_NULL, "text is NULL, but capacity is %zu", capacity);
  Text out(text, capacity);
  explain_context(lent, most(f.plan.threads, 1), work(f), &out);
  if (f.attention.problem.nothing_to_do()) {
    out.line("work: none, a size is 0");
  } else {
    explain_projections(lent, f, &out);
    explain_attention(f.attention.problem, f.attention.plan, *context->table, &out);
    out.line("workspace: %zu bytes: %lld for q, k, v and the heads' outputs, the rest for attention",
             workspace_bytes(f.plan.bytes), static_cast<long long>(f.plan.attention_offset));
    explain_attention_workspace("attention workspace", static_cast<size_t>(f.attention.plan.bytes), f.attention.plan,
                                &out);
  }
  out.finish(needed);
  return MHA_OK;
}
