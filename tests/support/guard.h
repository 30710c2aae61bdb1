// SPDX-License-Identifier: Apache-2.0
// Memory with no room around it: a buffer that ends where a page without access begins, or starts right after one. Any
// access outside is a fault, in a build without sanitizers too.
#ifndef MHA_TESTS_SUPPORT_GUARD_H
#define MHA_TESTS_SUPPORT_GUARD_H

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "tests/support/dtypes.h"

namespace mha::test {

enum class Guard { kAfter, kBefore };

class GuardedBuffer {
 public:
  GuardedBuffer(size_t bytes, Guard guard) : bytes_(bytes) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t body = (bytes + page - 1) / page * page;
    mapped_ = body + 2 * page;
    base_ = static_cast<unsigned char*>(mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED) throw std::runtime_error("mmap failed");
    unsigned char* first = base_ + page;
    if (body && mprotect(first, body, PROT_READ | PROT_WRITE)) throw std::runtime_error("mprotect failed");
    std::memset(first, kSlack, body);
    data_ = guard == Guard::kAfter ? first + body - bytes : first;
    slack_ = guard == Guard::kAfter ? first : first + bytes;
    slack_bytes_ = body - bytes;
  }
  ~GuardedBuffer() { munmap(base_, mapped_); }
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  void* data() const { return data_; }
  float* floats() const { return reinterpret_cast<float*>(data_); }
  size_t bytes() const { return bytes_; }

  /// The rest of the buffer's pages, on the side without a guard, is as it was.
  bool slack_intact() const {
    for (size_t n = 0; n < slack_bytes_; ++n)
      if (slack_[n] != kSlack) return false;
    return true;
  }

 private:
  static constexpr unsigned char kSlack = 0xa5;

  unsigned char* base_;
  unsigned char* data_;
  unsigned char* slack_;
  size_t bytes_, slack_bytes_, mapped_;
};

/// A guarded array of floats, filled from a vector or with poison.
class GuardedFloats : public GuardedBuffer {
 public:
  GuardedFloats(const std::vector<float>& values, Guard guard) : GuardedBuffer(values.size() * sizeof(float), guard) {
    if (!values.empty()) std::memcpy(data(), values.data(), bytes());
  }
  std::vector<float> values() const { return std::vector<float>(floats(), floats() + bytes() / sizeof(float)); }
};

/// A guarded array of elements of any type.
class GuardedElements : public GuardedBuffer {
 public:
  GuardedElements(const Elements& e, Guard guard) : GuardedBuffer(e.bytes().size(), guard), dtype_(e.dtype()) {
    if (bytes()) std::memcpy(data(), e.bytes().data(), bytes());
  }
  mha_view view(const Strides& s = {}) const { return {data(), dtype_, 0, s.b, s.t, s.h, nullptr}; }
  mha_mut_view mut_view(const Strides& s = {}) const { return {data(), dtype_, 0, s.b, s.t, s.h}; }
  Elements elements() const {
    Elements all(dtype_, static_cast<int64_t>(bytes()) / element_bytes(dtype_));
    if (bytes()) std::memcpy(all.data(), data(), bytes());
    return all;
  }
  std::vector<float> widened() const { return elements().widened(); }

 private:
  mha_dtype dtype_;
};

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_GUARD_H
