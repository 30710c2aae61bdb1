// SPDX-License-Identifier: Apache-2.0
// The packed GEMM in BF16: rows are rounded to bf16 once; for each group of columns the panels, pairs of bf16, are
// unpacked one block of k at a time into what the tiles multiply, and all rows pass over it. Operands: BF16's like of
// Products for packed weights. Included by algorithms-inl.h, once per target.
//
//     panel p, pair i: 16 words, word r = weight[p * 16 + r][2 i + 1] above weight[p * 16 + r][2 i]
//
// which is a tile of AMX's where 16 pairs follow each other.
namespace mha::MHA_TARGET_NS {
namespace {

// Words of the two chains take turns, as in Bf16ScoreTile.
template <class Steps>
struct Bf16GemmTile {
  static constexpr int kChains = 2;
  const float* a;  // [rows][a_stride]
  int64_t a_stride;
  const float* panels;  // [columns / 16][words][16]
  int64_t words;
  float* c;  // [rows][kWidenedPanels * 16]
  bool first;

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    constexpr int64_t kWordsOfBlock = kBlock / Steps::kPerWord, kPitch = kWidenedPanels * kLanes;
    const float* x = a + row * a_stride;
    const float* b = panels + column * words;
    for (int64_t w = 0; w < words; w += kWordsOfBlock) {
      const int64_t count = least(words - w, kWordsOfBlock);
      multiply_block<Steps, kRows, kPanels, 2, 1>(x + w, a_stride, b + w * kLanes, words * kLanes, (count + 1) / 2,
                                                  count / 2, first && w == 0, c + row * kPitch + column, kPitch);
    }
  }
};

// How far ahead of a line of packed weights others are prefetched into L1 and into L2.
constexpr int64_t kNearBytes = 1024, kFarLineBytes = 4096;

// The same for few rows, from panels as they are packed: what is unpacked is used once for each row, so it stays in
// registers. Lines come from the outer caches or memory and are prefetched.
template <class Operands>
struct FewRowsGemmTile {
  static constexpr int kChains = 2;
  const float* a;  // [rows][a_stride]
  int64_t a_stride;
  const char* panels;  // [columns / 16][panel_bytes]
  int64_t panel_bytes, k;
  float* c;  // [rows][kWidenedPanels * 16]

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    using Steps = typename Operands::Steps;
    constexpr int64_t kPitch = kWidenedPanels * kLanes, kStep = 2 * Steps::kPerWord;
    constexpr int64_t kStepBytes = kStep * kLanes * Bf16::kBytes, kLineBytes = 64;
    const float* x = a + row * a_stride;
    const char* b = panels + column / kLanes * panel_bytes;
    for (int64_t done = 0; done < k; done += kBlock) {
      Sums<kRows, kPanels> one, other;
      clear<kRows, kPanels>(one), clear<kRows, kPanels>(other);
      const int64_t end = least(k, done + kBlock);
      for (int64_t i = done; i < end; i += kStep, b += kStepBytes, x += 2) {
        Vec first[kPanels], second[kPanels];
#pragma GCC unroll 8
        for (int p = 0; p < kPanels; ++p) {
          const char* line = b + p * panel_bytes;
          for (int64_t n = 0; n < kStepBytes; n += kLineBytes) {
            prefetch(line + n + kNearBytes), prefetch_to_l2(line + n + kFarLineBytes);
          }
          Operands::load(line, k - i, &first[p], &second[p]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const Vec even = set1(x[r * a_stride]), odd = set1(x[r * a_stride + 1]);
#pragma GCC unroll 8
          for (int p = 0; p < kPanels; ++p) {
            one[r][p] = Steps::step(even, first[p], one[r][p]);
            other[r][p] = Steps::step(odd, second[p], other[r][p]);
          }
        }
      }
      add_chains<kRows, kPanels>(one, other, done == 0, c + row * kPitch + column, kPitch);
    }
  }
};

// Products of floats.
struct FmaOperands {
  using Steps = FmaSteps;
  static constexpr const char* kName = Bf16Products::kName;
  static int64_t words(int64_t k) { return round_up(k, 2); }  // an odd k is followed by a zero
  static void ready_row(Element element, const char* src, int64_t k, float* dst) {
    with_element(element, [&](auto e) MHA_ALWAYS_INLINE {
      using E = AtBf16<decltype(e)>;
      int64_t i = 0;
      for (; i + kLanes <= k; i += kLanes) store(dst + i, E::load(src + i * E::kBytes));
      const int rest = static_cast<int>(k - i);
      if (rest > 0) store_first(dst + i, E::load_first(src + i * E::kBytes, rest), rest);
    });
    if (k % 2 != 0) dst[k] = 0.0f;
  }
  // The columns of k and k + 1, in 16 words.
  static MHA_INLINE void load(const char* pairs, int64_t, Vec* first, Vec* second) {
    const Vec words = MHA_TARGET_NS::load(reinterpret_cast<const float*>(pairs));
#pragma GCC unroll 4
    for (int g = 0; g < kRegs; ++g) {
      Reg halves[2];
      split_bf16(words.r[g], halves);
      first->r[g] = halves[0], second->r[g] = halves[1];
    }
  }
  static void unpack(const char* pairs, int64_t k, float* lines) {
    for (int64_t i = 0; i < k; i += 2, pairs += 2 * kLanes * Bf16::kBytes, lines += 2 * kLanes) {
      prefetch_to_l2(pairs + kFarLineBytes);
      Vec first, second;
      load(pairs, k - i, &first, &second);
      store(lines, first), store(lines + kLanes, second);
    }
  }
};

template <class Operands>
inline int64_t bf16_gemm_scratch(int64_t rows, int64_t k) {
  return kWidenedPanels * kLanes * (kWidenedDepth + rows) + round_up(rows * round_up(k, 4), kLanes) + kLanes;
}

template <class Operands>
MHA_NOINLINE void bf16_gemm(const GemmArgs* args) {
  const GemmArgs& g = *args;
  constexpr int64_t kColumns = kWidenedPanels * kLanes;
  const int64_t row_words = Operands::words(g.k), panel_bytes = round_up(g.k, 2) * kLanes * Bf16::kBytes;
  float* panels = g.scratch;
  float* outputs = panels + kColumns * kWidenedDepth;
  float* rows = outputs + kColumns * g.m;
  for (int64_t r = 0; r < g.m; ++r) {
    Operands::ready_row(g.a_element, g.a + r * g.a_stride, g.k, rows + r * row_words);
  }
  const bool few = g.m <= most_tile_rows(2, 8);
  for (int64_t column = 0; column < g.n; column += kColumns) {
    const int64_t columns = least(g.n - column, kColumns);
    if (few) {
      FewRowsGemmTile<Operands> tile;
      tile.a = rows, tile.a_stride = row_words, tile.panels = g.panels + column / kLanes * panel_bytes;
      tile.panel_bytes = panel_bytes, tile.k = g.k, tile.c = outputs;
      cover(tile, g.m, round_up(columns, kLanes));
    }
    for (int64_t k = 0; k < g.k && !few; k += kWidenedDepth) {
      const int64_t steps = least(g.k - k, kWidenedDepth), words = Operands::words(steps);
      for (int64_t p = 0; p < divide_up(columns, kLanes); ++p) {
        const char* panel = g.panels + (column / kLanes + p) * panel_bytes + k * kLanes * Bf16::kBytes;
        Operands::unpack(panel, steps, panels + p * words * kLanes);
      }
      Bf16GemmTile<typename Operands::Steps> tile;
      tile.a = rows + k / Operands::Steps::kPerWord, tile.a_stride = row_words;
      tile.panels = panels, tile.words = words, tile.c = outputs, tile.first = k == 0;
      cover(tile, g.m, round_up(columns, kLanes));
    }
    for (int64_t r = 0; r < g.m; ++r) {
      for (int64_t c = 0; c < columns; c += kLanes) {
        // Adding 0 makes 0 of -0, which depends on how many products of zeros there were.
        const Vec bias = g.bias != nullptr ? load(g.bias + column + c) : zero();
        const int count = static_cast<int>(least(columns - c, kLanes));
        store_elements(g.c_element, g.c + r * g.c_stride, column + c, add(load(outputs + r * kColumns + c), bias),
                       count);
      }
    }
  }
}

// Packing is done once, so pairs are put together element by element.
inline void pack_pairs(const ConvertArgs* args) {
  const ConvertArgs& a = *args;
  uint16_t* dst = reinterpret_cast<uint16_t*>(a.dst);
  for (int64_t r = 0; r < a.rows; r += kLanes) {
    for (int64_t c = 0; c < a.columns; c += kLanes) {
      const int columns = static_cast<int>(least(a.columns - c, kLanes)), pairs = (columns + 1) / 2;
      uint16_t block[kLanes][kLanes] = {};
      for (int64_t i = 0; i < least(a.rows - r, kLanes); ++i) {
        const Vec row = load_elements(a.src_element, a.src + (r + i) * a.src_stride, c, columns);
        Bf16::store(reinterpret_cast<char*>(block[i]), at_bf16(row));
      }
      for (int pair = 0; pair < pairs; ++pair) {
        for (int i = 0; i < kLanes; ++i, dst += 2) dst[0] = block[i][2 * pair], dst[1] = block[i][2 * pair + 1];
      }
    }
  }
}

template <class Operands>
constexpr LinearKernels make_bf16_linear() {
  constexpr int kTall = most_tile_rows(2, 8);
  LinearKernels k = {};
  k.pack_weights = pack_pairs, k.gemm = bf16_gemm<Operands>, k.gemm_scratch = bf16_gemm_scratch<Operands>;
  k.tile_rows = kTall, k.tile_columns = panels_for(kTall, 2) * kLanes, k.depth = kMaxDepth;
  k.products = Operands::kName;
  return k;
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
