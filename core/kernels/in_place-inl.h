// SPDX-License-Identifier: Apache-2.0
// Attention of few query rows (decoding): keys and values are read once, in place, and nothing is packed. A policy of
// the driver in step-inl.h. Included by all-inl.h, once per target.
//
// For a row or two the time is that of reading K and V (H 32/32, D 128, 1024 keys: 0.94 of a plain read; packed 0.37),
// so what counts is the order of the reads. A step is 16 keys of one head. Where tokens hold all heads side by side
// ([T, H, D]) the steps go through the heads of 16 tokens first, so that memory is read in long runs which the hardware
// prefetches; head by head, runs of D floats are pages apart. Where a head's tokens follow each other ([H, T, D]) the
// planner gives one head at a time.
//   scores  16 keys are transposed in registers, 4 columns at a time, and meet all rows of the head; each row and
//           lane is one chain over d
//   values  the 16 keys extend the chains of the chunk's sums, kept [rows][Dv] in L1
namespace mha::MHA_TARGET_NS {
namespace {

// Rows that one pass over 16 keys serves: what registers remain beside four transposed columns and a broadcast.
constexpr int kFreeRegs = kVectorRegisters - 4 * kRegs - 2;
constexpr int kInPlaceTileRows = kFreeRegs < kRegs ? 1 : (kFreeRegs / kRegs < 8 ? kFreeRegs / kRegs : 8);
// Rows of a head up to which this way is faster than packing.
constexpr int kInPlaceRows = 16;
// Rows of all heads of a call.
constexpr int kMaxInPlaceRows = kMaxGroupRows;

struct InPlaceScratch {
  float* scores;   // [rows][kScoreStride]
  float* queries;  // [rows][D], scaled
  float* sums;     // [rows][Dv rounded up to 16]
  float* running;  // the same: outputs between chunks
  float* block;    // [16][D or Dv rounded up to 16]: copies where a read would pass the end, or widened; the few keys'
                   // kernel takes [17][D] more beside it
};

inline int64_t in_place_scratch(int64_t rows, int64_t head_dim, int64_t value_head_dim) {
  return rows * (kScoreStride + padded(head_dim) + 2 * padded(value_head_dim)) +
         (2 * kLanes + 1) * padded(most(head_dim, value_head_dim));
}

inline InPlaceScratch split_in_place_scratch(float* p, int64_t rows, int64_t head_dim, int64_t value_head_dim) {
  InPlaceScratch s;
  s.scores = p;
  s.queries = s.scores + rows * kScoreStride;
  s.sums = s.queries + rows * padded(head_dim);
  s.running = s.sums + rows * padded(value_head_dim);
  s.block = s.running + rows * padded(value_head_dim);
  return s;
}

// Rows to be asked for: those of the next 16 tokens, and of 16 tokens some way off, which are to reach the second cache
// (4096 keys, H 32/8, D 128: 1.33 ms; without the second 1.45). In a cache they may lie in another page: asking beyond
// the page's end instead takes 1.65 ms with pages of 64 tokens, 2.7 ms with pages of 16.
struct NextRows {
  const char* near;
  const char* far;
};
constexpr int64_t kFarTokens = 48;
// Where heads lie side by side: so many heads further on, of values alone (of a plain read, 4096 keys: H 32/8 0.905,
// without 0.88; H 32/32 0.89, without 0.84; of keys too 0.85 and 0.88).
constexpr int64_t kFarHeads = 3;

// scores[r][j] of 16 keys. kAhead: the next 16 rows follow these without a gap and are asked for. The hardware does not
// foresee 16 rows at a time in one page (H 32/8, D 128, 1024 keys: 407 us without, 319 us with); where tokens lie pages
// apart it does, and asking slows it down (320 to 400 us).
template <int kRows, bool kAhead>
MHA_INLINE void key_block_scores(const float* queries, int64_t head_dim, const float* key, int64_t key_stride,
                                 const NextRows& next, float* scores) {
  Vec sums[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) sums[r] = zero();
  int64_t d = 0;
  for (; d + 4 <= head_dim; d += 4) {
    Vec columns[4];
    transpose_16x4(key + d, key_stride, columns);
    if (kAhead) {
#pragma GCC unroll 4
      for (int line = 0; line < 4; ++line) {
        prefetch(next.near + (d + line) * kLine);
        prefetch_to_l2(next.far + (d + line) * kLine);
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sums[r] = fma(set1(queries[r * head_dim + d + c]), columns[c], sums[r]);
    }
  }
  for (; d < head_dim; ++d) {
    alignas(64) float column[kLanes];
    for (int j = 0; j < kLanes; ++j) column[j] = key[j * key_stride + d];
    const Vec v = load(column);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) sums[r] = fma(set1(queries[r * head_dim + d]), v, sums[r]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) store(scores + r * kScoreStride, sums[r]);
}

template <bool kAhead, int kRows = kInPlaceTileRows>
void block_scores(int64_t rows, const float* queries, int64_t head_dim, const float* key, int64_t key_stride,
                  const NextRows& next, float* scores) {
  for (; rows >= kRows; rows -= kRows, queries += kRows * head_dim, scores += kRows * kScoreStride) {
    key_block_scores<kRows, kAhead>(queries, head_dim, key, key_stride, next, scores);
  }
  if constexpr (kRows > 1) {
    if (rows > 0) block_scores<kAhead, kRows - 1>(rows, queries, head_dim, key, key_stride, next, scores);
  }
}

// sums[r][column] continued over some keys.
struct InPlaceValueTile {
  const float* probabilities;  // [rows][kScoreStride]
  const float* values;
  int64_t value_stride, keys;
  float* sums;
  int64_t sums_stride;
  bool first;  // the chains start here
  // How far the next 16 rows are where rows follow each other without a gap: they are asked for (H 32/32, 4096 keys:
  // 10.0 ms, without 11.0). Else 0, which asks for what is read anyway.
  int64_t ahead;
  int64_t far_ahead;  // the same for the rows some way off, or heads

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    Sums<kRows, kPanels> s;
    float* at = sums + row * sums_stride + column;
    if (first) {
      clear<kRows, kPanels>(s);
    } else {
      load_sums<kRows, kPanels>(s, at, sums_stride);
    }
    const float* a = probabilities + row * kScoreStride;
    const float* b = values + column;
    for (int64_t j = 0; j < keys; ++j, b += value_stride) {
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) prefetch(reinterpret_cast<const char*>(b + p * kLanes) + ahead);
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) prefetch_to_l2(reinterpret_cast<const char*>(b + p * kLanes) + far_ahead);
      multiply_add_step<kRows, kPanels>(s, a + j, kScoreStride, b, kLanes);
    }
    store_sums<kRows, kPanels>(s, at, sums_stride);
  }
};

