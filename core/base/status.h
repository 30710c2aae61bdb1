// SPDX-License-Identifier: Apache-2.0
// Failing with a message, and sizes that notice overflow.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/mha.h"

namespace mha {

// Fills *error (if given) and returns status.
__attribute__((format(printf, 3, 4))) mha_status fail(mha_error* error, mha_status status, const char* format, ...);

// If `call` fails, returns its status from the calling function.
#define MHA_TRY(call)                                    \
  do {                                                   \
    const mha_status mha_try_status = (call);            \
    if (mha_try_status != MHA_OK) return mha_try_status; \
  } while (false)

// A non-negative size that stays overflowed once it has left [0, 2^63).
class Size {
 public:
  constexpr Size(int64_t value) : value_(value < 0 ? kOverflow : value) {}
  constexpr bool ok() const { return value_ != kOverflow; }
  constexpr int64_t value() const { return value_; }
  friend constexpr Size operator*(Size a, Size b) {
    int64_t out = 0;
    return a.ok() && b.ok() && !__builtin_mul_overflow(a.value_, b.value_, &out) ? Size(out) : Size(kOverflow);
  }
  friend constexpr Size operator+(Size a, Size b) {
    int64_t out = 0;
    return a.ok() && b.ok() && !__builtin_add_overflow(a.value_, b.value_, &out) ? Size(out) : Size(kOverflow);
  }

 private:
  static constexpr int64_t kOverflow = -1;
  int64_t value_;
};

}  // namespace mha
