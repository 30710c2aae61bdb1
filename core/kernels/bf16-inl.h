// SPDX-License-Identifier: Apache-2.0
// BF16 arithmetic by fused multiply-adds: operands of bf16's precision, kept as floats, and sums in the order of AMX's
// TDPBF16PS, so that every target has the bits of AMX (core/README.md, "BF16"). The policies of the packed driver.
// Included by algorithms-inl.h, once per target.
//
// A block is 32 steps of a sum: one chain from 0 over half of them, one over the other half, and both are added to the
// running sum. Over d the chains take even and odd d. Over keys they take the first 16 keys and the other 16, so that
// rows of probabilities and values stay in the order in which they are stored.
namespace mha::MHA_TARGET_NS {
namespace {

constexpr int64_t kBlock = 32;

// Element (r, p) of a tile: c = c + (one + other), from 0 where it is the block's first.
template <int kRows, int kPanels>
MHA_INLINE void add_chains(const Sums<kRows, kPanels>& one, const Sums<kRows, kPanels>& other, bool first, float* c,
                           int64_t stride) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      float* at = c + r * stride + p * kLanes;
      store(at, add(first ? zero() : load(at), add(one[r][p], other[r][p])));
    }
  }
}

// One block: the words a[r * a_stride + k] and b[p * panel_stride + k * 16 + lane] over k = kStep * i, `ones` of them, in
// one chain, and k = kStep * i + kOther, `others` of them, at most as many, in the other.
template <class Steps, int kRows, int kPanels, int kStep, int kOther>
MHA_INLINE void multiply_block(const float* a, int64_t a_stride, const float* b, int64_t panel_stride, int64_t ones,
                               int64_t others, bool first, float* c, int64_t c_stride) {
  Sums<kRows, kPanels> one, other;
  clear<kRows, kPanels>(one), clear<kRows, kPanels>(other);
  int64_t i = 0;
  for (; i < others; ++i, a += kStep, b += kStep * kLanes) {
    multiply_add_step<kRows, kPanels, Steps>(one, a, a_stride, b, panel_stride);
    multiply_add_step<kRows, kPanels, Steps>(other, a + kOther, a_stride, b + kOther * kLanes, panel_stride);
  }
  for (; i < ones; ++i, a += kStep, b += kStep * kLanes) {
    multiply_add_step<kRows, kPanels, Steps>(one, a, a_stride, b, panel_stride);
  }
  add_chains<kRows, kPanels>(one, other, first, c, c_stride);
}

// Words of the two chains take turns: even and odd d.
template <class Steps>
struct Bf16ScoreTile {
  static constexpr int kChains = 2;
  const float* queries;  // [rows][words]
  const float* keys;     // panels [keys / 16][words][16]
  int64_t words;         // of each key
  float scale;
  float* scores;  // [rows][kScoreStride]

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    constexpr int64_t kWordsOfBlock = kBlock / Steps::kPerWord;
    const float* a = queries + row * words;
    const float* b = keys + column * words;
    float* c = scores + row * kScoreStride + column;
    for (int64_t w = 0; w < words; w += kWordsOfBlock) {
      const int64_t count = least(words - w, kWordsOfBlock);
      multiply_block<Steps, kRows, kPanels, 2, 1>(a + w, words, b + w * kLanes, words * kLanes, (count + 1) / 2,
                                                  count / 2, w == 0, c, kScoreStride);
    }
    const Vec factor = set1(scale);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) {
        float* at = c + r * kScoreStride + p * kLanes;
        store(at, mul(load(at), factor));
      }
    }
  }
};

// The words of 16 keys are those of one chain, the next those of the other.
template <class Steps>
struct Bf16ValueTile : ValueProduct {
  static constexpr int kChains = 2;

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    constexpr int kWordsOfBlock = kBlock / Steps::kPerWord, kWordsOfChain = kWordsOfBlock / 2;
    const int64_t seen = divide_up(keys_of<kRows>(row), Steps::kPerWord);
    const float* a = probabilities + row * probability_stride;
    const float* b = values + column / kLanes * panel_stride;
    float* c = sums + row * pitch + column;
    int64_t w = 0;
    do {  // at least once: a sum over no keys is 0
      const int64_t count = least(seen - w, kWordsOfBlock), ones = least(count, kWordsOfChain);
      multiply_block<Steps, kRows, kPanels, 1, kWordsOfChain>(a + w, probability_stride, b + w * kLanes, panel_stride,
                                                              ones, count - ones, w == 0, c, pitch);
      w += kWordsOfBlock;
    } while (w < seen);
  }
};

