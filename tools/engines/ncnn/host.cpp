// SPDX-License-Identifier: Apache-2.0
#include "host.h"

#include <platform.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "dense.h"

namespace mha_ncnn {
namespace {

using ncnn::Mat;
using ncnn::Option;

void run_on_openmp(void* user, int64_t count, void (*task)(void*, int64_t), void* data) {
  const int threads = static_cast<const Option*>(user)->num_threads;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t index = 0; index < count; ++index) task(data, index);
}

// One for all nets: each call says how many threads it may use.
mha::Result<mha::Context>& shared_context() {
  static mha::Result<mha::Context> shared = mha_engines::make_context(run_on_openmp);
  return shared;
}

int result_of(const mha::Status& status) {
  if (status) return 0;
  NCNN_LOGE("mha: %s", status.message());
  return status.code() == MHA_ERR_OUT_OF_MEMORY ? kOutOfMemory : -1;
}

// Threads of the net, and a workspace of its allocator for as long as this lives.
class Resources {
 public:
  explicit Resources(const Option& option) : option_(option) {
    resources_.max_threads = std::max(option.num_threads, 1);
    resources_.parallel_user = const_cast<Option*>(&option);
  }
  const mha_resources& get() const { return resources_; }

  int take(mha::Result<std::size_t> bytes) {
    if (!bytes) return result_of(bytes.status());
    const std::size_t lines = (*bytes + kLine - 1) / kLine;
    if (lines == 0) return 0;
    if (lines > INT_MAX) return kOutOfMemory;
    memory_.create(static_cast<int>(lines), kLine, option_.workspace_allocator);
    resources_.workspace = memory_.data, resources_.workspace_bytes = lines * kLine;
    return memory_.empty() ? kOutOfMemory : 0;
  }

 private:
  static constexpr std::size_t kLine = 64;
  const Option& option_;
  Mat memory_;
  mha_resources resources_ = {};
};

mha_view view_of(const Heads& blob) {
  mha_view view = {};
  view.data = blob.data;
  view.stride_t = static_cast<int64_t>(blob.token_stride), view.stride_h = static_cast<int64_t>(blob.head_stride);
  return view;
}

}  // namespace

Heads heads_of(const Mat& blob) {
  return {static_cast<float*>(blob.data), blob.c, blob.h, blob.w, blob.cstep, static_cast<size_t>(blob.w)};
}

Heads heads_of(const Mat& blob, int heads) {
  const int width = blob.w / heads;
  return {static_cast<float*>(blob.data), heads, blob.h, width, static_cast<size_t>(width),
          static_cast<size_t>(blob.w)};
}

int attend(const Attention& attention, const Option& option) {
  const auto& [query, key, value, output, mask, scale] = attention;
  if (key.tokens != value.tokens || key.heads != value.heads || key.width != query.width ||
      value.width != output.width) {
    NCNN_LOGE(
        "mha: %d tokens and %d heads of keys of width %d, %d and %d of values of width %d do not fit queries of %d",
        key.tokens, key.heads, key.width, value.tokens, value.heads, value.width, query.width);
    return -1;
  }
  mha::AttentionCall call;
  call.batch = 1;
  call.num_heads = query.heads, call.num_kv_heads = key.heads;
  call.query_len = query.tokens, call.key_len = key.tokens;
  call.head_dim = query.width, call.value_head_dim = value.width;
  call.query = view_of(query), call.key = view_of(key), call.value = view_of(value);
  const mha_view written = view_of(output);
  call.output = {output.data, MHA_F32, 0, 0, written.stride_t, written.stride_h};
  call.scale = scale;
  if (!mask.empty()) {
    if (mask.w != key.tokens || mask.h != query.tokens || (mask.c != 1 && mask.c != query.heads)) {
      NCNN_LOGE("mha: the mask is %d x %d x %d, but there are %d heads, %d queries and %d keys", mask.c, mask.h, mask.w,
                query.heads, query.tokens, key.tokens);
      return -1;
    }
    const int64_t head_stride = mask.c == 1 ? 0 : static_cast<int64_t>(mask.cstep);
    call.masks.add_mask = {mask.data, MHA_F32, 0, 0, head_stride, mask.w, 1};
  }
  mha::Result<mha::Context>& context = shared_context();
  if (!context) return result_of(context.status());
  Resources resources(option);
  call.resources = resources.get();
  const int failed = resources.take(context->attention_workspace_bytes(call));
  call.resources = resources.get();
  return failed != 0 ? failed : result_of(context->attention(call));
}

int extend(const Mat& past, const Heads& added, const Option& option, Mat& cache) {
  const int tokens = past.h * (past.empty() ? 0 : 1) + added.tokens;
  if (!past.empty() && added.tokens > 0 && (past.w != added.width || past.c != added.heads)) {
    NCNN_LOGE("mha: the cache has %d heads of %d, the tokens to append have %d of %d", past.c, past.w, added.heads,
              added.width);
    return -1;
  }
  const bool shared = !past.empty() && past.allocator == option.kvcache_allocator;
  if (shared && tokens <= static_cast<int>(past.cstep / past.w)) {
    cache = past;
  } else {
    const int room = std::max(tokens + std::max(16, tokens / 2), option.kvcache_max_seqlen_hint);
    const int heads = past.empty() ? added.heads : past.c, width = past.empty() ? added.width : past.w;
    Mat grown(width, room, heads, 4U, option.kvcache_allocator);
    if (grown.empty()) return kOutOfMemory;
    for (int head = 0; head < heads && !past.empty(); ++head) {
      std::memcpy(grown.channel(head).data, past.channel(head).data, sizeof(float) * past.w * past.h);
    }
    cache = grown;
  }
  cache.h = tokens;
  for (int head = 0; head < added.heads; ++head) {
    for (int token = 0; token < added.tokens; ++token) {
      const float* row = added.data + head * added.head_stride + token * added.token_stride;
      std::memcpy(cache.channel(head).row(tokens - added.tokens + token), row, sizeof(float) * added.width);
    }
  }
  return 0;
}

int Linear::load(const ncnn::ModelBin& weights, int in, int out) {
  in_ = in, out_ = out;
  const Mat weight = weights.load(in * out, 0), bias = weights.load(out, 1);
  if (weight.empty() || bias.empty()) return kOutOfMemory;
  mha::Result<mha::Context>& context = shared_context();
  if (!context) return result_of(context.status());
  mha_linear_config config = {};
  config.in_features = in, config.out_features = out;
  config.weight.data = weight.data, config.bias = bias;
  mha::Result<mha::Linear> made = mha::Linear::create(*context, config);
  if (!made) return result_of(made.status());
  packed_ = std::move(*made);
  return 0;
}

int Linear::forward(const Mat& rows, Mat& result, ncnn::Allocator* allocator, const Option& option) const {
  if (rows.w != in_) {
    NCNN_LOGE("mha: a blob has rows of %d, but the weight takes %d", rows.w, in_);
    return -1;
  }
  result.create(out_, rows.h, 4U, allocator);
  if (result.empty()) return kOutOfMemory;
  Resources resources(option);
  mha_linear_args args = {};
  args.rows = rows.h;
  args.input.data = rows.data, args.input.stride_t = rows.w;
  args.output.data = result.data, args.output.stride_t = result.w;
  args.resources = &resources.get();
  const mha::Context& context = *shared_context();
  const int failed = resources.take(packed_.workspace_bytes(context, args));
  return failed != 0 ? failed : result_of(packed_.forward(context, args));
}

}  // namespace mha_ncnn
