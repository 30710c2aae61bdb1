// SPDX-License-Identifier: Apache-2.0
// The node is one of ggml_custom_4d: ggml calls compute() on all threads of the backend, thread 0 calls mha_attention.
#include "mha_ggml.h"

#include <ggml.h>
#include <mha/mha.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <new>
#include <vector>

#include "team.h"

using mha_ggml_detail::Team;

struct mha_ggml {
  Team team;
  mha_context* context = nullptr;
  std::vector<char> workspace;  // grows to what the largest node needs
  mha_error error = {};
};

namespace {

enum Source { kQuery, kKey, kValue, kMask, kSinks, kSources };

// The first op_params of a node of ggml_flash_attn_ext, and the last ones of ours: the first are ggml_custom_4d's.
struct Params {
  float scale, max_bias, softcap;
};
constexpr size_t kCustomBytes = 3 * sizeof(void*);  // function, number of tasks, user data
constexpr size_t kParamsAt = GGML_MAX_OP_PARAMS - sizeof(Params);
static_assert(kCustomBytes <= kParamsAt, "op_params of a custom node have no room");

// The arguments of a call, with the groups that they point to.
struct Call {
  mha_attention_args args = {};
  mha_masks masks = {};
  mha_score_mods score_mods = {};
  mha_resources resources = {};
  std::vector<float> factors;
};

bool refuse(mha_error* error, const char* name, const char* what, size_t number) {
  std::snprintf(error->message, sizeof error->message, "%s: %s %zu", name, what, number);
  return false;
}

bool dtype_of(ggml_type type, mha_dtype* dtype) {
  switch (type) {
    case GGML_TYPE_F32:
      return *dtype = MHA_F32, true;
    case GGML_TYPE_F16:
      return *dtype = MHA_F16, true;
    case GGML_TYPE_BF16:
      return *dtype = MHA_BF16, true;
    case GGML_TYPE_Q8_0:
      return *dtype = MHA_Q8_0, true;
    case GGML_TYPE_Q4_0:
      return *dtype = MHA_Q4_0, true;
    default:
      return false;
  }
}

// The tensor's data. A graph gets its memory after its nodes; until then any address serves for the size query, which
// reads no data.
const void* data_of(const ggml_tensor* tensor) { return tensor->data != nullptr ? tensor->data : tensor; }

// ggml's tensors are [D, T, heads, batch] with strides in bytes. Any permuted view with dense rows will do.
bool set_view(const char* name, const ggml_tensor* tensor, mha_view* view, mha_error* error) {
  if (!dtype_of(tensor->type, &view->dtype)) return refuse(error, name, ggml_type_name(tensor->type), tensor->type);
  const size_t size = ggml_type_size(tensor->type);
  if (tensor->nb[0] != size) return refuse(error, name, "rows must be dense, but nb[0] is", tensor->nb[0]);
  const std::array<int64_t*, 3> strides = {&view->stride_t, &view->stride_h, &view->stride_b};
  for (int n = 0; n < 3; ++n) {
    const size_t bytes = tensor->nb[n + 1];
    if (bytes % size != 0) return refuse(error, name, "strides must be whole elements, but one is", bytes);
    *strides[n] = static_cast<int64_t>(bytes / size) * ggml_blck_size(tensor->type);
  }
  view->data = data_of(tensor);
  return true;
}

// ggml repeats n masks as head % n (item % n). mha has one for all, or one for each.
bool set_mask(const ggml_tensor* mask, const mha_attention_args& args, mha_add_mask* add, mha_error* error) {
  const std::array<int64_t, 4> wanted = {args.key_len, args.query_len, args.num_heads, args.batch};
  for (int n = 0; n < 4; ++n) {
    if (n < 2 ? mask->ne[n] >= wanted[n] : mask->ne[n] == 1 || mask->ne[n] == wanted[n]) continue;
    constexpr std::array<const char*, 4> kNames = {"mask->ne[0]", "mask->ne[1]", "mask->ne[2]", "mask->ne[3]"};
    return refuse(error, kNames[n], n < 2 ? "is too small," : "must be 1 or that of q, but is", mask->ne[n]);
  }
  add->data = data_of(mask);
  add->dtype = MHA_F16;
  add->stride_q = static_cast<int64_t>(mask->nb[1] / mask->nb[0]);
  add->stride_h = mask->ne[2] == 1 ? 0 : static_cast<int64_t>(mask->nb[2] / mask->nb[0]);
  add->stride_b = mask->ne[3] == 1 ? 0 : static_cast<int64_t>(mask->nb[3] / mask->nb[0]);
  return true;
}

// The factors of a mask for max_bias > 0: ALiBi's slopes (arXiv 2108.12409), which ggml multiplies with a mask of any values.
std::vector<float> slopes_of(int64_t heads, float max_bias) {
  const auto power = static_cast<int64_t>(1) << static_cast<int>(std::floor(std::log2(static_cast<double>(heads))));
  const float first = std::pow(2.0F, -max_bias / static_cast<float>(power));
  const float second = std::pow(2.0F, -max_bias / 2 / static_cast<float>(power));
  std::vector<float> slopes;
  for (int64_t h = 0; h < heads; ++h) {
    const bool within = h < power;
    slopes.push_back(std::pow(within ? first : second, static_cast<float>(within ? h + 1 : 2 * (h - power) + 1)));
  }
  return slopes;
}

bool set_call(ggml_tensor* const* sources, const Params& params, Call* call, mha_error* error) {
  const ggml_tensor *query = sources[kQuery], *key = sources[kKey], *value = sources[kValue];
  mha_attention_args& args = call->args;
  if (!set_view("q", query, &args.query, error) || !set_view("k", key, &args.key, error)) return false;
  if (!set_view("v", value, &args.value, error)) return false;
  args.head_dim = query->ne[0], args.value_head_dim = value->ne[0];
  args.query_len = query->ne[1], args.key_len = key->ne[1];
  args.num_heads = query->ne[2], args.num_kv_heads = key->ne[2];
  args.batch = query->ne[3];
  args.scale = params.scale, args.scale_is_exact = 1;
  if (key->ne[1] != value->ne[1]) return refuse(error, "v", "must have the length of k, but ne[1] is", value->ne[1]);
  if (key->ne[2] != value->ne[2]) return refuse(error, "v", "must have the heads of k, but ne[2] is", value->ne[2]);
  if (sources[kMask] != nullptr) {
    if (!set_mask(sources[kMask], args, &call->masks.add_mask, error)) return false;
    if (params.max_bias > 0) {
      call->factors = slopes_of(args.num_heads, params.max_bias);
      call->masks.add_mask_factors = call->factors.data();
    }
    args.masks = &call->masks;
  }
  call->score_mods.softcap = params.softcap;
  if (sources[kSinks] != nullptr) call->score_mods.sink_logits = static_cast<const float*>(data_of(sources[kSinks]));
  args.score_mods = &call->score_mods;
  args.resources = &call->resources;
  return true;
}

mha_status out_of_memory(mha_error* error) {
  std::snprintf(error->message, sizeof error->message, "no memory for the workspace or the slopes");
  return MHA_ERR_OUT_OF_MEMORY;
}

// Of thread 0. The output is dense, [Dv, H, T, batch].
mha_status run(mha_ggml* mha, ggml_tensor* node, int threads) try {
  Params params;
  std::memcpy(&params, reinterpret_cast<const char*>(node->op_params) + kParamsAt, sizeof params);
  Call call;
  if (!set_call(node->src, params, &call, &mha->error)) return MHA_ERR_ARGUMENT;
  call.args.output.data = node->data;
  call.resources.max_threads = threads;
  size_t bytes = 0;
  const mha_status status = mha_attention_workspace_bytes(mha->context, &call.args, &bytes, &mha->error);
  if (status != MHA_OK) return status;
  if (mha->workspace.size() < bytes) mha->workspace.resize(bytes);
  if (bytes > 0) call.resources.workspace = mha->workspace.data(), call.resources.workspace_bytes = bytes;
  return mha_attention(mha->context, &call.args, &mha->error);
} catch (const std::bad_alloc&) {
  return out_of_memory(&mha->error);
}

void compute(ggml_tensor* node, int thread, int threads, void* user) {
  auto* mha = static_cast<mha_ggml*>(user);
  if (thread != 0) return mha->team.help(node);
  mha->team.open(node);
  const mha_status status = run(mha, node, threads);
  mha->team.close(threads - 1);
  if (status != MHA_OK) GGML_ABORT("mha: %s", mha->error.message);  // ggml's operators have no status
}

}  // namespace

