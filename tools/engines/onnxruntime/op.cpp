// SPDX-License-Identifier: Apache-2.0
// The callbacks of custom operators, and RegisterCustomOps, which ONNX Runtime calls when a program registers this
// library.
#include "op.h"

#include <exception>

namespace host {
namespace {

const Op& self(const ort::CustomOp* op) { return *static_cast<const Op*>(op); }

// Runs body; what it throws becomes a status.
template <class Body>
ort::Status* guarded(const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const Failure& failure) {
    return api().CreateStatus(failure.code, failure.what());
  } catch (const std::exception& other) {
    return api().CreateStatus(ort::kFail, other.what());
  }
}

ort::Status* create(const ort::CustomOp* op, const void* const*, const ort::KernelInfo* info, void** kernel) {
  *kernel = nullptr;
  return guarded([&] { *kernel = self(op).make(Node(info)); });
}

ort::Status* compute(void* kernel, ort::Context* context) {
  return guarded([&] {
    Call call(context);
    static_cast<Kernel*>(kernel)->compute(call);
  });
}

// A session keeps pointers to the domain and to its operators, and may end after this library's own static objects: so
// neither is ever freed.
ort::Domain* make_domain() {
  const auto* ops = new std::vector<Op>(domain_ops());
  ort::Domain* domain = nullptr;
  check(api().CreateCustomOpDomain(domain_name(), &domain));
  for (const Op& op : *ops) check(api().CustomOpDomain_Add(domain, &op));
  return domain;
}

}  // namespace

Op::Op(const char* name, int first_version, std::vector<Port> inputs, std::vector<Port> outputs,
       Kernel* (*make)(const Node&))
    : ort::CustomOp(),
      name(name),
      first_version(first_version),
      inputs(std::move(inputs)),
      outputs(std::move(outputs)),
      make(make) {
  version = ort::kApiVersion;
  CreateKernelV2 = create;
  KernelComputeV2 = compute;
  KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  GetName = [](const ort::CustomOp* op) { return self(op).name; };
  GetExecutionProviderType = [](const ort::CustomOp*) -> const char* { return nullptr; };  // the CPU's
  GetInputType = [](const ort::CustomOp* op, std::size_t i) { return self(op).inputs[i].type; };
  GetInputTypeCount = [](const ort::CustomOp* op) { return self(op).inputs.size(); };
  GetOutputType = [](const ort::CustomOp* op, std::size_t i) { return self(op).outputs[i].type; };
  GetOutputTypeCount = [](const ort::CustomOp* op) { return self(op).outputs.size(); };
  GetInputCharacteristic = [](const ort::CustomOp* op, std::size_t i) { return self(op).inputs[i].characteristic; };
  GetOutputCharacteristic = [](const ort::CustomOp* op, std::size_t i) { return self(op).outputs[i].characteristic; };
  GetInputMemoryType = [](const ort::CustomOp*, std::size_t) { return 0; };
  GetStartVersion = [](const ort::CustomOp* op) { return self(op).first_version; };
}

}  // namespace host

extern "C" __attribute__((visibility("default"))) ort::Status* RegisterCustomOps(ort::Options* options,
                                                                                 const ort::ApiBase* base) {
  using namespace host;
  const std::string problem = load_api(base);
  if (!problem.empty()) {
    // Slot 0 of version 1, which every ONNX Runtime has, makes the status.
    const void* const* table = base->GetApi(1);
    const auto create_status = reinterpret_cast<ort::Status* (*)(int, const char*)>(const_cast<void*>(table[0]));
    return create_status(ort::kFail, problem.c_str());
  }
  return guarded([&] {
    static ort::Domain* const domain = make_domain();
    check(api().AddCustomOpDomain(options, domain));
  });
}
