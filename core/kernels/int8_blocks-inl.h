// SPDX-License-Identifier: Apache-2.0
// What INT8 decoding (int8_in_place-inl.h) does with 16 keys, and with 16 values, of a head: Int8Keys, Int8Values. Integers of
// 15 bits are one part, which pairs of 16 bits are multiplied with, or two, where four bytes are multiplied at once
// (simd/dots-inl.h). There, keys become lines with a lane for each key, so that no sum is spread over lanes; four rows of values
// are interleaved a register at a time, and sums keep the order of columns that this gives. Included by algorithms-inl.h, once
// per target.
namespace mha::MHA_TARGET_NS {
namespace {

// How far ahead of a row that follows others without gaps codes are prefetched, in bytes.
constexpr int64_t kNearCodes = 1024, kFarCodes = 8 * 1024;

// Goes through the lines ahead of a block's rows while the block is multiplied: many at once would wait for each other.
// step 0: nothing is known to follow, and one line is asked for again and again.
struct CodesAhead {
  const char* at;
  int64_t step;
  MHA_INLINE void line() {
    prefetch(at + kNearCodes), prefetch_to_l2(at + kFarCodes);
    at += step;
  }
};

// Where the rows of 16 tokens of a head are.
struct BlockRows {
  const char* row[kLanes];
  int64_t stride;  // the same within each half of them, else 0
  bool follow;     // each other without gaps
  MHA_INLINE CodesAhead ahead() const { return {row[0], follow ? kLine : 0}; }
};

// What 16 keys of a head are multiplied with: the query rows of the head.
struct Int8KeyProduct {
  const float* queries;  // [rows][query_stride], part after part
  int64_t query_stride;
  int32_t* sums;  // [rows][16]
  float* lines;   // line_floats()
};

// 16 keys, where integers are one part: a key's codes meet a query's in their natural order, since sums need none.
template <class Operands>
struct Int8KeyBlock : Int8KeyProduct {
  static constexpr int64_t kStep = Operands::kStep, kStepFloats = kStep * Operands::kQueryBytes / kFloatBytes;
  static constexpr int kMostRows = kRegLanes < 4 ? kRegLanes : 4;

  static int64_t line_floats(int64_t) { return 0; }

  // Rows [row, row + kRows) and keys [key, key + kKeys). `last`: [16][kStep], what a key has beyond its last whole step, zeros
  // behind it; null: nothing.
  template <int kRows, int kKeys>
  MHA_INLINE void tile(const char* const keys[kLanes], int64_t steps, const char* last, int64_t row,
                       int64_t key) const {
    static_assert(kRows * kKeys == kRegLanes, "a lane for each sum");
    Reg all[kRegLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kRegLanes; ++i) all[i] = Reg(0.0f);
    const float* x = queries + row * query_stride;
    const auto add_all = [&](const Reg& codes, int k) MHA_ALWAYS_INLINE {
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        Reg& sum = all[r * kKeys + k];
        sum = Operands::key_step(codes, x + r * query_stride, sum);
      }
    };
    for (int64_t s = 0; s < steps; ++s, x += kStepFloats) {
#pragma GCC unroll 16
      for (int k = 0; k < kKeys; ++k) add_all(Operands::key_codes(keys[key + k] + s * kStep), k);
    }
    if (last != nullptr) {
#pragma GCC unroll 16
      for (int k = 0; k < kKeys; ++k) add_all(Operands::key_codes(last + (key + k) * kStep), k);
    }
    alignas(64) float lanes[kRegLanes];
    sums_of(all).store_unaligned(lanes);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int k = 0; k < kKeys; ++k) sums[(row + r) * kLanes + key + k] = int_at(lanes + r * kKeys + k);
    }
  }
  template <int kRows>
  MHA_NOINLINE void tiles(const char* const keys[kLanes], int64_t steps, const char* last, int64_t row,
                          CodesAhead ahead) const {
    constexpr int kKeys = kRegLanes / kRows;
    for (int64_t key = 0; key < kLanes; key += kKeys) {
      for (int64_t line = 0; line < kKeys * steps * kStep && ahead.step != 0; line += kLine) ahead.line();
      tile<kRows, kKeys>(keys, steps, last, row, key);
    }
  }
  MHA_INLINE void run(const BlockRows& keys, int64_t head_dim, int64_t rows) const {
    const int64_t steps = head_dim / kStep, rest = head_dim - steps * kStep;
    alignas(64) char copy[kLanes * kStep];
    const char* last = nullptr;
    if (rest > 0) {
      memset(copy, 0, sizeof(copy));
      for (int64_t j = 0; j < kLanes; ++j) {
        memcpy(copy + j * kStep, keys.row[j] + steps * kStep, static_cast<size_t>(rest));
      }
      last = copy;
    }
    CodesAhead ahead = keys.ahead();
    int64_t row = 0;
    for (; row + kMostRows <= rows; row += kMostRows, ahead.step = 0) {
      tiles<kMostRows>(keys.row, steps, last, row, ahead);
    }
    if constexpr (kMostRows > 2) {
      if (row + 2 <= rows) tiles<2>(keys.row, steps, last, row, ahead), row += 2, ahead.step = 0;
    }
    if (row < rows) tiles<1>(keys.row, steps, last, row, ahead);
  }
};

