// SPDX-License-Identifier: Apache-2.0
// INT8 attention over keys and values that are codes of 8 bits with a scale for each token's row: products are exact sums
// of integers, and what is rounded, nothing fused, has the same bits on every target (core/README.md, "INT8"). The softmax,
// the rounding of queries and probabilities, and the policies of the packed driver. Included by algorithms-inl.h, once per
// target.
namespace mha::MHA_TARGET_NS {
namespace {

// Integers that a query's greatest element and a chunk's greatest product of probability and scale become.
constexpr float kMostQuery = 16256.0f;        // 127 * 128: two signed bytes
constexpr float kMostProbability = 32767.0f;  // 15 bits

// As F32's, with base n / 8, n = ceil(8 * maximum), so that factors between chunks are powers of two.
struct Int8Softmax {
  using Rounding = Unfused;
  static MHA_INLINE float base(float max) { return Bf16Softmax::base(max); }
  template <bool kCopies>
  MHA_INLINE Vec exp2_row(int64_t, float* scores, int64_t panels, float base, float* copy) const {
    const Vec unit = set1(kScoreUnit), n = set1(kScoreUnit * exponent_base(base));
    Vec total = zero();
    for (int64_t p = 0; p < panels; ++p) {
      const Vec e = exp2<Unfused>(sub(mul(load(scores + p * kLanes), unit), n));
      store(scores + p * kLanes, e);
      if (kCopies) store(copy + p * kLanes, e);
      total = add(total, e);
    }
    return total;
  }
  MHA_INLINE void keep_row(int64_t, const float*, int64_t) const {}
};

// A query as integers, zeros up to a multiple of 16, and what they are multiplied with to give scores.
// Rounded: v = nearest(q * (16256 / a)), a = max |q|; the factor is (a / 16256) * scale. All 0 where a < 2^-100; the factor
// is a NaN where an element is not finite.
MHA_NOINLINE float round_query(const AttentionRow& row, Element element, int64_t head_dim, float scale, int32_t* v) {
  Vec most = zero(), probe = zero();
  for (int64_t d = 0; d < head_dim; d += kLanes) {
    const Vec q = load_elements(element, row.query, d, static_cast<int>(least(head_dim - d, kLanes)));
    most = max_or_second(absolute(q), most), probe = add(probe, mul(q, zero()));
    store(reinterpret_cast<float*>(v + d), q);
  }
  const float greatest = max(most);
  const bool finite = sum(probe) == 0.0f;
  if (!finite || greatest < kLeastInt8) {
    memset(v, 0, static_cast<size_t>(round_up(head_dim, kLanes)) * sizeof(int32_t));
    return finite ? 0.0f : __builtin_nanf("");
  }
  const Vec inverse = set1(kMostQuery / greatest);
  for (int64_t d = 0; d < head_dim; d += kLanes) {
    float* at = reinterpret_cast<float*>(v + d);
    store(at, to_ints(mul(load(at), inverse)));
  }
  return greatest / kMostQuery * scale;
}

// The scales of tokens [begin, begin + count), and room for 16 more, which are 0 up to a multiple of 16.
MHA_NOINLINE void token_scales(const TokenRows& t, int64_t head, int64_t begin, int64_t count, float* out) {
  for_each_run(t, head, begin, count, [&](const TokenRun& run, int64_t done) {
    if (t.codes->group_tokens == 1) {
      load_scales(t, head, begin + done, static_cast<int>(run.count), 1, out + done);
      return;
    }
    for (int64_t j = done; j < done + run.count; ++j) {
      out[j] = scale_at(t.codes->scales.element, row_of_scales(t.codes->scales, t, head, begin + j));
    }
  });
  for (int64_t j = count; j % kLanes != 0; ++j) out[j] = 0.0f;
}
constexpr int64_t kChunkScales = kChunk + kLanes;

inline bool scales_are_finite(const float* scales, int64_t count) {
  Vec probe = zero();
  for (int64_t j = 0; j < count; j += kLanes) probe = add(probe, mul(load(scales + j), zero()));
  return sum(probe) == 0.0f;
}

// Probabilities times value scales as integers of 16 bits, zeros up to a multiple of 16 keys, and what sums of products
// with values are multiplied with: u = nearest(g * (32767 / G)), g = probability * scale, G = max |g|, factor G / 32767. All
// 0 where G < 2^-100; the factor is a NaN where a g is not finite. `skips`: keys that the row does not see have g = 0.
MHA_NOINLINE float round_probabilities(const float* probabilities, const float* scales, int64_t keys,
                                       const AttentionRow& row, int64_t begin, bool skips, float* words) {
  alignas(64) float products[kChunk];
  for (int64_t j = 0; j < keys; j += kLanes) store(products + j, mul(load(probabilities + j), load(scales + j)));
  for (int64_t j = 0; j < keys && skips; ++j) {
    if (!is_visible(row, begin + j)) products[j] = 0.0f;
  }
  Vec most = zero(), probe = zero();
  for (int64_t j = 0; j < keys; j += kLanes) {
    const Vec g = load(products + j);
    most = max_or_second(absolute(g), most), probe = add(probe, mul(g, zero()));
  }
  const float greatest = max(most);
  const bool finite = sum(probe) == 0.0f;
  if (!finite || greatest < kLeastInt8) {
    memset(words, 0, static_cast<size_t>(round_up(keys, kLanes)) * sizeof(int16_t));
    return finite ? 0.0f : __builtin_nanf("");
  }
  const Vec inverse = set1(kMostProbability / greatest);
  for (int64_t j = 0; j < keys; j += kLanes) store_halves(words + j / 2, to_ints(mul(load(products + j), inverse)));
  return greatest / kMostProbability;
}

// Words of a key or query in packed form, and the line or word before them that holds scales.
inline int64_t int8_words(int64_t head_dim) { return divide_up(head_dim, 4) * 2; }

// Where the factor of a row of probabilities is, behind its words.
constexpr int64_t kFactorPlace = kChunk / 2;
static_assert(kFactorPlace < kPairStride, "rows of words have room for their factor");

struct Int8ScoreTile {
  static constexpr int kChains = 1;
  const float* queries;  // [rows][1 + words]: factor, words
  const float* keys;     // [keys / 16][1 + words][16]: scales, lines
  int64_t words;
  float* scores;  // [rows][kScoreStride]

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    Sums<kRows, kPanels> sums;
    clear<kRows, kPanels>(sums);
    const int64_t stride = 1 + words;
    const float* a = queries + row * stride;
    const float* b = keys + column * stride;
    for (int64_t w = 1; w <= words; ++w) {
      multiply_add_step<kRows, kPanels, IntPairs::Steps>(sums, a + w, stride, b + w * kLanes, stride * kLanes);
    }
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const Vec scale = load(b + p * stride * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        store(scores + (row + r) * kScoreStride + column + p * kLanes,
              mul(mul(to_floats(sums[r][p]), set1(a[r * stride])), scale));
      }
    }
  }
};

