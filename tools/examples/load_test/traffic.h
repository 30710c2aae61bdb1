/* SPDX-License-Identifier: Apache-2.0
 * Random traffic for the toy engine. What a request holds depends on the seed and its number alone, so that another number
 * of threads serves the same requests. */
#ifndef MHA_TOOLS_EXAMPLES_LOAD_TEST_TRAFFIC_H
#define MHA_TOOLS_EXAMPLES_LOAD_TEST_TRAFFIC_H

#include "tools/examples/toy_engine/engine.h"

typedef struct load_request {
  toy_request request;
  int64_t arrival;      /* its number among those that arrive; -1: it is forked from the one before it */
  int64_t cancel_after; /* steps after its arrival; -1: never */
} load_request;

typedef struct load_traffic {
  load_request* requests;
  int64_t count;
} load_traffic;

/* As many requests as generate `tokens` tokens, those that are cancelled not counted. */
mha_status load_traffic_create(int64_t tokens, uint64_t seed, load_traffic* traffic, mha_error* error);
void load_traffic_destroy(load_traffic* traffic);

/* Random numbers: the next of a sequence, below `limit`; and between 0 and 1, neither included. */
uint64_t load_random(uint64_t* state, uint64_t limit);
double load_random_unit(uint64_t* state);

#endif /* MHA_TOOLS_EXAMPLES_LOAD_TEST_TRAFFIC_H */
