// SPDX-License-Identifier: Apache-2.0
// What the checks of a call share: views with their strides, and the groups of its arguments. Messages name the
// argument as the caller wrote it and its value.
#pragma once

#include "core/base/fields.h"
#include "core/call/validate.h"

namespace mha {

// --- Views -----------------------------------------------------------------------------------------------------------

struct Dimensions {
  int64_t b, t, h, d;
};

// The strides of a view in elements, with defaults filled in.
struct ElementStrides {
  int64_t b, t, h;
};

enum class Order { kBthd, kBhtd };

// The strides of a tensor to read, checked, with defaults filled in.
mha_status check_input_strides(const char* name, const mha_view& v, const Dimensions& n, ElementStrides* out,
                               mha_error* error);
// The last element must be stored below 2^63 bytes.
mha_status check_extent(const char* name, const Dimensions& n, const ElementStrides& s, mha_error* error);
mha_status check_input(const char* name, const mha_view& v, const Dimensions& n, Check check, ConstTensor* out,
                       mha_error* error);
// For a view that the call does not use: whatever asks for something is refused. (Its dtype does not: MHA_VIEW of a null
// pointer has one.)
mha_status check_unused(const char* name, const mha_view& v, const char* why, mha_error* error);
mha_status check_unused(const char* name, const mha_mut_view& v, const char* why, mha_error* error);
// The types of keys and values that the arithmetic multiplies. cache: where they are; null: in p.
mha_status check_pair(const AttentionProblem& p, const mha_cache* cache, mha_error* error);
// As check_input for keys or values, which may be codes.
mha_status check_tokens(const char* name, const mha_view& v, const Dimensions& n, Check check, ConstTensor* out,
                        CodeRows* codes, mha_error* error);
// As check_input; distinct elements must not overlap either.
mha_status check_result(const char* name, const mha_mut_view& v, const Dimensions& n, Order order, Check check,
                        Tensor* out, mha_error* error);
// The same for a type that has been checked.
mha_status check_result_place(const char* name, const mha_mut_view& v, const Dimensions& n, Order order, Check check,
                              Tensor* out, mha_error* error);
// The same for rows [B, T, H, width] of floats, or of codes whose scales are apart.
mha_status check_stored_result(const char* name, const mha_mut_view& v, const Dimensions& n, Check check, Tensor* out,
                               mha_error* error);
// Scales and zeros of codes that a call writes: `bytes` of each, 0: none, which must not be given.
struct ScaleResults {
  const char *scales_name, *zeros_name;
  void *scales, *zeros;
  int64_t scale_bytes, zero_bytes;  // a row; `rows` rows
  int64_t rows;
  Element element;  // of scales
};
mha_status check_scale_results(const ScaleResults& r, const char* why_not, Check check, mha_error* error);
// For a view without that dimension: the stride must be 0.
mha_status check_no_stride(const char* name, const char* dimension, int64_t stride, mha_error* error);

// The memory of a tensor, to find out whether two tensors certainly overlap.
struct Extent {
  const char *begin, *end;  // both null: no memory
  bool gapless;             // every byte belongs to an element
  int64_t last;             // bytes of the last row, which ends at `end`
};
Extent extent_of(const ConstTensor& t, const Dimensions& n);
inline Extent extent_of(const Tensor& t, const Dimensions& n) { return extent_of(as_const(t), n); }
// Of `count` floats; of bytes.
Extent extent_of(const float* data, int64_t count);
Extent extent_of_bytes(const void* data, int64_t count);
bool certainly_overlap(const Extent& a, const Extent& b);

struct NamedExtent {
  const char* name;
  Extent extent;
};
// No result overlaps another one or an input.
mha_status check_overlaps(const NamedExtent* results, int num_results, const NamedExtent* inputs, int num_inputs,
                          mha_error* error);

// --- Groups ----------------------------------------------------------------------------------------------------------

// The groups of arguments that a call points to.
struct Groups {
  const mha_items* items;
  const mha_positions* positions;
  const mha_masks* masks;
  const mha_score_mods* score_mods;
  const mha_norm* query_norm;
  const mha_norm* key_norm;  // null in attention, which takes keys as they are
  const mha_rope* rope;
  const mha_cache* cache;
  const mha_pages* pages;
  const mha_results* results;
  bool causal;
  bool keys_are_queries;  // self-attention of the layer: keys are projected from the query's tokens
  bool changes_keys;      // the layer norms and rotates keys of this call
};

Groups groups_of(const mha_attention_args& args);
Groups groups_of(const mha_layer_args& args);

// Reserved fields must be zero in every given group.
mha_status check_reserved(const Groups& groups, mha_error* error);

// The greatest sizes of the calls that a bound covers. Items are left out; instead of a cache there is a tensor of keys
// as long as the longest sequence that the cache can hold.
struct BoundSizes {
  int64_t key_len;
  bool packed_queries, packed_keys, shares_pages;
  int64_t ring_tokens;
};
mha_status bound_sizes(const Groups& groups, int64_t key_len, BoundSizes* sizes, mha_error* error);
// Adds to a problem that was checked with those sizes what was left out: packed items, shared pages, the ring.
void set_bound(const BoundSizes& sizes, AttentionProblem* p);
// Makes the views of a bound's args dense: their strides are those of packed items or of pages and do not fit its sizes,
// and no bytes depend on them. `results` keeps the changed group.
template <class View>
View without_strides(View v) {
  v.stride_b = v.stride_t = v.stride_h = 0;
  return v;
}
template <class Args>
void drop_strides(Args* args, mha_results* results) {
  args->query = without_strides(args->query), args->output = without_strides(args->output);
  args->key = without_strides(args->key), args->value = without_strides(args->value);
  *results = given_or_default(args->results);
  results->weights = without_strides(results->weights);
  if (args->results != nullptr) args->results = results;
}

// Writes how long the items are and where their keys are into *p, whose sizes must be set.
mha_status check_items(const Groups& groups, AttentionProblem* p, mha_error* error);
// Whether anything in the call depends on the positions p(i).
bool looks_at_positions(const Groups& groups);
mha_status check_positions(const Groups& groups, AttentionProblem* p, mha_error* error);
// Checks the table of pages; its entries are read only with Check::kAll.
mha_status check_pages(const mha_pages& pages, Check check, AttentionProblem* p, mha_error* error);
// A ring must still keep all keys that the masks leave visible.
mha_status check_ring(const AttentionProblem& p, mha_error* error);

// The masks and score modifications of a call, checked into *p, whose sizes and items must be set.
mha_status check_masks(const mha_masks& m, Check check, AttentionProblem* p, mha_error* error);
mha_status check_mods(const mha_score_mods& m, Check check, AttentionProblem* p, mha_error* error);
// The results other than the output.
mha_status check_results(const mha_results& r, Check check, AttentionProblem* p, mha_error* error);

mha_status check_scale(float scale, int is_exact, int64_t head_dim, float* out, mha_error* error);
mha_status check_norm(const char* name, const mha_norm& norm, mha_error* error);
mha_status check_heads(int64_t heads, int64_t kv_heads, int64_t* out, mha_error* error);
// The number of rows in the whole call, and of scores in a row, must not overflow.
mha_status check_products(const AttentionProblem& p, mha_error* error);

// How a call norms and rotates, checked into problem->norm_rope; the problem's sizes, items and positions must be set.
mha_status check_norm_rope(const Groups& groups, Check check, AttentionProblem* problem, mha_error* error);

// Lists the memory of the results other than the output; returns how many there are.
int result_extents(const AttentionProblem& p, NamedExtent* results);

}  // namespace mha
