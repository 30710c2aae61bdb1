// SPDX-License-Identifier: Apache-2.0
// Checks of single fields: sizes, enums, reserved words, offsets, and what the host lends to a call.
#include <cfloat>
#include <cmath>
#include <cstdio>

#include "core/call/checks.h"
#include "core/math/denormal.h"

namespace mha {

using ll = long long;

mha_status fail_reserved(const char* name, const char* field, int64_t index, mha_error* error) {
  char place[32] = "";
  if (index >= 0) snprintf(place, sizeof(place), "[%lld]", ll{index});
  return fail(error, MHA_ERR_ARGUMENT,
              "%s.%s%s is not 0: the caller was built for a newer mha than this one (%s), or the struct was not zeroed",
              name, field, place, mha_version());
}

namespace {

const char* dtype_name(int dtype) {
  switch (dtype) {
    case MHA_F16:
      return "MHA_F16";
    case MHA_BF16:
      return "MHA_BF16";
    case MHA_I8:
      return "MHA_I8";
    case MHA_U8:
      return "MHA_U8";
    case MHA_I4:
      return "MHA_I4";
    case MHA_U4:
      return "MHA_U4";
    case MHA_Q8_0:
      return "MHA_Q8_0";
    case MHA_Q4_0:
      return "MHA_Q4_0";
    default:
      return nullptr;
  }
}

}  // namespace

mha_status check_dtype(const char* name, const mha_dtype& dtype, mha_error* error) {
  const int value = enum_value(dtype);
  if (value == MHA_F32) return MHA_OK;
  if (dtype_name(value) == nullptr) {
    return fail(error, MHA_ERR_ARGUMENT, "%s.dtype is %d: not a value of mha_dtype", name, value);
  }
  return fail(error, MHA_ERR_UNSUPPORTED, "%s.dtype is %s: this version has MHA_F32 alone", name, dtype_name(value));
}

mha_status check_arithmetic(const char* name, const mha_arithmetic& arithmetic, mha_error* error) {
  const int value = enum_value(arithmetic);
  if (value == MHA_ARITHMETIC_F32) return MHA_OK;
  if (value != MHA_ARITHMETIC_BF16 && value != MHA_ARITHMETIC_INT8) {
    return fail(error, MHA_ERR_ARGUMENT, "%s is %d: not a value of mha_arithmetic", name, value);
  }
  return fail(error, MHA_ERR_UNSUPPORTED, "%s is %s: this version has MHA_ARITHMETIC_F32 alone", name,
              value == MHA_ARITHMETIC_BF16 ? "MHA_ARITHMETIC_BF16" : "MHA_ARITHMETIC_INT8");
}

mha_status check_storage(const char* name, const mha_storage& s, mha_error* error) {
  MHA_TRY(check_reserved(name, s.reserved, error));
  MHA_TRY(check_dtype(name, s.dtype, error));
  if (enum_value(s.scale_dtype) == 0 && s.group == 0 && s.zero_points == 0 && s.hadamard == 0 && s.fixed == nullptr) {
    return MHA_OK;
  }
  return fail(error, MHA_ERR_ARGUMENT,
              "%s.scale_dtype, group, zero_points, hadamard or fixed is given, but %s.dtype is MHA_F32, which has no "
              "scales",
              name, name);
}

mha_status check_layout(const mha_weight_layout& layout, mha_error* error) {
  const int value = enum_value(layout);
  if (value == MHA_WEIGHT_ROWS) return MHA_OK;
  if (value < MHA_WEIGHT_ROWS || value > MHA_WEIGHT_AWQ) {
    return fail(error, MHA_ERR_ARGUMENT, "layout is %d: not a value of mha_weight_layout", value);
  }
  return fail(error, MHA_ERR_UNSUPPORTED, "layout is %d: this version has MHA_WEIGHT_ROWS alone", value);
}

mha_status check_aligned(const char* name, const void* data, mha_error* error) {
  if (reinterpret_cast<uintptr_t>(data) % alignof(float) == 0) return MHA_OK;
  return fail(error, MHA_ERR_ARGUMENT, "%s is at %p: must be aligned to %zu bytes", name, data, alignof(float));
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

mha_status check_norm(const char* name, const mha_norm& norm, mha_error* error) {
  MHA_TRY(check_reserved(name, norm.reserved_int, norm.reserved, error));
  if (std::isfinite(norm.epsilon) && norm.epsilon >= FLT_MIN) return MHA_OK;
  return fail(error, MHA_ERR_ARGUMENT, "%s.epsilon is %g: must be > 0, normal and finite", name,
              exact_value(norm.epsilon));
}

mha_status check_heads(int64_t heads, int64_t kv_heads, int64_t* out, mha_error* error) {
  MHA_TRY(check_size("num_kv_heads", kv_heads, 0, error));
  *out = kv_heads != 0 ? kv_heads : heads;
  if (heads % *out != 0) {
    return fail(error, MHA_ERR_SHAPE, "num_heads is %lld: not a multiple of num_kv_heads (%lld)", ll{heads}, ll{*out});
  }
  return MHA_OK;
}

mha_status check_scale(float scale, int is_exact, int64_t head_dim, float* out, mha_error* error) {
  const double value = static_cast<double>(scale);
  if (!std::isfinite(scale)) return fail(error, MHA_ERR_ARGUMENT, "scale is %g: must be finite", value);
  if (is_denormal(scale)) {
    return fail(error, MHA_ERR_ARGUMENT, "scale is %g: a denormal would count as 0", exact_value(scale));
  }
  if (is_exact == 0 && std::signbit(scale)) {
    return fail(error, MHA_ERR_ARGUMENT, "scale is %g: below 0, so set scale_is_exact if it is meant", value);
  }
  *out = is_exact != 0 || scale != 0.0f ? scale : static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
  return MHA_OK;
}

mha_status lend(const mha_context& context, const mha_resources* resources, mha_context* lent, mha_error* error) {
  *lent = context;
  if (resources == nullptr) return MHA_OK;
  const mha_resources& r = *resources;
  MHA_TRY(check_reserved("resources", r.reserved, error));
  MHA_TRY(check_size("resources.max_threads", r.max_threads, 0, error));
  if (r.workspace == nullptr && r.workspace_bytes != 0) {
    return fail(error, MHA_ERR_ARGUMENT, "resources.workspace_bytes is %zu, but resources.workspace is NULL",
                r.workspace_bytes);
  }
  if (r.parallel_user != nullptr) {
    if (context.parallel_for.run == nullptr) {
      return fail(error, MHA_ERR_ARGUMENT, "resources.parallel_user is given, but the context has no parallel_for");
    }
    lent->parallel_for.user = r.parallel_user;
  }
  if (r.max_threads != 0 && r.max_threads < lent->num_threads) lent->num_threads = r.max_threads;
  return MHA_OK;
}

}  // namespace mha
