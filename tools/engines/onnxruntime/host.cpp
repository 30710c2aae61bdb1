// SPDX-License-Identifier: Apache-2.0
// See host.h.
#include "host.h"

#include <cstring>

namespace host {
namespace {

ort::Api functions;
constexpr std::size_t kAlignment = 64;  // at least what mha asks for; larger alignments are made by hand

// mha_allocator over the session's allocator: the block's start is kept in front of the aligned memory.
void* allocate(void* user, std::size_t bytes, std::size_t alignment) {
  auto* allocator = static_cast<ort::Allocator*>(user);
  alignment = alignment < kAlignment ? kAlignment : alignment;
  if (bytes > SIZE_MAX - alignment - sizeof(void*)) return nullptr;
  void* block = allocator->Alloc(allocator, bytes + alignment + sizeof(void*));
  if (!block) return nullptr;
  const auto address = reinterpret_cast<std::uintptr_t>(block) + sizeof(void*);
  auto* aligned = reinterpret_cast<char*>((address + alignment - 1) / alignment * alignment);
  std::memcpy(aligned - sizeof(void*), &block, sizeof(void*));
  return aligned;
}

void release(void* user, void* aligned, std::size_t) {
  auto* allocator = static_cast<ort::Allocator*>(user);
  void* block;
  std::memcpy(&block, static_cast<char*>(aligned) - sizeof(void*), sizeof(void*));
  allocator->Free(allocator, block);
}

void parallel_for(void* user, std::int64_t count, void (*task)(void*, std::int64_t), void* data) {
  static_cast<const Call*>(user)->run(count, task, data);
}

// The number in the session's configuration entry mha.num_threads; 0 where there is none.
std::int64_t configured_threads(const ort::KernelInfo* info) {
  ort::KeyValues* entries = nullptr;
  check(api().KernelInfo_GetConfigEntries(info, &entries));
  const char* text = api().GetKeyValue(entries, "mha.num_threads");
  const std::string value = text ? text : "0";
  api().ReleaseKeyValuePairs(entries);
  if (value.empty() || value.size() > 4 || value.find_first_not_of("0123456789") != std::string::npos) {
    refuse("the session's configuration entry mha.num_threads is no number from 0 to 1024: " + value);
  }
  return std::stoll(value);
}

}  // namespace

void refuse(const std::string& text) { throw Failure(ort::kInvalidArgument, "mha: " + text); }

const ort::Api& api() { return functions; }

std::string load_api(const ort::ApiBase* base) {
  const void* const* table = base->GetApi(ort::kApiVersion);
  if (!table) {
    return std::string("mha's operators need version 25 of ONNX Runtime's C API; this is ONNX Runtime ") +
           base->GetVersionString();
  }
  // Once, since other sessions may be calling through it. The table is the same for the life of the process.
  static const bool loaded = [&] {
#define MHA_ORT_READ(slot, name, result, parameters) std::memcpy(&functions.name, table + (slot), sizeof(void*));
    MHA_ORT_SLOTS(MHA_ORT_READ)
#undef MHA_ORT_READ
    return true;
  }();
  (void)loaded;
  return "";
}

void check(ort::Status* status) {
  if (!status) return;
  const std::string text = api().GetErrorMessage(status);
  api().ReleaseStatus(status);
  throw Failure(ort::kFail, text);
}

void check(mha_status status, const mha_error& error) {
  if (status == MHA_OK) return;
  ort::ErrorCode code = ort::kInvalidArgument;
  if (status == MHA_ERR_UNSUPPORTED) code = ort::kNotImplemented;
  const bool is_host = status == MHA_ERR_OUT_OF_MEMORY || status == MHA_ERR_THREAD || status == MHA_ERR_TARGET;
  if (is_host) code = ort::kFail;
  throw Failure(code, std::string("mha: ") + error.message);
}

std::int64_t Tensor::dim(std::size_t index) const {
  if (index >= rank) refuse("a tensor of shape " + text() + " has too few dimensions");
  return shape[index];
}

std::int64_t Tensor::elements() const {
  std::int64_t count = 1;
  for (std::size_t i = 0; i < rank; ++i) count *= shape[i];
  return count;
}

std::string Tensor::text() const {
  std::string result = "[";
  for (std::size_t i = 0; i < rank; ++i) result += (i ? ", " : "") + std::to_string(shape[i]);
  return result + "]";
}

Tensor describe(const ort::Value* value) {
  Tensor tensor;
  tensor.value = value;
  if (!value) return tensor;
  check(api().GetTensorElementTypeAndShapeDataReference(value, &tensor.type, &tensor.shape, &tensor.rank));
  check(api().GetTensorMutableData(const_cast<ort::Value*>(value), &tensor.data));
  return tensor;
}

mha_dtype dtype(ort::ElementType type) {
  switch (type) {
    case ort::kFloat:
      return MHA_F32;
    case ort::kFloat16:
      return MHA_F16;
    case ort::kBfloat16:
      return MHA_BF16;
    default:
      refuse("ONNX's element type " + std::to_string(type) + " is none of float, float16, bfloat16");
  }
}

bool is_narrow(ort::ElementType type) { return type == ort::kFloat16 || type == ort::kBfloat16; }

void convert(const void* from, ort::ElementType from_type, void* to, ort::ElementType to_type, std::int64_t count) {
  static mha_context* const context = [] {
    mha_context_options options = {};
    options.num_threads = 1;
    mha_context* made = nullptr;
    mha_error error = {};
    check(mha_context_create(&options, &made, &error), error);
    return made;
  }();
  mha_rows_args args = {};
  args.batch = args.num_heads = args.length = 1;
  args.head_dim = count;
  args.input.data = from;
  args.input.dtype = dtype(from_type);
  args.output.data = to;
  args.output.dtype = dtype(to_type);
  mha_error error = {};
  if (count > 0) check(mha_rows_prepare(context, &args, &error), error);
}

const float* floats(const Tensor& tensor, std::vector<float>& storage) {
  if (tensor.type == ort::kFloat) return tensor.as<float>();
  storage.resize(static_cast<std::size_t>(tensor.elements()));
  convert(tensor.data, tensor.type, storage.data(), ort::kFloat, tensor.elements());
  return storage.data();
}

Call::Call(ort::Context* context) : context(context) {
  check(api().KernelContext_GetInputCount(context, &inputs_));
  check(api().KernelContext_GetOutputCount(context, &outputs_));
  resources.parallel_user = this;
}

Tensor Call::input(std::size_t index) const {
  const ort::Value* value = nullptr;
  if (index < inputs_) check(api().KernelContext_GetInput(context, index, &value));
  return describe(value);
}

ort::Value* Call::output_value(std::size_t index, const std::vector<std::int64_t>& shape) const {
  ort::Value* value = nullptr;
  if (index < outputs_) check(api().KernelContext_GetOutput(context, index, shape.data(), shape.size(), &value));
  return value;
}

void* Call::output(std::size_t index, const std::vector<std::int64_t>& shape) const {
  ort::Value* value = output_value(index, shape);
  if (!value) return nullptr;
  void* data = nullptr;
  check(api().GetTensorMutableData(value, &data));
  return data;
}

void* Call::output(std::size_t index, std::initializer_list<std::int64_t> shape) const {
  return output(index, std::vector<std::int64_t>(shape));
}

void Call::run(std::int64_t count, void (*task)(void*, std::int64_t), void* data) const {
  struct Work {
    void (*task)(void*, std::int64_t);
    void* data;
  } work{task, data};
  const auto one = [](void* user, std::size_t index) {
    const Work* each = static_cast<const Work*>(user);
    each->task(each->data, static_cast<std::int64_t>(index));
  };
  // 0 batches: each index is a task of its own. The library calls this function, so it must not throw.
  ort::Status* status = api().KernelContext_ParallelFor(context, one, static_cast<std::size_t>(count), 0, &work);
  if (!status) return;
  api().ReleaseStatus(status);
  for (std::int64_t i = 0; i < count; ++i) task(data, i);
}

Buffer::Buffer(ort::Allocator* allocator, std::int64_t bytes)
    : allocator_(allocator), data_(allocate(allocator, static_cast<std::size_t>(bytes), kAlignment)) {
  if (!data_) throw Failure(ort::kFail, "mha: the session's allocator has no " + std::to_string(bytes) + " bytes");
}

Buffer::~Buffer() { release(allocator_, data_, 0); }

Kernel::Kernel(const Node& node) {
  const std::int64_t threads = configured_threads(node.info);
  check(api().KernelInfoGetAllocator(node.info, 0, &allocator_));
  mha_context_options options = {};
  options.num_threads = threads;
  options.parallel_for.run = parallel_for;
  options.allocator = {allocator_, allocate, release};
  mha_error error = {};
  const mha_status status = mha_context_create(&options, &context_, &error);
  if (status != MHA_OK) api().ReleaseAllocator(allocator_);
  check(status, error);
}

Kernel::~Kernel() {
  mha_context_destroy(context_);
  api().ReleaseAllocator(allocator_);
}

}  // namespace host
