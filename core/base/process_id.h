// SPDX-License-Identifier: Apache-2.0
// The process id without a system call each time. A forked child has none of its parent's threads, and calls must
// notice that before they wait for one.
#pragma once

#include <cstdint>

namespace mha {

// The id is stored in a page that the kernel zeroes in a child (Linux 4.14). Without such a page every get() is a
// system call. Any number of threads may call get().
class ProcessId {
 public:
  void open();   // cannot fail: without a page it is only slower
  void close();  // gives the page back
  int64_t get() const;

 private:
  int64_t* page_ = nullptr;
};

}  // namespace mha
