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
  float* floats = reinterpret_cast<float*>(v);
  const int64_t whole = round_up(head_dim, kLanes);
  RoundedTogether query;
  with_element(element, [&](auto e) MHA_ALWAYS_INLINE {
    using E = decltype(e);
    for (int64_t d = 0; d < whole; d += kLanes) {
      const char* at = row.query + d * E::kBytes;
      const Vec q = head_dim - d >= kLanes ? E::load(at) : E::load_first(at, static_cast<int>(head_dim - d));
      query.add(q);
      store(floats + d, q);
    }
  });
  const float greatest = query.greatest();
  const bool finite = query.finite();
  if (!finite || greatest < kLeastInt8) {
    memset(v, 0, static_cast<size_t>(whole) * sizeof(int32_t));
    return finite ? 0.0f : __builtin_nanf("");
  }
  const Vec inverse = set1(kMostQuery / greatest);
  for (int64_t d = 0; d < whole; d += kLanes) store(floats + d, to_ints(mul(load(floats + d), inverse)));
  return greatest / kMostQuery * scale;
}

// What sums of products with codes have too much where a code of 0 is Operands::kSignedZero.
template <class Operands>
MHA_INLINE int32_t excess_of(const int32_t* v, int64_t whole) {
  if constexpr (Operands::kSignedZero == 0) return 0;
  Vec total = zero();
  for (int64_t d = 0; d < whole; d += kLanes) total = add_ints(total, load(reinterpret_cast<const float*>(v + d)));
  return sum_ints(total) * Operands::kSignedZero;
}

