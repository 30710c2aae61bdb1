/* SPDX-License-Identifier: Apache-2.0
 * One step of the engine: the batch is collected, run, and its results given to the requests. */
#include <string.h>

#include "tools/examples/toy_engine/engine_parts.h"

/* Reserves room for the request's next tokens; until there is, the youngest request is preempted, which may be this one
 * (MHA_ERR_FULL). Those that came before it keep what they have. */
static mha_status make_room(toy_engine* engine, toy_request* request, int64_t tokens, mha_error* error) {
  for (;;) {
    mha_status status = toy_reserve(engine, toy_sequence(engine, request), tokens, error);
    if (status != MHA_ERR_FULL) return status;
    toy_request* youngest = engine->running[engine->running_count - 1];
    status = toy_stop(engine, youngest, kToyWaiting, error);
    if (status != MHA_OK) return status;
    toy_wait(engine, youngest);
    ++youngest->preemptions;
    ++engine->stats.preemptions;
    if (youngest == request) return MHA_ERR_FULL;
  }
}

/* Adds tokens [cached, cached + tokens) of the request, then its drafts. Logits are wanted from its last token on. */
static void add_item(toy_engine* engine, toy_request* request, int64_t cached, int64_t tokens) {
  toy_batch* batch = &engine->batch;
  engine->in_batch[batch->items] = request;
  toy_batch_begin(batch, toy_sequence(engine, request));
  for (int64_t i = cached; i < cached + tokens; ++i) toy_batch_push(batch, request->tokens[i]);
  for (int64_t i = 0; i < request->drafts; ++i) toy_batch_push(batch, request->drafted[i]);
  batch->wanted[batch->items - 1] = cached + tokens == request->count ? 1 + request->drafts : 0;
}

/* Fills the batch, the oldest requests first. */
static mha_status collect(toy_engine* engine, mha_error* error) {
  toy_batch* batch = &engine->batch;
  int reads = 0, generates = 0;
  batch->items = 0;
  for (int64_t n = 0; n < engine->running_count; ++n) {
    toy_request* request = engine->running[n];
    const int64_t cached = toy_cached(engine, request), rows = toy_batch_rows(batch);
    int64_t tokens = request->count - cached;
    if (tokens > kToyPiece) tokens = kToyPiece;
    if (tokens > kToyMaxRows - rows) break; /* the rest takes part in the next step */
    if (request->drafts > kToyMaxRows - rows - tokens) request->drafts = 0;
    mha_status status = MHA_ERR_FULL;
    if (request->drafts > 0) {
      status = toy_reserve(engine, toy_sequence(engine, request), tokens + request->drafts, error);
      if (status == MHA_ERR_FULL) request->drafts = 0; /* guesses are not worth a preemption */
    }
    if (status == MHA_ERR_FULL) status = make_room(engine, request, tokens, error);
    if (status == MHA_ERR_FULL) continue; /* it was the youngest */
    if (status != MHA_OK) return status;
    add_item(engine, request, cached, tokens);
    *(request->count - cached > 1 ? &reads : &generates) = 1;
    engine->stats.proposed += request->drafts;
  }
  engine->stats.mixed_steps += reads && generates;
  return MHA_OK;
}

/* The child gets the parent's tokens, with `second` as the last. It shares the parent's pages, if a slot is free. */
static mha_status begin_child(toy_engine* engine, toy_request* parent, int32_t second, mha_error* error) {
  toy_request* child = parent->child;
  memcpy(child->tokens, parent->tokens, (size_t)parent->count * sizeof *child->tokens);
  child->count = child->prompt = parent->count;
  child->tokens[child->count - 1] = second;
  child->hash = TOY_HASH_START;
  child->preemptions = 0;
  child->arrival = engine->arrivals++;
  if (engine->free_count == 0) {
    toy_wait(engine, child);
    return MHA_OK;
  }
  toy_start(engine, child);
  ++engine->stats.forks;
  for (int n = 0; n < kToyLayers; ++n) {
    mha_cache* cache = engine->config.caches->layer[n];
    const int64_t from = toy_sequence(engine, parent), to = toy_sequence(engine, child);
    const mha_status status = mha_cache_fork(cache, from, to, child->count - 1, error);
    if (status != MHA_OK) return status;
  }
  return MHA_OK;
}

/* Takes the token behind each row of the request, as long as the row's own token was right: the first is, a draft may
 * not be. Then the caches lose the drafts that were wrong. */
static mha_status accept(toy_engine* engine, toy_request* request, int64_t row, mha_error* error) {
  const toy_runner* runner = engine->runner;
  for (int64_t i = 0; i <= request->drafts; ++i, ++row) {
    const toy_choice choice = toy_choose(runner->logits + row * kToyVocabulary);
    request->hash = toy_hash(request->hash, runner->hidden + row * kToyWidth, kToyWidth);
    request->hash = toy_hash(request->hash, runner->logits + row * kToyVocabulary, kToyVocabulary);
    request->tokens[request->count++] = choice.best;
    ++engine->stats.generated;
    if (request->child != NULL && toy_generated(request) == request->fork_at) {
      const mha_status status = begin_child(engine, request, choice.second, error);
      if (status != MHA_OK) return status;
    }
    if (i == request->drafts || request->drafted[i] != choice.best) break;
    ++engine->stats.accepted;
  }
  if (toy_generated(request) == request->wanted) {
    ++engine->stats.finished;
    return toy_stop(engine, request, kToyDone, error);
  }
  for (int n = 0; n < kToyLayers && request->drafts > 0; ++n) {
    mha_cache* cache = engine->config.caches->layer[n];
    const mha_status status = mha_cache_truncate(cache, toy_sequence(engine, request), request->count - 1, error);
    if (status != MHA_OK) return status;
  }
  return MHA_OK;
}

mha_status toy_engine_step(toy_engine* engine, mha_error* error) {
  toy_batch* batch = &engine->batch;
  mha_status status = toy_admit(engine, error);
  if (status == MHA_OK) status = toy_propose(engine, error);
  if (status == MHA_OK) status = collect(engine, error);
  if (status != MHA_OK) return status;
  if (batch->items == 0) return MHA_OK;
  ++engine->stats.steps;
  status = toy_run(engine->runner, batch, kToyLayers, error);
  engine->stats.rows += toy_batch_rows(batch);
  if (batch->items > engine->stats.largest_batch) engine->stats.largest_batch = batch->items;
  int64_t row = 0;
  for (int64_t item = 0; item < batch->items && status == MHA_OK; ++item) {
    if (batch->wanted[item] > 0) status = accept(engine, engine->in_batch[item], row, error);
    row += batch->wanted[item];
  }
  return status;
}
