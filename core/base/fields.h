// SPDX-License-Identifier: Apache-2.0
// Checks of single fields, whichever struct they are of: sizes, enums, reserved words, offsets. Messages name the field
// as the caller wrote it and its value.
#pragma once

#include <cstring>

#include "core/base/status.h"

namespace mha {

constexpr int64_t kMaxSize = int64_t{1} << 62;
constexpr int64_t kMaxBytes = INT64_MAX / static_cast<int64_t>(sizeof(float));

// A group that is not given counts as zeroed.
template <class Group>
constexpr Group kNotGiven = {};
template <class Group>
const Group& given_or_default(const Group* group) {
  return group != nullptr ? *group : kNotGiven<Group>;
}

// The number in a caller's enum. It may be no value of the enum; reading it as the enum would then be undefined.
template <class Enum>
int enum_value(const Enum& e) {
  static_assert(sizeof(Enum) == sizeof(int), "enums of the interface are ints");
  int value = 0;
  memcpy(&value, &e, sizeof(value));
  return value;
}

// Reserved fields must be zero. `name` is the name of their struct in messages.
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

// Refuses a field that the call would ignore; `why` is the reason.
mha_status fail_unused(const char* field, const char* why, mha_error* error);

// "MHA_F16" for MHA_F16; null for a number that is no mha_dtype.
const char* dtype_name(int dtype);
// The element types that this version has (kernels/elements.def). A number that is no mha_dtype is MHA_ERR_ARGUMENT.
mha_status check_dtype(const char* name, const mha_dtype& dtype, mha_error* error);
// MHA_F32 only.
mha_status check_float(const char* name, const mha_dtype& dtype, mha_error* error);

mha_status check_arithmetic(const mha_arithmetic& arithmetic, mha_error* error);
mha_status check_storage(const char* name, const mha_storage& storage, mha_error* error);
mha_status check_layout(const mha_weight_layout& layout, mha_error* error);

// `data` must be aligned to `bytes`, the size of its elements. A null pointer passes.
mha_status check_aligned(const char* name, const void* data, mha_error* error, size_t bytes = sizeof(float));

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

// offsets[0] == 0, ascending, offsets[count] == total. total_name is the name of the total in messages.
mha_status check_offsets(const char* name, const int64_t* offsets, int64_t count, const char* total_name, int64_t total,
                         mha_error* error);

}  // namespace mha
