// SPDX-License-Identifier: Apache-2.0
// One view of both formats of weights; see weight_file.h.
#include "tools/cli/weight_file.h"

#include <utility>

namespace mha::cli {
namespace {

std::optional<mha_dtype> dtype_of(io::Scalar scalar) {
  switch (scalar) {
    case io::Scalar::kF32:
      return MHA_F32;
    case io::Scalar::kF16:
      return MHA_F16;
    case io::Scalar::kBF16:
      return MHA_BF16;
    case io::Scalar::kI8:
      return MHA_I8;
    default:
      return std::nullopt;
  }
}

std::optional<mha_dtype> dtype_of(io::GgufType type) {
  switch (type) {
    case io::GgufType::kF32:
      return MHA_F32;
    case io::GgufType::kF16:
      return MHA_F16;
    case io::GgufType::kBF16:
      return MHA_BF16;
    case io::GgufType::kQ8_0:
      return MHA_Q8_0;
    case io::GgufType::kQ4_0:
      return MHA_Q4_0;
    case io::GgufType::kOther:
      return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace

io::Result<WeightFile> WeightFile::open(const std::string& path) {
  auto source = io::Source::file(path);
  if (!source) return source.error();
  return open(*std::move(source));
}

io::Result<WeightFile> WeightFile::open(io::Source source) {
  WeightFile file;
  if (io::Gguf::is(source)) {
    auto opened = io::Gguf::open(std::move(source));
    if (!opened) return opened.error();
    for (const io::GgufTensor& tensor : opened->tensors()) {
      file.tensors_.push_back({tensor.name, tensor.type_name, dtype_of(tensor.type), tensor.shape});
    }
    file.gguf_ = *std::move(opened);
  } else {
    auto opened = io::Safetensors::open(std::move(source));
    if (!opened) return opened.error();
    for (const io::TensorInfo& tensor : opened->tensors()) {
      file.tensors_.push_back({tensor.name, tensor.dtype, dtype_of(tensor.scalar), tensor.shape});
    }
    file.safetensors_ = *std::move(opened);
  }
  for (std::size_t i = 0; i < file.tensors_.size(); ++i) file.index_[file.tensors_[i].name] = i;
  return file;
}

const WeightInfo* WeightFile::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const std::string& WeightFile::label() const { return gguf_ ? gguf_->label() : safetensors_->label(); }

io::Result<std::vector<std::byte>> WeightFile::read_bytes(const std::string& name) const {
  return gguf_ ? gguf_->read_bytes(name) : safetensors_->read_bytes(name);
}

io::Result<io::Tensor<float>> WeightFile::read_floats(const std::string& name) const {
  if (!gguf_) return safetensors_->read<float>(name);
  const io::GgufTensor* tensor = gguf_->find(name);
  const std::string label = gguf_->label() + ": tensor '" + io::printable(name) + "': ";
  if (tensor == nullptr) return gguf_->read_bytes(name).error();
  io::Scalar scalar = io::Scalar::kF32;
  if (tensor->type == io::GgufType::kF16) {
    scalar = io::Scalar::kF16;
  } else if (tensor->type == io::GgufType::kBF16) {
    scalar = io::Scalar::kBF16;
  } else if (tensor->type != io::GgufType::kF32) {
    return io::Error{label + tensor->type_name + " is not converted to float32"};
  }
  const auto raw = gguf_->read_bytes(name);
  if (!raw) return raw.error();
  auto values = io::convert<float>(scalar, raw->data(), io::shape_elements(tensor->shape));
  if (!values) return io::Error{label + values.message()};
  return io::Tensor<float>{tensor->shape, *std::move(values)};
}

}  // namespace mha::cli
