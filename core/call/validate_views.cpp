// SPDX-License-Identifier: Apache-2.0
// Checks of views: element types, strides, extents, overlap.
#include "core/call/checks.h"
#include "core/kernels/kernel_table.h"

namespace mha {

using ll = long long;

namespace {

// The stride of an outer dimension of a call's tensors, for loops over all three.
struct NamedStride {
  const char* suffix;
  int64_t value;
};

// Elements from the first to the last.
Size span_of(const Dimensions& n, const ElementStrides& s) {
  return Size(n.b - 1) * Size(s.b) + Size(n.t - 1) * Size(s.t) + Size(n.h - 1) * Size(s.h) + Size(n.d);
}

bool is_empty(const Dimensions& n) { return n.b == 0 || n.t == 0 || n.h == 0 || n.d == 0; }

// Whether distinct elements may share memory. They certainly do not if each stride, from the smallest up, steps over
// all that the smaller ones span.
bool overlaps(const Dimensions& n, const ElementStrides& s) {
  int64_t sizes[3] = {n.b, n.t, n.h}, strides[3] = {s.b, s.t, s.h};
  int64_t below = n.d;
  for (int done = 0; done < 3; ++done) {
    int least = -1;
    for (int i = 0; i < 3; ++i) {
      if (sizes[i] > 1 && (least < 0 || strides[i] < strides[least])) least = i;
    }
    if (least < 0) return false;
    if (strides[least] < below) return true;
    below += strides[least] * (sizes[least] - 1);
    sizes[least] = 1;
  }
  return false;
}

mha_status dense_strides(const char* name, const Dimensions& n, Order order, ElementStrides* out, mha_error* error) {
  const Size inner = order == Order::kBthd ? Size(n.h) * Size(n.d) : Size(n.t) * Size(n.d);
  const Size batch = Size(n.t) * Size(n.h) * Size(n.d);
  if (!batch.ok() || !inner.ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "%s of %lld x %lld x %lld x %lld has more than 2^63 elements", name, ll{n.b},
                ll{n.t}, ll{n.h}, ll{n.d});
  }
  *out = order == Order::kBthd ? ElementStrides{batch.value(), inner.value(), n.d}
                               : ElementStrides{batch.value(), n.d, inner.value()};
  return MHA_OK;
}

mha_status resolve_strides(const char* name, const Dimensions& n, Order order, const ElementStrides& given,
                           int64_t least, ElementStrides* out, mha_error* error) {
  const NamedStride strides[] = {{"b", given.b}, {"t", given.t}, {"h", given.h}};
  for (const NamedStride& s : strides) {
    if (s.value < least) {
      return fail(error, MHA_ERR_STRIDE, "%s.stride_%s is %lld: must be >= 0%s", name, s.suffix, ll{s.value},
                  least < 0 ? " or MHA_BROADCAST" : "");
    }
  }
  if (given.b == 0 && given.t == 0 && given.h == 0) {
    MHA_TRY(dense_strides(name, n, order, out, error));
  } else {
    const int64_t sizes[] = {n.b, n.t, n.h};
    for (int i = 0; least < 0 && i < 3; ++i) {  // inputs; a result's elements must not overlap at all
      if (strides[i].value != 0 || sizes[i] <= 1 || is_empty(n)) continue;
      return fail(error, MHA_ERR_STRIDE, "%s.stride_%s is 0 beside other strides: give it, or MHA_BROADCAST to repeat",
                  name, strides[i].suffix);
    }
    *out = {most(given.b, 0), most(given.t, 0), most(given.h, 0)};
  }
  return check_extent(name, n, *out, error);
}

}  // namespace

mha_status check_extent(const char* name, const Dimensions& n, const ElementStrides& s, mha_error* error) {
  if (is_empty(n)) return MHA_OK;
  const Size last = span_of(n, s);
  if (last.ok() && last.value() <= kMaxBytes) return MHA_OK;
  return fail(error, MHA_ERR_OVERFLOW,
              "%s of %lld x %lld x %lld x %lld with strides %lld, %lld, %lld ends beyond 2^63 bytes", name, ll{n.b},
              ll{n.t}, ll{n.h}, ll{n.d}, ll{s.b}, ll{s.t}, ll{s.h});
}

