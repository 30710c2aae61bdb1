/* SPDX-License-Identifier: Apache-2.0
 * What a request must generate: the same model, one sequence, the prompt in one call, then one token a call. */
#include <string.h>

#include "tools/examples/toy_engine/engine.h"

mha_status toy_check_alone(toy_runner* runner, const toy_request* request, mha_error* error) {
  toy_batch batch;
  uint64_t hash = TOY_HASH_START;
  mha_status status = MHA_OK;
  for (int n = 0; n < kToyLayers; ++n) mha_cache_reset(runner->caches->layer[n]);
  batch.items = 0;
  toy_batch_begin(&batch, 0);
  for (int64_t i = 0; i < request->prompt; ++i) toy_batch_push(&batch, request->tokens[i]);
  for (int64_t i = request->prompt; i < request->count; ++i) {
    batch.wanted[0] = 1;
    status = toy_run(runner, &batch, kToyLayers, error);
    if (status != MHA_OK) return status;
    const int32_t token = toy_choose(runner->logits).best;
    if (token != request->tokens[i]) {
      return toy_fail(error, MHA_ERR_ARGUMENT, "request %lld: token %lld is %d; alone it is %d", (long long)request->id,
                      (long long)i, request->tokens[i], token);
    }
    hash = toy_hash(hash, runner->hidden, kToyWidth);
    hash = toy_hash(hash, runner->logits, kToyVocabulary);
    batch.items = 0;
    toy_batch_begin(&batch, 0);
    toy_batch_push(&batch, token);
  }
  if (hash != request->hash) {
    return toy_fail(error, MHA_ERR_ARGUMENT,
                    "request %lld: the tokens are those of the request alone, but not the bits",
                    (long long)request->id);
  }
  return MHA_OK;
}
