/* SPDX-License-Identifier: Apache-2.0
 * Serves the traffic on several threads, each with an engine of its own over caches that all share, and compares each
 * request with itself alone. */
#ifndef MHA_TOOLS_EXAMPLES_LOAD_TEST_SERVE_H
#define MHA_TOOLS_EXAMPLES_LOAD_TEST_SERVE_H

#include "tools/examples/load_test/traffic.h"

enum { kLoadSlots = 64, kLoadPoolTokens = 1536, kLoadMaxWorkers = 64 };

typedef struct load_setup {
  const mha_context* context;
  const toy_model* model;
  const toy_caches* caches; /* of 2 * kLoadSlots sequences, whatever the number of workers */
  const load_traffic* traffic;
  int64_t workers; /* threads; each has kLoadSlots / workers slots */
} load_setup;

typedef struct load_figures {
  toy_stats engines; /* of all engines together; largest_batch: the largest of them */
  size_t peak_bytes; /* of the caches */
  double seconds;
} load_figures;

/* Requests arrive by a Poisson process whose time is an engine's steps, and are cancelled by the same clock. Returns when
 * all are done or cancelled; with the first error of a thread. */
mha_status load_serve(const load_setup* setup, load_figures* figures, mha_error* error);

/* On as many threads, each with a context of one thread. */
mha_status load_check(const load_setup* setup, mha_error* error);

#endif /* MHA_TOOLS_EXAMPLES_LOAD_TEST_SERVE_H */
