// SPDX-License-Identifier: Apache-2.0
// The GGUF reader; see gguf.h. The format: "GGUF", version, number of tensors, number of metadata pairs; the pairs (key, type,
// value); the tensors (name, dimensions from the innermost on, type, offset); padding to the alignment; the data.
#include "tools/io/gguf.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "tools/io/gguf_cursor.h"
#include "tools/io/gguf_types.h"
#include "tools/io/tensor.h"

namespace mha::io {
namespace {

constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr std::uint64_t kMaxKey = 65535;      // the limit of the format
constexpr std::uint64_t kMaxText = std::uint64_t{1} << 30;
constexpr std::uint64_t kKeptText = 4096;      // longer texts (chat templates) are skipped
constexpr std::uint64_t kKeptIntegers = 4096;  // longer arrays (token types) are skipped
constexpr std::uint64_t kMaxDims = 4;          // of ggml
constexpr std::uint64_t kLeastTensorBytes = 24, kLeastPairBytes = 13;
constexpr std::uint64_t kMaxAlignment = std::uint64_t{1} << 20;

// Types of metadata values.
enum ValueType : std::uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kText = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12
};
constexpr std::uint64_t kValueBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};  // texts and arrays: of their own

bool is_integer(std::uint32_t type) { return type <= kI32 || type == kU64 || type == kI64; }

std::int64_t read_integer(GgufCursor& cursor, std::uint32_t type) {
  switch (type) {
    case kU8:
      return cursor.number<std::uint8_t>();
    case kI8:
      return cursor.number<std::int8_t>();
    case kU16:
      return cursor.number<std::uint16_t>();
    case kI16:
      return cursor.number<std::int16_t>();
    case kU32:
      return cursor.number<std::uint32_t>();
    case kI32:
      return cursor.number<std::int32_t>();
    case kU64: {
      const auto value = cursor.number<std::uint64_t>();
      constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
      if (value > kMost) cursor.fail("the integer " + std::to_string(value) + " does not fit in 63 bits");
      return static_cast<std::int64_t>(std::min(value, kMost));
    }
    default:
      return cursor.number<std::int64_t>();
  }
}

}  // namespace

// Fills a Gguf from the bytes in front of the data. Each step returns what is wrong, or nothing.
class GgufParser {
 public:
  explicit GgufParser(Gguf& file) : file_(file), cursor_(file.source_) {}

  std::string parse() {
    const auto magic = cursor_.number<std::uint32_t>();
    const auto version = cursor_.number<std::uint32_t>();
    const auto tensors = cursor_.number<std::uint64_t>();
    const auto pairs = cursor_.number<std::uint64_t>();
    if (cursor_.failed()) return cursor_.message();
    if (magic != kMagic) return "does not begin with GGUF";
    if (version != 2 && version != 3) {
      const bool swapped = version != 0 && version % 65536 == 0;
      return "GGUF version " + std::to_string(version) + " is not supported (2 and 3 are)" +
             (swapped ? "; the file's byte order is the other one" : "");
    }
    if (tensors > cursor_.left() / kLeastTensorBytes) return too_many("tensors", tensors);
    if (pairs > cursor_.left() / kLeastPairBytes) return too_many("metadata pairs", pairs);
    std::string wrong;
    for (std::uint64_t n = 0; n < pairs && wrong.empty(); ++n) wrong = parse_pair();
    if (wrong.empty()) wrong = take_alignment();
    for (std::uint64_t n = 0; n < tensors && wrong.empty(); ++n) wrong = parse_tensor();
    return wrong.empty() ? place_data() : wrong;
  }

 private:
  std::string too_many(const std::string& what, std::uint64_t count) const {
    return std::to_string(count) + " " + what + " do not fit in a file of " + std::to_string(file_.source_.size()) +
           " bytes";
  }

