// SPDX-License-Identifier: Apache-2.0
// The packed GEMM in INT8: rows of inputs are rounded to integers of 8 bits, a scale for each group of inputs that weights
// have a scale for; products with codes are exact sums of integers, so their order is free. What is rounded, in this order:
//
//   a = max |x| of the group; scale = a / 127; code = nearest(x * (127 / a)); all 0 where a < 2^-100, scale NaN where an
//   x is not finite
//   y = float(sum of code * (weight's code - zero)) * (scale * weight's scale); output = 0 + y of each group, ascending,
//   + bias or 0
//
// nothing fused: the same bits on every target. A group goes in parts of kMostInt8Group inputs, each with a scale. As in
// BF16, the panels of a group of columns are unpacked one block of k at a time into lines that tiles multiply; for few rows
// in registers. Operands: IntPairs or its like. Included by algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

// An input is at most 127, a code less its zero at most 383 (255 less -128): the sum of 32,768 products is below 2^31.
constexpr int64_t kMostInt8Group = 32768;

// Numbers that are rounded to integers together: they count as 0 where the greatest magnitude is below this.
constexpr float kLeastInt8 = 0x1p-100f;
struct RoundedTogether {
  Vec most = zero();  // as integers, which magnitudes are in the same order as; Inf and NaN come last
  MHA_INLINE void add(const Vec& x) { most = max_ints(absolute(x), most); }
  MHA_INLINE float greatest() const { return max(most); }                    // of finite numbers
  MHA_INLINE bool finite() const { return sum(mul(most, zero())) == 0.0f; }  // 0 * NaN and 0 * Inf are NaN
};

// Codes and inputs as pairs of 16 bits.
struct IntPairs {
  static constexpr const char* kName = "INT8: rows rounded to 8 bits, exact products of pairs of 16 bits";
  static constexpr int64_t kWordsTogether = 1;  // that packed keys, values and queries are a multiple of
  static constexpr const char* kAttentionName =
      "INT8: queries and probabilities rounded to 15 bits, exact products of pairs of 16 bits";
  static constexpr int kInputsOfWord = 2;
  static constexpr int64_t kHalfSteps = 0;
  struct Steps {
    static MHA_INLINE Vec step(const Vec& x, const Vec& line, const Vec& sum) { return add_products(x, line, sum); }
  };
  // Line kNumber of a word of codes has inputs kNumber and kNumber + (lines of a word) of it. Codes of 8 bits are signed,
  // of 4 bits as they are stored.
  static constexpr int32_t kSignedZero = 0;  // what a signed code of 0 is
  template <int kPerWord, int kNumber>
  static MHA_INLINE Vec line(const Vec& words) {
    if constexpr (kPerWord == 4) {
      return line_of_bytes<kNumber>(words);
    } else {
      return line_of_nibbles<kNumber>(words);
    }
  }
  // The bits of one of the inputs of a word; 16 integers as the words that lines are multiplied with.
  static uint32_t place(int32_t code, int number) { return (static_cast<uint32_t>(code) & 0xffffu) << (16 * number); }
  template <int kPerWord>
  static MHA_INLINE void store_words(float* words, const Vec& v) {
    store_pairs<kPerWord>(words, v);
  }

  // Attention: integers of 15 bits are one part, or two whose products are added with the first's shifted left.
  static constexpr int kParts = 1, kQueryShift = 0, kProbabilityShift = 0;
  static MHA_INLINE Vec query_part(const Vec& v, int) { return v; }
  template <int kPart>
  static MHA_INLINE Vec value_step(const Vec& x, const Vec& line, const Vec& sum) {
    return add_products(x, line, sum);
  }
  // Columns of the values of kInputsOfWord keys.
  static MHA_INLINE Vec value_line(const Bytes16* rows) { return line_of_rows(rows[0], rows[1]); }
  // Whether a sum of values' products is too great by kSignedZero times the sum of the first parts.
  static constexpr bool kCorrects = false;
  // 16 integers from key j on, in the words of a chunk's keys, part after part. Returns the first parts.
  static constexpr bool kStoresFour = false;  // whether there is a way for 64 at once
  static MHA_INLINE Vec store_probabilities(float* words, int64_t j, const Vec& u) {
    store_halves(words + j / 2, u);
    return u;
  }

