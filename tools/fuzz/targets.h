// SPDX-License-Identifier: Apache-2.0
// What the fuzz targets of calls share: exact heap blocks for the address sanitizer, and two contexts of every target
// that runs here, with one thread and with a host's threads.
#ifndef MHA_TOOLS_FUZZ_TARGETS_H
#define MHA_TOOLS_FUZZ_TARGETS_H

#include <mha/mha.hpp>

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
  Context one_thread;
  Context host_threads;
};

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
      made.push_back(
          {mha_target_name(i), mha_target_same_bits(i) == 1, take(Context::create(one)), take(Context::create(three))});
    }
    return made;
  }();
  return list;
}

}  // namespace mha::fuzz

#endif  // MHA_TOOLS_FUZZ_TARGETS_H
