/* SPDX-License-Identifier: Apache-2.0
 * Runs 96 requests, and 12 that are forked from them, through the toy engine over a pool that is too small for all. Prints
 * the tokens of each request and what the engine did; ends with 1 unless each request has the tokens, and the bits of
 * all hidden states and logits, that it has when it runs alone.
 *   example_toy_engine [<threads of the context>] */
#include <stdio.h>
#include <stdlib.h>

#include "tools/examples/toy_engine/engine.h"

enum { kRequests = 96, kForkEvery = 8, kChildren = kRequests / kForkEvery, kSlots = 64, kPoolTokens = 1280 };

static mha_error error;
static void must(mha_status status) {
  if (status == MHA_OK) return;
  fprintf(stderr, "%s: %s\n", mha_status_string(status), error.message);
  exit(1);
}

static void make_requests(toy_request* requests) {
  for (int64_t i = 0; i < kRequests; ++i) {
    toy_request* request = &requests[i];
    request->id = i;
    request->prompt = 3 + i * 7 % 14;
    request->wanted = 8 + i * 5 % 41;
    request->draft = (toy_draft)(i % 3);
    for (int64_t t = 0; t < request->prompt; ++t) request->tokens[t] = (int32_t)((i * 31 + t * 17 + t * t) % 256);
    if (i % kForkEvery != 0) continue;
    request->fork_at = 4;
    request->child = &requests[kRequests + i / kForkEvery];
    request->child->id = kRequests + i / kForkEvery;
    request->child->wanted = 12;
  }
}

static void print_request(const toy_request* request) {
  printf("request %d:", (int)request->id);
  for (int64_t i = request->prompt; i < request->count; ++i) printf(" %d", request->tokens[i]);
  printf(" | %016llx\n", (unsigned long long)request->hash);
}

static int print_stats(const toy_stats* stats) {
  printf(
      "engine: %lld steps, %lld tokens generated, %lld read, at most %lld requests in a step, prompts beside "
      "generation in %lld steps, %lld preemptions, %lld forks, %lld of %lld drafts right\n",
      (long long)stats->steps, (long long)stats->generated, (long long)stats->rows, (long long)stats->largest_batch,
      (long long)stats->mixed_steps, (long long)stats->preemptions, (long long)stats->forks, (long long)stats->accepted,
      (long long)stats->proposed);
  /* The example shows nothing where one of these did not happen. */
  const int all = stats->largest_batch == kSlots && stats->mixed_steps > 0 && stats->preemptions > 0 &&
                  stats->forks > 0 && stats->accepted > 0 && stats->accepted < stats->proposed;
  if (!all) fprintf(stderr, "something of what the example is to show did not happen\n");
  return all;
}

/* Each request once more, alone, on one thread, over contiguous caches. */
static void check_all(const toy_model* model, const toy_request* requests) {
  const mha_context_options one_thread = {.num_threads = 1};
  mha_context* context;
  toy_caches caches;
  toy_runner* runner;
  must(mha_context_create(&one_thread, &context, &error));
  must(toy_caches_create(context, MHA_CACHE_CONTIGUOUS, 1, kToyMaxTokens, &caches, &error));
  must(toy_runner_create(model, context, &caches, &runner, &error));
  for (int64_t i = 0; i < kRequests + kChildren; ++i) must(toy_check_alone(runner, &requests[i], &error));
  printf("equal to each request run alone, bit by bit: %d requests\n", kRequests + kChildren);
  toy_runner_destroy(runner);
  toy_caches_destroy(&caches);
  mha_context_destroy(context);
}

int main(int argc, char** argv) {
  static toy_request requests[kRequests + kChildren];
  const mha_context_options options = {.num_threads = argc > 1 ? atoi(argv[1]) : 0};
  if (argc > 1 && (options.num_threads < 1 || options.num_threads > 1024)) {
    fprintf(stderr, "threads is '%s', not in [1, 1024]\n", argv[1]);
    return 2;
  }
  mha_context* context;
  toy_model* model;
  toy_caches caches;
  toy_engine* engine;
  must(mha_context_create(&options, &context, &error));
  must(toy_model_create(context, 1, &model, &error));
  must(toy_caches_create(context, MHA_CACHE_PAGED, 2 * kSlots, kPoolTokens, &caches, &error));
  const toy_engine_config config = {.model = model, .context = context, .caches = &caches, .slots = kSlots};
  must(toy_engine_create(&config, &engine, &error));

  make_requests(requests);
  for (int64_t i = 0; i < kRequests; ++i) must(toy_engine_submit(engine, &requests[i], &error));
  while (!toy_engine_idle(engine)) must(toy_engine_step(engine, &error));

  for (int64_t i = 0; i < kRequests + kChildren; ++i) print_request(&requests[i]);
  const toy_stats stats = toy_engine_stats(engine);
  int right = print_stats(&stats);
  for (int n = 0; n < kToyLayers; ++n) {
    const size_t used = mha_cache_used_bytes(caches.layer[n]);
    if (used != 0) fprintf(stderr, "layer %d: %zu bytes of the cache are still in use\n", n, used);
    right = right && used == 0;
  }
  check_all(model, requests);
  toy_engine_destroy(engine);
  toy_caches_destroy(&caches);
  toy_model_destroy(model);
  mha_context_destroy(context);
  return right ? 0 : 1;
}
