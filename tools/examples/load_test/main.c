/* SPDX-License-Identifier: Apache-2.0
 * The load test of the toy engine: random traffic; each request must have the tokens and the bits that it
 * has alone, no token may be lost, and in the end no page and no byte may be in use. Prints figures; 1 where anything fails.
 *   example_load_test [<tokens> [<workers> [<threads of the context> [<seed>]]]]      2000 8 1 1
 * One worker serves all 64 slots in one call; 8 workers serve 8 each, over the same caches. */
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "tools/examples/load_test/serve.h"

static mha_error error;
static void must(mha_status status) {
  if (status == MHA_OK) return;
  fprintf(stderr, "load test: %s: %s\n", mha_status_string(status), error.message);
  exit(1);
}

static atomic_llong bytes_in_use, allocations;
static void* allocate(void* user, size_t bytes, size_t alignment) {
  (void)user;
  atomic_fetch_add(&bytes_in_use, (long long)bytes);
  atomic_fetch_add(&allocations, 1);
  return aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}
static void release(void* user, void* block, size_t bytes) {
  (void)user;
  atomic_fetch_sub(&bytes_in_use, (long long)bytes);
  free(block);
}

static int64_t argument(char** argv, int index, const char* name, int64_t most) {
  char* end;
  errno = 0;
  const long long value = strtoll(argv[index], &end, 10);
  if (errno == 0 && end != argv[index] && *end == 0 && value >= 1 && value <= most) return value;
  fprintf(stderr, "load test: %s is '%s', not a number in [1, %" PRId64 "]\n", name, argv[index], most);
  exit(2);
}

/* Of the requests that nobody cancels: it does not depend on workers and threads. */
static uint64_t result_hash(const load_traffic* traffic) {
  uint64_t hash = TOY_HASH_START;
  for (int64_t i = 0; i < traffic->count; ++i)
    if (traffic->requests[i].cancel_after < 0) hash = (hash ^ traffic->requests[i].request.hash) * 1099511628211u;
  return hash;
}

static void print_figures(const load_traffic* traffic, const load_figures* figures, size_t page_bytes) {
  const toy_stats* s = &figures->engines;
  printf("requests: %" PRId64 " finished, %" PRId64 " cancelled, %" PRId64 " forks shared pages\n", s->finished,
         s->cancelled, s->forks);
  printf("tokens: %" PRId64 " generated, %" PRId64 " read, in %" PRId64 " steps (%" PRId64
         " of them with prompts beside generation), at most %" PRId64 " requests in one\n",
         s->generated, s->rows, s->steps, s->mixed_steps, s->largest_batch);
  printf("drafts: %" PRId64 " of %" PRId64 " right\n", s->accepted, s->proposed);
  printf("full: %" PRId64 " preemptions; at most %zu of %d pages in use\n", s->preemptions,
         figures->peak_bytes / page_bytes, kToyLayers * kLoadPoolTokens / kToyPage);
  printf("time: %.2f s, %.0f tokens/s\n", figures->seconds, (double)s->generated / figures->seconds);
  printf("result: %016" PRIx64 " of %" PRId64 " requests\n", result_hash(traffic), traffic->count);
}

/* What a sequence of one token holds in one layer. */
static size_t bytes_of_a_page(const toy_caches* caches) {
  const int64_t one = 1;
  const mha_reserve_args args = {.caches = caches->layer, .num_caches = 1, .batch = 1, .tokens = &one};
  must(mha_cache_reserve(&args, &error));
  const size_t bytes = mha_cache_used_bytes(caches->layer[0]);
  must(mha_cache_remove(caches->layer[0], 0, &error));
  return bytes;
}

static int check_totals(const load_traffic* traffic, const toy_caches* caches, const toy_stats* stats) {
  int64_t generated = 0;
  int right = 1;
  for (int64_t i = 0; i < traffic->count; ++i)
    generated += traffic->requests[i].request.count - traffic->requests[i].request.prompt;
  if (generated != stats->generated) {
    fprintf(stderr, "load test: the engines generated %" PRId64 " tokens, the requests have %" PRId64 "\n",
            stats->generated, generated);
    right = 0;
  }
  for (int n = 0; n < kToyLayers; ++n) {
    const size_t used = mha_cache_used_bytes(caches->layer[n]);
    if (used == 0) continue;
    fprintf(stderr, "load test: layer %d: %zu bytes of the cache are still in use\n", n, used);
    right = 0;
  }
  return right;
}

/* Of one worker, whose course does not depend on when threads run. */
static int check_events(const toy_stats* stats) {
  if (stats->preemptions > 0 && stats->cancelled > 0 && stats->forks > 0 && stats->accepted > 0) return 1;
  fprintf(stderr,
          "load test: %" PRId64 " preemptions, %" PRId64 " cancellations, %" PRId64 " forks, %" PRId64
          " right drafts: each must happen; give more tokens\n",
          stats->preemptions, stats->cancelled, stats->forks, stats->accepted);
  return 0;
}

int main(int argc, char** argv) {
  const int64_t tokens = argc > 1 ? argument(argv, 1, "tokens", 100000000) : 2000;
  const int64_t workers = argc > 2 ? argument(argv, 2, "workers", kLoadMaxWorkers) : 8;
  const int64_t threads = argc > 3 ? argument(argv, 3, "threads", 1024) : 1;
  const int64_t seed = argc > 4 ? argument(argv, 4, "seed", 1 << 30) : 1;
  mha_context_options options = {.num_threads = threads};
  options.allocator = (mha_allocator){.allocate = allocate, .release = release};
  mha_context* context;
  toy_model* model;
  toy_caches caches;
  load_traffic traffic;
  load_figures figures;
  must(mha_context_create(&options, &context, &error));
  must(toy_model_create(context, 1, &model, &error));
  must(toy_caches_create(context, MHA_CACHE_PAGED, 2 * kLoadSlots, kLoadPoolTokens, &caches, &error));
  must(load_traffic_create(tokens, (uint64_t)seed, &traffic, &error));
  const size_t page_bytes = bytes_of_a_page(&caches);

  const load_setup setup = {context, model, &caches, &traffic, workers};
  const long long allocated = atomic_load(&allocations);
  must(load_serve(&setup, &figures, &error));
  print_figures(&traffic, &figures, page_bytes);
  int right = check_totals(&traffic, &caches, &figures.engines);
  if (workers == 1 && !check_events(&figures.engines)) right = 0;
  if (atomic_load(&allocations) != allocated) {
    fprintf(stderr, "load test: the library allocated %lld times while it served\n",
            atomic_load(&allocations) - allocated);
    right = 0;
  }
  must(load_check(&setup, &error));
  printf("each request has the tokens and the bits that it has alone\n");

  load_traffic_destroy(&traffic);
  toy_caches_destroy(&caches);
  toy_model_destroy(model);
  mha_context_destroy(context);
  if (atomic_load(&bytes_in_use) != 0) {
    fprintf(stderr, "load test: %lld bytes of the library's memory were not given back\n", atomic_load(&bytes_in_use));
    right = 0;
  }
  return right ? 0 : 1;
}
