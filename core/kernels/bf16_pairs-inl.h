// SPDX-License-Identifier: Apache-2.0
// BF16 arithmetic where pairs of bf16 are multiplied at once (simd/pairs-inl.h): two steps of a chain an instruction. A word
// holds two steps that follow each other in a chain, the earlier one in its upper half. The policies of the packed driver.
// Included by algorithms-inl.h, once per such target.
//
//     a key of 8 elements     d0 above d2 | d1 above d3 | d4 above d6 | d5 above d7      words of the two chains take turns
//     32 keys of a column     v0 above v1 | v2 above v3 | ... v14 above v15              eight words of one chain,
//                             v16 above v17 | ... v30 above v31                          eight of the other
//     probabilities           as the keys of a column
namespace mha::MHA_TARGET_NS {
namespace {

struct PairSteps {
  static constexpr int64_t kPerWord = 2;
  static MHA_INLINE Vec step(const Vec& a, const Vec& b, const Vec& sum) { return add_pairs(a, b, sum); }
};

// Probabilities are pairs of neighbours.
struct NeighbourWords {
  static MHA_INLINE Vec of(const Vec& first, const Vec& second) { return pair_neighbours(first, second); }
};
using PairSoftmax = PairingSoftmax<NeighbourWords>;

// Words of a key or query, whose width is rounded up to 4.
constexpr int64_t words_of(int64_t width) { return round_up(width, 4) / 2; }

// Elements of 16 rows of bf16, rows 0 to 7 from `low` on and the others from `high` on, as words [words][16].
inline void pack_rows(const char* low, const char* high, int64_t stride, int64_t words, float* dst) {
  for (int64_t w = 0; w < words; w += kWords) {
    Reg natural[kWords];
    transpose_words(low + w * 4, high + w * 4, stride, natural);
#pragma GCC unroll 4
    for (int i = 0; i < kWords; i += 2) {
      if (w + i >= words) break;
      Vec even, odd;
      split_turns(natural[i], natural[i + 1], &even, &odd);
      store(dst + (w + i) * kLanes, even), store(dst + (w + i + 1) * kLanes, odd);
    }
  }
}

// The words of two tokens' values, panels panel_stride apart; null: zeros. Adds 0 * value of all to *probe, rounded: the
// greatest floats become infinities.
template <class E>
MHA_INLINE void pair_rows(const char* first, const char* second, int64_t width, int64_t panel_stride, float* dst,
                          Vec* probe) {
  for (int64_t c = 0; c < width; c += kLanes, dst += panel_stride) {
    const int count = static_cast<int>(least(width - c, kLanes));
    const auto columns = [&](const char* row) MHA_ALWAYS_INLINE {
      if (row == nullptr) return zero();
      const char* at = row + c * E::kBytes;
      return count == kLanes ? AtBf16<E>::load(at) : AtBf16<E>::load_first(at, count);
    };
    const Vec a = columns(first), b = columns(second);
    *probe = fma(b, zero(), fma(a, zero(), *probe));
    store(dst, pair_vectors(a, b));
  }
}

struct Bf16PairProducts {
  static constexpr int kChains = 2;
  static constexpr bool kSkipsHidden = false, kKeepsQueries = false;
  static constexpr int64_t kGroupRows = kAttentionRows, kKeyStep = 2;
  using Session = F32Products::Session;
  static constexpr const char* kName =
      "BF16: operands rounded to bf16, sums in the order of AMX, by products of pairs (vdpbf16ps)";
  using FloatSoftmax = Bf16Softmax;
  using Chain = PairedChains;

  static PairSoftmax softmax(const PackedScratch& scratch) { return PairSoftmax(scratch.pairs); }
  static int64_t scratch(int64_t rows, int64_t head_dim, int64_t value_head_dim, Element output) {
    return kGroupRows * kPairStride +
           attention_scratch(kGroupRows, rows, round_up(head_dim, 4), value_head_dim, output);
  }
  static PackedScratch split(float* p, int64_t head_dim, int64_t value_head_dim, bool keeps_outputs) {
    PackedScratch s =
        split_scratch(p + kGroupRows * kPairStride, kGroupRows, round_up(head_dim, 4), value_head_dim, keeps_outputs);
    s.pairs = p;
    return s;
  }

  static MHA_NOINLINE void pack_keys(const TokenRows& t, int64_t begin, int64_t count, int64_t width, float* block,
                                     float* dst) {
    const int64_t words = words_of(width), pitch = padded(width);
    for (int64_t done = 0; done < count; done += kLanes, dst += kLanes * words) {
      const int64_t keys = least(count - done, kLanes);
      const TokenRun run = run_at(t, 0, begin + done, keys);
      if (t.element == Element::kBf16 && run.count == kLanes && width % kLanes == 0) {
        pack_rows(run.row, run.row + 8 * run.stride, run.stride, words, dst);
        continue;
      }
      copy_block(t, 0, begin + done, keys, 0, width, block);
      char* rounded = reinterpret_cast<char*>(block);  // in its own place, which is never written before it is read
      for (int64_t n = 0; n < kLanes * pitch; n += kLanes) store_bf16(rounded + n * 2, load(block + n));
      pack_rows(rounded, rounded + 8 * pitch * 2, pitch * 2, words, dst);
    }
  }

