/* SPDX-License-Identifier: Apache-2.0
 * The toy engine: continuous batching over the caches of toy_model. Each step is one call of the model. It takes a piece of
 * the prompts that are not yet read, and the last token of the requests that are, with the tokens drafted after it. A
 * request whose next tokens find no room is preempted: its sequence is removed, the host keeps its tokens, and it is
 * read again when there is room. What a request generates does not depend on any of this.
 * One thread steps an engine; several engines may share model, context and caches, each with sequences of its own. */
#ifndef MHA_TOOLS_EXAMPLES_TOY_ENGINE_ENGINE_H
#define MHA_TOOLS_EXAMPLES_TOY_ENGINE_ENGINE_H

#include "tools/examples/toy_engine/model.h"

enum {
  kToyPiece = 32,  /* tokens of a prompt that one step reads */
  kToyMaxDraft = 4 /* drafted tokens that one step verifies */
};

/* Where a request's drafts come from. Those that are right cost no step of their own; the others are truncated. */
typedef enum toy_draft {
  kToyNoDraft = 0,
  kToyLookup = 1,  /* what followed the same two tokens before */
  kToyLayerOne = 2 /* the first layer alone, on a fork of the sequence that is removed afterwards */
} toy_draft;

typedef enum toy_state { kToyNew = 0, kToyWaiting, kToyRunning, kToyDone, kToyCancelled } toy_state;

typedef struct toy_request {
  /* Set by the host. The host keeps the request in place until it is done or cancelled. */
  int64_t id;
  int64_t prompt; /* tokens that are given, >= 1 */
  int64_t wanted; /* tokens to generate, >= 1 */
  toy_draft draft;
  int64_t fork_at;           /* generated tokens after which `child` begins, with the same tokens, except that its */
  struct toy_request* child; /* last is the second best. NULL: no fork. The engine sets its prompt and tokens */
  int32_t tokens[kToyMaxTokens];

  /* Results. */
  toy_state state;
  int64_t count; /* of tokens: the prompt, then what was generated */
  uint64_t hash; /* of the final hidden states and the logits of all generated tokens, in their order */
  int64_t preemptions;

  /* The engine's own. */
  int64_t arrival, slot, drafts;
  int32_t drafted[kToyMaxDraft];
  struct toy_request* next;
} toy_request;

/* The hash before the first token. */
#define TOY_HASH_START 14695981039346656037u

typedef struct toy_engine_config {
  const toy_model* model;
  const mha_context* context;
  const toy_caches* caches;
  int64_t slots;          /* requests that run at the same time, in [1, kToyMaxItems] */
  int64_t first_sequence; /* the engine uses this sequence and the next 2 * slots - 1 */
} toy_engine_config;

typedef struct toy_stats {
  int64_t steps, finished, cancelled, forks;
  int64_t generated;     /* tokens */
  int64_t rows;          /* tokens that the model read, those that were read again and drafts included */
  int64_t preemptions;   /* the cache was full */
  int64_t proposed;      /* drafted tokens, */
  int64_t accepted;      /* and those that were right */
  int64_t largest_batch; /* requests in one step */
  int64_t mixed_steps;   /* steps that read prompts beside requests that generated */
} toy_stats;

typedef struct toy_engine toy_engine;

mha_status toy_engine_create(const toy_engine_config* config, toy_engine** engine, mha_error* error);
/* NULL is allowed. Sequences of requests that still run stay in the caches: cancel these first. */
void toy_engine_destroy(toy_engine* engine);
/* Refuses a request that would not fit even alone. */
mha_status toy_engine_submit(toy_engine* engine, toy_request* request, mha_error* error);
/* Ends a request that waits or runs; it keeps what it has generated. A child that has not begun will not begin. */
mha_status toy_engine_cancel(toy_engine* engine, toy_request* request, mha_error* error);
/* One call of the model, if anything fits. */
mha_status toy_engine_step(toy_engine* engine, mha_error* error);
int toy_engine_idle(const toy_engine* engine); /* nothing waits or runs */
toy_stats toy_engine_stats(const toy_engine* engine);

/* Generates what the request would, up to `generated` tokens, one token a call and without an engine, in sequence 0 of the
 * runner's caches. Compares tokens and hash with the request's: MHA_ERR_ARGUMENT, with the place, where they differ. */
mha_status toy_check_alone(toy_runner* runner, const toy_request* request, mha_error* error);

#endif /* MHA_TOOLS_EXAMPLES_TOY_ENGINE_ENGINE_H */