// The scales of tokens [begin, begin + count), and room for 16 more, which are 0 up to a multiple of 16.
MHA_NOINLINE void token_scales(const TokenRows& t, int64_t head, int64_t begin, int64_t count, float* out) {
  for_each_run(t, head, begin, count, [&](const TokenRun& run, int64_t done) {
    if (t.codes->group_tokens == 1) {
      load_scales(t, t.codes->scales, head, begin + done, static_cast<int>(run.count), 1, out + done);
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
  RoundedTogether all;
  for (int64_t j = 0; j < count; j += kLanes) all.add(load(scales + j));
  return all.finite();
}

// A row of probabilities as words: kParts times those of a chunk's keys, then the factor of its sums, and what
// Operands::kCorrects takes from them.
constexpr int64_t kFactorPlace = kChunk / 2, kCorrectionPlace = kFactorPlace + 1;
static_assert(kCorrectionPlace < kPairStride, "rows of words have room for their factor");

template <class Operands>
constexpr int64_t words_of_chunk() {
  return kChunk / Operands::kInputsOfWord;
}

// Probabilities times value scales as integers of 15 bits and a sign, zeros up to a multiple of 16 keys:
// u = nearest(g * (32767 / G)), g = probability * scale, G = max |g|, factor G / 32767. All 0 where G < 2^-100; the factor is
// a NaN where a g is not finite. `skips`: keys that the row does not see have g = 0. `first`: the key that the arrays begin
// with, in the chunk.
template <class Operands>
MHA_NOINLINE void round_probabilities(const float* probabilities, const float* scales, int64_t first, int64_t keys,
                                      const AttentionRow& row, int64_t begin, bool skips, float* words) {
  alignas(64) float products[kChunk];
  RoundedTogether all;
  const auto multiply = [&](int64_t j) MHA_ALWAYS_INLINE {
    const Vec product = mul(load(probabilities + j), load(scales + j));
    store(products + j, product);
    return product;
  };
  if (!skips && keys % kLanes == 0) {
    for (int64_t j = 0; j < keys; j += kLanes) all.add(multiply(j));
  } else {
    for (int64_t j = 0; j < keys; j += kLanes) multiply(j);
    for (int64_t j = 0; j < keys && skips; ++j) {
      if (!is_visible(row, begin + j)) products[j] = 0.0f;
    }
    for (int64_t j = keys; j % kLanes != 0; ++j) {
      products[j] = 0.0f;  // other rows may see these keys, whatever their scales
    }
    for (int64_t j = 0; j < keys; j += kLanes) all.add(load(products + j));
  }
  const float greatest = all.greatest();
  const bool finite = all.finite(), some = finite && greatest >= kLeastInt8;
  const Vec inverse = set1(some ? kMostProbability / greatest : 0.0f);
  Vec total = zero();
  int64_t done = 0;
  if constexpr (Operands::kStoresFour) {
    for (; done + 4 * kLanes <= keys && some; done += 4 * kLanes) {
      Vec u[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) u[i] = to_ints(mul(load(products + done + i * kLanes), inverse));
      total = Operands::store_four(words, first + done, u, total);
    }
  }
  for (int64_t j = done; j < keys; j += kLanes) {
    const Vec u = some ? to_ints(mul(load(products + j), inverse)) : zero();
    total = add_ints(total, Operands::store_probabilities(words, first + j, u));
  }
  constexpr int64_t kKeysTogether = Operands::kInputsOfWord * Operands::kWordsTogether;
  for (int64_t j = round_up(first + keys, kLanes); j % kKeysTogether != 0; j += kLanes) {
    Operands::store_probabilities(words, j, zero());
  }
  words[kFactorPlace] = !finite ? __builtin_nanf("") : some ? greatest / kMostProbability : 0.0f;
  if constexpr (Operands::kCorrects) {
    const int32_t correction = sum_ints(total) * Operands::kSignedZero;
    memcpy(words + kCorrectionPlace, &correction, sizeof(correction));
  }
}

// The integer that a word is.
MHA_INLINE int32_t int_at(const float* word) {
  int32_t i;
  memcpy(&i, word, sizeof(i));
  return i;
}

// Sums of values' products as floats.
template <class Operands>
MHA_INLINE Vec value_sums(const Vec& sums, const float* words) {
  const float factor = words[kFactorPlace];
  if constexpr (Operands::kCorrects) {
    const int32_t correction = int_at(words + kCorrectionPlace) * (1 << Operands::kProbabilityShift);
    return mul(to_floats(sub_ints(sums, set_ints(correction))), set1(factor));
  } else {
    return mul(to_floats(sums), set1(factor));
  }
}

// Words of a part of a key or query in packed form. Before those of a query are its factor and what its sums have too much;
// before the lines of 16 keys are their scales.
template <class Operands>
inline int64_t int8_words(int64_t head_dim) {
  return round_up(divide_up(head_dim, 4) * (4 / Operands::kInputsOfWord), Operands::kWordsTogether);
}
constexpr int64_t kQueryHead = 2;
template <class Operands>
inline int64_t int8_query_words(int64_t head_dim) {
  return kQueryHead + Operands::kParts * int8_words<Operands>(head_dim);
}

// With 16 registers, tiles of 8 sums are faster than of 12: their short products end in operations on each sum (Zen 3:
// attention_int8 at D 64, T 512 takes 0.75 of the time).
constexpr int kInt8TileRows = kVectorRegisters == 32 ? 8 : 8 / kRegs;

template <class Operands>
struct Int8ScoreTile {
  static constexpr int kChains = 1, kMostRows = kInt8TileRows;
  const float* queries;  // [rows][kQueryHead + kParts * words]
  const float* keys;     // [keys / 16][1 + words][16]
  int64_t words;
  float* scores;  // [rows][kScoreStride]

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    Sums<kRows, kPanels> sums;
    clear<kRows, kPanels>(sums);
    const int64_t a_stride = kQueryHead + Operands::kParts * words, b_stride = (1 + words) * kLanes;
    const float* query = queries + row * a_stride;
    const float* key = keys + column / kLanes * b_stride;
    const float* a = query + kQueryHead;
#pragma GCC unroll 2
    for (int part = 0; part < Operands::kParts; ++part) {
      if (part > 0) shift_sums<kRows, kPanels, Operands::kQueryShift>(sums);
      const float* b = key;
      for (int64_t w = 0; w < words; ++w) {
        multiply_add_step<kRows, kPanels, typename Operands::Steps>(sums, a++, a_stride, b += kLanes, b_stride);
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const Vec scale = load(key + p * b_stride);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const float* head = query + r * a_stride;
        Vec sum = sums[r][p];
        if constexpr (Operands::kSignedZero != 0) sum = sub_ints(sum, set_ints(int_at(head + 1)));
        store(scores + (row + r) * kScoreStride + column + p * kLanes, mul(mul(to_floats(sum), set1(*head)), scale));
      }
    }
  }
};

template <class Operands>
struct Int8ValueTile : ValueProduct {
  static constexpr int kChains = 1, kMostRows = kInt8TileRows;

  template <int kPart>
  struct Steps {
    static MHA_INLINE Vec step(const Vec& x, const Vec& line, const Vec& sum) {
      return Operands::template value_step<kPart>(x, line, sum);
    }
  };

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    const int64_t lines = divide_up(keys_of<kRows>(row), Operands::kInputsOfWord);
    const float* words = probabilities + row * probability_stride;
    const float* panel = values + column / kLanes * panel_stride;
    float* c = sums + row * pitch + column;
    Sums<kRows, kPanels> s;
    clear<kRows, kPanels>(s);
    for_each_number<Operands::kParts>([&](auto number) MHA_ALWAYS_INLINE {
      constexpr int kPart = decltype(number)::value;
      if constexpr (kPart > 0) shift_sums<kRows, kPanels, Operands::kProbabilityShift>(s);
      const float* a = words + kPart * words_of_chunk<Operands>();
      const auto step = [&](int64_t w) MHA_ALWAYS_INLINE {
        multiply_add_step<kRows, kPanels, Steps<kPart>>(s, a + w, probability_stride, panel + w * kLanes, panel_stride);
      };
      int64_t w = steps_with_prefetch<kRows>(lines, [&](int64_t four) MHA_ALWAYS_INLINE {
#pragma GCC unroll 4
        for (int64_t i = four; i < four + 4; ++i) step(i);
      });
      for (; w < lines; ++w) step(w);
    });
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) {
        store(c + r * pitch + p * kLanes, value_sums<Operands>(s[r][p], words + r * probability_stride));
      }
    }
  }
};

