// SPDX-License-Identifier: Apache-2.0
// Log-sum-exp without libm: its log may round differently from one system to the next.
#include "core/log_sum_exp.h"

#include "core/elementary.h"

namespace mha {
namespace {

constexpr double kLn2 = 0.693147180559945309417;

}  // namespace

float log_sum_exp(const RowState& state) {
  if (state.sum == 0.0f) return -__builtin_inff();
  if (!(state.sum < __builtin_inff())) return state.sum;  // NaN
  return static_cast<float>(state.max * kLn2 + elementary::log(static_cast<double>(state.sum)));
}

}  // namespace mha
