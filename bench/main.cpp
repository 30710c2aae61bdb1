// SPDX-License-Identifier: Apache-2.0
// mha_bench: the list of cases, and the command line that Google Benchmark's own options leave over.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "bench/case.h"
#include "bench/environment.h"
#include "bench/support.h"

namespace mha::bench {
namespace {

const char kHelp[] =
    "mha_bench: speed of mha beside what the machine can do; every case is checked first\n"
    "\n"
    "  --quick           three short repetitions of each case instead of five longer ones\n"
    "  --target=<name>   the library's target (avx512, avx2, ...); default: MHA_TARGET, else the best\n"
    "\n"
    "and Google Benchmark's own, of which --benchmark_filter=<regex> is the most useful:\n";

struct Options {
  bool quick = false;
  std::string target;
};

/// Takes our options out of `arguments`.
Options take_options(std::vector<std::string>& arguments) {
  Options options;
  std::vector<std::string> rest;
  for (const std::string& argument : arguments) {
    if (argument == "--quick")
      options.quick = true;
    else if (argument.rfind("--target=", 0) == 0)
      options.target = argument.substr(9);
    else
      rest.push_back(argument);
    if (argument == "--help") std::fputs(kHelp, stdout);
  }
  arguments = rest;
  return options;
}

void add_linear(int threads, std::vector<CaseSpec>& cases) {
  for (int64_t M : {1, 4, 8, 32, 128, 512, 1024}) cases.push_back(linear_case(M, 1024, 1024, threads));
  if (threads > 1) return;
  for (int64_t M : {1, 128}) cases.push_back(linear_case(M, 4096, 4096, threads));
  cases.push_back(linear_denormal_case(128, 1024, 1024, threads));
}

void add_attention(int threads, std::vector<CaseSpec>& cases) {
  for (int64_t length : {128, 512, 1024, 2048, 4096})
    for (bool causal : {false, true}) cases.push_back(attention_case({length, length, 8, 8, 64, causal}, threads));
  for (bool causal : {false, true}) cases.push_back(attention_case({1024, 1024, 8, 8, 128, causal}, threads));
  if (threads == 1)
    for (int64_t D : {40, 72, 80, 96, 256}) cases.push_back(attention_case({512, 512, 8, 8, D, false}, threads));
  for (int64_t Tk : {1024, 4096, 16384})
    for (int64_t Hkv : {8, 32}) cases.push_back(attention_case({1, Tk, 32, Hkv, 128, false}, threads));
  if (threads > 1) return;
  for (int64_t Tk : {1, 4, 16}) cases.push_back(attention_case({1, Tk, 8, 8, 20, false, 64}, threads));
  cases.push_back(attention_weights_case({512, 512, 8, 8, 64, false}, threads));
  cases.push_back(attention_denormal_case({512, 512, 8, 8, 64, false}, threads));
}

void add_storage(int threads, std::vector<CaseSpec>& cases) {
  for (int64_t M : {1, 8, 128, 512}) cases.push_back(linear_storage_case(M, 1024, 1024, MHA_BF16, threads));
  for (mha_dtype dtype : {MHA_BF16, MHA_F16}) {
    for (bool causal : {false, true}) {
      for (int64_t length : {128, 512, 1024, 2048})
        cases.push_back(attention_storage_case({length, length, 8, 8, 64, causal}, dtype, threads));
      cases.push_back(attention_storage_case({1024, 1024, 8, 8, 128, causal}, dtype, threads));
    }
  }
}

void add_bf16(int threads, std::vector<CaseSpec>& cases) {
  for (bool causal : {false, true}) {
    for (int64_t length : {128, 512, 2048})
      cases.push_back(attention_bf16_case({length, length, 8, 8, 64, causal}, threads));
    cases.push_back(attention_bf16_case({1024, 1024, 8, 8, 128, causal}, threads));
  }
  for (int64_t width : {1024, 4096})
    for (int64_t M : {1, 8, 32, 128, 512}) cases.push_back(linear_bf16_case(M, width, width, threads));
  for (int64_t tokens : {128, 512}) cases.push_back(forward_bf16_case(1, tokens, 768, 12, threads));
  for (int64_t Hkv : {8, 32}) {
    for (int64_t Tk : {4096, 16384}) {
      DecodeShape shape = {1, Tk, 32, Hkv, 128, MHA_CACHE_CONTIGUOUS};
      shape.dtype = MHA_BF16, shape.arithmetic = MHA_ARITHMETIC_BF16;
      cases.push_back(decode_case(shape, threads));
    }
  }
}

void add_int8(int threads, std::vector<CaseSpec>& cases) {
  for (bool causal : {false, true}) {
    for (int64_t length : {128, 512, 2048})
      cases.push_back(attention_int8_case({length, length, 8, 8, 64, causal}, threads));
    cases.push_back(attention_int8_case({1024, 1024, 8, 8, 128, causal}, threads));
  }
  for (mha_dtype dtype : {MHA_I8, MHA_I4})
    for (int64_t width : {1024, 4096})
      for (int64_t M : {1, 8, 32, 128, 512}) cases.push_back(linear_codes_case(M, width, width, dtype, threads));
  for (int64_t tokens : {128, 512}) cases.push_back(forward_int8_case(1, tokens, 768, 12, threads));
  for (int64_t Hkv : {8, 32}) {
    for (int64_t Tk : {4096, 16384}) {
      DecodeShape shape = {1, Tk, 32, Hkv, 128, MHA_CACHE_CONTIGUOUS};
      shape.dtype = MHA_I8, shape.arithmetic = MHA_ARITHMETIC_INT8;
      cases.push_back(decode_case(shape, threads));
    }
  }
}

void add_decode(int threads, std::vector<CaseSpec>& cases) {
  for (int64_t B : {1, 8})
    for (int64_t Tk : {1024, 4096, 16384})
      for (mha_cache_kind kind : {MHA_CACHE_CONTIGUOUS, MHA_CACHE_RING, MHA_CACHE_PAGED})
        cases.push_back(decode_case({B, Tk, 32, 8, 128, kind}, threads));
  struct Heads {
    int64_t query, key;
  };
  for (mha_dtype dtype : {MHA_F32, MHA_BF16, MHA_F16, MHA_I8, MHA_I4}) {
    for (const Heads& heads : {Heads{32, 8}, Heads{28, 4}, Heads{32, 32}}) {
      for (int64_t D : {128, 64}) {
        for (int64_t Tk : {1024, 4096, 16384}) {
          DecodeShape shape = {1, Tk, heads.query, heads.key, D, MHA_CACHE_CONTIGUOUS};
          shape.dtype = dtype;
          const bool listed = dtype == MHA_F32 && heads.key == 8 && D == 128;  // above
          if (!listed) cases.push_back(decode_case(shape, threads));
        }
      }
    }
    for (mha_cache_kind kind : {MHA_CACHE_RING, MHA_CACHE_PAGED}) {
      DecodeShape shape = {1, 4096, 32, 8, 128, kind};
      shape.dtype = dtype;
      if (dtype != MHA_F32) cases.push_back(decode_case(shape, threads));
    }
    if (threads > 1) continue;
    for (int64_t page_size : {8, 16, 32}) {
      DecodeShape shape = {1, 4096, 32, 8, 128, MHA_CACHE_PAGED};
      shape.dtype = dtype, shape.page_size = page_size;
      cases.push_back(decode_case(shape, threads));
    }
    DecodeShape drafted = {1, 4096, 32, 8, 128, MHA_CACHE_CONTIGUOUS};
    drafted.dtype = dtype, drafted.query_len = 4;
    cases.push_back(decode_case(drafted, threads));
  }
  if (threads > 1) return;
  cases.push_back(decode_case({1, 1024, 12, 12, 64, MHA_CACHE_CONTIGUOUS}, threads));
  for (int64_t length : {1, 512})
    for (mha_cache_kind kind : {MHA_CACHE_CONTIGUOUS, MHA_CACHE_PAGED})
      for (mha_dtype dtype : {MHA_F32, MHA_BF16, MHA_F16, MHA_I8, MHA_I4})
        cases.push_back(append_case({length, 8, 128, kind, dtype}));
}

void add_masks(int threads, std::vector<CaseSpec>& cases) {
  cases.push_back(ragged_case(threads));
  if (threads > 1) return;
  for (const CaseSpec& spec : masked_cases(2048, threads)) cases.push_back(spec);
  cases.push_back(window_case(16384, 1024, threads));
}

void add_forward(int threads, std::vector<CaseSpec>& cases) {
  for (int64_t tokens : {1, 16, 128, 512}) cases.push_back(forward_case(1, tokens, 768, 12, threads));
  if (threads == 2) cases.push_back(forward_case(8, 128, 384, 12, threads));
  if (threads > 1) return;
  cases.push_back(notebook_case());
  for (int64_t tokens : {1, 512})
    for (int64_t H : {8, 32}) cases.push_back(rope_case(tokens, H, 128));
}

/// The narrower vectors of the same machine, marked in the name.
void add_target(const std::string& target, std::vector<CaseSpec>& cases) {
  for (CaseSpec spec : {linear_case(512, 1024, 1024, 1), attention_case({1024, 1024, 8, 8, 64, false}, 1)}) {
    spec.name += "/target:" + target;
    spec.target = target;
    cases.push_back(spec);
  }
}

/// The targets below this one that this CPU supports and that give the same bits, except its base.
std::vector<std::string> lesser_targets(const std::string& target) {
  std::vector<std::string> names;
  bool is_lesser = false;
  for (int64_t n = 0; n < mha_target_count(); ++n) {
    const bool is_base = target.rfind(std::string(mha_target_name(n)) + "_", 0) == 0;
    if (is_lesser && !is_base && mha_target_supported(n) && mha_target_same_bits(n))
      names.emplace_back(mha_target_name(n));
    is_lesser |= target == mha_target_name(n);
  }
  return names;
}

void register_all(const std::string& target, int max_threads) {
  std::vector<CaseSpec> cases;
  for (const auto add :
       {add_linear, add_attention, add_storage, add_bf16, add_int8, add_masks, add_decode, add_forward})
    for (int threads = 1; threads <= max_threads; ++threads) add(threads, cases);
  for (CaseSpec& spec : cases) spec.target = target;
  for (const std::string& lesser : lesser_targets(target)) add_target(lesser, cases);
  for (int threads = 1; threads <= max_threads; ++threads) register_machine(target, threads);
  for (const CaseSpec& spec : cases) register_case(spec);
}

int run(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  const Options options = take_options(arguments);
  // Ours come first, so that the user's own win.
  std::vector<std::string> all = {argv[0], options.quick ? "--benchmark_min_time=0.02" : "--benchmark_min_time=0.15",
                                  options.quick ? "--benchmark_repetitions=3" : "--benchmark_repetitions=5"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  pointers.reserve(all.size() + 1);
  for (std::string& argument : all) pointers.push_back(argument.data());
  int count = static_cast<int>(pointers.size());
  pointers.push_back(nullptr);
  benchmark::Initialize(&count, pointers.data());
  if (benchmark::ReportUnrecognizedArguments(count, pointers.data())) return 2;

  const Context context = make_context(options.target, 0);
  const std::string target = context.target();
  const auto cpus = static_cast<int>(context.num_threads());
#ifdef _OPENMP
  const int threads = std::min(cpus, 2);
#else
  const int threads = 1;  // without OpenMP a call has no threads of its own
#endif
  if (threads < 2) std::fprintf(stderr, "mha_bench: one CPU or no OpenMP; cases on two threads are left out\n");
  describe_environment(target, cpus);
  register_all(target, threads);
  const size_t ran = benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return ran == 0 || any_case_failed() ? 1 : 0;
}

}  // namespace
}  // namespace mha::bench

int main(int argc, char** argv) {
  try {
    return mha::bench::run(argc, argv);
  } catch (const std::exception& exception) {
    std::fprintf(stderr, "mha_bench: %s\n", exception.what());
    return 2;
  }
}
