// SPDX-License-Identifier: Apache-2.0
// The golden numbers of tests/golden (made by tools/oracles/make_golden.py with PyTorch): tensors by name, cases as
// JSON.
#ifndef MHA_TESTS_SUPPORT_GOLDEN_H
#define MHA_TESTS_SUPPORT_GOLDEN_H

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/compare.h"
#include "tools/io/safetensors.h"

namespace mha::test {

/// One file. A missing file or tensor fails the test with the reader's message.
class GoldenFile {
 public:
  /// `name` without folder and ".safetensors".
  explicit GoldenFile(const std::string& name) : file_(open(name)) {
    const auto found = file_.metadata().find("golden");
    if (found == file_.metadata().end()) FAIL(file_.label() << ": no metadata entry \"golden\"");
    cases_ = nlohmann::json::parse(found->second).at("cases");
    REQUIRE(!cases_.empty());
  }

  /// A list of objects; their "name" is the prefix of the case's tensors ("name/query").
  const nlohmann::json& cases() const { return cases_; }
  bool has(const std::string& name) const { return file_.find(name) != nullptr; }
  const std::vector<std::int64_t>& shape(const std::string& name) const {
    if (!has(name)) FAIL(file_.label() << ": no tensor " << name);
    return file_.find(name)->shape;
  }
  bool is_bool(const std::string& name) const { return has(name) && file_.find(name)->scalar == io::Scalar::kBool; }

  std::vector<float> floats(const std::string& name) const { return read<float>(name); }
  std::vector<double> doubles(const std::string& name) const { return read<double>(name); }
  std::vector<std::uint8_t> bytes(const std::string& name) const { return read<std::uint8_t>(name); }
  std::vector<std::int64_t> integers(const std::string& name) const { return read<std::int64_t>(name); }
  /// Empty if there is no such tensor.
  std::vector<float> floats_or_none(const std::string& name) const {
    return has(name) ? floats(name) : std::vector<float>();
  }

 private:
  static io::Safetensors open(const std::string& name) {
    auto file = io::Safetensors::open(std::string(MHA_TEST_DATA) + "/" + name + ".safetensors");
    if (!file) FAIL(file.message());
    return std::move(*file);
  }
  template <class T>
  std::vector<T> read(const std::string& name) const {
    auto tensor = file_.read<T>(name);
    if (!tensor) FAIL(tensor.message());
    return std::move(tensor->values);
  }

  io::Safetensors file_;
  nlohmann::json cases_;
};

/// Whether a double of the reference agrees with a golden float32 as far as that is able to say: half a unit in its last
/// place, and 1e-13 for two float64 sums in different orders. An infinity agrees with itself alone.
inline bool rounds_to(double reference, double golden) {
  if (reference == golden) return true;
  return std::isfinite(golden) && std::fabs(reference - golden) <= 0x1p-24 * std::fabs(golden) + 1e-13;
}

/// Fails unless all of them do.
inline void check_rounds_to(const std::string& what, const std::vector<double>& reference,
                            const std::vector<double>& golden) {
  REQUIRE(reference.size() == golden.size());
  for (size_t n = 0; n < golden.size(); ++n) {
    if (rounds_to(reference[n], golden[n])) continue;
    FAIL_CHECK(what << ": element " << n << " of " << golden.size() << " is " << reference[n] << ", PyTorch's is "
                    << golden[n]);
    return;
  }
  SUCCEED();
}

/// Dense [a, b, c, d] to dense [a, c, b, d].
template <class T>
std::vector<T> swap_middle(const std::vector<T>& from, int64_t a, int64_t b, int64_t c, int64_t d) {
  REQUIRE(from.size() == static_cast<size_t>(a * b * c * d));
  std::vector<T> to;
  to.reserve(from.size());
  for (int64_t i = 0; i < a; ++i)
    for (int64_t k = 0; k < c; ++k)
      for (int64_t j = 0; j < b; ++j)
        for (int64_t l = 0; l < d; ++l) to.push_back(from[static_cast<size_t>(((i * b + j) * c + k) * d + l)]);
  return to;
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_GOLDEN_H
