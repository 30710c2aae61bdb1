// SPDX-License-Identifier: Apache-2.0
// The event-by-event header parser; see safetensors_header.h. Expected events:
//   { "name": { "dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24] }, ..., "__metadata__": { "key": "text", ... }
//   }
#include "tools/io/safetensors_header.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <set>

namespace mha::io {
namespace {

using nlohmann::json;

struct DtypeInfo {
  const char* name;
  Scalar scalar;
  std::uint64_t bytes;
};

// Every dtype of whole bytes that the format knows. Those without a Scalar are checked and listed, but not read.
constexpr DtypeInfo kDtypes[] = {
    {"F32", Scalar::kF32, 4},       {"F16", Scalar::kF16, 2},       {"BF16", Scalar::kBF16, 2},
    {"F64", Scalar::kF64, 8},       {"BOOL", Scalar::kBool, 1},     {"U8", Scalar::kU8, 1},
    {"I8", Scalar::kI8, 1},         {"U16", Scalar::kU16, 2},       {"I16", Scalar::kI16, 2},
    {"U32", Scalar::kU32, 4},       {"I32", Scalar::kI32, 4},       {"U64", Scalar::kU64, 8},
    {"I64", Scalar::kI64, 8},       {"F8_E4M3", Scalar::kOther, 1}, {"F8_E5M2", Scalar::kOther, 1},
    {"F8_E8M0", Scalar::kOther, 1}, {"C64", Scalar::kOther, 8}};

const DtypeInfo* find_dtype(const std::string& name) {
  for (const DtypeInfo& known : kDtypes) {
    if (name == known.name) return &known;
  }
  return nullptr;
}

class HeaderEvents final : public json::json_sax_t {
 public:
  SafetensorsHeader header;
  std::string wrong;

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(json::number_integer_t x) override {
    return unexpected("the negative number " + std::to_string(x));
  }
  bool number_float(json::number_float_t, const std::string& text) override {
    return unexpected("the number " + printable(text, 40) + " (not an integer below 2^63)");
  }
  bool binary(json::binary_t&) override { return unexpected("binary data"); }

  bool number_unsigned(json::number_unsigned_t x) override {
    constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (state_ != State::kShape && state_ != State::kOffsets) return unexpected("a number");
    if (x > kMax) return fail(tensor() + "the number " + std::to_string(x) + " does not fit in 63 bits");
    if (state_ == State::kOffsets) {
      if (offsets_.size() == 2) return fail(tensor() + "data_offsets has more than two numbers");
      offsets_.push_back(x);
      return true;
    }
    if (info_.shape.size() == kMaxRank)
      return fail(tensor() + "shape has more than " + std::to_string(kMaxRank) + " dimensions");
    info_.shape.push_back(static_cast<std::int64_t>(x));
    return true;
  }

  bool string(std::string& text) override {
    if (state_ == State::kMetadata) {
      header.metadata[key_] = text;
      return true;
    }
    if (state_ != State::kTensor || key_ != "dtype") return unexpected("a string");
    info_.dtype = text;
    return true;
  }

  bool key(std::string& name) override {
    key_ = name;
    if (state_ == State::kTop) {
      return names_.insert(name).second || fail("tensor '" + printable(name) + "' is given twice");
    }
    if (state_ == State::kMetadata) {
      return header.metadata.count(name) == 0 || fail("__metadata__ key '" + printable(name) + "' is given twice");
    }
    if (name != "dtype" && name != "shape" && name != "data_offsets") {
      return fail(tensor() + "unknown key '" + printable(name) + "'");
    }
    return fields_.insert(name).second || fail(tensor() + "key '" + name + "' is given twice");
  }

  bool start_object(std::size_t) override {
    if (state_ == State::kStart) {
      state_ = State::kTop;
    } else if (state_ == State::kTop && key_ == "__metadata__") {
      state_ = State::kMetadata;
    } else if (state_ == State::kTop) {
      state_ = State::kTensor;
      info_ = {};
      info_.name = key_;
      offsets_.clear();
      fields_.clear();
    } else {
      return unexpected("an object");
    }
    return true;
  }

  bool end_object() override {
    if (state_ == State::kTensor && !finish_tensor()) return false;
    state_ = state_ == State::kTop ? State::kEnd : State::kTop;
    return true;
  }

  bool start_array(std::size_t) override {
    if (state_ != State::kTensor || key_ == "dtype") return unexpected("an array");
    state_ = key_ == "shape" ? State::kShape : State::kOffsets;
    return true;
  }

  bool end_array() override {
    state_ = State::kTensor;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const json::exception&) override {
    return fail("header is not valid JSON at byte " + std::to_string(position));
  }

 private:
  enum class State { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kEnd };

  bool fail(const std::string& message) {
    wrong = message;
    return false;
  }

  std::string tensor() const { return "tensor '" + printable(info_.name) + "': "; }

  bool unexpected(const std::string& what) {
    switch (state_) {
      case State::kStart:
        return fail("header is " + what + ", not an object");
      case State::kMetadata:
        return fail("__metadata__ key '" + printable(key_) + "' has " + what + ", not a string");
      case State::kTensor:
        return fail(tensor() + "'" + key_ + "' is " + what);
      case State::kShape:
        return fail(tensor() + "shape has " + what);
      case State::kOffsets:
        return fail(tensor() + "data_offsets has " + what);
      default:
        return fail("'" + printable(key_) + "' is " + what + ", not an object");
    }
  }

  bool finish_tensor() {
    for (const char* field : {"dtype", "shape", "data_offsets"}) {
      if (fields_.count(field) == 0) return fail(tensor() + "has no '" + field + "'");
    }
    const DtypeInfo* dtype = find_dtype(info_.dtype);
    if (dtype == nullptr) return fail(tensor() + "unknown dtype '" + printable(info_.dtype) + "'");
    if (offsets_.size() != 2) return fail(tensor() + "data_offsets has fewer than two numbers");
    const auto bytes = shape_bytes(info_.shape, dtype->bytes);
    if (!bytes) return fail(tensor() + bytes.message());
    info_.scalar = dtype->scalar;
    info_.begin = offsets_[0];
    info_.end = offsets_[1];
    const std::string range = "data_offsets [" + std::to_string(info_.begin) + ", " + std::to_string(info_.end) + "]";
    if (info_.begin > info_.end) return fail(tensor() + range + " end before they begin");
    if (info_.end - info_.begin != static_cast<std::uint64_t>(*bytes)) {
      return fail(tensor() + range + " span " + std::to_string(info_.end - info_.begin) + " bytes, shape " +
                  shape_text(info_.shape) + " of " + info_.dtype + " needs " + std::to_string(*bytes));
    }
    header.tensors.push_back(info_);
    return true;
  }

  State state_ = State::kStart;
  std::string key_;
  TensorInfo info_;
  std::vector<std::uint64_t> offsets_;
  std::set<std::string> names_;
  std::set<std::string> fields_;
};

}  // namespace

Result<SafetensorsHeader> parse_safetensors_header(std::string_view text) {
  HeaderEvents events;
  if (!json::sax_parse(text.begin(), text.end(), &events)) return Error{events.wrong};
  return std::move(events.header);
}

}  // namespace mha::io
