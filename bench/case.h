// SPDX-License-Identifier: Apache-2.0
// One thing to measure: a call of the library with its data, the answer it must give, and the work it does.
#ifndef MHA_BENCH_CASE_H
#define MHA_BENCH_CASE_H

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/machine.h"
#include "core/mha.hpp"

namespace mha::bench {

class Case {
 public:
  Case() = default;
  Case(const Case&) = delete;
  Case& operator=(const Case&) = delete;
  virtual ~Case() = default;

  /// One call, as an engine makes it: everything prepared, workspace given.
  virtual mha_status run() = 0;
  /// Compares what run() left with the reference in double; returns what is wrong, or nothing.
  virtual std::string check() = 0;
  /// Seconds that the naive loops (reference<float>) take for the same on `threads` threads; 0: there are none.
  virtual double naive_seconds(int threads) = 0;
  /// The same work as separate calls; only where has_parts().
  virtual mha_status run_parts() { return MHA_ERR_UNSUPPORTED; }
  virtual bool has_parts() const { return false; }
  /// The counter that gets the time of run() / that of run_parts().
  virtual const char* ratio_counter() const { return "parts_ratio"; }

  double flops = 0;              ///< useful operations of a call: a multiply-add is two, an exponential none; 0: none
  double bytes = 0;              ///< inputs, weights and results of a call, each counted once
  std::vector<Region> streamed;  ///< what a call bound by bandwidth must read; empty: it is not bound by it
  bool is_integer = false;       ///< its products are of integers: compared with multiply-adds of these, too
  std::vector<Region> parts_streamed;  ///< the same of run_parts(), where it is other memory
};

/// How to make a case. Nothing is allocated before it is its turn.
struct CaseSpec {
  std::string name;
  std::string target;  ///< empty: the default one
  int threads;
  std::function<std::unique_ptr<Case>(const Context& context)> make;  ///< throws where the library refuses
};

/// The lists of each kind, in the order they run; `target` and `suffix` (of the name) go into every spec.
struct AttentionShape {
  int64_t query_len, key_len, num_heads, num_kv_heads, head_dim;
  bool causal;
  int64_t batch = 1;
};
CaseSpec linear_case(int64_t M, int64_t N, int64_t K, int threads);
CaseSpec linear_denormal_case(int64_t M, int64_t N, int64_t K, int threads);
CaseSpec attention_case(const AttentionShape& shape, int threads);
CaseSpec attention_denormal_case(const AttentionShape& shape, int threads);
/// The same over tensors of 16 bits.
CaseSpec attention_storage_case(const AttentionShape& shape, mha_dtype dtype, int threads);
/// In BF16 arithmetic.
CaseSpec attention_bf16_case(const AttentionShape& shape, int threads);
CaseSpec linear_bf16_case(int64_t M, int64_t N, int64_t K, int threads);
CaseSpec linear_storage_case(int64_t M, int64_t N, int64_t K, mha_dtype dtype, int threads);
/// Over codes in INT8 arithmetic.
CaseSpec attention_int8_case(const AttentionShape& shape, int threads);
CaseSpec linear_codes_case(int64_t M, int64_t N, int64_t K, mha_dtype dtype, int threads);
CaseSpec attention_weights_case(const AttentionShape& shape, int threads);
/// Causal with each of masks and score modifications in turn; timed in turn with causal alone.
std::vector<CaseSpec> masked_cases(int64_t length, int threads);
CaseSpec window_case(int64_t key_len, int64_t window, int threads);
CaseSpec ragged_case(int threads);
struct DecodeShape {
  int64_t batch, key_len, num_heads, num_kv_heads, head_dim;
  mha_cache_kind kind;
  mha_dtype dtype = MHA_F32;  ///< of keys and values; other types are timed in turn with floats
  int64_t query_len = 1;      ///< of each sequence; more than one is timed in turn with one
  int64_t page_size = 0;      ///< of a paged cache; 0: its default
  mha_arithmetic arithmetic = MHA_ARITHMETIC_F32;
};
CaseSpec decode_case(const DecodeShape& shape, int threads);
struct AppendShape {
  int64_t length, num_kv_heads, head_dim;
  mha_cache_kind kind;
  mha_dtype dtype = MHA_F32;
};
CaseSpec append_case(const AppendShape& shape);
/// One token or more rotated by angles computed in the call; timed in turn with a table of the caller's.
CaseSpec rope_case(int64_t tokens, int64_t num_heads, int64_t head_dim);
CaseSpec forward_case(int64_t B, int64_t tokens, int64_t E, int64_t H, int threads);
CaseSpec forward_bf16_case(int64_t B, int64_t tokens, int64_t E, int64_t H, int threads);
CaseSpec forward_int8_case(int64_t B, int64_t tokens, int64_t E, int64_t H, int threads);
CaseSpec notebook_case();

/// Registers the case with Google Benchmark.
void register_case(const CaseSpec& spec);
/// Registers what the machine itself can do on `threads` threads: machine_fma, machine_int8 and machine_read.
void register_machine(const std::string& target, int threads);
/// Whether a case that ran was wrong or refused.
bool any_case_failed();

}  // namespace mha::bench

#endif  // MHA_BENCH_CASE_H
