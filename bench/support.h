// SPDX-License-Identifier: Apache-2.0
// Small things every case needs: float arrays with reproducible contents, and the library's handles or an exception.
#ifndef MHA_BENCH_SUPPORT_H
#define MHA_BENCH_SUPPORT_H

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "bench/machine.h"
#include "core/base/memory.h"
#include "core/mha.hpp"

namespace mha::bench {

/// An array of floats at a multiple of 64 bytes, in ordinary pages.
class Floats {
 public:
  Floats() = default;
  explicit Floats(int64_t count) : count_(count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(float) + 63) / 64 * 64;
    data_.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    if (!data_) throw std::bad_alloc();
  }
  /// Memory such as the library takes by default for itself: what is large in huge pages.
  static Floats as_library(const Context& context, int64_t count) {
    Floats made;
    made.count_ = count;
    const size_t bytes = static_cast<size_t>(count) * sizeof(float);
    made.data_.reset(static_cast<float*>(allocate(context.get()->allocator, bytes)));  // which free() gives back
    if (!made.data_) throw std::bad_alloc();
    return made;
  }
  /// Uniform in [-bound, bound]; `seed` decides the values.
  Floats(int64_t count, float bound, uint64_t seed) : Floats(count) {
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    for (int64_t n = 0; n < count; ++n) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      data()[n] = bound * (static_cast<float>(static_cast<int32_t>(state >> 32)) * 0x1p-31f);
    }
  }

  float* data() const { return data_.get(); }
  int64_t size() const { return count_; }
  Region region() const { return {data(), static_cast<size_t>(count_) * sizeof(float)}; }
  void fill(float value) {
    for (int64_t n = 0; n < count_; ++n) data()[n] = value;
  }

 private:
  struct Free {
    void operator()(float* data) const { std::free(data); }
  };
  std::unique_ptr<float, Free> data_;
  int64_t count_ = 0;
};

/// Bound of a uniform distribution with variance 1: scores of such queries and keys vary by 1 too.
constexpr float kUnitVariance = 1.7320508f;

/// Throws with the library's message unless the call succeeded.
inline void require(const Status& status) {
  if (!status) throw std::runtime_error(std::string(mha_status_string(status.code())) + ": " + status.message());
}
template <class T>
T require(Result<T> result) {
  require(result.status());
  return std::move(*result);
}

/// `target` empty: the environment's MHA_TARGET, else the best there is.
inline Context make_context(const std::string& target, int64_t threads) {
  mha_context_options options = {};
  options.num_threads = threads;
  options.target = target.empty() ? nullptr : target.c_str();
  return require(Context::create(options));
}

inline Linear make_linear(const Context& context, int64_t in_features, int64_t out_features, const float* weight,
                          const float* bias, mha_arithmetic arithmetic = MHA_ARITHMETIC_F32) {
  mha_linear_config config = {};
  config.in_features = in_features;
  config.out_features = out_features;
  config.weight = view(weight);
  config.bias = bias;
  config.arithmetic = arithmetic;
  return require(Linear::create(context, config));
}

}  // namespace mha::bench

#endif  // MHA_BENCH_SUPPORT_H