mha_status check_no_stride(const char* name, const char* dimension, int64_t stride, mha_error* error) {
  if (stride == 0) return MHA_OK;
  return fail(error, MHA_ERR_STRIDE, "%s.stride_%s is %lld: must be 0, there is no such dimension here", name,
              dimension, ll{stride});
}

namespace {

// A stride in bytes. With a single element it may be anything and becomes 0.
int64_t byte_stride(Element element, int64_t stride, int64_t size) { return size > 1 ? row_bytes(element, stride) : 0; }

// AnyTensor: ConstTensor for const data, else Tensor.
template <class AnyTensor, class Data>
AnyTensor tensor_of(Data* data, const mha_dtype& dtype, const Dimensions& n, const ElementStrides& s) {
  const Element element = static_cast<Element>(enum_value(dtype));
  AnyTensor t;
  t.data = data, t.element = element;
  t.stride_b = t.stride_t = t.stride_h = 0;
  if (is_empty(n)) return t;  // strides may be too large for bytes
  t.stride_b = byte_stride(element, s.b, n.b), t.stride_t = byte_stride(element, s.t, n.t);
  t.stride_h = byte_stride(element, s.h, n.h);
  return t;
}

}  // namespace

mha_status check_input_strides(const char* name, const mha_view& v, const Dimensions& n, ElementStrides* out,
                               mha_error* error) {
  return resolve_strides(name, n, Order::kBthd, {v.stride_b, v.stride_t, v.stride_h}, MHA_BROADCAST, out, error);
}

mha_status check_input(const char* name, const mha_view& v, const Dimensions& n, Check check, ConstTensor* out,
                       mha_error* error) {
  if (v.reserved != 0) return fail_reserved(name, "reserved", -1, error);
  MHA_TRY(check_dtype(name, v.dtype, error));
  if (v.quant != nullptr) {
    return fail(error, MHA_ERR_ARGUMENT, "%s.quant is given, but %s.dtype is %s, which has no scales", name, name,
                dtype_name(enum_value(v.dtype)));
  }
  ElementStrides s = {};
  MHA_TRY(check_input_strides(name, v, n, &s, error));
  const bool empty = n.b == 0 || n.t == 0 || n.h == 0;
  if (check != Check::kSizesOnly && v.data == nullptr && !empty) {
    return fail(error, MHA_ERR_NULL, "%s.data is NULL", name);
  }
  *out = tensor_of<ConstTensor>(static_cast<const char*>(v.data), v.dtype, n, s);
  if (check == Check::kSizesOnly) return MHA_OK;
  return check_aligned(name, v.data, error, static_cast<size_t>(bytes_of(out->element)));
}

namespace {

template <class View>
mha_status check_unused_fields(const char* name, const View& v, const char* why, mha_error* error) {
  const char* field = nullptr;
  if (v.stride_h != 0) field = "stride_h";
  if (v.stride_t != 0) field = "stride_t";
  if (v.stride_b != 0) field = "stride_b";
  if (v.data != nullptr) field = "data";
  if (v.reserved != 0) return fail_reserved(name, "reserved", -1, error);
  if (field == nullptr) return MHA_OK;
  return fail(error, MHA_ERR_ARGUMENT, "%s.%s is given, but %s", name, field, why);
}

}  // namespace

mha_status check_unused(const char* name, const mha_view& v, const char* why, mha_error* error) {
  MHA_TRY(check_unused_fields(name, v, why, error));
  return v.quant == nullptr ? MHA_OK : fail(error, MHA_ERR_ARGUMENT, "%s.quant is given, but %s", name, why);
}

mha_status check_unused(const char* name, const mha_mut_view& v, const char* why, mha_error* error) {
  return check_unused_fields(name, v, why, error);
}

