// SPDX-License-Identifier: Apache-2.0
// The contract of kernels: tables of leaf functions, their arguments, and the tile sizes that the planner needs. The
// only thing that core/ and simd/ share. Kernels neither allocate nor thread; they take pointers, strides and sizes,
// need no alignment, and touch nothing outside the stated extents.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/kernels/score_mods-inl.h"

namespace mha {

constexpr int64_t kPanel = 16;   // columns of a packed panel: one 64-byte line, on every target
constexpr int64_t kChunk = 256;  // keys whose partial result is one unit of the canonical order

constexpr int64_t kFewKeys = 16;  // up to which FewKeysKernels go

constexpr int64_t divide_up(int64_t x, int64_t unit) { return x / unit + (x % unit != 0 ? 1 : 0); }
constexpr int64_t round_up(int64_t x, int64_t unit) { return divide_up(x, unit) * unit; }
constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// How an element is stored. The numbers are those of mha_dtype.
enum class Element : int32_t {
#define MHA_ELEMENT(name, dtype, type, bytes) name,
#define MHA_CODE(name, dtype, number, type, units, bytes) name = (number),
#include "core/kernels/elements.def"
};
constexpr int kElements = 18;  // one more than the greatest number

// Codes are integers with scales; others are floats. A build may leave codes out (MHA_CODES=OFF); then no element is one,
// and what handles codes is never reached.
#if defined(MHA_NO_CODES)
constexpr bool kHasCodes = false;
#else
constexpr bool kHasCodes = true;
#endif

constexpr bool is_code(Element element) {
  if (!kHasCodes) return false;
  switch (element) {
#define MHA_CODE(name, dtype, number, type, units, bytes) case Element::name:
#include "core/kernels/elements.def"
    return true;
    default:
      return false;
  }
}

// The zero that codes have where none are given.
constexpr float own_zero(Element element) {
  return element == Element::kU8 ? 128.0f : element == Element::kU4 ? 8.0f : 0.0f;
}

constexpr bool has_scales_inside(Element element) { return element == Element::kQ8_0 || element == Element::kQ4_0; }

// Bytes of the first `width` elements of a row. The last byte, or block with a scale, counts whole.
constexpr int64_t row_bytes(Element element, int64_t width) {
  switch (element) {
#define MHA_ELEMENT(name, dtype, type, bytes) \
  case Element::name:                         \
    return width * (bytes);
#define MHA_CODE(name, dtype, number, type, units, bytes) \
  case Element::name:                                     \
    return divide_up(width, units) * (bytes);
#include "core/kernels/elements.def"
  }
  return 0;
}

// Bytes of an element of a type of floats.
constexpr int64_t bytes_of(Element element) { return row_bytes(element, 1); }

// Where scales or zeros of codes are.
enum class ScalePlace : int32_t {
  kNone,    // scales are inside the rows; all zeros are the same
  kTensor,  // a tensor's own: `data` is where they begin
  kPages,  // in the page of their rows (in a contiguous cache: behind the rows), `offset` bytes after the first of these
};

// Scales or zeros of codes: that of item (or page) b, token t, head h, element d is at
//   begin + b * stride_b + t / group_tokens * stride_t + h * stride_h + d / group * stride_d
// with strides in bytes; in pages b is 0 and t the token's place in its page.
struct CodeScales {
  ScalePlace place;
  Element element;  // a type of floats; of zeros: also kI8, kU8
  const char* data;
  int64_t offset;
  int64_t stride_b, stride_t, stride_h, stride_d;
};

// What codes stand for: value = scale * (code - zero), both operations rounded to float.
struct CodeRows {
  CodeScales scales, zeros;
  float zero;                   // where there are no zeros
  int64_t group, group_tokens;  // elements of a row, and tokens, that share a scale
  bool hadamard;                // rows were rotated before they were rounded: RowKernels::hadamard
};

// The power of two that a page's tokens are, or -1: dividing by others takes long.
constexpr int32_t page_shift_of(int64_t page_size) {
  int32_t shift = 0;
  while (shift < 62 && int64_t{1} << shift < page_size) ++shift;
  return int64_t{1} << shift == page_size ? shift : -1;
}

// Rows of keys or values where they are stored: in one tensor, in the pages of a cache, or in pages of the caller's.
// All in bytes. Token t of head h is at
//   base + h * stride_h + t * stride_t                                    where page_size is 0, else at
//   page(t / page_size) + h * stride_h + t % page_size * stride_t,
//   page(n) = base + table[n] * stride_page                               where table is given, else
//   page(n) = pages[n < pinned_pages ? n : pinned_pages + (n - pinned_pages) % ring_pages] + offset.
// A ring may hold no page for tokens that it dropped. No row sees them, but their chunk may be read; then `spare`, any
// page of the sequence, is read.
struct TokenRows {
  const char* base;
  int64_t stride_t, stride_h;
  Element element;
  const char* const* pages;
  const int32_t* table;
  int64_t stride_page;
  const char* spare;
  int64_t page_size, offset, pinned_pages, ring_pages;
  int32_t page_shift;              // page_shift_of(page_size)
  const CodeRows* codes;           // where elements are codes; those of token t of head h are those of
  int64_t code_b, code_t, code_h;  // item code_b, or of its page, token code_t + t, head code_h + h
};

// Rows of floats rounded to codes of any type without scales inside, each group of a row with its scale. What is stored:
//   bytes b = -128 .. 127 (I8), or b + 128 (U8); nibbles b = -8 .. 7 as b + 8 (I4, U4), 0 behind the last of an odd row
//   symmetric      8 bits: scale = max |x| / 127; 4 bits: scale = x / -8 of the greatest |x| (of two the positive one)
//   with zeros     scale = (max(x, 0) / 2 - min(x, 0) / 2) / (n / 2), n = 255 or 15; zero = nearest(-min(x, 0) * inverse)
//                  + the least code, not above the greatest
//   scale          rounded to its type, to nearest even; not 0 unless all x are: at least the type's least positive
//                  number, of F32 and BF16 2^-126. A NaN, with codes of zero, where an x is not finite or the type
//                  does not reach so far
//   inverse        1 / scale as stored, rounded to float
//   code           nearest(x * inverse, rounded, + fraction of the zero) + the zero's nearest integer, within the type's
//                  range; nearest: to even
// Denormal x count as 0. The same bits on every target.
struct QuantiseArgs {
  const char* src;     // rows of floats
  int64_t src_stride;  // bytes from row to row
  Element src_element;
  char* dst;  // rows of codes
  int64_t dst_stride;
  Element dst_element;
  char* scales;  // [groups] of each row, written; null where they are fixed
  int64_t scale_stride;
  Element scale_element;
  char* zeros;  // the same, integers of 8 bits, signed or not as the codes are; null: symmetric
  int64_t zero_stride;
  int64_t group;          // elements of a row that share a scale: a multiple of 16, or at least the row
  const CodeRows* fixed;  // scales and zeros known in advance, those of item and token 0; null: computed. A NaN x then
                          // counts as 0
  int64_t head, head_step;  // row r is of head `head + r * head_step`, which the fixed scales depend on
  int64_t rows, columns;
};

// Tokens of one head of codes, as floats or rounded once from these.
struct WidenArgs {
  const TokenRows* rows;
  int64_t head, begin, count, columns;
  char* dst;
  int64_t dst_stride;
  Element dst_element;
};

// Rows of elements, widened or rounded from one type to another.
struct ConvertArgs {
  const char* src;
  int64_t src_stride;  // bytes from row to row
  Element src_element;
  char* dst;
  int64_t dst_stride;
  Element dst_element;
  int64_t rows, columns;
};

struct GemmArgs {
  const char* a;  // [m, k], rows a_stride bytes apart
  int64_t a_stride;
  Element a_element;
  const char* panels;  // [ceil(n / 16)] of panel_bytes: [k][16]; BF16: [ceil(k / 2)][16][2]; codes: words
  Element panels_element;
  const char *scales, *zeros;  // where panels are codes: [ceil(n / 16)][ceil(k / group)][16]; zeros may be null
  Element scale_element, zero_element;
  int64_t group;      // k that share a scale: a multiple of 16, or k
  const float* bias;  // [ceil(n / 16) * 16] or null
  char* c;            // [m, n], rows c_stride bytes apart
  int64_t c_stride;
  Element c_element;
  int64_t m, n, k;
  bool far;        // the panels are part of weights that come from the outermost cache or memory
  float* scratch;  // LinearKernels::gemm_scratch floats; null where everything is F32, the arithmetic too
};

// Kernels keep scores in a unit of 8 in log2: a score x stands for 2^(8 x). A power of two costs no bit, and no sum of
// a score, its biases and masks, each up to FLT_MAX, overflows.
constexpr float kScoreUnit = 8.0f;
constexpr double kNaturalToScoreUnit = 1.44269504088896340736 / 8;  // log2(e) / 8
constexpr float kToScoreUnit = static_cast<float>(kNaturalToScoreUnit);
// A row's greatest score of this size or more, positive or negative, is kept as a quarter of what it is in natural
// units. Two scores of that size are equal, or so far apart that the less has no weight: their order is all that
// counts, and a product with log2(e) would round neighbours to one number. A quarter is more than log2(e) / 8, so the
// order holds across this border too.
constexpr float kHugeScore = 0x1p120f;
constexpr float kHugeUnit = 4.0f;

constexpr bool is_huge(float score) { return score >= kHugeScore || score <= -kHugeScore; }

// Softmax state of a row over the keys seen so far: the greatest score and the sum of 2^(8 (score - max)). No visible
// key: {-inf, 0}. A partial result that was not computed, since no row of its call saw a key: a sum of kUnseen; its
// output is not written.
struct RowState {
  float max;
  float sum;
};
constexpr float kUnseen = -1.0f;

// The rest of what decides which keys a row sees and how its scores change. Only calls that need it have it.
struct RowExtras {
  const char* add_mask2;                   // [key_len] or null: added after AttentionRow::add_mask
  float add_factor;                        // of the entries of AttentionRow::add_mask
  Element add_element, add2_element;       // of the additive masks
  int64_t bool_step, add_step, add2_step;  // entries from key to key of the masks; 0: one for all, 1: dense
  const uint8_t* bit_mask;                 // [ceil(key_len / 8)] or null: bit j % 8 of byte j / 8 set = visible
  const int32_t* key_segments;             // [key_len] or null: keys whose segment is `segment` are visible
  const int64_t* blocks;  // [num_blocks][2]: the second of each pair is a block of key_block visible keys,
  int64_t num_blocks;     // ascending
  int64_t key_block;      // 0: no such list
  int64_t pinned_end;     // keys j < pinned_end <= key_begin are visible beside those from key_begin on
  int32_t segment;
  RowMods mods;
};

// One query row as a kernel sees it: a query of one head, or one of several heads that share keys and values.
struct AttentionRow {
  const char* query;         // [head_dim]
  char* output;              // [value_head_dim], or floats: a partial result, a row of attention weights [key_len]
  const uint8_t* bool_mask;  // [key_len] or null; non-zero = visible. RowExtras says how far apart entries are, or 1
  const char* add_mask;      // [key_len] or null; -inf = not visible. RowExtras says the same and the type, or F32
  int64_t key_begin;         // keys j < key_begin are not visible, but those that extras pins
  int64_t key_end;           // keys j >= key_end are not visible
  int64_t gap_begin;         // keys [gap_begin, tail_begin) are not visible. Masks end at gap_begin; keys from
  int64_t tail_begin;        // tail_begin on are always visible. 0, 0: no gap
  float* weights;            // [key_len] or null: the row of attention weights, wanted beside the output
  const RowExtras* extras;   // or null
  RowState state;            // for `weights`: of the whole row
};

struct AttentionArgs {
  const AttentionRow* rows;  // [kv_heads][num_rows / kv_heads]
  int64_t num_rows;
  int64_t kv_heads;  // 1 for PackedKernels
  Element query_element, output_element;
  TokenRows key;    // [key_end, head_dim]
  TokenRows value;  // [key_end, value_head_dim]
  int64_t head_dim;
  int64_t value_head_dim;
  int64_t key_begin;  // a multiple of kChunk: the first key looked at
  int64_t key_end;    // the last key looked at, plus one
  float query_scale;  // scale in the unit of scores, or what ScoreMods says
  ScoreMods mods;
  TokenRows next_key;    // what the next call of this thread will begin with, to be asked for ahead of time: tokens
  TokenRows next_value;  // [next_begin, next_begin + next_keys), at most kChunk; 0: not known
  int64_t next_begin, next_keys;
  const char* next_query;
  int64_t next_query_stride;
  RowState* states;  // [num_rows], written
  bool finish;       // divide by the sum: output is the result, not a partial one, and so are weights
  float* maxima;     // finish, and rows have weights: [chunks up to key_end][num_rows], of the kernel's own; else null
  int64_t weights_len;  // of a row of weights; what is not visible becomes 0
  float* scratch;       // PackedKernels::scratch or InPlaceKernels::scratch floats
};

// Rows that see all of few keys, each of its own key/value head maybe.
struct FewKeysArgs {
  const char* const* query;  // [num_rows]: where each row's query is,
  const char* const* key;    // its first key,
  const char* const* value;  // its first value,
  char* const* output;       // its output,
  float* const* weights;     // and its weights; null: not wanted
  Element query_element, key_element, value_element, output_element;
  int64_t num_rows;
  int64_t keys;                      // 1 to kFewKeys
  int64_t key_stride, value_stride;  // bytes
  int64_t head_dim, value_head_dim;
  float query_scale;  // scale in the unit of scores
  RowState* states;   // [num_rows] or null, written
  float* scratch;     // FewKeysKernels::scratch floats
};

struct MergeArgs {
  const float* partial_outputs;    // chunk c of the row is at partial_outputs + c * step, and
  const RowState* partial_states;  // as many floats from here on
  int64_t step;
  int64_t num_chunks;
  int64_t value_head_dim;
  char* output;  // [value_head_dim]
  Element output_element;
  RowState* state;  // of the row, written
  bool has_sink;    // merged at the end:
  float sink;       // as RowMods::sink
};

struct FinishWeightsArgs {
  const AttentionRow* row;  // weights as calls without `finish` left them, each of its chunk
  int64_t weights_len;
  RowState state;       // of the whole row
  const float* maxima;  // of chunk c: maxima[c * step], as in its RowState
  int64_t step, num_chunks;
};

struct WeightsArgs {
  const AttentionRow* rows;  // output = row of weights, keys dense
  int64_t num_rows;
  Element query_element;
  TokenRows key;
  int64_t head_dim;
  int64_t key_len;  // length of a row of weights; what is not visible becomes 0
  float query_scale;
  ScoreMods mods;
  bool accumulate;  // add to the row of weights (mean over heads, sum over queries), row after row
  float factor;     // multiplies what is stored (1 / H with the last head, else 1)
  float* scratch;
};

// Rows of one token (its heads): RMS norm, then rotation by the token's angles.
struct NormRopeArgs {
  const char* input;  // [count, width], rows input_stride bytes apart
  int64_t input_stride;
  Element input_element;
  char* output;  // alike; may be the input with its type and stride
  int64_t output_stride;
  Element output_element;
  int64_t count, width;
  bool norm;
  float epsilon;
  const float* weight;  // [width], or null: ones
  int64_t dims;         // even; the first so many elements turn
  bool interleaved;     // pairs (2d, 2d + 1), else (d, d + dims / 2)
  const float* cos;     // [dims / 2]; interleaved: [dims], each twice
  const float* sin;     // [dims / 2]; interleaved: [dims], (-sin, sin) a pair
};

// The Walsh-Hadamard rotation of rows of at most so many elements: mha_storage in mha.h.
constexpr int64_t kMostHadamard = 1024;

// The elements that rotate together: the largest power of two that divides the width.
constexpr int64_t hadamard_block(int64_t width) { return width & -width; }

// 1 / sqrt(block), rounded.
constexpr float hadamard_factor(int64_t block) {
  float factor = 1;
  for (; block >= 4; block /= 4) factor /= 2;
  return block == 2 ? factor * 0.70710678f : factor;
}

struct HadamardArgs {
  const char* src;  // [rows, columns] of floats of any type, rows src_stride bytes apart
  int64_t src_stride;
  Element src_element;
  char* dst;  // alike; may be the source with its type and stride
  int64_t dst_stride;
  Element dst_element;
  int64_t rows, columns;  // a multiple of 16, at most kMostHadamard
  int64_t block;          // hadamard_block(columns)
  float factor;           // hadamard_factor(block)
};

inline HadamardArgs hadamard_args(int64_t rows, int64_t columns) {
  HadamardArgs args = {};
  args.rows = rows, args.columns = columns;
  args.block = hadamard_block(columns), args.factor = hadamard_factor(args.block);
  return args;
}

// How the frequencies of rotary pairs change from base^(-2 d / dims), in double.
enum class FrequencyScaling {
  kNone,
  kAll,          // divided by `factor`
  kWavelengths,  // those with more than length / low tokens a turn are divided, with fewer than length / high stay
  kRamp,         // pairs from `high` on are divided, those below `low` stay; in between, here as above, a mixture
};

struct FrequencyArgs {
  int64_t dims;     // even
  double log_base;  // natural logarithm of the base
  FrequencyScaling scaling;
  double factor, length, low, high;
  double* frequencies;  // room for dims / 2 rounded up to 32
};

struct AngleArgs {
  const double* frequencies;  // readable to `pairs` rounded up to 32
  int64_t pairs;
  double position;   // 0 to 2^31 - 1
  double amplitude;  // multiplies cosines and sines
  bool interleaved;
  float* cos;  // as in NormRopeArgs, with room for the same rounded number of pairs
  float* sin;
};

// How products are computed. The numbers are those of mha_arithmetic.
enum class Arithmetic : int32_t { kF32, kBf16, kInt8 };
constexpr int kArithmetics = 3;

// A type of keys that the arithmetic has on every target that has it.
constexpr Element keys_of(Arithmetic arithmetic) {
  return arithmetic == Arithmetic::kInt8 ? Element::kI8 : Element::kF32;
}

// INT8: the widest key, whose product with a query of 15 bits stays below 2^31.
constexpr int64_t kMostInt8Width = 1024;

// A build may leave BF16 out (MHA_BF16=OFF).
#if defined(MHA_NO_BF16)
constexpr bool kHasBf16 = false;
#else
constexpr bool kHasBf16 = true;
#endif

// Steps that a panel of packed weights has. BF16 keeps pairs.
constexpr int64_t packed_depth(Arithmetic arithmetic, int64_t in_features) {
  return arithmetic == Arithmetic::kBf16 ? round_up(in_features, 2) : in_features;
}

// Codes of weights that share a word of 32 bits, the first in its lowest bits.
constexpr int64_t kWordBytes = 4;
constexpr int64_t codes_of_word(Element element) { return element == Element::kI4 || element == Element::kU4 ? 8 : 4; }

// Bytes of a panel of 16 outputs. Codes: [ceil(in / codes_of_word)][16] words.
constexpr int64_t panel_bytes(Arithmetic arithmetic, Element element, int64_t in_features) {
  if (is_code(element)) return divide_up(in_features, codes_of_word(element)) * kPanel * kWordBytes;
  return packed_depth(arithmetic, in_features) * kPanel * bytes_of(element);
}

// Output rows of one head are far apart ([T, H, D]): each is in a page of its own, or in half of one, and together they
// fall into few cache sets. Up to this width packed attention keeps the running output in scratch between chunks. For
// wider heads scratch would hold half as many rows, so keys would be packed twice as often.
constexpr int64_t kRunningWidth = 64;
// Whether it does; if not, the output's rows hold the running output. Rounded outputs (16 bits) cannot.
constexpr bool keeps_running(int64_t value_head_dim, Element output) {
  return value_head_dim <= kRunningWidth || output != Element::kF32;
}

// Attention of many query rows: keys and values are packed.
struct PackedKernels {
  // Attention of the rows over keys [key_begin, key_end), chunk by chunk in the canonical order. Without `finish`,
  // output and states are the partial result of these chunks.
  void (*attention)(const AttentionArgs* args);
  // Weights from queries and keys, if attention did not store them (mean over heads, sums, some rows): as
  // ResultKernels::finish_weights gives them.
  void (*weights)(const WeightsArgs* args);
  // Floats of scratch for both. rows: query rows whose running output is kept in
  // scratch; 0 if there is one chunk of keys.
  int64_t (*scratch)(int64_t rows, int64_t head_dim, int64_t value_head_dim, Element output);
  int64_t group_rows;                     // query rows that share one pass over a chunk
  int64_t tile_rows, tile_columns;        // the tile of its products, and
  int64_t tallest_rows, tallest_columns;  // a taller one, used if columns are so few that it takes no more tiles
  const char* products;                   // what multiplies, in words
};

// The same for few query rows (decoding): keys and values are read where they are stored.
struct InPlaceKernels {
  void (*attention)(const AttentionArgs* args);                                // of one or more key/value heads
  int64_t (*scratch)(int64_t rows, int64_t head_dim, int64_t value_head_dim);  // floats
  int64_t head_rows;     // query rows of a key/value head up to which this is faster than packing, and
  int64_t most_rows;     // the most rows it takes, of all heads
  const char* products;  // what multiplies, in words
};

// The same for at most kFewKeys keys that every row sees: a lane for each row. Finished results.
struct FewKeysKernels {
  void (*attention)(const FewKeysArgs* args);
  int64_t (*scratch)(int64_t head_dim, int64_t value_head_dim);  // floats
};

// Results that are put together from chunks.
struct ResultKernels {
  // Merges the partial results of a row's chunks in ascending order and divides by the sum. One attention call over
  // all chunks gives the same bits.
  void (*merge)(const MergeArgs* args);
  // Finishes stored weights in place, if chunks ran in separate calls (in one call `attention` does it):
  // weights[j] = 2^(8 (score_j - max of the chunk)) * f for visible keys, 0 for the others,
  // f = 2^(8 (max of the chunk - max)) / sum.
  void (*finish_weights)(const FinishWeightsArgs* args);
};

// The kernels of attention in one arithmetic over keys of one element type.
struct AttentionKernels {
  const PackedKernels* packed;  // null: the target does not have this arithmetic
  const InPlaceKernels* in_place;
  const FewKeysKernels* few_keys;  // may be null
  const ResultKernels* results;
};

// What is the same in every arithmetic: rows converted, normed, rotated.
struct RowKernels {
  // dst[r][c] = src[r][c]: widened exactly, rounded to nearest even (simd/element-inl.h).
  void (*convert)(const ConvertArgs* args);