  // Decoding: kStep codes of a key, in their natural order, and the parts of a query's.
  static constexpr int kStep = kDotStep;
  static MHA_INLINE Reg key_codes(const char* p) { return widened_step(p); }
  static MHA_INLINE Reg key_step(Reg codes, const float* x, Reg sum) { return add_step(codes, x, sum); }
  static constexpr int64_t kQueryBytes = 2;  // of an element of a part
  static MHA_INLINE void store_query(char* part, const Vec& v, int) { store_halves(reinterpret_cast<float*>(part), v); }
};

// Where two bytes' products are added in 16 bits (x86): codes of 4 bits, which are 0 to 15, as bytes. Of inputs up to 127
// two products are at most 3810, so 16 bits hold the sums of 8 steps.
#if defined(MHA_ISA_AVX512) || defined(MHA_ISA_AVX2)
struct IntNibbles {
  static constexpr const char* kName =
      "INT8: rows rounded to 8 bits, exact products of nibbles and bytes, added in 16 bits";
  static constexpr int kInputsOfWord = 4;
  static constexpr int32_t kSignedZero = 0;
  static constexpr int64_t kHalfSteps = 8;
  struct Steps {
    static MHA_INLINE Vec step(const Vec& x, const Vec& line, const Vec& halves) {
      return map([&](int i) MHA_ALWAYS_INLINE { return add_byte_products(line.r[i], x.r[i], halves.r[i]); });
    }
  };
  static MHA_INLINE Vec widened(const Vec& halves) {
    return map([&](int i) MHA_ALWAYS_INLINE { return widened_halves(halves.r[i]); });
  }
  template <int kPerWord, int kNumber>
  static MHA_INLINE Vec line(const Vec& words) {
    return map([&](int i)
                   MHA_ALWAYS_INLINE { return kNumber == 0 ? lower_nibbles(words.r[i]) : upper_nibbles(words.r[i]); });
  }
  static uint32_t place(int32_t code, int number) { return (static_cast<uint32_t>(code) & 0xffu) << (8 * number); }
  template <int kPerWord>
  static MHA_INLINE void store_words(float* words, const Vec& v) {
    store_quads<kPerWord>(words, v);
  }
};
using NibbleOperands = IntNibbles;
#else
using NibbleOperands = IntPairs;
#endif

// Adds `steps` steps of products to sums: each(into, steps) adds them to integers of 32 bits, or so many of them that 16
// bits hold their sums, and those are widened.
template <class Operands, int64_t kHalfSteps, int kRows, int kPanels, class Each>
MHA_INLINE void add_steps(Sums<kRows, kPanels>& sums, int64_t steps, Each each) {
  if constexpr (kHalfSteps == 0) {
    each(sums, steps);
  } else {
    for (; steps > 0; steps -= kHalfSteps) {
      Sums<kRows, kPanels> halves;
      clear<kRows, kPanels>(halves);
      each(halves, least(steps, kHalfSteps));
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int p = 0; p < kPanels; ++p) sums[r][p] = add_ints(sums[r][p], Operands::widened(halves[r][p]));
      }
    }
  }
}

// Which inputs share a scale: groups of weights, in parts of kMostInt8Group.
struct Int8Groups {
  int64_t k, group, parts;  // parts of a group

  explicit Int8Groups(const GemmArgs& g) : k(g.k), group(least(g.group, g.k)), parts(1) {
    if (group > kMostInt8Group) parts = divide_up(group, kMostInt8Group);
  }
  int64_t count() const { return divide_up(k, group) * parts; }
  int64_t number(int64_t at) const {
    return parts == 1 ? at / group : at / group * parts + at % group / kMostInt8Group;
  }
  int64_t end(int64_t at) const {
    const int64_t begin = at / group * group, of_group = least(begin + group, k);
    return parts == 1 ? of_group
                      : least(of_group, begin + (at - begin) / kMostInt8Group * kMostInt8Group + kMostInt8Group);
  }
  // The same where `begin` is where a group or a part of one begins, mostly without a division.
  int64_t end_from(int64_t begin) const { return parts == 1 ? least(begin + group, k) : end(begin); }
  int64_t of_weight(int64_t number) const { return parts == 1 ? number : number / parts; }
};

