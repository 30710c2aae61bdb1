// SPDX-License-Identifier: Apache-2.0
// Tensors stored in any element type, converted by the library itself (mha_rows_prepare).
#ifndef MHA_BENCH_ELEMENTS_H
#define MHA_BENCH_ELEMENTS_H

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "bench/support.h"
#include "core/reference/elements.h"

namespace mha::bench {

inline const char* name_of(mha_dtype dtype) {
  switch (dtype) {
    case MHA_F32:
      return "f32";
    case MHA_F16:
      return "f16";
    case MHA_I8:
      return "int8";
    case MHA_I4:
      return "int4";
    default:
      return "bf16";
  }
}
/// Of floats.
inline int64_t bytes_of(mha_dtype dtype) { return dtype == MHA_F32 ? 4 : 2; }

inline bool is_code(mha_dtype dtype) { return dtype == MHA_I8 || dtype == MHA_I4; }
/// How caches of the bench store rows: int8 with a float scale for each row, int4 with f16 scales of 32 elements.
inline mha_storage storage_of(mha_dtype dtype) {
  mha_storage storage = {};
  storage.dtype = dtype;
  if (dtype == MHA_I4) storage.group = 32, storage.scale_dtype = MHA_F16;
  return storage;
}
/// Of a row that is stored so, with its scales.
inline int64_t row_bytes(mha_dtype dtype, int64_t width) {
  if (dtype == MHA_I8) return width + 4;
  return dtype == MHA_I4 ? width / 2 + width / 32 * 2 : width * bytes_of(dtype);
}

/// An array of elements at a multiple of 64 bytes, in ordinary pages.
class Elements {
 public:
  Elements(mha_dtype dtype, int64_t count) : dtype_(dtype), count_(count), memory_((count * bytes_of(dtype) + 3) / 4) {
    std::memset(memory_.data(), 0xff, region().bytes);  // NaN
  }
  /// Floats rounded.
  Elements(const Context& context, mha_dtype dtype, const Floats& floats) : Elements(dtype, floats.size()) {
    convert(context, mha::view(floats.data()), mut_view(), count_);
  }

  mha_view view() const {
    mha_view view = {};
    view.data = memory_.data(), view.dtype = dtype_;
    return view;
  }
  mha_mut_view mut_view() const {
    mha_mut_view view = {};
    view.data = memory_.data(), view.dtype = dtype_;
    return view;
  }
  int64_t size() const { return count_; }
  Region region() const { return {memory_.data(), static_cast<size_t>(count_ * bytes_of(dtype_))}; }
  void widen_into(const Context& context, const Floats& floats) const {
    convert(context, view(), mha::mut_view(floats.data()), count_);
  }
  bool same_bits(const Elements& other) const {
    return dtype_ == other.dtype_ && count_ == other.count_ &&
           std::memcmp(memory_.data(), other.memory_.data(), region().bytes) == 0;
  }

 private:
  static void convert(const Context& context, const mha_view& from, const mha_mut_view& to, int64_t count) {
    mha_rows_args args = {};
    args.batch = args.length = args.num_heads = 1;
    args.head_dim = count;
    args.input = from;
    args.output = to;
    require(context.rows_prepare(args));
  }

  mha_dtype dtype_;
  int64_t count_;
  Floats memory_;
};

/// Random numbers as they are stored, and the same widened.
struct Stored {
  Stored(const Context& context, mha_dtype dtype, int64_t count, float bound, uint64_t seed)
      : wide(count, bound, seed), narrow(context, dtype, wide) {
    narrow.widen_into(context, wide);
  }
  Floats wide;
  Elements narrow;
};

/// Random rows [length, heads, width] as codes with their scales (storage_of), and the floats that they stand for.
class Coded {
 public:
  Coded(const Context& context, mha_dtype dtype, int64_t length, int64_t heads, int64_t width, float bound,
        uint64_t seed)
      : wide(length * heads * width, bound, seed), dtype_(dtype) {
    const mha_storage storage = storage_of(dtype);
    const int64_t groups = storage.group > 0 ? width / storage.group : 1, rows = length * heads;
    codes_ = Floats((rows * code_bytes(width) + 3) / 4);
    scales_.resize(static_cast<size_t>(rows * groups * bytes_of(storage.scale_dtype)));
    mha_rows_args args = {};
    args.batch = 1, args.length = length, args.num_heads = heads, args.head_dim = width;
    args.input = mha::view(wide.data());
    args.output.data = codes_.data(), args.output.dtype = dtype;
    args.storage = &storage;
    args.scales = scales_.data();
    require(context.rows_prepare(args));
    quant_.scales = scales_.data(), quant_.scale_dtype = storage.scale_dtype, quant_.group = storage.group;
    quant_.stride_t = heads * groups, quant_.stride_h = heads > 1 ? groups : 0, quant_.stride_d = groups > 1 ? 1 : 0;
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t d = 0; d < width; ++d)
        wide.data()[row * width + d] = reference::code_value(view(), row * width, 0, row / heads, row % heads, d);
    bytes = static_cast<double>(scales_.size()) + static_cast<double>(rows * code_bytes(width));
  }
  Coded(const Coded&) = delete;
  Coded& operator=(const Coded&) = delete;

  /// Points into this.
  mha_view view() const {
    mha_view view = {};
    view.data = codes_.data(), view.dtype = dtype_, view.quant = &quant_;
    return view;
  }
  Region region() const { return codes_.region(); }

  Floats wide;
  double bytes = 0;

 private:
  int64_t code_bytes(int64_t width) const { return dtype_ == MHA_I4 ? width / 2 : width; }

  mha_dtype dtype_;
  Floats codes_;
  std::vector<unsigned char> scales_;
  mha_quant quant_ = {};
};

/// A result in `dtype` must have the bits of the float result, rounded once. Returns what is wrong, or nothing.
inline std::string check_rounded(const Context& context, mha_dtype dtype, const Floats& floats,
                                 const Elements& result) {
  return result.same_bits(Elements(context, dtype, floats)) ? "" : "not the result over floats, rounded once";
}

}  // namespace mha::bench

#endif  // MHA_BENCH_ELEMENTS_H
