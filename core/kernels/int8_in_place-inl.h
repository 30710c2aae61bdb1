// SPDX-License-Identifier: Apache-2.0
// INT8 attention of few query rows (decoding): codes are read once, in place. A policy of the driver in step-inl.h, which
// walks like in_place-inl.h; int8_blocks-inl.h has what it does with 16 tokens. Included by algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

struct Int8InPlaceScratch {
  float* lines;    // of Int8Keys
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
inline int64_t int8_in_place_scratch(int64_t rows, int64_t head_dim, int64_t value_head_dim) {
  return rows * (kScoreStride + int8_query_floats(head_dim) + 2 + kPairStride + 2 * padded(value_head_dim)) + kLanes +
         Int8Keys<KeyOperands>::line_floats(head_dim);
}

template <class KeyOperands>
inline Int8InPlaceScratch split_int8_in_place(float* p, int64_t rows, int64_t head_dim, int64_t value_head_dim) {
  Int8InPlaceScratch s;
  s.lines = p;
  s.scores = s.lines + Int8Keys<KeyOperands>::line_floats(head_dim);
  s.queries = s.scores + rows * kScoreStride;
  s.pairs = s.queries + rows * int8_query_floats(head_dim);
  s.sums = s.pairs + rows * kPairStride;
  s.running = s.sums + rows * padded(value_head_dim);
  s.factors = s.running + rows * padded(value_head_dim);
  s.excess = s.factors + rows;
  return s;
}

// All rows of the call are one group. The policy goes through a chunk's keys for all heads.
template <class KeyOperands, class ValueOperands>
struct Int8InPlaceBlocks {
  static constexpr int64_t kGroupRows = kMaxGroupRows;
  using Softmax = Int8Softmax;
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
    const int64_t query_stride = int8_query_floats(a.head_dim);
    const Int8Keys<KeyOperands> k = {{scratch.queries + row * query_stride, query_stride, sums, scratch.lines}};
    k.run(rows, a.head_dim, rows_per_head);
    token_scales(a.key, head, chunk_begin + block * kLanes, keys_of(block), scales);
    const Vec scale = load(scales);
    for (int64_t r = 0; r < rows_per_head; ++r) {
      Vec sum = load(reinterpret_cast<const float*>(sums + r * kLanes));
      if constexpr (KeyOperands::kSignedZero != 0) sum = sub_ints(sum, set_ints(int_at(scratch.excess + row + r)));
      store(scratch.scores + (row + r) * kScoreStride + block * kLanes,
            mul(mul(to_floats(sum), set1(scratch.factors[row + r])), scale));
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
      Int8Values<ValueOperands>::put_in_order(sums, a.value_head_dim / kLanes * kLanes);
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
    Int8Values<ValueOperands> v;
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
