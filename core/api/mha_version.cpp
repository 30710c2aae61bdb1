// SPDX-License-Identifier: Apache-2.0
// The version, and status names.
#include "core/base/version.h"
#include "core/mha.h"

extern "C" const char* mha_version(void) { return mha::kVersion; }

extern "C" int mha_version_number(void) {
  return MHA_VERSION_MAJOR * 10000 + MHA_VERSION_MINOR * 100 + MHA_VERSION_PATCH;
}

extern "C" const char* mha_status_string(int status) {
  switch (status) {
    case MHA_OK:
      return "MHA_OK";
    case MHA_ERR_NULL:
      return "MHA_ERR_NULL";
    case MHA_ERR_ARGUMENT:
      return "MHA_ERR_ARGUMENT";
    case MHA_ERR_SHAPE:
      return "MHA_ERR_SHAPE";
    case MHA_ERR_STRIDE:
      return "MHA_ERR_STRIDE";
    case MHA_ERR_OVERFLOW:
      return "MHA_ERR_OVERFLOW";
    case MHA_ERR_BUFFER:
      return "MHA_ERR_BUFFER";
    case MHA_ERR_OUT_OF_MEMORY:
      return "MHA_ERR_OUT_OF_MEMORY";
    case MHA_ERR_TARGET:
      return "MHA_ERR_TARGET";
    case MHA_ERR_BLOB:
      return "MHA_ERR_BLOB";
    case MHA_ERR_UNSUPPORTED:
      return "MHA_ERR_UNSUPPORTED";
    case MHA_ERR_FULL:
      return "MHA_ERR_FULL";
    case MHA_ERR_THREAD:
      return "MHA_ERR_THREAD";
  }
  return "unknown status";
}