  // Floats to codes, and codes to floats.
  void (*quantise)(const QuantiseArgs* args);
  void (*widen)(const WidenArgs* args);

  // output = rotate(norm(input)): norm(x) = x * (1 / sqrt(mean(x^2) + epsilon)) * weight, squares summed over 16 lanes
  // and the fixed tree; a pair (x1, x2) becomes (fma(x1, cos, -(x2 * sin)), fma(x2, cos, x1 * sin)).
  void (*norm_rope)(const NormRopeArgs* args);

  // Walsh-Hadamard: for distance 1, 2, 4, ..., block / 2 elements i and i + distance, where i does not have that bit,
  // become their sum and difference; then all are multiplied by the factor.
  void (*hadamard)(const HadamardArgs* args);

  // The angle of each pair at position 1, by FrequencyScaling; dims / 2 of them.
  void (*rope_frequencies)(const FrequencyArgs* args);

  // Cosines and sines of a position, as norm_rope takes them. Both by the operations of elementary.cpp: the same bits
  // on every target, SSE2 included.
  void (*rope_angles)(const AngleArgs* args);

  // y[i] = 2^x[i] as the softmax computes it, for x <= 0.
  void (*exp2)(const float* x, float* y, int64_t n);

  // y[i] = tanh(x[i]) as the softcap computes it.
  void (*tanh)(const float* x, float* y, int64_t n);
};

// The kernels of one target. A target may have few of its own and take the rest from a base: what is null is looked up
// there (attention_kernels_of).
struct KernelTable {
  const char* name;
  const KernelTable* base;  // null: complete
  bool has_fma;             // takes part in the same-bits promise
  bool uses_tiles;          // of AMX, which the kernel grants to a process that asks for them (simd/permission.h)
  const RowKernels* own_rows;
  AttentionKernels attention[kArithmetics][kElements];  // [arithmetic][element type of keys]

