// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime's own kernel for a node that mha does not serve (host.h, leave_to_ort).
#include "host.h"

namespace host {
namespace {

// Tensors made for one call.
class Values {
 public:
  explicit Values(ort::Allocator* allocator) : allocator_(allocator) {}
  ~Values() {
    for (ort::Value* value : values_) api().ReleaseValue(value);
  }
  Values(const Values&) = delete;
  Values& operator=(const Values&) = delete;
  ort::Value* make(const std::int64_t* shape, std::size_t rank, ort::ElementType type) {
    values_.push_back(nullptr);
    check(api().CreateTensorAsOrtValue(allocator_, shape, rank, type, &values_.back()));
    return values_.back();
  }

 private:
  ort::Allocator* allocator_;
  std::vector<ort::Value*> values_;
};

class Attributes {
 public:
  Attributes(const Node& node, const Standard& standard) {
    for (const auto& [name, otherwise] : standard.integers) {
      const std::optional<std::int64_t> given = node.integer(name), value = given ? given : otherwise;
      if (value) add(name, &*value, 1, ort::kInt);
    }
    for (const auto& [name, otherwise] : standard.reals) {
      const std::optional<float> given = node.real(name), value = given ? given : otherwise;
      if (value) add(name, &*value, 1, ort::kFloatAttribute);
    }
    for (const char* name : standard.strings) {
      const std::string value = node.string(name, "");
      if (!value.empty()) add(name, value.c_str(), static_cast<int>(value.size()), ort::kString);
    }
  }
  ~Attributes() {
    for (ort::Attribute* attribute : list) api().ReleaseOpAttr(attribute);
  }
  Attributes(const Attributes&) = delete;
  Attributes& operator=(const Attributes&) = delete;

  std::vector<ort::Attribute*> list;

 private:
  void add(const char* name, const void* data, int length, ort::AttributeType type) {
    list.push_back(nullptr);
    check(api().CreateOpAttr(name, data, length, type, &list.back()));
  }
};

class LeftToOrt : public Kernel {
 public:
  LeftToOrt(const Node& node, const Standard& standard)
      : Kernel(node), shapes_(standard.shapes), type_(standard.constraints[0].second) {
    check(api().KernelInfo_GetInputCount(node.info, &inputs_));
    check(api().KernelInfo_GetOutputCount(node.info, &outputs_));
    std::vector<const char*> names;
    std::vector<ort::ElementType> types;
    for (const auto& [constraint, type] : standard.constraints) {
      names.push_back(constraint);
      types.push_back(is_narrow(type) ? ort::kFloat : type);
    }
    const Attributes attributes(node, standard);
    check(api().CreateOp(node.info, standard.name, standard.domain, standard.version, names.data(), types.data(),
                         static_cast<int>(types.size()), attributes.list.data(),
                         static_cast<int>(attributes.list.size()), static_cast<int>(inputs_),
                         static_cast<int>(outputs_), &operator_));
  }
  ~LeftToOrt() override { api().ReleaseOp(operator_); }

  void compute(Call& call) override {
    Values values(allocator());
    std::vector<const ort::Value*> inputs;
    for (std::size_t i = 0; i < inputs_; ++i) {
      const Tensor input = call.input(i);
      inputs.push_back(input.value);
      if (!input || !is_narrow(input.type)) continue;
      ort::Value* wide = values.make(input.shape, input.rank, ort::kFloat);
      convert(input.data, input.type, describe(wide).data, ort::kFloat, input.elements());
      inputs.back() = wide;
    }
    const Shapes shapes = shapes_(call);
    std::vector<ort::Value*> wanted, outputs;
    for (std::size_t i = 0; i < outputs_; ++i) {
      wanted.push_back(call.output_value(i, shapes[i]));
      // The kernel writes all outputs up to the last: one that the node does not have gets memory of its own.
      const ort::ElementType given = wanted.back() ? describe(wanted.back()).type : type_;
      const bool own = !wanted.back() || is_narrow(given);
      const ort::ElementType type = is_narrow(given) ? ort::kFloat : given;
      outputs.push_back(own ? values.make(shapes[i].data(), shapes[i].size(), type) : wanted.back());
    }
    check(api().InvokeOp(call.context, operator_, inputs.data(), static_cast<int>(inputs_), outputs.data(),
                         static_cast<int>(outputs_)));
    for (std::size_t i = 0; i < outputs_; ++i) {
      if (!wanted[i] || wanted[i] == outputs[i]) continue;
      const Tensor from = describe(outputs[i]), to = describe(wanted[i]);
      convert(from.data, from.type, to.data, to.type, from.elements());
    }
  }

 private:
  std::function<Shapes(const Call&)> shapes_;
  ort::ElementType type_;  // of outputs that the node does not have
  ort::Operator* operator_ = nullptr;
  std::size_t inputs_ = 0, outputs_ = 0;
};

}  // namespace

Kernel* leave_to_ort(const Node& node, const Standard& standard, const std::string& reason) {
  const std::string text = "mha leaves " + std::string(standard.name) + " '" + node.name() + "' to ONNX Runtime" +
                           (reason.empty() ? "" : ": " + reason);
  if (!reason.empty()) {
    const ort::Logger* logger = nullptr;
    check(api().KernelInfo_GetLogger(node.info, &logger));
    check(api().Logger_LogMessage(logger, ort::kWarning, text.c_str(), __FILE__, __LINE__, __func__));
  }
  try {
    return new LeftToOrt(node, standard);
  } catch (const Failure& failure) {
    throw Failure(ort::kNotImplemented, text + ". It has no kernel for it, either: " + failure.what());
  }
}

}  // namespace host
