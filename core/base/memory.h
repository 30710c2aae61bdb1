// SPDX-License-Identifier: Apache-2.0
// Memory through a context's allocator, and the workspace of a call.
#pragma once

#include "core/base/context.h"

namespace mha {

constexpr size_t kAlignment = 64;

// posix_memalign, with huge pages for large blocks.
mha_allocator default_allocator();

inline void* allocate(const mha_allocator& allocator, size_t bytes) {
  return allocator.allocate(allocator.user, bytes, kAlignment);
}
inline void release(const mha_allocator& allocator, void* block, size_t bytes) {
  if (block != nullptr) allocator.release(allocator.user, block, bytes);
}

// The caller's workspace, or one taken from the allocator until the end of the scope.
class Workspace {
 public:
  Workspace(const mha_context& context, const mha_resources* resources)
      : allocator_(context.allocator),
        given_(resources != nullptr ? resources->workspace : nullptr),
        given_bytes_(resources != nullptr ? resources->workspace_bytes : 0) {}
  ~Workspace() { release(allocator_, owned_, owned_bytes_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // `needed` includes the slack for alignment, as the size queries say. On success data() is aligned to 64 bytes.
  mha_status reserve(size_t needed, mha_error* error);
  char* data() const { return data_; }

 private:
  const mha_allocator& allocator_;
  void* given_;
  size_t given_bytes_;
  void* owned_ = nullptr;
  size_t owned_bytes_ = 0;
  char* data_ = nullptr;
};

}  // namespace mha
