// SPDX-License-Identifier: Apache-2.0
// CPU detection on register values of CPUs that are not at hand, and the quota arithmetic of the default thread count.
#include "core/run/cpu_count.h"

#include <algorithm>
#include <map>
#include <set>

#include "core/kernels/kernel_table.h"
#include "simd/cpu.h"
#include "simd/dispatch.h"
#include "tests/support/targets.h"

using namespace mha::test;
using mha::CpuFeatures;
using mha::CpuRegisters;

namespace {

// CPUID.1:ECX
constexpr uint32_t kFma = 1u << 12, kPopcnt = 1u << 23, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
// CPUID.1:EDX
constexpr uint32_t kSse2 = 1u << 26;
// CPUID.7:EBX
constexpr uint32_t kAvx2 = 1u << 5, kF = 1u << 16, kDq = 1u << 17, kIfma = 1u << 21, kPf = 1u << 26, kEr = 1u << 27;
constexpr uint32_t kCd = 1u << 28, kBw = 1u << 30, kVl = 1u << 31;
constexpr uint32_t kHaswell1 = kFma | kPopcnt | kOsxsave | kAvx | kF16c;
constexpr uint32_t kSkylakeX7 = kAvx2 | kF | kDq | kCd | kBw | kVl;
constexpr uint64_t kX87 = 1, kXmm = 3, kYmm = 7, kZmm = 0xe7;

struct Cpu {
  const char* name;
  CpuRegisters registers;
  bool sse2, avx2, avx512;
};

const Cpu kCpus[] = {
    {"no SSE2 (Pentium III)", {2, 0, 0, 0, 0}, false, false, false},
    {"Nehalem", {11, 0, kSse2, 0, 0}, true, false, false},
    {"Sandy Bridge", {13, kOsxsave | kAvx, kSse2, 0, kYmm}, true, false, false},
    {"Ivy Bridge", {13, kOsxsave | kAvx | kF16c, kSse2, 0, kYmm}, true, false, false},
    {"Piledriver: FMA without AVX2", {13, kHaswell1, kSse2, 0, kYmm}, true, false, false},
    {"Haswell", {13, kHaswell1, kSse2, kAvx2, kYmm}, true, true, false},
    {"Knights Landing: AVX-512 F, PF, ER, CD only",
     {13, kHaswell1, kSse2, kAvx2 | kF | kPf | kEr | kCd, kZmm},
     true,
     true,
     false},
    {"Skylake-X", {22, kHaswell1, kSse2, kSkylakeX7, kZmm}, true, true, true},
    {"Ice Lake", {27, kHaswell1, kSse2, kSkylakeX7 | kIfma, kZmm}, true, true, true},
    {"Alder Lake without AVX-512", {32, kHaswell1, kSse2, kAvx2, kYmm}, true, true, false},
    {"Zen 1", {13, kHaswell1, kSse2, kAvx2, kYmm}, true, true, false},
    {"Zen 2", {16, kHaswell1, kSse2, kAvx2, kYmm}, true, true, false},
    {"Zen 3", {16, kHaswell1, kSse2, kAvx2, 0x207}, true, true, false},
    {"Zen 4", {16, kHaswell1, kSse2, kSkylakeX7 | kIfma, 0x2e7}, true, true, true},
    {"Zen 5", {16, kHaswell1, kSse2, kSkylakeX7 | kIfma, 0x2e7}, true, true, true},
    {"Sapphire Rapids with AMX state", {32, kHaswell1, kSse2, kSkylakeX7 | kIfma, 0x602e7}, true, true, true},
    {"Skylake-X, system saves x87 only", {22, kHaswell1, kSse2, kSkylakeX7, kX87}, true, false, false},
    {"Skylake-X, XCR0 = 3: no ymm state", {22, kHaswell1, kSse2, kSkylakeX7, kXmm}, true, false, false},
    {"Skylake-X, XCR0 = 7: no zmm state", {22, kHaswell1, kSse2, kSkylakeX7, kYmm}, true, true, false},
    {"Skylake-X, zmm state without masks", {22, kHaswell1, kSse2, kSkylakeX7, 0xc7}, true, true, false},
    {"Skylake-X, zmm state without its upper half", {22, kHaswell1, kSse2, kSkylakeX7, 0x67}, true, true, false},
    {"Skylake-X, zmm state without ymm", {22, kHaswell1, kSse2, kSkylakeX7, 0xe3}, true, false, false},
    {"Skylake-X, OSXSAVE = 0", {22, kHaswell1 & ~kOsxsave, kSse2, kSkylakeX7, kZmm}, true, false, false},
    {"Skylake-X, AVX masked by the VM", {22, kHaswell1 & ~kAvx, kSse2, kSkylakeX7, kZmm}, true, false, false},
    {"Skylake-X, FMA masked by the VM", {22, kHaswell1 & ~kFma, kSse2, kSkylakeX7, kZmm}, true, false, false},
    {"Skylake-X, POPCNT masked by the VM", {22, kHaswell1 & ~kPopcnt, kSse2, kSkylakeX7, kZmm}, true, false, false},
    {"Skylake-X, F16C masked by the VM", {22, kHaswell1 & ~kF16c, kSse2, kSkylakeX7, kZmm}, true, false, false},
    {"Skylake-X, AVX2 masked by the VM", {22, kHaswell1, kSse2, kSkylakeX7 & ~kAvx2, kZmm}, true, false, false},
    {"Skylake-X, DQ masked by the VM", {22, kHaswell1, kSse2, kSkylakeX7 & ~kDq, kZmm}, true, true, false},
    {"Skylake-X, CD masked by the VM", {22, kHaswell1, kSse2, kSkylakeX7 & ~kCd, kZmm}, true, true, false},
    {"Skylake-X, BW masked by the VM", {22, kHaswell1, kSse2, kSkylakeX7 & ~kBw, kZmm}, true, true, false},
    {"Skylake-X, VL masked by the VM", {22, kHaswell1, kSse2, kSkylakeX7 & ~kVl, kZmm}, true, true, false},
    {"Skylake-X, CPUID limited to leaf 6", {6, kHaswell1, kSse2, kSkylakeX7, kZmm}, true, false, false},
    {"no CPUID at all", {0, 0, 0, 0, 0}, false, false, false},
};

}  // namespace

