// SPDX-License-Identifier: Apache-2.0
// mha for C++17: handles that free themselves, views that take their dtype from the pointer, arguments with their
// groups as members, errors as values. A thin, header-only wrapper of mha.h, which documents every call and field. It
// throws no exceptions and has no ABI of its own.
#ifndef MHA_MHA_HPP
#define MHA_MHA_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

#include "mha.h"

namespace mha {

/// The outcome of a call. It converts to true on success: `if (Status s = ...; !s) report(s.message());`.
class [[nodiscard]] Status {
 public:
  Status() = default;
  explicit operator bool() const { return error_.status == MHA_OK; }
  mha_status code() const { return error_.status; }
  /// Names the argument and its value; empty on success.
  const char* message() const { return error_.message; }
  /// To pass to the C calls, which fill it on failure.
  mha_error* get() { return &error_; }

 private:
  mha_error error_ = {};
};

/// A value, or the Status that says why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}
  Result(Status status) : status_(status) {}
  explicit operator bool() const { return static_cast<bool>(status_); }
  const Status& status() const { return status_; }
  T& operator*() & { return value_; }
  T operator*() && { return std::move(value_); }  // of a Result that ends here
  T* operator->() & { return &value_; }

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

// --- Tensors -----------------------------------------------------------------------------------------------------------

/// The dtype of an element type. Other types have none, so a view of them does not compile.
template <class T>
struct Dtype;
template <>
struct Dtype<float> {
  static constexpr mha_dtype value = MHA_F32;
};
template <>
struct Dtype<mha_f16> {
  static constexpr mha_dtype value = MHA_F16;
};
template <>
struct Dtype<mha_bf16> {
  static constexpr mha_dtype value = MHA_BF16;
};
template <>
struct Dtype<std::int8_t> {
  static constexpr mha_dtype value = MHA_I8;
};
template <>
struct Dtype<std::uint8_t> {
  static constexpr mha_dtype value = MHA_U8;
};

/// Strides in elements, for mha_view and mha_mut_view; all 0: dense.
struct Strides {
  std::int64_t b = 0, t = 0, h = 0;
};

/// A tensor to read. Codes need their scales: see Codes.
template <class T>
mha_view view(const T* data, const Strides& strides = {}) {
  static_assert(!std::is_integral_v<T>, "codes are read with their scales: mha::Codes");
  return {data, Dtype<T>::value, 0, strides.b, strides.t, strides.h, nullptr};
}

/// A tensor to write.
template <class T>
mha_mut_view mut_view(T* data, const Strides& strides = {}) {
  static_assert(!std::is_const_v<T>, "results are written");
  static_assert(!std::is_integral_v<T>, "results are floats");
  return {data, Dtype<std::remove_const_t<T>>::value, 0, strides.b, strides.t, strides.h};
}

/// Codes with their scales. It must live until the call that reads it ends, so a temporary does not convert to a view.
template <class T, class Scale>
class Codes {
 public:
  static_assert(std::is_integral_v<T>, "codes are integers");
  /// `layout` says where the scale of an element is; the constructor fills in its scales and scale_dtype.
  Codes(const T* codes, const Scale* scales, const mha_quant& layout = {}, const Strides& strides = {})
      : quant_(layout), view_{codes, Dtype<T>::value, 0, strides.b, strides.t, strides.h, nullptr} {
    quant_.scales = scales;
    quant_.scale_dtype = Dtype<Scale>::value;
  }
  operator mha_view() const& {
    mha_view v = view_;
    v.quant = &quant_;
    return v;
  }
  operator mha_view() const&& = delete;

 private:
  mha_quant quant_;
  mha_view view_;
};

// --- Arguments ---------------------------------------------------------------------------------------------------------

/// The groups of a call as members, so that the caller keeps no pointers alive. Zeros are the defaults.
struct CallGroups {
  mha_items items = {};
  mha_positions positions = {};
  mha_masks masks = {};
  mha_score_mods score_mods = {};
  mha_results results = {};
  mha_resources resources = {};

