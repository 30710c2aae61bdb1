// SPDX-License-Identifier: Apache-2.0
// Scores of keys that are read where they are stored: a block of 16 keys of one head, or two that follow each other, meet
// all query rows of the head. Included by algorithms-inl.h, once per target.
//
// A register holds kRegLanes keys, a lane for each; each row and lane is one chain over d. A step takes kWords words of
// 32 bits of each key: they are transposed, and the elements of each word are taken one by one and widened. Per word of
// AVX-512 that is 2 loads of 32 bytes (one a merge), 3 shuffles, the operations that widen, and a broadcast and a
// multiply-add for each row and element.
//
// 16 rows that are read side by side are no pattern that a hardware prefetcher follows, so each step prefetches some
// lines of the next rows into L1, and of later ones into L2.
namespace mha::MHA_TARGET_NS {
namespace {

// Where a register holds all 16 keys of a block and there are 32 of them, tiles may be higher than 8 rows, so that keys
// are transposed less often. Seven query heads share each head of keys in many models: they have a tile of their own.
constexpr bool kHasMoreTiles = kVectorRegisters == 32 && kRegs == 1;

// The height of the next tile where `rows` query rows are left: 16, 8, 7, 4, 2 or 1. If it is higher than that, the rows at
// its end are zeros, and their scores are not stored. kChains: of each score.
template <int kChains>
constexpr int64_t score_tile(int64_t rows) {
  if (kHasMoreTiles && kChains == 1 && rows > 12) return 16;
  if (kHasMoreTiles && rows == 7) return 7;
  return rows > 4 ? 8 : rows > 2 ? 4 : rows;
}

// The rows of all tiles together.
template <int kChains>
constexpr int64_t tiled_rows(int64_t rows) {
  int64_t all = 0;
  for (int64_t tile; rows > 0; all += tile, rows -= tile) tile = score_tile<kChains>(rows);
  return all;
}

// Registers of keys that a tile with so many chains for each takes at once, of `blocks` blocks, so that enough chains are
// under way: as many as there are registers for.
constexpr int groups_at_once(int chains, int blocks) {
  const int fit = (kVectorRegisters == 32 ? 16 : 8) / chains, groups = blocks * kRegs;
  return fit < groups ? (fit > 0 ? fit : 1) : groups;
}

// Two blocks are taken at once where one row meets codes: a multiply-add waits for the one before it in its chain, and the
// next block is further on than a CPU looks ahead. (Wider elements: reads are the limit, and twice as many rows at once are
// slower to read.)
template <class E>
constexpr int64_t most_rows_of_two() {
  return E::kIsCode ? 1 : 0;
}

// dst[d][r] = src[r][d], r < tile, for d below `padded`; src has rows padded(head_dim) apart.
inline void interleave_rows(const float* src, int64_t tile, int64_t head_dim, float* dst) {
  const int64_t pitch = padded(head_dim);
  if (tile == 1) {
    memcpy(dst, src, static_cast<size_t>(pitch) * sizeof(float));
    return;
  }
  for (int64_t d = 0; d < pitch; d += kRegLanes) {
    for (int64_t r = 0; r < tile; r += 4) {
      Reg quads[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int64_t row = r + i < tile ? r + i : r;
        quads[i] = Reg::load_unaligned(src + row * pitch + d);
      }
      transpose_quads(quads);  // register c: the four rows' columns d + c, d + 4 + c, ...
      alignas(64) float columns[4][kRegLanes];
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) quads[c].store_unaligned(columns[c]);
      const size_t bytes = static_cast<size_t>(least(tile - r, 4)) * sizeof(float);
      for (int i = 0; i < kRegLanes; ++i) memcpy(dst + (d + i) * tile + r, columns[i % 4] + i / 4 * 4, bytes);
    }
  }
}

// A head's queries, scaled, as score tiles read them: for each tile [padded(D)][rows of the tile]. Columns beyond D are
// -0: a multiply-add with them leaves the bits of a sum as they are. `rows` [16][padded(D)] is scratch.
template <class Products>
inline void tile_queries(const AttentionRow* from, int64_t num_rows, Element element, int64_t head_dim, float scale,
                         float* rows, float* dst) {
  const int64_t pitch = padded(head_dim);
  for (int64_t first = 0, tile; first < num_rows; first += tile) {
    tile = score_tile<Products::kChains>(num_rows - first);
    const int64_t count = least(num_rows - first, tile);
    for (int64_t r = 0; r < tile; ++r) {
      float* row = rows + r * pitch;
      if (head_dim < pitch) store(row + pitch - kLanes, set1(-0.0f));
      if (r < count) {
        Products::ready_queries(from + first + r, 1, element, head_dim, scale, row);
      } else {
        memset(row, 0, static_cast<size_t>(head_dim) * sizeof(float));
      }
    }
    interleave_rows(rows, tile, head_dim, dst);
    dst += tile * pitch;
  }
}

// 16 keys: rows 0 to 7 from `low` on, rows 8 to 15 from `high` on. Two blocks: 32 keys from `low` on.
struct KeyBlock {
  int blocks;
  const char *low, *high;
  int64_t stride;  // bytes from key to key
  // Later rows, as many, to be prefetched into L1 and into L2: the first 8 and the others. Null: none.
  const char *near, *near_high, *far, *far_high;
  float* scores;  // [rows][kScoreStride]
  const float* queries;
  int64_t rows, head_dim;
  // Where keys are codes: scales [groups][16] times the type's kUnit, of each block, and zeros divided by it; the group of
  // element d is d / 16 >> shift; flip: of each word.
  const float *scales, *zeros;
  int shift;
  uint32_t flip;
};

// The last elements of each key of a register, fewer than a step takes, followed by zeros: rows of kWords words.
MHA_COLD void copy_last(const char* low, const char* high, int64_t stride, int64_t bytes, char* dst) {
  memset(dst, 0, kWords * 4 * kRegLanes);
  for (int r = 0; r < kRegLanes; ++r, dst += kWords * 4) {
    const char* row = r < 8 ? low + r * stride : high + (r - 8) * stride;
    memcpy(dst, row, static_cast<size_t>(bytes));
  }
}

// So many bytes further on, if there is anything.
MHA_INLINE const char* rows_after(const char* rows, int64_t bytes) { return rows != nullptr ? rows + bytes : nullptr; }

// Adds two chains to a row's score; `first`: it begins with them.
MHA_INLINE void add_to_score(Reg one, Reg other, bool first, float* score) {
  const Reg before = first ? Reg(0.0f) : Reg::load_unaligned(score);
  (before + (one + other)).store_unaligned(score);
}

// The first `rows` rows of a tile's scores for kGroups registers of keys, from number first_group on. kChains: of each
// score, 2 for BF16, whose even and odd elements have chains that are added every kBlock elements.
template <class E, int kRows, int kGroups, int kChains>
MHA_INLINE void group_scores(const KeyBlock& k, const float* queries, int first_group, int64_t rows, float* scores) {
  constexpr int kStep = kWords * E::kPerWord;
  constexpr int kLines = kGroups * kRegLanes * kWords * 4 / static_cast<int>(kLine);  // that a step reads
  const char *low[kGroups], *high[kGroups];
  alignas(64) char last[kGroups][kRegLanes * kWords * 4];
  int64_t stride = k.stride;
  const int64_t first_row = first_group * kRegLanes;
#pragma GCC unroll 8
  for (int g = 0; g < kGroups; ++g) {
    const int64_t row = first_row + g * kRegLanes;
    low[g] = row < 8 ? k.low + row * stride : k.high + (row - 8) * stride;
    high[g] = k.high + row / kLanes * kLanes * stride;
  }
  const auto later = [&](const char* first, const char* others) MHA_ALWAYS_INLINE {
    return first_row < 8 ? rows_after(first, first_row * stride) : rows_after(others, (first_row - 8) * stride);
  };
  const char *near = later(k.near, k.near_high), *far = later(k.far, k.far_high);
  const char *near_end = rows_after(k.near, 8 * stride), *far_end = rows_after(k.far, 8 * stride);
  Reg sums[kGroups][kRows][kChains];
  const auto clear = [&]() MHA_ALWAYS_INLINE {
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        for (int chain = 0; chain < kChains; ++chain) sums[g][r][chain] = Reg(0.0f);
      }
    }
  };
  clear();
  for (int64_t d = 0; d < k.head_dim; d += kStep, queries += kStep * kRows) {
    if (__builtin_expect(d + kStep > k.head_dim, 0)) {
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) {
        copy_last(low[g], high[g], stride, bytes_in<E>(k.head_dim - d), last[g]);
        low[g] = last[g], high[g] = last[g] + (kRegLanes > 8 ? 8 * kWords * 4 : 0);
      }
      stride = kWords * 4;
    }
    if (near != nullptr) {
#pragma GCC unroll 8
      for (int line = 0; line < kLines; ++line) prefetch(near + line * kLine);
      near += kLines * kLine;
      if (near == near_end) near = k.near_high;
    }
    if (far != nullptr) {
#pragma GCC unroll 8
      for (int line = 0; line < kLines; ++line) prefetch_to_l2(far + line * kLine);
      far += kLines * kLine;
      if (far == far_end) far = k.far_high;
    }
    // All registers of keys go through the elements together, so that a query is broadcast once for all.
    Reg words[kGroups][kWords], scale[kGroups], zero_point[kGroups];
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) {
      transpose_words(low[g], high[g], stride, words[g]);
      low[g] += kWords * 4, high[g] += kWords * 4;
    }