// KeyOperands, ValueOperands: IntPairs or its like.
template <class KeyOperands, class ValueOperands>
struct Int8Products {
  static constexpr int kChains = 1;
  static constexpr int64_t kGroupRows = kAttentionRows, kKeyStep = 1;
  static constexpr bool kSkipsHidden = true, kKeepsQueries = true;
  static constexpr const char* kName = KeyOperands::kAttentionName;
  using Session = F32Products::Session;
  using FloatSoftmax = Int8Softmax;

  // Floats of a query, which are more than those of a key.
  static int64_t row_floats(int64_t head_dim) { return int8_query_words<KeyOperands>(head_dim); }

  static Int8Softmax softmax(const PackedScratch&) { return {}; }
  static int64_t scratch_of(int64_t group_rows, int64_t rows, int64_t head_dim, int64_t value_head_dim,
                            Element output) {
    return group_rows * kPairStride +
           attention_scratch(group_rows, rows, row_floats(head_dim), value_head_dim, output) +
           round_up(rows, group_rows) * row_floats(head_dim);
  }
  static PackedScratch split_of(int64_t group_rows, float* p, int64_t head_dim, int64_t value_head_dim,
                                bool keeps_outputs) {
    PackedScratch s =
        split_scratch(p + group_rows * kPairStride, group_rows, row_floats(head_dim), value_head_dim, keeps_outputs);
    s.pairs = p;
    return s;
  }
  static int64_t scratch(int64_t rows, int64_t head_dim, int64_t value_head_dim, Element output) {
    return scratch_of(kGroupRows, rows, head_dim, value_head_dim, output);
  }
  static PackedScratch split(float* p, int64_t head_dim, int64_t value_head_dim, bool keeps_outputs) {
    return split_of(kGroupRows, p, head_dim, value_head_dim, keeps_outputs);
  }