  std::string parse_pair() {
    const std::string key = cursor_.text(kMaxKey);
    const auto type = cursor_.number<std::uint32_t>();
    if (cursor_.failed()) return "metadata " + cursor_.message();
    if (!keys_.insert(key).second) return "metadata key '" + printable(key) + "' is given twice";
    const std::string label = "metadata key '" + printable(key) + "': ";
    if (type > kF64) return label + "unknown type " + std::to_string(type);
    std::string wrong = type == kArray ? parse_array(key) : parse_value(key, type);
    if (wrong.empty() && cursor_.failed()) wrong = cursor_.message();
    return wrong.empty() ? wrong : label + wrong;
  }

  std::string parse_value(const std::string& key, std::uint32_t type) {
    if (is_integer(type)) {
      file_.integers_[key] = {read_integer(cursor_, type)};
    } else if (type == kF32) {
      file_.numbers_[key] = static_cast<double>(cursor_.number<float>());
    } else if (type == kF64) {
      file_.numbers_[key] = cursor_.number<double>();
    } else if (type == kText) {
      std::string text = cursor_.text(kMaxText);
      if (text.size() <= kKeptText) file_.texts_[key] = std::move(text);
    } else if (const auto value = cursor_.number<std::uint8_t>(); value > 1) {
      return "a boolean is " + std::to_string(value);
    }
    return {};
  }

  std::string parse_array(const std::string& key) {
    const auto type = cursor_.number<std::uint32_t>();
    const auto count = cursor_.number<std::uint64_t>();
    if (cursor_.failed()) return {};
    if (type > kF64 || type == kArray) return "an array of type " + std::to_string(type) + " is not supported";
    const std::uint64_t least = type == kText ? sizeof(std::uint64_t) : kValueBytes[type];
    if (count > cursor_.left() / least) return "an array of " + std::to_string(count) + " values is beyond the file";
    if (type == kText) {
      for (std::uint64_t n = 0; n < count && !cursor_.failed(); ++n) cursor_.skip(cursor_.number<std::uint64_t>());
    } else if (is_integer(type) && count <= kKeptIntegers) {
      std::vector<std::int64_t>& list = file_.integers_[key];
      for (std::uint64_t n = 0; n < count; ++n) list.push_back(read_integer(cursor_, type));
    } else {
      cursor_.skip(count * kValueBytes[type]);
    }
    return {};
  }

  std::string take_alignment() {
    const std::vector<std::int64_t> given = file_.integers("general.alignment");
    if (given.empty()) {
      return keys_.count("general.alignment") != 0 ? "metadata key 'general.alignment' is no integer" : "";
    }
    const auto value = static_cast<std::uint64_t>(given[0]);
    if (given.size() != 1 || given[0] < 1 || value > kMaxAlignment || (value & (value - 1)) != 0) {
      return "metadata key 'general.alignment' is " + std::to_string(given[0]) + ", must be a power of two up to " +
             std::to_string(kMaxAlignment);
    }
    alignment_ = value;
    return {};
  }

  std::string parse_tensor() {
    GgufTensor tensor;
    tensor.name = cursor_.text(kMaxKey);
    const auto dims = cursor_.number<std::uint32_t>();
    if (cursor_.failed()) return "tensor " + cursor_.message();
    const std::string label = "tensor '" + printable(tensor.name) + "': ";
    if (dims > kMaxDims) return label + std::to_string(dims) + " dimensions, the limit is " + std::to_string(kMaxDims);
    for (std::uint32_t d = 0; d < dims; ++d) {
      const auto dim = cursor_.number<std::uint64_t>();
      if (dim > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
        return label + "the dimension " + std::to_string(dim) + " does not fit in 63 bits";
      }
      tensor.shape.insert(tensor.shape.begin(), static_cast<std::int64_t>(dim));
    }
    const auto type = cursor_.number<std::uint32_t>();
    tensor.begin = cursor_.number<std::uint64_t>();
    if (cursor_.failed()) return label + cursor_.message();
    if (const std::string wrong = take_type(type, tensor); !wrong.empty()) return label + wrong;
    if (tensor.begin % alignment_ != 0) {
      return label + "offset " + std::to_string(tensor.begin) + " is not a multiple of " + std::to_string(alignment_);
    }
    if (!file_.index_.emplace(tensor.name, file_.tensors_.size()).second) return label + "is given twice";
    file_.tensors_.push_back(std::move(tensor));
    return {};
  }

