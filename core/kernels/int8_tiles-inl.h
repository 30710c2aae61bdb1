// SPDX-License-Identifier: Apache-2.0
// INT8 on AMX's tiles (simd/tiles-inl.h): the policies of the packed driver and of packed weights. A tile has 16 lines of packed
// keys, values or weights as they are elsewhere, each word four bytes; integers of 15 bits are two products, whose sums are
// put together in vectors. Included by algorithms-inl.h, once per such target.
namespace mha::MHA_TARGET_NS {
namespace {

// Bytes are signed, so nothing is taken from sums afterwards.
struct IntTiles : IntDots {
  static constexpr const char* kName = "INT8: rows rounded to 8 bits, exact products of AMX's tiles";
  static constexpr const char* kAttentionName =
      "INT8: queries and probabilities rounded to 15 bits, two bytes each, exact products of AMX's tiles";
  static constexpr int32_t kSignedZero = 0;
  static constexpr bool kCorrects = false;
  static constexpr int64_t kWordsTogether = kTileSide;
};

struct Int8TileProducts : Int8Products<IntTiles, IntTiles> {
  static constexpr int64_t kGroupRows = kTileGroupRows;
  using Session = TileSession;

  static int64_t scratch(int64_t rows, int64_t head_dim, int64_t value_head_dim, Element output) {
    return scratch_of(kGroupRows, rows, head_dim, value_head_dim, output);
  }
  static PackedScratch split(float* p, int64_t head_dim, int64_t value_head_dim, bool keeps_outputs) {
    return split_of(kGroupRows, p, head_dim, value_head_dim, keeps_outputs);
  }

  // The sums of both parts: first * 2^kLeft + second.
  template <int kLeft>
  static MHA_INLINE Vec put_together(const float* first, const float* second) {
    return add_ints(shift_left<kLeft>(load(first)), load(second));
  }

  static void multiply_keys(const float* queries, const float* keys, int64_t head_dim, float, int64_t rows,
                            int64_t columns, float* scores) {
    const int64_t words = int8_words<IntTiles>(head_dim), panel = (1 + words) * kLanes;
    alignas(64) float first[kTileGroupRows * 2 * kTileSide], second[kTileGroupRows * 2 * kTileSide];
    for (int64_t c = 0; c < columns; c += 2 * kTileSide) {
      TileProduct p = {};
      p.a = queries + kQueryHead, p.a_stride = int8_query_words<IntTiles>(head_dim);
      p.b = keys + c / kLanes * panel + kLanes, p.b_stride = panel, p.blocks = words / kTileSide;
      p.c = first, p.c_stride = 2 * kTileSide;
      p.run<ByteTiles<TileBytes::kSigned>>(rows, columns - c);
      p.a += words, p.c = second;
      p.run<ByteTiles<TileBytes::kSigned>>(rows, columns - c);
      for (int64_t at = c; at < least(columns, c + 2 * kTileSide); at += kLanes) {
        const Vec scale = load(keys + at / kLanes * panel);
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t n = r * 2 * kTileSide + at - c;
          const Vec factor = set1(queries[r * p.a_stride]);
          const Vec sum = put_together<IntTiles::kQueryShift>(first + n, second + n);
          store(scores + r * kScoreStride + at, mul(mul(to_floats(sum), factor), scale));
        }
      }
    }
  }

