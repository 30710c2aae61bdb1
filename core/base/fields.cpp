// SPDX-License-Identifier: Apache-2.0
// Checks of single fields and their messages.
#include "core/base/fields.h"

#include <cstdio>

#include "core/base/version.h"

namespace mha {

using ll = long long;

mha_status fail_reserved(const char* name, const char* field, int64_t index, mha_error* error) {
  char place[32] = "";
  if (index >= 0) snprintf(place, sizeof(place), "[%lld]", ll{index});
  return fail(error, MHA_ERR_ARGUMENT,
              "%s.%s%s is not 0: the caller was built for a newer mha than this one (%s), or the struct was not zeroed",
              name, field, place, kVersion);
}

const char* dtype_name(int dtype) {
  switch (dtype) {
#define MHA_ELEMENT(name, dtype, type, bytes) \
  case dtype:                                 \
    return #dtype;
#define MHA_CODE(name, dtype, number, type, units, bytes)                             \
  case dtype:                                                                         \
    static_assert((dtype) == (number), "numbers of elements are those of mha_dtype"); \
    return #dtype;
#include "core/kernels/elements.def"
    default:
      return nullptr;
  }
}

mha_status check_dtype(const char* name, const mha_dtype& dtype, mha_error* error) {
  const int value = enum_value(dtype);
#define MHA_ELEMENT(name, dtype, type, bytes) \
  if (value == (dtype)) return MHA_OK;
#include "core/kernels/elements.def"
  if (dtype_name(value) == nullptr) {
    return fail(error, MHA_ERR_ARGUMENT, "%s.dtype is %d: not a value of mha_dtype", name, value);
  }
  return fail(error, MHA_ERR_UNSUPPORTED, "%s.dtype is %s: must be MHA_F32, MHA_F16 or MHA_BF16", name,
              dtype_name(value));
}

mha_status check_float(const char* name, const mha_dtype& dtype, mha_error* error) {
  MHA_TRY(check_dtype(name, dtype, error));
  const int value = enum_value(dtype);
  if (value == MHA_F32) return MHA_OK;
  return fail(error, MHA_ERR_UNSUPPORTED, "%s.dtype is %s: must be MHA_F32", name, dtype_name(value));
}

mha_status check_arithmetic(const mha_arithmetic& arithmetic, mha_error* error) {
  const int value = enum_value(arithmetic);
  if (value >= MHA_ARITHMETIC_F32 && value <= MHA_ARITHMETIC_INT8) return MHA_OK;
  return fail(error, MHA_ERR_ARGUMENT, "arithmetic is %d: not a value of mha_arithmetic", value);
}

mha_status check_storage(const char* name, const mha_storage& s, mha_error* error) {
  MHA_TRY(check_reserved(name, s.reserved, error));
  MHA_TRY(check_dtype(name, s.dtype, error));
  if (enum_value(s.scale_dtype) == 0 && s.group == 0 && s.zero_points == 0 && s.hadamard == 0 && s.fixed == nullptr) {
    return MHA_OK;
  }
  return fail(error, MHA_ERR_ARGUMENT,
              "%s.scale_dtype, group, zero_points, hadamard or fixed is given, but %s.dtype is %s, which has no scales",
              name, name, dtype_name(enum_value(s.dtype)));
}

mha_status check_layout(const mha_weight_layout& layout, mha_error* error) {
  const int value = enum_value(layout);
  if (value >= MHA_WEIGHT_ROWS && value <= MHA_WEIGHT_AWQ) return MHA_OK;
  return fail(error, MHA_ERR_ARGUMENT, "layout is %d: not a value of mha_weight_layout", value);
}

mha_status check_aligned(const char* name, const void* data, mha_error* error, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(data) % bytes == 0) return MHA_OK;
  return fail(error, MHA_ERR_ARGUMENT, "%s is at %p: must be aligned to %zu bytes", name, data, bytes);
}

mha_status fail_unused(const char* field, const char* why, mha_error* error) {
  return fail(error, MHA_ERR_ARGUMENT, "%s is given, but %s", field, why);
}

mha_status check_size(const char* name, int64_t value, int64_t least, mha_error* error) {
  if (value < least) return fail(error, MHA_ERR_ARGUMENT, "%s is %lld: must be >= %lld", name, ll{value}, ll{least});
  if (value > kMaxSize) return fail(error, MHA_ERR_OVERFLOW, "%s is %lld: must be at most 2^62", name, ll{value});
  return MHA_OK;
}

mha_status check_offsets(const char* name, const int64_t* offsets, int64_t count, const char* total_name, int64_t total,
                         mha_error* error) {
  if (offsets[0] != 0) return fail(error, MHA_ERR_ARGUMENT, "%s[0] is %lld: must be 0", name, ll{offsets[0]});
  for (int64_t n = 0; n < count; ++n) {
    if (offsets[n + 1] < offsets[n]) {
      return fail(error, MHA_ERR_ARGUMENT, "%s[%lld] is %lld, less than the one before it (%lld)", name, ll{n + 1},
                  ll{offsets[n + 1]}, ll{offsets[n]});
    }
  }
  if (offsets[count] != total) {
    return fail(error, MHA_ERR_ARGUMENT, "%s[%lld] is %lld: must be %s (%lld)", name, ll{count}, ll{offsets[count]},
                total_name, ll{total});
  }
  return MHA_OK;
}

}  // namespace mha
