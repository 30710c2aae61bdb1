// SPDX-License-Identifier: Apache-2.0
// The seeds of random problems. MHA_TEST_SEED_STEP=4 takes every fourth of them, and of the longest lists of cases: in
// builds of another kind, and under an emulator or a sanitizer, where a problem costs some twenty times as much. A plain
// build takes all.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <vector>

namespace mha::test {

inline uint64_t seed_step() {
  const char* text = std::getenv("MHA_TEST_SEED_STEP");
  const uint64_t step = text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
  return step > 0 ? step : 1;
}

inline std::vector<uint64_t> seeds(uint64_t first, uint64_t count) {
  std::vector<uint64_t> all;
  for (uint64_t n = 0; n < count; n += seed_step()) all.push_back(first + n);
  return all;
}

/// Which of a test's many cases are taken, asked for one after the other: all, or as few as seeds, but one of `most` at
/// least. Spread, so that the step of an inner loop does not matter.
class Taken {
 public:
  explicit Taken(uint64_t most = 8) : step_(seed_step() < most ? seed_step() : most) {}
  bool next() {
    const uint64_t mixed = ++count_ * 0x9e3779b97f4a7c15u;
    return step_ == 1 || (mixed >> 40) % step_ == 0;
  }

 private:
  uint64_t step_, count_ = 0;
};

/// How many of `cases`, counted with all seeds, a test may still expect to exceed when only some seeds run: a quarter of
/// their share, since chance weighs more among few. Where that is below one it is -1, so that the test asks for nothing.
inline int64_t share_of(int64_t cases) {
  if (seed_step() == 1) return cases;
  const auto share = cases / static_cast<int64_t>(4 * seed_step());
  return share > 0 ? share : -1;
}

}  // namespace mha::test
