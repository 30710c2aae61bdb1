// SPDX-License-Identifier: Apache-2.0
// What tests of refusals share: the status must be in the error too, the message must name what is wrong.
#ifndef MHA_TESTS_SUPPORT_STATUS_H
#define MHA_TESTS_SUPPORT_STATUS_H

#include <algorithm>
#include <functional>
#include <initializer_list>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/targets.h"
#include "tests/support/tensors.h"

namespace mha::test {

inline const mha_context* any_context() { return shared_context(supported_targets()[0], 2); }

inline constexpr int64_t kFar = (int64_t{1} << 62) + 1;  // beyond all sizes

/// Storages that this version refuses.
inline mha_storage storage_of(mha_dtype dtype, int64_t group, uint64_t reserved) {
  mha_storage storage = {};
  storage.dtype = dtype, storage.group = group, storage.reserved[1] = reserved;
  return storage;
}
inline const mha_storage kCodes = storage_of(MHA_I8, 32, 0), kBlocks = storage_of(MHA_Q8_0, 0, 0),
                         kGrouped = storage_of(MHA_F32, 32, 0), kHalf = storage_of(MHA_F16, 0, 0);
inline const mha_storage kNewer = storage_of(MHA_F32, 0, 1);

/// A failed call must say why: the status in the error too, and a message with each of these texts.
inline void check_error(mha_status got, mha_status want, const mha_error& error,
                        const std::vector<std::string>& texts) {
  CHECK(std::string(mha_status_string(got)) == mha_status_string(want));
  CHECK(error.status == got);
  for (const std::string& text : texts) {
    if (!mentions(error, text)) FAIL_CHECK("\"" << error.message << "\" does not mention \"" << text << "\"");
  }
}

inline constexpr mha_status kNeverSet = MHA_ERR_THREAD;  // no call with arguments returns it

inline mha_error fresh_error() {
  mha_error error = {};
  error.status = kNeverSet;
  return error;
}

/// An enum with a number that it has no name for.
template <class Enum>
Enum no_value(int number) {
  return static_cast<Enum>(number);
}

/// What a call must refuse: the arguments changed by `make`.
template <class Args>
struct Mistake {
  mha_status status;
  std::vector<std::string> texts;
  std::function<void(Args&)> make;
};

/// call(args, error) on each mistake, and that `untouched()` holds after it.
template <class Args, class Call, class Untouched>
void check_mistakes(const Args& good, const std::vector<Mistake<Args>>& mistakes, Call&& call, Untouched&& untouched) {
  for (const Mistake<Args>& mistake : mistakes) {
    INFO("expected to mention " << mistake.texts[0]);
    Args args = good;
    mistake.make(args);
    mha_error error = fresh_error();
    check_error(call(args, &error), mistake.status, error, mistake.texts);
    CHECK(call(args, nullptr) == mistake.status);
    CHECK(untouched());
  }
}

inline bool all_poison(std::initializer_list<const std::vector<float>*> buffers) {
  for (const std::vector<float>* buffer : buffers)
    if (!std::all_of(buffer->begin(), buffer->end(), is_poison)) return false;
  return true;
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_STATUS_H
