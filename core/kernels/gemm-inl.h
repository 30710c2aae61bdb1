// SPDX-License-Identifier: Apache-2.0
// The packed GEMM: C = A * panels + bias. Included by algorithms-inl.h, once per target.
//
// Order of the loops, outermost first: blocks of k (kMaxDepth; only where k is larger), groups of columns (kPanels
// panels), row tiles. A block of rows (the planner's) stays in L2 while all columns pass, a group of panels while all
// rows pass; A is read in place. Per tile and step k: 3 lines of B from L1/L2 and 8 broadcasts for 24 multiply-adds of
// 16 (AVX-512), so B needs 16 bytes a cycle at two multiply-adds a cycle, which L2 delivers; tiles of 6 rows and 4
// lines would need 21. Each block of k reads and writes C once more, which pays once a block of rows would not stay in
// L2 otherwise.
namespace mha::MHA_TARGET_NS {
namespace {

// Panels of this depth or more are prefetched, and their tiles are as tall as they get. A group of smaller panels is in
// L2 anyway, like the keys of a chunk.
constexpr int64_t kAheadDepth = 256;

// How many steps ahead the first tile over a group of panels prefetches its lines; where the weights are far it also
// prefetches lines further ahead into L2.
constexpr int64_t kNearSteps = 16, kFarSteps = 48;

// A product of floats: c = a * panels, or c + a * panels where the chains go on.
struct FloatGemm {
  const float* a;  // [m, k of the chains], rows a_stride apart
  int64_t a_stride;
  const float* panels;  // [ceil(n / 16)][k][16]
  const float* bias;    // null: none
  float* c;             // [m, n], rows c_stride apart
  int64_t c_stride;
  int64_t m, n, k;
  bool far;
  bool goes_on;  // the chains of the first block of k go on from c
  bool ends;     // the chains end with the last block: the bias is added
};

// One K block of a tile: the chains start from 0 or go on from c, which a float holds exactly.
struct GemmTile {
  static constexpr int kChains = 1;
  const FloatGemm& g;
  int64_t k_begin, k_end;

  bool goes_on() const { return g.goes_on || k_begin > 0; }
  bool adds_bias() const { return g.bias != nullptr && g.ends && k_end == g.k; }

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    float* c = g.c + row * g.c_stride + column;
    if (g.n - column >= kPanels * kLanes) {
      run_at<kRows, kPanels>(row, column, c, g.c_stride);
      return;
    }
    // A ragged edge goes through a block, whose lanes beyond the matrix are written but not kept.
    constexpr int64_t kPitch = kPanels * kLanes;
    alignas(64) float edge[kRows * kPitch];
    const size_t bytes = static_cast<size_t>(g.n - column) * sizeof(float);
    if (goes_on()) {
      memset(edge, 0, sizeof(edge));
      for (int r = 0; r < kRows; ++r) memcpy(edge + r * kPitch, c + r * g.c_stride, bytes);
    }
    run_at<kRows, kPanels>(row, column, edge, kPitch);
    for (int r = 0; r < kRows; ++r) memcpy(c + r * g.c_stride, edge + r * kPitch, bytes);
  }

  template <int kRows, int kPanels>
  MHA_NOINLINE void run_at(int64_t row, int64_t column, float* c, int64_t c_stride) const {
    Sums<kRows, kPanels> sums;
    if (!goes_on()) {
      clear<kRows, kPanels>(sums);
    } else {
      load_sums<kRows, kPanels>(sums, c, c_stride);
    }
    const float* a = g.a + row * g.a_stride;
    const float* b = g.panels + column * g.k;
    int64_t k = k_begin;
    if (reads_first(row)) {
      if (k_end - k_begin >= kAheadDepth) k = run_once<kRows, kPanels>(sums, a, b, column);
    } else if constexpr (kRows > kTileRows / 2) {  // smaller tiles use their lines too fast to prefetch others
      const Ahead ahead = ahead_of(tile_number<kRows>(row), column / kLanes + kPanels);
      if (ahead.lines == 1) k = run_ahead<kRows, kPanels, 1>(sums, a, b, ahead.line);
      if (ahead.lines == 2) k = run_ahead<kRows, kPanels, 2>(sums, a, b, ahead.line);
    }
    multiply_add<kRows, kPanels>(sums, a + k, g.a_stride, b + k * kLanes, g.k * kLanes, kLanes, k_end - k);
    if (adds_bias()) add_bias<kRows, kPanels>(sums, column);
    store_sums<kRows, kPanels>(sums, c, c_stride);
  }

