// SPDX-License-Identifier: Apache-2.0
// INT8 decoding on targets that multiply four bytes at once (simd/dots-inl.h): blocks of 16 keys and values of a head, whose
// integers of 15 bits are two parts. Keys become lines with a lane for each key, so that no sum is spread over lanes; four rows
// of values are interleaved a register at a time, and sums keep the order of columns that this gives. Included by
// algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

// How far ahead of a row that follows others without gaps codes are prefetched, in bytes.
constexpr int64_t kNearCodes = 1024, kFarCodes = 8 * 1024;

// 16 keys.
template <class Operands>
struct Int8KeyLines {
  static constexpr int64_t kStepBytes = kWords * kWordBytes;
  float* lines;          // [words][16]: four codes of each key
  int64_t words;         // a multiple of kWords
  const float* queries;  // [rows][query_stride], part after part
  int64_t query_stride;
  int32_t* sums;  // [rows][16]

  static int64_t words_of(int64_t head_dim) { return round_up(divide_up(head_dim, kWordBytes), kWords); }

  // The distance of rows where it is the same within each half of them, else 0.
  static MHA_INLINE int64_t stride_of(const char* const rows[kLanes]) {
    const int64_t stride = rows[1] - rows[0];
    for (int64_t j = 1; j < kLanes; ++j) {
      if (j != kLanes / 2 && rows[j] - rows[j - 1] != stride) return 0;
    }
    return stride;
  }

  MHA_INLINE void transpose(const char* const keys[kLanes], int64_t head_dim) const {
    const int64_t stride = stride_of(keys);
    alignas(64) char copy[kLanes * kStepBytes];
    for (int64_t at = 0; at < head_dim; at += kStepBytes) {
      const bool as_stored = stride != 0 && head_dim - at >= kStepBytes;
      if (!as_stored) {
        memset(copy, 0, sizeof(copy));
        const size_t count = static_cast<size_t>(least(head_dim - at, kStepBytes));
        for (int64_t j = 0; j < kLanes; ++j) memcpy(copy + j * kStepBytes, keys[j] + at, count);
      }
#pragma GCC unroll 4
      for (int g = 0; g < kRegs; ++g) {
        constexpr int64_t kHalf = kLanes / 2;
        Reg step[kWords];
        if (as_stored) {
          transpose_words(keys[g * kRegLanes] + at, keys[kHalf] + at, stride, step);
        } else {
          transpose_words(copy + g * kRegLanes * kStepBytes, copy + kHalf * kStepBytes, kStepBytes, step);
        }
        float* to = lines + at / kWordBytes * kLanes + g * kRegLanes;
#pragma GCC unroll 8
        for (int w = 0; w < kWords; ++w) {
          const Reg codes = Operands::kSignedZero != 0 ? flip_codes(step[w], flip_of(Element::kU8)) : step[w];
          codes.store_unaligned(to + w * kLanes);
        }
      }
    }
  }

  // Few rows have more sums each, so that none waits for the one before it.
  template <int kRows>
  MHA_NOINLINE void tile(int64_t row) const {
    constexpr int kChains = (kVectorRegisters == 32 ? 8 : 4) / kRows < 4 ? (kVectorRegisters == 32 ? 8 : 4) / kRows : 4;
    const float* x = queries + row * query_stride;
    const int64_t second = query_stride / 2;
#pragma GCC unroll 4
    for (int g = 0; g < kRegs; ++g) {
      Reg all[2][kRows][kChains];
#pragma GCC unroll 16
      for (int i = 0; i < 2 * kRows * kChains; ++i) all[i % 2][i / 2 % kRows][i / 2 / kRows] = Reg(0.0f);
      const float* line = lines + g * kRegLanes;
      for (int64_t w = 0; w < words; w += kChains, line += kChains * kLanes) {
#pragma GCC unroll 4
        for (int c = 0; c < kChains; ++c) {
          const Reg codes = Reg::load_unaligned(line + c * kLanes);
#pragma GCC unroll 4
          for (int r = 0; r < kRows; ++r) {
            const float* word = x + r * query_stride + w + c;
            all[0][r][c] = Operands::key_step(codes, *word, all[0][r][c]);
            all[1][r][c] = Operands::key_step(codes, word[second], all[1][r][c]);
          }
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int c = 1; c < kChains; ++c) {
          all[0][r][0] = add_ints(all[0][r][0], all[0][r][c]), all[1][r][0] = add_ints(all[1][r][0], all[1][r][c]);
        }
        const Reg sum = add_ints(shift_left<Operands::kQueryShift>(all[0][r][0]), all[1][r][0]);
        sum.store_unaligned(reinterpret_cast<float*>(sums + (row + r) * kLanes + g * kRegLanes));
      }
    }
  }