  // The name and the bytes that follow from type and shape.
  static std::string take_type(std::uint32_t id, GgufTensor& tensor) {
    if (const auto bytes = shape_bytes(tensor.shape, 1); !bytes) return bytes.message();
    const GgufTypeInfo* type = find_gguf_type(id);
    tensor.type_name = type != nullptr ? type->name : "type " + std::to_string(id);
    if (type == nullptr) return {};
    tensor.type = type->type;
    const std::uint64_t row = tensor.shape.empty() ? 1 : static_cast<std::uint64_t>(tensor.shape.back());
    if (row % type->elements != 0) {
      return "rows of " + std::to_string(row) + " elements are no whole blocks of " + type->name + " (" +
             std::to_string(type->elements) + ")";
    }
    tensor.bytes = static_cast<std::uint64_t>(shape_elements(tensor.shape)) / type->elements * type->bytes;
    return {};
  }

  // Where the data begins; every tensor must be within it, and none may overlap another.
  std::string place_data() {
    const std::uint64_t at = (cursor_.at() + alignment_ - 1) / alignment_ * alignment_;
    const std::uint64_t size = file_.source_.size();
    file_.data_offset_ = std::min(at, size);
    const std::uint64_t data = size - file_.data_offset_;
    std::vector<const GgufTensor*> order;
    for (const GgufTensor& tensor : file_.tensors_) order.push_back(&tensor);
    std::sort(order.begin(), order.end(), [](const GgufTensor* a, const GgufTensor* b) {
      return std::make_pair(a->begin, a->bytes) < std::make_pair(b->begin, b->bytes);
    });
    std::uint64_t end = 0;
    for (const GgufTensor* tensor : order) {
      const std::string label = "tensor '" + printable(tensor->name) + "': ";
      if (tensor->begin > data || tensor->bytes > data - tensor->begin) {
        return label + std::to_string(tensor->bytes) + " bytes at offset " + std::to_string(tensor->begin) +
               " are beyond the end of the data (" + std::to_string(data) + " bytes)";
      }
      if (tensor->begin < end) return label + "overlaps the tensor before, which ends at " + std::to_string(end);
      end = tensor->begin + tensor->bytes;
    }
    return {};
  }

  Gguf& file_;
  GgufCursor cursor_;
  std::set<std::string> keys_;
  std::uint64_t alignment_ = 32;
};

bool Gguf::is(const Source& source) {
  GgufCursor cursor(source);
  return cursor.number<std::uint32_t>() == kMagic && !cursor.failed();
}

Result<Gguf> Gguf::open(Source source) {
  Gguf file(std::move(source));
  const std::string wrong = GgufParser(file).parse();
  if (!wrong.empty()) return file.source_.fail(wrong);
  return file;
}

const GgufTensor* Gguf::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

std::vector<std::int64_t> Gguf::integers(const std::string& key) const {
  const auto found = integers_.find(key);
  return found == integers_.end() ? std::vector<std::int64_t>{} : found->second;
}

std::optional<double> Gguf::number(const std::string& key) const {
  const auto found = numbers_.find(key);
  return found == numbers_.end() ? std::nullopt : std::optional<double>(found->second);
}

std::optional<std::string> Gguf::text(const std::string& key) const {
  const auto found = texts_.find(key);
  return found == texts_.end() ? std::nullopt : std::optional<std::string>(found->second);
}

Result<std::vector<std::byte>> Gguf::read_bytes(const std::string& name) const {
  const GgufTensor* tensor = find(name);
  if (tensor == nullptr) return source_.fail("has no tensor '" + printable(name) + "'");
  if (tensor->bytes == 0 && shape_elements(tensor->shape) > 0) {
    return source_.fail("tensor '" + printable(name) + "': " + tensor->type_name + " is not known");
  }
  return source_.read(data_offset_ + tensor->begin, tensor->bytes);
}

}  // namespace mha::io
