// SPDX-License-Identifier: Apache-2.0
// Checksums of saved blocks of bytes. They notice damage; they do not prove who wrote a block.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mha {

// FNV-1a: of headers.
uint64_t header_checksum(const void* bytes, size_t count);

// Of what follows a header. Like FNV-1a, but over words of 8 bytes in 8 independent chains, so that it runs at the
// speed of memory. Every step is invertible, so a change of one word always changes the result.
uint64_t payload_checksum(const void* bytes, size_t count);

}  // namespace mha
