// SPDX-License-Identifier: Apache-2.0
// Which process this is, without a system call each time: a fork leaves its child without the threads of the parent,
// and calls must notice before they wait for one.
#pragma once

#include <cstdint>

namespace mha {

// A page that the kernel empties in a child (Linux 4.14) keeps the number; where there is none the kernel is asked each
// time, 0.05 to 0.3 us. Immutable for callers, safe from any number of threads.
class ProcessId {
 public:
  void open();   // cannot fail: without a page it is only slower
  void close();  // gives the page back
  int64_t get() const;

 private:
  int64_t* page_ = nullptr;
};

}  // namespace mha