  static void multiply_values(const PackedScratch& scratch, ValueProduct* product, int64_t rows, int64_t columns) {
    round_rows(scratch, *product, rows, columns);
    alignas(64) float first[kTileGroupRows * 2 * kTileSide], second[kTileGroupRows * 2 * kTileSide];
    for (int64_t c = 0; c < columns; c += 2 * kTileSide) {
      TileProduct p = {};
      p.a = scratch.pairs, p.a_stride = kPairStride, p.b = product->values + c / kLanes * product->panel_stride;
      p.b_stride = product->panel_stride, p.blocks = divide_up(product->keys, IntTiles::kInputsOfWord * kTileSide);
      p.c = first, p.c_stride = 2 * kTileSide;
      p.run<ByteTiles<TileBytes::kSigned>>(rows, columns - c);
      p.a += words_of_chunk<IntTiles>(), p.c = second;
      p.run<ByteTiles<TileBytes::kUnsignedRows>>(rows, columns - c);
      for (int64_t r = 0; r < rows; ++r) {
        const float* words = scratch.pairs + r * kPairStride;
        for (int64_t at = c; at < least(round_up(columns, kLanes), c + 2 * kTileSide); at += kLanes) {
          const int64_t n = r * 2 * kTileSide + at - c;
          store(product->sums + r * product->pitch + at,
                value_sums<IntTiles>(put_together<IntTiles::kProbabilityShift>(first + n, second + n), words));
        }
      }
    }
  }
};

// --- Packed weights --------------------------------------------------------------------------------------------------

// Fewer rows than this fill so little of a tile that the base's kernels are as fast, which read weights once for all rows.
constexpr int64_t kLeastTileRows = 8;

inline const LinearKernels& int8_base(Element element) {
  const LinearTable* t = &MHA_BASE_NS::linear_table;
  while (t->kernels[static_cast<int>(Arithmetic::kInt8)][static_cast<int>(element)] == nullptr) t = t->base;
  return *t->kernels[static_cast<int>(Arithmetic::kInt8)][static_cast<int>(element)];
}

// Lines of a group of inputs in whole tiles.
template <int kPerWord>
inline int64_t tile_lines(int64_t inputs) {
  return round_up(divide_up(inputs, kPerWord) * (kPerWord / IntTiles::kInputsOfWord), kTileSide);
}

// The greatest group of inputs, whose lines are kept for two panels.
inline int64_t most_group_lines(int64_t k) { return round_up(divide_up(least(k, kMostInt8Group), 8) * 2, kTileSide); }

// As IntDots' scratch, with rows up to whole tiles, words beyond each row up to a whole tile, and lines of a group.
inline int64_t int8_tile_scratch(int64_t rows, int64_t k) {
  const int64_t padded_rows = round_up(rows, kTileGroupRows), groups = divide_up(k, kLanes) + 1;
  const int64_t stride = round_up(k, 8) / IntTiles::kInputsOfWord + kTileSide + kRowPad;
  const int64_t own = 2 * kLanes * most_group_lines(k) + kInt8Pitch * (rows + 2 * groups) +
                      round_up(padded_rows * stride, kLanes) + 2 * round_up(rows * groups, kLanes) +
                      kTileGroupRows * 2 * kTileSide;
  const auto of_base = [&](Element element) { return int8_base(element).gemm_scratch(rows, k); };
  return most(own, most(of_base(Element::kI8), of_base(Element::kI4)));
}

// Lines of a group of one panel, zeros up to a whole tile.
template <int kPerWord>
MHA_INLINE void unpack_tiles(const Int8Weights<IntTiles>& weights, const char* panel, int64_t inputs, float* lines) {
  const int64_t words = divide_up(inputs, kPerWord), used = words * (kPerWord / IntTiles::kInputsOfWord);
  unpack_codes<IntTiles, kPerWord>(weights, panel, words, lines);
  const int64_t rest = tile_lines<kPerWord>(inputs) - used;
  memset(lines + used * kLanes, 0, static_cast<size_t>(rest * kLanes) * sizeof(float));
}

template <int kPerWord>
MHA_NOINLINE void int8_tile_gemm_of(const GemmArgs& g) {
  [[maybe_unused]] const TileSession session;
  constexpr int64_t kLines = kPerWord / IntTiles::kInputsOfWord;
  Int8Weights<IntTiles> weights(g);
  const Int8Groups& groups = weights.groups;
  const int64_t panel_size = panel_bytes(Arithmetic::kInt8, g.panels_element, g.k), group_lines = most_group_lines(g.k);
  float* lines = g.scratch;
  float* outputs = lines + 2 * kLanes * group_lines;
  weights.scales = outputs + kInt8Pitch * g.m, weights.zeros = weights.scales + kInt8Pitch * weights.weight_groups;
  Int8Rows rows;
  rows.words = weights.zeros + kInt8Pitch * weights.weight_groups;
  rows.stride = divide_up(g.k, kPerWord) * kLines + kTileSide + kRowPad, rows.groups = groups.count();
  rows.scales = rows.words + round_up(round_up(g.m, kTileGroupRows) * rows.stride, kLanes);
  rows.sums = reinterpret_cast<int32_t*>(rows.scales + round_up(g.m * rows.groups, kLanes));
  float* sums = rows.scales + 2 * round_up(g.m * rows.groups, kLanes);
  ready_rows<IntTiles, kPerWord>(g, groups, rows);
  // Signed bytes are tiles as they are packed, where a group is whole tiles.
  const bool direct = g.panels_element == Element::kI8;
  for (int64_t column = 0; column < g.n; column += kInt8Pitch) {
    const int64_t columns = least(g.n - column, kInt8Pitch), panel = column / kLanes;
    memset(outputs, 0, static_cast<size_t>(g.m * kInt8Pitch) * sizeof(float));
    weights.ready(panel, divide_up(columns, kLanes));
    for (int64_t c = 0; c < columns; c += 2 * kTileSide) {
      const int64_t wide = least(columns - c, 2 * kTileSide), panels = divide_up(wide, kLanes);
      for (int64_t k = 0, group = 0; k < g.k; k = groups.end(k), ++group) {
        const int64_t inputs = groups.end(k) - k;
        const char* codes = g.panels + (panel + c / kLanes) * panel_size + k / kPerWord * kLanes * kWordBytes;
        TileProduct p = {};
        p.a_stride = rows.stride, p.blocks = tile_lines<kPerWord>(inputs) / kTileSide;
        p.b = lines, p.b_stride = tile_lines<kPerWord>(inputs) * kLanes;
        if (direct && inputs % (kPerWord * kTileSide) == 0) {
          p.b = reinterpret_cast<const float*>(codes), p.b_stride = panel_size / kFloatBytes;
        } else {
          for (int64_t n = 0; n < panels; ++n) {
            unpack_tiles<kPerWord>(weights, codes + n * panel_size, inputs, lines + n * p.b_stride);
          }
        }
        p.c = sums, p.c_stride = 2 * kTileSide;
        for (int64_t row = 0; row < g.m; row += kTileGroupRows) {
          const int64_t count = least(g.m - row, kTileGroupRows);
          p.a = rows.words + row * rows.stride + k / IntTiles::kInputsOfWord;
          p.run<ByteTiles<TileBytes::kSigned>>(count, wide);
          for (int64_t r = 0; r < count; ++r) {
            for (int64_t n = 0; n < panels; ++n) {
              const Sums<1, 1> sum = {{load(sums + r * 2 * kTileSide + n * kLanes)}};
              const int64_t at = c + n * kLanes;
              weights.template add_group<1, 1>(sum, rows, row + r, at, group, outputs + (row + r) * kInt8Pitch + at);
            }
          }
        }
      }
    }
    store_outputs(g, column, columns, outputs);
  }
}

inline void int8_tile_gemm(const GemmArgs* args) {
  if (args->m < kLeastTileRows) return int8_base(args->panels_element).gemm(args);
  if (codes_of_word(args->panels_element) == 4) return int8_tile_gemm_of<4>(*args);
  int8_tile_gemm_of<8>(*args);
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
