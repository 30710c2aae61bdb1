// SPDX-License-Identifier: Apache-2.0
// The .npy reader and writer; see npy.h. The format: "\x93NUMPY", major and minor version, header length (2 bytes in
// version 1, 4 after it), a Python dictionary literal with the keys descr, fortran_order and shape, then the data.
#include "tools/io/npy.h"

#include <cstring>
#include <string_view>
#include <utility>

namespace mha::io {
namespace {

constexpr char kMagic[] = "\x93NUMPY";
constexpr std::size_t kMagicBytes = 6;
// NumPy itself refuses headers beyond 10000 characters unless told otherwise; no real one comes near this.
constexpr std::uint64_t kMaxHeaderBytes = 1U << 20;

struct Descr {
  const char* text;
  Scalar scalar;
};
constexpr Descr kDescrs[] = {{"<f4", Scalar::kF32},  {"<f8", Scalar::kF64}, {"<f2", Scalar::kF16},
                             {"|b1", Scalar::kBool}, {"|u1", Scalar::kU8},  {"<i4", Scalar::kI32},
                             {"<i8", Scalar::kI64}};

// A parser for the one dictionary that NumPy writes: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, NpyHeader* header) : text_(text), header_(header) {}

  // Empty if all is well, else what is wrong.
  std::string parse() {
    if (!take('{')) return "header does not start with '{'";
    while (!take('}')) {
      std::string key;
      if (!quoted(&key)) return "header: expected a quoted key" + here();
      if (!take(':')) return "header: expected ':' after '" + printable(key) + "'" + here();
      std::string wrong = entry(key);
      if (!wrong.empty()) return wrong;
      if (!take(',') && !peek('}')) return "header: expected ',' or '}'" + here();
    }
    skip_space();
    if (at_ != text_.size()) return "header: text after the closing '}'" + here();
    if (!descr_ || !order_ || !shape_) {
      return std::string("header has no '") + (!descr_ ? "descr" : !order_ ? "fortran_order" : "shape") + "'";
    }
    return {};
  }

 private:
  std::string entry(const std::string& key) {
    bool* seen = key == "descr" ? &descr_ : key == "fortran_order" ? &order_ : key == "shape" ? &shape_ : nullptr;
    if (seen == nullptr) return "header: unknown key '" + printable(key) + "'";
    if (*seen) return "header: key '" + key + "' given twice";
    *seen = true;
    if (seen == &descr_) return descr();
    if (seen == &order_) return order();
    return shape();
  }

  std::string descr() {
    if (peek('[')) return "descr is a structured type, which is not supported";
    std::string text;
    if (!quoted(&text)) return "header: descr is not a string" + here();
    for (const Descr& known : kDescrs) {
      if (text == known.text) header_->scalar = known.scalar;
    }
    if (header_->scalar != Scalar::kOther) return {};
    const bool big = !text.empty() && text[0] == '>';
    return "descr '" + printable(text) + "' is not supported" +
           (big ? " (big-endian)" : " (supported: <f4 <f8 <f2 |b1 |u1 <i4 <i8)");
  }

  std::string order() {
    if (word("True")) {
      header_->fortran_order = true;
    } else if (!word("False")) {
      return "header: fortran_order is neither True nor False" + here();
    }
    return {};
  }

  std::string shape() {
    if (!take('(')) return "header: shape is not a tuple" + here();
    while (!take(')')) {
      std::int64_t dim = 0;
      skip_space();
      if (at_ < text_.size() && text_[at_] == '-') return "shape has a negative dimension" + here();
      const std::size_t first = at_;
      for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
        if (__builtin_mul_overflow(dim, 10, &dim) || __builtin_add_overflow(dim, text_[at_] - '0', &dim)) {
          return "shape has a dimension that does not fit in 63 bits" + here();
        }
      }
      if (at_ == first) return "header: shape has something that is not a number" + here();
      if (at_ < text_.size() && text_[at_] == 'L') ++at_;  // a long integer of Python 2
      header_->shape.push_back(dim);
      if (header_->shape.size() > kMaxRank) return "shape has more than " + std::to_string(kMaxRank) + " dimensions";
      if (!take(',') && !peek(')')) return "header: expected ',' or ')' in shape" + here();
    }
    return {};
  }