  // Whether a tile is the first to read much of its panels. It is if it is the only one over them. Where the weights
  // are far, the first of few tiles is too: the few tiles over the group before could not prefetch all of this one.
  // Weights that are near come fast enough without.
  bool reads_first(int64_t row) const {
    return g.m <= kMostTileRows || (row == 0 && g.far && g.m <= 4 * kMostTileRows);
  }

  // Runs all steps of such a tile, whose lines limit its speed. It prefetches them, then the first lines of the next
  // group (or of its own, if it is the last). One row over weights that are near does not prefetch: out of L2 that
  // would take load slots from a tile that has a load for each multiply-add.
  template <int kRows, int kPanels>
  MHA_INLINE int64_t run_once(Sums<kRows, kPanels>& sums, const float* a, const float* b, int64_t column) const {
    const int64_t next = least(column / kLanes + kPanels, divide_up(g.n, kLanes) - kPanels);
    const float* after = g.panels + (next * g.k + k_begin - k_end) * kLanes;  // lines k >= k_end
    if (g.far) return run_once_from<kRows, kPanels, true>(sums, a, b, after);
    return kRows > 1 ? run_once_from<kRows, kPanels, false>(sums, a, b, after) : k_begin;
  }

  template <int kRows, int kPanels, bool kFar>
  MHA_INLINE int64_t run_once_from(Sums<kRows, kPanels>& sums, const float* a, const float* b,
                                   const float* after) const {
    int64_t k = k_begin;
    for (; k < k_end; ++k) {
      const int64_t near = k + kNearSteps, far = k + kFarSteps;
      const float* near_line = (near < k_end ? b : after) + near * kLanes;
      const float* far_line = (far < k_end ? b : after) + far * kLanes;
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        prefetch(near_line + p * g.k * kLanes);
        if (kFar) prefetch_to_l2(far_line + p * g.k * kLanes);
      }
      multiply_add_step<kRows, kPanels>(sums, a + k, g.a_stride, b + k * kLanes, g.k * kLanes);
    }
    return k;
  }

  // Whole groups of 4 steps; with each the tile prefetches kLines lines. Returns the k reached.
  template <int kRows, int kPanels, int kLines>
  MHA_INLINE int64_t run_ahead(Sums<kRows, kPanels>& sums, const float* a, const float* b, const float* line) const {
    int64_t k = k_begin;
    for (; k + 4 <= k_end; k += 4, line += kLines * kLanes) {
      for (int i = 0; i < kLines; ++i) prefetch_to_l2(line + i * kLanes);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        multiply_add_step<kRows, kPanels>(sums, a + k + i, g.a_stride, b + (k + i) * kLanes, g.k * kLanes);
      }
    }
    return k;
  }

  // What a tile prefetches: `lines` lines, 0 to 2, with every 4 steps, from `line` on.
  struct Ahead {
    const float* line;
    int64_t lines;
  };

  int64_t row_tiles() const { return divide_up(g.m, kMostTileRows); }

  // The number of the tile at `row` in its column of tiles, the taller of which come first (cover).
  template <int kRows>
  int64_t tile_number(int64_t row) const {
    return kRows * row_tiles() > g.m ? row / kRows : row_tiles() - (g.m - row) / kRows;
  }

  // While row tiles pass over a group of panels they prefetch the next group, a quarter or a half of a panel each;
  // otherwise its first tile would wait for the outer caches. More lines at a time, or a line twice, would use up fill
  // buffers that the tile's own loads need.
  Ahead ahead_of(int64_t tile, int64_t next_panel) const {
    const int64_t left = divide_up(g.n, kLanes) - next_panel, depth = k_end - k_begin;
    if (left <= 0 || depth < kAheadDepth) return {nullptr, 0};
    const int64_t panels = left < panels_for(kMostTileRows) ? left : panels_for(kMostTileRows);
    const int64_t lines = row_tiles() >= 4 * panels ? 1 : 2;
    const int64_t panel = tile * lines / 4, part = tile % (4 / lines);
    if (panel >= panels) return {nullptr, 0};
    return {g.panels + ((next_panel + panel) * g.k + k_begin + part * (depth / 4 * lines)) * kLanes, lines};
  }

  template <int kRows, int kPanels>
  MHA_INLINE void add_bias(Sums<kRows, kPanels>& sums, int64_t column) const {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const Vec bias = load(g.bias + column + p * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sums[r][p] = add(sums[r][p], bias);
    }
  }
};

