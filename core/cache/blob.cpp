// SPDX-License-Identifier: Apache-2.0
// The header of saved blocks: written and checked.
#include "core/cache/blob.h"

#include <cstring>

#include "core/base/fields.h"
#include "core/math/checksum.h"

namespace mha {
namespace {

constexpr uint32_t kByteOrder = 0x01020304;

uint64_t checksum_of(const BlobFormat& format, const void* header) {
  return header_checksum(header, format.header_bytes - sizeof(uint64_t));
}

}  // namespace

void seal_blob(const BlobFormat& format, void* header) {
  BlobHead head = {};
  memcpy(&head, header, sizeof(head));
  memcpy(head.magic, format.magic, sizeof(head.magic));
  head.version = format.version, head.byte_order = kByteOrder;
  memcpy(header, &head, sizeof(head));
  const uint64_t checksum = checksum_of(format, header);
  memcpy(static_cast<char*>(header) + format.header_bytes - sizeof(checksum), &checksum, sizeof(checksum));
}

mha_status check_blob(const BlobFormat& format, const void* blob, size_t bytes, mha_error* error) {
  if (bytes < format.header_bytes) {
    return fail(error, MHA_ERR_BLOB, "bytes is %zu: shorter than a blob's header (%zu)", bytes, format.header_bytes);
  }
  BlobHead head = {};
  memcpy(&head, blob, sizeof(head));
  if (memcmp(head.magic, format.magic, sizeof(head.magic)) != 0) {
    return fail(error, MHA_ERR_BLOB, "blob is not %s", format.what);
  }
  if (head.version != format.version) {
    return fail(error, MHA_ERR_BLOB, "blob has format version %u: this library reads %u", head.version, format.version);
  }
  if (head.byte_order != kByteOrder) return fail(error, MHA_ERR_BLOB, "blob is of another byte order");
  uint64_t checksum = 0;
  memcpy(&checksum, static_cast<const char*>(blob) + format.header_bytes - sizeof(checksum), sizeof(checksum));
  if (checksum == checksum_of(format, blob)) return MHA_OK;
  return fail(error, MHA_ERR_BLOB, "blob's header is damaged (checksum)");
}

mha_status check_blob_pointer(const void* blob, mha_error* error) {
  if (blob == nullptr) return fail(error, MHA_ERR_NULL, "blob is NULL");
  return check_aligned("blob", blob, error);
}

}  // namespace mha
