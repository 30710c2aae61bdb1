// SPDX-License-Identifier: Apache-2.0
// Checks of keys and values that are codes: how they are laid out, and where their scales and zeros are.
#include <cstdio>

#include "core/cache/cache.h"
#include "core/call/checks.h"
#include "core/call/items.h"

namespace mha {
namespace {

using ll = long long;

// Elements that share bytes, or a scale inside the row: rows and strides are multiples of it.
int64_t units_of(Element element) {
  switch (element) {
#define MHA_CODE(name, dtype, number, type, units, bytes) \
  case Element::name:                                     \
    return units;
#include "core/kernels/elements.def"
    default:
      return 1;
  }
}

// "key.quant.scales"
struct FieldName {
  char text[48];
  FieldName(const char* name, const char* field) { snprintf(text, sizeof(text), "%s.quant.%s", name, field); }
};

mha_status check_code_strides(const char* name, Element element, const Dimensions& n, const ElementStrides& s,
                              mha_error* error) {
  const int64_t units = units_of(element);
  const struct {
    const char* suffix;
    int64_t size, stride;
  } strides[] = {{"b", n.b, s.b}, {"t", n.t, s.t}, {"h", n.h, s.h}};
  for (const auto& stride : strides) {
    if (stride.size <= 1 || stride.stride % units == 0) continue;
    return fail(error, MHA_ERR_STRIDE,
                "%s.stride_%s is %lld: must be a multiple of %lld, the elements of %s that share "
                "bytes",
                name, stride.suffix, ll{stride.stride}, ll{units}, dtype_name(static_cast<int>(element)));
  }
  return MHA_OK;
}

mha_status check_used_fields(const char* name, const mha_quant& q, int64_t width, mha_error* error) {
  if (q.reserved_int != 0) return fail_reserved(name, "quant.reserved_int", -1, error);
  for (int i = 0; i < 2; ++i) {
    if (q.reserved[i] != 0) return fail_reserved(name, "quant.reserved", i, error);
  }
  if (q.group_index != nullptr) {
    return fail(error, MHA_ERR_UNSUPPORTED, "%s.quant.group_index is given: only weights could have it", name);
  }
  MHA_TRY(check_hadamard(FieldName(name, "hadamard").text, q.hadamard, width, error));
  const struct {
    const char* field;
    int64_t value;
  } sizes[] = {{"group", q.group},       {"group_tokens", q.group_tokens}, {"stride_b", q.stride_b},
               {"stride_t", q.stride_t}, {"stride_h", q.stride_h},         {"stride_d", q.stride_d}};
  for (const auto& size : sizes) MHA_TRY(check_size(FieldName(name, size.field).text, size.value, 0, error));
  if (q.group == 0 && q.stride_d != 0) {
    return fail(error, MHA_ERR_ARGUMENT, "%s.quant.stride_d is %lld, but group is 0: a row has one scale", name,
                ll{q.stride_d});
  }
  if (q.zeros == nullptr && enum_value(q.zero_dtype) != 0) {
    return fail(error, MHA_ERR_ARGUMENT, "%s.quant.zero_dtype is %s, but zeros is NULL", name,
                dtype_name(enum_value(q.zero_dtype)) != nullptr ? dtype_name(enum_value(q.zero_dtype)) : "no dtype");
  }
  return MHA_OK;
}

// Scales or zeros of a type that has been checked.
mha_status check_places(const char* name, const char* field, const void* data, Element element, const mha_quant& q,
                        const Dimensions& n, Check check, CodeScales* out, mha_error* error) {
  const int64_t bytes = row_bytes(element, 1);
  const int64_t tokens = most(q.group_tokens, 1), group = q.group != 0 ? q.group : n.d;
  const Size last = Size(n.b - 1) * Size(q.stride_b) + Size((n.t - 1) / tokens) * Size(q.stride_t) +
                    Size(n.h - 1) * Size(q.stride_h) + Size((n.d - 1) / group) * Size(q.stride_d) + Size(1);
  const bool empty = n.b == 0 || n.t == 0 || n.h == 0;
  if (!empty && (!last.ok() || last.value() > kMaxBytes)) {
    return fail(error, MHA_ERR_OVERFLOW, "%s.quant.%s with strides %lld, %lld, %lld, %lld end beyond 2^63 bytes", name,
                field, ll{q.stride_b}, ll{q.stride_t}, ll{q.stride_h}, ll{q.stride_d});
  }
  out->place = ScalePlace::kTensor, out->data = static_cast<const char*>(data), out->element = element;
  if (!empty) {  // else strides may be too large for bytes
    out->stride_b = n.b > 1 ? q.stride_b * bytes : 0, out->stride_t = (n.t - 1) / tokens > 0 ? q.stride_t * bytes : 0;
    out->stride_h = n.h > 1 ? q.stride_h * bytes : 0, out->stride_d = (n.d - 1) / group > 0 ? q.stride_d * bytes : 0;
  }
  if (check == Check::kSizesOnly) return MHA_OK;
  return check_aligned(FieldName(name, field).text, data, error, static_cast<size_t>(bytes));
}

mha_status check_quant(const char* name, const mha_quant& q, Element element, const Dimensions& n, Check check,
                       CodeRows* out, mha_error* error) {
  MHA_TRY(check_used_fields(name, q, n.d, error));
  const int scale_dtype = enum_value(q.scale_dtype);
  if (scale_dtype != MHA_F32 && scale_dtype != MHA_F16 && scale_dtype != MHA_BF16) {
    return fail(error, MHA_ERR_ARGUMENT, "%s.quant.scale_dtype is %d: must be MHA_F32, MHA_F16 or MHA_BF16", name,
                scale_dtype);
  }
  const bool empty = n.b == 0 || n.t == 0 || n.h == 0;
  if (check != Check::kSizesOnly && q.scales == nullptr && !empty) {
    return fail(error, MHA_ERR_NULL, "%s.quant.scales is NULL", name);
  }
  MHA_TRY(check_places(name, "scales", q.scales, static_cast<Element>(scale_dtype), q, n, check, &out->scales, error));
  out->zero = own_zero(element);
  if (q.zeros != nullptr) {
    const int dtype = enum_value(q.zero_dtype);
    if (dtype != MHA_F32 && dtype != MHA_F16 && dtype != MHA_I8 && dtype != MHA_U8) {
      return fail(error, dtype_name(dtype) == nullptr ? MHA_ERR_ARGUMENT : MHA_ERR_UNSUPPORTED,
                  "%s.quant.zero_dtype is %d: must be MHA_F32, MHA_F16, MHA_I8 or MHA_U8 (of weights also MHA_U4)",
                  name, dtype);
    }
    MHA_TRY(check_places(name, "zeros", q.zeros, static_cast<Element>(dtype), q, n, check, &out->zeros, error));
  }
  // One scale for the row: a group that no vector leaves.
  out->group = q.group == 0 || q.group >= n.d ? round_up(n.d, kPanel) : q.group;
  out->group_tokens = most(q.group_tokens, 1), out->hadamard = q.hadamard != 0;
  return MHA_OK;
}

}  // namespace

mha_status check_pair(const AttentionProblem& p, const mha_cache* cache, mha_error* error) {
  if (p.arithmetic != Arithmetic::kInt8) return MHA_OK;
  const struct {
    const char* name;
    Element element;
    const CodeRows& codes;
    int64_t width;
  } parts[] = {{"key", cache != nullptr ? cache->parts[kKeys].element : p.key.element,
                cache != nullptr ? cache->parts[kKeys].codes : p.key_codes, p.head_dim},
               {"value", cache != nullptr ? cache->parts[kValues].element : p.value.element,
                cache != nullptr ? cache->parts[kValues].codes : p.value_codes, p.value_head_dim}};
  for (const auto& part : parts) {
    if (part.element != Element::kI8) {
      return fail(error, MHA_ERR_UNSUPPORTED,
                  "%ss are %s: MHA_ARITHMETIC_INT8 multiplies keys and values of MHA_I8, given or in a cache",
                  part.name, dtype_name(static_cast<int>(part.element)));
    }
    if (part.codes.group < part.width) {
      return fail(error, MHA_ERR_UNSUPPORTED,
                  "%s.quant.group is %lld: MHA_ARITHMETIC_INT8 takes one scale for a row (0)", part.name,
                  ll{part.codes.group});
    }
    if (part.codes.zeros.place != ScalePlace::kNone) {
      return fail(error, MHA_ERR_UNSUPPORTED, "%s.quant.zeros is given: MHA_ARITHMETIC_INT8 takes codes without zeros",
                  part.name);
    }
  }
  if (p.head_dim <= kMostInt8Width) return MHA_OK;
  return fail(error, MHA_ERR_UNSUPPORTED,
              "head_dim is %lld: MHA_ARITHMETIC_INT8 has at most %lld, so that sums of integers stay below 2^31",
              ll{p.head_dim}, ll{kMostInt8Width});
}

mha_status check_stored_result(const char* name, const mha_mut_view& v, const Dimensions& n, Check check, Tensor* out,
                               mha_error* error) {
  const Element element = static_cast<Element>(enum_value(v.dtype));
  if (!is_code(element) || has_scales_inside(element)) {
    return check_result(name, v, n, Order::kBthd, check, out, error);
  }
  if (v.reserved != 0) return fail_reserved(name, "reserved", -1, error);
  Dimensions padded = n;  // rows begin at a byte
  padded.d = round_up(n.d, units_of(element));
  MHA_TRY(check_code_strides(name, element, n, {v.stride_b, v.stride_t, v.stride_h}, error));
  return check_result_place(name, v, padded, Order::kBthd, check, out, error);
}

mha_status check_scale_results(const ScaleResults& r, const char* why_not, Check check, mha_error* error) {
  const struct {
    const char* name;
    void* data;
    int64_t bytes;
    size_t alignment;
  } results[] = {{r.scales_name, r.scales, r.scale_bytes, static_cast<size_t>(row_bytes(r.element, 1))},
                 {r.zeros_name, r.zeros, r.zero_bytes, 1}};
  for (const auto& result : results) {
    if (result.bytes == 0 && result.data != nullptr) return fail_unused(result.name, why_not, error);
    if (result.bytes == 0 || r.rows == 0 || check == Check::kSizesOnly) continue;
    if (result.data == nullptr) return fail(error, MHA_ERR_NULL, "%s is NULL", result.name);
    MHA_TRY(check_aligned(result.name, result.data, error, result.alignment));
  }
  return MHA_OK;
}

mha_status check_tokens(const char* name, const mha_view& v, const Dimensions& n, Check check, ConstTensor* out,
                        CodeRows* codes, mha_error* error) {
  const Element element = static_cast<Element>(enum_value(v.dtype));
  MHA_TRY(check_has_codes(name, v.dtype, error));
  if (!is_code(element)) return check_input(name, v, n, check, out, error);
  if (v.reserved != 0) return fail_reserved(name, "reserved", -1, error);
  const int64_t units = units_of(element);
  const bool inside = has_scales_inside(element);
  if (inside && n.d % units != 0) {
    return fail(error, MHA_ERR_SHAPE, "%s.dtype is %s, but its rows have %lld elements: must be a multiple of %lld",
                name, dtype_name(enum_value(v.dtype)), ll{n.d}, ll{units});
  }
  Dimensions padded = n;  // rows begin at a byte
  padded.d = round_up(n.d, units);
  ElementStrides s = {};
  MHA_TRY(check_input_strides(name, v, padded, &s, error));
  MHA_TRY(check_code_strides(name, element, n, s, error));
  const bool empty = n.b == 0 || n.t == 0 || n.h == 0;
  if (check != Check::kSizesOnly && v.data == nullptr && !empty) {
    return fail(error, MHA_ERR_NULL, "%s.data is NULL", name);
  }
  out->data = static_cast<const char*>(v.data), out->element = element;
  if (!empty) {  // else strides may be too large for bytes
    out->stride_b = n.b > 1 ? row_bytes(element, s.b) : 0, out->stride_t = n.t > 1 ? row_bytes(element, s.t) : 0;
    out->stride_h = n.h > 1 ? row_bytes(element, s.h) : 0;
  }
  if (inside) {
    if (v.quant != nullptr) {
      return fail(error, MHA_ERR_ARGUMENT, "%s.quant is given, but %s has its scales inside the rows", name,
                  dtype_name(enum_value(v.dtype)));
    }
    codes->group = units, codes->group_tokens = 1;
    return check == Check::kSizesOnly ? MHA_OK : check_aligned(name, v.data, error, 2);
  }
  if (v.quant == nullptr) {
    return fail(error, MHA_ERR_NULL, "%s.quant is NULL, but %s.dtype is %s: codes need scales", name, name,
                dtype_name(enum_value(v.dtype)));
  }
  return check_quant(name, *v.quant, element, n, check, codes, error);
}

}  // namespace mha
