/* SPDX-License-Identifier: Apache-2.0
 * The toy engine's model: a decoder of two layers (grouped heads, rotary positions, RMS norms, an inner layer with a
 * ReLU) with random weights, over paged caches of int8. It runs packed batches: some tokens of each of some sequences. */
#ifndef MHA_TOOLS_EXAMPLES_TOY_ENGINE_MODEL_H
#define MHA_TOOLS_EXAMPLES_TOY_ENGINE_MODEL_H

#include <mha/mha.h>

enum {
  kToyLayers = 2,
  kToyWidth = 64, /* kToyHeads heads */
  kToyHeads = 4,
  kToyKvHeads = 2,
  kToyInner = 128,
  kToyVocabulary = 256,
  kToyPage = 16,      /* tokens in a page of the cache */
  kToyMaxItems = 64,  /* sequences in one call */
  kToyMaxRows = 512,  /* tokens in one call */
  kToyMaxTokens = 256 /* tokens of one sequence */
};

/* The weights. Immutable: threads may share them. */
typedef struct toy_model {
  mha_layer* attention[kToyLayers];
  mha_linear* up[kToyLayers];
  mha_linear* down[kToyLayers];
  mha_linear* head;
  float embeddings[kToyVocabulary * kToyWidth];
} toy_model;

mha_status toy_model_create(const mha_context* context, uint64_t seed, toy_model** model, mha_error* error);
void toy_model_destroy(toy_model* model); /* NULL is allowed */

/* One cache for each layer; a sequence has the same number in both. */
typedef struct toy_caches {
  mha_cache* layer[kToyLayers];
} toy_caches;

/* `tokens`: paged, of all sequences together; contiguous, of each. */
mha_status toy_caches_create(const mha_context* context, mha_cache_kind kind, int64_t sequences, int64_t tokens,
                             toy_caches* caches, mha_error* error);
void toy_caches_destroy(toy_caches* caches);

/* The tokens of one call: item i has tokens [offsets[i], offsets[i + 1]), which are appended to sequences[i]. The last
 * wanted[i] of them get logits. */
typedef struct toy_batch {
  int64_t items;
  int64_t sequences[kToyMaxItems], offsets[kToyMaxItems + 1], wanted[kToyMaxItems];
  int32_t tokens[kToyMaxRows];
} toy_batch;

/* Begins an item, whose tokens follow through toy_batch_push. */
void toy_batch_begin(toy_batch* batch, int64_t sequence);
void toy_batch_push(toy_batch* batch, int32_t token);
int64_t toy_batch_rows(const toy_batch* batch);

/* What one thread computes with: handles that it shares with others, and memory of its own. */
typedef struct toy_runner {
  const toy_model* model;
  const mha_context* context;
  const toy_caches* caches;
  void* workspace; /* enough for every batch, so that no call allocates */
  size_t workspace_bytes;
  float state[kToyMaxRows * kToyWidth], normed[kToyMaxRows * kToyWidth], update[kToyMaxRows * kToyWidth];
  float inner[kToyMaxRows * kToyInner];
  float hidden[kToyMaxRows * kToyWidth];      /* results: a row for each wanted token, in the order of the batch, */
  float logits[kToyMaxRows * kToyVocabulary]; /* and its logits */
} toy_runner;

mha_status toy_runner_create(const toy_model* model, const mha_context* context, const toy_caches* caches,
                             toy_runner** runner, mha_error* error);
void toy_runner_destroy(toy_runner* runner); /* NULL is allowed */

/* Runs the first `layers` layers; fewer than kToyLayers make a cheap model for drafts. With room reserved in the caches
 * of these layers it does not fail with MHA_ERR_FULL. */
mha_status toy_run(toy_runner* runner, const toy_batch* batch, int layers, mha_error* error);

/* The next of a sequence of 64-bit random numbers, which any start begins (splitmix64, doi:10.1145/2660193.2660195). */
uint64_t toy_random(uint64_t* state);

/* The tokens with the greatest logit and the second greatest; of equals the first. */
typedef struct toy_choice {
  int32_t best, second;
} toy_choice;
toy_choice toy_choose(const float* logits);

/* A hash of the bits of the numbers, continued from `hash`. */
uint64_t toy_hash(uint64_t hash, const float* values, int64_t count);

/* Fills *error, where it is given, with the status and the formatted text, and returns the status. */
mha_status toy_fail(mha_error* error, mha_status status, const char* format, ...);

#endif /* MHA_TOOLS_EXAMPLES_TOY_ENGINE_MODEL_H */