mha_ggml* mha_ggml_new() {
  auto* mha = new (std::nothrow) mha_ggml;
  if (mha == nullptr) return nullptr;
  mha_context_options options = {};
  options.num_threads = GGML_MAX_N_THREADS;  // each call gives those that ggml has
  options.parallel_for = {&mha->team, Team::run};
  if (mha_context_create(&options, &mha->context, &mha->error) == MHA_OK) return mha;
  delete mha;
  return nullptr;
}

void mha_ggml_free(mha_ggml* mha) {
  if (mha != nullptr) mha_context_destroy(mha->context);
  delete mha;
}

ggml_tensor* mha_ggml_attention(mha_ggml* mha, ggml_context* ctx, ggml_tensor* flash) try {
  mha->error = {};
  Params params;
  std::memcpy(&params, flash->op_params, sizeof params);
  Call call;
  if (flash->op != GGML_OP_FLASH_ATTN_EXT) {
    refuse(&mha->error, "flash", "must be of ggml_flash_attn_ext, but its op is", flash->op);
    return flash;
  }
  if (!set_call(flash->src, params, &call, &mha->error)) return flash;
  size_t bytes = 0;  // the size query refuses what the call would refuse
  if (mha_attention_workspace_bytes(mha->context, &call.args, &bytes, &mha->error) != MHA_OK) return flash;
  ggml_tensor* node = ggml_custom_4d(ctx, flash->type, flash->ne[0], flash->ne[1], flash->ne[2], flash->ne[3],
                                     flash->src, kSources, compute, GGML_N_TASKS_MAX, mha);
  std::memcpy(reinterpret_cast<char*>(node->op_params) + kParamsAt, &params, sizeof params);
  return node;
} catch (const std::bad_alloc&) {
  out_of_memory(&mha->error);
  return flash;
}

const char* mha_ggml_reason(const mha_ggml* mha) { return mha->error.message; }