TEST_CASE("cpu: detection from register values", "[cpu]") {
  for (const Cpu& cpu : kCpus) {
    INFO(cpu.name);
    const CpuFeatures got = mha::x86_features(cpu.registers);
    CHECK(got.sse2 == cpu.sse2);
    CHECK(got.avx2 == cpu.avx2);
    CHECK(got.avx512 == cpu.avx512);
    CHECK_FALSE(got.neon);
  }
}

TEST_CASE("cpu: targets by what a CPU has", "[cpu]") {
  // Those that decide on one flag of the table above; a target of other flags brings rows of its own.
  const std::map<std::string, bool Cpu::*> flags = {
      {"avx512", &Cpu::avx512}, {"avx2", &Cpu::avx2}, {"sse2", &Cpu::sse2}};
  for (const Cpu& cpu : kCpus) {
    INFO(cpu.name);
    const CpuFeatures features = mha::x86_features(cpu.registers);
    for (int64_t n = 0; n < mha::target_count(); ++n) {
      const auto flag = flags.find(mha::target_table(n)->name);
      if (flag != flags.end()) CHECK(mha::target_supported(n, features) == cpu.*flag->second);
    }
  }
}

TEST_CASE("cpu: products by tiles, by pairs and by four bytes, which are chosen where they are fast", "[cpu]") {
  constexpr uint32_t kAmd = 0x68747541, kIntel = 0x756e6547, kBf16 = 1u << 5, kTiles = 1u << 22 | 1u << 24 | 1u << 25;
  constexpr uint32_t kVnni = 1u << 11, kAvxVnni = 1u << 4;
  struct {
    const char* name;
    CpuRegisters registers;
    bool supported, fast, tiles, vnni, avx_vnni;
  } const cpus[] = {
      {"Zen 4",
       {16, kHaswell1, kSse2, kSkylakeX7 | kIfma, 0x2e7, kAmd, 0, kBf16, kVnni},
       true,
       true,
       false,
       true,
       false},
      {"Sapphire Rapids",
       {32, kHaswell1, kSse2, kSkylakeX7, 0x602e7, kIntel, kTiles, kBf16 | kAvxVnni, kVnni},
       true,
       false,
       true,
       true,
       true},
      {"Sapphire Rapids, no state of tiles",
       {32, kHaswell1, kSse2, kSkylakeX7, 0x2e7, kIntel, kTiles, kBf16, kVnni},
       true,
       false,
       false,
       true,
       false},
      {"Sapphire Rapids, state of their configuration alone",
       {32, kHaswell1, kSse2, kSkylakeX7, 0x202e7, kIntel, kTiles, kBf16, kVnni},
       true,
       false,
       false,
       true,
       false},
      {"Sapphire Rapids, AMX-BF16 masked by the VM",
       {32, kHaswell1, kSse2, kSkylakeX7, 0x602e7, kIntel, kTiles & ~(1u << 22), kBf16, kVnni},
       true,
       false,
       false,
       true,
       false},
      {"Sapphire Rapids, AMX-INT8 masked by the VM",
       {32, kHaswell1, kSse2, kSkylakeX7, 0x602e7, kIntel, kTiles & ~(1u << 25), kBf16, kVnni},
       true,
       false,
       false,
       true,
       false},
      {"Sapphire Rapids, VNNI masked by the VM",
       {32, kHaswell1, kSse2, kSkylakeX7, 0x602e7, kIntel, kTiles, kBf16, 0},
       false,
       false,
       false,
       false,
       false},
      {"Alder Lake", {32, kHaswell1, kSse2, kAvx2, 0x207, kIntel, 0, kAvxVnni, 0}, false, false, false, false, true},
      {"Ice Lake",
       {27, kHaswell1, kSse2, kSkylakeX7 | kIfma, kZmm, kIntel, 0, 0, kVnni},
       false,
       false,
       false,
       true,
       false},
      {"Zen 4, no zmm state",
       {16, kHaswell1, kSse2, kSkylakeX7, kYmm, kAmd, 0, kBf16, kVnni},
       false,
       false,
       false,
       false,
       false},
      {"Zen 3", {16, kHaswell1, kSse2, kAvx2, 0x207, kAmd, 0, 0, 0}, false, false, false, false, false},
  };
  for (const auto& cpu : cpus) {
    INFO(cpu.name);
    const CpuFeatures features = mha::x86_features(cpu.registers);
    CHECK(features.avx512_bf16 == cpu.supported);
    CHECK(features.fast_bf16 == cpu.fast);
    CHECK(features.amx == cpu.tiles);
    CHECK(features.avx512_vnni == cpu.vnni);
    CHECK(features.avx2_vnni == cpu.avx_vnni);
    for (int64_t n = 0; n < mha::target_count(); ++n) {
      const bool pairs = std::string(mha::target_table(n)->name) == "avx512_bf16";
      CHECK(mha::target_chosen(n, features) == (pairs ? cpu.fast : mha::target_supported(n, features)));
      if (pairs) CHECK(mha::target_supported(n, features) == cpu.supported);
    }
  }
}

