// SPDX-License-Identifier: Apache-2.0
// mha_split_context: attention over one long context whose keys and values are spread over MPI ranks.
//   mpirun -n 4 mha_split_context [--tokens 40000] [--queries 1] [--threads 1]
// Every rank holds a run of whole chunks (256 keys) and attends to them alone; rank 0 gathers the partial results in
// the order of the ranks, merges them, and compares with one call over all keys: output and log-sum-exp must have the
// same bits. What travels is one partial row per chunk, head and query, not the keys. Exit status 1: they differ; 2:
// wrong arguments or a failing call.
#include <mpi.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/mha.hpp"

namespace {

constexpr int64_t kChunk = 256;
constexpr int64_t kHeads = 8, kKvHeads = 2, kHeadDim = 64;

struct Options {
  int64_t tokens = 40000;
  int64_t queries = 1;
  int64_t threads = 1;
};

void require(const mha::Status& status) {
  if (!status) throw std::runtime_error(std::string(mha_status_string(status.code())) + ": " + status.message());
}
template <class T>
T require(mha::Result<T> result) {
  require(result.status());
  return std::move(*result);
}

mha::Context make_context(int64_t threads) {
  mha_context_options options = {};
  options.num_threads = threads;
  return require(mha::Context::create(options));
}

/// Element `index` of tensor `seed`, in [-1, 1): splitmix64, so that a rank can make its part alone.
float element(uint64_t seed, int64_t index) {
  uint64_t z = (seed << 56) + static_cast<uint64_t>(index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return static_cast<float>(static_cast<int64_t>(z >> 40) - (1 << 23)) * 0x1p-23f;
}

/// Elements [begin, begin + count) of tensor `seed`.
std::vector<float> elements(uint64_t seed, int64_t begin, int64_t count, float scale = 1) {
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t n = 0; n < count; ++n) values[static_cast<size_t>(n)] = element(seed, begin + n) * scale;
  return values;
}

/// Keys [begin, begin + length) of the context, and the queries that stand at its end.
struct Part {
  Part(const Options& options, int64_t begin, int64_t length)
      : query(elements(1, 0, options.queries * kHeads * kHeadDim, 4)),
        key(elements(2, begin * kKvHeads * kHeadDim, length * kKvHeads * kHeadDim)),
        value(elements(3, begin * kKvHeads * kHeadDim, length * kKvHeads * kHeadDim)) {
    args.batch = 1;
    args.num_heads = kHeads;
    args.num_kv_heads = kKvHeads;
    args.query_len = options.queries;
    args.key_len = length;
    args.head_dim = kHeadDim;
    args.query = mha::view(query.data());
    args.key = mha::view(key.data());
    args.value = mha::view(value.data());
    // Causal over the whole context; keys count from the part's first.
    args.causal = 1;
    args.positions.align = MHA_ALIGN_OFFSET;
    args.positions.offset = options.tokens - options.queries - begin;
  }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  size_t bytes() const { return (key.size() + value.size()) * sizeof(float); }

