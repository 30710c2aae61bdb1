// SPDX-License-Identifier: Apache-2.0
// Attention of many query rows: keys and values of a chunk are packed, then all groups of rows pass over them. A policy
// of the driver in step-inl.h. Included by algorithms-inl.h, once per target.
//
// What a chunk of C = 256 keys costs for R rows (up to 1024), in floats moved and vector operations:
//   pack keys and values     C (D + Dv) read and written, once for all R rows
//   queries * keys           R C D / 16 multiply-adds; 4 panels of keys stay in L1 while kAttentionRows rows pass
//   softmax                  R C scores read and written in L1, 11 (AVX-512) to 14 operations for 16 of them
//   probabilities * values   R C Dv / 16 multiply-adds; C Dv from L2 for every kTileRows rows
//   combine                  sums read from L1, the running output read and written once, R Dv
// Nothing of size Tq x Tk exists.
namespace mha::MHA_TARGET_NS {
namespace {

constexpr int64_t kAttentionRows = 4 * kTileRows;
// Keys of one head are far apart ([T, H, D]), too far for the hardware prefetcher: rows are prefetched this far ahead.
constexpr int kRowsAhead = 16;

// Rows of a group: Products::kGroupRows.
struct PackedScratch {
  float* scores;   // [rows][kScoreStride]
  float* keys;     // panels of a chunk
  float* values;   // panels of a chunk
  float* queries;  // [rows][D], scaled
  float* block;    // [16][D or Dv rounded up to 16]: keys that cross a page, keys and codes that are widened
  float* sums;     // [rows][Dv rounded up to 16]
  float* running;  // [all rows][Dv rounded up to 16]: output between chunks; null: it is kept in the output rows
  float* pairs;    // [rows][kPairStride]: probabilities as pairs of bf16, where a target multiplies these
};

inline PackedScratch split_scratch(float* p, int64_t group_rows, int64_t head_dim, int64_t value_head_dim,
                                   bool keeps_outputs) {
  PackedScratch s;
  s.scores = p;
  s.keys = s.scores + group_rows * kScoreStride;
  s.values = s.keys + kChunk * head_dim;
  s.queries = s.values + kChunk * padded(value_head_dim);
  s.block = s.queries + group_rows * head_dim;
  s.sums = s.block + kLanes * padded(most(head_dim, value_head_dim));
  s.running = keeps_outputs ? s.sums + group_rows * padded(value_head_dim) : nullptr;
  return s;
}

inline int64_t attention_scratch(int64_t group_rows, int64_t running_rows, int64_t head_dim, int64_t value_head_dim,
                                 Element output) {
  const int64_t kept = keeps_running(value_head_dim, output) ? running_rows : 0;
  return group_rows * (kScoreStride + head_dim + padded(value_head_dim)) +
         kChunk * (head_dim + padded(value_head_dim)) + kLanes * padded(most(head_dim, value_head_dim)) +
         kept * padded(value_head_dim);
}

// dst[p][j][lane] = value[j][p * 16 + lane] for tokens [begin, begin + keys), zeros beyond the width; panels are
// `panel_stride` apart. Adds 0 * value of all to *probe: NaN if one is not finite.
template <class E>
inline void pack_values_of(const TokenRows& tokens, int64_t begin, int64_t keys, int64_t width, int64_t panel_stride,
                           float* dst, Vec* probe) {
  Vec sum = *probe;
  for_each_run(tokens, 0, begin, keys, [&](const TokenRun& run, int64_t) MHA_ALWAYS_INLINE {
    const char* value = run.row;
    for (int64_t j = 0; j < run.count; ++j, value += run.stride, dst += kLanes) {
      float* panel = dst;
      for (int64_t c = 0; c < width; c += kLanes, panel += panel_stride) {
        const int count = static_cast<int>(width - c < kLanes ? width - c : kLanes);
        const char* at = value + c * E::kBytes;
        const Vec v = count == kLanes ? E::load(at) : E::load_first(at, count);
        if (j + kRowsAhead < run.count) prefetch(at + kRowsAhead * run.stride);
        sum = fma(v, zero(), sum);
        store(panel, v);
      }
    }
  });
  *probe = sum;
}

// The same for codes, 16 tokens at a time by way of `block`.
template <class Products>
MHA_NOINLINE void pack_codes(const TokenRows& tokens, int64_t begin, int64_t keys, int64_t width, float* block,
                             float* dst, Vec* probe) {
  TokenRows widened = {};
  widened.base = reinterpret_cast<const char*>(block), widened.stride_t = padded(width) * kFloatBytes;
  for (int64_t done = 0; done < keys; done += kLanes) {
    const int64_t count = least(keys - done, kLanes);
    copy_block(tokens, 0, begin + done, count, 0, width, block);
    pack_values_of<typename Products::template Operand<F32>>(widened, 0, count, width, keys * kLanes,
                                                             dst + done * kLanes, probe);
  }
}

// Packs the values of a chunk. Returns whether all of them are finite.
template <class Products>
inline bool pack_float_values(const TokenRows& tokens, int64_t begin, int64_t keys, int64_t width, float* block,
                              float* dst) {
  Vec probe = zero();
  if (is_code(tokens.element)) {
    pack_codes<Products>(tokens, begin, keys, width, block, dst, &probe);
  } else {
    with_element(tokens.element, [&](auto e) MHA_ALWAYS_INLINE {
      using E = typename Products::template Operand<decltype(e)>;
      pack_values_of<E>(tokens, begin, keys, width, keys * kLanes, dst, &probe);
    });
  }
  return sum(probe) == 0.0f;
}

template <class E>
MHA_INLINE void scale_query(const char* query, float scale, int64_t head_dim, float* dst) {
  const Vec factor = set1(scale);
  int64_t d = 0;
  for (; d + kLanes <= head_dim; d += kLanes) store(dst + d, mul(E::load(query + d * E::kBytes), factor));
  const int count = static_cast<int>(head_dim - d);
  if (count > 0) store_first(dst + d, mul(E::load_first(query + d * E::kBytes, count), factor), count);
}

// dst[r][d] = query of row r, scaled.
MHA_NOINLINE void scale_queries(const AttentionRow* rows, int64_t num_rows, Element element, int64_t head_dim,
                                float scale, float* dst) {
  with_element(element, [&](auto e) MHA_ALWAYS_INLINE {
    for (int64_t r = 0; r < num_rows; ++r) {
      scale_query<decltype(e)>(rows[r].query, scale, head_dim, dst + r * head_dim);
    }
  });
}

// Scores: the product of a group's queries and a chunk's packed keys. The GEMM's tile is not used, because its bias,
// blocks of k and edges take too large a share of a product of 64 steps.
struct ScoreTile {
  static constexpr int kChains = 1;
  const float* queries;  // [rows][head_dim]
  const float* keys;     // panels [keys / 16][head_dim][16]
  int64_t head_dim;
  float* scores;  // [rows][kScoreStride]

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    Sums<kRows, kPanels> sums;
    clear<kRows, kPanels>(sums);
    multiply_add<kRows, kPanels>(sums, queries + row * head_dim, head_dim, keys + column * head_dim, head_dim * kLanes,
                                 kLanes, head_dim);
    store_sums<kRows, kPanels>(sums, scores + row * kScoreStride + column, kScoreStride);
  }
};

// The product of a group's probabilities and the packed values of a chunk: what its tiles have in common.
struct ValueProduct {
  const AttentionRow* rows;
  const float* probabilities;  // [rows], probability_stride apart
  int64_t probability_stride;
  const float* values;   // panels [width / 16][lines][16], a line for each key of the chunk or two
  int64_t panel_stride;  // from 16 columns to the next
  int64_t begin, keys;
  bool skips;        // hidden keys must be left out: Products::kSkipsHidden
  bool ends_differ;  // some row sees fewer keys: its key_end comes before begin + keys
  float* sums;       // [rows][pitch]
  int64_t pitch;
  PrefetchStreams* ahead;