// 16 keys, where integers are two parts. The first rows meet words as they are transposed, so that shuffles and products take
// turns; others, if there are more, find them in `lines`: [words][16], four codes of each key.
template <class Operands>
struct Int8KeyLines : Int8KeyProduct {
  static constexpr int64_t kStepBytes = kWords * kWordBytes;

  static int64_t line_floats(int64_t head_dim) { return round_up(divide_up(head_dim, kWordBytes), kWords) * kLanes; }

  static MHA_NOINLINE void copy_step(const char* const keys[kLanes], int64_t at, int64_t head_dim, char* copy) {
    const size_t count = static_cast<size_t>(least(head_dim - at, kStepBytes));
    memset(copy, 0, static_cast<size_t>(kLanes * kStepBytes));
    for (int64_t j = 0; j < kLanes; ++j) memcpy(copy + j * kStepBytes, keys[j] + at, count);
  }

  // Sums of kRows rows; few rows have several each, so that none waits for the one before it.
  template <int kRows>
  struct Accumulated {
    static constexpr int kChains = 4 / kRows;
    Reg first[kRows][kChains], second[kRows][kChains];

    MHA_INLINE Accumulated() {
#pragma GCC unroll 4
      for (int i = 0; i < kRows * kChains; ++i) {
        first[i % kRows][i / kRows] = Reg(0.0f), second[i % kRows][i / kRows] = Reg(0.0f);
      }
    }
    // kCount words of keys, and of queries, the first row's at `x`.
    template <int kCount>
    MHA_INLINE void add(const Reg codes[kCount], const float* x, int64_t query_stride) {
#pragma GCC unroll 8
      for (int w = 0; w < kCount; ++w) {
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          const float* word = x + r * query_stride + w;
          Reg &a = first[r][w % kChains], &b = second[r][w % kChains];
          a = Operands::key_step(codes[w], *word, a), b = Operands::key_step(codes[w], word[query_stride / 2], b);
        }
      }
    }
    MHA_INLINE void put(float* to) {
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int c = 1; c < kChains; ++c) {
          first[r][0] = add_ints(first[r][0], first[r][c]), second[r][0] = add_ints(second[r][0], second[r][c]);
        }
        add_ints(shift_left<Operands::kQueryShift>(first[r][0]), second[r][0]).store_unaligned(to + r * kLanes);
      }
    }
  };
  MHA_INLINE float* sums_at(int64_t row, int g) const {
    return reinterpret_cast<float*>(sums + row * kLanes + g * kRegLanes);
  }

  // Rows from the first on.
  template <int kRows, bool kKeeps>
  MHA_NOINLINE void first_tile(const BlockRows& keys, int64_t head_dim) const {
    const int64_t whole = keys.stride != 0 ? head_dim / kStepBytes * kStepBytes : 0;
    CodesAhead ahead = keys.ahead();  // 16 keys have as many lines as words
    alignas(64) char copy[kLanes * kStepBytes];
#pragma GCC unroll 4
    for (int g = 0; g < kRegs; ++g) {
      constexpr int64_t kHalf = kLanes / 2;
      Accumulated<kRows> all;
      const auto step = [&](const char* low, const char* high, int64_t row_stride, int64_t word) MHA_ALWAYS_INLINE {
        Reg codes[kWords];
        transpose_words(low, high, row_stride, codes);
#pragma GCC unroll 8
        for (int w = 0; w < kWords; ++w) {
          if (Operands::kSignedZero != 0) codes[w] = flip_codes(codes[w], flip_of(Element::kU8));
          if (kKeeps) codes[w].store_unaligned(lines + (word + w) * kLanes + g * kRegLanes);
          if (g == 0) ahead.line();
        }
        all.template add<kWords>(codes, queries + word, query_stride);
      };
      const char *low = keys.row[g * kRegLanes], *high = keys.row[kHalf];
      for (int64_t at = 0; at < whole; at += kStepBytes) step(low + at, high + at, keys.stride, at / kWordBytes);
      for (int64_t at = whole; at < head_dim; at += kStepBytes) {
        copy_step(keys.row, at, head_dim, copy);
        step(copy + g * kRegLanes * kStepBytes, copy + kHalf * kStepBytes, kStepBytes, at / kWordBytes);
      }
      all.put(sums_at(0, g));
    }
  }

  // Rows from `row` on, by the lines that the first tile kept.
  template <int kRows>
  MHA_NOINLINE void tile(int64_t row, int64_t head_dim) const {
#pragma GCC unroll 4
    for (int g = 0; g < kRegs; ++g) {
      Accumulated<kRows> all;
      const float *end = lines + line_floats(head_dim), *x = queries + row * query_stride;
      for (const float* line = lines + g * kRegLanes; line < end; line += 4 * kLanes, x += 4) {
        const Reg codes[4] = {Reg::load_unaligned(line), Reg::load_unaligned(line + kLanes),
                              Reg::load_unaligned(line + 2 * kLanes), Reg::load_unaligned(line + 3 * kLanes)};
        all.template add<4>(codes, x, query_stride);
      }
      all.put(sums_at(row, g));
    }
  }

  MHA_INLINE void run(const BlockRows& keys, int64_t head_dim, int64_t rows) const {
    if (rows == 1) return first_tile<1, false>(keys, head_dim);
    if (rows == 2) return first_tile<2, false>(keys, head_dim);
    if (rows == 4) return first_tile<4, false>(keys, head_dim);
    int64_t row = 2;
    if (rows == 3) {
      first_tile<2, true>(keys, head_dim);
    } else {
      first_tile<4, true>(keys, head_dim), row = 4;
    }
    for (; row + 4 <= rows; row += 4) tile<4>(row, head_dim);
    if (row + 2 <= rows) tile<2>(row, head_dim), row += 2;
    if (row < rows) tile<1>(row, head_dim);
  }
};

