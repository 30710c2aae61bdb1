// SPDX-License-Identifier: Apache-2.0
// host::Node: what a node of the graph says.
#include <cstring>

#include "host.h"

namespace host {
namespace {

// A string that ONNX Runtime writes into a buffer, whose size it says first. Empty where there is none.
template <class Read>
std::string written(const Read& read) {
  std::size_t bytes = 0;
  if (ort::Status* status = read(nullptr, &bytes)) {
    api().ReleaseStatus(status);
    return "";
  }
  std::string text(bytes, '\0');
  check(read(&text[0], &bytes));
  return text.substr(0, std::strlen(text.c_str()));
}

// Whether an attribute is there: ONNX Runtime returns an error for one that is not.
bool found(ort::Status* status) {
  if (status) api().ReleaseStatus(status);
  return !status;
}

}  // namespace

std::optional<std::int64_t> Node::integer(const char* name) const {
  std::int64_t value = 0;
  if (!found(api().KernelInfoGetAttribute_int64(info, name, &value))) return std::nullopt;
  return value;
}

std::optional<float> Node::real(const char* name) const {
  float value = 0;
  if (!found(api().KernelInfoGetAttribute_float(info, name, &value))) return std::nullopt;
  return value;
}

std::string Node::string(const char* name, const char* otherwise) const {
  const std::string value = written(
      [&](char* out, std::size_t* bytes) { return api().KernelInfoGetAttribute_string(info, name, out, bytes); });
  return value.empty() ? otherwise : value;
}

bool Node::has_input(std::size_t index) const {
  return !written([&](char* out, std::size_t* bytes) {
            return api().KernelInfo_GetInputName(info, index, out, bytes);
          }).empty();
}

bool Node::has_output(std::size_t index) const {
  return !written([&](char* out, std::size_t* bytes) {
            return api().KernelInfo_GetOutputName(info, index, out, bytes);
          }).empty();
}

ort::ElementType Node::input_type(std::size_t index) const {
  if (!has_input(index)) return ort::kAny;
  ort::TypeInfo* type = nullptr;
  check(api().KernelInfo_GetInputTypeInfo(info, index, &type));
  const ort::TensorInfo* tensor = nullptr;
  ort::ElementType element = ort::kAny;
  ort::Status* status = api().CastTypeInfoToTensorInfo(type, &tensor);
  if (!status && tensor) status = api().GetTensorElementType(tensor, &element);
  api().ReleaseTypeInfo(type);
  check(status);
  return element;
}

Tensor Node::constant(std::size_t index) const {
  int is_constant = 0;
  const ort::Value* value = nullptr;
  check(api().KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value));
  return describe(is_constant ? value : nullptr);
}

std::string Node::name() const {
  return written([&](char* out, std::size_t* bytes) { return api().KernelInfo_GetNodeName(info, out, bytes); });
}

}  // namespace host
