// SPDX-License-Identifier: Apache-2.0
// The process id, stored in a page that the kernel zeroes in a forked child.
#include "core/base/process_id.h"

#include <unistd.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mha {

#if defined(__linux__) && defined(MADV_WIPEONFORK)
namespace {

constexpr size_t kBytes = sizeof(int64_t);  // the kernel rounds up to a page
constexpr int kNoAdvice = 12345;            // no kernel knows it; qemu's user emulation accepts any and does nothing

}  // namespace

void ProcessId::open() {
  void* page = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return;
  if (madvise(page, kBytes, kNoAdvice) != 0 && madvise(page, kBytes, MADV_WIPEONFORK) == 0) {
    page_ = static_cast<int64_t*>(page);
  } else {
    munmap(page, kBytes);
  }
}

void ProcessId::close() {
  if (page_ != nullptr) munmap(page_, kBytes);
  page_ = nullptr;
}
#else
void ProcessId::open() {}
void ProcessId::close() {}
#endif

int64_t ProcessId::get() const {
  if (page_ == nullptr) return getpid();
  int64_t process = __atomic_load_n(page_, __ATOMIC_RELAXED);
  if (process == 0) {
    process = getpid();
    __atomic_store_n(page_, process, __ATOMIC_RELAXED);
  }
  return process;
}

}  // namespace mha
