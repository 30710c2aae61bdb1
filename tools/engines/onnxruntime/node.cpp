// SPDX-License-Identifier: Apache-2.0
// host::Node: what a node of the graph says, and ONNX Runtime's own kernel for it.
#include <cstring>
#include <utility>

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

class LeftToOrt : public Kernel {
 public:
  LeftToOrt(const Node& node, const Standard& standard)
      : Kernel(node), shapes_(standard.shapes), type_(standard.constraints[0].second) {
    std::size_t inputs = 0, outputs = 0;
    check(api().KernelInfo_GetInputCount(node.info, &inputs));
    check(api().KernelInfo_GetOutputCount(node.info, &outputs));
    inputs_ = inputs;
    outputs_ = outputs;
    std::vector<ort::Attribute*> attributes = copied(node, standard);
    std::vector<const char*> names;
    std::vector<ort::ElementType> types;
    for (const auto& [constraint, type] : standard.constraints) {
      names.push_back(constraint);
      types.push_back(type);
    }
    ort::Status* status =
        api().CreateOp(node.info, standard.name, standard.domain, standard.version, names.data(), types.data(),
                       static_cast<int>(types.size()), attributes.data(), static_cast<int>(attributes.size()),
                       static_cast<int>(inputs), static_cast<int>(outputs), &operator_);
    for (ort::Attribute* attribute : attributes) api().ReleaseOpAttr(attribute);
    check(status);
  }
  ~LeftToOrt() override { api().ReleaseOp(operator_); }

  void compute(Call& call) override {
    std::vector<const ort::Value*> inputs(inputs_);
    for (std::size_t i = 0; i < inputs_; ++i) check(api().KernelContext_GetInput(call.context, i, &inputs[i]));
    const Shapes shapes = shapes_(call);
    std::vector<ort::Value*> outputs, unused;
    // The kernel writes all outputs up to the last: one that the node does not have gets memory of its own.
    for (std::size_t i = 0; i < outputs_; ++i) {
      outputs.push_back(call.output_value(i, shapes[i]));
      if (outputs.back()) continue;
      unused.push_back(nullptr);
      check(api().CreateTensorAsOrtValue(allocator(), shapes[i].data(), shapes[i].size(), type_, &unused.back()));
      outputs.back() = unused.back();
    }
    ort::Status* status = api().InvokeOp(call.context, operator_, inputs.data(), static_cast<int>(inputs_),
                                         outputs.data(), static_cast<int>(outputs_));
    for (ort::Value* value : unused) api().ReleaseValue(value);
    check(status);
  }

 private:
  static std::vector<ort::Attribute*> copied(const Node& node, const Standard& standard) {
    std::vector<ort::Attribute*> attributes;
    const auto add = [&](const char* name, const void* data, int length, ort::AttributeType type) {
      attributes.push_back(nullptr);
      check(api().CreateOpAttr(name, data, length, type, &attributes.back()));
    };
    for (const char* name : standard.integers) {
      std::int64_t value = 0;
      if (found(api().KernelInfoGetAttribute_int64(node.info, name, &value))) add(name, &value, 1, ort::kInt);
    }
    for (const char* name : standard.reals) {
      float value = 0;
      if (found(api().KernelInfoGetAttribute_float(node.info, name, &value))) add(name, &value, 1, ort::kFloatAttribute);
    }
    for (const char* name : standard.strings) {
      const std::string value = node.string(name, "");
      if (!value.empty()) add(name, value.c_str(), static_cast<int>(value.size()), ort::kString);
    }
    return attributes;
  }

  std::function<Shapes(const Call&)> shapes_;
  ort::ElementType type_;  // of outputs that are not wanted
  ort::Operator* operator_ = nullptr;
  std::size_t inputs_ = 0, outputs_ = 0;
};

}  // namespace

std::int64_t Node::integer(const char* name, std::int64_t otherwise) const {
  std::int64_t value = 0;
  return found(api().KernelInfoGetAttribute_int64(info, name, &value)) ? value : otherwise;
}

float Node::real(const char* name, float otherwise) const {
  float value = 0;
  return found(api().KernelInfoGetAttribute_float(info, name, &value)) ? value : otherwise;
}

std::string Node::string(const char* name, const char* otherwise) const {
  const std::string value = written([&](char* out, std::size_t* bytes) {
    return api().KernelInfoGetAttribute_string(info, name, out, bytes);
  });
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

Kernel* leave_to_ort(const Node& node, const Standard& standard, const std::string& reason) {
  const std::string text = "mha leaves " + std::string(standard.name) + " '" + node.name() + "' to ONNX Runtime: " + reason;
  if (!reason.empty()) {
    const ort::Logger* logger = nullptr;
    check(api().KernelInfo_GetLogger(node.info, &logger));
    check(api().Logger_LogMessage(logger, ort::kWarning, text.c_str(), "node.cpp", 0, "leave_to_ort"));
  }
  try {
    return new LeftToOrt(node, standard);
  } catch (const Failure& failure) {
    throw Failure(ort::kNotImplemented, text + ", which has no kernel for it, either: " + failure.what());
  }
}

}  // namespace host
