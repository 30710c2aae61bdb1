// SPDX-License-Identifier: Apache-2.0
// The arguments of mha_rows_prepare.
#include "core/call/checks.h"
#include "core/call/rope.h"

namespace mha {
namespace {

using ll = long long;

mha_status check_slots(const mha_rows_args& a, Check check, mha_error* error) {
  if (a.slots == nullptr) {
    if (a.page_size == 0 && a.num_pages == 0) return MHA_OK;
    return fail(error, MHA_ERR_ARGUMENT, "page_size is %lld and num_pages %lld, but slots is NULL", ll{a.page_size},
                ll{a.num_pages});
  }
  MHA_TRY(check_sizes({{"page_size", a.page_size, 1}, {"num_pages", a.num_pages, 0}}, error));
  const Size slots = Size(a.page_size) * Size(a.num_pages);
  if (!slots.ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "num_pages %lld x page_size %lld exceeds 2^63", ll{a.num_pages},
                ll{a.page_size});
  }
  for (int64_t token = 0; check != Check::kSizesOnly && token < a.batch * a.length; ++token) {
    if (a.slots[token] < slots.value()) continue;
    return fail(error, MHA_ERR_ARGUMENT, "slots[%lld] is %lld: must be < num_pages * page_size (%lld)", ll{token},
                ll{a.slots[token]}, ll{slots.value()});
  }
  return MHA_OK;
}

// How output is stored, with the scales of codes.
mha_status check_row_storage(const mha_rows_args& a, Check check, NormRopeProblem* p, mha_error* error) {
  const int dtype = enum_value(a.output.dtype);
  const bool codes = is_code(static_cast<Element>(dtype));
  if (a.storage != nullptr) {
    MHA_TRY(resolve_storage("storage", *a.storage, a.num_heads, a.head_dim, &p->storage, error));
    if (p->storage.element != static_cast<Element>(dtype)) {
      return fail(error, MHA_ERR_ARGUMENT, "storage.dtype is %s, but output.dtype is %s",
                  dtype_name(enum_value(a.storage->dtype)),
                  dtype_name(dtype) != nullptr ? dtype_name(dtype) : "no dtype");
    }
  } else if (codes && !has_scales_inside(static_cast<Element>(dtype))) {
    return fail(error, MHA_ERR_NULL, "storage is NULL, but output.dtype is %s: codes need scales", dtype_name(dtype));
  }
  const int64_t tokens = a.slots != nullptr ? (Size(a.num_pages) * Size(a.page_size)).value() : a.batch * a.length;
  const RowStorage& s = p->storage;
  if (!(Size(tokens) * Size(a.num_heads) * (Size(s.scale_bytes) + Size(s.zero_bytes))).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "scales of %lld tokens of %lld heads exceed 2^63 bytes", ll{tokens},
                ll{a.num_heads});
  }
  p->scales = static_cast<char*>(a.scales), p->zeros = static_cast<char*>(a.zeros);
  const ScaleResults results = {
      "scales", "zeros", a.scales, a.zeros, s.scale_bytes, s.zero_bytes, tokens * a.num_heads, s.codes.scales.element};
  return check_scale_results(results,
                             !codes         ? "output.dtype is no code, which alone has them"
                             : s.is_fixed() ? "storage.fixed has them"
                                            : "storage has no zero_points",
                             check, error);
}

