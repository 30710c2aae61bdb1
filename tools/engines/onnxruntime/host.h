// SPDX-License-Identifier: Apache-2.0
// What the operators share: nodes and calls of ONNX Runtime as C++ values, and an mha context whose threads and memory
// are those of the session.
#pragma once

#include <mha/mha.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "ort_abi.h"

namespace host {

// Becomes the status that ONNX Runtime returns to its user.
struct Failure : std::runtime_error {
  Failure(ort::ErrorCode code, const std::string& text) : std::runtime_error(text), code(code) {}
  ort::ErrorCode code;
};
[[noreturn]] void refuse(const std::string& text);  // an argument of the model or of the call

const ort::Api& api();
// Reads the table of the running ONNX Runtime. The text of an error, or an empty string.
std::string load_api(const ort::ApiBase* base);
void check(ort::Status* status);  // throws Failure with the text of ONNX Runtime
void check(mha_status status, const mha_error& error);

struct Tensor {
  void* data = nullptr;
  const ort::Value* value = nullptr;  // null: an optional input that the node does not have
  ort::ElementType type = ort::kAny;
  const std::int64_t* shape = nullptr;
  std::size_t rank = 0;

  explicit operator bool() const { return value != nullptr; }
  std::int64_t dim(std::size_t index) const;  // refuses an index beyond the rank
  std::int64_t elements() const;
  std::string text() const;  // "[2, 3]"
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};
Tensor describe(const ort::Value* value);

mha_dtype dtype(ort::ElementType type);  // of floats; refuses others
bool is_narrow(ort::ElementType type);   // a float of 16 bits
// Floats of any of the three types as f32: the data itself, or a copy in `storage`.
const float* floats(const Tensor& tensor, std::vector<float>& storage);
// Converts floats on one thread.
void convert(const void* from, ort::ElementType from_type, void* to, ort::ElementType to_type, std::int64_t count);

// A node while its kernel is made.
class Node {
 public:
  explicit Node(const ort::KernelInfo* info) : info(info) {}
  // Attributes. ONNX Runtime has filled in none of the defaults of its schema, because this operator's schema has none.
  std::optional<std::int64_t> integer(const char* name) const;
  std::optional<float> real(const char* name) const;
  std::int64_t integer(const char* name, std::int64_t otherwise) const { return integer(name).value_or(otherwise); }
  float real(const char* name, float otherwise) const { return real(name).value_or(otherwise); }
  std::string string(const char* name, const char* otherwise) const;
  bool has_input(std::size_t index) const;
  bool has_output(std::size_t index) const;
  ort::ElementType input_type(std::size_t index) const;
  Tensor constant(std::size_t index) const;  // of an input that is an initializer
  std::string name() const;

  const ort::KernelInfo* info;
};

// One call of a kernel.
class Call {
 public:
  explicit Call(ort::Context* context);
  Tensor input(std::size_t index) const;
  // The memory of an output; null where the node does not have it.
  void* output(std::size_t index, std::initializer_list<std::int64_t> shape) const;
  void* output(std::size_t index, const std::vector<std::int64_t>& shape) const;
  ort::Value* output_value(std::size_t index, const std::vector<std::int64_t>& shape) const;
  // Calls body(i) for each i in [0, count), on the threads of the session.
  template <class Body>
  void parallel(std::int64_t count, const Body& body) const {
    run(
        count, [](void* data, std::int64_t index) { (*static_cast<const Body*>(data))(index); },
        const_cast<Body*>(&body));
  }
  void run(std::int64_t count, void (*task)(void*, std::int64_t), void* data) const;

  ort::Context* const context;
  mha_resources resources = {};  // this call's threads

 private:
  std::size_t inputs_ = 0, outputs_ = 0;
};

// Memory of the session's allocator.
class Buffer {
 public:
  Buffer(ort::Allocator* allocator, std::int64_t bytes);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* data() const { return data_; }

 private:
  ort::Allocator* allocator_;
  void* data_;
};

// A kernel: one node of a session.
class Kernel {
 public:
  explicit Kernel(const Node& node);
  virtual ~Kernel();
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  virtual void compute(Call& call) = 0;

 protected:
  mha_context* context() const { return context_; }
  ort::Allocator* allocator() const { return allocator_; }

 private:
  ort::Allocator* allocator_ = nullptr;
  mha_context* context_ = nullptr;
};

using Shapes = std::vector<std::vector<std::int64_t>>;

// A kernel that calls ONNX Runtime's own kernel of the same name, for what mha does not serve. Tensors of 16 bits are
// widened to floats for it, because it has few kernels for them.
struct Standard {
  const char* name;
  const char* domain;
  int version;
  // Attributes, with the defaults that ONNX Runtime's kernel needs.
  std::vector<std::pair<const char*, std::optional<std::int64_t>>> integers;
  std::vector<std::pair<const char*, std::optional<float>>> reals;
  std::vector<const char*> strings;
  std::vector<std::pair<const char*, ort::ElementType>> constraints;  // types, by the names of the schema
  std::function<Shapes(const Call&)> shapes;                          // of the outputs
};
// `reason` goes into the session's log; empty: nothing does.
Kernel* leave_to_ort(const Node& node, const Standard& standard, const std::string& reason);

}  // namespace host
