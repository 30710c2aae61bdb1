// SPDX-License-Identifier: Apache-2.0
// Weights [out, in] as a caller gives them: floats or codes, in rows or in the layouts of quantised models.
#pragma once

#include "core/call/packed_weight.h"
#include "core/call/problem.h"

namespace mha {

struct WeightSource {
  ConstTensor tensor;  // MHA_WEIGHT_ROWS: rows stride_t bytes apart; else words of 8 codes
  mha_weight_layout layout;
  int64_t first_row;      // of the matrix that these are rows of, which has
  int64_t matrix_rows;    // so many
  CodeRows codes;         // where elements are codes: the scales and zeros of row r are those of token r
  bool zeros_in_nibbles;  // zeros are nibbles: `zeros.data` and strides count these
  float zero_offset;      // added to zeros
};

inline bool is_code(const WeightSource& source) { return is_code(source.tensor.element); }

// How weights are stored that are kept as they are given.
WeightForm form_as_given(const WeightSource& source);

// Rows of a matrix that has been checked.
inline WeightSource rows_from(WeightSource source, int64_t first_row) {
  source.first_row += first_row;
  return source;
}

mha_status check_weight(const char* name, const mha_view& weight, const mha_weight_layout& layout, int64_t out_features,
                        int64_t in_features, WeightSource* source, mha_error* error);

// How a configuration says that weights with so many inputs are packed; `packed` may be NULL. *rounding: how floats are
// rounded to codes, where they are.
mha_status resolve_packed(const mha_storage* packed, const mha_arithmetic& arithmetic, const WeightSource& source,
                          int64_t in_features, WeightForm* form, RowStorage* rounding, mha_error* error);

}  // namespace mha
