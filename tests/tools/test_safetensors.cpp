// SPDX-License-Identifier: Apache-2.0
// The .safetensors reader and writer: valid files are read whole, damaged or hostile ones give one clear line.
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tools/io/safetensors.h"

namespace {

using namespace mha::io;

std::string st_file(const std::string& header, const std::string& data) {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

Result<Safetensors> open_bytes(const std::string& bytes) {
  return Safetensors::open(Source::memory(bytes.data(), bytes.size(), "memory"));
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

template <class T>
std::string raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// One line, printable, with the label and `part`.
void check_error(const std::string& bytes, const std::string& part) {
  const auto file = open_bytes(bytes);
  REQUIRE_FALSE(file);
  INFO(file.message());
  CHECK(file.message().find("memory: ") == 0);
  CHECK(file.message().find(part) != std::string::npos);
  CHECK(file.message().size() < 400);
  for (const char c : file.message()) CHECK((c >= 0x20 && c < 0x7f));
}

void check_header_error(const std::string& header, const std::string& part) {
  check_error(st_file(header, std::string(24, '\0')), part);
}

TEST_CASE("safetensors: what is written is read back") {
  const std::map<std::string, Tensor<float>> tensors = {{"b", {{2, 3}, {0, 1, 2, 3, 4, 5}}},
                                                        {"a", {{}, {7}}},
                                                        {"empty", {{0, 4}, {}}},
                                                        {"uni\xc3\xa9 \"quoted\"", {{1}, {-1}}}};
  const auto bytes = safetensors_bytes(tensors, {{"format", "pt"}});
  REQUIRE(bytes);
  const auto file = open_bytes(*bytes);
  INFO(file.message());
  REQUIRE(file);
  CHECK(file->tensors().size() == tensors.size());
  CHECK(file->metadata().at("format") == "pt");
  for (const auto& [name, tensor] : tensors) {
    const auto got = file->read<float>(name);
    REQUIRE(got);
    CHECK(got->shape == tensor.shape);
    CHECK(got->values == tensor.values);
    CHECK(file->find(name)->dtype == "F32");
  }
  CHECK(file->find("c") == nullptr);
  CHECK(file->read<float>("c").message() == "memory: has no tensor 'c'");

  CHECK_FALSE(safetensors_bytes({{"x", {{3}, {1, 2}}}}));
  CHECK_FALSE(safetensors_bytes({{"x", {{-1}, {}}}}));
  CHECK_FALSE(safetensors_bytes({{"\xff", {{1}, {1}}}}));
  CHECK_FALSE(safetensors_bytes({{"__metadata__", {{1}, {1}}}}));
}

TEST_CASE("safetensors: dtypes, at offsets of any alignment") {
  const std::string data = std::string("\1", 1) + raw<std::uint16_t>({0x3c00, 0xbe00}) +
                           raw<std::uint16_t>({0x3f80, 0xff80}) + raw<double>({0.1}) + raw<std::int64_t>({-5}) +
                           raw<std::int32_t>({9}) + raw<float>({2.5F}) + raw<std::uint64_t>({UINT64_MAX}) + "\x7f";
  const std::string header = "{" + entry("bool", "BOOL", "[1]", "[0,1]") + "," + entry("f16", "F16", "[2]", "[1,5]") +
                             "," + entry("bf16", "BF16", "[2]", "[5,9]") + "," +
                             entry("f64", "F64", "[1,1]", "[9,17]") + "," + entry("i64", "I64", "[1]", "[17,25]") +
                             "," + entry("i32", "I32", "[1]", "[25,29]") + "," + entry("f32", "F32", "[]", "[29,33]") +
                             "," + entry("u64", "U64", "[1]", "[33,41]") + "," +
                             entry("f8", "F8_E4M3", "[1]", "[41,42]") + "}  ";
  const std::string bytes = st_file(header, data);
  const auto file = open_bytes(bytes);
  INFO(file.message());
  REQUIRE(file);
  CHECK(file->read<std::uint8_t>("bool")->values == std::vector<std::uint8_t>{1});
  CHECK(file->read<float>("f16")->values == std::vector<float>{1, -1.5F});
  CHECK(file->read<float>("bf16")->values == std::vector<float>{1, -INFINITY});
  CHECK(file->read<float>("f64")->values == std::vector<float>{0.1F});
  CHECK(file->read<double>("f64")->values == std::vector<double>{0.1});
  CHECK(file->read<std::int64_t>("i64")->values == std::vector<std::int64_t>{-5});
  CHECK(file->read<std::int64_t>("i32")->values == std::vector<std::int64_t>{9});
  CHECK(file->read<float>("f32")->values == std::vector<float>{2.5F});
  CHECK(file->read<float>("i64").message() == "memory: tensor 'i64': holds int64, which is not converted to float32");
  CHECK(file->read<float>("f8").message() == "memory: tensor 'f8': dtype F8_E4M3 is not supported");
  CHECK(file->read<std::int64_t>("u64").message().find("beyond the range of int64") != std::string::npos);
}

TEST_CASE("safetensors: a file cut at any byte is refused") {
  const auto whole = safetensors_bytes({{"a", {{2}, {1, 2}}}, {"b", {{1, 2}, {3, 4}}}}, {{"k", "v"}});
  REQUIRE(whole);
  REQUIRE(open_bytes(*whole));
  for (std::size_t size = 0; size < whole->size(); ++size) {
    const std::vector<char> cut(whole->begin(), whole->begin() + static_cast<std::ptrdiff_t>(size));
    const auto result = Safetensors::open(Source::memory(cut.data(), cut.size(), "memory"));
    INFO(size);
    REQUIRE_FALSE(result);
    REQUIRE_FALSE(result.message().empty());
  }
  check_error(*whole + "x", "data has 17 bytes, the tensors end at 16");
}

TEST_CASE("safetensors: any single byte of the header changed never crashes") {
  const auto whole = safetensors_bytes({{"a", {{2}, {1, 2}}}});
  REQUIRE(whole);
  for (std::size_t at = 0; at < whole->size() - 8; ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string damaged = *whole;
      damaged[at] = static_cast<char>(value);
      const auto file = open_bytes(damaged);
      if (file) {
        for (const TensorInfo& tensor : file->tensors()) (void)file->read<float>(tensor.name);
      } else {
        REQUIRE_FALSE(file.message().empty());
      }
    }
  }
}

TEST_CASE("safetensors: hostile lengths and JSON") {
  check_error("", "truncated");
  check_error(std::string(8, '\xff'), "header length 18446744073709551615");
  check_error(std::string("\xff\xff\xff\xff\0\0\0\0{}", 10), "header length 4294967295");
  check_error(st_file("", ""), "not valid JSON");
  check_header_error("[]", "header is an array");
  check_header_error("3", "header is a number");
  check_header_error("null", "header is null");
  check_header_error("{}", "data has 24 bytes, the tensors end at 0");
  check_header_error("{} x", "not valid JSON");
  check_header_error("{\"a\":", "not valid JSON");
  check_header_error("{\"\xff\":1}", "not valid JSON");
  check_header_error("{\"a\":1}", "'a' is a number, not an object");
  check_header_error("{\"a\":[1]}", "'a' is an array");
  check_header_error("{\"a\":{\"dtype\":{}}}", "'dtype' is an object");
  check_header_error("{\"__metadata__\":{\"k\":1}}", "__metadata__ key 'k' has a number");
  check_header_error("{\"__metadata__\":{\"k\":\"a\",\"k\":\"b\"}}", "given twice");
  check_header_error("{\"__metadata__\":\"text\"}", "not an object");
  // Depth and size: no tree is built, the first level too many ends it.
  check_header_error("{\"a\":{\"shape\":" + std::string(1000000, '['), "shape has an array");
  check_header_error(std::string(1000000, '['), "header is an array");
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  check_header_error(objects, "tensor 'a': unknown key 'a'");
  check_header_error("{\"a\":{\"shape\":[" + std::string(200, '1') + "]}}", "not an integer below 2^63");
  check_header_error("{\"a\":{\"shape\":[" + std::string(200000, '1') + "]}}", "not valid JSON");
}

TEST_CASE("safetensors: hostile tensor entries") {
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "{" + entry("t", dtype, shape, offsets) + "}";
  };
  REQUIRE(open_bytes(st_file(one("F32", "[2,3]", "[0,24]"), std::string(24, '\0'))));
  check_header_error(one("F31", "[6]", "[0,24]"), "unknown dtype 'F31'");
  check_header_error(one("F32", "[6]", "[0]"), "fewer than two");
  check_header_error(one("F32", "[6]", "[0,24,24]"), "more than two");
  check_header_error(one("F32", "[6]", "[24,0]"), "end before they begin");
  check_header_error(one("F32", "[6]", "[0,20]"), "span 20 bytes, shape [6] of F32 needs 24");
  check_header_error(one("F32", "[7]", "[0,28]"), "beyond the end of the data (24 bytes)");
  check_header_error(one("F32", "[5]", "[4,24]"), "leave a hole after 0");
  check_header_error(one("F32", "[5]", "[0,20]"), "the tensors end at 20");
  check_header_error(one("F32", "[-1]", "[0,24]"), "shape has the negative number -1");
  check_header_error(one("F32", "[6]", "[-1,23]"), "data_offsets has the negative number -1");
  check_header_error(one("F32", "[6.0]", "[0,24]"), "not an integer");
  check_header_error(one("F32", "[6]", "[0,1e400]"), "not valid JSON");
  check_header_error(one("F32", "[\"6\"]", "[0,24]"), "shape has a string");
  check_header_error(one("F32", "[true]", "[0,24]"), "shape has a boolean");
  check_header_error(one("F32", "6", "[0,24]"), "'shape' is a number");
  check_header_error(one("F32", "[18446744073709551615]", "[0,24]"), "does not fit in 63 bits");
  check_header_error(one("F32", "[18446744073709551616]", "[0,24]"), "not an integer below 2^63");
  check_header_error(one("F32", "[4611686018427387904,4]", "[0,24]"), "does not fit in 63 bits");
  check_header_error(one("F32", "[4611686018427387904,4,0]", "[0,0]"), "does not fit in 63 bits");
  check_header_error(one("F32", "[6]", "[9223372036854775800,9223372036854775807]"), "span 7 bytes");
  check_header_error("{\"t\":{\"dtype\":\"F32\",\"shape\":[6]}}", "tensor 't': has no 'data_offsets'");
  check_header_error("{\"t\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", "key 'dtype' is given twice");
  check_header_error("{\"t\":{\"color\":\"red\"}}", "unknown key 'color'");
  check_header_error("{" + entry("t", "F32", "[3]", "[0,12]") + "," + entry("t", "F32", "[3]", "[12,24]") + "}",
                     "tensor 't' is given twice");
  check_header_error("{" + entry("t", "F32", "[3]", "[0,12]") + "," + entry("u", "F32", "[4]", "[8,24]") + "}",
                     "tensor 'u': data_offsets [8, 24] overlap the tensor before, which ends at 12");
  check_header_error("{" + entry("t\\n\\u001b[2J", "F32", "[3]", "[0,13]") + "}", "tensor 't\\x0a\\x1b[2J'");
  std::string many = "[1";
  for (int i = 0; i < 32; ++i) many += ",1";
  check_header_error(one("F32", many + "]", "[0,4]"), "more than 32 dimensions");
}

}  // namespace
