// SPDX-License-Identifier: Apache-2.0
// An allocator for contexts that counts, checks what is released, and fails on request.
#ifndef MHA_TESTS_SUPPORT_COUNTING_H
#define MHA_TESTS_SUPPORT_COUNTING_H

#include <cstdlib>
#include <cstring>
#include <map>

#include "tests/support/targets.h"

namespace mha::test {

struct CountingAllocator {
  int64_t calls = 0;
  int64_t fail_at = -1;  // the call of this number, from 0, returns NULL
  bool misuse = false;   // a block released twice, unknown, or with other bytes than it was allocated with
  std::map<void*, size_t> live;

  mha_allocator functions() {
    return {
        this,
        [](void* user, size_t bytes, size_t alignment) {
          return static_cast<CountingAllocator*>(user)->allocate(bytes, alignment);
        },
        [](void* user, void* block, size_t bytes) { static_cast<CountingAllocator*>(user)->release(block, bytes); }};
  }
  mha_context_options options(const std::string& target, int64_t num_threads) {
    mha_context_options options = {};
    options.num_threads = num_threads;
    options.target = target.c_str();
    options.allocator = functions();
    return options;
  }

 private:
  void* allocate(size_t bytes, size_t alignment) {
    if (calls++ == fail_at) return nullptr;
    const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    void* block = std::aligned_alloc(alignment, rounded ? rounded : alignment);
    std::memset(block, 0xff, rounded);  // NaN: memory that is used before it is written shows
    live[block] = bytes;
    return block;
  }
  void release(void* block, size_t bytes) {
    const auto found = live.find(block);
    if (found == live.end() || found->second != bytes) {
      misuse = true;
      return;
    }
    live.erase(found);
    std::free(block);
  }
};

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_COUNTING_H