 protected:
  template <class Args>
  Args point_at_groups(Args args) const {
    args.items = &items;
    args.positions = &positions;
    args.masks = &masks;
    args.score_mods = &score_mods;
    args.results = &results;
    args.resources = &resources;
    return args;
  }
};

/// mha_attention_args with its groups as members. raw() gives the args for the C calls; they point into this object.
class AttentionCall : private mha_attention_args, public CallGroups {
 public:
  AttentionCall() : mha_attention_args() {}
  using mha_attention_args::arithmetic;
  using mha_attention_args::batch;
  using mha_attention_args::cache;
  using mha_attention_args::causal;
  using mha_attention_args::head_dim;
  using mha_attention_args::key;
  using mha_attention_args::key_len;
  using mha_attention_args::num_heads;
  using mha_attention_args::num_kv_heads;
  using mha_attention_args::output;
  using mha_attention_args::pages;
  using mha_attention_args::query;
  using mha_attention_args::query_len;
  using mha_attention_args::query_norm;
  using mha_attention_args::reserved;
  using mha_attention_args::rope;
  using mha_attention_args::scale;
  using mha_attention_args::scale_is_exact;
  using mha_attention_args::value;
  using mha_attention_args::value_head_dim;

  using CallGroups::items;
  using CallGroups::masks;
  using CallGroups::positions;
  using CallGroups::resources;
  using CallGroups::results;
  using CallGroups::score_mods;

  mha_attention_args raw() const& { return point_at_groups<mha_attention_args>(*this); }
  mha_attention_args raw() const&& = delete;
};

/// mha_layer_args with its groups as members, like AttentionCall.
class LayerCall : private mha_layer_args, public CallGroups {
 public:
  LayerCall() : mha_layer_args() {}
  using mha_layer_args::arithmetic;
  using mha_layer_args::batch;
  using mha_layer_args::cache;
  using mha_layer_args::cache_use;
  using mha_layer_args::causal;
  using mha_layer_args::key;
  using mha_layer_args::key_len;
  using mha_layer_args::key_norm;
  using mha_layer_args::output;
  using mha_layer_args::query;
  using mha_layer_args::query_len;
  using mha_layer_args::query_norm;
  using mha_layer_args::reserved;
  using mha_layer_args::reserved_int;
  using mha_layer_args::rope;
  using mha_layer_args::value;

  using CallGroups::items;
  using CallGroups::masks;
  using CallGroups::positions;
  using CallGroups::resources;
  using CallGroups::results;
  using CallGroups::score_mods;

  mha_layer_args raw() const& { return point_at_groups<mha_layer_args>(*this); }
  mha_layer_args raw() const&& = delete;
};

// --- Handles -----------------------------------------------------------------------------------------------------------

namespace detail {
struct Destroy {
  void operator()(mha_context* p) const { mha_context_destroy(p); }
  void operator()(mha_linear* p) const { mha_linear_destroy(p); }
  void operator()(mha_layer* p) const { mha_layer_destroy(p); }
  void operator()(mha_cache* p) const { mha_cache_destroy(p); }
};

/// The Status of a call that fills an error.
template <class Call>
Status status_of(Call call) {
  Status status;
  (void)call(status.get());
  return status;
}

/// The value that a call fills in, or the Status that says why it did not.
template <class T, class Call>
Result<T> result_of(Call call) {
  Status status;
  T value = T();
  if (call(&value, status.get()) != MHA_OK) return status;
  return value;
}
}  // namespace detail

/// A handle of the library, which this object owns and frees. get() is null after a move or a default construction.
template <class Handle>
class Owned {
 public:
  Owned() = default;
  explicit Owned(Handle* handle) : handle_(handle) {}
  Handle* get() const { return handle_.get(); }
  explicit operator bool() const { return handle_ != nullptr; }
  /// Frees the handle now.
  void reset() { handle_.reset(); }

 protected:
  /// Makes a T from the handle that `call` fills in.
  template <class T, class Call>
  static Result<T> make(Call call) {
    Status status;
    Handle* handle = nullptr;
    if (call(&handle, status.get()) != MHA_OK) return status;
    T made;
    static_cast<Owned&>(made).handle_.reset(handle);
    return made;
  }

 private:
  std::unique_ptr<Handle, detail::Destroy> handle_;
};

/// Threads, target and memory. Threads may share it; see mha_context.
class Context : public Owned<mha_context> {
 public:
  static Result<Context> create(const mha_context_options& options = {}) {
    return make<Context>([&](mha_context** made, mha_error* e) { return mha_context_create(&options, made, e); });
  }
  const char* target() const { return mha_context_target(get()); }
  std::int64_t num_threads() const { return mha_context_num_threads(get()); }

