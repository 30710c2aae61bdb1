// SPDX-License-Identifier: Apache-2.0
// BF16 arithmetic on AMX's tiles (simd/tiles-inl.h). The policies of the packed driver and of packed weights. Included by
// algorithms-inl.h, once per such target.
//
//     16 keys, 32 d           tile row i: word of each key = d 2i + 1 above d 2i           (as packed weights are)
//     32 keys, 16 columns     tile row i: word of each column = key i + 16 above key i
//     a row of queries        words d 1 above d 0, d 3 above d 2, ...
//     a row of probabilities  words key 16 above key 0, key 17 above key 1, ...
//
namespace mha::MHA_TARGET_NS {
namespace {

// Columns of values that are codes, widened at a time.
constexpr int64_t kMostCodeWidth = 128;

// Words of a key, query or row of inputs, whose width is rounded up to 32.
constexpr int64_t tile_words_of(int64_t width) { return round_up(width, kBlock) / 2; }

// Probabilities are pairs of keys i and i + 16.
struct HalvesWords {
  static MHA_INLINE Vec of(const Vec& first, const Vec& second) { return pair_vectors(second, first); }
};
using TileSoftmax = PairingSoftmax<HalvesWords>;

// A row of `width` elements rounded to bf16, words up to a multiple of 16 of them, zeros behind the last.
template <class E>
MHA_INLINE void store_row(const char* src, int64_t width, float* words) {
  for (int64_t d = 0; d < round_up(width, kBlock); d += kLanes) {
    const int count = static_cast<int>(most(0, least(width - d, kLanes)));
    store_bf16(words + d / 2, count > 0 ? E::load_first(src + d * E::kBytes, count) : zero());
  }
}

struct Bf16TileProducts {
  static constexpr int kChains = 2;
  static constexpr bool kSkipsHidden = false, kKeepsQueries = false;
  static constexpr int64_t kGroupRows = kTileGroupRows, kKeyStep = kBlock;
  static constexpr const char* kName = "BF16: operands rounded to bf16, products of AMX's tiles";
  using Session = TileSession;
  using FloatSoftmax = Bf16Softmax;
  using Chain = PairedChains;

  static TileSoftmax softmax(const PackedScratch& scratch) { return TileSoftmax(scratch.pairs); }
  static int64_t scratch(int64_t rows, int64_t head_dim, int64_t value_head_dim, Element output) {
    return kGroupRows * kPairStride +
           attention_scratch(kGroupRows, rows, round_up(head_dim, kBlock), value_head_dim, output);
  }
  static PackedScratch split(float* p, int64_t head_dim, int64_t value_head_dim, bool keeps_outputs) {
    PackedScratch s = split_scratch(p + kGroupRows * kPairStride, kGroupRows, round_up(head_dim, kBlock),
                                    value_head_dim, keeps_outputs);
    s.pairs = p;
    return s;
  }

  static MHA_NOINLINE void pack_keys(const TokenRows& t, int64_t begin, int64_t count, int64_t width, float* block,
                                     float* dst) {
    const int64_t words = tile_words_of(width), pitch = padded(width);
    for (int64_t done = 0; done < count; done += kLanes, dst += kLanes * words) {
      const int64_t keys = least(count - done, kLanes);
      const TokenRun run = run_at(t, 0, begin + done, keys);
      const char *low = run.row, *high = run.row + 8 * run.stride;
      int64_t stride = run.stride;
      if (t.element != Element::kBf16 || run.count < kLanes || width % kLanes != 0) {
        copy_block(t, 0, begin + done, keys, 0, width, block);
        char* rounded = reinterpret_cast<char*>(block);  // in its own place, which is never written before it is read
        for (int64_t n = 0; n < kLanes * pitch; n += kLanes) store_bf16(rounded + n * 2, load(block + n));
        low = rounded, high = rounded + 8 * pitch * 2, stride = pitch * 2;
      }
      for (int64_t w = 0; w < words; w += kWords) {
        Reg natural[kWords] = {};
        if (w * 2 < pitch) transpose_words(low + w * 4, high + w * 4, stride, natural);
#pragma GCC unroll 8
        for (int i = 0; i < kWords; ++i) store(dst + (w + i) * kLanes, Vec{{natural[i]}});
      }
    }
  }

  static int64_t value_lines(int64_t keys) { return round_up(keys, kBlock) / 2; }

  static MHA_NOINLINE bool pack_values(const TokenRows& t, int64_t begin, int64_t keys, int64_t width, float* block,
                                       float* dst) {
    const int64_t lines = value_lines(keys), pitch = padded(width);
    alignas(64) float codes[kTileSide * kMostCodeWidth];
    Vec probe = zero();
    for (int64_t done = 0; done < keys; done += kBlock, dst += kTileSide * kLanes) {
      const int64_t count = least(keys - done, kBlock);
      const char* rows[kBlock] = {};
      for_each_run(t, 0, begin + done, count, [&](const TokenRun& run, int64_t before) {
        for (int64_t j = 0; j < run.count; ++j) rows[before + j] = run.row + j * run.stride;
      });
      // Codes become floats, some columns of 32 tokens at a time: `block` holds 16 tokens, `codes` the other 16.
      const bool widens = is_code(t.element);
      const int64_t at_once = widens ? least(pitch, kMostCodeWidth) : pitch;
      for (int64_t c = 0; c < width; c += at_once) {
        const int64_t columns = least(width - c, at_once);
        if (widens) {
          for (int64_t half = 0; half < count; half += kLanes) {
            float* to = half == 0 ? block : codes;
            copy_block(t, 0, begin + done + half, least(count - half, kLanes), c, columns, to);
            for (int64_t j = half; j < least(count, half + kLanes); ++j) {
              rows[j] = reinterpret_cast<const char*>(to + (j - half) * padded(columns));
            }
          }
        }
        with_element(widens ? Element::kF32 : t.element, [&](auto e) MHA_ALWAYS_INLINE {
          for (int64_t j = 0; j < kTileSide; ++j) {
            pair_rows<decltype(e)>(rows[j + kTileSide], rows[j], columns, lines * kLanes,
                                   dst + c / kLanes * lines * kLanes + j * kLanes, &probe);
          }
        });
      }
    }
    return sum(probe) == 0.0f;
  }

