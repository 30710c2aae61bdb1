// SPDX-License-Identifier: Apache-2.0
// The loops of bench/machine.h for aarch64.
#include "bench/machine.h"

namespace mha::bench {
namespace {

// 24 chains: four units of latency 4 need 16. Each grows by 1e-6 a turn: neither zeros nor denormals.
void multiply_add_128(int64_t turns) {
  asm volatile(
      "fmov s30, %w[step]\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,31\n"
      "dup v\\r\\().4s, v30.s[0]\n"
      ".endr\n"
      "dup v30.4s, v31.s[0]\n"
      "1:\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n"
      "fmla v\\r\\().4s, v30.4s, v31.4s\n"
      ".endr\n"
      "subs %[turns], %[turns], #1\n"
      "b.ne 1b\n"
      : [turns] "+&r"(turns)
      : [step] "r"(0x3a83126f)  // 0.001f
      : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15",
        "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v30", "v31");
}

#define MHA_INTEGER_CHAINS(instruction)                                                                             \
  asm volatile(                                                                                                     \
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,30,31\n"                                \
      "dup v\\r\\().4s, %w[step]\n"                                                                                 \
      ".endr\n"                                                                                                     \
      "1:\n"                                                                                                        \
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n" instruction                          \
      "\n"                                                                                                          \
      ".endr\n"                                                                                                     \
      "subs %[turns], %[turns], #1\n"                                                                               \
      "b.ne 1b\n"                                                                                                   \
      : [turns] "+&r"(turns)                                                                                        \
      : [step] "r"(0x03020501)                                                                                      \
      : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", \
        "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v30", "v31")

// Four products of 16 bits, and their sums.
void multiply_add_halves(int64_t turns) { MHA_INTEGER_CHAINS("smlal v\\r\\().4s, v30.4h, v31.4h"); }

// 16 products of bytes, and their sums: sdot v<r>.4s, v30.16b, v31.16b, which assemblers take for a newer CPU only.
void multiply_add_bytes(int64_t turns) { MHA_INTEGER_CHAINS(".inst 0x4e9f97c0 + \\r"); }

#undef MHA_INTEGER_CHAINS

// 256 bytes of each stream in turn.
template <int kStreams>
void read_128(const char* data, int64_t kilobytes) {
  const int64_t bytes = kilobytes * 1024 / kStreams;
  for (int64_t at = 0; at < bytes; at += 256) {
    for (int stream = 0; stream < kStreams; ++stream) {
      asm volatile(
          ".irp offset,0,32,64,96,128,160,192,224\n"
          "ldp q0, q1, [%[from], #\\offset]\n"
          ".endr\n"
          :
          : [from] "r"(data + stream * bytes + at)
          : "memory", "v0", "v1");
    }
  }
}

const MachineLoops kNeon = {"neon", 24 * 4 * 2, multiply_add_128, {read_128<1>, read_128<2>, read_128<4>}};

const IntegerLoop kDotprod = {"neon_dotprod", 24 * 16 * 2, multiply_add_bytes};
const IntegerLoop kHalves = {"neon", 24 * 4 * 2, multiply_add_halves};

}  // namespace

const MachineLoops& machine_loops(const std::string&) { return kNeon; }
const IntegerLoop& integer_loop(const std::string& target) {
  return target.rfind(kDotprod.target, 0) == 0 ? kDotprod : kHalves;
}

}  // namespace mha::bench