  MHA_INLINE void run(int64_t rows) const {
    int64_t row = 0;
    for (; row + 4 <= rows; row += 4) tile<4>(row);
    if (row + 2 <= rows) tile<2>(row), row += 2;
    if (row < rows) tile<1>(row);
  }
};

// Values of 16 keys: rows beyond the last key meet probabilities of 0.
template <class Operands>
struct Int8ValueQuads {
  static constexpr int kTogether = Operands::kInputsOfWord, kWordsOfBlock = kLanes / kTogether;
  static constexpr int64_t kWide = kTogether * kRegLanes;  // columns of a register of bytes
  const char* rows[kLanes];
  const float* words;  // [rows][kPairStride], those of these keys
  float* sums;         // [rows][pitch], integers; of kWide columns in the order of value_columns
  int64_t pitch;
  bool follow;

  template <int kCount>
  MHA_INLINE void add(const Reg lines[kWordsOfBlock][kCount], int64_t num_rows, int64_t column) const {
    constexpr int64_t kSecond = words_of_chunk<Operands>();
    for (int64_t r = 0; r < num_rows; ++r) {
      const float* x = words + r * kPairStride;
      float* at = sums + r * pitch + column;
      Reg first[kCount], second[kCount];
#pragma GCC unroll 4
      for (int i = 0; i < kCount; ++i) first[i] = Reg(0.0f), second[i] = Reg::load_unaligned(at + i * kRegLanes);
#pragma GCC unroll 4
      for (int w = 0; w < kWordsOfBlock; ++w) {
        const Reg a(x[w]), b(x[kSecond + w]);
#pragma GCC unroll 4
        for (int i = 0; i < kCount; ++i) {
          first[i] = Operands::template value_step<0>(a, lines[w][i], first[i]);
          second[i] = Operands::template value_step<1>(b, lines[w][i], second[i]);
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < kCount; ++i) {
        const Reg sum = add_ints(second[i], shift_left<Operands::kProbabilityShift>(first[i]));
        sum.store_unaligned(at + i * kRegLanes);
      }
    }
  }

  // `columns`: a multiple of 16.
  MHA_NOINLINE void run(int64_t num_rows, int64_t columns) const {
    for (int64_t line = 0; line < columns && follow; line += kLine) {
#pragma GCC unroll 16
      for (int j = 0; j < kLanes; ++j) prefetch(rows[j] + line + kNearCodes), prefetch_to_l2(rows[j] + line + kFarCodes);
    }
    int64_t column = 0;
    for (; column + kWide <= columns; column += kWide) {
      Reg lines[kWordsOfBlock][kTogether];
#pragma GCC unroll 4
      for (int w = 0; w < kWordsOfBlock; ++w) Operands::value_columns(rows + w * kTogether, column, lines[w]);
      add<kTogether>(lines, num_rows, column);
    }
    for (; column < columns; column += kLanes) {
      Reg lines[kWordsOfBlock][kRegs];
      for (int w = 0; w < kWordsOfBlock; ++w) {
        Bytes16 together[kTogether];
        for (int i = 0; i < kTogether; ++i) together[i] = load_bytes(rows[w * kTogether + i] + column);
        const Vec line = Operands::value_line(together);
        for (int i = 0; i < kRegs; ++i) lines[w][i] = line.r[i];
      }
      add<kRegs>(lines, num_rows, column);
    }
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

}  // namespace
}  // namespace mha::MHA_TARGET_NS
