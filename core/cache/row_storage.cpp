// SPDX-License-Identifier: Apache-2.0
// Checks of mha_storage.
#include "core/cache/row_storage.h"

#include <cstdio>
#include <cstring>

#include "core/base/fields.h"

namespace mha {
namespace {

using ll = long long;

// "key.fixed.scales"
struct FieldName {
  char text[64];
  FieldName(const char* name, const char* field) { snprintf(text, sizeof(text), "%.40s.%.20s", name, field); }
};

bool is_signed(Element element) { return element == Element::kI8 || element == Element::kI4; }

mha_status check_scale_dtype(const char* name, const mha_dtype& dtype, Element* element, mha_error* error) {
  const int value = enum_value(dtype);
  if (value != MHA_F32 && value != MHA_F16 && value != MHA_BF16) {
    return fail(error, MHA_ERR_ARGUMENT, "%s.scale_dtype is %d: must be MHA_F32, MHA_F16 or MHA_BF16", name, value);
  }
  *element = static_cast<Element>(value);
  return MHA_OK;
}

// Scales and zeros that are the same for all tokens.
mha_status check_fixed(const char* storage_name, const mha_storage& s, int64_t heads, RowStorage* r, mha_error* error) {
  const mha_quant& q = *s.fixed;
  const FieldName field(storage_name, "fixed");
  const char* name = field.text;
  MHA_TRY(check_reserved(name, q.reserved_int, q.reserved, error));
  if (s.group != 0 || s.zero_points != 0 || s.hadamard != 0 || enum_value(s.scale_dtype) != 0) {
    return fail(error, MHA_ERR_ARGUMENT,
                "%s.group %lld, zero_points %d, hadamard %d and scale_dtype %d beside fixed, which has its own: must "
                "be 0",
                storage_name, ll{s.group}, s.zero_points, s.hadamard, enum_value(s.scale_dtype));
  }
  MHA_TRY(check_hadamard(FieldName(name, "hadamard").text, q.hadamard, r->width, error));
  r->codes.hadamard = q.hadamard != 0;
  if (q.scales == nullptr) return fail(error, MHA_ERR_NULL, "%s.scales is NULL", name);
  const struct {
    const char* field;
    bool given;
  } unused[] = {{"group_index", q.group_index != nullptr},
                {"group_tokens", q.group_tokens != 0},
                {"stride_b", q.stride_b != 0},
                {"stride_t", q.stride_t != 0},
                {"stride_d", q.stride_d != 0 && q.group == 0},
                {"zero_dtype", q.zeros == nullptr && enum_value(q.zero_dtype) != 0}};
  for (const auto& u : unused) {
    if (u.given) return fail_unused(FieldName(name, u.field).text, "fixed scales are of heads and groups alone", error);
  }
  MHA_TRY(check_size(FieldName(name, "group").text, q.group, 0, error));
  MHA_TRY(check_size(FieldName(name, "stride_h").text, q.stride_h, 0, error));
  MHA_TRY(check_size(FieldName(name, "stride_d").text, q.stride_d, 0, error));
  const int64_t groups = q.group != 0 ? divide_up(r->width, q.group) : 1;
  const Size last = Size(most(heads, 1) - 1) * Size(q.stride_h) + Size(groups - 1) * Size(q.stride_d) + Size(1);
  if (!last.ok() || last.value() > kMaxBytes) {
    return fail(error, MHA_ERR_OVERFLOW, "%s.scales with strides %lld, %lld end beyond 2^63 bytes", name,
                ll{q.stride_h}, ll{q.stride_d});
  }
  // Strides of one element may be anything.
  const int64_t stride_h = heads > 1 ? q.stride_h : 0, stride_d = groups > 1 ? q.stride_d : 0;
  CodeScales scales = {}, zeros = {};
  MHA_TRY(check_scale_dtype(name, q.scale_dtype, &scales.element, error));
  scales.place = ScalePlace::kTensor, scales.data = static_cast<const char*>(q.scales);
  const int64_t bytes = bytes_of(scales.element);
  MHA_TRY(check_aligned(FieldName(name, "scales").text, q.scales, error, static_cast<size_t>(bytes)));
  scales.stride_h = stride_h * bytes, scales.stride_d = stride_d * bytes;
  if (q.zeros != nullptr) {
    const int dtype = enum_value(q.zero_dtype);
    if (dtype != MHA_F32 && dtype != MHA_F16 && dtype != MHA_I8 && dtype != MHA_U8) {
      return fail(error, dtype_name(dtype) == nullptr ? MHA_ERR_ARGUMENT : MHA_ERR_UNSUPPORTED,
                  "%s.zero_dtype is %d: must be MHA_F32, MHA_F16, MHA_I8 or MHA_U8", name, dtype);
    }
    zeros.element = static_cast<Element>(dtype);
    const int64_t zero_bytes = row_bytes(zeros.element, 1);
    zeros.place = ScalePlace::kTensor, zeros.data = static_cast<const char*>(q.zeros);
    MHA_TRY(check_aligned(FieldName(name, "zeros").text, q.zeros, error, static_cast<size_t>(zero_bytes)));
    zeros.stride_h = stride_h * zero_bytes, zeros.stride_d = stride_d * zero_bytes;
  }
  r->codes.scales = scales, r->codes.zeros = zeros;
  if (q.group != 0 && q.group < r->width) r->codes.group = q.group;
  return MHA_OK;
}

}  // namespace

mha_status check_has_codes(const char* name, const mha_dtype& dtype, mha_error* error) {
  if (kHasCodes) return MHA_OK;
  const int value = enum_value(dtype);
  if (dtype_name(value) == nullptr || value == MHA_F32 || value == MHA_F16 || value == MHA_BF16) return MHA_OK;
  return fail(error, MHA_ERR_UNSUPPORTED, "%s.dtype is %s: this library was built with -DMHA_CODES=OFF", name,
              dtype_name(value));
}

mha_status check_hadamard(const char* name, int hadamard, int64_t width, mha_error* error) {
  if (hadamard == 0) return MHA_OK;
  if (!kHasCodes) {
    return fail(error, MHA_ERR_UNSUPPORTED, "%s is %d: this library was built with -DMHA_CODES=OFF", name, hadamard);
  }
  if (width % kPanel == 0 && width <= kMostHadamard) return MHA_OK;
  return fail(error, MHA_ERR_UNSUPPORTED,
              "%s is %d, but rows have %lld elements: must be a multiple of 16, and at most 1024", name, hadamard,
              ll{width});
}

mha_status resolve_storage(const char* name, const mha_storage& s, int64_t heads, int64_t width, RowStorage* resolved,
                           mha_error* error) {
  RowStorage r = {};
  r.element = static_cast<Element>(enum_value(s.dtype)), r.width = width;
  MHA_TRY(check_has_codes(name, s.dtype, error));
  if (!is_code(r.element)) {
    MHA_TRY(check_storage(name, s, error));
    // A width whose row would overflow is refused with the sizes.
    r.row_bytes = width <= kMaxBytes / 4 ? row_bytes(r.element, width) : 0;
    *resolved = r;
    return MHA_OK;
  }
  MHA_TRY(check_reserved(name, s.reserved, error));
  if (has_scales_inside(r.element)) {
    return fail(error, MHA_ERR_UNSUPPORTED, "%s.dtype is %s: codes are stored as MHA_I8, MHA_U8, MHA_I4 or MHA_U4",
                name, dtype_name(enum_value(s.dtype)));
  }
  r.row_bytes = row_bytes(r.element, width);
  r.codes.zero = own_zero(r.element), r.codes.group_tokens = 1;
  r.codes.group = round_up(most(width, 1), kPanel);  // the whole row
  if (s.fixed != nullptr) {
    MHA_TRY(check_fixed(name, s, heads, &r, error));
  } else {
    MHA_TRY(check_scale_dtype(name, s.scale_dtype, &r.codes.scales.element, error));
    MHA_TRY(check_size(FieldName(name, "group").text, s.group, 0, error));
    const bool whole = s.group == 0 || s.group >= width;
    if (!whole && s.group % kPanel != 0) {
      return fail(error, MHA_ERR_UNSUPPORTED, "%s.group is %lld: must be a multiple of 16, or 0 for the whole row",
                  name, ll{s.group});
    }
    if (!whole) r.codes.group = s.group;
    MHA_TRY(check_hadamard(FieldName(name, "hadamard").text, s.hadamard, width, error));
    r.codes.hadamard = s.hadamard != 0;
  }
  r.groups = divide_up(width, r.codes.group);
  if (!r.is_fixed()) {
    r.scale_bytes = r.groups * bytes_of(r.codes.scales.element);
    if (s.zero_points != 0) {
      r.codes.zeros.element = is_signed(r.element) ? Element::kI8 : Element::kU8;
      r.zero_bytes = r.groups;
    }
  }
  *resolved = r;
  return MHA_OK;
}

QuantiseArgs quantise_args(const RowStorage& storage, int64_t head, int64_t rows) {
  QuantiseArgs args = {};
  args.dst_element = storage.element, args.columns = storage.width, args.rows = rows;
  args.scale_element = storage.codes.scales.element;
  args.group = storage.codes.group;
  if (storage.is_fixed()) args.fixed = &storage.codes, args.head = head;
  return args;
}

CodeRows rounded_codes(const RowStorage& storage, const char* scales, const char* zeros) {
  CodeRows codes = storage.codes;
  if (storage.is_fixed()) return codes;
  codes.scales.place = ScalePlace::kTensor, codes.scales.data = scales;
  codes.scales.stride_t = storage.scale_bytes, codes.scales.stride_d = bytes_of(codes.scales.element);
  if (storage.zero_bytes == 0) return codes;
  codes.zeros.place = ScalePlace::kTensor, codes.zeros.data = zeros;
  codes.zeros.stride_t = storage.zero_bytes, codes.zeros.stride_d = 1;
  return codes;
}

namespace {

Size bytes_of_copy(const RowStorage& storage, int64_t heads, const CodeScales& s) {
  if (s.place != ScalePlace::kTensor) return Size(0);
  return Size(heads) * Size(storage.groups) * Size(row_bytes(s.element, 1));
}

// Scales or zeros as [heads][groups] at `dst`.
void copy_scales(int64_t heads, int64_t groups, char* dst, CodeScales* s) {
  const int64_t bytes = row_bytes(s->element, 1);
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t g = 0; g < groups; ++g) {
      memcpy(dst + (h * groups + g) * bytes, s->data + h * s->stride_h + g * s->stride_d, static_cast<size_t>(bytes));
    }
  }
  s->data = dst, s->stride_h = groups * bytes, s->stride_d = bytes;
}

}  // namespace

Size fixed_scale_bytes(const RowStorage& storage, int64_t heads) {
  return bytes_of_copy(storage, heads, storage.codes.scales);
}
Size fixed_zero_bytes(const RowStorage& storage, int64_t heads) {
  return bytes_of_copy(storage, heads, storage.codes.zeros);
}

void copy_fixed(int64_t heads, char* scales, char* zeros, RowStorage* storage, mha_quant* quant) {
  if (!storage->is_fixed()) return;
  CodeRows& c = storage->codes;
  copy_scales(heads, storage->groups, scales, &c.scales);
  *quant = {};
  quant->scales = scales, quant->scale_dtype = static_cast<mha_dtype>(c.scales.element);
  quant->group = storage->groups > 1 ? c.group : 0, quant->hadamard = c.hadamard ? 1 : 0;
  quant->stride_h = storage->groups, quant->stride_d = quant->group != 0 ? 1 : 0;
  if (c.zeros.place == ScalePlace::kNone) return;
  copy_scales(heads, storage->groups, zeros, &c.zeros);
  quant->zeros = zeros, quant->zero_dtype = static_cast<mha_dtype>(c.zeros.element);
}

}  // namespace mha
