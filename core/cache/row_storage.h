// SPDX-License-Identifier: Apache-2.0
// How rows are stored: mha_storage after validation, for caches and for mha_rows_prepare.
#pragma once

#include "core/base/status.h"
#include "core/kernels/kernel_table.h"
#include "core/mha.h"

namespace mha {

struct RowStorage {
  Element element;
  int64_t width;      // elements of a row
  int64_t row_bytes;  // of the elements alone
  // Of codes; else zeros.
  int64_t groups;                   // scales of a row
  int64_t scale_bytes, zero_bytes;  // of the scales and zeros that are stored with a row
  CodeRows codes;  // fixed scales and zeros are where the caller has them; where others are is up to the owner

  bool is_fixed() const { return codes.scales.place == ScalePlace::kTensor; }
};

// Checks how `heads` heads of rows of `width` elements are to be stored. Messages call the storage `name`.
mha_status resolve_storage(const char* name, const mha_storage& storage, int64_t heads, int64_t width,
                           RowStorage* resolved, mha_error* error);

// Refuses codes where the library was built without them.
mha_status check_has_codes(const char* name, const mha_dtype& dtype, mha_error* error);

// Rows of `width` elements must be such as a Walsh-Hadamard matrix can rotate; `name` is the field that asks for it.
mha_status check_hadamard(const char* name, int hadamard, int64_t width, mha_error* error);

// The arguments that round `rows` rows of head `head` as `storage` says, from floats of any type to `dst`. Scales and
// zeros are to be set where they are stored with the rows.
QuantiseArgs quantise_args(const RowStorage& storage, int64_t head, int64_t rows);

// The codes of rows rounded by such arguments, whose scales and zeros follow each other from there on.
CodeRows rounded_codes(const RowStorage& storage, const char* scales, const char* zeros);

// Bytes of a copy of fixed scales, [heads][groups of a row], and of zeros; 0: there are none.
Size fixed_scale_bytes(const RowStorage& storage, int64_t heads);
Size fixed_zero_bytes(const RowStorage& storage, int64_t heads);
// Copies them, and makes storage and `quant` say where they are.
void copy_fixed(int64_t heads, char* scales, char* zeros, RowStorage* storage, mha_quant* quant);

}  // namespace mha