TEST_CASE("cpu: the best target comes first", "[cpu]") {
  // A target that runs on fewer of these CPUs needs more instructions. Those over a base come before it.
  const auto cpus_of = [](int64_t n) {
    return std::count_if(std::begin(kCpus), std::end(kCpus),
                         [n](const Cpu& cpu) { return mha::target_supported(n, mha::x86_features(cpu.registers)); });
  };
  int64_t before = -1;
  for (int64_t n = 0; n < mha::target_count(); ++n) {
    if (mha::target_table(n)->base != nullptr) continue;
    if (before >= 0) {
      INFO(mha::target_table(before)->name << " before " << mha::target_table(n)->name);
      CHECK(cpus_of(before) <= cpus_of(n));
    }
    before = n;
  }
}

TEST_CASE("cpu: no target runs on a CPU that has nothing; each is named once, and its base comes after it", "[cpu]") {
  std::set<std::string> names;
  for (int64_t n = 0; n < mha::target_count(); ++n) {
    const mha::KernelTable& table = *mha::target_table(n);
    INFO(table.name);
    CHECK_FALSE(mha::target_supported(n, CpuFeatures{}));
    CHECK(names.insert(table.name).second);
    if (table.base == nullptr) continue;
    bool after = false;
    for (int64_t other = n + 1; other < mha::target_count(); ++other) after |= mha::target_table(other) == table.base;
    CHECK(after);
  }
}

TEST_CASE("cpu: this machine's detection agrees with the compiler's own", "[cpu]") {
  const CpuFeatures got = mha::cpu_features();
#if defined(__x86_64__)
  __builtin_cpu_init();
  CHECK(got.sse2 == (__builtin_cpu_supports("sse2") != 0));
  CHECK(got.avx2 == (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")));
  CHECK(got.avx512 == (got.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
                       __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("avx512vl")));
  CHECK_FALSE(got.neon);
#elif defined(__aarch64__)
  CHECK(got.neon);
  CHECK_FALSE(got.sse2);
#endif
}
