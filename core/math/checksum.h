// SPDX-License-Identifier: Apache-2.0
// Checksums of saved blocks of bytes. They notice damage; they do not prove who wrote a block.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mha {

// FNV-1a: of headers.
uint64_t header_checksum(const void* bytes, size_t count);

// Of what follows a header, at the speed of memory: alike, over words of 8 bytes, by 8 chains in turn. Every step can
// be undone, so a change of one word always changes the result.
uint64_t payload_checksum(const void* bytes, size_t count);

}  // namespace mha