  std::string here() const { return " at character " + std::to_string(at_); }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
  }
  bool peek(char c) {
    skip_space();
    return at_ < text_.size() && text_[at_] == c;
  }
  bool take(char c) {
    const bool found = peek(c);
    at_ += found ? 1 : 0;
    return found;
  }
  bool word(std::string_view expected) {
    skip_space();
    const bool found = text_.substr(at_, expected.size()) == expected;
    at_ += found ? expected.size() : 0;
    return found;
  }
  bool quoted(std::string* out) {
    const char quote = peek('"') ? '"' : '\'';
    if (!take(quote)) return false;
    const std::size_t end = text_.find(quote, at_);
    if (end == std::string_view::npos) return false;
    *out = std::string(text_.substr(at_, end - at_));
    at_ = end + 1;
    return true;
  }

  std::string_view text_;
  NpyHeader* header_;
  std::size_t at_ = 0;
  bool descr_ = false;
  bool order_ = false;
  bool shape_ = false;
};

std::uint64_t little_endian(const std::byte* bytes, std::size_t count) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < count; ++i) value |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
  return value;
}

// Offset and length of the dictionary.
Result<std::pair<std::uint64_t, std::uint64_t>> locate_header(const Source& source) {
  const auto prefix = source.read(0, kMagicBytes + 2);
  if (!prefix) return prefix.error();
  if (std::memcmp(prefix->data(), kMagic, kMagicBytes) != 0) return source.fail("not a .npy file (wrong magic)");
  const auto major = std::to_integer<unsigned>((*prefix)[6]);
  const auto minor = std::to_integer<unsigned>((*prefix)[7]);
  if (major < 1 || major > 3 || minor != 0) {
    return source.fail("unknown .npy version " + std::to_string(major) + "." + std::to_string(minor));
  }
  const std::uint64_t width = major == 1 ? 2 : 4;
  const auto length_bytes = source.read(kMagicBytes + 2, width);
  if (!length_bytes) return length_bytes.error();
  const std::uint64_t offset = kMagicBytes + 2 + width;
  const std::uint64_t length = little_endian(length_bytes->data(), length_bytes->size());
  if (length > source.size() - offset) {
    return source.fail("header length " + std::to_string(length) + " is beyond the end of the file (" +
                       std::to_string(source.size()) + " bytes)");
  }
  if (length > kMaxHeaderBytes) {
    return source.fail("header length " + std::to_string(length) + " is beyond the limit of " +
                       std::to_string(kMaxHeaderBytes));
  }
  return std::make_pair(offset, length);
}

// Column-major to row-major: element (i0, i1, ...) lies at i0 + i1*d0 + i2*d0*d1 + ...
template <class T>
std::vector<T> to_c_order(const std::vector<T>& in, const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> stride(shape.size(), 1);
  for (std::size_t d = 1; d < shape.size(); ++d) stride[d] = stride[d - 1] * shape[d - 1];
  std::vector<std::int64_t> index(shape.size(), 0);
  std::vector<T> out(in.size());
  std::int64_t from = 0;
  for (T& element : out) {
    element = in[static_cast<std::size_t>(from)];
    for (std::size_t d = shape.size(); d-- > 0;) {
      from += stride[d];
      if (++index[d] < shape[d]) break;
      from -= stride[d] * shape[d];
      index[d] = 0;
    }
  }
  return out;
}

