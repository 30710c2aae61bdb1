// SPDX-License-Identifier: Apache-2.0
// The default allocator; aligning a workspace.
#include "core/base/memory.h"

#include <cstdlib>

#include "core/base/status.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace mha {
namespace {

// Blocks from kHugeFrom on (caches, packed weights, large workspaces) ask for huge pages. They have too many pages of
// 4 KiB for the TLB: decoding from beyond a core's caches would wait for page tables as well as for keys and values.
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kHugeFrom = 2 * kHugePage;

void* default_allocate(void*, size_t bytes, size_t alignment) {
  const bool huge = bytes >= kHugeFrom;
  void* block = nullptr;
  if (posix_memalign(&block, huge ? kHugePage : alignment, bytes) != 0) return nullptr;
#if defined(__linux__)
  if (huge) (void)madvise(block, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);  // advice: nothing depends on it
#endif
  return block;
}
void default_release(void*, void* block, size_t) { free(block); }

}  // namespace

mha_allocator default_allocator() { return {nullptr, default_allocate, default_release}; }

mha_status Workspace::reserve(size_t needed, mha_error* error) {
  void* block = given_;
  if (block == nullptr) {
    owned_ = allocate(allocator_, needed);
    if (owned_ == nullptr) return fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for a workspace of %zu bytes", needed);
    owned_bytes_ = needed;
    block = owned_;
  } else if (given_bytes_ < needed) {
    return fail(error, MHA_ERR_BUFFER, "resources.workspace_bytes is %zu: this call needs %zu", given_bytes_, needed);
  }
  const uintptr_t address = reinterpret_cast<uintptr_t>(block);
  data_ = static_cast<char*>(block) + (kAlignment - address % kAlignment) % kAlignment;
  return MHA_OK;
}

}  // namespace mha
