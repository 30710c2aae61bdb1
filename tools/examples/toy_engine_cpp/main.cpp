// SPDX-License-Identifier: Apache-2.0
// The requests of toy_engine/main.c through the engine in C++, on threads of the program's own. Prints the tokens of each
// request, which are those of the engine in C, and what the engine did.
//   example_toy_engine_cpp [<threads>]
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "tools/examples/toy_engine_cpp/engine.h"
#include "tools/examples/toy_engine_cpp/thread_pool.h"

namespace toy {
namespace {

constexpr std::int64_t kRequests = 96, kForkEvery = 8, kSlots = 64, kPoolTokens = 1280;

std::vector<Request> make_requests() {
  std::vector<Request> requests(kRequests + kRequests / kForkEvery);
  for (std::int64_t i = 0; i < kRequests; ++i) {
    Request& request = requests[static_cast<std::size_t>(i)];
    request.id = i;
    request.wanted = static_cast<std::size_t>(8 + i * 5 % 41);
    request.draft = static_cast<Draft>(i % 3);
    for (std::int64_t t = 0; t < 3 + i * 7 % 14; ++t)
      request.tokens.push_back(static_cast<Token>((i * 31 + t * 17 + t * t) % 256));
    if (i % kForkEvery != 0) continue;
    const std::int64_t child = kRequests + i / kForkEvery;
    request.fork_at = 4;
    request.child = &requests[static_cast<std::size_t>(child)];
    request.child->id = child;
    request.child->wanted = 12;
  }
  return requests;
}

void print(const std::vector<Request>& requests, const Stats& stats, const ThreadPool& pool) {
  for (const Request& request : requests) {
    std::printf("request %d:", static_cast<int>(request.id));
    for (std::size_t i = request.prompt; i < request.tokens.size(); ++i) std::printf(" %d", request.tokens[i]);
    std::printf(" | %016llx\n", static_cast<unsigned long long>(request.hash));
  }
  std::printf("engine: %d steps, at most %d requests in a step, %d preemptions, %d forks, %d of %d drafts right\n",
              static_cast<int>(stats.steps), static_cast<int>(stats.largest_batch), static_cast<int>(stats.preemptions),
              static_cast<int>(stats.forks), static_cast<int>(stats.accepted), static_cast<int>(stats.proposed));
  std::printf("threads: %d calls of the library ran on several\n", static_cast<int>(pool.shared_calls()));
}

bool run(int threads) {
  ThreadPool pool(threads);
  mha_context_options options = {};
  options.num_threads = threads;
  options.parallel_for.run = ThreadPool::run;
  options.parallel_for.user = &pool;
  const mha::Context context = require(mha::Context::create(options));
  const Model model(context, 1);
  Caches caches = make_caches(context, 2 * kSlots, kPoolTokens);
  Engine engine(model, caches, kSlots);
  std::vector<Request> requests = make_requests();
  for (std::int64_t i = 0; i < kRequests; ++i) engine.submit(requests[static_cast<std::size_t>(i)]);
  engine.run();
  const Stats& stats = engine.stats();
  print(requests, stats, pool);
  // The example shows nothing where one of these did not happen.
  const bool all = stats.largest_batch == kSlots && stats.preemptions > 0 && stats.forks > 0 && stats.accepted > 0 &&
                   stats.accepted < stats.proposed && (pool.shared_calls() > 0) == (threads > 1);
  if (!all) std::fprintf(stderr, "something of what the example is to show did not happen\n");
  bool empty = true;
  for (const mha::Cache& cache : caches) empty = empty && cache.used_bytes() == 0;
  if (!empty) std::fprintf(stderr, "a page of the caches is still in use\n");
  return all && empty;
}

}  // namespace
}  // namespace toy

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 8;
  if (threads < 1 || threads > 1024) {
    std::fprintf(stderr, "threads is '%s', not in [1, 1024]\n", argv[1]);
    return 2;
  }
  try {
    return toy::run(threads) ? EXIT_SUCCESS : EXIT_FAILURE;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return EXIT_FAILURE;
  }
}