// The most k in a block; blocks are of even size.
constexpr int64_t kMaxDepth = 1024;

inline void float_gemm(const FloatGemm& g) {
  const int64_t blocks = most(divide_up(g.k, kMaxDepth), 1);
  for (int64_t b = 0; b < blocks; ++b) {
    cover(GemmTile{g, g.k * b / blocks, g.k * (b + 1) / blocks}, g.m, g.n,
          g.k < kAheadDepth ? kTileRows : kMostTileRows);
  }
}

// If an operand is not float: a block of rows is widened once. Then, for each group of columns, the panels are widened
// one block of k at a time, and all rows pass over it; the outputs of a group are rounded from a block of floats. So
// every element is the same chain as that of the float product.
constexpr int64_t kWidenedPanels = 4;
// Depth of a block of panels: few rows pass over it once and find it in L1, many in L2.
constexpr int64_t kWidenedDepth = 512, kShallowDepth = 64;

inline int64_t gemm_scratch(int64_t rows, int64_t k) {
  return kWidenedPanels * kLanes * (kWidenedDepth + rows) + round_up(rows * k, kLanes);
}

// Steps [k, k + count) of a panel of codes, as lines of 16 floats; k is a multiple of what a word holds, and lines up to
// the end of the last word are written. Codes are Codes8 or Codes4; `flip`: of each word; `base`: added to what a code is read
// as, which is the code minus its type's default zero.
template <class Codes>
MHA_INLINE void widen_words(const GemmArgs& g, int64_t panel, int64_t k, int64_t count, uint32_t flip, float base,
                            float* lines) {
  constexpr int kPerWord = Codes::kPerWord;
  const int64_t group_bytes = kLanes * bytes_of(g.scale_element), zero_bytes = kLanes * row_bytes(g.zero_element, 1);
  const int64_t first_group = panel * divide_up(g.k, g.group), end = k + count;
  const char* words =
      g.panels + panel * panel_bytes(Arithmetic::kF32, g.panels_element, g.k) + k / kPerWord * kLanes * kWordBytes;
  const Vec unit = set1(Codes::kUnit);
  while (k < end) {
    const int64_t group = k / g.group, last = least(end, (group + 1) * g.group);
    const Vec scale = load_elements(g.scale_element, g.scales + (first_group + group) * group_bytes, 0, kLanes);
    Vec zeros = zero();
    if (g.zeros != nullptr) {
      const char* at = g.zeros + (first_group + group) * zero_bytes;
      zeros = g.zero_element == Element::kI8   ? signed_floats(load_bytes(at))
              : g.zero_element == Element::kU8 ? unsigned_floats(load_bytes(at))
                                               : load_elements(g.zero_element, at, 0, kLanes);
    }
    for (; k < last; k += kPerWord, words += kLanes * kWordBytes, lines += kPerWord * kLanes) {
      Vec w = load(reinterpret_cast<const float*>(words));
      if (kPerWord == 4) w = map([&](int i) MHA_ALWAYS_INLINE { return flip_codes(w.r[i], flip); });
      for_each_number<kPerWord>([&](auto number) MHA_ALWAYS_INLINE {
        constexpr int kNumber = decltype(number)::value;
        Vec value = mul(map([&](int i) MHA_ALWAYS_INLINE { return Codes::template part<kNumber>(w.r[i]); }), unit);
        if (g.zeros != nullptr) value = sub(add(value, set1(base)), zeros);
        store(lines + kNumber * kLanes, mul(scale, value));
      });
    }
  }
}