MHA_COLD bool all_finite(const TokenRows& tokens, int64_t head, int64_t begin, int64_t keys, int64_t width) {
  Vec probe = zero();  // 0 * NaN and 0 * Inf are NaN
  for_each_run(tokens, head, begin, keys, [&](const TokenRun& run, int64_t) {
    const char* row = run.row;
    for (int64_t j = 0; j < run.count; ++j, row += run.stride) {
      for (int64_t d = 0; d < width; d += kLanes) {
        const int count = static_cast<int>(least(width - d, kLanes));
        probe = fma(load_elements(tokens.element, row, d, count), zero(), probe);
      }
    }
  });
  return sum(probe) == 0.0f;
}

// The first block of 16 keys that a row sees, as far as ranges go.
inline int64_t first_block_of(const AttentionArgs& a, int64_t begin, int64_t keys) {
  int64_t first = divide_up(keys, kLanes);
  for (int64_t r = 0; r < a.num_rows; ++r) {
    const int64_t seen = begin < pinned_end(a.rows[r]) ? 0 : most(a.rows[r].key_begin - begin, 0) / kLanes;
    first = least(first, seen);
  }
  return first;
}

// All rows are one group, and the policy goes through a chunk's keys for all heads of the call.
struct InPlaceBlocks {
  static constexpr int64_t kGroupRows = kMaxGroupRows;
  const AttentionArgs& a;
  InPlaceScratch scratch;
  bool one_chunk;
  int64_t rows_per_head;
  int64_t chunk_begin, keys;
  int64_t first_block;  // blocks of 16 keys before this one no row sees

