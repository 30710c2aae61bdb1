// SPDX-License-Identifier: Apache-2.0
// Arguments of an op, read from the stack of torch's stable ABI.
#ifndef MHA_TORCH_OPS_STACK_H
#define MHA_TORCH_OPS_STACK_H

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace mha_torch {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Throws std::runtime_error, which torch turns into Python's RuntimeError.
[[noreturn]] inline void fail(const std::string& text) { throw std::runtime_error("mha: " + text); }

inline void require(bool condition, const char* text) {
  if (!condition) fail(text);
}

// Reads the arguments in the order of the schema. The op owns what is on the stack, so every argument must be read, and
// before the first error is thrown.
class Stack {
 public:
  explicit Stack(const StableIValue* values) : values_(values) {}

  template <typename T>
  T next() {
    return torch::stable::detail::to<T>(*values_++);
  }

  // The empty string stands for None.
  std::string next_text() {
    auto* boxed = next<StableIValue*>();
    if (boxed == nullptr) return {};
    auto handle = torch::stable::detail::to<StringHandle>(*boxed);
    delete boxed;
    size_t length = 0;
    const char* data = nullptr;
    std::string text;
    if (torch_string_length(handle, &length) == TORCH_SUCCESS && torch_string_c_str(handle, &data) == TORCH_SUCCESS) {
      text.assign(data, length);
    }
    torch_delete_string(handle);
    return text;
  }

 private:
  const StableIValue* values_;
};

}  // namespace mha_torch

#endif  // MHA_TORCH_OPS_STACK_H
