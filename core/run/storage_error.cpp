// SPDX-License-Identifier: Apache-2.0
// The greatest and the root mean square error of stored rows.
#include "core/run/storage_error.h"

namespace mha {
namespace {

constexpr int64_t kColumns = 256;  // at a time

void convert_row(const KernelTable& table, const char* src, Element from, void* dst, Element to, int64_t columns) {
  ConvertArgs args = {};
  args.src = src, args.src_element = from;
  args.dst = static_cast<char*>(dst), args.dst_element = to;
  args.rows = 1, args.columns = columns;
  table.rows().convert(&args);
}

}  // namespace

void StorageErrorSum::add(const char* row, Element given, int64_t columns, Element kept) {
  elements_ += columns;
  if (given == kept) return;
  float before[kColumns], after[kColumns];
  alignas(float) char stored[sizeof(after)];
  for (int64_t c = 0; c < columns; c += kColumns) {
    const int64_t count = least(columns - c, kColumns);
    const char* at = row + c * bytes_of(given);
    convert_row(table_, at, given, before, Element::kF32, count);
    convert_row(table_, at, given, stored, kept, count);
    convert_row(table_, stored, kept, after, Element::kF32, count);
    add_difference(before, after, count);
  }
}

void StorageErrorSum::add_codes(const float* row, const RowStorage& storage, int64_t head, const Scratch& scratch) {
  QuantiseArgs args = quantise_args(storage, head, 1);
  args.src = reinterpret_cast<const char*>(row), args.dst = scratch.codes, args.scales = scratch.scales;
  if (storage.zero_bytes > 0) args.zeros = scratch.zeros;
  table_.rows().quantise(&args);
  const CodeRows codes = rounded_codes(storage, scratch.scales, scratch.zeros);
  TokenRows rows = {};
  rows.base = scratch.codes, rows.element = storage.element, rows.codes = &codes;
  rows.code_h = storage.is_fixed() ? head : 0;
  WidenArgs widened = {};
  widened.rows = &rows, widened.count = 1, widened.columns = storage.width;
  widened.dst = reinterpret_cast<char*>(scratch.after);
  table_.rows().widen(&widened);
  elements_ += storage.width;
  add_difference(row, scratch.after, storage.width);
}

void StorageErrorSum::add_difference(const float* before, const float* after, int64_t columns) {
  for (int64_t i = 0; i < columns; ++i) {
    const double value = static_cast<double>(before[i]), lost = static_cast<double>(after[i]) - value;
    const double size = lost < 0 ? -lost : lost;
    if (max_ == max_ && !(size <= max_)) max_ = size;  // a NaN stays
    squares_ += lost * lost, given_squares_ += value * value;
  }
}

mha_storage_error StorageErrorSum::error() const {
  mha_storage_error error = {};
  error.elements = elements_;
  if (elements_ == 0) return error;
  error.max = max_;
  error.rms = __builtin_sqrt(squares_ / static_cast<double>(elements_));
  error.rms_given = __builtin_sqrt(given_squares_ / static_cast<double>(elements_));
  return error;
}

}  // namespace mha