  // The number of keys up to the last one that any of these rows sees. Later probabilities are 0, so their steps are
  // skipped (causal).
  template <int kRows>
  MHA_INLINE int64_t keys_of(int64_t row) const {
    if (!ends_differ) return keys;
    int64_t end = rows[row].key_end;
    for (int r = 1; r < kRows; ++r) end = most(end, rows[row + r].key_end);
    return most(0, least(end - begin, keys));
  }

  // Calls four(j) for j = 0, 4, ... and fetches a line each time that the next group or chunk reads, as long as there are
  // such lines and steps; returns the number of steps.
  template <int kRows, class Four>
  MHA_INLINE int64_t steps_with_prefetch(int64_t steps, Four four) const {
    int64_t j = 0;
    if constexpr (kRows > kTileRows / 2) {  // smaller tiles do too little with a line to prefetch others meanwhile
      if (PrefetchRows* rows_ahead = ahead->stream()) {
        const char* line;
        const int64_t lines = rows_ahead->take(steps / 4, &line);
        const char* row_end = line + rows_ahead->lines * kLine;
        for (int64_t n = 0; n < lines && j + 4 <= steps; ++n, j += 4) {
          prefetch_to_l2(line);
          line += kLine;
          if (line == row_end) line += rows_ahead->stride - rows_ahead->lines * kLine, row_end += rows_ahead->stride;
          four(j);
        }
      }
    }
    return j;
  }
};

struct ValueTile : ValueProduct {
  static constexpr int kChains = 1;