  std::vector<float> query, key, value;
  mha::AttentionCall args;
};

/// One partial result per chunk of the part; none for an empty one. A whole number of floats, as which they travel.
std::vector<float> attend(const mha::Context& context, const Part& part) {
  if (part.args.key_len == 0) return {};
  const auto bytes = require(context.attention_partial_bytes(part.args));
  std::vector<float> partials(bytes / sizeof(float));
  require(context.attention_partial(part.args, {reinterpret_cast<std::byte*>(partials.data()), bytes}));
  return partials;
}

/// All ranks' partials one after the other, on rank 0; empty elsewhere.
std::vector<float> gather(const std::vector<float>& own, int rank, int ranks) {
  if (own.size() > static_cast<size_t>(INT_MAX / ranks))
    throw std::runtime_error("the partial results are too many for MPI's int counts");
  const int count = static_cast<int>(own.size());
  std::vector<int> counts(static_cast<size_t>(ranks)), places(static_cast<size_t>(ranks));
  MPI_Gather(&count, 1, MPI_INT, counts.data(), 1, MPI_INT, 0, MPI_COMM_WORLD);
  int total = 0;
  if (rank == 0) {
    for (size_t r = 0; r < counts.size(); ++r) {
      places[r] = total;
      total += counts[r];
    }
  }
  std::vector<float> all(static_cast<size_t>(total));
  MPI_Gatherv(own.data(), count, MPI_FLOAT, all.data(), counts.data(), places.data(), MPI_FLOAT, 0, MPI_COMM_WORLD);
  return all;
}

struct Results {
  explicit Results(int64_t rows)
      : output(static_cast<size_t>(rows * kHeadDim)), log_sum_exp(static_cast<size_t>(rows)) {}
  std::vector<float> output, log_sum_exp;
};

Results merge(const mha::Context& context, const Options& options, int64_t chunks, const std::vector<float>& partials) {
  Results results(options.queries * kHeads);
  mha_merge_partials_args args = {};
  args.batch = 1;
  args.num_heads = kHeads;
  args.query_len = options.queries;
  args.value_head_dim = kHeadDim;
  args.num_chunks = chunks;
  args.partials = partials.data();
  args.output = mha::mut_view(results.output.data());
  args.log_sum_exp = results.log_sum_exp.data();
  require(context.attention_merge_partials(args));
  return results;
}

Results in_one_call(const mha::Context& context, const Options& options) {
  const Part whole(options, 0, options.tokens);
  Results results(options.queries * kHeads);
  mha::AttentionCall args = whole.args;
  args.output = mha::mut_view(results.output.data());
  args.results.log_sum_exp = results.log_sum_exp.data();
  require(context.attention(args));
  return results;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// On rank 0 whether the merged result is that of one call; elsewhere true.
bool run(const Options& options, int rank, int ranks) {
  const mha::Context context = make_context(options.threads);
  const int64_t chunks = (options.tokens + kChunk - 1) / kChunk;
  const int64_t begin = std::min(options.tokens, chunks * rank / ranks * kChunk);
  const int64_t end = std::min(options.tokens, chunks * (rank + 1) / ranks * kChunk);
  const Part part(options, begin, end - begin);

  MPI_Barrier(MPI_COMM_WORLD);
  const auto start = std::chrono::steady_clock::now();
  const std::vector<float> own = attend(context, part);
  const std::vector<float> partials = gather(own, rank, ranks);
  if (rank != 0) return true;
  const Results merged = merge(context, options, chunks, partials);
  const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start;

  const Results whole = in_one_call(context, options);
  const bool same = same_bits(merged.output, whole.output) && same_bits(merged.log_sum_exp, whole.log_sum_exp);
  const double sent = static_cast<double>((partials.size() - own.size()) * sizeof(float)) / 1024;
  const double stored = static_cast<double>(options.tokens * kKvHeads * kHeadDim * 2) * sizeof(float) / 1024;
  std::printf("%lld tokens, %lld queries, %lld chunks on %d ranks (%s, first output %.9g): %s\n",
              static_cast<long long>(options.tokens), static_cast<long long>(options.queries),
              static_cast<long long>(chunks), ranks, context.target(), static_cast<double>(merged.output[0]),
              same ? "the same bits as one call" : "NOT THE BITS OF ONE CALL");
  std::printf("  sent %.0f KiB of partial results; keys and values are %.0f KiB (%.1f %%); %.2f ms\n", sent, stored,
              100 * sent / stored, taken.count());
  return same;
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int rank = 0, ranks = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  int status = 0;
  try {
    Options options;
    CLI::App app("Attention over a context that is split over MPI ranks");
    app.add_option("--tokens", options.tokens, "keys of the context")->check(CLI::Range(1, 1 << 24));
    app.add_option("--queries", options.queries, "queries at its end")->check(CLI::Range(1, 1 << 16));
    app.add_option("--threads", options.threads, "threads of a rank; 0: the CPUs allowed")->check(CLI::Range(0, 1024));
    app.parse(argc, argv);
    status = run(options, rank, ranks) ? 0 : 1;
  } catch (const CLI::ParseError& error) {
    if (rank == 0) std::fprintf(stderr, "mha_split_context: %s\n", error.what());
    status = 2;  // on every rank
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mha_split_context: rank %d: %s\n", rank, error.what());
    MPI_Abort(MPI_COMM_WORLD, 2);  // the others may be waiting for this one
  }
  MPI_Finalize();
  return status;
}
