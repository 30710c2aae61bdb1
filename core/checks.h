// SPDX-License-Identifier: Apache-2.0
// What the checks of arguments share: sizes, views with their strides, masks. Messages name the argument as the caller
// wrote it and its value.
#pragma once

#include "core/validate.h"

namespace mha {

constexpr int64_t kMaxSize = int64_t{1} << 62;
constexpr int64_t kMaxBytes = INT64_MAX / static_cast<int64_t>(sizeof(float));

struct Dimensions {
  int64_t b, t, h, d;
};

// What a view must satisfy, and its strides with the default filled in.
struct Strides {
  int64_t b, t, h;
};

enum class Order { kBthd, kBhtd };

// The last element lies below 2^63 bytes.
mha_status check_extent(const char* name, const Dimensions& n, const Strides& s, mha_error* error);
mha_status check_input(const char* name, const mha_view& v, const Dimensions& n, Check check, ConstTensor* out,
                       mha_error* error);
// Also that distinct elements do not overlap.
mha_status check_result(const char* name, const mha_mut_view& v, const Dimensions& n, Order order, Check check,
                        Tensor* out, mha_error* error);

// The masks and score modifications of a call, checked into *p, whose sizes and items must be set.
mha_status check_masks(const mha_masks& m, Check check, AttentionProblem* p, mha_error* error);
mha_status check_mods(const mha_score_mods& m, Check check, AttentionProblem* p, mha_error* error);

struct NamedSize {
  const char* name;
  int64_t value, least;
};

template <int kCount>
mha_status check_sizes(const NamedSize (&sizes)[kCount], mha_error* error) {
  for (const NamedSize& s : sizes) {
    const mha_status status = check_size(s.name, s.value, s.least, error);
    if (status != MHA_OK) return status;
  }
  return MHA_OK;
}

}  // namespace mha
