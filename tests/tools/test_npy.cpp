// SPDX-License-Identifier: Apache-2.0
// The .npy reader and writer: what NumPy writes is read back, and damaged or hostile files give one clear line.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include <unistd.h>

#include "tests/support/catch.h"
#include "tools/io/npy.h"

namespace {

using namespace mha::io;

std::string npy_file(const std::string& dictionary, const std::string& data, int version = 1) {
  std::string text = dictionary + "\n";
  std::string out("\x93NUMPY", 6);
  out += static_cast<char>(version);
  out += '\0';
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) out += static_cast<char>((text.size() >> (8 * i)) & 0xff);
  return out + text + data;
}

std::string dictionary(const std::string& descr, const std::string& shape, const std::string& order = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }";
}

template <class T>
std::string raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

template <class T>
Result<Tensor<T>> parse(const std::string& bytes) {
  return read_npy<T>(Source::memory(bytes.data(), bytes.size(), "memory"));
}

template <class T>
void check_values(const std::string& bytes, const std::vector<std::int64_t>& shape, const std::vector<T>& values) {
  const auto tensor = parse<T>(bytes);
  INFO(tensor.message());
  REQUIRE(tensor);
  CHECK(tensor->shape == shape);
  CHECK(tensor->values == values);
}

// One line, printable, with the label and `part`.
void check_error(const std::string& bytes, const std::string& part) {
  const auto tensor = parse<float>(bytes);
  REQUIRE_FALSE(tensor);
  INFO(tensor.message());
  CHECK(tensor.message().find("memory: ") == 0);
  CHECK(tensor.message().find(part) != std::string::npos);
  for (const char c : tensor.message()) CHECK((c >= 0x20 && c < 0x7f));
}

struct TemporaryFile {
  std::string path = (std::filesystem::temp_directory_path() / "mha_test_npy_XXXXXX").string();
  TemporaryFile() {
    const int file = mkstemp(path.data());
    REQUIRE(file >= 0);
    close(file);
  }
  ~TemporaryFile() { std::remove(path.c_str()); }
};

TEST_CASE("npy: every dtype that is read") {
  check_values<float>(npy_file(dictionary("<f4", "(3,)"), raw<float>({1.5F, -2, 0})), {3}, {1.5F, -2, 0});
  check_values<float>(npy_file(dictionary("<f8", "(2,)"), raw<double>({0.1, -1e300 * 0})), {2}, {0.1F, -0.0F});
  check_values<double>(npy_file(dictionary("<f8", "(1,)"), raw<double>({1e300})), {1}, {1e300});
  check_values<float>(npy_file(dictionary("<f2", "(4,)"), raw<std::uint16_t>({0x3c00, 0xc000, 0x0001, 0x7bff})), {4},
                      {1, -2, std::ldexp(1.0F, -24), 65504});
  check_values<std::uint8_t>(npy_file(dictionary("|b1", "(3,)"), std::string("\0\1\2", 3)), {3}, {0, 1, 1});
  check_values<std::uint8_t>(npy_file(dictionary("|u1", "(2,)"), std::string("\0\xff", 2)), {2}, {0, 1});
  check_values<std::int64_t>(npy_file(dictionary("|u1", "(1,)"), "\xff"), {1}, {255});
  check_values<std::int64_t>(npy_file(dictionary("<i4", "(2,)"), raw<std::int32_t>({-7, 7})), {2}, {-7, 7});
  check_values<std::int64_t>(npy_file(dictionary("<i8", "(1,)"), raw<std::int64_t>({INT64_MIN})), {1}, {INT64_MIN});
}

TEST_CASE("npy: half precision, every bit pattern") {
  for (int bits = 0; bits < 65536; ++bits) {
    const float got = half_to_float(static_cast<std::uint16_t>(bits));
    const int exponent = (bits >> 10) & 31;
    const int mantissa = bits & 1023;
    const double sign = bits >= 0x8000 ? -1 : 1;
    if (exponent == 31 && mantissa != 0) {
      REQUIRE(std::isnan(got));
      continue;
    }
    double want = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31) want = std::numeric_limits<double>::infinity();
    REQUIRE(static_cast<double>(got) == sign * want);
    REQUIRE(std::signbit(got) == (sign < 0));
  }
}

