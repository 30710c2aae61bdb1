/* SPDX-License-Identifier: Apache-2.0
 * The model's weights, its caches and its forward pass. Every row is computed on its own, in an order that its company in
 * the batch does not change; the library promises the same of its calls. */
#include "tools/examples/toy_engine/model.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

mha_status toy_fail(mha_error* error, mha_status status, const char* format, ...) {
  if (error != NULL) {
    va_list values;
    error->status = status;
    va_start(values, format);
    vsnprintf(error->message, sizeof error->message, format, values);
    va_end(values);
  }
  return status;
}

uint64_t toy_random(uint64_t* state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/* Fills numbers in [-scale, scale). */
static void fill(uint64_t* state, float* values, int64_t count, float scale) {
  for (int64_t i = 0; i < count; ++i) {
    const int32_t integer = (int32_t)(toy_random(state) >> 40) - (1 << 23);
    values[i] = (float)integer * 0x1p-23f * scale;
  }
}

static mha_status make_linear(const mha_context* context, uint64_t* state, const int64_t in_out[2], float scale,
                              mha_linear** linear, mha_error* error) {
  static const float unit = 1.7320508f; /* of a sum of n products: sqrt(3 / n) leaves the variance as it is */
  float* weight = malloc((size_t)(in_out[0] * in_out[1]) * sizeof *weight);
  if (weight == NULL) return toy_fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for the weights of a linear map");
  fill(state, weight, in_out[0] * in_out[1], scale * unit / sqrtf((float)in_out[0]));
  const mha_linear_config config = {.in_features = in_out[0], .out_features = in_out[1], .weight = MHA_VIEW(weight)};
  const mha_status status = mha_linear_create(context, &config, linear, error);
  free(weight);
  return status;
}

static mha_status make_attention(const mha_context* context, uint64_t* state, float scale, mha_layer** layer,
                                 mha_error* error) {
  enum { kHeadDim = kToyWidth / kToyHeads, kQkv = (kToyHeads + 2 * kToyKvHeads) * kHeadDim };
  float in_proj[kQkv * kToyWidth], out_proj[kToyWidth * kToyWidth];
  fill(state, in_proj, kQkv * kToyWidth, 0.35f); /* large enough for peaked attention */
  fill(state, out_proj, kToyWidth * kToyWidth, 0.3f * scale);
  const mha_layer_config config = {.embed_dim = kToyWidth, .num_heads = kToyHeads, .num_kv_heads = kToyKvHeads};
  const mha_layer_weights weights = {.in_proj_weight = MHA_VIEW(in_proj), .output_weight = MHA_VIEW(out_proj)};
  return mha_layer_create(context, &config, &weights, layer, error);
}

mha_status toy_model_create(const mha_context* context, uint64_t seed, toy_model** model, mha_error* error) {
  static const int64_t up[2] = {kToyWidth, kToyInner}, down[2] = {kToyInner, kToyWidth};
  static const int64_t head[2] = {kToyWidth, kToyVocabulary};
  uint64_t state = seed;
  mha_status status = MHA_OK;
  toy_model* made = calloc(1, sizeof *made);
  *model = NULL;
  if (made == NULL) return toy_fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for the model");
  fill(&state, made->embeddings, kToyVocabulary * kToyWidth, 1);
  for (int n = 0; n < kToyLayers && status == MHA_OK; ++n) {
    const float scale = n == 0 ? 1.0f : 0.5f; /* the first layer says most, so that it makes good drafts */
    status = make_attention(context, &state, scale, &made->attention[n], error);
    if (status == MHA_OK) status = make_linear(context, &state, up, 1, &made->up[n], error);
    if (status == MHA_OK) status = make_linear(context, &state, down, scale, &made->down[n], error);
  }
  if (status == MHA_OK) status = make_linear(context, &state, head, 1, &made->head, error);
  if (status == MHA_OK) {
    *model = made;
  } else {
    toy_model_destroy(made);
  }
  return status;
}

void toy_model_destroy(toy_model* model) {
  if (model == NULL) return;
  for (int n = 0; n < kToyLayers; ++n) {
    mha_layer_destroy(model->attention[n]);
    mha_linear_destroy(model->up[n]);
    mha_linear_destroy(model->down[n]);
  }
  mha_linear_destroy(model->head);
  free(model);
}

mha_status toy_caches_create(const mha_context* context, mha_cache_kind kind, int64_t sequences, int64_t tokens,
                             toy_caches* caches, mha_error* error) {
  mha_cache_config config = {.kind = kind, .num_kv_heads = kToyKvHeads, .head_dim = kToyWidth / kToyHeads};
  config.max_sequences = sequences;
  config.capacity = tokens;
  config.page_size = kind == MHA_CACHE_PAGED ? kToyPage : 0;
  config.key.dtype = config.value.dtype = MHA_I8; /* with a scale for each token and head */
  memset(caches, 0, sizeof *caches);
  for (int n = 0; n < kToyLayers; ++n) {
    const mha_status status = mha_cache_create(context, &config, &caches->layer[n], error);
    if (status == MHA_OK) continue;
    toy_caches_destroy(caches);
    return status;
  }
  return MHA_OK;
}

void toy_caches_destroy(toy_caches* caches) {
  for (int n = 0; n < kToyLayers; ++n) mha_cache_destroy(caches->layer[n]);
  memset(caches, 0, sizeof *caches);
}

void toy_batch_begin(toy_batch* batch, int64_t sequence) {
  if (batch->items == 0) batch->offsets[0] = 0;
  batch->sequences[batch->items] = sequence;
  batch->wanted[batch->items] = 0;
  batch->offsets[batch->items + 1] = batch->offsets[batch->items];
  ++batch->items;
}

void toy_batch_push(toy_batch* batch, int32_t token) { batch->tokens[batch->offsets[batch->items]++] = token; }

int64_t toy_batch_rows(const toy_batch* batch) { return batch->items == 0 ? 0 : batch->offsets[batch->items]; }

static const mha_rope kRope = {.base = 10000}; /* a token's position is its number in its sequence */

/* The call of a layer, without what depends on the batch. */
static mha_layer_args layer_call(const toy_runner* runner, int layer, const mha_items* items) {
  mha_layer_args args = {.causal = 1, .items = items, .rope = &kRope, .cache = runner->caches->layer[layer]};
  args.query = MHA_VIEW(runner->normed);
  args.output = MHA_MUT_VIEW((float*)runner->update);
  return args;
}

mha_status toy_runner_create(const toy_model* model, const mha_context* context, const toy_caches* caches,
                             toy_runner** runner, mha_error* error) {
  toy_runner* made = calloc(1, sizeof *made);
  *runner = NULL;
  if (made == NULL) return toy_fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for the buffers of a batch");
  made->model = model;
  made->context = context;
  made->caches = caches;
  static const int64_t any[kToyMaxItems + 1] = {0};
  const mha_items items = {.query_offsets = any, .sequences = any};
  mha_layer_args args = layer_call(made, 0, &items); /* the other layers have the same sizes */
  args.batch = kToyMaxItems;
  args.query_len = kToyMaxRows;
  mha_status status = mha_layer_workspace_bound(context, model->attention[0], &args, &made->workspace_bytes, error);
  if (status == MHA_OK) {
    made->workspace = malloc(made->workspace_bytes);
    if (made->workspace == NULL) {
      status = toy_fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for a workspace of %zu bytes", made->workspace_bytes);
    }
  }
  if (status == MHA_OK) {
    *runner = made;
  } else {
    toy_runner_destroy(made);
  }
  return status;
}

void toy_runner_destroy(toy_runner* runner) {
  if (runner == NULL) return;
  free(runner->workspace);
  free(runner);
}

static void norm(const float* input, float* output) {
  float sum = 0;
  for (int i = 0; i < kToyWidth; ++i) sum += input[i] * input[i];
  const float scale = 1.0f / sqrtf(sum / kToyWidth + 1e-6f);
  for (int i = 0; i < kToyWidth; ++i) output[i] = input[i] * scale;
}

static mha_status linear(toy_runner* runner, const mha_linear* map, int64_t rows, const float* input, float* output,
                         mha_error* error) {
  mha_linear_args args = {.rows = rows};
  args.input = MHA_VIEW(input);
  args.output = MHA_MUT_VIEW(output);
  return mha_linear_forward(runner->context, map, &args, error);
}

/* state += attention(norm(state)): the call projects, rotates, appends and attends. */
static mha_status attend(toy_runner* runner, const toy_batch* batch, int layer, mha_error* error) {
  const int64_t rows = toy_batch_rows(batch);
  const mha_items items = {.query_offsets = batch->offsets, .sequences = batch->sequences};
  const mha_resources resources = {.workspace = runner->workspace, .workspace_bytes = runner->workspace_bytes};
  mha_layer_args args = layer_call(runner, layer, &items);
  args.batch = batch->items;
  args.query_len = rows;
  args.resources = &resources;
  for (int64_t row = 0; row < rows; ++row) norm(runner->state + row * kToyWidth, runner->normed + row * kToyWidth);
  const mha_status status = mha_layer_forward(runner->context, runner->model->attention[layer], &args, error);
  for (int64_t i = 0; i < rows * kToyWidth && status == MHA_OK; ++i) runner->state[i] += runner->update[i];
  return status;
}

/* state += down(relu(up(norm(state)))) */
static mha_status feed_forward(toy_runner* runner, int64_t rows, int layer, mha_error* error) {
  for (int64_t row = 0; row < rows; ++row) norm(runner->state + row * kToyWidth, runner->normed + row * kToyWidth);
  mha_status status = linear(runner, runner->model->up[layer], rows, runner->normed, runner->inner, error);
  if (status != MHA_OK) return status;
  for (int64_t i = 0; i < rows * kToyInner; ++i) runner->inner[i] = runner->inner[i] > 0 ? runner->inner[i] : 0;
  status = linear(runner, runner->model->down[layer], rows, runner->inner, runner->update, error);
  for (int64_t i = 0; i < rows * kToyWidth && status == MHA_OK; ++i) runner->state[i] += runner->update[i];
  return status;
}

mha_status toy_run(toy_runner* runner, const toy_batch* batch, int layers, mha_error* error) {
  const int64_t rows = toy_batch_rows(batch);
  mha_status status = MHA_OK;
  int64_t wanted = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const float* embedding = runner->model->embeddings + batch->tokens[row] * kToyWidth;
    memcpy(runner->state + row * kToyWidth, embedding, kToyWidth * sizeof(float));
  }
  for (int n = 0; n < layers && status == MHA_OK; ++n) {
    status = attend(runner, batch, n, error);
    if (status == MHA_OK) status = feed_forward(runner, rows, n, error);
  }
  if (status != MHA_OK) return status;
  for (int64_t item = 0; item < batch->items; ++item) {
    const int64_t end = batch->offsets[item + 1];
    for (int64_t row = end - batch->wanted[item]; row < end; ++row, ++wanted)
      norm(runner->state + row * kToyWidth, runner->hidden + wanted * kToyWidth);
  }
  return linear(runner, runner->model->head, wanted, runner->hidden, runner->logits, error);
}

toy_choice toy_choose(const float* logits) {
  toy_choice choice = {0, 1};
  if (logits[1] > logits[0]) choice = (toy_choice){1, 0};
  for (int32_t token = 2; token < kToyVocabulary; ++token) {
    if (logits[token] > logits[choice.best]) {
      choice.second = choice.best;
      choice.best = token;
    } else if (logits[token] > logits[choice.second]) {
      choice.second = token;
    }
  }
  return choice;
}

uint64_t toy_hash(uint64_t hash, const float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    memcpy(&bits, &values[i], sizeof bits);
    hash = (hash ^ bits) * 1099511628211u; /* FNV-1a, over words */
  }
  return hash;
}
