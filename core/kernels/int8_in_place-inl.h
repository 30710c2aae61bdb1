// SPDX-License-Identifier: Apache-2.0
// INT8 attention of few query rows (decoding): codes are read once, in place. A policy of the driver in step-inl.h, which
// walks like in_place-inl.h. Where integers are one part, a key's codes are multiplied with the query's in their natural order,
// since sums of integers need no order, and values meet the probabilities of two keys at once; where they are two parts,
// int8_dot_blocks-inl.h. Included by algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

struct Int8InPlaceScratch {
  float* lines;    // of Int8KeyLines
  float* scores;   // [rows][kScoreStride]
  float* queries;  // [rows][kParts][D rounded up to 64], two bytes of an element in all
  float* factors;  // of queries, [rows], and
  float* excess;   // what their sums have too much, [rows] integers
  float* pairs;    // [rows][kPairStride]: probabilities as words, and their factor
  float* sums;     // [rows][Dv rounded up to 16]: integers, floats in the end
  float* running;  // the same: output between chunks
};

constexpr int64_t kQueryStep = 64;
inline int64_t int8_query_floats(int64_t head_dim) { return round_up(head_dim, kQueryStep) / 2; }

template <class KeyOperands>
inline int64_t int8_line_floats(int64_t head_dim) {
  return KeyOperands::kParts == 1 ? 0 : Int8KeyLines<KeyOperands>::words_of(head_dim) * kLanes;
}

template <class KeyOperands>
inline int64_t int8_in_place_scratch(int64_t rows, int64_t head_dim, int64_t value_head_dim) {
  return rows * (kScoreStride + int8_query_floats(head_dim) + 2 + kPairStride + 2 * padded(value_head_dim)) + kLanes +
         int8_line_floats<KeyOperands>(head_dim);
}

template <class KeyOperands>
inline Int8InPlaceScratch split_int8_in_place(float* p, int64_t rows, int64_t head_dim, int64_t value_head_dim) {
  Int8InPlaceScratch s;
  s.lines = p;
  s.scores = s.lines + int8_line_floats<KeyOperands>(head_dim);
  s.queries = s.scores + rows * kScoreStride;
  s.pairs = s.queries + rows * int8_query_floats(head_dim);
  s.sums = s.pairs + rows * kPairStride;
  s.running = s.sums + rows * padded(value_head_dim);
  s.factors = s.running + rows * padded(value_head_dim);
  s.excess = s.factors + rows;
  return s;
}

// 16 keys of a head and its query rows.
template <class Operands>
struct Int8KeyBlock {
  static constexpr int64_t kStep = Operands::kStep, kStepFloats = kStep * Operands::kQueryBytes / kFloatBytes;
  static constexpr int kMostRows = kRegLanes < 4 ? kRegLanes : 4;
  const char* const* keys;  // [16]
  const char* last;         // [16][kStep]: what a row has beyond its last whole step, zeros behind it; null: nothing
  int64_t steps;            // whole ones
  const float* queries;     // [rows][query_stride]
  int64_t query_stride;
  int32_t* sums;  // [rows][16]

