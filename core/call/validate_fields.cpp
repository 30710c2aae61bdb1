// SPDX-License-Identifier: Apache-2.0
// Checks of what attention, the layer and caches have in common: norms, heads, the scale, and what the host lends.
#include <cfloat>
#include <cmath>

#include "core/call/checks.h"
#include "core/math/denormal.h"

namespace mha {

using ll = long long;

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