  static MHA_COLD Vec value_of(const float* panel, int64_t j) {
    Reg halves[2];
    split_bf16(load(panel + (j / kBlock * kTileSide + j % kTileSide) * kLanes).r[0], halves);
    return {{halves[j % kBlock < kTileSide ? 0 : 1]}};
  }

  static void ready_queries(const AttentionRow* rows, int64_t num_rows, Element element, int64_t head_dim, float,
                            float* dst) {
    with_element(element, [&](auto e) MHA_ALWAYS_INLINE {
      for (int64_t r = 0; r < num_rows; ++r, dst += tile_words_of(head_dim)) {
        store_row<decltype(e)>(rows[r].query, head_dim, dst);
      }
    });
  }

  static void multiply_keys(const float* queries, const float* keys, int64_t head_dim, float scale, int64_t rows,
                            int64_t columns, float* scores) {
    const int64_t words = tile_words_of(head_dim);
    for (int64_t c = 0; c < columns; c += 2 * kTileSide) {
      TileProduct p = {};
      p.a = queries, p.a_stride = words, p.b = keys + c * words, p.b_stride = kTileSide * words;
      p.blocks = words / kTileSide, p.c = scores + c, p.c_stride = kScoreStride;
      p.run<Bf16Tiles>(rows, columns - c);
    }
    const Vec factor = set1(scale);
    for (int64_t r = 0; r < rows; ++r) {
      float* row = scores + r * kScoreStride;
      for (int64_t c = 0; c < columns; c += kLanes) store(row + c, mul(load(row + c), factor));
    }
  }

  static void multiply_values(const PackedScratch& scratch, ValueProduct* product, int64_t rows, int64_t columns) {
    for (int64_t c = 0; c < columns; c += 2 * kTileSide) {
      TileProduct p = {};
      p.a = scratch.pairs, p.a_stride = kPairStride, p.b = product->values + c / kLanes * product->panel_stride;
      p.b_stride = product->panel_stride, p.blocks = divide_up(product->keys, kBlock);
      p.c = product->sums + c, p.c_stride = product->pitch;
      p.run<Bf16Tiles>(rows, columns - c);
    }
  }
};

// Packed weights are tiles as they are. What is left of k beyond whole tiles is copied, so that nothing is read beyond the
// panel and zeros meet what is missing.
inline int64_t tile_gemm_scratch(int64_t rows, int64_t k) {
  return round_up(rows, kTileGroupRows) * tile_words_of(k) + 2 * kTileSide * kTileSide + kTileGroupRows * 2 * kTileSide;
}

MHA_NOINLINE void tile_gemm(const GemmArgs* args) {
  const GemmArgs& g = *args;
  [[maybe_unused]] const TileSession session;
  const int64_t words = tile_words_of(g.k), panel_words = round_up(g.k, 2) / 2 * kLanes, whole = g.k / kBlock;
  float* rows = g.scratch;
  float* last = rows + round_up(g.m, kTileGroupRows) * words;
  float* sums = last + 2 * kTileSide * kTileSide;
  with_element(g.a_element, [&](auto e) MHA_ALWAYS_INLINE {
    for (int64_t r = 0; r < g.m; ++r) store_row<decltype(e)>(g.a + r * g.a_stride, g.k, rows + r * words);
  });
  for (int64_t column = 0; column < g.n; column += 2 * kTileSide) {
    const int64_t columns = least(g.n - column, 2 * kTileSide);
    const float* panels = reinterpret_cast<const float*>(g.panels) + column / kLanes * panel_words;
    TileProduct p = {};
    p.a_stride = words, p.b = panels, p.b_stride = panel_words, p.blocks = words / kTileSide;
    p.c = sums, p.c_stride = 2 * kTileSide;
    if (g.k % kBlock != 0) {
      const int64_t rest = panel_words - whole * kTileSide * kTileSide;
      memset(last, 0, sizeof(float) * 2 * kTileSide * kTileSide);
      for (int64_t t = 0; t < divide_up(columns, kTileSide); ++t) {
        memcpy(last + t * kTileSide * kTileSide, panels + t * panel_words + whole * kTileSide * kTileSide,
               static_cast<size_t>(rest) * sizeof(float));
      }
      p.last = last;
    }
    for (int64_t row = 0; row < g.m; row += kTileGroupRows) {
      const int64_t count = least(g.m - row, kTileGroupRows);
      p.a = rows + row * words;
      p.run<Bf16Tiles>(count, columns);
      for (int64_t r = 0; r < count; ++r) {
        for (int64_t c = 0; c < columns; c += kLanes) {
          // Adding 0 makes 0 of -0, which depends on how many products of zeros there were.
          const Vec bias = g.bias != nullptr ? load(g.bias + column + c) : zero();
          store_elements(g.c_element, g.c + (row + r) * g.c_stride, column + c,
                         add(load(sums + r * 2 * kTileSide + c), bias), static_cast<int>(least(columns - c, kLanes)));
        }
      }
    }
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
