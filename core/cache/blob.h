// SPDX-License-Identifier: Apache-2.0
// What every saved block of bytes begins with, and how its elements are stored. A header begins with BlobHead and ends
// with a checksum of all bytes before it; each kind of block has its own fields between.
#pragma once

#include "core/base/status.h"
#include "core/kernels/kernel_table.h"

namespace mha {

struct BlobHead {
  char magic[8];
  uint32_t version;
  uint32_t byte_order;
  uint64_t bytes;  // of the whole blob
};

// How elements are stored: mha_storage in fixed widths. Zeros: floats.
struct BlobStorage {
  uint32_t dtype, scale_dtype;
  uint32_t flags;  // kBlobZeroPoints, kBlobHadamard
  uint32_t group;
};
constexpr uint32_t kBlobZeroPoints = 1, kBlobHadamard = 2;

struct BlobFormat {
  char magic[8];
  const char* what;  // in messages: "a packed mha layer"
  uint32_t version;
  size_t header_bytes;
};

// Fills the head, whose `bytes` must be set, and the checksum at the end of the header.
void seal_blob(const BlobFormat& format, void* header);

// Checks length, magic, version, byte order and checksum of the header. The caller checks the sizes in it.
mha_status check_blob(const BlobFormat& format, const void* blob, size_t bytes, mha_error* error);

constexpr bool is_known_arithmetic(uint32_t arithmetic) { return arithmetic < static_cast<uint32_t>(kArithmetics); }

// The caller's pointer to a blob: not null, aligned to 4 bytes.
mha_status check_blob_pointer(const void* blob, mha_error* error);

}  // namespace mha