  float* scores() const { return scratch.scores; }
  float* sums() const { return scratch.sums; }
  int64_t pitch() const { return padded(a.value_head_dim); }
  float* running(int64_t) const { return one_chunk ? nullptr : scratch.running; }

  void begin(const SeenChunks& seen) {
    one_chunk = seen.first >= seen.last;
    scale_queries(a.rows, a.num_rows, a.query_element, a.head_dim, a.query_scale, scratch.queries);
  }
  void begin_chunk(const Chunk& chunk) {
    chunk_begin = chunk.begin, keys = chunk.keys;
    first_block = first_block_of(a, chunk.begin, chunk.keys);
  }

  void multiply_keys(const Group&) const {
    walk([&](int64_t h, int64_t b) MHA_ALWAYS_INLINE { score(h, b); });
  }

  void multiply_values(const Group&, bool hidden) const {
    walk([&](int64_t h, int64_t b) MHA_ALWAYS_INLINE { add_values(h, b); });
    for (int64_t h = 0; h < a.kv_heads && hidden; ++h) {
      const int64_t row = h * rows_per_head;
      if (!must_skip(h)) continue;
      sums_of_visible(
          a.rows + row, rows_per_head, chunk_begin, keys, a.value_head_dim, scratch.scores + row * kScoreStride,
          [&](int64_t j, int64_t column, int count) {
            return load_elements(a.value.element, run_at(a.value, h, chunk_begin + j, 1).row, column, count);
          },
          scratch.sums + row * pitch(), pitch());
    }
  }

  int64_t blocks() const { return divide_up(keys, kLanes); }
  int64_t keys_of(int64_t block) const { return least(keys - block * kLanes, kLanes); }

  // Calls step(head, block) for all, 16 tokens at a time.
  template <class Step>
  MHA_INLINE void walk(Step step) const {
    for (int64_t b = first_block; b < blocks(); ++b) {
      for (int64_t h = 0; h < a.kv_heads; ++h) step(h, b);
    }
  }

  // The rows of the tokens after those at `token`, which may lie in another page, and where none are left those that
  // the next call begins with (1024 keys: 0.956 of a plain read; without 0.928); what is read anyway where that is not
  // known. `run` is where they lie, with what follows in the page: finding a page takes two divisions or three.
  NextRows rows_after(const TokenRows& tokens, const TokenRows& next, int64_t head, int64_t token,
                      const TokenRun& run) const {
    const auto rows_at = [&](int64_t further) {
      const int64_t beyond = (token + further - a.key_end) / kLanes * kLanes;
      if (token + further >= a.key_end) {
        return beyond < a.next_keys ? run_at(next, head, a.next_begin + beyond, 1).row : run.row;
      }
      if (further < run.count) return run.row + further * run.stride;
      return run_at(tokens, head, token + further, 1).row;
    };
    return {rows_at(kLanes), rows_at(kFarTokens)};
  }

  // The values that walk() comes to later, heads being counted on into the next 16 tokens.
  const char* values_further(int64_t head, int64_t token, const char* row) const {
    for (; head >= a.kv_heads; head -= a.kv_heads) token += kLanes;
    return token < a.key_end ? run_at(a.value, head, token, 1).row : row;
  }