  template <int kRows, int kPanels>
  MHA_INLINE void run(int64_t row, int64_t column) const {
    const int64_t seen = keys_of<kRows>(row);
    Sums<kRows, kPanels> s;
    clear<kRows, kPanels>(s);
    const float* a = probabilities + row * probability_stride;
    const float* b = values + column / kLanes * panel_stride;
    const int64_t j = steps_with_prefetch<kRows>(seen, [&](int64_t step) MHA_ALWAYS_INLINE {
#pragma GCC unroll 4
      for (int64_t i = step; i < step + 4; ++i, b += kLanes) {
        multiply_add_step<kRows, kPanels>(s, a + i, probability_stride, b, panel_stride);
      }
    });
    multiply_add<kRows, kPanels>(s, a + j, probability_stride, b, panel_stride, kLanes, seen - j);
    store_sums<kRows, kPanels>(s, sums + row * pitch + column, pitch);
  }
};

// How F32 multiplies; Bf16Products (bf16-inl.h) is its like.
struct F32Products {
  static constexpr int kChains = 1;  // of an element of a product
  static constexpr int64_t kGroupRows = kAttentionRows;
  static constexpr int64_t kKeyStep = 1;       // keys that multiply_values takes at a time, seen or not
  static constexpr bool kSkipsHidden = false;  // multiply_values leaves hidden keys out, if values are not finite
  // Whether queries that see several chunks are made ready once: [rows up to whole groups][row_floats()] at scratch()'s end.
  static constexpr bool kKeepsQueries = false;
  struct Session {  // what lives as long as a kernel runs
    Session() {}
  };
  static constexpr const char* kName = "F32: chains of fused multiply-adds";
  using FloatSoftmax = F32Softmax;  // of the second pass for weights
  using Chain = OneChain;           // of sums_of_visible
  template <class E>
  using Operand = E;  // how elements of type E are packed

  static F32Softmax softmax(const PackedScratch&) { return {}; }
  static int64_t scratch(int64_t rows, int64_t head_dim, int64_t value_head_dim, Element output) {
    return attention_scratch(kGroupRows, rows, head_dim, value_head_dim, output);
  }
  static PackedScratch split(float* p, int64_t head_dim, int64_t value_head_dim, bool keeps_outputs) {
    return split_scratch(p, kGroupRows, head_dim, value_head_dim, keeps_outputs);
  }
  static void pack_keys(const TokenRows& t, int64_t begin, int64_t count, int64_t width, float* block, float* dst) {
    pack_float_keys<false>(t, begin, count, width, block, dst);
  }
  // Returns whether all values are finite.
  static bool pack_values(const TokenRows& t, int64_t begin, int64_t keys, int64_t width, float* block, float* dst) {
    return pack_float_values<F32Products>(t, begin, keys, width, block, dst);
  }
  static int64_t value_lines(int64_t keys) { return keys; }  // of a panel
  static Vec value_of(const float* panel, int64_t j) { return load(panel + j * kLanes); }
  // dst[r][d] = the queries as multiply_keys takes them.
  static void ready_queries(const AttentionRow* rows, int64_t num_rows, Element element, int64_t head_dim, float scale,
                            float* dst) {
    scale_queries(rows, num_rows, element, head_dim, scale, dst);
  }
  // scores [rows][kScoreStride], of panels of keys.
  static void multiply_keys(const float* queries, const float* keys, int64_t head_dim, float, int64_t rows,
                            int64_t columns, float* scores) {
    cover(ScoreTile{queries, keys, head_dim, scores}, rows, columns);
  }
  // Of probabilities as softmax() leaves them.
  static void multiply_values(const PackedScratch& scratch, ValueProduct* product, int64_t rows, int64_t columns) {
    product->probabilities = scratch.scores, product->probability_stride = kScoreStride;
    cover(ValueTile{*product}, rows, columns);
  }
};

template <class Products>
struct PackedBlocks {
  static constexpr int64_t kGroupRows = Products::kGroupRows;
  static_assert(kGroupRows <= kMaxGroupRows, "a group's factors hold so many rows");
  const AttentionArgs& a;
  PackedScratch scratch;
  Chunk chunk;
  bool finite;         // no value of the chunk is NaN or Inf
  bool keeps_queries;  // Products::kKeepsQueries, and several chunks
  PrefetchStreams ahead;

