/* SPDX-License-Identifier: Apache-2.0
 * The least program: three tokens of one head. The queries are zero, so that each token's output is the mean of the values up
 * to it: prints "1 1.5 3". */
#include <mha/mha.h>
#include <stdio.h>

int main(void) {
  enum { kTokens = 3, kDim = 2 };
  const float query[kTokens * kDim] = {0}, key[kTokens * kDim] = {0};
  const float value[kTokens * kDim] = {1, 0, 2, 0, 6, 0};
  float output[kTokens * kDim];
  mha_context* context = NULL;
  mha_error error;
  if (mha_context_create(NULL, &context, &error) != MHA_OK) {
    fprintf(stderr, "%s\n", error.message);
    return 1;
  }
  mha_attention_args args = {.batch = 1, .num_heads = 1, .query_len = kTokens, .key_len = kTokens, .head_dim = kDim};
  args.query = MHA_VIEW(query);
  args.key = MHA_VIEW(key);
  args.value = MHA_VIEW(value);
  args.output = MHA_MUT_VIEW(output);
  args.causal = 1;
  const mha_status status = mha_attention(context, &args, &error);
  mha_context_destroy(context);
  if (status != MHA_OK) {
    fprintf(stderr, "%s\n", error.message);
    return 1;
  }
  printf("%g %g %g\n", output[0], output[kDim], output[2 * kDim]);
  return 0;
}
