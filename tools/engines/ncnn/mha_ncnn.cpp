// SPDX-License-Identifier: Apache-2.0
// SDPA and MultiHeadAttention of ncnn, computed by mha on ncnn's threads (OpenMP), with memory of ncnn's allocators. A
// blob is [c][h][w]: heads, tokens, width.
#include "mha_ncnn.h"

#include <platform.h>

#include "host.h"
#include "replacement.h"

namespace {

using mha_ncnn::attend;
using mha_ncnn::extend;
using mha_ncnn::Heads;
using mha_ncnn::heads_of;
using mha_ncnn::kOutOfMemory;
using mha_ncnn::Linear;
using mha_ncnn::Mats;
using mha_ncnn::Replacement;
using ncnn::Mat;
using ncnn::Option;

// query, key, value [, mask] [, past key, past value] -> output [, key, value]
class Sdpa : public Replacement {
 public:
  Sdpa() : Replacement("SDPA") {}

 private:
  bool read(const ncnn::ParamDict& params) override {
    masked_ = params.get(5, 0) != 0, scale_ = params.get(6, 0.0F), cached_ = params.get(7, 0) != 0;
    return params.get(18, 0) == 0;
  }

  int compute(const Mats& bottom, Mats& top, const Option& option) const override {
    const Mat &query = bottom[0], &key = bottom[1], &value = bottom[2];
    const bool fit = key.h == value.h && key.c == value.c && key.w == query.w && key.c > 0 && query.c % key.c == 0;
    if (!fit) {
      NCNN_LOGE(
          "mha: SDPA: %d query heads of %d, %d key heads of %d (%d tokens), %d value heads (%d tokens) do not fit",
          query.c, query.w, key.c, key.w, key.h, value.c, value.h);
      return -1;
    }
    top[0].create(value.w, query.h, query.c, 4U, option.blob_allocator);
    if (top[0].empty()) return kOutOfMemory;
    Heads keys = heads_of(key), values = heads_of(value);
    if (cached_) {
      const size_t past = masked_ ? 4 : 3;
      int failed = extend(bottom[past], heads_of(key), option, top[1]);
      if (failed == 0) failed = extend(bottom[past + 1], heads_of(value), option, top[2]);
      if (failed != 0) return failed;
      keys = heads_of(top[1]), values = heads_of(top[2]);
    }
    return attend({heads_of(query), keys, values, heads_of(top[0]), masked_ ? bottom[3] : Mat(), scale_}, option);
  }

  bool masked_ = false, cached_ = false;
  float scale_ = 0;
};

// query [, key [, value]] [, mask] [, past key, past value] -> output [, key, value]. Key is the query and value the key
// where they are not given. With a past, keys that are not the query (cross attention) are the past's alone.
class MultiHeadAttention : public Replacement {
 public:
  MultiHeadAttention() : Replacement("MultiHeadAttention") {}

 private:
  bool read(const ncnn::ParamDict& params) override {
    width_ = params.get(0, 0), heads_ = params.get(1, 1);
    query_width_ = width_ > 0 ? params.get(2, 0) / width_ : 0;
    key_width_ = params.get(3, width_), value_width_ = params.get(4, width_);
    masked_ = params.get(5, 0) != 0, scale_ = params.get(6, 0.0F), cached_ = params.get(7, 0) != 0;
    return params.get(18, 0) == 0;
  }

  int pack(const ncnn::ModelBin& weights) override {
    int failed = query_.load(weights, query_width_, width_);
    if (failed == 0) failed = key_.load(weights, key_width_, width_);
    if (failed == 0) failed = value_.load(weights, value_width_, width_);
    return failed == 0 ? output_.load(weights, width_, query_width_) : failed;
  }

  int compute(const Mats& bottom, Mats& top, const Option& option) const override {
    const size_t others = (masked_ ? 1 : 0) + (cached_ ? 2 : 0), inputs = bottom.size() - others;
    if (bottom.size() <= others || inputs > 3) {
      NCNN_LOGE("mha: MultiHeadAttention: %zu inputs", bottom.size());
      return -1;
    }
    const Mat &from_key = bottom[inputs > 1 ? 1 : 0], &from_value = bottom[inputs - 1];
    if (from_key.h != from_value.h) {
      NCNN_LOGE("mha: MultiHeadAttention: %d rows of keys, %d of values", from_key.h, from_value.h);
      return -1;
    }
    const Mat past_key = cached_ ? bottom[bottom.size() - 2] : Mat(), past_value = cached_ ? bottom.back() : Mat();
    Mat query, key, value, attended;
    int failed = query_.forward(bottom[0], query, option.workspace_allocator, option);
    const bool appends = past_key.empty() || inputs == 1;
    if (failed == 0 && appends) failed = key_.forward(from_key, key, option.workspace_allocator, option);
    if (failed == 0 && appends) failed = value_.forward(from_value, value, option.workspace_allocator, option);
    if (failed != 0) return failed;
    Heads keys = heads_of(key, heads_), values = heads_of(value, heads_);
    if (cached_) {
      failed = extend(past_key, keys, option, top[1]);
      if (failed == 0) failed = extend(past_value, values, option, top[2]);
      if (failed != 0) return failed;
      keys = heads_of(top[1]), values = heads_of(top[2]);
    }
    attended.create(width_, query.h, 4U, option.workspace_allocator);
    if (attended.empty()) return kOutOfMemory;
    const Mat mask = masked_ ? bottom[inputs] : Mat();
    failed = attend({heads_of(query, heads_), keys, values, heads_of(attended, heads_), mask, scale_}, option);
    return failed == 0 ? output_.forward(attended, top[0], option.blob_allocator, option) : failed;
  }

  int width_ = 0, heads_ = 1, query_width_ = 0, key_width_ = 0, value_width_ = 0;
  bool masked_ = false, cached_ = false;
  float scale_ = 0;
  Linear query_, key_, value_, output_;
};

template <class Type>
int replace(ncnn::Net& net, const char* type) {
  return net.register_custom_layer(
      type, [](void*) -> ncnn::Layer* { return new Type; }, [](ncnn::Layer* layer, void*) { delete layer; });
}

}  // namespace

int mha_ncnn::register_layers(ncnn::Net& net) {
  const int failed = replace<Sdpa>(net, "SDPA");
  return failed != 0 ? failed : replace<MultiHeadAttention>(net, "MultiHeadAttention");
}

int mha_ncnn_register_layers(ncnn_net_t net) { return mha_ncnn::register_layers(*static_cast<ncnn::Net*>(net->pthis)); }