TEST_CASE("npy: versions, orders, shapes, and the spellings Python allows") {
  const std::string data = raw<float>({0, 1, 2, 3, 4, 5});
  const std::vector<float> values = {0, 1, 2, 3, 4, 5};
  for (const int version : {1, 2, 3})
    check_values(npy_file(dictionary("<f4", "(2, 3)"), data, version), {2, 3}, values);
  check_values<float>(npy_file(dictionary("<f4", "(2, 3)", "True"), data), {2, 3}, {0, 2, 4, 1, 3, 5});
  check_values<float>(npy_file(dictionary("<f4", "(6,)", "True"), data), {6}, values);
  check_values<float>(npy_file(dictionary("<f4", "()"), raw<float>({7})), {}, {7});
  check_values<float>(npy_file(dictionary("<f4", "(0, 5)", "True"), ""), {0, 5}, {});
  check_values<float>(npy_file("{\"shape\":(2L,3L),\"descr\":\"<f4\",\"fortran_order\":False}", data), {2, 3}, values);
  check_values<float>(npy_file(" { 'fortran_order' : False ,\n'shape':(1,2,3,),'descr':'<f4'}   ", data), {1, 2, 3},
                      values);

  std::vector<float> cube(24);
  std::vector<float> column_major(24);
  for (std::size_t i = 0; i < 2; ++i) {
    for (std::size_t j = 0; j < 3; ++j) {
      for (std::size_t k = 0; k < 4; ++k) {
        const auto value = static_cast<float>(100 * i + 10 * j + k);
        cube[(i * 3 + j) * 4 + k] = value;
        column_major[i + 2 * (j + 3 * k)] = value;
      }
    }
  }
  check_values(npy_file(dictionary("<f4", "(2, 3, 4)", "True"), raw(column_major)), {2, 3, 4}, cube);
}

TEST_CASE("npy: what is written is read back") {
  const TemporaryFile file;
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  for (const auto& shape : std::vector<std::vector<std::int64_t>>{{6}, {2, 3}, {1, 2, 1, 3}, {}, {0, 7}}) {
    REQUIRE(write_npy(file.path, shape, values.data()));
    const auto tensor = read_npy<float>(file.path);
    INFO(tensor.message());
    REQUIRE(tensor);
    CHECK(tensor->shape == shape);
    const auto count = static_cast<std::ptrdiff_t>(shape_elements(shape));
    CHECK(tensor->values == std::vector<float>(values.begin(), values.begin() + count));
  }
  const std::vector<std::int64_t> integers = {-1, INT64_MAX};
  REQUIRE(write_npy(file.path, {2}, integers.data()));
  CHECK(read_npy<std::int64_t>(file.path)->values == integers);
  const std::vector<std::uint8_t> booleans = {0, 1};
  REQUIRE(write_npy(file.path, {2}, booleans.data()));
  CHECK(read_npy<std::uint8_t>(file.path)->values == booleans);
  CHECK_FALSE(write_npy(file.path, {-1}, values.data()));
  CHECK_FALSE(write_npy("/nonexistent/folder/file.npy", {6}, values.data()));
  CHECK(npy_header(Scalar::kF32, {2, 3}).size() % 64 == 0);
}

TEST_CASE("npy: a file cut at any byte is refused") {
  for (const int version : {1, 2}) {
    const std::string whole = npy_file(dictionary("<f4", "(2, 3)"), raw<float>({0, 1, 2, 3, 4, 5}), version);
    REQUIRE(parse<float>(whole));
    for (std::size_t size = 0; size < whole.size(); ++size) {
      // A copy of exactly this size, so that a sanitizer sees any read beyond it.
      const std::vector<char> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
      const auto result = read_npy<float>(Source::memory(cut.data(), cut.size(), "memory"));
      INFO(size);
      REQUIRE_FALSE(result);
      REQUIRE_FALSE(result.message().empty());
    }
    check_error(whole + "x", "data too long");
  }
}

TEST_CASE("npy: any single byte of the header changed never crashes") {
  const std::string whole = npy_file(dictionary("<f4", "(2, 3)"), raw<float>({0, 1, 2, 3, 4, 5}));
  for (std::size_t at = 0; at < whole.size() - 24; ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(value);
      const auto result = parse<float>(damaged);
      if (!result) REQUIRE_FALSE(result.message().empty());
    }
  }
}

