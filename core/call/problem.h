// SPDX-License-Identifier: Apache-2.0
// A call after validation: defaults filled in, every size and stride known to be sound. What plan and run work on. Run
// sets the addresses of tensors that are in the workspace; otherwise a validated call does not change.
#pragma once

#include "core/base/status.h"
#include "core/cache/row_storage.h"
#include "core/call/packed_weight.h"
#include "core/kernels/kernel_table.h"
#include "core/mha.h"

namespace mha {

// What a byte read from beyond a core's own caches costs, in multiply-adds: some 30 GB/s a core beside 100 billion
// multiply-adds a second, and half of that, since what is small may well be in a cache.
constexpr double kMultiplyAddsPerByte = 1.5;

inline double work_of(double multiply_adds, double bytes) {
  const double reading = bytes * kMultiplyAddsPerByte;
  return multiply_adds > reading ? multiply_adds : reading;
}

// Tensors as calls keep them after validation: strides in bytes, the element type beside the data.
struct ConstTensor {
  const char* data;
  int64_t stride_b, stride_t, stride_h;
  Element element;
};

struct Tensor {
  char* data;
  int64_t stride_b, stride_t, stride_h;
  Element element;
};

inline ConstTensor as_const(const Tensor& t) {
  ConstTensor made;
  made.data = t.data, made.element = t.element;
  made.stride_b = t.stride_b, made.stride_t = t.stride_t, made.stride_h = t.stride_h;
  return made;
}

constexpr int64_t kFloatBytes = sizeof(float);

// Floats [B, T, H, width] in a workspace, dense.
inline Tensor dense_floats(void* data, int64_t tokens, int64_t heads, int64_t width) {
  Tensor made;
  made.data = static_cast<char*>(data), made.element = Element::kF32;
  made.stride_h = width * kFloatBytes, made.stride_t = heads * made.stride_h, made.stride_b = tokens * made.stride_t;
  return made;
}

// What happens to queries (and in the layer to keys) before attention: core/run/norm_rope.h.
struct NormRope {
  bool norm, rotate;
  bool hadamard;                           // queries are rotated as the keys were that are codes (mha_storage)
  bool copy;                               // queries leave the place where the output is written
  mha_rope rope;                           // validated; dims 0: no rotation
  float query_epsilon, key_epsilon;        // 0: no norm
  const float *query_weight, *key_weight;  // null: ones
  const int64_t* positions;                // of queries; null: p(i)
  const int64_t* key_positions;            // of keys; null: their numbers

  bool wanted() const { return norm || rotate || hadamard || copy; }
};

// Where queries stand among the keys: p(i) of mha_positions.
struct Alignment {
  mha_align align;         // never MHA_ALIGN_DEFAULT
  int64_t offset;          // with MHA_ALIGN_OFFSET, or
  const int64_t* offsets;  // [B]
};

// Pages of the caller's: mha_pages with its defaults filled in.
struct PageTable {
  const int32_t* table;  // null: keys and values are tensors, or in a cache
  int64_t stride, page_size, num_pages;
};

// Scales, softcaps and their quotients of this range are ordinary: products with queries neither vanish nor overflow.
constexpr float kLeastOrdinary = 0x1p-64f;
constexpr float kMostOrdinary = 0x1p64f;

struct AttentionProblem {
  Arithmetic arithmetic;
  int64_t batch, heads, kv_heads;
  int64_t query_len, key_len;  // of each item; where items are packed one after the other, of all together
  int64_t head_dim, value_head_dim;
  float scale;
  ConstTensor query, key, value;
  CodeRows key_codes, value_codes;  // where keys or values are codes
  // The queries as attention reads them: `query`, or floats in the workspace, normed and rotated as the call says.
  ConstTensor ready_query;
  bool causal;
  Alignment alignment;
  mha_masks masks;  // strides resolved: a stride_k of 0 repeats
  mha_score_mods mods;
  Tensor output;
  // Where attention writes: `output`, or where values were rotated and output is no floats, floats in the workspace.
  Tensor attended;
  bool hadamard_output;  // values were rotated before they were rounded to codes: so the output is rotated back
  mha_weights_mode weights_mode;
  const int64_t* weights_rows;  // [num_weights_rows]; null: all
  int64_t num_weights_rows;
  Tensor weights;  // stride_t steps queries; keys are dense
  float* log_sum_exp;

  const int64_t* query_offsets;  // [B + 1]: queries, or
  const int64_t* key_offsets;    // keys are packed; null: as many in each item
  const int64_t* key_lengths;    // [B]: keys that an item has of key_len; null: all
  PageTable pages;               // the caller's pages that hold keys and values, or
  const mha_cache* cache;        // the cache that holds them, of
  const int64_t* sequences;      // [B]; null: 0, 1, ...
  bool appends;                  // the cache will have as many more tokens as there are queries
  int64_t longest_key_len;       // of any item, with key_lengths key_len, and
  int64_t longest_query_len;

  bool shares_pages;    // keys are in pages that items may have in common
  int64_t ring_tokens;  // where the cache is a ring: tokens that it keeps at most; else 0

  int64_t tail;  // the last keys of each item, which every query sees whatever the masks (bias_key, add_zero_attn)

  NormRope norm_rope;
  bool copies_queries;  // normed and rotated queries go into the workspace; else in place
  bool copies_output() const { return hadamard_output && output.element != Element::kF32; }