// The sum over keys, if some are left out.
struct PairedChains {
  Vec sum = zero(), even = zero(), odd = zero();
  int64_t block = 0;
  MHA_INLINE void add(int64_t j, const Vec& p, const Vec& value) {
    if (j / kBlock != block) {
      sum = end(), even = odd = zero();
      block = j / kBlock;
    }
    Vec& chain = j % kBlock < kLanes ? even : odd;
    chain = fma(p, value, chain);
  }
  MHA_INLINE Vec end() const { return MHA_TARGET_NS::add(sum, MHA_TARGET_NS::add(even, odd)); }
};

// The softmax's base is n / 8 with n = ceil(8 * maximum) (a score x stands for 2^(8 x)), so that factors between chunks
// are powers of two and never round. A weight is a table's: u = round(256 * (8 x - n + 127)) to the nearest integer, ties
// to even; the upper bits of u are the exponent of a bf16 and the lower eight an index to its seven bits, round(128 *
// (2^(index / 256) - 1)). u < 256: the weight is 0. Those table entries are 2^((u - 32512) / 256) rounded to eight bits,
// which is how they are computed here; none of the 256 is near a tie.
struct Bf16Softmax {
  using Rounding = Fused;
  static constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: the unit in the last place of a sum with it is 1
  static constexpr float kSteps = 256.0f;       // of u from a power of two to the next
  static constexpr float kOne = 127 * kSteps;   // u of a weight of 1
  static constexpr float kUnit = kSteps * kScoreUnit;

  static MHA_INLINE float base(float max) {
    const float x = max * kScoreUnit;
    if (!(x > -0x1p23f && x < 0x1p23f)) return max;  // an integer, or -inf
    const float whole = static_cast<float>(static_cast<int32_t>(x));
    return (whole < x ? whole + 1.0f : whole) / kScoreUnit;
  }

  // Replaces a row's scores by weights and returns their sum: of each 32 keys the second 16 are added first, then the
  // first 16.
  template <bool kCopies>
  MHA_INLINE Vec exp2_row(int64_t, float* scores, int64_t panels, float base, float* copy) const {
    return weigh<kCopies>(scores, panels, base, copy, [](int64_t, const Vec&, const Vec&) MHA_ALWAYS_INLINE {});
  }
  MHA_INLINE void keep_row(int64_t, const float*, int64_t) const {}

  // The same; keep(panel, first, second) takes the weights of each 32 keys.
  template <bool kCopies, class Keep>
  static MHA_INLINE Vec weigh(float* scores, int64_t panels, float base, float* copy, Keep keep) {
    base = exponent_base(base);
    // Beyond 2^18 the difference of score and base is exact wherever the weight is not 0; below, the multiply-add has it.
    if (__builtin_expect(!(base > -0x1p18f && base < 0x1p18f), 0)) {
      return far_row<kCopies>(scores, panels, base, copy, keep);
    }
    const Vec shift = set1((kOne - kUnit * base) + kMagic);
    return row_of<kCopies>(
        scores, panels, copy, [&](const Vec& x) MHA_ALWAYS_INLINE { return fma(x, set1(kUnit), shift); }, keep);
  }

 private:
  template <bool kCopies, class Keep>
  static MHA_COLD Vec far_row(float* scores, int64_t panels, float base, float* copy, Keep keep) {
    const auto rounded = [&](const Vec& x)
                             MHA_ALWAYS_INLINE { return fma(sub(x, set1(base)), set1(kUnit), set1(kOne + kMagic)); };
    return row_of<kCopies>(scores, panels, copy, rounded, keep);
  }

  // rounded(x) = u + kMagic.
  template <bool kCopies, class Rounded, class Keep>
  static MHA_INLINE Vec row_of(float* scores, int64_t panels, float* copy, Rounded rounded, Keep keep) {
    const auto weight = [&](int64_t panel) MHA_ALWAYS_INLINE {
      const Vec u = max_or_second(set1(kMagic), rounded(load(scores + panel * kLanes)));  // NaN stays
      const Vec e = exp2(fma(u, set1(1 / kSteps), set1(-(kMagic + kOne) / kSteps)));
      const Vec wide = mul(e, set1(65537.0f));  // Dekker's split: the upper 8 bits of e, rounded to nearest
      const Vec w = sub(wide, sub(wide, e));
      store(scores + panel * kLanes, w);
      if (kCopies) store(copy + panel * kLanes, w);
      return w;
    };
    Vec total = zero();
    int64_t p = 0;
    for (; p + 2 <= panels; p += 2) {
      const Vec first = weight(p), second = weight(p + 1);
      total = add(add(total, second), first);
      keep(p, first, second);
    }
    if (p < panels) {
      const Vec first = weight(p);
      total = add(total, first);
      keep(p, first, zero());
    }
    return total;
  }
};

