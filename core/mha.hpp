// SPDX-License-Identifier: Apache-2.0
// mha for C++17: handles that free themselves, spans instead of pointer and length, errors as a value. A thin,
// header-only wrapper of mha.h (which documents every call); no exceptions, no ABI of its own.
#ifndef MHA_MHA_HPP
#define MHA_MHA_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "mha.h"

namespace mha {

/// What a call came to. Converts to true on success, so `if (Status s = ...; !s) report(s.message());`.
class [[nodiscard]] Status {
 public:
  Status() = default;
  explicit operator bool() const { return error_.status == MHA_OK; }
  mha_status code() const { return error_.status; }
  /// Names the argument and its value; empty on success.
  const char* message() const { return error_.message; }
  /// For passing to the C calls, which fill it on failure.
  mha_error* get() { return &error_; }

 private:
  mha_error error_ = {};
};

/// A value, or why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  Result(Status status) : status_(status) {}
  explicit operator bool() const { return static_cast<bool>(status_); }
  const Status& status() const { return status_; }
  T& operator*() { return value_; }
  T* operator->() { return &value_; }

 private:
  T value_ = T();
  Status status_;
};

/// A contiguous run of elements, as std::span of C++20. T is float, const float, char, or std::byte.
template <class T>
struct Span {
  T* data = nullptr;
  std::size_t size = 0;

  Span() = default;
  Span(T* pointer, std::size_t count) : data(pointer), size(count) {}
  template <class Container, class = decltype(std::declval<Container&>().data())>
  Span(Container& container) : data(container.data()), size(container.size()) {}
};

namespace detail {
struct Destroy {
  void operator()(mha_context* p) const { mha_context_destroy(p); }
  void operator()(mha_linear* p) const { mha_linear_destroy(p); }
  void operator()(mha_layer* p) const { mha_layer_destroy(p); }
  void operator()(mha_cache* p) const { mha_cache_destroy(p); }
};

template <class T>
bool fits(const Span<T>& span, std::int64_t rows, std::int64_t columns) {
  // Sizes that are wrong in themselves are for the C call to name.
  if (rows < 0 || columns < 0 || (columns > 0 && rows > INT64_MAX / columns)) return true;
  return span.size == static_cast<std::size_t>(rows * columns);
}
inline Status mismatch(Status& status, const char* why) {
  mha_error& error = *status.get();
  error.status = MHA_ERR_SHAPE;
  std::size_t i = 0;
  for (; why[i] != 0 && i + 1 < sizeof(error.message); ++i) error.message[i] = why[i];
  error.message[i] = 0;
  return status;
}
}  // namespace detail

/// Threads, target and memory. Shareable; see mha_context.
class Context {
 public:
  static Result<Context> create(const mha_context_options& options = {}) {
    Status status;
    mha_context* handle = nullptr;
    if (mha_context_create(&options, &handle, status.get()) != MHA_OK) return status;
    return Context(handle);
  }
  Context() = default;
  const mha_context* get() const { return handle_.get(); }
  const char* target() const { return mha_context_target(get()); }
  std::int64_t num_threads() const { return mha_context_num_threads(get()); }

  /// mha_attention with the arguments given.
  Status attention(const mha_attention_args& args) const {
    Status status;
    (void)mha_attention(get(), &args, status.get());
    return status;
  }
  Result<std::size_t> attention_workspace(const mha_attention_args& args) const {
    Status status;
    std::size_t bytes = 0;
    if (mha_attention_workspace(get(), &args, &bytes, status.get()) != MHA_OK) return status;
    return bytes;
  }
  /// Fills text (which may be empty) and gives the size that all of it takes, with the zero.
  Result<std::size_t> attention_explain(const mha_attention_args& args, Span<char> text) const {
    Status status;
    std::size_t needed = 0;
    if (mha_attention_explain(get(), &args, text.data, text.size, &needed, status.get()) != MHA_OK) return status;
    return needed;
  }
  /// mha_rope_apply with the arguments given.
  Status rope_apply(const mha_rope_args& args) const {
    Status status;
    (void)mha_rope_apply(get(), &args, status.get());
    return status;
  }
  /// Merges finished results, a pointer for each part: outputs [rows, value_head_dim], log_sum_exps [rows]; the merged
  /// log_sum_exp may be empty.
  Status attention_merge(std::int64_t rows, std::int64_t value_head_dim, Span<const float* const> outputs,
                         Span<const float* const> log_sum_exps, Span<float> output,
                         Span<float> log_sum_exp = {}) const {
    Status status;
    if (outputs.size != log_sum_exps.size || !detail::fits(output, rows, value_head_dim) ||
        (log_sum_exp.data != nullptr && !detail::fits(log_sum_exp, rows, 1))) {
      return detail::mismatch(status,
                              "outputs, log_sum_exps, output or log_sum_exp has another size than the others say");
    }
    (void)mha_attention_merge(get(), static_cast<std::int64_t>(outputs.size), rows, value_head_dim, outputs.data,
                              log_sum_exps.data, output.data, log_sum_exp.data, status.get());
    return status;
  }

