// SPDX-License-Identifier: Apache-2.0
// Attention of few query rows (decoding): keys and values are read once, in place, and nothing is packed. A policy of
// the driver in step-inl.h. Included by algorithms-inl.h, once per target.
//
// For few rows the time is that of reading K and V, so the order of the reads counts. A step is 16 keys of one head. If
// a token holds all heads side by side ([T, H, D]), the steps go through all heads of 16 tokens, then to the next 16
// tokens: memory is read in long runs, which the hardware prefetcher follows. Head by head it would be runs of D
// elements, pages apart. If the tokens of a head follow each other ([H, T, D]), the planner passes one head at a time.
//   scores  key_scores-inl.h
//   values  value_sums-inl.h: the 16 keys extend the chains of the chunk's sums, kept [rows][Dv] in L1
namespace mha::MHA_TARGET_NS {
namespace {

// Up to this many rows of a head, reading in place is faster than packing.
constexpr int kInPlaceRows = 16;
// The most rows of a call, over all heads.
constexpr int kMaxInPlaceRows = kMaxGroupRows;

// The most rows of tiles for each row: 9 rows are tiles of 8 and 1, 5 rows a tile of 8.
constexpr int64_t kMostTiled = 2;

struct InPlaceScratch {
  float* scores;   // [rows][kScoreStride]
  float* queries;  // of each head as tile_queries leaves them
  float* sums;     // [rows][Dv rounded up to 16]
  float* running;  // the same: output between chunks
  float* block;    // [16][D or Dv rounded up to 16]: keys or values that are widened, or copied because a read would
                   // pass the end
  float* chains;   // BF16: [2][rows][Dv rounded up to 16], the sums of the two halves of 32 keys
};

template <int kChains>
inline int64_t in_place_scratch(int64_t rows, int64_t head_dim, int64_t value_head_dim) {
  const int64_t sums = kChains == 1 ? 2 : 4;
  return rows * (kScoreStride + kMostTiled * padded(head_dim) + sums * padded(value_head_dim)) +
         kLanes * padded(most(head_dim, value_head_dim));
}

inline InPlaceScratch split_in_place_scratch(float* p, int64_t rows, int64_t head_dim, int64_t value_head_dim) {
  InPlaceScratch s;
  s.scores = p;
  s.queries = s.scores + rows * kScoreStride;
  s.sums = s.queries + rows * kMostTiled * padded(head_dim);
  s.running = s.sums + rows * padded(value_head_dim);
  s.block = s.running + rows * padded(value_head_dim);
  s.chains = s.block + kLanes * padded(most(head_dim, value_head_dim));
  return s;
}

// Elements that are read in place; others are widened to floats first. Without FMA (SSE2) widening takes most of the
// time either way.
inline bool reads_in_place(const TokenRows& t, int64_t width) {
  if (t.element == Element::kF32) return true;
  return kHasFma && (!is_code(t.element) || reads_codes_in_place(t, width));
}

// Codes that become codes of 8 bits in scratch.block first (gather_codes).
inline bool gathers(const TokenRows& t, int64_t width) {
  return kHasFma && is_code(t.element) && gathers_codes(t, width);
}

template <class Take>
MHA_INLINE void with_in_place_element(const TokenRows& t, Take take) {
  if constexpr (kHasFma) {
    if (!is_code(t.element)) return with_element(t.element, take);
    if (kHasCodes && is_nibble(t.element)) return take(Codes4());
    if (kHasCodes && t.codes->zeros.place != ScalePlace::kNone) return take(Codes8WithZeros());
    take(Codes8());
  } else {
    take(F32());
  }
}

// kUnit of the codes of an element type.
inline float unit_of(const TokenRows& t) {
  float unit = 1;
  with_in_place_element(t, [&](auto e) MHA_ALWAYS_INLINE {
    using E = decltype(e);
    if constexpr (E::kIsCode) unit = E::kUnit;
  });
  return unit;
}

inline int64_t most_rows_of_two(const TokenRows& t) {
  int64_t rows = 0;
  with_in_place_element(t, [&](auto e) MHA_ALWAYS_INLINE { rows = most_rows_of_two<decltype(e)>(); });
  return rows;
}

// Rows that follow each other without gaps are prefetched into L1 some rows ahead, and into L2 some bytes ahead, so that
// reads from memory start early enough. In a cache these rows may be in another page, so they are looked up: what
// follows the end of a page is other memory, and prefetching it delays the reads that count.
constexpr int64_t kNearTokens = 8;
constexpr int64_t kFarBytes = 24 * 1024;
// If heads are side by side ([T, H, D]), values this many heads further on are prefetched. For keys the hardware
// prefetcher is enough, and prefetches only slow it down.
constexpr int64_t kFarHeads = 3;

template <int kChains>
MHA_NOINLINE bool all_finite(const TokenRows& tokens, int64_t head, int64_t begin, int64_t keys, int64_t width) {
  Vec probe = zero();  // 0 * NaN and 0 * Inf are NaN
  for_each_run(tokens, head, begin, keys, [&](const TokenRun& run, int64_t done) {
    const char* row = run.row;
    for (int64_t j = 0; j < run.count; ++j, row += run.stride) {
      for (int64_t d = 0; d < width; d += kLanes) {
        const int count = static_cast<int>(least(width - d, kLanes));
        const Vec value = load_token(tokens, head, begin + done + j, row, d, count);
        probe = fma(kChains == 2 ? at_bf16(value) : value, zero(), probe);  // the greatest floats round to infinity
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

// Sums of BF16's two halves of 32 keys, added to the chunk's.
struct HalfSums {
  const float *first, *second;  // [rows][pitch]; null: none
  float* sums;
  int64_t rows, pitch;
  bool begins;  // nothing was added before

  MHA_NOINLINE void add_up() const {
    for (int64_t n = 0; n < rows * pitch; n += kLanes) {
      const Vec one = first != nullptr ? load(first + n) : zero(),
                other = second != nullptr ? load(second + n) : zero();
      store(sums + n, add(begins ? zero() : load(sums + n), add(one, other)));
    }
  }
};

// All rows of the call are one group. The policy goes through a chunk's keys for all heads. Products: F32Products or
// Bf16Products.
template <class Products>
struct InPlaceBlocks {
  static constexpr int64_t kGroupRows = kMaxGroupRows;
  static constexpr int kChains = Products::kChains;
  const AttentionArgs& a;
  InPlaceScratch scratch;
  bool one_chunk;
  int64_t rows_per_head;
  int64_t chunk_begin, keys;
  int64_t first_block;           // no row sees the blocks of 16 keys before this one
  int64_t far_keys, far_values;  // tokens that kFarBytes hold

  explicit InPlaceBlocks(const AttentionArgs& args) : a(args) {}
  using Softmax = typename Products::FloatSoftmax;
  Softmax softmax() const { return {}; }
  float* scores() const { return scratch.scores; }
  float* sums() const { return scratch.sums; }
  int64_t pitch() const { return padded(a.value_head_dim); }
  float* running(int64_t) const { return one_chunk ? nullptr : scratch.running; }

  void begin(const SeenChunks& seen) {
    one_chunk = seen.first >= seen.last;
    far_keys = most(kLanes, kFarBytes / row_bytes(a.key.element, a.head_dim));
    far_values = most(kLanes, kFarBytes / row_bytes(a.value.element, a.value_head_dim));
    for (int64_t h = 0; h < a.kv_heads; ++h) {
      tile_queries<Products>(a.rows + h * rows_per_head, rows_per_head, a.query_element, a.head_dim, a.query_scale,
                             scratch.block, queries_of(h));
    }
  }
  void begin_chunk(const Chunk& chunk) {
    chunk_begin = chunk.begin, keys = chunk.keys;
    first_block = first_block_of(a, chunk.begin, chunk.keys);
  }

  float* queries_of(int64_t head) const {
    return scratch.queries + head * tiled_rows<kChains>(rows_per_head) * padded(a.head_dim);
  }

  void multiply_keys(const Group&) const {
    for (int64_t b = first_block, count = 1; b < blocks(); b += count) {
      count = takes_two(b) ? 2 : 1;
      for (int64_t h = 0; h < a.kv_heads; ++h) score(h, b, count);
    }
    if (kChains == 2) scale_scores();
  }

  // The query carries no scale in BF16.
  MHA_NOINLINE void scale_scores() const {
    const Vec scale = set1(a.query_scale);
    for (int64_t r = 0; r < a.num_rows; ++r) {
      float* row = scratch.scores + r * kScoreStride;
      for (int64_t j = first_block * kLanes; j < keys; j += kLanes) store(row + j, mul(load(row + j), scale));
    }
  }

  void multiply_values(const Group&, bool hidden) const {
    walk([&](int64_t h, int64_t b) MHA_ALWAYS_INLINE {
      add_values(h, b);
      if (kChains == 2 && (b % 2 != 0 || b + 1 == blocks())) add_halves(h, b);
    });
    for (int64_t h = 0; h < a.kv_heads && hidden; ++h) {
      const int64_t row = h * rows_per_head;
      if (!must_skip(h)) continue;
      sums_of_visible<typename Products::Chain>(
          a.rows + row, rows_per_head, chunk_begin, keys, a.value_head_dim, scratch.scores + row * kScoreStride,
          [&](int64_t j, int64_t column, int count) {
            const char* from = run_at(a.value, h, chunk_begin + j, 1).row;
            const Vec value = load_token(a.value, h, chunk_begin + j, from, column, count);
            return kChains == 2 ? at_bf16(value) : value;
          },
          scratch.sums + row * pitch(), pitch());
    }
  }

  float* half_of(int64_t head, int64_t block) const {
    return scratch.chains + ((block % 2) * a.num_rows + head * rows_per_head) * pitch();
  }
  // Both halves, or the one that there is: rows may begin to see keys with the second, and keys may end in the first.
  MHA_NOINLINE void add_halves(int64_t head, int64_t block) const {
    const int64_t even = block / 2 * 2;
    HalfSums halves;
    halves.first = even >= first_block ? half_of(head, even) : nullptr;
    halves.second = block != even ? half_of(head, block) : nullptr;
    halves.sums = scratch.sums + head * rows_per_head * pitch();
    halves.rows = rows_per_head, halves.pitch = pitch(), halves.begins = even <= first_block;
    halves.add_up();
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

  // The rows so many tokens after those at `token`; they may be in another page, and then begin there. After the last
  // token they are the first rows of the next call, if these are known, else null. `run` begins at `token` and includes
  // what follows in the page: finding a page again takes two or three divisions.
  MHA_NOINLINE const char* rows_ahead(const TokenRows& tokens, const TokenRows& next, int64_t head, int64_t token,
                                      const TokenRun& run, int64_t further) const {
    if (further < kLanes && run.count < 2 * kLanes) further = kLanes;
    const int64_t at = token + further;
    if (at >= a.key_end) {
      const int64_t beyond = (at - a.key_end) / kLanes * kLanes;
      return beyond < a.next_keys ? run_at(next, head, a.next_begin + beyond, 1).row : nullptr;
    }
    return further < run.count ? run.row + further * run.stride : run_at(tokens, head, at, 1).row;
  }

  // Values that walk() reads later. Heads beyond the last are those of the next 16 tokens.
  const char* values_further(int64_t head, int64_t token, const char* row) const {
    for (; head >= a.kv_heads; head -= a.kv_heads) token += kLanes;
    return token < a.key_end ? run_at(a.value, head, token, 1).row : row;
  }

  // Codes are taken in whole steps: 0 times a scale of infinity beyond the last column would be NaN.
  bool whole_steps() const {
    if (!is_code(a.key.element)) return true;
    const int64_t per_word = is_nibble(a.key.element) && !gathers_keys() ? Codes4::kPerWord : Codes8::kPerWord;
    return a.head_dim % (kWords * per_word) == 0;
  }

  // Elements that are read where they are. BF16 rounds others first.
  bool reads(const TokenRows& t, int64_t width) const {
    return kChains == 2 ? t.element == Element::kBf16 : reads_in_place(t, width);
  }
  template <class Take>
  static MHA_INLINE void with_read_element(const TokenRows& t, Take take) {
    if constexpr (kChains == 2) {
      take(Bf16());
    } else {
      with_in_place_element(t, take);
    }
  }
  void copy_tokens(const TokenRows& t, int64_t head, int64_t token, int64_t count, int64_t column,
                   int64_t width) const {
    copy_block(t, head, token, count, column, width, scratch.block);
    if (kChains == 2 && t.element != Element::kBf16) at_bf16(scratch.block, count * padded(width));
  }

  bool reads_keys() const { return (reads(a.key, a.head_dim) || gathers_keys()) && whole_steps(); }
  bool gathers_keys() const { return kChains == 1 && gathers(a.key, a.head_dim); }

  // Whether this block and the next are better taken together.
  bool takes_two(int64_t block) const {
    if (rows_per_head > most_rows_of_two(a.key) || block + 1 >= blocks() || keys_of(block + 1) < kLanes) {
      return false;
    }
    // Both in one page, and so are the rows to be prefetched next.
    if (a.key.page_size > 0 && (a.key.page_size % (2 * kLanes) != 0 || block % 2 != 0)) return false;
    return reads_keys();
  }

  // The scores of one block, or of two that takes_two() allows. Blocks that are not read in place, and not gathered, are
  // copied, and widened, first.
  void score(int64_t head, int64_t block, int64_t count) const {
    KeyBlock k;
    k.blocks = static_cast<int>(count);
    k.near = k.near_high = k.far = k.far_high = nullptr;
    k.head_dim = a.head_dim, k.queries = queries_of(head), k.rows = rows_per_head;
    k.scores = scratch.scores + head * rows_per_head * kScoreStride + block * kLanes;
    if (gathers_keys() ? score_gathered(head, block, &k) : score_in_place(head, block, &k)) return;
    k.blocks = 1;
    k.stride = padded(a.head_dim) * kFloatBytes;
    k.low = reinterpret_cast<const char*>(scratch.block), k.high = k.low + 8 * k.stride;
    for (int64_t n = 0; n < count; ++n, k.scores += kLanes) {
      copy_tokens(a.key, head, chunk_begin + (block + n) * kLanes, keys_of(block + n), 0, a.head_dim);
      key_scores<F32, kChains>(k);
    }
  }

  // 16 keys in one page, or 8 in each of two, are read in place, except codes whose scales times kUnit would be denormal.
  // Where it returns false, it has left k's prefetches as they were.
  MHA_INLINE bool score_in_place(int64_t head, int64_t block, KeyBlock* k) const {
    const int64_t token = chunk_begin + block * kLanes;
    TokenRun run = run_at(a.key, head, token, a.key_end - token);
    k->low = run.row, k->high = run.row + 8 * run.stride;
    const bool in_two = run.count == 8 && keys_of(block) == kLanes;
    if (in_two) {
      const TokenRun second = run_at(a.key, head, token + 8, a.key_end - token - 8);
      if (second.count >= 8) k->high = second.row, run.count = kLanes;
    }
    if (keys_of(block) < kLanes || run.count < kLanes || !reads_keys()) return false;
    TokenScales scales[2], zeros[2];
    if (is_code(a.key.element)) {
      const CodeRows& codes = *a.key.codes;
      const int64_t groups = divide_up(a.head_dim, codes.group);
      const float unit = unit_of(a.key);
      k->scales = scales[0].of, k->zeros = zeros[0].of, k->shift = group_shift(codes.group, a.head_dim);
      k->flip = flip_of(a.key.element);
      for (int64_t n = 0; n < k->blocks; ++n) {
        const int first = in_two ? 8 : kLanes;
        load_scales_by_group(a.key, codes.scales, head, token + n * kLanes, first, groups, &scales[n]);
        if (!scale_by_unit(unit, groups, &scales[n])) return false;
        if (codes.zeros.place == ScalePlace::kNone) continue;
        load_scales_by_group(a.key, codes.zeros, head, token + n * kLanes, first, groups, &zeros[n]);
        ready_zeros(a.key.element, 1 / unit, groups * kLanes, &zeros[n]);
      }
    }
    k->stride = run.stride;
    if (run.stride == row_bytes(a.key.element, a.head_dim)) {
      const int64_t near = k->blocks == 2 ? 2 * kLanes : kNearTokens;
      k->near = rows_ahead(a.key, a.next_key, head, token, run, near);
      k->far = rows_ahead(a.key, a.next_key, head, token, run, far_keys);
      k->near_high = rows_after(k->near, 8 * k->stride), k->far_high = rows_after(k->far, 8 * k->stride);
      if (in_two) {
        k->near_high = rows_ahead(a.key, a.next_key, head, token + 8, run, kNearTokens);
        k->far_high = rows_ahead(a.key, a.next_key, head, token + 8, run, far_keys);
      }
    }
    with_read_element(a.key, [&](auto e) MHA_ALWAYS_INLINE { key_scores<decltype(e), kChains>(*k); });
    return true;
  }

  // Rows of gathered codes are this many bytes apart: reads of 16 rows that are a power of two apart meet in one bank of L1.
  static int64_t gathered_pitch(int64_t width) { return width + kLanes; }

  // Prefetched while keys or values at `token` are gathered: rows of later tokens where these follow each other, values of
  // later heads where heads are side by side.
  void prefetch_ahead(const TokenRows& tokens, const TokenRows& next, int64_t head, int64_t token, int64_t width,
                      int64_t near, int64_t far, GatheredCodes* codes) const {
    const TokenRun run = run_at(tokens, head, token, a.key_end - token);
    codes->near = codes->far = 0;
    if (run.stride == row_bytes(tokens.element, width)) {
      const char* rows = rows_ahead(tokens, next, head, token, run, near);
      if (rows != nullptr) codes->near = rows - run.row;
      rows = rows_ahead(tokens, next, head, token, run, far);
      if (rows != nullptr) codes->far = rows - run.row;
    } else if (&tokens == &a.value) {
      codes->far = values_further(head + kFarHeads, token, run.row) - run.row;
    }
  }

  MHA_NOINLINE bool score_gathered(int64_t head, int64_t block, KeyBlock* k) const {
    if constexpr (kChains == 2) return false;
    if (!whole_steps()) return false;
    const int64_t token = chunk_begin + block * kLanes, group = a.key.codes->group;
    TokenScales scales[2];
    GatheredCodes codes;
    codes.rows = reinterpret_cast<char*>(scratch.block), codes.pitch = gathered_pitch(a.head_dim);
    codes.groups = divide_up(a.head_dim, group);
    k->low = codes.rows, k->high = k->low + 8 * codes.pitch, k->stride = codes.pitch;
    k->scales = scales[0].of, k->shift = group_shift(group, a.head_dim), k->flip = 0;
    prefetch_ahead(a.key, a.next_key, head, token, a.head_dim, k->blocks * kLanes, far_keys, &codes);
    for (int64_t n = 0; n < k->blocks; ++n, codes.rows += kLanes * codes.pitch) {
      codes.scales = scales[n].of;
      if (!gather_codes(a.key, head, token + n * kLanes, keys_of(block + n), a.head_dim, codes)) return false;
      sort_by_group(codes.groups, &scales[n]);
      if (!scale_by_unit(Codes8::kUnit, codes.groups, &scales[n])) return false;
    }
    key_scores<Codes8, 1>(*k);
    return true;
  }

  // Values are read in place, or gathered, up to the last whole vector of columns; the rest is copied.
  void add_values(int64_t head, int64_t block) const {
    int64_t whole = a.value_head_dim / kLanes * kLanes;
    if (whole > 0 && reads(a.value, a.value_head_dim)) {
      with_read_element(a.value, [&](auto e) MHA_ALWAYS_INLINE { add_in_place<decltype(e)>(head, block, whole); });
    } else if (whole == 0 || !add_gathered(head, block, whole)) {
      whole = 0;
    }
    if (whole == a.value_head_dim) return;
    const int64_t rest = a.value_head_dim - whole;
    copy_tokens(a.value, head, chunk_begin + block * kLanes, keys_of(block), whole, rest);
    InPlaceValueTile<F32> tile;
    start_tile(head, block, &tile);
    tile.values = reinterpret_cast<const char*>(scratch.block), tile.value_stride = padded(rest) * kFloatBytes;
    tile.keys = keys_of(block), tile.sums += whole;
    add_values_of(tile, rows_per_head, padded(rest));
  }

  MHA_NOINLINE bool add_gathered(int64_t head, int64_t block, int64_t whole) const {
    if (kChains == 2 || !gathers(a.value, a.value_head_dim)) return false;
    const int64_t token = chunk_begin + block * kLanes, group = a.value.codes->group;
    TokenScales scales;
    GatheredCodes codes;
    codes.rows = reinterpret_cast<char*>(scratch.block), codes.pitch = gathered_pitch(whole);
    codes.scales = scales.of, codes.groups = divide_up(a.value_head_dim, group);
    prefetch_ahead(a.value, a.next_value, head, token, a.value_head_dim, kLanes, far_values, &codes);
    if (!gather_codes(a.value, head, token, keys_of(block), whole, codes)) return false;
    InPlaceValueTile<Codes8> tile;
    start_tile(head, block, &tile);
    tile.values = codes.rows, tile.value_stride = codes.pitch, tile.keys = keys_of(block);
    tile.scales = scales.of, tile.groups = codes.groups;
    tile.shift = group_shift(group, a.value_head_dim), tile.flip = 0;
    add_values_of(tile, rows_per_head, whole);
    return true;
  }

  // Sets all but the values. (One field after the other: a load of a field from a wide store that filled the struct with
  // zeros may have to wait until everything before it is done, as in key_scores.)
  template <class E>
  MHA_INLINE void start_tile(int64_t head, int64_t block, InPlaceValueTile<E>* tile) const {
    const int64_t row = head * rows_per_head;
    tile->probabilities = scratch.scores + row * kScoreStride + block * kLanes;
    tile->sums = kChains == 2 ? half_of(head, block) : scratch.sums + row * pitch();
    tile->sums_stride = pitch();
    tile->first = kChains == 2 || block == first_block;
    tile->near = tile->far = 0, tile->scales = tile->zeros = nullptr;
  }

  template <class E>
  MHA_NOINLINE void add_in_place(int64_t head, int64_t block, int64_t whole) const {
    InPlaceValueTile<E> tile;
    start_tile(head, block, &tile);
    const int64_t token = chunk_begin + block * kLanes;
    const TokenRun values = run_at(a.value, head, token, a.key_end - token);
    const bool follow = values.stride == bytes_in<E>(a.value_head_dim);
    const char *near = nullptr, *far = nullptr;
    if (follow) {
      near = rows_ahead(a.value, a.next_value, head, token, values, kNearTokens);
      far = rows_ahead(a.value, a.next_value, head, token, values, far_values);
    } else {
      far = values_further(head + kFarHeads, token, values.row);
    }
    if (near != nullptr) tile.near = near - values.row;
    if (far != nullptr) tile.far = far - values.row;
    TokenScales scales, zeros;
    if constexpr (E::kIsCode) {
      const int64_t group = a.value.codes->group;
      tile.scales = scales.of, tile.zeros = zeros.of, tile.groups = divide_up(a.value_head_dim, group);
      tile.shift = group_shift(group, a.value_head_dim), tile.flip = flip_of(a.value.element);
    }
    for_each_run(a.value, head, token, keys_of(block), [&](const TokenRun& run, int64_t done) MHA_ALWAYS_INLINE {
      tile.values = run.row, tile.value_stride = run.stride, tile.keys = run.count;
      if constexpr (E::kIsCode) {
        const int count = static_cast<int>(run.count);
        load_scales(a.value, a.value.codes->scales, head, token + done, count, tile.groups, scales.of);
        if constexpr (E::kHasZeros) {
          load_scales(a.value, a.value.codes->zeros, head, token + done, count, tile.groups, zeros.of);
          ready_zeros(a.value.element, 1, count * tile.groups, &zeros);
        }
      }
      add_values_of(tile, rows_per_head, whole);
      tile.probabilities += run.count, tile.first = false;
    });
  }

  template <class Hides>
  bool any_row(int64_t head, const Hides& hides) const {
    for (int64_t r = 0; r < rows_per_head; ++r) {
      if (hides(a.rows[head * rows_per_head + r])) return true;
    }
    return false;
  }

  // True if a key is hidden from a row of this head and its value has NaN or Inf: hidden keys must then be skipped.
  // Only blocks with hidden keys are scanned: a window usually hides part of one block, not of the whole chunk.
  MHA_COLD bool must_skip(int64_t head) const {
    const auto may_hide = [this](const AttentionRow& row) {
      return has_hidden_keys(row, chunk_begin, chunk_begin + keys);
    };
    if (!any_row(head, may_hide)) return false;
    for (int64_t b = first_block; b < blocks(); ++b) {  // earlier blocks may be in pages that a ring has dropped
      const int64_t from = chunk_begin + b * kLanes;
      const auto hides = [this, from, b](const AttentionRow& row) { return hides_keys(row, from, from + keys_of(b)); };
      if (any_row(head, hides) && !all_finite<kChains>(a.value, head, from, keys_of(b), a.value_head_dim)) {
        return true;
      }
    }
    return false;
  }
};

template <class Products>
inline void attention_in_place(const AttentionArgs* args) {
  const AttentionArgs& a = *args;
  InPlaceBlocks<Products> blocks(a);
  blocks.scratch = split_in_place_scratch(a.scratch, a.num_rows, a.head_dim, a.value_head_dim);
  blocks.rows_per_head = a.num_rows / a.kv_heads;
  run_chunks(a, blocks);
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