// Values of 16 keys: rows beyond the last key meet probabilities of 0.
template <class Operands>
struct Int8ValueBlock {
  static constexpr int kTogether = Operands::kInputsOfWord;
  const char* const* rows;  // [16]
  const float* words;       // [rows][kPairStride], those of these keys
  float* sums;              // [rows][pitch], integers
  int64_t pitch;
  CodesAhead ahead;

  MHA_INLINE Vec line(int64_t word, int64_t column) const {
    Bytes16 together[kTogether];
#pragma GCC unroll 4
    for (int i = 0; i < kTogether; ++i) together[i] = load_bytes(rows[word * kTogether + i] + column);
    return Operands::value_line(together);
  }
  MHA_INLINE void prefetch_rows(int64_t word, int64_t column) const {
#pragma GCC unroll 4
    for (int i = 0; i < kTogether; ++i) {
      const char* row = rows[word * kTogether + i] + column;
      prefetch(row + kNearCodes), prefetch_to_l2(row + kFarCodes);
    }
  }

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    Sums<kRows, kPanels> s;
    float* at = sums + row * pitch + column;
    const float* a = words + row * kPairStride;
    const bool prefetches = ahead.step != 0 && row == 0;
    load_sums<kRows, kPanels>(s, at, pitch);
    for (int64_t w = 0; w < kLanes / kTogether; ++w) {
      if (prefetches) prefetch_rows(w, column);
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) {
        const Vec values = line(w, column + p * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          s[r][p] = Operands::template value_step<0>(set1(a[r * kPairStride + w]), values, s[r][p]);
        }
      }
    }
    store_sums<kRows, kPanels>(s, at, pitch);
  }
  MHA_INLINE void run(int64_t num_rows, int64_t columns) const { add_values_of(*this, num_rows, columns); }
  static void put_in_order(float*, int64_t) {}  // they are
};

// The same, where integers are two parts.
template <class Operands>
struct Int8ValueQuads {
  static constexpr int kTogether = Operands::kInputsOfWord, kWordsOfBlock = kLanes / kTogether;
  static constexpr int kMostRows = kVectorRegisters == 32 ? 4 : 2;
  static constexpr int64_t kWide = kTogether * kRegLanes;  // columns of a register of bytes
  const char* const* rows;                                 // [16]
  const float* words;                                      // [rows][kPairStride], those of these keys
  float* sums;  // [rows][pitch], integers; of kWide columns in the order of value_columns
  int64_t pitch;
  CodesAhead ahead;

