// SPDX-License-Identifier: Apache-2.0
// Checksums of saved blocks of bytes.
#include "core/math/checksum.h"

#include <cstring>

namespace mha {
namespace {

constexpr uint64_t kBasis = 0xcbf29ce484222325u, kPrime = 0x100000001b3u;
constexpr int kChains = 8;
constexpr size_t kBlock = kChains * sizeof(uint64_t);

// The multiplication carries a bit to higher bits only; the rotation brings high bits back to the low end.
uint64_t step(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * kPrime;
  return hash << 29 | hash >> 35;
}

void add_block(uint64_t* chains, const unsigned char* block) {
  uint64_t words[kChains];
  memcpy(words, block, sizeof(words));
  for (int i = 0; i < kChains; ++i) chains[i] = step(chains[i], words[i]);
}

}  // namespace

uint64_t header_checksum(const void* data, size_t count) {
  const unsigned char* bytes = static_cast<const unsigned char*>(data);
  uint64_t hash = kBasis;
  for (size_t i = 0; i < count; ++i) hash = (hash ^ bytes[i]) * kPrime;
  return hash;
}

uint64_t payload_checksum(const void* data, size_t count) {
  const unsigned char* bytes = static_cast<const unsigned char*>(data);
  uint64_t chains[kChains];
  for (int i = 0; i < kChains; ++i) chains[i] = kBasis + static_cast<uint64_t>(i);
  size_t done = 0;
  for (; count - done >= kBlock; done += kBlock) add_block(chains, bytes + done);
  if (done < count) {
    unsigned char last[kBlock] = {};
    memcpy(last, bytes + done, count - done);
    add_block(chains, last);
  }
  uint64_t hash = step(kBasis, count);
  for (uint64_t chain : chains) hash = step(hash, chain);
  return hash;
}

}  // namespace mha
