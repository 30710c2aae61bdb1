// SPDX-License-Identifier: Apache-2.0
// The loops of bench/machine.h for x86-64, a pair for each vector width, and one of integers for each instruction.
#include "bench/machine.h"

#include <iterator>

namespace mha::bench {
namespace {

// Each accumulator grows by 1e-6 a turn: neither zeros (which save power and so raise the clock) nor denormals.
const float kStep = 0.001f;
const float kOne = 1.0f;

__attribute__((target("avx512f"))) void multiply_add_512(int64_t turns) {
  asm volatile(
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,30,31\n"
      "vbroadcastss %[step], %%zmm\\r\n"
      ".endr\n"
      "1:\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n"
      "vfmadd231ps %%zmm30, %%zmm31, %%zmm\\r\n"
      ".endr\n"
      "dec %[turns]\n"
      "jnz 1b\n"
      "vzeroupper\n"
      : [turns] "+&r"(turns)
      : [step] "m"(kStep)
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
        "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm30",
        "xmm31");
}

__attribute__((target("avx2,fma"))) void multiply_add_256(int64_t turns) {
  asm volatile(
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,14,15\n"
      "vbroadcastss %[step], %%ymm\\r\n"
      ".endr\n"
      "1:\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,0,1,2,3,4,5,6,7,8,9,10,11\n"
      "vfmadd231ps %%ymm14, %%ymm15, %%ymm\\r\n"
      ".endr\n"
      "dec %[turns]\n"
      "jnz 1b\n"
      "vzeroupper\n"
      : [turns] "+&r"(turns)
      : [step] "m"(kStep)
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm14",
        "xmm15");
}

// No fused multiply-add here: as many multiplications (by 1) as additions, each with chains of its own.
void multiply_add_128(int64_t turns) {
  asm volatile(
      ".irp r,0,1,2,3,4,5,6,14\n"
      "movss %[one], %%xmm\\r\n"
      "shufps $0, %%xmm\\r, %%xmm\\r\n"
      ".endr\n"
      ".irp r,7,8,9,10,11,12,13,15\n"
      "movss %[step], %%xmm\\r\n"
      "shufps $0, %%xmm\\r, %%xmm\\r\n"
      ".endr\n"
      "1:\n"
      "mulps %%xmm14, %%xmm0\n"
      "addps %%xmm15, %%xmm7\n"
      "mulps %%xmm14, %%xmm1\n"
      "addps %%xmm15, %%xmm8\n"
      "mulps %%xmm14, %%xmm2\n"
      "addps %%xmm15, %%xmm9\n"
      "mulps %%xmm14, %%xmm3\n"
      "addps %%xmm15, %%xmm10\n"
      "mulps %%xmm14, %%xmm4\n"
      "addps %%xmm15, %%xmm11\n"
      "mulps %%xmm14, %%xmm5\n"
      "addps %%xmm15, %%xmm12\n"
      "mulps %%xmm14, %%xmm6\n"
      "addps %%xmm15, %%xmm13\n"
      "dec %[turns]\n"
      "jnz 1b\n"
      : [turns] "+&r"(turns)
      : [one] "m"(kOne), [step] "m"(kStep)
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
        "xmm13", "xmm14", "xmm15");
}

// --- Integers ---------------------------------------------------------------------------------------------------------

// Pairs of products of 16 bits, then a sum: 24 chains of sums for 512 bits, 12 for the others. Sums may wrap around.
__attribute__((target("avx512f"))) void multiply_add_pairs_512(int64_t turns) {
  asm volatile(
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,30,31\n"
      "vbroadcastss %[step], %%zmm\\r\n"
      ".endr\n"
      "1:\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n"
      "vpmaddwd %%zmm30, %%zmm31, %%zmm29\n"
      "vpaddd %%zmm29, %%zmm\\r, %%zmm\\r\n"
      ".endr\n"
      "dec %[turns]\n"
      "jnz 1b\n"
      "vzeroupper\n"
      : [turns] "+&r"(turns)
      : [step] "m"(kStep)
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
        "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm29",
        "xmm30", "xmm31");
}

__attribute__((target("avx2"))) void multiply_add_pairs_256(int64_t turns) {
  asm volatile(
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,14,15\n"
      "vbroadcastss %[step], %%ymm\\r\n"
      ".endr\n"
      "1:\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,0,1,2,3,4,5,6,7,8,9,10,11\n"
      "vpmaddwd %%ymm14, %%ymm15, %%ymm13\n"
      "vpaddd %%ymm13, %%ymm\\r, %%ymm\\r\n"
      ".endr\n"
      "dec %[turns]\n"
      "jnz 1b\n"
      "vzeroupper\n"
      : [turns] "+&r"(turns)
      : [step] "m"(kStep)
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm13",
        "xmm14", "xmm15");
}

void multiply_add_pairs_128(int64_t turns) {
  asm volatile(
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,14,15\n"
      "movss %[step], %%xmm\\r\n"
      "shufps $0, %%xmm\\r, %%xmm\\r\n"
      ".endr\n"
      "1:\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,0,1,2,3,4,5,6,7,8,9,10,11\n"
      "movdqa %%xmm14, %%xmm13\n"
      "pmaddwd %%xmm15, %%xmm13\n"
      "paddd %%xmm13, %%xmm\\r\n"
      ".endr\n"
      "dec %[turns]\n"
      "jnz 1b\n"
      : [turns] "+&r"(turns)
      : [step] "m"(kStep)
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm13",
        "xmm14", "xmm15");
}

// Four products of bytes and their sum in one instruction.
__attribute__((target("avx512f"))) void multiply_add_bytes_512(int64_t turns) {
  asm volatile(
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,30,31\n"
      "vbroadcastss %[step], %%zmm\\r\n"
      ".endr\n"
      "1:\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n"
      "vpdpbusd %%zmm30, %%zmm31, %%zmm\\r\n"
      ".endr\n"
      "dec %[turns]\n"
      "jnz 1b\n"
      "vzeroupper\n"
      : [turns] "+&r"(turns)
      : [step] "m"(kStep)
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
        "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm30",
        "xmm31");
}

__attribute__((target("avx2"))) void multiply_add_bytes_256(int64_t turns) {
  asm volatile(
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,14,15\n"
      "vbroadcastss %[step], %%ymm\\r\n"
      ".endr\n"
      "1:\n"
      ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,0,1,2,3,4,5,6,7,8,9,10,11\n"
      "%{vex%} vpdpbusd %%ymm14, %%ymm15, %%ymm\\r\n"
      ".endr\n"
      "dec %[turns]\n"
      "jnz 1b\n"
      "vzeroupper\n"
      : [turns] "+&r"(turns)
      : [step] "m"(kStep)
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm14",
        "xmm15");
}

// AMX: four sums of tiles, two tiles of rows, two of columns. A context of target amx has the permission for tiles.
constexpr int kTileRows = 16, kTileBytes = 64;
void multiply_add_tiles(int64_t turns) {
  alignas(64) unsigned char config[64] = {1};  // the palette
  for (int t = 0; t < 8; ++t) config[16 + 2 * t] = kTileBytes, config[48 + t] = kTileRows;
  alignas(64) unsigned char codes[kTileRows * kTileBytes];
  for (int n = 0; n < kTileRows * kTileBytes; ++n) codes[n] = static_cast<unsigned char>(7 * n + 1);
  const int64_t stride = kTileBytes;
  asm volatile(
      "ldtilecfg %[config]\n"
      ".irp t,0,1,2,3\n"
      "tilezero %%tmm\\t\n"
      ".endr\n"
      ".irp t,4,5,6,7\n"
      "tileloadd (%[codes],%[stride],1), %%tmm\\t\n"
      ".endr\n"
      "1:\n"
      "tdpbssd %%tmm6, %%tmm4, %%tmm0\n"
      "tdpbssd %%tmm7, %%tmm4, %%tmm1\n"
      "tdpbssd %%tmm6, %%tmm5, %%tmm2\n"
      "tdpbssd %%tmm7, %%tmm5, %%tmm3\n"
      "dec %[turns]\n"
      "jnz 1b\n"
      "tilerelease\n"
      : [turns] "+&r"(turns)
      : [config] "m"(config), [codes] "r"(codes), [stride] "r"(stride)
      : "cc", "memory");
}

// --- Reading ----------------------------------------------------------------------------------------------------------

// 256 bytes of each stream in turn.
#define MHA_READ_STREAMS(load, vector, offsets)                                                  \
  const int64_t bytes = kilobytes * 1024 / kStreams;                                             \
  for (int64_t at = 0; at < bytes; at += 256) {                                                  \
    for (int stream = 0; stream < kStreams; ++stream) {                                          \
      asm volatile(".irp offset," offsets "\n" load " \\offset(%[from]), %%" vector "0\n.endr\n" \
                   :                                                                             \
                   : [from] "r"(data + stream * bytes + at)                                      \
                   : "memory", "xmm0");                                                          \
    }                                                                                            \
  }

template <int kStreams>
__attribute__((target("avx512f"))) void read_512(const char* data, int64_t kilobytes) {
  MHA_READ_STREAMS("vmovups", "zmm", "0,64,128,192")
  asm volatile("vzeroupper");
}

template <int kStreams>
__attribute__((target("avx2"))) void read_256(const char* data, int64_t kilobytes) {
  MHA_READ_STREAMS("vmovups", "ymm", "0,32,64,96,128,160,192,224")
  asm volatile("vzeroupper");
}

template <int kStreams>
void read_128(const char* data, int64_t kilobytes) {
  MHA_READ_STREAMS("movups", "xmm", "0,16,32,48,64,80,96,112,128,144,160,176,192,208,224,240")
}

#undef MHA_READ_STREAMS

// The widest first.
const MachineLoops kLoops[] = {
    {"avx512", 24 * 16 * 2, multiply_add_512, {read_512<1>, read_512<2>, read_512<4>}},
    {"avx2", 24 * 8 * 2, multiply_add_256, {read_256<1>, read_256<2>, read_256<4>}},
    {"sse2", 14 * 4, multiply_add_128, {read_128<1>, read_128<2>, read_128<4>}},
};

// The longer of two names with one beginning first. Every CPU with AVX512-BF16 has AVX512-VNNI.
const IntegerLoop kIntegerLoops[] = {
    {"amx", 4.0 * kTileRows* kTileRows* kTileBytes * 2, multiply_add_tiles},
    {"avx512_vnni", 24 * 16 * 4 * 2, multiply_add_bytes_512},
    {"avx512_bf16", 24 * 16 * 4 * 2, multiply_add_bytes_512},
    {"avx512", 24 * 16 * 2 * 2, multiply_add_pairs_512},
    {"avx2_vnni", 24 * 8 * 4 * 2, multiply_add_bytes_256},
    {"avx2", 24 * 8 * 2 * 2, multiply_add_pairs_256},
    {"sse2", 24 * 4 * 2 * 2, multiply_add_pairs_128},
};

}  // namespace

const MachineLoops& machine_loops(const std::string& target) {
  for (const MachineLoops& loops : kLoops)
    if (target.rfind(loops.vectors, 0) == 0) return loops;
  return kLoops[__builtin_cpu_supports("avx512f") ? 0 : __builtin_cpu_supports("avx2") ? 1 : 2];
}

const IntegerLoop& integer_loop(const std::string& target) {
  for (const IntegerLoop& loop : kIntegerLoops)
    if (target.rfind(loop.target, 0) == 0) return loop;
  return kIntegerLoops[std::size(kIntegerLoops) - 1];  // which every CPU has
}

}  // namespace mha::bench