  // A block of 16 keys that are floats side by side in memory is read in place, others are copied and widened first.
  void score(int64_t head, int64_t block) const {
    const int64_t row = head * rows_per_head, token = chunk_begin + block * kLanes;
    const float* queries = scratch.queries + row * a.head_dim;
    float* scores = scratch.scores + row * kScoreStride + block * kLanes;
    const TokenRun run = run_at(a.key, head, token, kFarTokens + 1);
    NextRows next = {run.row, run.row};
    const bool follow = a.key.stride_t == a.head_dim * kFloatBytes && a.key.element == Element::kF32;
    if (follow) next = rows_after(a.key, a.next_key, head, token, run);
    const auto multiply = follow ? &block_scores<true> : &block_scores<false>;
    if (a.key.element == Element::kF32 && keys_of(block) == kLanes && run.count >= kLanes) {
      multiply(rows_per_head, queries, a.head_dim, reinterpret_cast<const float*>(run.row), run.stride / kFloatBytes,
               next, scores);
    } else {
      copy_block(a.key, head, token, keys_of(block), 0, a.head_dim, scratch.block);
      multiply(rows_per_head, queries, a.head_dim, scratch.block, padded(a.head_dim), next, scores);
    }
  }

  void add_values(int64_t head, int64_t block) const {
    const int64_t row = head * rows_per_head, token = chunk_begin + block * kLanes;
    InPlaceValueTile tile = {};
    tile.probabilities = scratch.scores + row * kScoreStride + block * kLanes;
    tile.sums = scratch.sums + row * pitch(), tile.sums_stride = pitch();
    tile.first = block == first_block;
    // Columns of whole vectors are read in place, if they are floats.
    const int64_t whole = a.value.element == Element::kF32 ? a.value_head_dim / kLanes * kLanes : 0;
    if (whole > 0) add_in_place(tile, head, token, keys_of(block), whole);
    if (whole == a.value_head_dim) return;
    const int64_t rest = a.value_head_dim - whole;
    copy_block(a.value, head, token, keys_of(block), whole, rest, scratch.block);
    tile.values = scratch.block, tile.value_stride = padded(rest), tile.keys = keys_of(block), tile.sums += whole;
    cover(tile, rows_per_head, padded(rest));
  }

  MHA_INLINE void add_in_place(InPlaceValueTile tile, int64_t head, int64_t token, int64_t count, int64_t whole) const {
    const TokenRun values = run_at(a.value, head, token, kFarTokens + 1);
    const NextRows next = values.stride == a.value_head_dim * kFloatBytes
                              ? rows_after(a.value, a.next_value, head, token, values)
                              : NextRows{values.row, values_further(head + kFarHeads, token, values.row)};
    tile.ahead = next.near - values.row, tile.far_ahead = next.far - values.row;
    for_each_run(a.value, head, token, count, [&](const TokenRun& run, int64_t) MHA_ALWAYS_INLINE {
      tile.values = reinterpret_cast<const float*>(run.row), tile.value_stride = run.stride / kFloatBytes;
      tile.keys = run.count;
      cover(tile, rows_per_head, whole);
      tile.probabilities += run.count, tile.first = false;
    });
  }

  bool hides_keys(int64_t head, int64_t from, int64_t to) const {
    for (int64_t r = 0; r < rows_per_head; ++r) {
      if (has_hidden_keys(a.rows[head * rows_per_head + r], from, to)) return true;
    }
    return false;
  }

  // A key is hidden from a row of the head, and its value is NaN or Inf: such keys are left out. Blocks that all rows
  // see whole are not looked at, as a window begins inside of one (1024 keys in a ring: 0.865 of a plain read; with a
  // look at the whole chunk 0.845).
  MHA_COLD bool must_skip(int64_t head) const {
    if (!hides_keys(head, chunk_begin, chunk_begin + keys)) return false;
    for (int64_t b = first_block; b < blocks(); ++b) {  // what lies before may be in pages that a ring gave up
      const int64_t from = chunk_begin + b * kLanes;
      if (hides_keys(head, from, from + keys_of(b)) && !all_finite(a.value, head, from, keys_of(b), a.value_head_dim)) {
        return true;
      }
    }
    return false;
  }
};

inline void attention_in_place(const AttentionArgs* args) {
  const AttentionArgs& a = *args;
  const InPlaceScratch scratch = split_in_place_scratch(a.scratch, a.num_rows, a.head_dim, a.value_head_dim);
  InPlaceBlocks blocks = {a, scratch, false, a.num_rows / a.kv_heads, 0, 0, 0};
  run_chunks(a, blocks);
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