#pragma GCC unroll 8
    for (int c = 0; c < kWords; ++c) {
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) {
        if constexpr (E::kIsCode) {
          if (c * E::kPerWord % kLanes == 0) {  // the scale of 16 elements at least
            const int64_t group = ((d + c * E::kPerWord) / kLanes) >> k.shift, row = first_row + g * kRegLanes;
            const int64_t at = row / kLanes * kScalesOfBlock + group * kLanes + row % kLanes;
            scale[g] = Reg::load_unaligned(k.scales + at);
            if constexpr (E::kHasZeros) zero_point[g] = Reg::load_unaligned(k.zeros + at);
          }
          if constexpr (E::kPerWord == 4) words[g][c] = flip_codes(words[g][c], k.flip);
        }
      }
      for_each_number<E::kPerWord>([&](auto number) MHA_ALWAYS_INLINE {
        constexpr int kNumber = decltype(number)::value;
        Reg parts[kGroups];
#pragma GCC unroll 8
        for (int g = 0; g < kGroups; ++g) {
          parts[g] = E::template part<kNumber>(words[g][c]);
          if constexpr (E::kIsCode) {
            if constexpr (E::kHasZeros) parts[g] = parts[g] - zero_point[g];
            parts[g] = parts[g] * scale[g];
          }
        }
        const int element = c * E::kPerWord + kNumber;
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
          const Reg query(queries[element * kRows + r]);
#pragma GCC unroll 8
          for (int g = 0; g < kGroups; ++g) {
            Reg& sum = sums[g][r][element % kChains];
            sum = fma(query, parts[g], sum);
          }
        }
      });
    }
    if constexpr (kChains == 2) {
      const int64_t done = d + kStep;
      if (done % kBlock != 0 && done < k.head_dim) continue;
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) {
        float* at = scores + first_row + g * kRegLanes;
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          if (r < rows) add_to_score(sums[g][r][0], sums[g][r][1], done <= kBlock, at + r * kScoreStride);
        }
      }
      clear();
    }
  }
  if constexpr (kChains == 2) return;
