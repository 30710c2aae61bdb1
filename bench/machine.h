// SPDX-License-Identifier: Apache-2.0
// What the machine can do, measured beside the cases: multiply-adds a second with a target's vectors, of floats and of
// integers, and bytes read a second from given memory.
#ifndef MHA_BENCH_MACHINE_H
#define MHA_BENCH_MACHINE_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace mha::bench {

/// Parts of a region that the loops read in turn.
constexpr int kReadStreams[3] = {1, 2, 4};

/// The loops of one kind of vectors, in assembly so that no compiler merges, reorders or drops any of it.
struct MachineLoops {
  const char* vectors;  ///< the target that brought them
  double flops_per_turn;
  /// Independent chains of multiply-adds in registers, more of them than two units of latency 4 can hold.
  void (*multiply_add)(int64_t turns);
  /// Reads `kilobytes` * 1024 bytes with plain loads, in as many streams as kReadStreams says. Which number is the
  /// fastest depends on the memory.
  void (*read[3])(const char* data, int64_t kilobytes);
};

/// The loops of the vectors that a target has: those its name begins with (avx512_bf16: avx512), else the widest of
/// this CPU.
const MachineLoops& machine_loops(const std::string& target);

/// Multiply-adds of integers in registers, by the instruction that a target has for them: of bytes where it multiplies
/// bytes (VNNI, AMX, Arm's dotprod), else of 16 bits, whose sums have 32.
struct IntegerLoop {
  const char* target;
  double operations_per_turn;
  void (*multiply_add)(int64_t turns);
};
const IntegerLoop& integer_loop(const std::string& target);

struct Region {
  const float* data;
  size_t bytes;
};

/// FLOP/s of `threads` threads together, each busy for `seconds`.
double measure_flops(const MachineLoops& loops, int threads, double seconds);
/// The same of integers.
double measure_operations(const IntegerLoop& loop, int threads, double seconds);

/// Bytes/s of `threads` threads that read the regions over and over with one of the loops, a share each: for `seconds`,
/// at least once.
double measure_read(const MachineLoops& loops, int loop, const std::vector<Region>& regions, int threads,
                    double seconds);
/// The fastest of the loops for these regions: the best of a few turns of each.
int fastest_read(const MachineLoops& loops, const std::vector<Region>& regions, int threads, double seconds);

/// Seconds on a clock that only goes forward.
double now();

/// Calls body(thread) on `threads` threads at once: the pool of OpenMP that the library uses too, so that none of its
/// threads waits in a spin loop beside ours. One thread: the caller's own, without OpenMP.
void on_threads(int threads, void (*body)(void* data, int thread), void* data);

template <class Body>
void on_threads(int threads, Body& body) {
  on_threads(
      threads, [](void* data, int thread) { (*static_cast<Body*>(data))(thread); }, &body);
}

}  // namespace mha::bench

#endif  // MHA_BENCH_MACHINE_H
