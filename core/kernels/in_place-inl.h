// SPDX-License-Identifier: Apache-2.0
// Attention of few query rows (decoding): keys and values are read once, in place, and nothing is packed. A policy of
// the driver in step-inl.h. Included by all-inl.h, once per target.
//
// For one or two rows the time is that of reading K and V, so the order of the reads counts. A step is 16 keys of one
// head. If a token holds all heads side by side ([T, H, D]), the steps go through all heads of 16 tokens, then to the
// next 16 tokens: memory is read in long runs, which the hardware prefetcher follows. Head by head it would be runs of
// D floats, pages apart. If the tokens of a head follow each other ([H, T, D]), the planner passes one head at a time.
//   scores  16 keys are transposed in registers, 4 columns at a time, and meet all rows of the head; each row and
//           lane is one chain over d
//   values  the 16 keys extend the chains of the chunk's sums, kept [rows][Dv] in L1
namespace mha::MHA_TARGET_NS {
namespace {

// Rows that share one pass over 16 keys. Their sums fill the registers that four transposed columns and a broadcast
// leave.
constexpr int kFreeRegs = kVectorRegisters - 4 * kRegs - 2;
constexpr int kInPlaceTileRows = kFreeRegs < kRegs ? 1 : (kFreeRegs / kRegs < 8 ? kFreeRegs / kRegs : 8);
// Up to this many rows of a head, reading in place is faster than packing.
constexpr int kInPlaceRows = 16;
// The most rows of a call, over all heads.
constexpr int kMaxInPlaceRows = kMaxGroupRows;

struct InPlaceScratch {
  float* scores;   // [rows][kScoreStride]
  float* queries;  // [rows][D], scaled
  float* sums;     // [rows][Dv rounded up to 16]
  float* running;  // the same: output between chunks
  float* block;    // [16][D or Dv rounded up to 16]: keys or values that are widened, or copied because a read would
                   // pass the end
};

inline int64_t in_place_scratch(int64_t rows, int64_t head_dim, int64_t value_head_dim) {
  return rows * (kScoreStride + padded(head_dim) + 2 * padded(value_head_dim)) +
         kLanes * padded(most(head_dim, value_head_dim));
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

// Rows to prefetch: those of the next 16 tokens (near, into L1), and of 16 tokens further on (far, into L2), so that
// reads from memory start early enough. In a cache these rows may be in another page, so they are looked up: what
// follows the end of a page is other memory, and prefetching it delays the reads that count.
struct NextRows {
  const char* near;
  const char* far;
};
constexpr int64_t kFarTokens = 48;
// If heads are side by side ([T, H, D]), values this many heads further on are prefetched. For keys the hardware
// prefetcher is enough, and prefetches only slow it down.
constexpr int64_t kFarHeads = 3;

// scores[r][j] of 16 keys. kAhead: the next 16 rows follow these without a gap and are prefetched, because the hardware
// prefetcher does not follow 16 rows that are read side by side within one page. If tokens are pages apart it does
// follow them, and prefetches only slow it down.
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

// Continues the chains of sums[r][column] over some keys.
struct InPlaceValueTile {
  const float* probabilities;  // [rows][kScoreStride]
  const float* values;
  int64_t value_stride, keys;
  float* sums;
  int64_t sums_stride;
  bool first;  // the chains start from zero
  // Bytes from a row to the one to prefetch into L1: that of the next 16 tokens, if rows follow each other without a
  // gap. Otherwise 0: the prefetch repeats the line that is read anyway.
  int64_t ahead;
  int64_t far_ahead;  // the same into L2: rows of later tokens, or of later heads

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

// The first block of 16 keys that a row may see, judged by the key ranges of rows alone.
inline int64_t first_block_of(const AttentionArgs& a, int64_t begin, int64_t keys) {
  int64_t first = divide_up(keys, kLanes);
  for (int64_t r = 0; r < a.num_rows; ++r) {
    const int64_t seen = begin < pinned_end(a.rows[r]) ? 0 : most(a.rows[r].key_begin - begin, 0) / kLanes;
    first = least(first, seen);
  }
  return first;
}

// All rows of the call are one group. The policy goes through a chunk's keys for all heads.
struct InPlaceBlocks {
  static constexpr int64_t kGroupRows = kMaxGroupRows;
  const AttentionArgs& a;
  InPlaceScratch scratch;
  bool one_chunk;
  int64_t rows_per_head;
  int64_t chunk_begin, keys;
  int64_t first_block;  // no row sees the blocks of 16 keys before this one

  explicit InPlaceBlocks(const AttentionArgs& args) : a(args) {}
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

  // Calls step(head, block) for all heads of 16 tokens, then for the next 16 tokens.
  template <class Step>
  MHA_INLINE void walk(Step step) const {
    for (int64_t b = first_block; b < blocks(); ++b) {
      for (int64_t h = 0; h < a.kv_heads; ++h) step(h, b);
    }
  }

  // The rows to prefetch after those at `token`; they may be in another page. After the last token they are the first
  // rows of the next call. If that is not known, they are run.row, which is read anyway. `run` begins at `token` and
  // includes what follows in the page: finding a page again takes two or three divisions.
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

  // Values that walk() reads later. Heads beyond the last are those of the next 16 tokens.
  const char* values_further(int64_t head, int64_t token, const char* row) const {
    for (; head >= a.kv_heads; head -= a.kv_heads) token += kLanes;
    return token < a.key_end ? run_at(a.value, head, token, 1).row : row;
  }

  // 16 float keys in one page are read in place. Other blocks are copied, and widened, first.
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
    // Floats are read in place up to the last whole vector of columns; the rest is copied.
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

  // True if a key is hidden from a row of this head and its value has NaN or Inf: hidden keys must then be skipped.
  // Only blocks with hidden keys are scanned: a window usually hides part of one block, not of the whole chunk.
  MHA_COLD bool must_skip(int64_t head) const {
    if (!hides_keys(head, chunk_begin, chunk_begin + keys)) return false;
    for (int64_t b = first_block; b < blocks(); ++b) {  // earlier blocks may be in pages that a ring has dropped
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
  InPlaceBlocks blocks(a);
  blocks.scratch = split_in_place_scratch(a.scratch, a.num_rows, a.head_dim, a.value_head_dim);
  blocks.rows_per_head = a.num_rows / a.kv_heads;
  run_chunks(a, blocks);
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
