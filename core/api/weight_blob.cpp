// SPDX-License-Identifier: Apache-2.0
#include "core/api/weight_blob.h"

namespace mha {
namespace {

// Flags of BlobStorage: kBlobZeroPoints, and the type of zeros from this bit on.
constexpr uint32_t kZeroElementShift = 8;

bool is_float_element(uint32_t dtype) {
  bool found = false;
#define MHA_ELEMENT(name, constant, type, bytes) found = found || dtype == (constant);
#include "core/kernels/elements.def"
  return found;
}

}  // namespace

BlobStorage blob_storage(const WeightForm& form) {
  BlobStorage storage = {};
  storage.dtype = static_cast<uint32_t>(form.element);
  if (!is_code(form.element)) return storage;
  storage.scale_dtype = static_cast<uint32_t>(form.scale_element);
  storage.group = static_cast<uint32_t>(form.group);
  if (form.has_zeros) storage.flags = kBlobZeroPoints | static_cast<uint32_t>(form.zero_element) << kZeroElementShift;
  return storage;
}

mha_status read_form(const char* name, uint32_t arithmetic, const BlobStorage& s, WeightForm* form, mha_error* error) {
  *form = {};
  form->element = static_cast<Element>(s.dtype);
  form->has_zeros = (s.flags & kBlobZeroPoints) != 0;
  const uint32_t zero = s.flags >> kZeroElementShift;
  bool known = is_float_element(s.dtype) && s.scale_dtype == 0 && s.flags == 0 && s.group == 0;
  if (is_code(form->element) && !has_scales_inside(form->element)) {
    const bool known_zero = zero == MHA_F32 || zero == MHA_F16 || zero == MHA_I8 || zero == MHA_U8;
    const uint32_t plain = form->has_zeros ? kBlobZeroPoints | zero << kZeroElementShift : 0;
    known = is_float_element(s.scale_dtype) && s.group % kPanel == 0 && s.flags == plain && known_zero;
    form->scale_element = static_cast<Element>(s.scale_dtype), form->group = s.group;
    form->zero_element = static_cast<Element>(zero);
  }
  if (!known) {
    return fail(error, MHA_ERR_BLOB,
                "blob keeps its %s as dtype %u with scales of dtype %u, flags %u, groups of %u: this library does not "
                "read that",
                name, s.dtype, s.scale_dtype, s.flags, s.group);
  }
  const auto of = static_cast<Arithmetic>(arithmetic);
  if (of == Arithmetic::kBf16 && s.dtype != MHA_BF16) {
    return fail(error, MHA_ERR_BLOB, "blob's header is unsound: %s of BF16 arithmetic is stored as %u", name, s.dtype);
  }
  if (of == Arithmetic::kInt8 && (!is_code(form->element) || (form->has_zeros && !has_whole_zeros(*form)))) {
    return fail(error, MHA_ERR_BLOB,
                "blob's header is unsound: %s of INT8 arithmetic is stored as %u, with zeros of dtype %u", name,
                s.dtype, zero);
  }
  return MHA_OK;
}

WeightOffsets append_weight(Arithmetic arithmetic, int64_t in_features, int64_t out_features, const WeightForm& form,
                            Layout* layout) {
  const PackedWeightBytes bytes = packed_weight_bytes(arithmetic, in_features, out_features, form);
  WeightOffsets offsets = {};
  offsets.panels = layout->append(bytes.panels);
  offsets.scales = layout->append(bytes.scales), offsets.zeros = layout->append(bytes.zeros);
  return offsets;
}

PackedWeight weight_at(const char* blob, const WeightOffsets& offsets, const WeightForm& form) {
  PackedWeight weight = {};
  weight.form = form, weight.panels = blob + offsets.panels;
  if (!is_code(form.element)) return weight;
  weight.scales = blob + offsets.scales;
  if (form.has_zeros) weight.zeros = blob + offsets.zeros;
  return weight;
}

}  // namespace mha