// Rows of inputs as codes, and what their groups share.
struct Int8Rows {
  float* words;  // [rows][stride]
  int64_t stride;
  float* scales;  // [rows][groups]
  int32_t* sums;  // of codes, [rows][groups]
  int64_t groups;
};

// The first `count` (1..16) of 16 integers as the words that lines are multiplied with; returns their end.
template <class Operands, int kPerWord>
MHA_INLINE float* put_words(const Vec& v, int64_t count, float* words) {
  constexpr int kLines = kPerWord / Operands::kInputsOfWord;
  if (count == kLanes) {
    Operands::template store_words<kPerWord>(words, v);
    return words + kLanes / Operands::kInputsOfWord;
  }
  alignas(64) int32_t codes[kLanes];
  store(reinterpret_cast<float*>(codes), v);
  for (int64_t w = 0; w < divide_up(count, kPerWord); ++w) {
#pragma GCC unroll 8
    for (int line = 0; line < kLines; ++line) {
      uint32_t word = 0;
      for (int n = 0; n < Operands::kInputsOfWord; ++n) {
        word |= Operands::place(codes[w * kPerWord + n * kLines + line], n);
      }
      memcpy(words++, &word, sizeof(word));
    }
  }
  return words;
}

// Group [begin, end) of a row. E: the element type of inputs.
template <class Operands, int kPerWord, class E>
MHA_INLINE void ready_group(const char* src, int64_t begin, int64_t end, float* words, float* scale, int32_t* sum) {
  constexpr int kLines = kPerWord / Operands::kInputsOfWord;
  RoundedTogether group;
  const auto inputs = [&](int64_t at) MHA_ALWAYS_INLINE {
    const int64_t left = end - at;
    const char* p = src + at * E::kBytes;
    return left >= kLanes ? E::load(p) : E::load_first(p, static_cast<int>(left));
  };
  for (int64_t at = begin; at < end; at += kLanes) group.add(inputs(at));
  const float greatest = group.greatest();
  const bool finite = group.finite();
  *scale = finite ? 0.0f : __builtin_nanf("");
  *sum = 0;
  const int64_t used = divide_up(end - begin, kPerWord) * kLines;
  if (!finite || greatest < kLeastInt8) {
    memset(words, 0, static_cast<size_t>(used) * sizeof(float));
    return;
  }
  *scale = greatest / 127.0f;
  const Vec inverse = set1(127.0f / greatest);
  Vec total = zero();
  for (int64_t at = begin; at < end; at += kLanes) {
    const Vec rounded = to_ints(mul(inputs(at), inverse));
    total = add_ints(total, rounded);
    words = put_words<Operands, kPerWord>(rounded, least(end - at, kLanes), words);
  }
  *sum = sum_ints(total);
}

template <class Operands, int kPerWord>
MHA_NOINLINE void ready_rows(const GemmArgs& g, const Int8Groups& groups, const Int8Rows& rows) {
  constexpr int64_t kLines = kPerWord / Operands::kInputsOfWord;
  with_element(g.a_element, [&](auto e) MHA_ALWAYS_INLINE {
    for (int64_t r = 0; r < g.m; ++r) {
      for (int64_t k = 0, n = r * rows.groups; k < g.k; k = groups.end(k), ++n) {
        ready_group<Operands, kPerWord, decltype(e)>(g.a + r * g.a_stride, k, groups.end(k),
                                                     rows.words + r * rows.stride + k / kPerWord * kLines,
                                                     &rows.scales[n], &rows.sums[n]);
      }
    }
  });
}

constexpr int64_t kInt8Pitch = kWidenedPanels * kLanes;