 private:
  explicit Context(mha_context* handle) : handle_(handle) {}
  std::unique_ptr<mha_context, detail::Destroy> handle_;
};

/// Packed weights of a linear map; see mha_linear.
class Linear {
 public:
  /// weight [out_features, in_features], bias [out_features] or empty.
  static Result<Linear> create(const Context& context, std::int64_t in_features, std::int64_t out_features,
                               Span<const float> weight, Span<const float> bias = {}) {
    Status status;
    if (!detail::fits(weight, in_features, out_features) ||
        (bias.data != nullptr && !detail::fits(bias, 1, out_features))) {
      return detail::mismatch(status, "weight or bias has another size than in_features x out_features say");
    }
    mha_linear* handle = nullptr;
    if (mha_linear_create(context.get(), in_features, out_features, weight.data, bias.data, &handle, status.get()) !=
        MHA_OK) {
      return status;
    }
    return Linear(handle);
  }
  Linear() = default;
  const mha_linear* get() const { return handle_.get(); }

  /// input [rows, in_features], output [rows, out_features], both dense.
  Status forward(const Context& context, std::int64_t rows, Span<const float> input, Span<float> output) const {
    Status status;
    if (!detail::fits(input, rows, mha_linear_in_features(get())) ||
        !detail::fits(output, rows, mha_linear_out_features(get()))) {
      return detail::mismatch(status, "input or output has another size than rows and the features say");
    }
    mha_linear_args args = {};
    args.rows = rows;
    args.input = input.data;
    args.output = output.data;
    return forward(context, args);
  }
  Status forward(const Context& context, const mha_linear_args& args) const {
    Status status;
    (void)mha_linear_forward(context.get(), get(), &args, status.get());
    return status;
  }
  /// As Context::attention_explain.
  Result<std::size_t> explain(const Context& context, const mha_linear_args& args, Span<char> text) const {
    Status status;
    std::size_t needed = 0;
    if (mha_linear_explain(context.get(), get(), &args, text.data, text.size, &needed, status.get()) != MHA_OK) {
      return status;
    }
    return needed;
  }

 private:
  explicit Linear(mha_linear* handle) : handle_(handle) {}

  std::unique_ptr<mha_linear, detail::Destroy> handle_;
};

/// Multi-head attention with projections; see mha_layer.
class Layer {
 public:
  static Result<Layer> create(const Context& context, const mha_layer_config& config,
                              const mha_layer_weights& weights) {
    Status status;
    mha_layer* handle = nullptr;
    if (mha_layer_create(context.get(), &config, &weights, &handle, status.get()) != MHA_OK) return status;
    return Layer(handle);
  }
  /// Uses the packed weights in `blob`, which must outlive the layer.
  static Result<Layer> map(const Context& context, Span<const std::byte> blob) {
    Status status;
    mha_layer* handle = nullptr;
    if (mha_layer_map(context.get(), blob.data, blob.size, &handle, status.get()) != MHA_OK) return status;
    return Layer(handle);
  }
  Layer() = default;
  const mha_layer* get() const { return handle_.get(); }
  std::size_t blob_bytes() const { return mha_layer_blob_bytes(get()); }
  Status save(Span<std::byte> blob) const {
    Status status;
    (void)mha_layer_save(get(), blob.data, blob.size, status.get());
    return status;
  }
  mha_layer_config config() const {
    mha_layer_config config = {};
    mha_layer_get_config(get(), &config);
    return config;
  }

