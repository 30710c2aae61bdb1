// SPDX-License-Identifier: Apache-2.0
// append_f32, append_bf16, append_f16: new tokens into a cache that stores them as they are given; append_int8,
// append_int4: floats rounded to codes. Timed in turn with a copy of the bytes that are given. Both go through some 16 MiB before they begin again, so that they write to memory that is not
// in a core's caches, as in a cache of many sequences.
#include <cmath>
#include <cstring>

#include "bench/cache_case.h"
#include "bench/elements.h"

namespace mha::bench {
namespace {

constexpr int64_t kCapacity = 2048;  // tokens

class AppendCase : public Case {
 public:
  AppendCase(const Context& context, const AppendShape& shape)
      : context_(context),
        shape_(shape),
        key_(context, given(), Floats(shape.length * row(), kUnitVariance, 1)),
        value_(context, given(), Floats(shape.length * row(), kUnitVariance, 2)),
        copy_(Floats::as_library(context, 2 * kCapacity * row() * bytes_of(given()) / 4)),  // as the cache
        cache_(context, config_of(shape)) {
    copy_.fill(0);
    args_.batch = 1;
    args_.length = shape.length;
    args_.key = key_.view();
    args_.value = value_.view();
    bytes = 2.0 * static_cast<double>(key_.region().bytes + value_.region().bytes);  // read and written
  }
  mha_status run() override {
    if (filled_ + shape_.length > kCapacity) {
      filled_ = 0;
      const mha_status status = mha_cache_truncate(cache_->get(), 0, 0, nullptr);
      if (status != MHA_OK) return status;
    }
    filled_ += shape_.length;
    return mha_cache_append(context_.get(), cache_->get(), &args_, nullptr);
  }
  /// The keys one after the other, then the values.
  mha_status run_parts() override {
    copied_ = copied_ + shape_.length > kCapacity ? 0 : copied_;
    char* copy = reinterpret_cast<char*>(copy_.data());
    memcpy(copy + copied_ * row() * bytes_of(given()), key_.region().data, key_.region().bytes);
    memcpy(copy + (kCapacity + copied_) * row() * bytes_of(given()), value_.region().data, value_.region().bytes);
    copied_ += shape_.length;
    return MHA_OK;
  }
  bool has_parts() const override { return true; }
  const char* ratio_counter() const override { return "copy_ratio"; }
  /// What was appended last, bit for bit; codes within half a step of the greatest scale.
  std::string check() override {
    const Elements key(given(), key_.size()), value(given(), value_.size());
    mha_export_args args = {};
    args.begin = filled_ - shape_.length;
    args.count = shape_.length;
    args.key = key.mut_view();
    args.value = value.mut_view();
    if (const Status status = cache_->export_to(args); !status) return status.message();
    if (is_code(shape_.dtype)) return near(key, key_) + near(value, value_);
    return key.same_bits(key_) && value.same_bits(value_) ? "" : "the cache does not hold what was appended";
  }
  double naive_seconds(int) override { return 0; }

 private:
  static mha_cache_config config_of(const AppendShape& shape) {
    mha_cache_config config = {};
    config.kind = shape.kind;
    config.num_kv_heads = shape.num_kv_heads;
    config.head_dim = shape.head_dim;
    config.capacity = kCapacity;
    config.key = config.value = storage_of(shape.dtype);
    return config;
  }

  mha_dtype given() const { return is_code(shape_.dtype) ? MHA_F32 : shape_.dtype; }
  std::string near(const Elements& got, const Elements& want) const {
    const float step = kUnitVariance / (shape_.dtype == MHA_I4 ? 8.0f : 127.0f);
    const float* a = static_cast<const float*>(got.view().data);
    const float* b = static_cast<const float*>(want.view().data);
    for (int64_t n = 0; n < got.size(); ++n) {
      // 4 bits: the greatest magnitude of the other sign has no code of its own.
      if (!(std::abs(a[n] - b[n]) <= step * (shape_.dtype == MHA_I4 ? 1.01f : 0.51f))) return "wrong codes";
    }
    return "";
  }
  /// Elements of a token's keys.
  int64_t row() const { return shape_.num_kv_heads * shape_.head_dim; }

  const Context& context_;
  AppendShape shape_;
  int64_t filled_ = 0, copied_ = 0;  // tokens
  Elements key_, value_;
  Floats copy_;
  CacheInMemory cache_;
  mha_append_args args_ = {};
};

}  // namespace

CaseSpec append_case(const AppendShape& shape) {
  const std::string name = std::string("append_") + name_of(shape.dtype) + "/T:" + std::to_string(shape.length) +
                           "/Hkv:" + std::to_string(shape.num_kv_heads) + "/D:" + std::to_string(shape.head_dim) +
                           "/cache:" + name_of(shape.kind);
  return {name, "", 1, [=](const Context& context) { return std::make_unique<AppendCase>(context, shape); }};
}

}  // namespace mha::bench