// The panels of a group of columns: codes, and for each group of inputs what they are less their zero, and their scales.
template <class Operands>
struct Int8Weights {
  const GemmArgs& g;
  Int8Groups groups;
  uint32_t flip;   // of each word of codes of 8 bits
  int32_t offset;  // where there are no zeros: what a code of 0 is; else to be added to zeros
  int64_t weight_groups;
  float *scales, *zeros;  // [panels][weight_groups][16], zeros as integers

  explicit Int8Weights(const GemmArgs& args)
      : g(args), groups(args), flip(0), offset(0), weight_groups(divide_up(g.k, groups.group)) {
    const bool has_zeros = g.zeros != nullptr;
    // Signed and unsigned codes of 8 bits are read alike.
    const bool is_signed = g.panels_element == Element::kI8, wants_signed = Operands::kSignedZero == 0;
    switch (g.panels_element) {
      case Element::kI8:
      case Element::kU8:
        if (is_signed != wants_signed) flip = flip_of(Element::kU8);
        offset = !is_signed && has_zeros ? Operands::kSignedZero - 128 : Operands::kSignedZero;
        break;
      default:
        offset = g.panels_element == Element::kI4 || !has_zeros ? 8 : 0;
    }
  }

  // Makes scales and zeros ready for `panels` panels from number `first` on.
  MHA_NOINLINE void ready(int64_t first, int64_t panels) const {
    const int64_t begin = first * weight_groups * kLanes, count = panels * weight_groups * kLanes;
    widen_row(g.scale_element, g.scales + begin * bytes_of(g.scale_element), count, scales);
    for (int64_t n = 0; n < count && g.zeros != nullptr; n += kLanes) {
      const Bytes16 bytes = load_bytes(g.zeros + begin + n);
      const Vec z = g.zero_element == Element::kI8 ? signed_floats(bytes) : unsigned_floats(bytes);
      store(zeros + n, add_ints(to_ints(z), set_ints(offset)));
    }
  }
  template <int kPerWord>
  MHA_INLINE Vec words(const char* at) const {
    Vec w = load(reinterpret_cast<const float*>(at));
    if (kPerWord == 4) w = map([&](int i) MHA_ALWAYS_INLINE { return flip_codes(w.r[i], flip); });
    return w;
  }
  // The sums of a group of inputs, less what zeros are in them, times the scales, added to c. column: of those made ready.
  template <int kRows, int kPanels>
  MHA_INLINE void add_group(const Sums<kRows, kPanels>& sums, const Int8Rows& rows, int64_t row, int64_t column,
                            int64_t group, float* c) const {
    const int64_t at = (column / kLanes * weight_groups + groups.of_weight(group)) * kLanes;
    const int64_t panel_step = weight_groups * kLanes, n = row * rows.groups + group;
    const float *of_weights = scales + at, *of_rows = rows.scales + n;
    const int32_t* row_sums = rows.sums + n;
    if (g.zeros != nullptr) {
      const float* of_zeros = zeros + at;
      add_products_of<kRows, kPanels>(
          sums, of_weights, panel_step, of_rows, rows.groups, c, [=](int r, int p, const Vec& sum) MHA_ALWAYS_INLINE {
            return sub_ints(sum, mul_ints(load(of_zeros + p * panel_step), set_ints(row_sums[r * rows.groups])));
          });
    } else if (offset != 0) {
      const int32_t zero_code = offset;
      add_products_of<kRows, kPanels>(sums, of_weights, panel_step, of_rows, rows.groups, c,
                                      [=](int r, int, const Vec& sum) MHA_ALWAYS_INLINE {
                                        return sub_ints(sum, set_ints(zero_code * row_sums[r * rows.groups]));
                                      });
    } else {
      add_products_of<kRows, kPanels>(sums, of_weights, panel_step, of_rows, rows.groups, c,
                                      [](int, int, const Vec& sum) MHA_ALWAYS_INLINE { return sum; });
    }
  }

