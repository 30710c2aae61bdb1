// SPDX-License-Identifier: Apache-2.0
#include "simd/permission.h"

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mha {

#if defined(__linux__) && defined(__x86_64__)
namespace {
constexpr long kGetSupported = 0x1021, kRequestPermission = 0x1023;  // ARCH_GET_XCOMP_SUPP, ARCH_REQ_XCOMP_PERM
constexpr long kTileData = 18;                                       // XFEATURE_XTILEDATA
}  // namespace
#endif

bool has_tiles() {
#if defined(__linux__) && defined(__x86_64__)
  unsigned long long supported = 0;
  return syscall(SYS_arch_prctl, kGetSupported, &supported) == 0 && (supported >> kTileData & 1) != 0;
#else
  return false;
#endif
}

bool permit_tiles() {
#if defined(__linux__) && defined(__x86_64__)
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace mha
