// SPDX-License-Identifier: Apache-2.0
// The error of storing values as other elements: stored against given values.
#pragma once

#include "core/call/problem.h"

namespace mha {

class StorageErrorSum {
 public:
  explicit StorageErrorSum(const KernelTable& table) : table_(table) {}

  // Adds a row of `given` elements that is stored as `kept`.
  void add(const char* row, Element given, int64_t columns, Element kept);
  // Adds a row that is rounded to codes of head `head`; `scratch` is for them, and for the row that they stand for.
  struct Scratch {
    float* after;
    char *codes, *scales, *zeros;
  };
  void add_codes(const float* row, const RowStorage& storage, int64_t head, const Scratch& scratch);
  // Adds values that are stored as they are.
  void add_kept(int64_t count) { elements_ += count; }
  mha_storage_error error() const;

 private:
  void add_difference(const float* before, const float* after, int64_t columns);

  const KernelTable& table_;
  double max_ = 0, squares_ = 0, given_squares_ = 0;
  int64_t elements_ = 0;
};

}  // namespace mha
