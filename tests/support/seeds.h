// SPDX-License-Identifier: Apache-2.0
// The seeds of random problems. MHA_TEST_SEED_STEP=4 takes every fourth of them: under an emulator or a sanitizer, where a
// problem costs some twenty times as much and the values were compared already by a plain build.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <vector>

namespace mha::test {

inline std::vector<uint64_t> seeds(uint64_t first, uint64_t count) {
  const char* text = std::getenv("MHA_TEST_SEED_STEP");
  const uint64_t given = text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
  std::vector<uint64_t> all;
  for (uint64_t n = 0; n<count; n += given> 0 ? given : 1) all.push_back(first + n);
  return all;
}

}  // namespace mha::test