MHA_NOINLINE void widen_panel(const GemmArgs& g, int64_t panel, int64_t k, int64_t count, float* lines) {
  switch (g.panels_element) {
    case Element::kI8:
      return widen_words<Codes8>(g, panel, k, count, 0, 0.0f, lines);
    case Element::kU8:
      return widen_words<Codes8>(g, panel, k, count, flip_of(Element::kU8), 128.0f, lines);
    case Element::kI4:
      return widen_words<Codes4>(g, panel, k, count, 0, 0.0f, lines);
    default:
      return widen_words<Codes4>(g, panel, k, count, 0, 8.0f, lines);
  }
}

MHA_NOINLINE void widening_gemm(const GemmArgs& g) {
  constexpr int64_t kColumns = kWidenedPanels * kLanes;
  float* panels = g.scratch;
  float* outputs = panels + kColumns * kWidenedDepth;
  float* rows = outputs + kColumns * g.m;
  FloatGemm f = {};
  f.a = reinterpret_cast<const float*>(g.a), f.a_stride = g.a_stride / kFloatBytes;
  if (g.a_element != Element::kF32) {
    for (int64_t r = 0; r < g.m; ++r) widen_row(g.a_element, g.a + r * g.a_stride, g.k, rows + r * g.k);
    f.a = rows, f.a_stride = g.k;
  }
  const float* first = f.a;
  f.m = g.m, f.far = false;
  const bool rounds = g.c_element != Element::kF32, widens = g.panels_element != Element::kF32;
  const int64_t depth = !widens ? g.k : g.m <= kMostTileRows ? kShallowDepth : kWidenedDepth;
  for (int64_t column = 0; column < g.n; column += kColumns) {
    f.n = least(g.n - column, kColumns);
    char* c = g.c + column * bytes_of(g.c_element);
    f.c = rounds ? outputs : reinterpret_cast<float*>(c), f.c_stride = rounds ? kColumns : g.c_stride / kFloatBytes;
    f.bias = g.bias != nullptr ? g.bias + column : nullptr;
    int64_t k = 0;
    do {  // once at least: of no inputs the output is the bias
      f.k = least(g.k - k, depth), f.goes_on = k > 0, f.ends = k + f.k == g.k;
      f.a = first + k, f.panels = panels;
      for (int64_t p = 0; p < divide_up(f.n, kLanes); ++p) {
        float* lines = panels + p * f.k * kLanes;
        if (is_code(g.panels_element)) {
          widen_panel(g, column / kLanes + p, k, f.k, lines);
          continue;
        }
        const char* panel = g.panels + (column * g.k + (p * g.k + k) * kLanes) * bytes_of(g.panels_element);
        if (!widens && p == 0) f.panels = reinterpret_cast<const float*>(panel);
        if (widens) widen_row(g.panels_element, panel, f.k * kLanes, lines);
      }
      float_gemm(f);
      k += f.k;
    } while (k < g.k);
    for (int64_t r = 0; r < g.m && rounds; ++r) {
      round_row(g.c_element, outputs + r * kColumns, f.n, c + r * g.c_stride);
    }
  }
}

inline void gemm(const GemmArgs* args) {
  const GemmArgs& g = *args;
  if (g.a_element != Element::kF32 || g.panels_element != Element::kF32 || g.c_element != Element::kF32) {
    return widening_gemm(g);
  }
  FloatGemm f;  // not cleared: every field follows
  f.a = reinterpret_cast<const float*>(g.a), f.a_stride = g.a_stride / kFloatBytes;
  f.panels = reinterpret_cast<const float*>(g.panels), f.bias = g.bias;
  f.c = reinterpret_cast<float*>(g.c), f.c_stride = g.c_stride / kFloatBytes;
  f.m = g.m, f.n = g.n, f.k = g.k, f.far = g.far, f.goes_on = false, f.ends = true;
  float_gemm(f);
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