  static bool is_extreme(double scale) {
    const double size = scale < 0 ? -scale : scale;
    return size > 0 && (size < static_cast<double>(kLeastOrdinary) || size > static_cast<double>(kMostOrdinary));
  }
  // Whether the queries' scale is left to the scores in part (score_mods.cpp).
  bool rescales_scores() const { return is_extreme(static_cast<double>(scale)); }
  bool has_mods() const {
    const mha_score_mods& m = mods;
    return rescales_scores()
#define MHA_MOD(name, field, text, given) || (given)
#include "core/kernels/score_mods.def"
        ;
  }
  // What a row of kernels carries beside its ranges and masks (RowExtras).
  bool has_extras() const {
    return has_mods() || masks.bit_mask.data != nullptr || masks.block_mask.pairs != nullptr ||
           masks.key_segments != nullptr || has_strided_masks() || masks.add_mask2.data != nullptr ||
           masks.add_mask_factors != nullptr || (masks.window_left > 0 && masks.sink_tokens > 0);
  }
  // Masks of single keys whose entries do not follow each other, or are no floats.
  bool has_strided_masks() const {
    return (masks.bool_mask.data != nullptr && masks.bool_mask.stride_k != 1) ||
           (masks.add_mask.data != nullptr && (masks.add_mask.stride_k != 1 || masks.add_mask.dtype != MHA_F32)) ||
           (masks.add_mask2.data != nullptr && masks.add_mask2.stride_k != 1);
  }

  int64_t group() const { return heads / kv_heads; }
  int64_t total_queries() const { return query_offsets != nullptr ? query_len : batch * query_len; }
  // Whether all items have the same sizes, and their queries the same positions.
  bool uniform() const {
    return query_offsets == nullptr && key_offsets == nullptr && key_lengths == nullptr && cache == nullptr &&
           alignment.offsets == nullptr;
  }
  // Keys that are there at the same time, of any item: a ring's lengths count those that it dropped.
  int64_t longest_reachable_key_len() const { return ring_tokens > 0 ? ring_tokens : longest_key_len; }
  bool nothing_to_do() const { return batch == 0 || heads == 0 || query_len == 0; }
};

// Floats of one partial result of a row: the running sums and the RowState.
constexpr int64_t partial_width(int64_t value_head_dim) { return value_head_dim + 2; }

// What the sine and cosine of a pair cost, in multiply-adds of a vector kernel.
constexpr double kWorkOfAngle = 500;

// Tokens of one tensor to be normed and rotated. Items of a batch have `length` tokens each, or with `offsets` are
// packed one after the other (stride_b unused). What becomes of a token depends on it and its position alone.
struct NormRopeProblem {
  ConstTensor input;  // [batch, length, heads, width]
  Tensor output;      // alike; may be the input
  int64_t batch;
  int64_t length;          // tokens of each item, or of all of them
  const int64_t* offsets;  // [batch + 1]: item b has tokens [offsets[b], offsets[b + 1]); null: length each
  int64_t heads, width;
  mha_rope rope;                   // validated; dims 0: no rotation
  bool hadamard;                   // the last step, into floats where it is not the only one
  float epsilon;                   // 0: no norm
  const float* weight;             // [width] of the norm; null: ones
  const int64_t* positions;        // [batch, length], or packed; null: the item's first position + t, which is
  const int64_t* first_positions;  // [batch]; null:
  int64_t first_position;          // the same for all
  const int64_t* slots;            // [batch, length]: where in output a token goes, < 0: nowhere; null: to its place
  int64_t page_size;               // slot s is token s % page_size of output's item s / page_size
  RowStorage storage;              // where output is codes, and where their scales and zeros go:
  char *scales, *zeros;            // [batch, length, heads] as output, rows of storage.scale_bytes and zero_bytes

  bool changes_rows() const { return epsilon > 0 || rope.dims > 0 || hadamard; }
  // Whether rows go through floats of a thread's own: codes of rows that are normed or rotated.
  bool needs_floats() const { return is_code(output.element) && changes_rows(); }
  int64_t tokens() const { return offsets != nullptr ? length : batch * length; }
  double work() const {
    const double rows = static_cast<double>(tokens()) * static_cast<double>(heads);
    return work_of(static_cast<double>(tokens()) * static_cast<double>(rope.dims) / 2 * kWorkOfAngle,
                   rows * static_cast<double>(width) * 2 * sizeof(float));
  }
};

// `batch` blocks of `rows` rows: inputs and outputs whose items do not follow each other at the stride of the rows.
struct LinearProblem {
  Arithmetic arithmetic;
  ConstTensor input;  // stride_h: unused
  PackedWeight weight;
  const float* bias;  // [ceil(out / 16) * 16] or null
  Tensor output;      // stride_h: unused
  int64_t batch, rows, in_features, out_features;

  bool is_float() const {
    return arithmetic == Arithmetic::kF32 && input.element == Element::kF32 && weight.form.element == Element::kF32 &&
           output.element == Element::kF32;
  }
  double multiply_adds() const {
    return static_cast<double>(batch) * static_cast<double>(rows) * static_cast<double>(in_features) *
           static_cast<double>(out_features);
  }
  // The same with the reading of the weights.
  double work() const {
    return work_of(multiply_adds(), static_cast<double>(out_features) / static_cast<double>(kPanel) *
                                        static_cast<double>(panel_bytes(arithmetic, weight.form.element, in_features)));
  }
};

}  // namespace mha
