// SPDX-License-Identifier: Apache-2.0
// Checks of views: strides, extents, overlap.
#include "core/checks.h"

namespace mha {

using ll = long long;

mha_status check_extent(const char* name, const Dimensions& n, const Strides& s, mha_error* error) {
  if (n.b == 0 || n.t == 0 || n.h == 0 || n.d == 0) return MHA_OK;
  const Size last = Size(n.b - 1) * Size(s.b) + Size(n.t - 1) * Size(s.t) + Size(n.h - 1) * Size(s.h) + Size(n.d);
  if (last.ok() && last.value() <= kMaxBytes) return MHA_OK;
  return fail(error, MHA_ERR_OVERFLOW,
              "%s of %lld x %lld x %lld x %lld with strides %lld, %lld, %lld ends beyond 2^63 bytes", name, ll{n.b},
              ll{n.t}, ll{n.h}, ll{n.d}, ll{s.b}, ll{s.t}, ll{s.h});
}

namespace {

// Distinct elements of a result must lie apart: from the innermost dimension on, each stride passes what is below it.
bool overlaps(const Dimensions& n, const Strides& s) {
  int64_t sizes[3] = {n.b, n.t, n.h}, strides[3] = {s.b, s.t, s.h};
  int64_t below = n.d;
  for (int done = 0; done < 3; ++done) {
    int least = -1;
    for (int i = 0; i < 3; ++i) {
      if (sizes[i] > 1 && (least < 0 || strides[i] < strides[least])) least = i;
    }
    if (least < 0) return false;
    if (strides[least] < below) return true;
    below += strides[least] * (sizes[least] - 1);
    sizes[least] = 1;
  }
  return false;
}

mha_status resolve_strides(const char* name, const Dimensions& n, Order order, int64_t stride_b, int64_t stride_t,
                           int64_t stride_h, int64_t stride_d, Strides* out, mha_error* error) {
  const struct {
    const char* suffix;
    int64_t value;
  } given[] = {{"b", stride_b}, {"t", stride_t}, {"h", stride_h}};
  if (stride_d == 0) {
    for (const auto& s : given) {
      if (s.value != 0) {
        return fail(error, MHA_ERR_STRIDE, "%s.stride_%s is %lld, but %s.stride_d is 0 (dense): give all or none", name,
                    s.suffix, ll{s.value}, name);
      }
    }
    const Size inner = order == Order::kBthd ? Size(n.h) * Size(n.d) : Size(n.t) * Size(n.d);
    const Size batch = Size(n.t) * Size(n.h) * Size(n.d);
    if (!batch.ok() || !inner.ok()) {
      return fail(error, MHA_ERR_OVERFLOW, "%s of %lld x %lld x %lld x %lld has more than 2^63 elements", name, ll{n.b},
                  ll{n.t}, ll{n.h}, ll{n.d});
    }
    *out =
        order == Order::kBthd ? Strides{batch.value(), inner.value(), n.d} : Strides{batch.value(), n.d, inner.value()};
  } else if (stride_d != 1) {
    return fail(error, MHA_ERR_STRIDE, "%s.stride_d is %lld: the last dimension must be dense (1)", name, ll{stride_d});
  } else {
    for (const auto& s : given) {
      if (s.value < 0) {
        return fail(error, MHA_ERR_STRIDE, "%s.stride_%s is %lld: must be >= 0", name, s.suffix, ll{s.value});
      }
    }
    *out = Strides{stride_b, stride_t, stride_h};
  }
  return check_extent(name, n, *out, error);
}

}  // namespace

mha_status check_input(const char* name, const mha_view& v, const Dimensions& n, Check check, ConstTensor* out,
                       mha_error* error) {
  Strides s = {};
  const mha_status status =
      resolve_strides(name, n, Order::kBthd, v.stride_b, v.stride_t, v.stride_h, v.stride_d, &s, error);
  if (status != MHA_OK) return status;
  const bool empty = n.b == 0 || n.t == 0 || n.h == 0;
  if (check != Check::kSizesOnly && v.data == nullptr && !empty)
    return fail(error, MHA_ERR_NULL, "%s.data is NULL", name);
  *out = {v.data, s.b, s.t, s.h};
  return MHA_OK;
}

mha_status check_result(const char* name, const mha_mut_view& v, const Dimensions& n, Order order, Check check,
                        Tensor* out, mha_error* error) {
  Strides s = {};
  const mha_status status = resolve_strides(name, n, order, v.stride_b, v.stride_t, v.stride_h, v.stride_d, &s, error);
  if (status != MHA_OK) return status;
  const bool empty = n.b == 0 || n.t == 0 || n.h == 0 || n.d == 0;
  if (!empty && overlaps(n, s)) {
    return fail(error, MHA_ERR_STRIDE, "%s.stride_b, _t, _h are %lld, %lld, %lld: elements of the result overlap", name,
                ll{s.b}, ll{s.t}, ll{s.h});
  }
  if (check == Check::kAll && v.data == nullptr && !empty) return fail(error, MHA_ERR_NULL, "%s.data is NULL", name);
  *out = {v.data, s.b, s.t, s.h};
  return MHA_OK;
}

mha_status check_view(const char* name, const mha_view& view, const ViewSizes& n, ConstTensor* out, mha_error* error) {
  return check_input(name, view, {n.b, n.t, n.h, n.d}, Check::kAll, out, error);
}

mha_status check_view(const char* name, const mha_mut_view& view, const ViewSizes& n, Tensor* out, mha_error* error) {
  return check_result(name, view, {n.b, n.t, n.h, n.d}, Order::kBthd, Check::kAll, out, error);
}

}  // namespace mha