struct Int8ValueTile : ValueProduct {
  static constexpr int kChains = 1;

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    const int64_t pairs = divide_up(keys_of<kRows>(row), 2);
    const float* a = probabilities + row * probability_stride;
    const float* b = values + column / kLanes * panel_stride;
    float* c = sums + row * pitch + column;
    Sums<kRows, kPanels> s;
    clear<kRows, kPanels>(s);
    for (int64_t w = 0; w < pairs; ++w) {
      multiply_add_step<kRows, kPanels, IntPairs::Steps>(s, a + w, probability_stride, b + w * kLanes, panel_stride);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec factor = set1(a[r * probability_stride + kFactorPlace]);
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) store(c + r * pitch + p * kLanes, mul(to_floats(s[r][p]), factor));
    }
  }
};

struct Int8Products {
  static constexpr int kChains = 1;
  static constexpr int64_t kGroupRows = kAttentionRows, kKeyStep = 2;
  static constexpr bool kSkipsHidden = true;
  static constexpr const char* kName = "INT8: queries and probabilities rounded to 15 bits, exact products of pairs";
  using Session = F32Products::Session;
  using FloatSoftmax = Int8Softmax;

  static Int8Softmax softmax(const PackedScratch&) { return {}; }
  static int64_t scratch(int64_t rows, int64_t head_dim, int64_t value_head_dim, Element output) {
    return kGroupRows * kPairStride +
           attention_scratch(kGroupRows, rows, 1 + int8_words(head_dim), value_head_dim, output);
  }
  static PackedScratch split(float* p, int64_t head_dim, int64_t value_head_dim, bool keeps_outputs) {
    PackedScratch s = split_scratch(p + kGroupRows * kPairStride, kGroupRows, 1 + int8_words(head_dim), value_head_dim,
                                    keeps_outputs);
    s.pairs = p;
    return s;
  }

