/* SPDX-License-Identifier: Apache-2.0
 * The inside of the toy engine: its queues (engine.c), drafts (drafts.c), and the batch of a step (step.c). */
#ifndef MHA_TOOLS_EXAMPLES_TOY_ENGINE_ENGINE_PARTS_H
#define MHA_TOOLS_EXAMPLES_TOY_ENGINE_ENGINE_PARTS_H

#include "tools/examples/toy_engine/engine.h"

struct toy_engine {
  toy_engine_config config;
  toy_runner* runner;
  toy_stats stats;
  int64_t arrivals;
  toy_request* waiting;               /* a list, the oldest first */
  toy_request* running[kToyMaxItems]; /* the oldest first */
  int64_t running_count;
  int64_t free_slots[kToyMaxItems];
  int64_t free_count;
  toy_batch batch;
  toy_request* in_batch[kToyMaxItems]; /* the requests of the batch's items */
};

/* The sequence of a slot, and the sequence for forks of it. */
static inline int64_t toy_sequence(const toy_engine* engine, const toy_request* request) {
  return engine->config.first_sequence + request->slot;
}
static inline int64_t toy_draft_sequence(const toy_engine* engine, const toy_request* request) {
  return engine->config.first_sequence + engine->config.slots + request->slot;
}

static inline int64_t toy_generated(const toy_request* request) { return request->count - request->prompt; }

/* Tokens of the request that are in the caches. */
int64_t toy_cached(const toy_engine* engine, const toy_request* request);
/* Reserves room in every cache, or in none (MHA_ERR_FULL). */
mha_status toy_reserve(const toy_engine* engine, int64_t sequence, int64_t tokens, mha_error* error);
/* Takes a slot for a request that is neither waiting nor running. */
void toy_start(toy_engine* engine, toy_request* request);
/* Empties its sequence and frees its slot. */
mha_status toy_stop(toy_engine* engine, toy_request* request, toy_state state, mha_error* error);
/* Puts it into the list of those that wait, by its arrival. */
void toy_wait(toy_engine* engine, toy_request* request);
/* Starts those that wait, the oldest first, as long as there are slots and room. */
mha_status toy_admit(toy_engine* engine, mha_error* error);

/* Fills the drafts of all running requests that want some. */
mha_status toy_propose(toy_engine* engine, mha_error* error);

#endif /* MHA_TOOLS_EXAMPLES_TOY_ENGINE_ENGINE_PARTS_H */