  const RowKernels& rows() const { return own_rows != nullptr ? *own_rows : base->rows(); }
};

// The kernels for a pair, each of the target that has one, the best first.
inline AttentionKernels attention_kernels_of(const KernelTable& table, Arithmetic arithmetic, Element keys) {
  AttentionKernels found = {};
  for (const KernelTable* t = &table; t != nullptr; t = t->base) {
    const AttentionKernels& own = t->attention[static_cast<int>(arithmetic)][static_cast<int>(keys)];
    if (found.packed == nullptr) found.packed = own.packed;
    if (found.in_place == nullptr) found.in_place = own.in_place;
    if (found.few_keys == nullptr) found.few_keys = own.few_keys;
    if (found.results == nullptr) found.results = own.results;
  }
  return found;
}

// The kernels of projections in one arithmetic over panels of one element type.
struct LinearKernels {
  // Panels dst[p][c][r] = src[p * 16 + r][c] for 16 rows r at a time; rows beyond `rows` become zeros.
  // src [rows, columns]; dst [ceil(rows / 16)][columns][16], without a stride. BF16: columns c and c + 1 of a row are a
  // pair, dst [ceil(rows / 16)][ceil(columns / 2)][16][2], with a column of zeros where their number is odd. INT8: null,
  // panels are codes.
  void (*pack_weights)(const ConvertArgs* args);

  // c[m,n] = bias[n] + sum_k a[m,k] * b[k,n]: per element one chain of fused multiply-adds over k ascending from 0,
  // then the bias added. BF16: two chains for each 32 k; INT8: exact sums for each group (core/README.md).
  void (*gemm)(const GemmArgs* args);

  int64_t (*gemm_scratch)(int64_t rows, int64_t k);  // floats, for `gemm` of at most so many rows
  int64_t tile_rows, tile_columns;                   // that it computes together
  int64_t depth;                                     // k that it takes at a time
  const char* products;                              // what multiplies, in words
};

// A table of their own: a program that links attention alone does not pay for projections.
struct LinearTable {
  const LinearTable* base;                                // as in KernelTable
  const LinearKernels* kernels[kArithmetics][kElements];  // [arithmetic][element type of panels]
};

}  // namespace mha
