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

// 256 bytes of each of four streams a turn.
void read_128(const char* data, int64_t kilobytes) {
  if (kilobytes == 0) return;
  const char* stream[4] = {data, data + kilobytes * 256, data + kilobytes * 512, data + kilobytes * 768};
  asm volatile(
      "1:\n"
      ".irp offset,0,32,64,96,128,160,192,224\n"
      "ldp q0, q1, [%[a], #\\offset]\n"
      "ldp q2, q3, [%[b], #\\offset]\n"
      "ldp q4, q5, [%[c], #\\offset]\n"
      "ldp q6, q7, [%[d], #\\offset]\n"
      ".endr\n"
      "add %[a], %[a], #256\n"
      "add %[b], %[b], #256\n"
      "add %[c], %[c], #256\n"
      "add %[d], %[d], #256\n"
      "subs %[turns], %[turns], #1\n"
      "b.ne 1b\n"
      : [a] "+&r"(stream[0]), [b] "+&r"(stream[1]), [c] "+&r"(stream[2]), [d] "+&r"(stream[3]), [turns] "+&r"(kilobytes)
      :
      : "cc", "memory", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7");
}

const MachineLoops kNeon = {"neon", 24 * 4 * 2, multiply_add_128, read_128};

}  // namespace

const MachineLoops& machine_loops(const std::string&) { return kNeon; }

}  // namespace mha::bench