  // Rows [row, row + kRows) and keys [key, key + kKeys).
  template <int kRows, int kKeys>
  MHA_INLINE void tile(int64_t row, int64_t key) const {
    static_assert(kRows * kKeys == kRegLanes, "a lane for each sum");
    Reg all[kRegLanes];
#pragma GCC unroll 16
    for (int i = 0; i < kRegLanes; ++i) all[i] = Reg(0.0f);
    const float* x = queries + row * query_stride;
    const auto add_all = [&](const Reg& codes, int k) MHA_ALWAYS_INLINE {
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        Reg& sum = all[r * kKeys + k];
        sum = Operands::key_step(codes, x + r * query_stride, sum);
      }
    };
    for (int64_t s = 0; s < steps; ++s, x += kStepFloats) {
#pragma GCC unroll 16
      for (int k = 0; k < kKeys; ++k) add_all(Operands::key_codes(keys[key + k] + s * kStep), k);
    }
    if (last != nullptr) {
#pragma GCC unroll 16
      for (int k = 0; k < kKeys; ++k) add_all(Operands::key_codes(last + (key + k) * kStep), k);
    }
    alignas(64) float lanes[kRegLanes];
    sums_of(all).store_unaligned(lanes);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
      for (int k = 0; k < kKeys; ++k) sums[(row + r) * kLanes + key + k] = int_at(lanes + r * kKeys + k);
    }
  }
  template <int kRows>
  MHA_NOINLINE void tiles(int64_t row, CodesAhead ahead) const {
    constexpr int kKeys = kRegLanes / kRows;
    for (int64_t key = 0; key < kLanes; key += kKeys) {
      for (int64_t line = 0; line < kKeys * steps * kStep && ahead.step != 0; line += kLine) ahead.line();
      tile<kRows, kKeys>(row, key);
    }
  }
  MHA_INLINE void run(int64_t rows, CodesAhead ahead) const {
    int64_t row = 0;
    for (; row + kMostRows <= rows; row += kMostRows, ahead.step = 0) tiles<kMostRows>(row, ahead);
    if constexpr (kMostRows > 2) {
      if (row + 2 <= rows) tiles<2>(row, ahead), row += 2, ahead.step = 0;
    }
    if (row < rows) tiles<1>(row, ahead);
  }
};

// Values of 16 keys of a head.
template <class Operands>
struct Int8ValueBlock {
  static constexpr int kTogether = Operands::kInputsOfWord;
  const char* const* rows;  // [16]
  const float* words;       // [rows][kPairStride], those of these keys
  float* sums;              // [rows][pitch], integers
  int64_t pitch;
  CodesAhead ahead;

  MHA_INLINE Vec line(int64_t word, int64_t column) const {
    Bytes16 together[kTogether];
#pragma GCC unroll 4
    for (int i = 0; i < kTogether; ++i) together[i] = load_bytes(rows[word * kTogether + i] + column);
    return Operands::value_line(together);
  }
  MHA_INLINE void prefetch_rows(int64_t word, int64_t column) const {
#pragma GCC unroll 4
    for (int i = 0; i < kTogether; ++i) {
      const char* row = rows[word * kTogether + i] + column;
      prefetch(row + kNearCodes), prefetch_to_l2(row + kFarCodes);
    }
  }

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    Sums<kRows, kPanels> s;
    float* at = sums + row * pitch + column;
    const float* a = words + row * kPairStride;
    const bool prefetches = ahead.step != 0 && row == 0;
    load_sums<kRows, kPanels>(s, at, pitch);
    for (int64_t w = 0; w < kLanes / kTogether; ++w) {
      if (prefetches) prefetch_rows(w, column);
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) {
        const Vec values = line(w, column + p * kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          s[r][p] = Operands::template value_step<0>(set1(a[r * kPairStride + w]), values, s[r][p]);
        }
      }
    }
    store_sums<kRows, kPanels>(s, at, pitch);
  }
  MHA_INLINE void run(int64_t num_rows, int64_t columns) const { add_values_of(*this, num_rows, columns); }
  static void put_in_order(float*, int64_t) {}
};

// All rows of the call are one group. The policy goes through a chunk's keys for all heads.
template <class KeyOperands, class ValueOperands>
struct Int8InPlaceBlocks {
  static constexpr int64_t kGroupRows = kMaxGroupRows;
  using Softmax = Int8Softmax;
  using ValueBlock =
      std::conditional_t<ValueOperands::kParts == 2, Int8ValueQuads<ValueOperands>, Int8ValueBlock<ValueOperands>>;
  const AttentionArgs& a;
  Int8InPlaceScratch scratch;
  bool one_chunk;
  int64_t rows_per_head;
  int64_t chunk_begin, keys;
  int64_t first_block;  // no row sees the blocks of 16 keys before this one

  explicit Int8InPlaceBlocks(const AttentionArgs& args) : a(args) {}
  Softmax softmax() const { return {}; }
  float* scores() const { return scratch.scores; }
  float* sums() const { return scratch.sums; }
  int64_t pitch() const { return padded(a.value_head_dim); }
  float* running(int64_t) const { return one_chunk ? nullptr : scratch.running; }