 private:
  // All that it reads is in local variables: what is stored could otherwise be part of a struct, which would be read again.
  template <int kRows, int kPanels, class Less>
  static MHA_INLINE void add_products_of(const Sums<kRows, kPanels>& sums, const float* of_weights, int64_t panel_step,
                                         const float* of_rows, int64_t row_step, float* c, Less less) {
    Vec scale[kPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) scale[p] = load(of_weights + p * panel_step);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec of_row = set1(of_rows[r * row_step]);
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) {
        float* to = c + r * kInt8Pitch + p * kLanes;
        store(to, add(load(to), mul(to_floats(less(r, p, sums[r][p])), mul(of_row, scale[p]))));
      }
    }
  }
};

// Inputs [begin, end) of lines: whole groups, or a part of one, whose sums wait in `ints` for the next block.
template <class Operands>
struct Int8GemmTile {
  static constexpr int kChains = 1;
  const Int8Weights<Operands>& weights;
  const Int8Rows& rows;
  int64_t begin, end;
  const float* lines;  // [columns / 16][panel_lines][16]
  int64_t panel_lines;
  bool goes_on;     // with a group that began in an earlier block
  float *c, *ints;  // [rows][kInt8Pitch]

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    const float* a = rows.words + row * rows.stride + begin / Operands::kInputsOfWord;
    const float* b = lines + column * panel_lines;
    const int64_t at = row * kInt8Pitch + column;
    const Int8Groups groups = weights.groups;
    const int64_t stride = rows.stride, panel_stride = panel_lines * kLanes;
    int64_t group = groups.number(begin);
    for (int64_t k = begin, group_end = groups.end(begin); k < end; ++group, group_end = groups.end_from(k)) {
      const int64_t last = least(end, group_end);
      Sums<kRows, kPanels> sums;
      if (goes_on && k == begin) {
        load_sums<kRows, kPanels>(sums, ints + at, kInt8Pitch);
      } else {
        clear<kRows, kPanels>(sums);
      }
      const int64_t count = last == groups.k ? panel_lines - (b - lines - column * panel_lines) / kLanes
                                             : (last - k) / Operands::kInputsOfWord;
      const auto lines_of = [&](Sums<kRows, kPanels>& into, int64_t steps) MHA_ALWAYS_INLINE {
        for (int64_t l = 0; l < steps; ++l, ++a, b += kLanes) {
          multiply_add_step<kRows, kPanels, typename Operands::Steps>(into, a, stride, b, panel_stride);
        }
      };
      add_steps<Operands, Operands::kHalfSteps>(sums, count, lines_of);
      if (last < group_end) {
        store_sums<kRows, kPanels>(sums, ints + at, kInt8Pitch);
      } else {
        weights.template add_group<kRows, kPanels>(sums, rows, row, column, group, c + at);
      }
      k = last;
    }
  }
};

// The same for few rows, from panels as they are packed.
template <class Operands, int kPerWord>
struct FewRowsInt8Tile {
  static constexpr int kChains = 1;
  const Int8Weights<Operands>& weights;
  const Int8Rows& rows;
  int64_t panel;  // of the first column
  float* c;       // [rows][kInt8Pitch]

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    constexpr int kLines = kPerWord / Operands::kInputsOfWord;
    constexpr int64_t kLineBytes = kLanes * kWordBytes;
    const GemmArgs& g = weights.g;
    const int64_t bytes = panel_bytes(Arithmetic::kInt8, g.panels_element, g.k), first = panel + column / kLanes;
    const char* b = g.panels + first * bytes;
    const float* a = rows.words + row * rows.stride;
    const Int8Groups groups = weights.groups;
    const int64_t stride = rows.stride;
    for (int64_t k = 0, group = 0; k < groups.k; ++group) {
      const int64_t group_end = groups.end_from(k);
      Sums<kRows, kPanels> sums;
      clear<kRows, kPanels>(sums);
      const auto words_of = [&](Sums<kRows, kPanels>& into, int64_t words) MHA_ALWAYS_INLINE {
        for (; words > 0; --words, b += kLineBytes, a += kLines) {
#pragma GCC unroll 8
          for (int p = 0; p < kPanels; ++p) {
            const char* at = b + p * bytes;
            prefetch(at + kNearBytes), prefetch_to_l2(at + kFarLineBytes);
            const Vec codes = weights.template words<kPerWord>(at);
            for_each_number<kLines>([&](auto number) MHA_ALWAYS_INLINE {
              constexpr int kNumber = decltype(number)::value;
              const Vec line = Operands::template line<kPerWord, kNumber>(codes);
#pragma GCC unroll 8
              for (int r = 0; r < kRows; ++r) {
                into[r][p] = Operands::Steps::step(set1(a[r * stride + kNumber]), line, into[r][p]);
              }
            });
          }
        }
      };
      add_steps<Operands, Operands::kHalfSteps / kLines>(sums, divide_up(group_end - k, kPerWord), words_of);
      weights.template add_group<kRows, kPanels>(sums, rows, row, column, group, c + row * kInt8Pitch + column);
      k = group_end;
    }
  }
};

