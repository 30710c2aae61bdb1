// SPDX-License-Identifier: Apache-2.0
// Kernels by arithmetic and element type: what a target does not have is its base's, slot by slot.
#include "core/kernels/kernel_table.h"
#include "simd/dispatch.h"
#include "tests/support/targets.h"

namespace {

using mha::Arithmetic;
using mha::AttentionKernels;
using mha::Element;
using mha::KernelTable;

constexpr Arithmetic kF32 = Arithmetic::kF32;

AttentionKernels& slot(KernelTable& table, Element keys) {
  return table.attention[static_cast<int>(kF32)][static_cast<int>(keys)];
}

bool equal(const AttentionKernels& a, const AttentionKernels& b) {
  return a.packed == b.packed && a.in_place == b.in_place && a.few_keys == b.few_keys && a.results == b.results;
}

}  // namespace

TEST_CASE("kernel table: a target overrides slots of its base, and of the base's base", "[targets]") {
  const KernelTable& complete = *mha::target_table(mha::target_count() - 1);
  const mha::PackedKernels packed = {};
  const mha::InPlaceKernels in_place = {}, best_in_place = {};
  const mha::RowKernels rows = {};

  KernelTable middle = {};  // keys of 16 bits: its own packed and in-place kernels
  middle.name = "middle", middle.base = &complete;
  for (Element keys : {Element::kF16, Element::kBf16}) slot(middle, keys).packed = &packed;
  slot(middle, Element::kBf16).in_place = &in_place;
  KernelTable best = {};  // BF16 in place, and rows
  best.name = "best", best.base = &middle, best.own_rows = &rows;
  slot(best, Element::kBf16).in_place = &best_in_place;

  for (int n = 0; n < mha::kElements; ++n) {
    const Element keys = static_cast<Element>(n);
    AttentionKernels want = mha::attention_kernels_of(complete, kF32, keys);
    for (const void* kernels : {static_cast<const void*>(want.packed), static_cast<const void*>(want.in_place),
                                static_cast<const void*>(want.few_keys), static_cast<const void*>(want.results)})
      CHECK(kernels != nullptr);
    if (keys == Element::kF16 || keys == Element::kBf16) want.packed = &packed;
    if (keys == Element::kBf16) want.in_place = &in_place;
    CHECK(equal(mha::attention_kernels_of(middle, kF32, keys), want));
    if (keys == Element::kBf16) want.in_place = &best_in_place;
    CHECK(equal(mha::attention_kernels_of(best, kF32, keys), want));
  }
  CHECK(&middle.rows() == &complete.rows());
  CHECK(&best.rows() == &rows);
}

TEST_CASE("kernel table: every target has kernels of F32 for every element type", "[targets]") {
  for (int64_t n = 0; n < mha::target_count(); ++n) {
    const KernelTable& table = *mha::target_table(n);
    INFO(table.name);
    for (int e = 0; e < mha::kElements; ++e) {
      const Element element = static_cast<Element>(e);
      const AttentionKernels found = mha::attention_kernels_of(table, kF32, element);
      REQUIRE(found.packed != nullptr);
      REQUIRE(found.in_place != nullptr);
      REQUIRE(found.few_keys != nullptr);
      REQUIRE(found.results != nullptr);
      CHECK(found.packed->attention != nullptr);
      CHECK(found.in_place->attention != nullptr);
      CHECK(found.few_keys->attention != nullptr);
      CHECK(found.packed->weights != nullptr);
      CHECK(found.results->merge != nullptr);
      CHECK(mha::linear_kernels_of(table, kF32, element).gemm != nullptr);
    }
    CHECK(table.rows().convert != nullptr);
    if (mha::kHasCodes) {
      const AttentionKernels int8 = mha::attention_kernels_of(table, Arithmetic::kInt8, Element::kI8);
      REQUIRE((int8.packed != nullptr && int8.in_place != nullptr && int8.results != nullptr));
      CHECK((int8.packed->attention != nullptr && int8.packed->weights != nullptr));
      CHECK((int8.packed->products != nullptr && int8.in_place->products != nullptr));
      for (const Element element : {Element::kI8, Element::kU8, Element::kI4, Element::kU4}) {
        CHECK(mha::linear_kernels_of(table, Arithmetic::kInt8, element).gemm != nullptr);
      }
    }
    const AttentionKernels bf16 = mha::attention_kernels_of(table, Arithmetic::kBf16, Element::kF32);
    if (bf16.packed == nullptr) continue;
    CHECK(table.has_fma);
    for (int e = 0; e < mha::kElements; ++e) {
      const AttentionKernels found = mha::attention_kernels_of(table, Arithmetic::kBf16, static_cast<Element>(e));
      REQUIRE((found.packed != nullptr && found.in_place != nullptr && found.results != nullptr));
      CHECK((found.packed->attention != nullptr && found.packed->weights != nullptr));
      CHECK((found.packed->products != nullptr && found.in_place->products != nullptr));
    }
    CHECK(mha::linear_kernels_of(table, Arithmetic::kBf16, Element::kBf16).gemm != nullptr);
  }
}
