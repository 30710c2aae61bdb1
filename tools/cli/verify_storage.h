// SPDX-License-Identifier: Apache-2.0
// The part of `mha verify` that checks storage formats by the widening law: a call over keys, values or weights in a format has
// the bits of the call over the floats that these stand for.
#ifndef MHA_TOOLS_CLI_VERIFY_STORAGE_H
#define MHA_TOOLS_CLI_VERIFY_STORAGE_H

#include <mha/mha.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace mha::cli {

struct StorageCheck {
  std::string target;
  std::int64_t cases = 0;
  std::vector<std::string> formats;  // that every call has in F32
  std::vector<std::string>
      missing;  // calls in formats that this build or target does not have, with the library's message
  std::vector<std::string> failures;  // cases whose bits differ
};

// Every format in F32 and, where the target has it, BF16. quick: fewer sizes.
StorageCheck check_storage(const std::string& target, bool quick);

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_VERIFY_STORAGE_H