// The softmax, which also leaves the weights as words of pairs [rows][kPairStride], 16 words for each 32 keys.
// Words::of(first 16, second 16) puts them together.
constexpr int64_t kPairStride = kChunk / 2 + kLanes;  // a chunk's words and a line more, as kScoreStride

template <class Words>
struct PairingSoftmax : Bf16Softmax {
  float* pairs;

  explicit PairingSoftmax(float* rows) : pairs(rows) {}
  MHA_INLINE float* at(int64_t r, int64_t panel) const { return pairs + r * kPairStride + panel * (kLanes / 2); }

  template <bool kCopies>
  MHA_INLINE Vec exp2_row(int64_t r, float* scores, int64_t panels, float base, float* copy) const {
    return weigh<kCopies>(scores, panels, base, copy,
                          [&](int64_t panel, const Vec& first, const Vec& second)
                              MHA_ALWAYS_INLINE { store(at(r, panel), Words::of(first, second)); });
  }
  MHA_INLINE void keep_row(int64_t r, const float* weights, int64_t panels) const {
    for (int64_t p = 0; p < panels; p += 2) {
      const Vec second = p + 1 < panels ? load(weights + (p + 1) * kLanes) : zero();
      store(at(r, p), Words::of(load(weights + p * kLanes), second));
    }
  }
};

struct Bf16Products {
  static constexpr int kChains = 2;
  static constexpr bool kSkipsHidden = false, kKeepsQueries = false;
  static constexpr int64_t kGroupRows = kAttentionRows, kKeyStep = 1;
  using Session = F32Products::Session;
  static constexpr const char* kName =
      "BF16: operands rounded to bf16, sums in the order of AMX, by fused multiply-adds, which takes longer than F32: "
      "where the bits of other machines do not count, F32 serves better here";
  using Softmax = Bf16Softmax;
  using FloatSoftmax = Bf16Softmax;
  using Chain = PairedChains;
  template <class E>
  using Operand = AtBf16<E>;

  static Softmax softmax(const PackedScratch&) { return {}; }
  static int64_t scratch(int64_t rows, int64_t head_dim, int64_t value_head_dim, Element output) {
    return attention_scratch(kGroupRows, rows, head_dim, value_head_dim, output);
  }
  static PackedScratch split(float* p, int64_t head_dim, int64_t value_head_dim, bool keeps_outputs) {
    return split_scratch(p, kGroupRows, head_dim, value_head_dim, keeps_outputs);
  }
  static void pack_keys(const TokenRows& t, int64_t begin, int64_t count, int64_t width, float* block, float* dst) {
    pack_float_keys<true>(t, begin, count, width, block, dst);
  }
  static bool pack_values(const TokenRows& t, int64_t begin, int64_t keys, int64_t width, float* block, float* dst) {
    return pack_float_values<Bf16Products>(t, begin, keys, width, block, dst);
  }
  static int64_t value_lines(int64_t keys) { return keys; }
  static Vec value_of(const float* panel, int64_t j) { return load(panel + j * kLanes); }
  static void ready_queries(const AttentionRow* rows, int64_t num_rows, Element element, int64_t head_dim, float,
                            float* dst) {
    with_element(element, [&](auto e) MHA_ALWAYS_INLINE {
      using E = AtBf16<decltype(e)>;
      const int rest = static_cast<int>(head_dim % kLanes);
      for (int64_t r = 0; r < num_rows; ++r, dst += head_dim) {
        int64_t d = 0;
        for (; d + kLanes <= head_dim; d += kLanes) store(dst + d, E::load(rows[r].query + d * E::kBytes));
        if (rest > 0) store_first(dst + d, E::load_first(rows[r].query + d * E::kBytes, rest), rest);
      }
    });
  }
  static void multiply_keys(const float* queries, const float* keys, int64_t head_dim, float scale, int64_t rows,
                            int64_t columns, float* scores) {
    cover(Bf16ScoreTile<FmaSteps>{queries, keys, head_dim, scale, scores}, rows, columns);
  }
  static void multiply_values(const PackedScratch& scratch, ValueProduct* product, int64_t rows, int64_t columns) {
    product->probabilities = scratch.scores, product->probability_stride = kScoreStride;
    cover(Bf16ValueTile<FmaSteps>{*product}, rows, columns);
  }
};

}  // namespace
}  // namespace mha::MHA_TARGET_NS