mha_status check_row_views(const mha_rows_args& a, Check check, NormRopeProblem* p, mha_error* error) {
  const Dimensions input = {a.batch, a.length, a.num_heads, a.head_dim};
  const Dimensions output = a.slots != nullptr ? Dimensions{a.num_pages, a.page_size, a.num_heads, a.head_dim} : input;
  MHA_TRY(check_input("input", a.input, input, check, &p->input, error));
  MHA_TRY(check_stored_result("output", a.output, output, check, &p->output, error));
  const ConstTensor& in = p->input;
  const Tensor& out = p->output;
  const bool in_place = in.data == out.data && a.slots == nullptr;
  if (in_place && in.stride_b == out.stride_b && in.stride_t == out.stride_t && in.stride_h == out.stride_h &&
      in.element == out.element) {
    return MHA_OK;
  }
  const Extent read = extent_of(in, input), written = extent_of(out, output);
  const int64_t rows = output.b * output.t * output.h;
  const NamedExtent results[] = {{"output", written},
                                 {"scales", extent_of_bytes(a.scales, rows * p->storage.scale_bytes)},
                                 {"zeros", extent_of_bytes(a.zeros, rows * p->storage.zero_bytes)}};
  const NamedExtent inputs[] = {{"input", read}};
  if (is_code(out.element)) return check_overlaps(results, 3, inputs, 1, error);
  if (!certainly_overlap(read, written)) return MHA_OK;
  return fail(error, MHA_ERR_STRIDE,
              "output overlaps input%s: strides in bytes are (%lld, %lld, %lld) and (%lld, %lld, %lld)",
              in_place ? ", whose place it is, with other strides or another dtype" : "", ll{out.stride_b},
              ll{out.stride_t}, ll{out.stride_h}, ll{in.stride_b}, ll{in.stride_t}, ll{in.stride_h});
}

mha_status check_row_positions(const mha_rows_args& a, Check check, const mha_rope& rope, mha_error* error) {
  if (a.rope == nullptr && (a.positions != nullptr || a.first_position != 0)) {
    return fail(error, MHA_ERR_ARGUMENT, "%s is given, but there is no rope, which alone looks at it",
                a.positions != nullptr ? "positions" : "first_position");
  }
  if (a.positions != nullptr && a.first_position != 0) {
    return fail(error, MHA_ERR_ARGUMENT, "first_position is %lld beside positions: give one of them",
                ll{a.first_position});
  }
  if (a.batch == 0 || a.length == 0 || a.num_heads == 0 || rope.dims == 0) return MHA_OK;
  if (check == Check::kSizesOnly && a.positions != nullptr) return MHA_OK;
  return a.positions != nullptr ? check_given_positions(rope, "positions", a.positions, a.batch * a.length, error)
                                : check_counted_positions(rope, "first_position", a.first_position, a.length, error);
}

}  // namespace

mha_status validate_rows(const mha_rows_args& a, Check check, NormRopeProblem* p, mha_error* error) {
  MHA_TRY(check_reserved("args", a.reserved, error));
  MHA_TRY(check_sizes(
      {{"batch", a.batch, 0}, {"length", a.length, 0}, {"num_heads", a.num_heads, 0}, {"head_dim", a.head_dim, 1}},
      error));
  if (!(Size(a.batch) * Size(a.length) * Size(a.num_heads) * Size(a.head_dim) * Size(sizeof(float))).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "batch %lld, length %lld, num_heads %lld, head_dim %lld: too large",
                ll{a.batch}, ll{a.length}, ll{a.num_heads}, ll{a.head_dim});
  }
  MHA_TRY(check_slots(a, check, error));
  MHA_TRY(check_row_storage(a, check, p, error));
  MHA_TRY(check_row_views(a, check, p, error));
  MHA_TRY(validate_rope(a.rope, a.head_dim, &p->rope, error));
  if (a.norm != nullptr) {
    MHA_TRY(check_norm("norm", *a.norm, error));
    p->epsilon = a.norm->epsilon, p->weight = a.norm->weight;
  }
  MHA_TRY(check_row_positions(a, check, p->rope, error));
  p->batch = a.batch, p->length = a.length, p->heads = a.num_heads, p->width = a.head_dim;
  p->hadamard = p->storage.codes.hadamard;
  p->positions = a.positions, p->first_position = a.first_position;
  p->slots = a.slots, p->page_size = a.page_size;
  return MHA_OK;
}

}  // namespace mha