// The first words of a panel as lines.
template <class Operands, int kPerWord>
MHA_NOINLINE void unpack_codes(const Int8Weights<Operands>& weights, const char* panel, int64_t words, float* lines) {
  constexpr int kLines = kPerWord / Operands::kInputsOfWord;
  for (int64_t w = 0; w < words; ++w, panel += kLanes * kWordBytes, lines += kLines * kLanes) {
    prefetch_to_l2(panel + kFarLineBytes);
    const Vec codes = weights.template words<kPerWord>(panel);
    for_each_number<kLines>([&](auto number) MHA_ALWAYS_INLINE {
      constexpr int kNumber = decltype(number)::value;
      store(lines + kNumber * kLanes, Operands::template line<kPerWord, kNumber>(codes));
    });
  }
}

// Where a block of whole groups that begins at k ends, or a part of a group.
inline int64_t int8_block_end(const Int8Groups& groups, int64_t k) {
  int64_t end = groups.end(k);
  if (end - k > kWidenedDepth) return k + kWidenedDepth;
  while (end < groups.k && groups.end(end) - k <= kWidenedDepth) end = groups.end(end);
  return end;
}

// Rows of words are so many words more than a power of two apart: otherwise those of a tile fall into one set of L1.
constexpr int64_t kRowPad = 8;

// Floats of lines of a block, outputs and sums of rows, and their words, scales and sums.
template <class Operands>
inline int64_t int8_gemm_scratch(int64_t rows, int64_t k) {
  const int64_t words = round_up(k, 8) / Operands::kInputsOfWord, groups = divide_up(k, kLanes) + 1;
  return kInt8Pitch * (kWidenedDepth / Operands::kInputsOfWord + 2 * (rows + groups)) +
         round_up(rows * (words + kRowPad), kLanes) + 2 * round_up(rows * groups, kLanes);
}

// Columns [column, column + columns) of the output, with the bias.
MHA_NOINLINE void store_outputs(const GemmArgs& g, int64_t column, int64_t columns, const float* outputs) {
  constexpr int64_t kOutputsAhead = 8;  // rows of outputs are too far apart for the hardware prefetcher
  for (int64_t r = 0; r < g.m; ++r) {
    const char* next = g.c + least(r + kOutputsAhead, g.m - 1) * g.c_stride + column * bytes_of(g.c_element);
    for (int64_t line = 0; line < columns * bytes_of(g.c_element); line += kLine) prefetch(next + line);
    for (int64_t c = 0; c < columns; c += kLanes) {
      const Vec bias = g.bias != nullptr ? load(g.bias + column + c) : zero();
      store_elements(g.c_element, g.c + r * g.c_stride, column + c, add(load(outputs + r * kInt8Pitch + c), bias),
                     static_cast<int>(least(columns - c, kLanes)));
    }
  }
}

