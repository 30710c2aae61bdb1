// SPDX-License-Identifier: Apache-2.0
// Packed weights of a product: how they are stored, and where.
#pragma once

#include "core/base/status.h"
#include "core/kernels/kernel_table.h"

namespace mha {

// Codes have a scale, and maybe a zero, for each group of inputs of an output.
struct WeightForm {
  Element element;
  Element scale_element, zero_element;
  bool has_zeros;
  int64_t group;  // a multiple of 16; 0: all inputs of an output
};

inline WeightForm float_form(Element element) {
  WeightForm form = {};
  form.element = element;
  return form;
}

// Whether zeros are integers.
inline bool has_whole_zeros(const WeightForm& form) {
  return form.zero_element == Element::kI8 || form.zero_element == Element::kU8;
}

inline int64_t weight_groups(const WeightForm& form, int64_t in_features) {
  return form.group == 0 ? 1 : divide_up(in_features, form.group);
}

// Panels of 16 outputs, panel_bytes each; of codes also scales and zeros, [panels][groups][16], lanes beyond the last
// output 0.
struct PackedWeight {
  WeightForm form;
  const char* panels;
  const char *scales, *zeros;
};

struct PackedWeightBytes {
  Size panels, scales, zeros;
};

inline PackedWeightBytes packed_weight_bytes(Arithmetic arithmetic, int64_t in_features, int64_t out_features,
                                             const WeightForm& form) {
  const Size panels = Size(divide_up(out_features, kPanel));
  if (!is_code(form.element)) {
    return {panels * Size(packed_depth(arithmetic, in_features)) * Size(kPanel) * Size(bytes_of(form.element)), Size(0),
            Size(0)};
  }
  PackedWeightBytes bytes = {
      panels * Size(divide_up(in_features, codes_of_word(form.element))) * Size(kWordBytes * kPanel), Size(0), Size(0)};
  const Size scales = panels * Size(weight_groups(form, in_features)) * Size(kPanel);
  bytes.scales = scales * Size(bytes_of(form.scale_element));
  bytes.zeros = form.has_zeros ? scales * Size(row_bytes(form.zero_element, 1)) : Size(0);
  return bytes;
}

}  // namespace mha