  explicit PackedBlocks(const AttentionArgs& args) : a(args) {}
  using Softmax = decltype(Products::softmax(PackedScratch()));
  Softmax softmax() const { return Products::softmax(scratch); }
  float* scores() const { return scratch.scores; }
  float* sums() const { return scratch.sums; }
  int64_t pitch() const { return padded(a.value_head_dim); }
  float* running(int64_t row) const { return scratch.running == nullptr ? nullptr : scratch.running + row * pitch(); }

  void begin(const SeenChunks& seen) {
    const bool several = seen.first < seen.last;
    scratch = Products::split(a.scratch, a.head_dim, a.value_head_dim,
                              several && keeps_running(a.value_head_dim, a.output_element));
    keeps_queries = Products::kKeepsQueries && several;
    if constexpr (Products::kKeepsQueries) {
      if (!several) return;
      scratch.queries = a.scratch + Products::scratch(a.num_rows, a.head_dim, a.value_head_dim, a.output_element) -
                        round_up(a.num_rows, kGroupRows) * Products::row_floats(a.head_dim);
      ready_queries(0, a.num_rows, scratch.queries);
    }
  }

  MHA_INLINE void ready_queries(int64_t row, int64_t rows, float* queries) const {
    Products::ready_queries(a.rows + row, rows, a.query_element, a.head_dim, a.query_scale, queries);
  }

  void begin_chunk(const Chunk& now) {
    chunk = now;
    Products::pack_keys(a.key, now.begin, now.keys, a.head_dim, scratch.block, scratch.keys);
    finite = Products::pack_values(a.value, now.begin, now.keys, a.value_head_dim, scratch.block, scratch.values);
    const int64_t next = now.last ? a.next_begin : now.begin + kChunk;
    const int64_t count = now.last ? a.next_keys : keys_before(a.key_end, next, kChunk);
    ahead = {};
    ahead.next_keys = tokens_ahead(now.last ? a.next_key : a.key, next, count, a.head_dim);
    ahead.next_values = tokens_ahead(now.last ? a.next_value : a.value, next, count, a.value_head_dim);
  }

  void multiply_keys(const Group& g) const {
    float* queries = scratch.queries;
    if (!keeps_queries) ready_queries(g.row, g.num_rows, queries);
    if constexpr (Products::kKeepsQueries) {
      if (keeps_queries) queries += g.row * Products::row_floats(a.head_dim);
    }
    Products::multiply_keys(queries, scratch.keys, a.head_dim, a.query_scale, g.num_rows, round_up(g.keys, kLanes),
                            scratch.scores);
  }

  void multiply_values(const Group& g, bool hidden) {
    const AttentionRow* rows = a.rows + g.row;
    const int64_t panel_stride = Products::value_lines(chunk.keys) * kLanes;
    // Keys of the chunk beyond those that any row of the group sees are hidden, too.
    const bool beyond = least(round_up(g.keys, Products::kKeyStep), chunk.keys) > g.keys;
    const bool skips = (hidden || beyond) && !finite;
    if constexpr (!Products::kSkipsHidden) {
      if (skips) {
        sums_of_visible<typename Products::Chain>(
            rows, g.num_rows, g.begin, g.keys, a.value_head_dim, scratch.scores,
            [&](int64_t j, int64_t column, int) {
              return Products::value_of(scratch.values + column / kLanes * panel_stride, j);
            },
            scratch.sums, pitch());
        return;
      }
    }
    const int64_t next = g.row + g.num_rows;
    if (!keeps_queries || next >= a.num_rows) ahead.next_queries = queries_ahead(a, next, kGroupRows, chunk.last);
    ahead.next_weights = weights_ahead(a, next, kGroupRows, chunk.begin, chunk.keys);
    ahead.next_masks = masks_ahead(a, next, kGroupRows, chunk.begin, chunk.keys);
    ValueProduct product = {};
    product.rows = rows, product.skips = skips;
    product.values = scratch.values, product.panel_stride = panel_stride;
    product.begin = g.begin, product.keys = g.keys, product.ends_differ = g.sight.least_end < g.begin + g.keys;
    product.sums = scratch.sums, product.pitch = pitch(), product.ahead = &ahead;
    Products::multiply_values(scratch, &product, g.num_rows, a.value_head_dim);
  }
};

template <class Products>
inline void attention(const AttentionArgs* args) {
  [[maybe_unused]] const typename Products::Session session;
  PackedBlocks<Products> blocks(*args);
  run_chunks(*args, blocks);
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