#pragma GCC unroll 8
  for (int g = 0; g < kGroups; ++g) {
    float* at = scores + first_row + g * kRegLanes;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      if (r < rows) sums[g][r][0].store_unaligned(at + r * kScoreStride);
    }
  }
}

// A tile of rows over the block.
template <class E, int kRows, int kChains>
MHA_NOINLINE void tile_scores(const KeyBlock& k, const float* queries, int64_t rows, float* scores) {
  if constexpr (kRows <= most_rows_of_two<E>()) {
    if (k.blocks == 2) {
      constexpr int kGroups = groups_at_once(kRows * kChains, 2);
      for (int g = 0; g < 2 * kRegs; g += kGroups)
        group_scores<E, kRows, kGroups, kChains>(k, queries, g, rows, scores);
      return;
    }
  }
  constexpr int kGroups = groups_at_once(kRows * kChains, 1);
  for (int g = 0; g < kRegs; g += kGroups) group_scores<E, kRows, kGroups, kChains>(k, queries, g, rows, scores);
}

// The scores of all rows of the head. (The block is not copied: wide loads of what was just stored in parts would wait
// until everything before them is done, and no read of the next block would begin meanwhile.)
template <class E, int kChains>
MHA_NOINLINE void key_scores(const KeyBlock& k) {
  const float* queries = k.queries;
  float* scores = k.scores;
  for (int64_t left = k.rows; left > 0;) {
    const int64_t tile = score_tile<kChains>(left), rows = least(left, tile);
    switch (tile) {
      case 1:
        tile_scores<E, 1, kChains>(k, queries, rows, scores);
        break;
      case 2:
        tile_scores<E, 2, kChains>(k, queries, rows, scores);
        break;
      case 4:
        tile_scores<E, 4, kChains>(k, queries, rows, scores);
        break;
      case 7:
        if constexpr (kHasMoreTiles) tile_scores<E, 7, kChains>(k, queries, rows, scores);
        break;
      case 16:
        if constexpr (kHasMoreTiles && kChains == 1) tile_scores<E, 16, kChains>(k, queries, rows, scores);
        break;
      default:
        tile_scores<E, 8, kChains>(k, queries, rows, scores);
    }
    queries += tile * padded(k.head_dim), left -= rows, scores += rows * kScoreStride;
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
