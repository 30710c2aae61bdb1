/* SPDX-License-Identifier: Apache-2.0
 * The engine's queues: who waits, who runs in which slot, and who gets room in the caches. */
#include <stdlib.h>
#include <string.h>

#include "tools/examples/toy_engine/engine_parts.h"

mha_status toy_engine_create(const toy_engine_config* config, toy_engine** engine, mha_error* error) {
  *engine = NULL;
  if (config->slots < 1 || config->slots > kToyMaxItems) {
    return toy_fail(error, MHA_ERR_ARGUMENT, "slots is %lld, not in [1, %d]", (long long)config->slots, kToyMaxItems);
  }
  toy_engine* made = calloc(1, sizeof *made);
  if (made == NULL) return toy_fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for the engine");
  made->config = *config;
  for (int64_t slot = config->slots; slot > 0; --slot) made->free_slots[made->free_count++] = slot - 1;
  const mha_status status = toy_runner_create(config->model, config->context, config->caches, &made->runner, error);
  if (status == MHA_OK) {
    *engine = made;
  } else {
    toy_engine_destroy(made);
  }
  return status;
}

void toy_engine_destroy(toy_engine* engine) {
  if (engine == NULL) return;
  toy_runner_destroy(engine->runner);
  free(engine);
}

int64_t toy_cached(const toy_engine* engine, const toy_request* request) {
  return mha_cache_length(engine->config.caches->layer[0], toy_sequence(engine, request));
}

mha_status toy_reserve(const toy_engine* engine, int64_t sequence, int64_t tokens, mha_error* error) {
  mha_reserve_args args = {.caches = engine->config.caches->layer, .num_caches = kToyLayers, .batch = 1};
  args.sequences = &sequence;
  args.tokens = &tokens;
  return mha_cache_reserve(&args, error);
}

void toy_start(toy_engine* engine, toy_request* request) {
  int64_t place = engine->running_count++;
  for (; place > 0 && engine->running[place - 1]->arrival > request->arrival; --place)
    engine->running[place] = engine->running[place - 1];
  engine->running[place] = request;
  request->slot = engine->free_slots[--engine->free_count];
  request->state = kToyRunning;
  request->drafts = 0;
}

mha_status toy_stop(toy_engine* engine, toy_request* request, toy_state state, mha_error* error) {
  int64_t place = 0;
  while (engine->running[place] != request) ++place;
  --engine->running_count;
  for (; place < engine->running_count; ++place) engine->running[place] = engine->running[place + 1];
  engine->free_slots[engine->free_count++] = request->slot;
  request->state = state;
  for (int n = 0; n < kToyLayers; ++n) {
    const mha_status status = mha_cache_remove(engine->config.caches->layer[n], toy_sequence(engine, request), error);
    if (status != MHA_OK) return status;
  }
  return MHA_OK;
}

void toy_wait(toy_engine* engine, toy_request* request) {
  toy_request** link = &engine->waiting;
  while (*link != NULL && (*link)->arrival < request->arrival) link = &(*link)->next;
  request->next = *link;
  *link = request;
  request->state = kToyWaiting;
}

mha_status toy_admit(toy_engine* engine, mha_error* error) {
  while (engine->waiting != NULL && engine->free_count > 0) {
    toy_request* request = engine->waiting;
    const int64_t sequence = engine->config.first_sequence + engine->free_slots[engine->free_count - 1];
    /* Beside its own tokens there must be room for a token of each that runs: else it would soon be preempted. */
    const int64_t needed = request->count + engine->running_count;
    for (int n = 0; n < kToyLayers; ++n)
      if (mha_cache_room(engine->config.caches->layer[n], sequence) < needed) return MHA_OK;
    const mha_status status = toy_reserve(engine, sequence, request->count, error);
    if (status == MHA_ERR_FULL) return MHA_OK; /* another engine took the room meanwhile */
    if (status != MHA_OK) return status;
    engine->waiting = request->next;
    toy_start(engine, request);
  }
  return MHA_OK;
}

/* Whether a request of `tokens` tokens fits into an empty pool. */
static mha_status check_size(const toy_engine* engine, int64_t id, int64_t tokens, mha_error* error) {
  mha_cache_config config;
  mha_cache_get_config(engine->config.caches->layer[0], &config);
  if (tokens > kToyMaxTokens || tokens > config.capacity) {
    return toy_fail(error, MHA_ERR_ARGUMENT, "request %lld may have %lld tokens; the most is %lld", (long long)id,
                    (long long)tokens, (long long)(config.capacity < kToyMaxTokens ? config.capacity : kToyMaxTokens));
  }
  return MHA_OK;
}

static mha_status check_request(const toy_engine* engine, const toy_request* request, mha_error* error) {
  const toy_request* child = request->child;
  if (request->prompt < 1 || request->wanted < 1) {
    return toy_fail(error, MHA_ERR_ARGUMENT,
                    "request %lld has a prompt of %lld tokens and wants %lld; both must be >= 1",
                    (long long)request->id, (long long)request->prompt, (long long)request->wanted);
  }
  mha_status status = check_size(engine, request->id, request->prompt + request->wanted, error);
  if (status != MHA_OK) return status;
  for (int64_t i = 0; i < request->prompt; ++i) {
    if (request->tokens[i] < 0 || request->tokens[i] >= kToyVocabulary) {
      return toy_fail(error, MHA_ERR_ARGUMENT, "request %lld: token %lld is %d, not in [0, %d)", (long long)request->id,
                      (long long)i, request->tokens[i], kToyVocabulary);
    }
  }
  if (child == NULL) return MHA_OK;
  if (request->fork_at < 1 || request->fork_at > request->wanted || child->wanted < 1 || child->child != NULL) {
    return toy_fail(error, MHA_ERR_ARGUMENT,
                    "request %lld: fork_at is %lld, not in [1, %lld], or its child wants %lld tokens or forks itself",
                    (long long)request->id, (long long)request->fork_at, (long long)request->wanted,
                    (long long)child->wanted);
  }
  return check_size(engine, child->id, request->prompt + request->fork_at + child->wanted, error);
}

mha_status toy_engine_submit(toy_engine* engine, toy_request* request, mha_error* error) {
  const mha_status status = check_request(engine, request, error);
  if (status != MHA_OK) return status;
  request->count = request->prompt;
  request->hash = TOY_HASH_START;
  request->preemptions = request->drafts = 0;
  request->arrival = engine->arrivals++;
  toy_wait(engine, request);
  return MHA_OK;
}

mha_status toy_engine_cancel(toy_engine* engine, toy_request* request, mha_error* error) {
  if (request->state == kToyWaiting) {
    toy_request** link = &engine->waiting;
    while (*link != request) link = &(*link)->next;
    *link = request->next;
    request->state = kToyCancelled;
  } else if (request->state == kToyRunning) {
    const mha_status status = toy_stop(engine, request, kToyCancelled, error);
    if (status != MHA_OK) return status;
  } else {
    return toy_fail(error, MHA_ERR_ARGUMENT, "request %lld neither waits nor runs", (long long)request->id);
  }
  ++engine->stats.cancelled;
  return MHA_OK;
}

int toy_engine_idle(const toy_engine* engine) { return engine->waiting == NULL && engine->running_count == 0; }

toy_stats toy_engine_stats(const toy_engine* engine) { return engine->stats; }