  Status forward(const Context& context, const mha_forward_args& args) const {
    Status status;
    (void)mha_layer_forward(context.get(), get(), &args, status.get());
    return status;
  }
  Result<std::size_t> forward_workspace(const Context& context, const mha_forward_args& args) const {
    Status status;
    std::size_t bytes = 0;
    if (mha_layer_forward_workspace(context.get(), get(), &args, &bytes, status.get()) != MHA_OK) return status;
    return bytes;
  }
  /// As Context::attention_explain.
  Result<std::size_t> forward_explain(const Context& context, const mha_forward_args& args, Span<char> text) const {
    Status status;
    std::size_t needed = 0;
    if (mha_layer_forward_explain(context.get(), get(), &args, text.data, text.size, &needed, status.get()) != MHA_OK) {
      return status;
    }
    return needed;
  }

 private:
  explicit Layer(mha_layer* handle) : handle_(handle) {}
  std::unique_ptr<mha_layer, detail::Destroy> handle_;
};

/// Keys and values kept between calls; see mha_cache. Attention and forward calls take get() as their `cache`.
class Cache {
 public:
  static Result<Cache> create(const Context& context, const mha_cache_config& config) {
    Status status;
    mha_cache* handle = nullptr;
    if (mha_cache_create(context.get(), &config, &handle, status.get()) != MHA_OK) return status;
    return Cache(handle);
  }
  /// Bytes for the tokens of such a cache, known before it is made.
  static Result<std::size_t> bytes(const mha_cache_config& config) {
    Status status;
    std::size_t bytes = 0;
    if (mha_cache_bytes(&config, &bytes, status.get()) != MHA_OK) return status;
    return bytes;
  }
  Cache() = default;
  mha_cache* get() { return handle_.get(); }
  const mha_cache* get() const { return handle_.get(); }
  mha_cache_config config() const {
    mha_cache_config config = {};
    mha_cache_get_config(get(), &config);
    return config;
  }

  Status append(const Context& context, const mha_append_args& args) {
    Status status;
    (void)mha_cache_append(context.get(), get(), &args, status.get());
    return status;
  }
  /// Forgets the tokens from `length` on.
  Status truncate(std::int64_t sequence, std::int64_t length) {
    Status status;
    (void)mha_cache_truncate(get(), sequence, length, status.get());
    return status;
  }
  /// Makes the empty `destination` the first `length` tokens of `source` (-1: all).
  Status fork(std::int64_t source, std::int64_t destination, std::int64_t length = -1) {
    Status status;
    (void)mha_cache_fork(get(), source, destination, length, status.get());
    return status;
  }
  Status remove(std::int64_t sequence) {
    Status status;
    (void)mha_cache_remove(get(), sequence, status.get());
    return status;
  }
  void reset() { mha_cache_reset(get()); }

  std::int64_t length(std::int64_t sequence) const { return mha_cache_length(get(), sequence); }
  std::int64_t first_kept(std::int64_t sequence) const { return mha_cache_first_kept(get(), sequence); }
  std::size_t used_bytes() const { return mha_cache_used_bytes(get()); }

  /// Copies tokens [begin, begin + count) out; see mha_cache_export.
  Status export_to(std::int64_t sequence, std::int64_t begin, std::int64_t count, const mha_mut_view& key,
                   const mha_mut_view& value) const {
    Status status;
    (void)mha_cache_export(get(), sequence, begin, count, &key, &value, status.get());
    return status;
  }
  std::size_t save_bytes(std::int64_t sequence) const { return mha_cache_save_bytes(get(), sequence); }
  Status save(std::int64_t sequence, Span<std::byte> blob) const {
    Status status;
    (void)mha_cache_save(get(), sequence, blob.data, blob.size, status.get());
    return status;
  }
  Status load(std::int64_t sequence, Span<const std::byte> blob) {
    Status status;
    (void)mha_cache_load(get(), sequence, blob.data, blob.size, status.get());
    return status;
  }

 private:
  explicit Cache(mha_cache* handle) : handle_(handle) {}
  std::unique_ptr<mha_cache, detail::Destroy> handle_;
};

}  // namespace mha

#endif  // MHA_MHA_HPP
