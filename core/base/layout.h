// SPDX-License-Identifier: Apache-2.0
// The offsets of the parts of a block of memory: a workspace, a handle or a saved block.
#pragma once

#include "core/base/status.h"

namespace mha {

// Lays out parts of a block of memory one after the other, each at the start of a 64-byte line.
class Layout {
 public:
  // Returns the offset of a part of `bytes`.
  int64_t append(Size bytes) {
    const int64_t offset = end_.ok() ? end_.value() : 0;
    end_ = end_ + bytes;
    if ((end_ + Size(64)).ok()) end_ = Size((end_.value() + 63) / 64 * 64);
    return offset;
  }
  Size bytes() const { return end_; }

 private:
  Size end_ = Size(0);
};

}  // namespace mha
