// SPDX-License-Identifier: Apache-2.0
// The .safetensors reader and writer; see safetensors.h. The format: header length (8 bytes, little-endian), the JSON
// header, then the data, which the tensors of the header cover exactly once.
#include "tools/io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "tools/io/safetensors_header.h"

namespace mha::io {
namespace {

constexpr std::uint64_t kPrefixBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100000000;  // the limit of the format's own reader

Result<std::uint64_t> header_length(const Source& source) {
  const auto prefix = source.read(0, kPrefixBytes);
  if (!prefix) return prefix.error();
  std::uint64_t length = 0;
  std::memcpy(&length, prefix->data(), sizeof length);
  if (length > source.size() - kPrefixBytes) {
    return source.fail("header length " + std::to_string(length) + " is beyond the end of the file (" +
                       std::to_string(source.size()) + " bytes)");
  }
  if (length > kMaxHeaderBytes) {
    return source.fail("header length " + std::to_string(length) + " is beyond the limit of " +
                       std::to_string(kMaxHeaderBytes));
  }
  return length;
}

// Sorted by offset, each tensor must begin where the one before it ends. Empty if so, else what is wrong.
std::string check_cover(const std::vector<TensorInfo>& tensors, std::uint64_t data_bytes) {
  std::uint64_t at = 0;
  for (const TensorInfo& tensor : tensors) {
    const std::string name = "tensor '" + printable(tensor.name) + "': data_offsets [" + std::to_string(tensor.begin) +
                             ", " + std::to_string(tensor.end) + "] ";
    if (tensor.end > data_bytes) {
      return name + "are beyond the end of the data (" + std::to_string(data_bytes) + " bytes)";
    }
    if (tensor.begin < at) return name + "overlap the tensor before, which ends at " + std::to_string(at);
    if (tensor.begin > at) return name + "leave a hole after " + std::to_string(at);
    at = tensor.end;
  }
  if (at == data_bytes) return {};
  return "data has " + std::to_string(data_bytes) + " bytes, the tensors end at " + std::to_string(at);
}

}  // namespace

Result<Safetensors> Safetensors::open(Source source) {
  const auto length = header_length(source);
  if (!length) return length.error();
  const auto raw = source.read(kPrefixBytes, *length);
  if (!raw) return raw.error();
  auto header = parse_safetensors_header({reinterpret_cast<const char*>(raw->data()), raw->size()});
  if (!header) return source.fail(header.message());

  auto& tensors = header->tensors;
  // By end as well: an empty tensor comes before the one that starts at the same place.
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::make_pair(a.begin, a.end) < std::make_pair(b.begin, b.end);
  });
  const std::uint64_t data_offset = kPrefixBytes + *length;
  const std::string wrong = check_cover(tensors, source.size() - data_offset);
  if (!wrong.empty()) return source.fail(wrong);

  Safetensors file(std::move(source));
  file.data_offset_ = data_offset;
  file.tensors_ = std::move(tensors);
  file.metadata_ = std::move(header->metadata);
  for (std::size_t i = 0; i < file.tensors_.size(); ++i) file.index_[file.tensors_[i].name] = i;
  return file;
}

Result<Safetensors> Safetensors::open(const std::string& path) {
  auto source = Source::file(path);
  if (!source) return source.error();
  return open(*std::move(source));
}

const TensorInfo* Safetensors::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

Result<std::vector<std::byte>> Safetensors::read_bytes(const std::string& name) const {
  const TensorInfo* info = find(name);
  if (info == nullptr) return source_.fail("has no tensor '" + printable(name) + "'");
  return source_.read(data_offset_ + info->begin, info->end - info->begin);
}

template <class T>
Result<Tensor<T>> Safetensors::read(const std::string& name) const {
  const TensorInfo* info = find(name);
  const std::string label = "tensor '" + printable(name) + "': ";
  if (info != nullptr && info->scalar == Scalar::kOther) {
    return source_.fail(label + "dtype " + info->dtype + " is not supported");
  }
  const auto raw = read_bytes(name);
  if (!raw) return raw.error();
  auto values = convert<T>(info->scalar, raw->data(), shape_elements(info->shape));
  if (!values) return source_.fail(label + values.message());
  return Tensor<T>{info->shape, *std::move(values)};
}

template Result<Tensor<float>> Safetensors::read<float>(const std::string&) const;
template Result<Tensor<double>> Safetensors::read<double>(const std::string&) const;
template Result<Tensor<std::uint8_t>> Safetensors::read<std::uint8_t>(const std::string&) const;
template Result<Tensor<std::int64_t>> Safetensors::read<std::int64_t>(const std::string&) const;

Result<std::string> safetensors_bytes(const std::map<std::string, Tensor<float>>& tensors,
                                      const std::map<std::string, std::string>& metadata) {
  auto header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    if (name == "__metadata__") return Error{"no tensor can be called '__metadata__'"};
    const auto bytes = shape_bytes(tensor.shape, sizeof(float));
    if (!bytes) return Error{"tensor '" + printable(name) + "': " + bytes.message()};
    if (static_cast<std::size_t>(*bytes) != tensor.values.size() * sizeof(float)) {
      return Error{"tensor '" + printable(name) + "': has " + std::to_string(tensor.values.size()) +
                   " values, which is not its shape " + shape_text(tensor.shape)};
    }
    const std::size_t begin = data.size();
    data.append(reinterpret_cast<const char*>(tensor.values.data()), static_cast<std::size_t>(*bytes));
    header[name] = {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    return Error{"a name or metadata text is not valid UTF-8"};
  }
  text.append((8 - text.size() % 8) % 8, ' ');
  const std::uint64_t length = text.size();
  std::string out(reinterpret_cast<const char*>(&length), sizeof length);
  out += text;
  return out += data;
}

Result<void> write_safetensors(const std::string& path, const std::map<std::string, Tensor<float>>& tensors,
                               const std::map<std::string, std::string>& metadata) {
  const auto bytes = safetensors_bytes(tensors, metadata);
  if (!bytes) return Error{printable(path) + ": " + bytes.message()};
  return write_file(path, *bytes, nullptr, 0);
}

}  // namespace mha::io