template <class Operands, int kPerWord>
MHA_NOINLINE void int8_gemm(const GemmArgs* args) {
  const GemmArgs& g = *args;
  constexpr int64_t kLines = kPerWord / Operands::kInputsOfWord;
  Int8Weights<Operands> weights(g);
  const Int8Groups& groups = weights.groups;
  const int64_t panel_size = panel_bytes(Arithmetic::kInt8, g.panels_element, g.k);
  float* lines = g.scratch;
  float* outputs = lines + kInt8Pitch * (kWidenedDepth / Operands::kInputsOfWord);
  float* ints = outputs + kInt8Pitch * g.m;
  weights.scales = ints + kInt8Pitch * g.m, weights.zeros = weights.scales + kInt8Pitch * weights.weight_groups;
  Int8Rows rows;
  rows.words = weights.zeros + kInt8Pitch * weights.weight_groups;
  rows.stride = divide_up(g.k, kPerWord) * kLines + kRowPad, rows.groups = groups.count();
  rows.scales = rows.words + round_up(g.m * rows.stride, kLanes);
  rows.sums = reinterpret_cast<int32_t*>(rows.scales + round_up(g.m * rows.groups, kLanes));
  ready_rows<Operands, kPerWord>(g, groups, rows);
  // Words of four bytes are lines already, so there is nothing to unpack. Two tiles of rows still unpack codes of 8 bits
  // faster in registers than through memory; codes of 4 bits, which take more operations, about one, but as bytes, which
  // take fewer, some thirty.
  constexpr int kRows = most_tile_rows(1, 8);
  constexpr int64_t kMostFew = Operands::kHalfSteps != 0 ? 32 * kRows : kPerWord == 4 ? 2 * kRows : kRows + kRows / 3;
  const bool few = kLines == 1 || g.m <= kMostFew;
  for (int64_t column = 0; column < g.n; column += kInt8Pitch) {
    const int64_t columns = least(g.n - column, kInt8Pitch), panel = column / kLanes;
    memset(outputs, 0, static_cast<size_t>(g.m * kInt8Pitch) * sizeof(float));
    weights.ready(panel, divide_up(columns, kLanes));
    if (few) {
      cover(FewRowsInt8Tile<Operands, kPerWord>{weights, rows, panel, outputs}, g.m, round_up(columns, kLanes));
    }
    if constexpr (kLines > 1) {
      for (int64_t k = 0; k < g.k && !few;) {
        const int64_t end = int8_block_end(groups, k), words = divide_up(end - k, kPerWord);
        for (int64_t p = 0; p < divide_up(columns, kLanes); ++p) {
          unpack_codes<Operands, kPerWord>(weights,
                                           g.panels + (panel + p) * panel_size + k / kPerWord * kLanes * kWordBytes,
                                           words, lines + p * words * kLines * kLanes);
        }
        Int8GemmTile<Operands> tile = {weights, rows, k, end, lines, words * kLines, false, outputs, ints};
        tile.goes_on = k > 0 && groups.number(k) == groups.number(k - 1);
        cover(tile, g.m, round_up(columns, kLanes));
        k = end;
      }
    }
    store_outputs(g, column, columns, outputs);
  }
}

// kPerWord: codes of a word, 4 of 8 bits or 8 of 4 bits.
template <class Operands, int kPerWord>
constexpr LinearKernels make_int8_linear() {
  LinearKernels k = {};
  k.gemm = int8_gemm<Operands, kPerWord>, k.gemm_scratch = int8_gemm_scratch<Operands>;
  k.tile_rows = kMostTileRows, k.tile_columns = panels_for(kMostTileRows) * kLanes, k.depth = kMaxDepth;
  k.products = Operands::kName;
  return k;
}

constexpr void put_int8_linears(LinearTable* table, const LinearKernels* of_bytes, const LinearKernels* of_nibbles) {
  const LinearKernels** kernels = table->kernels[static_cast<int>(Arithmetic::kInt8)];
  for (const Element element : {Element::kI8, Element::kU8}) kernels[static_cast<int>(element)] = of_bytes;
  for (const Element element : {Element::kI4, Element::kU4}) kernels[static_cast<int>(element)] = of_nibbles;
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
