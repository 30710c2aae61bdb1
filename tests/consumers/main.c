/* SPDX-License-Identifier: Apache-2.0
 * What a C engine does with the library: make a layer, run it, read the result. Projections are the identity and the
 * query is zero, so that every key weighs the same and the output is the mean of the two value rows. */
#include <math.h>
#include <mha/mha.h>
#include <stdio.h>
#include <string.h>

enum { kEmbed = 4, kHeads = 2, kKeys = 2 };

static int report(const mha_error* error) {
  fprintf(stderr, "%s: %s\n", mha_status_string(error->status), error->message);
  return 1;
}

static int check(const float* output) {
  static const float expected[kEmbed] = {2.0f, 0.0f, -1.0f, 8.0f};
  for (int i = 0; i < kEmbed; ++i) {
    if (!(fabsf(output[i] - expected[i]) <= 1e-6f)) {
      fprintf(stderr, "output[%d] is %g, not %g\n", i, output[i], expected[i]);
      return 1;
    }
  }
  return 0;
}

int main(void) {
  static const float identity[kEmbed * kEmbed] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1};
  static const float keys[kKeys * kEmbed] = {1.0f, -3.0f, 0.5f, 10.0f, 3.0f, 3.0f, -2.5f, 6.0f};
  static const float query[kEmbed] = {0};
  float output[kEmbed];
  mha_error error;
  mha_context* context = NULL;
  mha_layer* layer = NULL;

  char version[32];
  snprintf(version, sizeof version, "%d.%d.%d", MHA_VERSION_MAJOR, MHA_VERSION_MINOR, MHA_VERSION_PATCH);
  if (strcmp(version, mha_version()) != 0) {
    fprintf(stderr, "header %s, library %s\n", version, mha_version());
    return 1;
  }
  if (mha_context_create(NULL, &context, &error) != MHA_OK) return report(&error);

  mha_layer_config config = {.embed_dim = kEmbed, .num_heads = kHeads};
  const mha_view unit = MHA_VIEW(identity);
  mha_layer_weights weights = {.query_weight = unit, .key_weight = unit, .value_weight = unit, .output_weight = unit};
  if (mha_layer_create(context, &config, &weights, &layer, &error) != MHA_OK) return report(&error);

  mha_layer_args args = {.batch = 1, .query_len = 1, .key_len = kKeys};
  args.query = MHA_VIEW(query);
  args.key = MHA_VIEW(keys);
  args.output = MHA_MUT_VIEW(output);
  if (mha_layer_forward(context, layer, &args, &error) != MHA_OK) return report(&error);

  mha_layer_destroy(layer);
  mha_context_destroy(context);
  return check(output);
}
