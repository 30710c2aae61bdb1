/* SPDX-License-Identifier: Apache-2.0
 * Makes the requests: mostly short ones, some long ones; a third begin with the same 16 tokens; a tenth is forked, one in
 * fourteen is cancelled. */
#include "tools/examples/load_test/traffic.h"

#include <stdlib.h>
#include <string.h>

uint64_t load_random(uint64_t* state, uint64_t limit) { return (toy_random(state) >> 32) * limit >> 32; }

double load_random_unit(uint64_t* state) { return ((double)(toy_random(state) >> 12) + 0.5) * 0x1p-52; }

/* In [1, few], or rarely in (few, many]. */
static int64_t random_length(uint64_t* state, uint64_t few, uint64_t many) {
  if (load_random(state, 4) > 0) return 1 + (int64_t)load_random(state, few);
  return 1 + (int64_t)few + (int64_t)load_random(state, many - few);
}

/* A request that arrives; whether it is forked in *forked. */
static void make_request(load_request* made, uint64_t* state, int* forked) {
  enum { kShared = 16, kPhrase = 5 };
  toy_request* request = &made->request;
  const int shared = load_random(state, 3) == 0, phrases = load_random(state, 2) == 0;
  request->prompt = random_length(state, 24, 96);
  request->wanted = random_length(state, 24, 80);
  request->draft = (toy_draft)load_random(state, 3);
  for (int64_t i = 0; i < request->prompt; ++i) {
    request->tokens[i] = (int32_t)load_random(state, kToyVocabulary);
    if (phrases && i >= kPhrase) request->tokens[i] = request->tokens[i - kPhrase]; /* something to look up */
    if (shared && i < kShared) request->tokens[i] = (int32_t)(i * 11);
  }
  made->cancel_after = load_random(state, 14) == 0 ? (int64_t)load_random(state, 40) : -1;
  *forked = made->cancel_after < 0 && load_random(state, 10) == 0;
  if (*forked) request->fork_at = 1 + (int64_t)load_random(state, (uint64_t)request->wanted);
}

static void make_child(load_request* made, uint64_t* state) {
  made->request.wanted = random_length(state, 12, 24);
  made->request.draft = (toy_draft)load_random(state, 3);
  made->arrival = made->cancel_after = -1;
}

/* Room for two more requests. */
static mha_status grow(load_traffic* traffic, int64_t* capacity, mha_error* error) {
  if (traffic->count + 2 <= *capacity) return MHA_OK;
  const int64_t wider = 2 * *capacity + 64;
  load_request* grown = realloc(traffic->requests, (size_t)wider * sizeof *grown);
  if (grown == NULL) return toy_fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for %lld requests", (long long)wider);
  memset(grown + *capacity, 0, (size_t)(wider - *capacity) * sizeof *grown);
  traffic->requests = grown;
  *capacity = wider;
  return MHA_OK;
}

mha_status load_traffic_create(int64_t tokens, uint64_t seed, load_traffic* traffic, mha_error* error) {
  int64_t capacity = 0, arrivals = 0, planned = 0;
  memset(traffic, 0, sizeof *traffic);
  while (planned < tokens) {
    const mha_status status = grow(traffic, &capacity, error);
    if (status != MHA_OK) {
      load_traffic_destroy(traffic);
      return status;
    }
    uint64_t state = (seed << 32) + (uint64_t)arrivals;
    state = toy_random(&state);
    int forked;
    load_request* made = &traffic->requests[traffic->count++];
    make_request(made, &state, &forked);
    made->arrival = arrivals++;
    if (made->cancel_after < 0) planned += made->request.wanted;
    if (!forked) continue;
    make_child(&traffic->requests[traffic->count], &state);
    planned += traffic->requests[traffic->count++].request.wanted;
  }
  for (int64_t i = 0; i < traffic->count; ++i) {
    toy_request* request = &traffic->requests[i].request;
    request->id = i;
    if (request->fork_at > 0) request->child = &traffic->requests[i + 1].request;
  }
  return MHA_OK;
}

void load_traffic_destroy(load_traffic* traffic) {
  free(traffic->requests);
  memset(traffic, 0, sizeof *traffic);
}