template <class T>
Result<void> write_array(const std::string& path, Scalar scalar, const std::vector<std::int64_t>& shape,
                         const T* values) {
  const auto bytes = shape_bytes(shape, sizeof(T));
  if (!bytes) return Error{printable(path) + ": " + bytes.message()};
  return write_file(path, npy_header(scalar, shape), values, static_cast<std::size_t>(*bytes));
}

}  // namespace

Result<NpyHeader> read_npy_header(const Source& source) {
  const auto place = locate_header(source);
  if (!place) return place.error();
  const auto [offset, length] = *place;
  const auto raw = source.read(offset, length);
  if (!raw) return raw.error();
  NpyHeader header;
  const std::string wrong = HeaderParser({reinterpret_cast<const char*>(raw->data()), raw->size()}, &header).parse();
  if (!wrong.empty()) return source.fail(wrong);
  const auto bytes = shape_bytes(header.shape, scalar_bytes(header.scalar));
  if (!bytes) return source.fail(bytes.message());
  header.data_offset = offset + length;
  header.data_bytes = static_cast<std::uint64_t>(*bytes);
  const std::uint64_t present = source.size() - header.data_offset;
  if (present != header.data_bytes) {
    return source.fail(std::string(present < header.data_bytes ? "truncated: " : "data too long: ") + "shape " +
                       shape_text(header.shape) + " of " + scalar_name(header.scalar) + " needs " +
                       std::to_string(header.data_bytes) + " bytes, the file has " + std::to_string(present));
  }
  return header;
}

template <class T>
Result<Tensor<T>> read_npy(const Source& source) {
  auto header = read_npy_header(source);
  if (!header) return header.error();
  const auto raw = source.read(header->data_offset, header->data_bytes);
  if (!raw) return raw.error();
  auto values = convert<T>(header->scalar, raw->data(), shape_elements(header->shape));
  if (!values) return source.fail(values.message());
  if (header->fortran_order && header->shape.size() > 1) *values = to_c_order(*values, header->shape);
  return Tensor<T>{std::move(header->shape), *std::move(values)};
}

template Result<Tensor<float>> read_npy<float>(const Source&);
template Result<Tensor<double>> read_npy<double>(const Source&);
template Result<Tensor<std::uint8_t>> read_npy<std::uint8_t>(const Source&);
template Result<Tensor<std::int64_t>> read_npy<std::int64_t>(const Source&);

std::string npy_header(Scalar scalar, const std::vector<std::int64_t>& shape) {
  const char* descr = "";
  for (const Descr& known : kDescrs) {
    if (known.scalar == scalar) descr = known.text;
  }
  std::string dictionary = std::string("{'descr': '") + descr + "', 'fortran_order': False, 'shape': (";
  for (const std::int64_t dim : shape) dictionary += std::to_string(dim) + (shape.size() == 1 ? "," : ", ");
  if (shape.size() > 1) dictionary.resize(dictionary.size() - 2);
  dictionary += "), }";
  // NumPy pads with spaces so that the data starts at a multiple of 64 bytes, and ends the header with a newline.
  const std::size_t prefix = kMagicBytes + 4;
  dictionary.append(63 - (prefix + dictionary.size()) % 64, ' ');
  dictionary += '\n';
  std::string out(kMagic, kMagicBytes);
  out += '\x01';
  out += '\0';
  out += static_cast<char>(dictionary.size() & 0xff);
  out += static_cast<char>(dictionary.size() >> 8);
  return out + dictionary;
}

Result<void> write_npy(const std::string& path, const std::vector<std::int64_t>& shape, const float* values) {
  return write_array(path, Scalar::kF32, shape, values);
}
Result<void> write_npy(const std::string& path, const std::vector<std::int64_t>& shape, const std::uint8_t* booleans) {
  return write_array(path, Scalar::kBool, shape, booleans);
}
Result<void> write_npy(const std::string& path, const std::vector<std::int64_t>& shape, const std::int64_t* values) {
  return write_array(path, Scalar::kI64, shape, values);
}

}  // namespace mha::io