  void begin(const SeenChunks& seen) {
    one_chunk = seen.first >= seen.last;
    alignas(64) int32_t v[kMostInt8Width + kQueryStep] = {};
    const int64_t floats = int8_query_floats(a.head_dim), elements = 2 * floats;
    for (int64_t r = 0; r < a.num_rows; ++r) {
      scratch.factors[r] = round_query(a.rows[r], a.query_element, a.head_dim, a.query_scale, v);
      char* bytes = reinterpret_cast<char*>(scratch.queries + r * floats);
      const int32_t excess = excess_of<KeyOperands>(v, round_up(a.head_dim, kLanes));
      memcpy(scratch.excess + r, &excess, sizeof(excess));
      for (int part = 0; part < KeyOperands::kParts; ++part) {
        for (int64_t d = 0; d < elements; d += kLanes, bytes += kLanes * KeyOperands::kQueryBytes) {
          KeyOperands::store_query(bytes, load(reinterpret_cast<const float*>(v + d)), part);
        }
      }
    }
  }
  void begin_chunk(const Chunk& chunk) {
    chunk_begin = chunk.begin, keys = chunk.keys;
    first_block = first_block_of(a, chunk.begin, chunk.keys);
  }

  int64_t blocks() const { return divide_up(keys, kLanes); }
  int64_t keys_of(int64_t block) const { return least(keys - block * kLanes, kLanes); }

  // Where the rows of a block's tokens are; beyond the last key its own, whose scores are hidden and probabilities 0.
  MHA_INLINE void find_rows(const TokenRows& t, int64_t head, int64_t block, int64_t width, BlockRows* rows) const {
    const int64_t count = keys_of(block);
    rows->stride = 0, rows->follow = true;
    bool by_halves = count == kLanes;
    for_each_run(t, head, chunk_begin + block * kLanes, count, [&](const TokenRun& run, int64_t done) {
      for (int64_t j = 0; j < run.count; ++j) rows->row[done + j] = run.row + j * run.stride;
      rows->follow = rows->follow && run.stride == width;
      if (done == 0) rows->stride = run.stride;
      by_halves = by_halves && done % (kLanes / 2) == 0 && run.stride == rows->stride;
    });
    if (!by_halves) rows->stride = 0;
    for (int64_t j = count; j < kLanes; ++j) rows->row[j] = rows->row[count - 1];
  }

  void multiply_keys(const Group&) const {
    for (int64_t b = first_block; b < blocks(); ++b) {
      for (int64_t h = 0; h < a.kv_heads; ++h) score(h, b);
    }
  }

  MHA_NOINLINE void score(int64_t head, int64_t block) const {
    BlockRows rows;
    alignas(64) int32_t sums[kMaxGroupRows * kLanes];
    alignas(64) float scales[2 * kLanes];
    const int64_t row = head * rows_per_head;
    find_rows(a.key, head, block, a.head_dim, &rows);
    multiply_block(rows, row, sums);
    token_scales(a.key, head, chunk_begin + block * kLanes, keys_of(block), scales);
    const Vec scale = load(scales);
    for (int64_t r = 0; r < rows_per_head; ++r) {
      Vec sum = load(reinterpret_cast<const float*>(sums + r * kLanes));
      if constexpr (KeyOperands::kSignedZero != 0) sum = sub_ints(sum, set_ints(int_at(scratch.excess + row + r)));
      store(scratch.scores + (row + r) * kScoreStride + block * kLanes,
            mul(mul(to_floats(sum), set1(scratch.factors[row + r])), scale));
    }
  }