TEST_CASE("npy: hostile headers") {
  const std::string data(24, '\0');
  check_error("", "truncated");
  check_error(std::string(100, 'x'), "magic");
  check_error(npy_file(dictionary("<f4", "(6,)"), data, 4), "version 4.0");
  check_error(std::string("\x93NUMPY\x01\x00\xff\xff{}", 12), "header length 65535");
  check_error(std::string("\x93NUMPY\x02\x00\xff\xff\xff\xff{}", 14), "header length 4294967295");
  check_error(npy_file(std::string(1U << 21, ' '), "", 2), "limit");
  check_error(npy_file("", ""), "does not start with '{'");
  check_error(npy_file("{", ""), "expected a quoted key");
  check_error(npy_file("{'descr'", ""), "expected ':'");
  check_error(npy_file("{'descr", ""), "expected a quoted key");
  check_error(npy_file("{'descr': '<f4'}", data), "no 'fortran_order'");
  check_error(npy_file("{'descr': '<f4', 'fortran_order': False}", data), "no 'shape'");
  check_error(npy_file("{'descr': '<f4', 'descr': '<f4'}", data), "twice");
  check_error(npy_file("{'a\x1b[31m\n': 1}", data), "unknown key 'a\\x1b[31m\\x0a'");
  check_error(npy_file(dictionary("<f4", "(6,)") + "x", data), "after the closing");
  check_error(npy_file("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,)}", data), "structured");
  check_error(npy_file(dictionary(">f4", "(6,)"), data), "big-endian");
  check_error(npy_file(dictionary("|O", "(6,)"), data), "'|O' is not supported");
  check_error(npy_file(dictionary("<c8", "(3,)"), data), "'<c8' is not supported");
  check_error(npy_file(dictionary("<f4", "(6,)", "Maybe"), data), "neither True nor False");
  check_error(npy_file(dictionary("<f4", "6"), data), "not a tuple");
  check_error(npy_file(dictionary("<f4", "(-6,)"), data), "negative");
  check_error(npy_file(dictionary("<f4", "(6.0,)"), data), "expected ',' or ')'");
  check_error(npy_file(dictionary("<f4", "(x,)"), data), "not a number");
  check_error(npy_file("{'descr': '<f4', 'fortran_order': False, 'shape': (6", data), "expected ',' or ')'");
  check_error(npy_file(dictionary("<f4", "(9223372036854775808,)"), data), "63 bits");
  check_error(npy_file(dictionary("<f4", "(99999999999999999999999,)"), data), "63 bits");
  check_error(npy_file(dictionary("<f4", "(4611686018427387904, 4)"), data), "63 bits");
  check_error(npy_file(dictionary("<f4", "(4611686018427387904, 4611686018427387904, 0)"), data), "63 bits");
  check_error(npy_file(dictionary("|u1", "(1152921504606846976, 0)"), ""), "63 bits");
  check_error(npy_file(dictionary("<f4", "(1152921504606846975,)"), data), "truncated");
  check_error(npy_file(dictionary("<f4", "(1000000000000,)"), data), "needs 4000000000000 bytes, the file has 24");
  std::string many = "(";
  for (int i = 0; i < 33; ++i) many += "1,";
  check_error(npy_file(dictionary("<f4", many + ")"), std::string(4, '\0')), "more than 32 dimensions");
}

TEST_CASE("npy: values that do not fit the type asked for") {
  check_error(npy_file(dictionary("<f8", "(2,)"), raw<double>({0, 1e39})), "element 1 is 1e+39, beyond");
  check_error(npy_file(dictionary("<i8", "(1,)"), raw<std::int64_t>({1})),
              "holds int64, which is not converted to float32");
  const double inf = std::numeric_limits<double>::infinity();
  check_values<float>(npy_file(dictionary("<f8", "(1,)"), raw<double>({inf})), {1}, {static_cast<float>(inf)});
  CHECK_FALSE(parse<std::uint8_t>(npy_file(dictionary("<f4", "(1,)"), raw<float>({1}))));
  CHECK_FALSE(parse<std::int64_t>(npy_file(dictionary("<f4", "(1,)"), raw<float>({1}))));
}

TEST_CASE("npy: files that are not files") {
  for (const char* path : {"/nonexistent.npy", "/", "/dev/zero"}) {
    const auto result = read_npy<float>(std::string(path));
    REQUIRE_FALSE(result);
    CHECK(result.message().find(path) == 0);
  }
}

}  // namespace