  Status attention(const mha_attention_args& args) const {
    return detail::status_of([&](mha_error* e) { return mha_attention(get(), &args, e); });
  }
  Status attention(const AttentionCall& args) const { return attention(args.raw()); }
  Result<std::size_t> attention_workspace_bytes(const mha_attention_args& args) const {
    return detail::result_of<std::size_t>(
        [&](std::size_t* n, mha_error* e) { return mha_attention_workspace_bytes(get(), &args, n, e); });
  }
  Result<std::size_t> attention_workspace_bytes(const AttentionCall& args) const {
    return attention_workspace_bytes(args.raw());
  }
  Result<std::size_t> attention_workspace_bound(const mha_attention_args& args) const {
    return detail::result_of<std::size_t>(
        [&](std::size_t* n, mha_error* e) { return mha_attention_workspace_bound(get(), &args, n, e); });
  }
  Result<std::size_t> attention_workspace_bound(const AttentionCall& args) const {
    return attention_workspace_bound(args.raw());
  }
  /// Fills text, which may be empty, and returns the size of the full text with its zero.
  Result<std::size_t> attention_explain(const mha_attention_args& args, Span<char> text) const {
    return detail::result_of<std::size_t>(
        [&](std::size_t* n, mha_error* e) { return mha_attention_explain(get(), &args, text.data, text.size, n, e); });
  }
  Result<std::size_t> attention_explain(const AttentionCall& args, Span<char> text) const {
    return attention_explain(args.raw(), text);
  }
  Status attention_partial(const mha_attention_args& args, Span<std::byte> partials) const {
    return detail::status_of(
        [&](mha_error* e) { return mha_attention_partial(get(), &args, partials.data, partials.size, e); });
  }
  Status attention_partial(const AttentionCall& args, Span<std::byte> partials) const {
    return attention_partial(args.raw(), partials);
  }
  Result<std::size_t> attention_partial_bytes(const mha_attention_args& args) const {
    return detail::result_of<std::size_t>(
        [&](std::size_t* n, mha_error* e) { return mha_attention_partial_bytes(get(), &args, n, e); });
  }
  Result<std::size_t> attention_partial_bytes(const AttentionCall& args) const {
    return attention_partial_bytes(args.raw());
  }
  Status attention_merge_partials(const mha_merge_partials_args& args) const {
    return detail::status_of([&](mha_error* e) { return mha_attention_merge_partials(get(), &args, e); });
  }
  Status attention_merge(const mha_merge_args& args) const {
    return detail::status_of([&](mha_error* e) { return mha_attention_merge(get(), &args, e); });
  }
  Status rows_prepare(const mha_rows_args& args) const {
    return detail::status_of([&](mha_error* e) { return mha_rows_prepare(get(), &args, e); });
  }
  /// cos and sin [count, dims/2] of positions [first, first + count).
  Status rope_table(const mha_rope& rope, std::int64_t head_dim, std::int64_t first, std::int64_t count, float* cos,
                    float* sin) const {
    return detail::status_of(
        [&](mha_error* e) { return mha_rope_table(get(), &rope, head_dim, first, count, cos, sin, e); });
  }
  Result<std::size_t> rows_workspace_bytes(const mha_rows_args& args) const {
    return detail::result_of<std::size_t>(
        [&](std::size_t* n, mha_error* e) { return mha_rows_workspace_bytes(get(), &args, n, e); });
  }
};

/// See mha_t5_bias.
inline Status t5_bias(const float* table, std::int64_t num_heads, std::int64_t num_buckets, std::int64_t max_distance,
                      bool bidirectional, float* result) {
  return detail::status_of([&](mha_error* e) {
    return mha_t5_bias(table, num_heads, num_buckets, max_distance, bidirectional ? 1 : 0, result, e);
  });
}

/// Packed weights of a linear map; see mha_linear.
class Linear : public Owned<mha_linear> {
 public:
  static Result<Linear> create(const Context& context, const mha_linear_config& config) {
    return make<Linear>(
        [&](mha_linear** made, mha_error* e) { return mha_linear_create(context.get(), &config, made, e); });
  }
  /// Uses the packed weights in `blob`, which must outlive the handle.
  static Result<Linear> map(const Context& context, Span<const std::byte> blob) {
    return make<Linear>(
        [&](mha_linear** made, mha_error* e) { return mha_linear_map(context.get(), blob.data, blob.size, made, e); });
  }
  mha_linear_config config() const {
    mha_linear_config config = {};
    mha_linear_get_config(get(), &config);
    return config;
  }
  Result<std::size_t> save_bytes() const {
    return detail::result_of<std::size_t>(
        [&](std::size_t* n, mha_error* e) { return mha_linear_save_bytes(get(), n, e); });
  }
  Status save(Span<std::byte> blob) const {
    return detail::status_of([&](mha_error* e) { return mha_linear_save(get(), blob.data, blob.size, e); });
  }
  Status forward(const Context& context, const mha_linear_args& args) const {
    return detail::status_of([&](mha_error* e) { return mha_linear_forward(context.get(), get(), &args, e); });
  }
  Result<std::size_t> workspace_bytes(const Context& context, const mha_linear_args& args) const {
    return detail::result_of<std::size_t>(
        [&](std::size_t* n, mha_error* e) { return mha_linear_workspace_bytes(context.get(), get(), &args, n, e); });
  }
  /// As Context::attention_explain.
  Result<std::size_t> explain(const Context& context, const mha_linear_args& args, Span<char> text) const {
    return detail::result_of<std::size_t>([&](std::size_t* n, mha_error* e) {
      return mha_linear_explain(context.get(), get(), &args, text.data, text.size, n, e);
    });
  }
};

/// Multi-head attention with projections; see mha_layer.
class Layer : public Owned<mha_layer> {
 public:
  static Result<Layer> create(const Context& context, const mha_layer_config& config,
                              const mha_layer_weights& weights) {
    return make<Layer>(
        [&](mha_layer** made, mha_error* e) { return mha_layer_create(context.get(), &config, &weights, made, e); });
  }
  /// Uses the packed weights in `blob`, which must outlive the layer.
  static Result<Layer> map(const Context& context, Span<const std::byte> blob) {
    return make<Layer>(
        [&](mha_layer** made, mha_error* e) { return mha_layer_map(context.get(), blob.data, blob.size, made, e); });
  }
  mha_layer_config config() const {
    mha_layer_config config = {};
    mha_layer_get_config(get(), &config);
    return config;
  }
  std::int64_t added_keys() const noexcept { return mha_layer_added_keys(get()); }
  Result<std::size_t> save_bytes() const {
    return detail::result_of<std::size_t>(
        [&](std::size_t* n, mha_error* e) { return mha_layer_save_bytes(get(), n, e); });
  }
  Status save(Span<std::byte> blob) const {
    return detail::status_of([&](mha_error* e) { return mha_layer_save(get(), blob.data, blob.size, e); });
  }
  Status forward(const Context& context, const mha_layer_args& args) const {
    return detail::status_of([&](mha_error* e) { return mha_layer_forward(context.get(), get(), &args, e); });
  }
  Status forward(const Context& context, const LayerCall& args) const { return forward(context, args.raw()); }
  Result<std::size_t> workspace_bytes(const Context& context, const mha_layer_args& args) const {
    return detail::result_of<std::size_t>(
        [&](std::size_t* n, mha_error* e) { return mha_layer_workspace_bytes(context.get(), get(), &args, n, e); });
  }
  Result<std::size_t> workspace_bytes(const Context& context, const LayerCall& args) const {
    return workspace_bytes(context, args.raw());
  }
  Result<std::size_t> workspace_bound(const Context& context, const mha_layer_args& args) const {
    return detail::result_of<std::size_t>(
        [&](std::size_t* n, mha_error* e) { return mha_layer_workspace_bound(context.get(), get(), &args, n, e); });
  }
  Result<std::size_t> workspace_bound(const Context& context, const LayerCall& args) const {
    return workspace_bound(context, args.raw());
  }
  /// As Context::attention_explain.
  Result<std::size_t> explain(const Context& context, const mha_layer_args& args, Span<char> text) const {
    return detail::result_of<std::size_t>([&](std::size_t* n, mha_error* e) {
      return mha_layer_explain(context.get(), get(), &args, text.data, text.size, n, e);
    });
  }
  Result<std::size_t> explain(const Context& context, const LayerCall& args, Span<char> text) const {
    return explain(context, args.raw(), text);
  }
};

/// Keys and values kept between calls; see mha_cache. Attention and layer calls take get() as their `cache`.
class Cache : public Owned<mha_cache> {
 public:
  static Result<Cache> create(const Context& context, const mha_cache_config& config) {
    return make<Cache>(
        [&](mha_cache** made, mha_error* e) { return mha_cache_create(context.get(), &config, made, e); });
  }
  /// Bytes for the tokens of a cache of this configuration, known before it is made.
  static Result<std::size_t> memory_bytes(const mha_cache_config& config) {
    return detail::result_of<std::size_t>(
        [&](std::size_t* n, mha_error* e) { return mha_cache_memory_bytes(&config, n, e); });
  }
  /// Reserves room in all caches of the list, or in none.
  static Status reserve(const mha_reserve_args& args) {
    return detail::status_of([&](mha_error* e) { return mha_cache_reserve(&args, e); });
  }
  /// Reserves room for `tokens` more tokens of one sequence.
  Status reserve(std::int64_t sequence, std::int64_t tokens) {
    mha_cache* const cache = get();
    mha_reserve_args args = {};
    args.caches = &cache;
    args.num_caches = args.batch = 1;
    args.sequences = &sequence;
    args.tokens = &tokens;
    return reserve(args);
  }
  mha_cache_config config() const {
    mha_cache_config config = {};
    mha_cache_get_config(get(), &config);
    return config;
  }

