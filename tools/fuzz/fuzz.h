// SPDX-License-Identifier: Apache-2.0
// Shared by the fuzz targets: checks that stop the run, and valid inputs to start from, made on the fly.
#ifndef MHA_TOOLS_FUZZ_FUZZ_H
#define MHA_TOOLS_FUZZ_FUZZ_H

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

// What must hold for every input. abort() is what libFuzzer records as a finding.
#define MHA_FUZZ_CHECK(condition, ...)                                                   \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: %s does not hold: ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                                 \
      std::fprintf(stderr, "\n");                                                        \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace mha::fuzz {

// For LLVMFuzzerCustomMutator: the corpus starts empty, so that most empty and a few other inputs become one of
// `seeds`; the rest is left to libFuzzer.
inline std::size_t mutate_or_seed(std::uint8_t* data, std::size_t size, std::size_t max_size, unsigned random,
                                  const std::vector<std::string>& seeds) {
  const std::string& seed = seeds[random / 256 % seeds.size()];
  if ((size <= 1 || random % 256 == 0) && seed.size() <= max_size) {
    std::copy(seed.begin(), seed.end(), data);
    size = seed.size();
  }
  return LLVMFuzzerMutate(data, size, max_size);
}

// Random bytes, for targets that draw sizes and values from their input: one that is short leaves most of them at zero.
inline std::vector<std::string> random_seeds(std::size_t bytes) {
  std::mt19937 generator(1);
  std::vector<std::string> made(64, std::string(bytes, ' '));
  for (std::string& seed : made)
    for (char& byte : seed) byte = static_cast<char>(generator());
  return made;
}

}  // namespace mha::fuzz

#endif  // MHA_TOOLS_FUZZ_FUZZ_H
