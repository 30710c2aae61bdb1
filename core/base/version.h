// SPDX-License-Identifier: Apache-2.0
// The version as text. The layers below the interface take it from here, so that they call nothing of the interface.
#ifndef MHA_CORE_BASE_VERSION_H
#define MHA_CORE_BASE_VERSION_H

#include "core/mha.h"

#define MHA_VERSION_STRING_(x) #x
#define MHA_VERSION_STRING(x) MHA_VERSION_STRING_(x)

namespace mha {

inline constexpr const char* kVersion = MHA_VERSION_STRING(MHA_VERSION_MAJOR) "." MHA_VERSION_STRING(
    MHA_VERSION_MINOR) "." MHA_VERSION_STRING(MHA_VERSION_PATCH);

}  // namespace mha

#endif  // MHA_CORE_BASE_VERSION_H