  static MHA_NOINLINE void pack_keys(const TokenRows& t, int64_t begin, int64_t count, int64_t width, float* block,
                                     float* dst) {
    const int64_t words = int8_words(width) / 2, pitch = round_up(width, 4 * kWords);
    char* bytes = reinterpret_cast<char*>(block);
    for (int64_t done = 0; done < count; done += kLanes) {
      const int64_t keys = least(count - done, kLanes);
      alignas(64) float scales[2 * kLanes];
      token_scales(t, 0, begin + done, keys, scales);
      store(dst, load(scales));
      dst += kLanes;
      TokenRun run = run_at(t, 0, begin + done, keys);
      if (run.count < kLanes || width != pitch) {
        memset(bytes, 0, static_cast<size_t>(kLanes * pitch));
        for_each_run(t, 0, begin + done, keys, [&](const TokenRun& from, int64_t before) {
          for (int64_t j = 0; j < from.count; ++j) {
            memcpy(bytes + (before + j) * pitch, from.row + j * from.stride, static_cast<size_t>(width));
          }
        });
        run.row = bytes, run.stride = pitch;
      }
      for (int64_t w = 0; w < words; w += kWords) {
        Vec columns[kWords];
#pragma GCC unroll 4
        for (int g = 0; g < kRegs; ++g) {
          const char* low = run.row + g * kRegLanes * run.stride + w * kWordBytes;
          Reg natural[kWords];
          transpose_words(low, low + 8 * run.stride, run.stride, natural);
#pragma GCC unroll 8
          for (int i = 0; i < kWords; ++i) columns[i].r[g] = natural[i];
        }
        for (int64_t i = 0; i < least(words - w, kWords); ++i, dst += 2 * kLanes) {
          store(dst, line_of_bytes<0>(columns[i])), store(dst + kLanes, line_of_bytes<1>(columns[i]));
        }
      }
    }
  }

  static int64_t value_lines(int64_t keys) { return divide_up(keys, 2); }

  // Lines of pairs of keys, then the scales. Returns whether these are finite.
  static MHA_NOINLINE bool pack_values(const TokenRows& t, int64_t begin, int64_t keys, int64_t width, float*,
                                       float* dst) {
    const int64_t lines = value_lines(keys);
    const char* rows[kChunk + 1];
    for_each_run(t, 0, begin, keys, [&](const TokenRun& run, int64_t before) {
      for (int64_t j = 0; j < run.count; ++j) rows[before + j] = run.row + j * run.stride;
    });
    alignas(16) static constexpr char kNone[kLanes] = {};
    for (int64_t c = 0; c < width; c += kLanes, dst += lines * kLanes) {
      const int count = static_cast<int>(least(width - c, kLanes));
      for (int64_t j = 0; j < keys; j += 2) {
        const Bytes16 second = j + 1 < keys ? I8::bytes(rows[j + 1], c, count) : load_bytes(kNone);
        store(dst + j / 2 * kLanes, line_of_rows(I8::bytes(rows[j], c, count), second));
      }
    }
    token_scales(t, 0, begin, keys, dst);
    return scales_are_finite(dst, keys);
  }

  static void ready_queries(const AttentionRow* rows, int64_t num_rows, Element element, int64_t head_dim, float scale,
                            float* dst) {
    const int64_t words = int8_words(head_dim);
    int32_t v[kMostInt8Width];
    for (int64_t r = 0; r < num_rows; ++r, dst += 1 + words) {
      *dst = round_query(rows[r], element, head_dim, scale, v);
      put_words<IntPairs, 4>(v, words / 2, reinterpret_cast<uint32_t*>(dst + 1));
    }
  }
  static void multiply_keys(const float* queries, const float* keys, int64_t head_dim, float, int64_t rows,
                            int64_t columns, float* scores) {
    cover(Int8ScoreTile{queries, keys, int8_words(head_dim), scores}, rows, columns);
  }
  static void multiply_values(const PackedScratch& scratch, ValueProduct* product, int64_t rows, int64_t columns) {
    const float* scales = product->values + divide_up(columns, kLanes) * product->panel_stride;
    for (int64_t r = 0; r < rows; ++r) {
      float* words = scratch.pairs + r * kPairStride;
      words[kFactorPlace] = round_probabilities(scratch.scores + r * kScoreStride, scales, product->keys,
                                                product->rows[r], product->begin, product->skips, words);
    }
    product->probabilities = scratch.pairs, product->probability_stride = kPairStride;
    cover(Int8ValueTile{*product}, rows, columns);
  }
};

}  // namespace
}  // namespace mha::MHA_TARGET_NS
