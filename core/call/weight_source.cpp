// SPDX-License-Identifier: Apache-2.0
// Weights as a caller gives them, checked; and how they are to be packed.
#include "core/call/weight_source.h"

#include "core/call/checks.h"

namespace mha {
namespace {

using ll = long long;

constexpr int64_t kMostGroup = int64_t{1} << 31;  // that blobs have room for
constexpr int64_t kCodesOfWord = 8;               // of 4 bits, in the layouts of 32-bit words

mha_status check_group(const char* name, int64_t group, int64_t in_features, mha_error* error) {
  if (group % kPanel == 0 || group >= in_features) return MHA_OK;
  return fail(error, MHA_ERR_UNSUPPORTED, "%s.quant.group is %lld: must be a multiple of 16, or 0 for all inputs", name,
              ll{group});
}

// What no weights have.
mha_status check_weight_quant(const char* name, const mha_quant& q, mha_error* error) {
  if (q.group_index != nullptr) {
    return fail(
        error, MHA_ERR_UNSUPPORTED,
        "%s.quant.group_index is given: groups of inputs that do not follow each other (act-order) are not read", name);
  }
  if (q.hadamard == 0) return MHA_OK;
  return fail(error, MHA_ERR_UNSUPPORTED, "%s.quant.hadamard is %d: weights are not rotated", name, q.hadamard);
}

// Zeros of 4 bits, two in a byte, `row` of them to a row of the matrix and `group` to a group.
void set_nibble_zeros(const void* zeros, int64_t row, int64_t group, WeightSource* source) {
  CodeScales& z = source->codes.zeros;
  z.place = ScalePlace::kTensor, z.data = static_cast<const char*>(zeros), z.element = Element::kU4;
  z.stride_t = row, z.stride_d = group;
  source->zeros_in_nibbles = true;
}

mha_status check_rows(const char* name, const mha_view& weight, int64_t out_features, int64_t in_features,
                      WeightSource* source, mha_error* error) {
  MHA_TRY(check_no_stride(name, "b", weight.stride_b, error));
  MHA_TRY(check_no_stride(name, "h", weight.stride_h, error));
  const Dimensions n = {1, out_features, 1, in_features};
  mha_view view = weight;
  mha_quant quant = {};
  const bool quantised = weight.quant != nullptr && is_code(static_cast<Element>(enum_value(weight.dtype)));
  const bool nibbles = quantised && weight.quant->zeros != nullptr && enum_value(weight.quant->zero_dtype) == MHA_U4;
  if (quantised) {
    MHA_TRY(check_weight_quant(name, *weight.quant, error));
    quant = *weight.quant;
    if (nibbles) quant.zeros = nullptr, quant.zero_dtype = MHA_F32;
    view.quant = &quant;
  }
  MHA_TRY(check_tokens(name, view, n, Check::kAll, &source->tensor, &source->codes, error));
  if (!is_code(*source)) return MHA_OK;
  MHA_TRY(check_group(name, source->codes.group, in_features, error));
  if (!nibbles) return MHA_OK;
  const CodeScales& scales = source->codes.scales;  // strides that are not used are 0 there
  if (scales.stride_d != 0 && quant.stride_d > 1) {
    return fail(error, MHA_ERR_STRIDE, "%s.quant.stride_d is %lld: zeros of MHA_U4 follow each other in a row", name,
                ll{quant.stride_d});
  }
  // A row of zeros begins at a byte.
  const int64_t row = scales.stride_t != 0 ? round_up(quant.stride_t, 2) : 0;
  set_nibble_zeros(weight.quant->zeros, row, scales.stride_d != 0 ? quant.stride_d : 0, source);
  return MHA_OK;
}

mha_status check_words(const char* name, const mha_view& weight, const mha_weight_layout& layout, int64_t out_features,
                       int64_t in_features, WeightSource* source, mha_error* error) {
  if (weight.reserved != 0) return fail_reserved(name, "reserved", -1, error);
  MHA_TRY(check_has_codes(name, weight.dtype, error));
  if (enum_value(weight.dtype) != MHA_U4) {
    const char* dtype = dtype_name(enum_value(weight.dtype));
    return fail(error, dtype != nullptr ? MHA_ERR_UNSUPPORTED : MHA_ERR_ARGUMENT,
                "%s.dtype is %s: weights in the layouts of GPTQ and AWQ are MHA_U4", name,
                dtype != nullptr ? dtype : "no mha_dtype");
  }
  if (weight.stride_b != 0 || weight.stride_t != 0 || weight.stride_h != 0) {
    return fail(error, MHA_ERR_STRIDE, "%s.stride_b, _t, _h are %lld, %lld, %lld: must be 0, words are dense", name,
                ll{weight.stride_b}, ll{weight.stride_t}, ll{weight.stride_h});
  }
  if (weight.quant == nullptr) return fail(error, MHA_ERR_NULL, "%s.quant is NULL: codes need scales", name);
  const mha_quant& q = *weight.quant;
  MHA_TRY(check_weight_quant(name, q, error));
  if (q.stride_b != 0 || q.stride_t != 0 || q.stride_h != 0 || q.stride_d != 0 || q.group_tokens != 0) {
    return fail(error, MHA_ERR_ARGUMENT,
                "%s.quant.stride_b, _t, _h, _d are %lld, %lld, %lld, %lld, group_tokens %lld: must be 0, scales "
                "[groups, out] are dense",
                name, ll{q.stride_b}, ll{q.stride_t}, ll{q.stride_h}, ll{q.stride_d}, ll{q.group_tokens});
  }
  const bool gptq = layout != MHA_WEIGHT_AWQ;
  if (out_features % kCodesOfWord != 0 || (gptq && in_features % kCodesOfWord != 0)) {
    return fail(error, MHA_ERR_SHAPE, "%s is of %lld outputs and %lld inputs: words hold %lld codes", name,
                ll{out_features}, ll{in_features}, ll{kCodesOfWord});
  }
  // Scales [groups, out]: as those of a row with its group's stride.
  mha_quant rows = q;
  rows.zeros = nullptr, rows.zero_dtype = MHA_F32;
  rows.stride_t = 1, rows.stride_d = q.group != 0 ? out_features : 0;
  mha_view view = weight;
  view.quant = &rows;
  const Dimensions n = {1, out_features, 1, in_features};
  MHA_TRY(check_tokens(name, view, n, Check::kAll, &source->tensor, &source->codes, error));
  MHA_TRY(check_group(name, source->codes.group, in_features, error));
  const int zero_dtype = enum_value(q.zero_dtype);
  if (q.zeros == nullptr && zero_dtype == 0) return MHA_OK;
  if (q.zeros == nullptr) {
    return fail(error, MHA_ERR_ARGUMENT, "%s.quant.zero_dtype is %d, but zeros is NULL", name, zero_dtype);
  }
  if (zero_dtype != MHA_U4) {
    return fail(error, MHA_ERR_ARGUMENT, "%s.quant.zero_dtype is %d: qzeros are MHA_U4", name, zero_dtype);
  }
  set_nibble_zeros(q.zeros, 1, out_features, source);
  source->zero_offset = layout == MHA_WEIGHT_GPTQ ? 1.0f : 0.0f;
  return MHA_OK;
}

// What packed weights may be asked for.
mha_status check_packed(const mha_storage& packed, const mha_arithmetic& arithmetic, mha_error* error) {
  const int dtype = enum_value(packed.dtype);
  MHA_TRY(check_has_codes("packed", packed.dtype, error));
  if (!is_code(static_cast<Element>(dtype))) MHA_TRY(check_storage("packed", packed, error));
  if (enum_value(arithmetic) == MHA_ARITHMETIC_BF16 && dtype != MHA_BF16) {
    return fail(error, MHA_ERR_UNSUPPORTED, "packed.dtype is %s: MHA_ARITHMETIC_BF16 keeps weights as MHA_BF16",
                dtype_name(dtype));
  }
  if (enum_value(arithmetic) == MHA_ARITHMETIC_INT8 && !is_code(static_cast<Element>(dtype))) {
    return fail(error, MHA_ERR_UNSUPPORTED,
                "packed.dtype is %s: MHA_ARITHMETIC_INT8 keeps weights as MHA_I8, MHA_U8, MHA_I4 or MHA_U4",
                dtype_name(dtype));
  }
  if (packed.fixed != nullptr) {
    return fail(error, MHA_ERR_UNSUPPORTED, "packed.fixed is given: scales of weights are computed from them");
  }
  if (packed.hadamard == 0) return MHA_OK;
  return fail(error, MHA_ERR_UNSUPPORTED, "packed.hadamard is %d: weights are not rotated", packed.hadamard);
}

}  // namespace

WeightForm form_as_given(const WeightSource& s) {
  WeightForm form = float_form(s.tensor.element);
  if (!is_code(s)) return form;
  form.group = s.codes.group;
  if (has_scales_inside(s.tensor.element)) {
    form.element = s.tensor.element == Element::kQ8_0 ? Element::kI8 : Element::kI4;
    form.scale_element = Element::kF16;
    return form;
  }
  form.scale_element = s.codes.scales.element;
  form.has_zeros = s.codes.zeros.place != ScalePlace::kNone;
  if (form.has_zeros) form.zero_element = s.zeros_in_nibbles ? Element::kU8 : s.codes.zeros.element;
  return form;
}

mha_status check_weight(const char* name, const mha_view& weight, const mha_weight_layout& layout, int64_t out_features,
                        int64_t in_features, WeightSource* source, mha_error* error) {
  WeightSource s = {};
  s.layout = static_cast<mha_weight_layout>(enum_value(layout)), s.matrix_rows = out_features;
  if (weight.data == nullptr) return fail(error, MHA_ERR_NULL, "%s.data is NULL", name);
  if (s.layout == MHA_WEIGHT_ROWS) {
    MHA_TRY(check_rows(name, weight, out_features, in_features, &s, error));
  } else {
    MHA_TRY(check_words(name, weight, s.layout, out_features, in_features, &s, error));
  }
  *source = s;
  return MHA_OK;
}

mha_status resolve_packed(const mha_storage* packed, const mha_arithmetic& arithmetic, const WeightSource& source,
                          int64_t in_features, WeightForm* form, RowStorage* rounding, mha_error* error) {
  const bool int8 = enum_value(arithmetic) == MHA_ARITHMETIC_INT8;
  mha_storage bytes = {};
  bytes.dtype = MHA_I8;
  if (int8 && packed == nullptr && !is_code(source)) packed = &bytes;
  if (packed != nullptr) {
    MHA_TRY(check_packed(*packed, arithmetic, error));
    MHA_TRY(resolve_storage("packed", *packed, 1, in_features, rounding, error));
  }
  if (enum_value(arithmetic) == MHA_ARITHMETIC_BF16) {
    *form = float_form(Element::kBf16);
  } else if (packed == nullptr) {
    *form = form_as_given(source);
  } else {
    *form = float_form(rounding->element);
    if (!is_code(rounding->element)) return MHA_OK;
    form->scale_element = rounding->codes.scales.element, form->group = rounding->codes.group;
    form->has_zeros = rounding->zero_bytes > 0, form->zero_element = rounding->codes.zeros.element;
  }
  if (int8 && form->has_zeros && !has_whole_zeros(*form)) {
    return fail(error, MHA_ERR_UNSUPPORTED,
                "weight.quant.zero_dtype is %s: MHA_ARITHMETIC_INT8 has zeros that are integers",
                dtype_name(static_cast<int>(form->zero_element)));
  }
  // Whole rows have one form, whatever their group was called.
  if (form->group >= in_features) form->group = 0;
  if (form->group <= kMostGroup) return MHA_OK;
  return fail(error, MHA_ERR_UNSUPPORTED, "groups of %lld inputs: at most 2^31 share a scale", ll{form->group});
}

}  // namespace mha
