// SPDX-License-Identifier: Apache-2.0
// What the fuzz targets of calls share: exact heap blocks for the address sanitizer, and two contexts of every target
// that runs here, with one thread and with a host's threads.
#ifndef MHA_TOOLS_FUZZ_TARGETS_H
#define MHA_TOOLS_FUZZ_TARGETS_H

#include <fuzzer/FuzzedDataProvider.h>
#include <mha/mha.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tools/fuzz/fuzz.h"

namespace mha::fuzz {

// An exact heap block that is never null.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::int64_t count) : size_(static_cast<std::size_t>(count)), data_(new T[size_]) {}
  T* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  T& operator[](std::size_t i) const { return data_[i]; }

 private:
  std::size_t size_ = 0;
  std::unique_ptr<T[]> data_;
};

// The host's threads: tasks last to first, one after the other, which is one of the orders the contract allows.
inline void run_backwards(void* /*user*/, std::int64_t count, void (*task)(void*, std::int64_t), void* task_data) {
  for (std::int64_t i = count; i-- > 0;) task(task_data, i);
}

// What the call gives; it must not fail.
template <class T>
T take(Result<T> result) {
  MHA_FUZZ_CHECK(result, "%s", result.status().message());
  return std::move(*result);
}
inline void check_ok(const Status& status) { MHA_FUZZ_CHECK(status, "%s", status.message()); }

struct Target {
  std::string name;
  bool same_bits;  // as the other targets with fused multiply-add
  bool has_bf16, has_int8;
  Context one_thread;
  Context host_threads;

  bool computes(mha_arithmetic arithmetic) const {
    if (arithmetic == MHA_ARITHMETIC_F32) return true;
    return arithmetic == MHA_ARITHMETIC_BF16 ? has_bf16 : has_int8;
  }
  // Whether attention in that arithmetic has the bits of the other targets of which this is true.
  bool same_bits_in(mha_arithmetic arithmetic) const { return same_bits || arithmetic == MHA_ARITHMETIC_INT8; }
};

inline bool has_arithmetic(const Context& context, mha_arithmetic arithmetic) {
  AttentionCall args;
  args.batch = args.num_heads = args.query_len = args.key_len = args.head_dim = 1;
  args.arithmetic = arithmetic;
  args.query.data = args.key.data = args.value.data = args.output.data = &args;  // not read
  mha_quant quant{};
  quant.scales = &quant;  // not read
  if (arithmetic == MHA_ARITHMETIC_INT8)
    args.key.dtype = args.value.dtype = MHA_I8, args.key.quant = args.value.quant = &quant;
  return static_cast<bool>(context.attention_workspace_bytes(args));
}

inline const std::vector<Target>& targets() {
  static const std::vector<Target> list = [] {
    std::vector<Target> made;
    for (std::int64_t i = 0; i < mha_target_count(); ++i) {
      if (mha_target_supported(i) == 0) continue;
      mha_context_options one{};
      one.target = mha_target_name(i);
      one.num_threads = 1;
      mha_context_options three = one;
      three.num_threads = 3;
      three.parallel_for.run = run_backwards;
      Context one_thread = take(Context::create(one));
      const bool bf16 = has_arithmetic(one_thread, MHA_ARITHMETIC_BF16);
      const bool int8 = has_arithmetic(one_thread, MHA_ARITHMETIC_INT8);
      made.push_back({mha_target_name(i), mha_target_same_bits(i) == 1, bf16, int8, std::move(one_thread),
                      take(Context::create(three))});
    }
    return made;
  }();
  return list;
}

// Each for a third of the draws, where a target has it; INT8 where keys and values are such codes (`may_int8`).
inline mha_arithmetic choose_arithmetic(FuzzedDataProvider& input, bool may_int8) {
  const auto arithmetic = static_cast<mha_arithmetic>(input.ConsumeIntegralInRange<int>(0, 2));
  if (arithmetic == MHA_ARITHMETIC_INT8 && !may_int8) return MHA_ARITHMETIC_F32;
  const auto serves = [&](const Target& target) { return target.computes(arithmetic); };
  return std::any_of(targets().begin(), targets().end(), serves) ? arithmetic : MHA_ARITHMETIC_F32;
}

// How far outputs, weights and log-sum-exps may be from the double reference over the operands that the arithmetic
// multiplies, values being within [-1, 1]: `f32`, and in BF16 two weights' rounding (each within 2^-7.5).
inline double bound_of(mha_arithmetic arithmetic, double f32) {
  return arithmetic == MHA_ARITHMETIC_BF16 ? f32 + 0x1p-6 : f32;
}

}  // namespace mha::fuzz

#endif  // MHA_TOOLS_FUZZ_TARGETS_H
