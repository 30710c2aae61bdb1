// SPDX-License-Identifier: Apache-2.0
// Result<T>: what the readers and writers return instead of throwing: a value, or one line that says what is wrong.
#ifndef MHA_TOOLS_IO_RESULT_H
#define MHA_TOOLS_IO_RESULT_H

#include <optional>
#include <string>
#include <utility>

namespace mha::io {

// One line for a person: names the file, the tensor or field, and the value that does not fit. Text taken from a file
// goes through printable() first, so that a hostile name cannot break the line or reach the terminal as an escape code.
struct Error {
  std::string message;
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor): `return value;`
  Result(Error error)
      : message_(std::move(error.message)) {}  // NOLINT(google-explicit-constructor): `return Error{...};`

  explicit operator bool() const { return value_.has_value(); }
  T& operator*() & { return *value_; }
  const T& operator*() const& { return *value_; }
  T&& operator*() && { return std::move(*value_); }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }
  // Empty where there is a value.
  const std::string& message() const { return message_; }
  Error error() const { return Error{message_}; }

 private:
  std::optional<T> value_;
  std::string message_;
};

// Of what has no value to return.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : failed_(true), message_(std::move(error.message)) {}  // NOLINT(google-explicit-constructor)

  explicit operator bool() const { return !failed_; }
  const std::string& message() const { return message_; }
  Error error() const { return Error{message_}; }

 private:
  bool failed_ = false;
  std::string message_;
};

}  // namespace mha::io

#endif  // MHA_TOOLS_IO_RESULT_H
