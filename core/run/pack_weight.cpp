// SPDX-License-Identifier: Apache-2.0
// Packing is done once, so codes are read and put together one by one; floats go through the target's kernels.
#include "core/run/pack_weight.h"

#include <cstring>

#include "core/run/storage_error.h"

namespace mha {
namespace {

constexpr int64_t kColumns = 64;  // of a block of floats, a multiple of what a pair or a word holds

// --- One element of the caller's weights -----------------------------------------------------------------------------

unsigned byte_at(const char* p) { return static_cast<unsigned char>(*p); }
unsigned nibble_at(const char* base, int64_t n) { return byte_at(base + n / 2) >> (n % 2 * 4) & 15u; }

// Where AWQ has the outputs of a word.
constexpr int64_t kAwqPlaces[8] = {0, 4, 1, 5, 2, 6, 3, 7};
int64_t awq_place(int64_t output) { return output / 8 * 8 + kAwqPlaces[output % 8]; }

// The bits of a code.
unsigned stored_code(const WeightSource& s, int64_t row, int64_t k) {
  const int64_t n = s.first_row + row;
  if (s.layout == MHA_WEIGHT_AWQ) return nibble_at(s.tensor.data, k * s.matrix_rows + awq_place(n));
  if (s.layout != MHA_WEIGHT_ROWS) return nibble_at(s.tensor.data, (k / 8 * s.matrix_rows + n) * 8 + k % 8);
  const char* at = s.tensor.data + n * s.tensor.stride_t;
  switch (s.tensor.element) {
    case Element::kQ8_0:
      return byte_at(at + row_bytes(Element::kQ8_0, k / 32 * 32) + 2 + k % 32);
    case Element::kQ4_0: {
      const unsigned pair = byte_at(at + row_bytes(Element::kQ4_0, k / 32 * 32) + 2 + k % 16);
      return k % 32 < 16 ? pair & 15u : pair >> 4;
    }
    case Element::kI4:
    case Element::kU4:
      return nibble_at(at, k);
    default:
      return byte_at(at + k);
  }
}

// The integer that a code is.
float number_of(Element element, unsigned code) {
  switch (element) {
    case Element::kI8:
    case Element::kQ8_0:
      return static_cast<float>(static_cast<signed char>(code));
    case Element::kI4:
    case Element::kQ4_0:
      return static_cast<float>(static_cast<int>(code) - 8);
    default:
      return static_cast<float>(code);
  }
}

const char* scale_of(const WeightSource& s, int64_t row, int64_t k) {
  const int64_t n = s.first_row + row;
  if (has_scales_inside(s.tensor.element)) {
    return s.tensor.data + n * s.tensor.stride_t + row_bytes(s.tensor.element, k / 32 * 32);
  }
  const CodeScales& scales = s.codes.scales;
  return scales.data + n / s.codes.group_tokens * scales.stride_t + k / s.codes.group * scales.stride_d;
}
Element scale_element_of(const WeightSource& s) {
  return has_scales_inside(s.tensor.element) ? Element::kF16 : s.codes.scales.element;
}

bool has_zeros(const WeightSource& s) { return s.codes.zeros.place != ScalePlace::kNone; }

unsigned zero_in_nibble(const WeightSource& s, int64_t row, int64_t k) {
  const int64_t n = (s.first_row + row) / s.codes.group_tokens;
  const int64_t place = s.layout == MHA_WEIGHT_AWQ ? awq_place(n) : n * s.codes.zeros.stride_t;
  return nibble_at(s.codes.zeros.data, place + k / s.codes.group * s.codes.zeros.stride_d);
}
const char* zero_of(const WeightSource& s, int64_t row, int64_t k) {
  const CodeScales& zeros = s.codes.zeros;
  return zeros.data + (s.first_row + row) / s.codes.group_tokens * zeros.stride_t + k / s.codes.group * zeros.stride_d;
}

// A scale or a zero as float.
float widened(const KernelTable& table, Element element, const char* p) {
  if (element == Element::kI8 || element == Element::kU8) return number_of(element, byte_at(p));
  float value = 0;
  ConvertArgs args = {};
  args.src = p, args.src_element = element;
  args.dst = reinterpret_cast<char*>(&value), args.dst_element = Element::kF32;
  args.rows = 1, args.columns = 1;
  table.rows().convert(&args);
  return value;
}

// scale * (code - zero), both operations rounded to float.
struct Group {
  float scale, zero;
  float value(Element element, unsigned code) const { return scale * (number_of(element, code) - zero); }
};

// Inputs [begin, begin + count) of a row as floats.
void read_row(const KernelTable& table, const WeightSource& s, int64_t row, int64_t begin, int64_t count, float* dst) {
  if (!is_code(s)) {
    ConvertArgs args = {};
    args.src = s.tensor.data + (s.first_row + row) * s.tensor.stride_t + begin * bytes_of(s.tensor.element);
    args.src_element = s.tensor.element;
    args.dst = reinterpret_cast<char*>(dst), args.dst_element = Element::kF32;
    args.rows = 1, args.columns = count;
    table.rows().convert(&args);
    return;
  }
  Group group = {0, own_zero(s.tensor.element)};
  for (int64_t k = begin; k < begin + count; ++k) {
    if (k == begin || k % s.codes.group == 0) {
      group.scale = widened(table, scale_element_of(s), scale_of(s, row, k));
      if (has_zeros(s)) {
        group.zero = s.zeros_in_nibbles ? static_cast<float>(zero_in_nibble(s, row, k)) + s.zero_offset
                                        : widened(table, s.codes.zeros.element, zero_of(s, row, k));
      }
    }
    *dst++ = group.value(s.tensor.element, stored_code(s, row, k));
  }
}

// --- Panels ----------------------------------------------------------------------------------------------------------

// `rows` rows, at most 16, from `first` on.
struct PanelRows {
  int64_t first, rows;
};

void pack_float_panel(const Packing& p, const PanelRows& of, char* panel) {
  alignas(64) float block[kPanel * kColumns];
  for (int64_t k = 0; k < p.in_features; k += kColumns) {
    ConvertArgs args = {};
    args.rows = of.rows, args.columns = least(p.in_features - k, kColumns);
    for (int64_t r = 0; r < of.rows; ++r) {
      read_row(*p.table, p.source, of.first + r, k, args.columns, block + r * kColumns);
    }
    args.src = reinterpret_cast<const char*>(block), args.src_stride = sizeof(float) * kColumns;
    args.src_element = Element::kF32;
    args.dst = panel + k * kPanel * bytes_of(p.form.element), args.dst_element = p.form.element;
    p.kernels->pack_weights(&args);
  }
}

void pack_code_panel(const Packing& p, const WeightSource& s, const PanelRows& of, const PackedParts& to) {
  const int64_t per_word = codes_of_word(p.form.element), bits = 32 / per_word;
  char* word_at = to.panels;
  for (int64_t k = 0; k < p.in_features; k += per_word) {
    const int64_t codes = least(p.in_features - k, per_word);
    for (int64_t r = 0; r < kPanel; ++r, word_at += sizeof(uint32_t)) {
      uint32_t word = 0;
      for (int64_t i = 0; i < codes && r < of.rows; ++i) word |= stored_code(s, of.first + r, k + i) << (i * bits);
      memcpy(word_at, &word, sizeof(word));
    }
  }
  const int64_t group = p.form.group != 0 ? p.form.group : p.in_features;
  const size_t scale_bytes = static_cast<size_t>(bytes_of(p.form.scale_element));
  const size_t zero_bytes = p.form.has_zeros ? static_cast<size_t>(row_bytes(p.form.zero_element, 1)) : 0;
  char *scale_at = to.scales, *zero_at = to.zeros;
  for (int64_t k = 0; k < p.in_features; k += group) {
    for (int64_t r = 0; r < kPanel; ++r, scale_at += scale_bytes, zero_at += zero_bytes) {
      if (r >= of.rows) {
        memset(scale_at, 0, scale_bytes);
        if (p.form.has_zeros) memset(zero_at, 0, zero_bytes);
        continue;
      }
      memcpy(scale_at, scale_of(s, of.first + r, k), scale_bytes);
      if (!p.form.has_zeros) continue;
      if (s.zeros_in_nibbles) {
        *zero_at = static_cast<char>(static_cast<float>(zero_in_nibble(s, of.first + r, k)) + s.zero_offset);
      } else {
        memcpy(zero_at, zero_of(s, of.first + r, k), zero_bytes);
      }
    }
  }
}

// A row of floats, and 16 rows rounded to codes with their scales and zeros. Of a row that is measured, what is stored.
struct RoundedRows {
  float *row, *after;
  char *codes, *scales, *zeros;
};

int64_t part_bytes(int64_t bytes) { return round_up(bytes, 64); }

RoundedRows split(const Packing& p, char* scratch) {
  const int64_t floats = part_bytes(p.in_features * kFloatBytes);
  char* codes = scratch + 2 * floats;
  char* scales = codes + part_bytes(kPanel * p.rounding.row_bytes);
  return {reinterpret_cast<float*>(scratch), reinterpret_cast<float*>(scratch + floats), codes, scales,
          scales + part_bytes(kPanel * p.rounding.scale_bytes)};
}

void pack_rounded_panel(const Packing& p, const PanelRows& of, const PackedParts& to, char* scratch) {
  const RoundedRows rows = split(p, scratch);
  const RowStorage& storage = p.rounding;
  WeightSource s = {};
  s.tensor.data = rows.codes, s.tensor.stride_t = storage.row_bytes, s.tensor.element = storage.element;
  s.codes = rounded_codes(storage, rows.scales, rows.zeros);
  for (int64_t r = 0; r < of.rows; ++r) {
    read_row(*p.table, p.source, of.first + r, 0, p.in_features, rows.row);
    QuantiseArgs args = quantise_args(storage, 0, 1);
    args.src = reinterpret_cast<const char*>(rows.row), args.src_element = Element::kF32;
    args.dst = rows.codes + r * storage.row_bytes, args.scales = rows.scales + r * storage.scale_bytes;
    if (storage.zero_bytes > 0) args.zeros = rows.zeros + r * storage.zero_bytes;
    p.table->rows().quantise(&args);
  }
  pack_code_panel(p, s, {0, of.rows}, to);
}

// The rest of the last line is saved, too, so it must not hold what was in memory before.
void clear_rest_of_line(char* part, const Size& bytes) {
  const int64_t used = bytes.value();
  memset(part + used, 0, static_cast<size_t>(round_up(used, 64) - used));
}

}  // namespace

void pack_bias(const float* bias, int64_t out_features, float* packed) {
  const size_t used = static_cast<size_t>(out_features) * sizeof(float);
  memcpy(packed, bias, used);
  memset(packed + out_features, 0, static_cast<size_t>(round_up(out_features, kPanel)) * sizeof(float) - used);
}

Size packing_bytes(const Packing& p) {
  if (!p.rounds) return Size(0);
  const Size codes = Size(p.rounding.row_bytes) + Size(p.rounding.scale_bytes) + Size(p.rounding.zero_bytes);
  return Size(2 * kFloatBytes) * Size(p.in_features) + Size(kPanel) * codes + Size(5 * 64);
}

void pack_weight(const Packing& p, const PackedParts& to, char* scratch) {
  const PackedWeightBytes bytes = packed_weight_bytes(p.arithmetic, p.in_features, p.out_features, p.form);
  if (!is_code(p.source) && !is_code(p.form.element)) {
    ConvertArgs args = {};
    args.src = p.source.tensor.data + p.source.first_row * p.source.tensor.stride_t;
    args.src_stride = p.source.tensor.stride_t, args.src_element = p.source.tensor.element;
    args.dst = to.panels, args.dst_element = p.form.element;
    args.rows = p.out_features, args.columns = p.in_features;
    p.kernels->pack_weights(&args);
    return clear_rest_of_line(to.panels, bytes.panels);
  }
  const int64_t panels = divide_up(p.out_features, kPanel);
  for (int64_t n = 0; n < panels; ++n) {
    const PanelRows rows = {n * kPanel, least(p.out_features - n * kPanel, kPanel)};
    const PackedParts part = {to.panels + bytes.panels.value() / panels * n,
                              to.scales + bytes.scales.value() / panels * n,
                              to.zeros + bytes.zeros.value() / panels * n};
    if (!is_code(p.form.element)) {
      pack_float_panel(p, rows, part.panels);
    } else if (p.rounds) {
      pack_rounded_panel(p, rows, part, scratch);
    } else {
      pack_code_panel(p, p.source, rows, part);
    }
  }
  clear_rest_of_line(to.panels, bytes.panels);
  if (!is_code(p.form.element)) return;
  clear_rest_of_line(to.scales, bytes.scales);
  if (p.form.has_zeros) clear_rest_of_line(to.zeros, bytes.zeros);
}

mha_storage_error measure_weight(const Packing& p, char* scratch) {
  StorageErrorSum sum(*p.table);
  const WeightSource& s = p.source;
  float block[kColumns];
  for (int64_t n = 0; n < p.out_features; ++n) {
    if (p.rounds) {
      const RoundedRows rows = split(p, scratch);
      read_row(*p.table, s, n, 0, p.in_features, rows.row);
      sum.add_codes(rows.row, p.rounding, 0, {rows.after, rows.codes, rows.scales, rows.zeros});
    } else if (is_code(p.form.element)) {
      sum.add_kept(p.in_features);
    } else if (!is_code(s)) {
      sum.add(s.tensor.data + (s.first_row + n) * s.tensor.stride_t, s.tensor.element, p.in_features, p.form.element);
    }
    for (int64_t k = 0; is_code(s) && !is_code(p.form.element) && k < p.in_features; k += kColumns) {
      const int64_t count = least(p.in_features - k, kColumns);
      read_row(*p.table, s, n, k, count, block);
      sum.add(reinterpret_cast<const char*>(block), Element::kF32, count, p.form.element);
    }
  }
  return sum.error();
}

}  // namespace mha