  // sums: [rows_per_head][16].
  MHA_INLINE void multiply_block(const BlockRows& rows, int64_t row, int32_t* sums) const {
    const int64_t query_stride = int8_query_floats(a.head_dim);
    const float* queries = scratch.queries + row * query_stride;
    if constexpr (KeyOperands::kParts == 2) {
      const Int8KeyLines<KeyOperands> k = {scratch.lines, Int8KeyLines<KeyOperands>::words_of(a.head_dim), queries,
                                           query_stride, sums};
      k.run(rows, a.head_dim, rows_per_head);
    } else {
      constexpr int64_t kStep = KeyOperands::kStep;
      Int8KeyBlock<KeyOperands> k;
      alignas(64) char last[kLanes * kStep];
      k.keys = rows.row;
      k.steps = a.head_dim / kStep, k.last = nullptr;
      const int64_t rest = a.head_dim - k.steps * kStep;
      if (rest > 0) {
        memset(last, 0, sizeof(last));
        for (int64_t j = 0; j < kLanes; ++j) {
          memcpy(last + j * kStep, rows.row[j] + k.steps * kStep, static_cast<size_t>(rest));
        }
        k.last = last;
      }
      k.queries = queries, k.query_stride = query_stride, k.sums = sums;
      k.run(rows_per_head, rows.ahead());
    }
  }

  void multiply_values(const Group&, bool hidden) const {
    for (int64_t h = 0; h < a.kv_heads; ++h) round_head(h, hidden);
    memset(scratch.sums, 0, static_cast<size_t>(a.num_rows * pitch()) * sizeof(float));
    for (int64_t b = first_block; b < blocks(); ++b) {
      for (int64_t h = 0; h < a.kv_heads; ++h) add_values(h, b);
    }
    for (int64_t r = 0; r < a.num_rows; ++r) {
      float* sums = scratch.sums + r * pitch();
      ValueBlock::put_in_order(sums, a.value_head_dim / kLanes * kLanes);
      for (int64_t c = 0; c < pitch(); c += kLanes) {
        store(sums + c, value_sums<ValueOperands>(load(sums + c), scratch.pairs + r * kPairStride));
      }
    }
  }

  MHA_NOINLINE void round_head(int64_t head, bool hidden) const {
    alignas(64) float scales[kChunkScales];
    const int64_t first = first_block * kLanes, count = keys - first;
    token_scales(a.value, head, chunk_begin + first, count, scales);
    const bool skips = hidden && !scales_are_finite(scales, count);
    for (int64_t r = head * rows_per_head; r < (head + 1) * rows_per_head; ++r) {
      round_probabilities<ValueOperands>(scratch.scores + r * kScoreStride + first, scales, first, count, a.rows[r],
                                         chunk_begin + first, skips, scratch.pairs + r * kPairStride);
    }
  }

  MHA_NOINLINE void add_values(int64_t head, int64_t block) const {
    ValueBlock v;
    BlockRows rows;
    find_rows(a.value, head, block, a.value_head_dim, &rows);
    v.rows = rows.row, v.ahead = rows.ahead();
    const int64_t row = head * rows_per_head, whole = a.value_head_dim / kLanes * kLanes;
    v.words = scratch.pairs + row * kPairStride + block * kLanes / ValueOperands::kInputsOfWord;
    v.sums = scratch.sums + row * pitch(), v.pitch = pitch();
    if (whole > 0) v.run(rows_per_head, whole);
    if (whole == a.value_head_dim) return;
    alignas(16) char last[kLanes][kLanes] = {};
    for (int64_t j = 0; j < kLanes; ++j) {
      memcpy(last[j], rows.row[j] + whole, static_cast<size_t>(a.value_head_dim - whole));
      rows.row[j] = last[j];
    }
    v.sums += whole, v.ahead.step = 0;
    v.run(rows_per_head, kLanes);
  }
};

template <class KeyOperands, class ValueOperands>
inline void int8_attention_in_place(const AttentionArgs* args) {
  const AttentionArgs& a = *args;
  Int8InPlaceBlocks<KeyOperands, ValueOperands> blocks(a);
  blocks.scratch = split_int8_in_place<KeyOperands>(a.scratch, a.num_rows, a.head_dim, a.value_head_dim);
  blocks.rows_per_head = a.num_rows / a.kv_heads;
  run_chunks(a, blocks);
}

template <class KeyOperands, class ValueOperands>
constexpr InPlaceKernels make_int8_in_place() {
  return {int8_attention_in_place<KeyOperands, ValueOperands>, int8_in_place_scratch<KeyOperands>, kInPlaceRows,
          kMaxInPlaceRows, KeyOperands::kAttentionName};
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