  static MHA_NOINLINE void pack_keys(const TokenRows& t, int64_t begin, int64_t count, int64_t width, float* block,
                                     float* dst) {
    constexpr int kLines = 4 / KeyOperands::kInputsOfWord;
    const int64_t words = divide_up(width, 4), pitch = round_up(width, 4 * kWords);
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
          for (int i = 0; i < kWords; ++i) {
            columns[i].r[g] =
                KeyOperands::kSignedZero != 0 ? flip_codes(natural[i], flip_of(Element::kU8)) : natural[i];
          }
        }
        for (int64_t i = 0; i < least(words - w, kWords); ++i) {
          for_each_number<kLines>([&](auto number) MHA_ALWAYS_INLINE {
            store(dst, KeyOperands::template line<4, decltype(number)::value>(columns[i]));
            dst += kLanes;
          });
        }
      }
      for (int64_t line = words * kLines; line < int8_words<KeyOperands>(width); ++line, dst += kLanes) {
        store(dst, zero());
      }
    }
  }

  static int64_t value_lines(int64_t keys) {
    return round_up(divide_up(keys, ValueOperands::kInputsOfWord), ValueOperands::kWordsTogether);
  }

  // Lines of kInputsOfWord keys, then the scales. Returns whether these are finite. Lines beyond the last key are not written:
  // their probabilities are 0.
  static MHA_NOINLINE bool pack_values(const TokenRows& t, int64_t begin, int64_t keys, int64_t width, float*,
                                       float* dst) {
    constexpr int64_t kTogether = ValueOperands::kInputsOfWord;
    const char* rows[kChunk];
    for_each_run(t, 0, begin, keys, [&](const TokenRun& run, int64_t before) {
      for (int64_t j = 0; j < run.count; ++j) rows[before + j] = run.row + j * run.stride;
    });
    alignas(16) static constexpr char kNone[kLanes] = {};
    const int64_t panel = value_lines(keys) * kLanes;
    for (int64_t c = 0; c < width; c += kLanes, dst += panel) {
      const int count = static_cast<int>(least(width - c, kLanes));
      float* line = dst;
      for (int64_t j = 0; j < keys; j += kTogether, line += kLanes) {
        Bytes16 together[kTogether];
#pragma GCC unroll 4
        for (int64_t i = 0; i < kTogether; ++i) {
          together[i] = j + i < keys ? I8::bytes(rows[j + i], c, count) : load_bytes(kNone);
        }
        store(line, ValueOperands::value_line(together));
      }
    }
    token_scales(t, 0, begin, keys, dst);
    return scales_are_finite(dst, keys);
  }

  static void ready_queries(const AttentionRow* rows, int64_t num_rows, Element element, int64_t head_dim, float scale,
                            float* dst) {
    alignas(64) int32_t v[kMostInt8Width];
    constexpr int64_t kQueriesAhead = 4;
    for (int64_t r = 0; r < num_rows; ++r, dst += row_floats(head_dim)) {
      const char* next = rows[least(r + kQueriesAhead, num_rows - 1)].query;
      for (int64_t line = 0; line < head_dim * bytes_of(element); line += kLine) prefetch(next + line);
      *dst = round_query(rows[r], element, head_dim, scale, v);
      const int32_t excess = excess_of<KeyOperands>(v, round_up(head_dim, kLanes));
      memcpy(dst + 1, &excess, sizeof(excess));
      float* words = dst + kQueryHead;
      for (int p = 0; p < KeyOperands::kParts; ++p) {
        float* const end = words + int8_words<KeyOperands>(head_dim);
        for (int64_t d = 0; d < head_dim; d += kLanes) {
          const Vec part = KeyOperands::query_part(load(reinterpret_cast<const float*>(v + d)), p);
          words = put_words<KeyOperands, 4>(part, least(head_dim - d, kLanes), words);
        }
        while (words < end) *words++ = 0;
      }
    }
  }
  static void multiply_keys(const float* queries, const float* keys, int64_t head_dim, float, int64_t rows,
                            int64_t columns, float* scores) {
    cover(Int8ScoreTile<KeyOperands>{queries, keys, int8_words<KeyOperands>(head_dim), scores}, rows, columns);
  }
  static MHA_NOINLINE void round_rows(const PackedScratch& scratch, const ValueProduct& product, int64_t rows,
                                      int64_t columns) {
    const float* scales = product.values + divide_up(columns, kLanes) * product.panel_stride;
    for (int64_t r = 0; r < rows; ++r) {
      round_probabilities<ValueOperands>(scratch.scores + r * kScoreStride, scales, 0, product.keys, product.rows[r],
                                         product.begin, product.skips, scratch.pairs + r * kPairStride);
    }
  }
  static void multiply_values(const PackedScratch& scratch, ValueProduct* product, int64_t rows, int64_t columns) {
    round_rows(scratch, *product, rows, columns);
    product->probabilities = scratch.pairs, product->probability_stride = kPairStride;
    cover(Int8ValueTile<ValueOperands>{*product}, rows, columns);
  }
};

}  // namespace
}  // namespace mha::MHA_TARGET_NS
