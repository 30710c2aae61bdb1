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
  mha_storage_error error() const;

 private:
  const KernelTable& table_;
  double max_ = 0, squares_ = 0, given_squares_ = 0;
  int64_t elements_ = 0;
};

}  // namespace mha
