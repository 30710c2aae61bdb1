// SPDX-License-Identifier: Apache-2.0
// What the checks of arguments share: sizes, reserved fields, views with their strides. Messages name the argument as
// the caller wrote it and its value.
#pragma once

#include "core/call/validate.h"

namespace mha {

constexpr int64_t kMaxSize = int64_t{1} << 62;
constexpr int64_t kMaxBytes = INT64_MAX / static_cast<int64_t>(sizeof(float));

// A group that is not given is one of zeros.
template <class Group>
constexpr Group kNotGiven = {};
template <class Group>
const Group& given_or_default(const Group* group) {
  return group != nullptr ? *group : kNotGiven<Group>;
}

// What a caller put into an enum, which may be no value of it: reading that as the enum is undefined.
template <class Enum>
int enum_value(const Enum& e) {
  static_assert(sizeof(Enum) == sizeof(int), "enums of the interface are ints");
  int value = 0;
  memcpy(&value, &e, sizeof(value));
  return value;
}

// Fields of later versions, of the struct that messages call `name`, must be zero.
mha_status fail_reserved(const char* name, const char* field, int64_t index, mha_error* error);
template <int kWords>
mha_status check_reserved(const char* name, const uint64_t (&words)[kWords], mha_error* error) {
  for (int i = 0; i < kWords; ++i) {
    if (words[i] != 0) return fail_reserved(name, "reserved", i, error);
  }
  return MHA_OK;
}
template <int kWords>
mha_status check_reserved(const char* name, int word, const uint64_t (&words)[kWords], mha_error* error) {
  if (word != 0) return fail_reserved(name, "reserved_int", -1, error);
  return check_reserved(name, words, error);
}

// A field that the call would not look at, since `why`.
mha_status fail_unused(const char* field, const char* why, mha_error* error);

// The storage that this version has: floats. A number that is no mha_dtype is MHA_ERR_ARGUMENT.
mha_status check_dtype(const char* name, const mha_dtype& dtype, mha_error* error);
mha_status check_arithmetic(const char* name, const mha_arithmetic& arithmetic, mha_error* error);
mha_status check_storage(const char* name, const mha_storage& storage, mha_error* error);
mha_status check_layout(const mha_weight_layout& layout, mha_error* error);

// A pointer to floats that is given stands at a multiple of 4 bytes.
mha_status check_aligned(const char* name, const void* data, mha_error* error);

// value in [least, 2^62], else MHA_ERR_ARGUMENT or MHA_ERR_OVERFLOW naming it.
mha_status check_size(const char* name, int64_t value, int64_t least, mha_error* error);

struct NamedSize {
  const char* name;
  int64_t value, least;
};

template <int kCount>
mha_status check_sizes(const NamedSize (&sizes)[kCount], mha_error* error) {
  for (const NamedSize& s : sizes) MHA_TRY(check_size(s.name, s.value, s.least, error));
  return MHA_OK;
}

// offsets[0] == 0, ascending, offsets[count] == total, which is called total_name.
mha_status check_offsets(const char* name, const int64_t* offsets, int64_t count, const char* total_name, int64_t total,
                         mha_error* error);

// --- Views -----------------------------------------------------------------------------------------------------------

struct Dimensions {
  int64_t b, t, h, d;
};

// What a view must satisfy, and its strides with the default filled in.
struct ElementStrides {
  int64_t b, t, h;
};

enum class Order { kBthd, kBhtd };

// The last element is stored below 2^63 bytes.
mha_status check_extent(const char* name, const Dimensions& n, const ElementStrides& s, mha_error* error);
mha_status check_input(const char* name, const mha_view& v, const Dimensions& n, Check check, ConstTensor* out,
                       mha_error* error);
// Also that distinct elements do not overlap.
mha_status check_result(const char* name, const mha_mut_view& v, const Dimensions& n, Order order, Check check,
                        Tensor* out, mha_error* error);
// Views that have no such dimension.
mha_status check_no_stride(const char* name, const char* dimension, int64_t stride, mha_error* error);

// The memory of a tensor, to tell whether two of them certainly overlap.
struct Extent {
  const char *begin, *end;  // both null: none
  bool gapless;             // every byte is an element's
  int64_t last;             // bytes of the last row, which ends at `end`
};
Extent extent_of(const float* data, const Dimensions& n, const ElementStrides& s);
inline Extent extent_of(const ConstTensor& t, const Dimensions& n) {
  return extent_of(t.data, n, {t.stride_b, t.stride_t, t.stride_h});
}
inline Extent extent_of(const Tensor& t, const Dimensions& n) {
  return extent_of(t.data, n, {t.stride_b, t.stride_t, t.stride_h});
}
bool certainly_overlap(const Extent& a, const Extent& b);

struct NamedExtent {
  const char* name;
  Extent extent;
};
// No result overlaps another one or an input.
mha_status check_overlaps(const NamedExtent* results, int num_results, const NamedExtent* inputs, int num_inputs,
                          mha_error* error);

// --- Groups ----------------------------------------------------------------------------------------------------------

// Groups as a call points to them.
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
  bool prepares_keys;     // the layer norms and rotates keys of this call
};

Groups groups_of(const mha_attention_args& args);
Groups groups_of(const mha_layer_args& args);

// The fields of later versions in every group that is given.
mha_status check_reserved(const Groups& groups, mha_error* error);

// The greatest sizes of all calls that a bound is for: without items, and with keys in a tensor as long as any sequence
// of the cache can be.
struct BoundSizes {
  int64_t key_len;
  bool packed_queries, packed_keys, shares_pages;
  int64_t ring_tokens;
};
mha_status bound_sizes(const Groups& groups, int64_t key_len, BoundSizes* sizes, mha_error* error);
// Tells a problem that was checked with those sizes what it stands for.
void set_bound(const BoundSizes& sizes, AttentionProblem* p);

// How long the items are and where their queries stand, into *p, whose sizes must be set.
mha_status check_items(const Groups& groups, AttentionProblem* p, mha_error* error);
// Whether anything of the call looks at p(i).
bool looks_at_positions(const Groups& groups);
mha_status check_positions(const Groups& groups, AttentionProblem* p, mha_error* error);
// The table of pages; entries are read with Check::kAll.
mha_status check_pages(const mha_pages& pages, Check check, AttentionProblem* p, mha_error* error);
// Whether a ring still keeps what the masks show.
mha_status check_ring(const AttentionProblem& p, mha_error* error);

// The masks and score modifications of a call, checked into *p, whose sizes and items must be set.
mha_status check_masks(const mha_masks& m, Check check, AttentionProblem* p, mha_error* error);
mha_status check_mods(const mha_score_mods& m, Check check, AttentionProblem* p, mha_error* error);
// The results besides the output.
mha_status check_results(const mha_results& r, Check check, AttentionProblem* p, mha_error* error);

mha_status check_scale(float scale, int is_exact, int64_t head_dim, float* out, mha_error* error);
mha_status check_norm(const char* name, const mha_norm& norm, mha_error* error);
mha_status check_heads(int64_t heads, int64_t kv_heads, int64_t* out, mha_error* error);
// Rows of attention over the whole call, and scores of one row, must be countable.
mha_status check_products(const AttentionProblem& p, mha_error* error);

// Adds the results besides the output, and where they are in memory.
int result_extents(const AttentionProblem& p, NamedExtent* results);

}  // namespace mha