  Status append(const Context& context, const mha_append_args& args) {
    return detail::status_of([&](mha_error* e) { return mha_cache_append(context.get(), get(), &args, e); });
  }
  Result<std::size_t> append_workspace_bytes(const Context& context, const mha_append_args& args) const {
    return detail::result_of<std::size_t>([&](std::size_t* n, mha_error* e) {
      return mha_cache_append_workspace_bytes(context.get(), get(), &args, n, e);
    });
  }
  /// Removes the tokens from `length` on.
  Status truncate(std::int64_t sequence, std::int64_t length) {
    return detail::status_of([&](mha_error* e) { return mha_cache_truncate(get(), sequence, length, e); });
  }
  /// Makes the empty sequence `destination` equal to the first `length` tokens of `source` (-1: all).
  Status fork(std::int64_t source, std::int64_t destination, std::int64_t length = -1) {
    return detail::status_of([&](mha_error* e) { return mha_cache_fork(get(), source, destination, length, e); });
  }
  Status remove(std::int64_t sequence) {
    return detail::status_of([&](mha_error* e) { return mha_cache_remove(get(), sequence, e); });
  }
  void reset() { mha_cache_reset(get()); }

  std::int64_t length(std::int64_t sequence) const { return mha_cache_length(get(), sequence); }
  std::int64_t first_kept(std::int64_t sequence) const { return mha_cache_first_kept(get(), sequence); }
  std::int64_t room(std::int64_t sequence) const { return mha_cache_room(get(), sequence); }
  std::size_t used_bytes() const { return mha_cache_used_bytes(get()); }

  /// Copies tokens out; see mha_cache_export.
  Status export_to(const mha_export_args& args) const {
    return detail::status_of([&](mha_error* e) { return mha_cache_export(get(), &args, e); });
  }
  Result<std::size_t> save_bytes(std::int64_t sequence) const {
    return detail::result_of<std::size_t>(
        [&](std::size_t* n, mha_error* e) { return mha_cache_save_bytes(get(), sequence, n, e); });
  }
  Status save(std::int64_t sequence, Span<std::byte> blob) const {
    return detail::status_of([&](mha_error* e) { return mha_cache_save(get(), sequence, blob.data, blob.size, e); });
  }
  Status load(std::int64_t sequence, Span<const std::byte> blob) {
    return detail::status_of([&](mha_error* e) { return mha_cache_load(get(), sequence, blob.data, blob.size, e); });
  }
};

}  // namespace mha

#endif  // MHA_MHA_HPP
