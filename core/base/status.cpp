// SPDX-License-Identifier: Apache-2.0
// Error messages.
#include "core/base/status.h"

#include <cstdarg>
#include <cstdio>

namespace mha {

mha_status fail(mha_error* error, mha_status status, const char* format, ...) {
  if (error != nullptr) {
    error->status = status;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof(error->message), format, arguments);
    va_end(arguments);
  }
  return status;
}

}  // namespace mha