  static int64_t value_lines(int64_t keys) { return round_up(keys, kBlock) / 2; }

  static MHA_NOINLINE bool pack_values(const TokenRows& t, int64_t begin, int64_t keys, int64_t width, float* block,
                                       float* dst) {
    const int64_t lines = value_lines(keys);
    Vec probe = zero();
    for (int64_t done = 0; done < lines * 2; done += kLanes, dst += kLanes / 2 * kLanes) {
      const int64_t count = most(0, least(keys - done, kLanes));
      const char* rows[kLanes] = {};
      if (is_code(t.element) && count > 0) {
        copy_block(t, 0, begin + done, count, 0, width, block);
        for (int64_t j = 0; j < count; ++j) rows[j] = reinterpret_cast<const char*>(block + j * padded(width));
      } else {
        for_each_run(t, 0, begin + done, count, [&](const TokenRun& run, int64_t before) {
          for (int64_t j = 0; j < run.count; ++j) rows[before + j] = run.row + j * run.stride;
        });
      }
      with_element(is_code(t.element) ? Element::kF32 : t.element, [&](auto e) MHA_ALWAYS_INLINE {
        for (int64_t j = 0; j < kLanes; j += 2) {
          pair_rows<decltype(e)>(rows[j], rows[j + 1], width, lines * kLanes, dst + j / 2 * kLanes, &probe);
        }
      });
    }
    return sum(probe) == 0.0f;
  }

  static MHA_COLD Vec value_of(const float* panel, int64_t j) {
    const int64_t line = j / kBlock * (kBlock / 2) + j % kBlock / 2;
    Reg halves[2];
    split_bf16(load(panel + line * kLanes).r[0], halves);
    return {halves[j % 2 == 0 ? 1 : 0]};
  }

  static void ready_queries(const AttentionRow* rows, int64_t num_rows, Element element, int64_t head_dim, float,
                            float* dst) {
    with_element(element, [&](auto e) MHA_ALWAYS_INLINE {
      using E = decltype(e);
      for (int64_t r = 0; r < num_rows; ++r, dst += words_of(head_dim)) {
        for (int64_t d = 0; d < head_dim; d += kLanes) {  // the last may write into the next row, which comes after it
          const int count = static_cast<int>(least(head_dim - d, kLanes));
          store_in_turns(dst + d / 2, E::load_first(rows[r].query + d * E::kBytes, count));
        }
      }
    });
  }

  static void multiply_keys(const float* queries, const float* keys, int64_t head_dim, float scale, int64_t rows,
                            int64_t columns, float* scores) {
    cover(Bf16ScoreTile<PairSteps>{queries, keys, words_of(head_dim), scale, scores}, rows, columns);
  }
  static void multiply_values(const PackedScratch& scratch, ValueProduct* product, int64_t rows, int64_t columns) {
    product->probabilities = scratch.pairs, product->probability_stride = kPairStride;
    cover(Bf16ValueTile<PairSteps>{*product}, rows, columns);
  }
};

// The same for packed weights (bf16_gemm-inl.h).
struct PairOperands {
  using Steps = PairSteps;
  static constexpr const char* kName = Bf16PairProducts::kName;
  static int64_t words(int64_t k) { return words_of(k); }
  static void ready_row(Element element, const char* src, int64_t k, float* dst) {
    with_element(element, [&](auto e) MHA_ALWAYS_INLINE {
      using E = decltype(e);
      for (int64_t d = 0; d < k;
           d += kLanes) {  // the last may write beyond the row: into the next, or the scratch's end
        store_in_turns(dst + d / 2, E::load_first(src + d * E::kBytes, static_cast<int>(least(k - d, kLanes))));
      }
    });
  }
  // The columns of four k, or of the last one or two, of 32 words.
  static MHA_INLINE void load(const char* pairs, int64_t left, Vec* first, Vec* second) {
    const float* words = reinterpret_cast<const float*>(pairs);
    const Vec next = left > 2 ? MHA_TARGET_NS::load(words + kLanes) : zero();
    split_turns(MHA_TARGET_NS::load(words).r[0], next.r[0], first, second);
  }
  static void unpack(const char* pairs, int64_t k, float* lines) {
    for (int64_t i = 0; i < k; i += 4, pairs += 4 * kLanes * Bf16::kBytes, lines += 2 * kLanes) {
      prefetch_to_l2(pairs + kFarLineBytes), prefetch_to_l2(pairs + kFarLineBytes + 64);
      Vec even, odd;
      load(pairs, k - i, &even, &odd);
      store(lines, even), store(lines + kLanes, odd);
    }
  }
};

}  // namespace
}  // namespace mha::MHA_TARGET_NS