  // kCount registers of columns, from `column` of the sums on. lines_of(word, lines): those of four keys.
  template <int kRows, int kCount, class LinesOf>
  MHA_INLINE void add(int64_t row, int64_t column, LinesOf lines_of) const {
    constexpr int64_t kSecond = words_of_chunk<Operands>();
    const float* x = words + row * kPairStride;
    float* at = sums + row * pitch + column;
    Reg first[kRows][kCount], second[kRows][kCount];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int i = 0; i < kCount; ++i) {
        first[r][i] = Reg(0.0f), second[r][i] = Reg::load_unaligned(at + r * pitch + i * kRegLanes);
      }
    }
#pragma GCC unroll 4
    for (int w = 0; w < kWordsOfBlock; ++w) {
      Reg lines[kCount];
      lines_of(w, lines);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const Reg a(x[r * kPairStride + w]), b(x[r * kPairStride + kSecond + w]);
#pragma GCC unroll 2
        for (int i = 0; i < kCount; ++i) {
          first[r][i] = Operands::template value_step<0>(a, lines[i], first[r][i]);
          second[r][i] = Operands::template value_step<1>(b, lines[i], second[r][i]);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int i = 0; i < kCount; ++i) {
        const Reg sum = add_ints(second[r][i], shift_left<Operands::kProbabilityShift>(first[r][i]));
        sum.store_unaligned(at + r * pitch + i * kRegLanes);
      }
    }
  }

  // `columns`: a multiple of 16. Half of the words of kWide columns at a time, which is as many sums as there is room for.
  template <int kRows>
  MHA_NOINLINE void tile(int64_t row, int64_t columns, CodesAhead next) const {
    constexpr int kLinesOfWord = static_cast<int>(kLanes * kWide / kLine) / (2 * kWordsOfBlock);
    int64_t column = 0;
    for (; column + kWide <= columns; column += kWide) {
      for_each_number<2>([&](auto half) MHA_ALWAYS_INLINE {
        constexpr int kHalf = decltype(half)::value;
        add<kRows, 2>(row, column + kHalf * 2 * kRegLanes, [&](int w, Reg lines[2]) MHA_ALWAYS_INLINE {
#pragma GCC unroll 2
          for (int n = 0; n < kLinesOfWord; ++n) next.line();
          Operands::template value_columns<kHalf>(rows + w * kTogether, column, lines);
        });
      });
    }
    for (; column < columns; column += kLanes) {
      add<kRows, kRegs>(row, column, [&](int w, Reg lines[kRegs]) MHA_ALWAYS_INLINE {
        Bytes16 together[kTogether];
        for (int i = 0; i < kTogether; ++i) together[i] = load_bytes(rows[w * kTogether + i] + column);
        const Vec line = Operands::value_line(together);
        for (int i = 0; i < kRegs; ++i) lines[i] = line.r[i];
      });
    }
  }

  MHA_INLINE void run(int64_t num_rows, int64_t columns) const {
    CodesAhead next = ahead;
    int64_t row = 0;
    for (; row + kMostRows <= num_rows; row += kMostRows, next.step = 0) tile<kMostRows>(row, columns, next);
    if constexpr (kMostRows > 2) {
      if (row + 2 <= num_rows) tile<2>(row, columns, next), row += 2, next.step = 0;
    }
    if (row < num_rows) tile<1>(row, columns, next);
  }

  // Brings a row of sums into the order of columns.
  static MHA_INLINE void put_in_order(float* row, int64_t columns) {
    for (int64_t column = 0; column + kWide <= columns; column += kWide) {
      Reg all[kTogether];
#pragma GCC unroll 4
      for (int i = 0; i < kTogether; ++i) all[i] = Reg::load_unaligned(row + column + i * kRegLanes);
      Operands::put_in_order(all);
#pragma GCC unroll 4
      for (int i = 0; i < kTogether; ++i) all[i].store_unaligned(row + column + i * kRegLanes);
    }
  }
};

template <class Operands>
using Int8Keys = std::conditional_t<Operands::kParts == 2, Int8KeyLines<Operands>, Int8KeyBlock<Operands>>;
template <class Operands>
using Int8Values = std::conditional_t<Operands::kParts == 2, Int8ValueQuads<Operands>, Int8ValueBlock<Operands>>;

}  // namespace
}  // namespace mha::MHA_TARGET_NS