mha_status check_result(const char* name, const mha_mut_view& v, const Dimensions& n, Order order, Check check,
                        Tensor* out, mha_error* error) {
  if (v.reserved != 0) return fail_reserved(name, "reserved", -1, error);
  MHA_TRY(check_dtype(name, v.dtype, error));
  return check_result_place(name, v, n, order, check, out, error);
}

mha_status check_result_place(const char* name, const mha_mut_view& v, const Dimensions& n, Order order, Check check,
                              Tensor* out, mha_error* error) {
  ElementStrides s = {};
  MHA_TRY(resolve_strides(name, n, order, {v.stride_b, v.stride_t, v.stride_h}, 0, &s, error));
  if (!is_empty(n) && overlaps(n, s)) {
    return fail(error, MHA_ERR_STRIDE, "%s.stride_b, _t, _h are %lld, %lld, %lld: elements of the result overlap", name,
                ll{s.b}, ll{s.t}, ll{s.h});
  }
  if (check == Check::kAll && v.data == nullptr && !is_empty(n)) {
    return fail(error, MHA_ERR_NULL, "%s.data is NULL", name);
  }
  *out = tensor_of<Tensor>(static_cast<char*>(v.data), v.dtype, n, s);
  if (check == Check::kSizesOnly) return MHA_OK;
  return check_aligned(name, v.data, error, static_cast<size_t>(bytes_of(out->element)));
}

// --- Overlap ---------------------------------------------------------------------------------------------------------

Extent extent_of(const ConstTensor& t, const Dimensions& n) {
  if (t.data == nullptr || is_empty(n)) return {nullptr, nullptr, false, 0};
  // Sizes in bytes. Elements that a stride of 0 repeats count once.
  const ElementStrides s = {t.stride_b, t.stride_t, t.stride_h};
  const int64_t row = row_bytes(t.element, n.d);
  const Dimensions distinct = {s.b == 0 ? 1 : n.b, s.t == 0 ? 1 : n.t, s.h == 0 ? 1 : n.h, row};
  const int64_t span = span_of({n.b, n.t, n.h, row}, s).value();
  const Size bytes = Size(distinct.b) * Size(distinct.t) * Size(distinct.h) * Size(row);
  const bool gapless = bytes.ok() && bytes.value() == span && !overlaps(distinct, s);
  return {t.data, t.data + span, gapless, row};
}

Extent extent_of(const float* data, int64_t count) {
  ConstTensor floats = {};
  floats.data = reinterpret_cast<const char*>(data), floats.element = Element::kF32;
  return extent_of(floats, {1, 1, 1, count});
}

Extent extent_of_bytes(const void* data, int64_t count) {
  ConstTensor bytes = {};
  bytes.data = static_cast<const char*>(data), bytes.element = Element::kI8;
  return extent_of(bytes, {1, 1, 1, count});
}

namespace {

// Whether the first or the last row of b has bytes in [a.begin, a.end).
bool has_end_inside(const Extent& a, const Extent& b) {
  const bool first = b.begin < a.end && b.begin + b.last > a.begin;
  const bool last = b.end > a.begin && b.end - b.last < a.end;
  return first || last;
}

}  // namespace

bool certainly_overlap(const Extent& a, const Extent& b) {
  if (a.begin == nullptr || b.begin == nullptr) return false;
  return a.begin == b.begin || (a.gapless && has_end_inside(a, b)) || (b.gapless && has_end_inside(b, a));
}

mha_status check_overlaps(const NamedExtent* results, int num_results, const NamedExtent* inputs, int num_inputs,
                          mha_error* error) {
  for (int r = 0; r < num_results; ++r) {
    for (int i = 0; i < num_inputs; ++i) {
      if (certainly_overlap(results[r].extent, inputs[i].extent)) {
        return fail(error, MHA_ERR_STRIDE, "%s overlaps %s", results[r].name, inputs[i].name);
      }
    }
    for (int other = 0; other < r; ++other) {
      if (certainly_overlap(results[r].extent, results[other].extent)) {
        return fail(error, MHA_ERR_STRIDE, "%s overlaps %s", results[r].name, results[other].name);
      }
    }
  }
  return MHA_OK;
}

}  // namespace mha
