/* SPDX-License-Identifier: Apache-2.0
 * Speculative decoding: guesses of a request's next tokens, which the next step verifies all at once. */
#include <string.h>

#include "tools/examples/toy_engine/engine_parts.h"

/* How many drafts the request can use: the step that verifies them generates one token more. */
static int64_t usable(const toy_engine* engine, const toy_request* request) {
  const int64_t rest = request->wanted - toy_generated(request) - 1;
  if (request->count - toy_cached(engine, request) != 1) return 0; /* it still reads its prompt */
  return rest < kToyMaxDraft ? rest : kToyMaxDraft;
}

/* What followed when the last two tokens stood together before. */
static void look_up(toy_request* request, int64_t most) {
  const int32_t* tokens = request->tokens;
  const int64_t last = request->count - 1;
  for (int64_t i = last - 1; i >= 1; --i) {
    if (tokens[i - 1] != tokens[last - 1] || tokens[i] != tokens[last]) continue;
    while (request->drafts < most && i + 1 + request->drafts <= last) {
      request->drafted[request->drafts] = tokens[i + 1 + request->drafts];
      ++request->drafts;
    }
    return;
  }
}

/* Forks the request's sequence in the first layer, and reserves room there. Without room there are no drafts. */
static mha_status fork_first_layer(const toy_engine* engine, const toy_request* request, int64_t most,
                                   mha_error* error) {
  mha_cache* cache = engine->config.caches->layer[0];
  const int64_t sequence = toy_draft_sequence(engine, request);
  mha_status status = mha_cache_fork(cache, toy_sequence(engine, request), sequence, -1, error);
  if (status != MHA_OK) return status;
  mha_reserve_args room = {.caches = &cache, .num_caches = 1, .batch = 1, .sequences = &sequence, .tokens = &most};
  status = mha_cache_reserve(&room, error);
  if (status != MHA_ERR_FULL) return status;
  const mha_status removed = mha_cache_remove(cache, sequence, error);
  return removed == MHA_OK ? MHA_ERR_FULL : removed;
}

/* One token more for each request of the list that wants one. */
static mha_status draft_once(toy_engine* engine, toy_request* const* list, const int64_t* most, int64_t count,
                             mha_error* error) {
  toy_batch* batch = &engine->batch;
  toy_request** owners = engine->in_batch;
  batch->items = 0;
  for (int64_t i = 0; i < count; ++i) {
    toy_request* request = list[i];
    if (request->drafts == most[i]) continue;
    owners[batch->items] = request;
    toy_batch_begin(batch, toy_draft_sequence(engine, request));
    toy_batch_push(batch,
                   request->drafts > 0 ? request->drafted[request->drafts - 1] : request->tokens[request->count - 1]);
    batch->wanted[batch->items - 1] = 1;
  }
  if (batch->items == 0) return MHA_OK;
  const mha_status status = toy_run(engine->runner, batch, 1, error);
  for (int64_t i = 0; i < batch->items && status == MHA_OK; ++i)
    owners[i]->drafted[owners[i]->drafts++] = toy_choose(engine->runner->logits + i * kToyVocabulary).best;
  return status;
}

mha_status toy_propose(toy_engine* engine, mha_error* error) {
  toy_request* list[kToyMaxItems];
  int64_t most[kToyMaxItems], count = 0;
  for (int64_t n = 0; n < engine->running_count; ++n) {
    toy_request* request = engine->running[n];
    request->drafts = 0;
    const int64_t room = request->draft == kToyNoDraft ? 0 : usable(engine, request);
    if (room < 1) continue;
    if (request->draft == kToyLookup) {
      look_up(request, room);
      continue;
    }
    const mha_status status = fork_first_layer(engine, request, room, error);
    if (status == MHA_ERR_FULL) continue;
    if (status != MHA_OK) return status;
    list[count] = request;
    most[count++] = room;
  }
  for (int step = 0; step < kToyMaxDraft; ++step) {
    const mha_status status = draft_once(engine, list, most, count, error);
    if (status != MHA_OK) return status;
  }
  for (int64_t i = 0; i < count; ++i) {
    mha_cache* cache = engine->config.caches->layer[0];
    const mha_status status = mha_cache_remove(cache, toy_draft_sequence(engine, list[i]), error);
    if (status != MHA_OK) return status;
  }
  return MHA_OK;
}
