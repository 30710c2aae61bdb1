/* SPDX-License-Identifier: Apache-2.0 */
/* The least that a host of attention alone links: tools/check/size.sh counts what it grows by. */
#include <mha/mha.h>

int main(void) {
  enum { kHeads = 2, kDim = 8, kKeys = 3 };
  float query[kHeads * kDim] = {0}, keys[kKeys * kHeads * kDim] = {0}, output[kHeads * kDim];
  mha_context* context;
  if (mha_context_create(NULL, &context, NULL) != MHA_OK) return 1;
  mha_attention_args args = {.batch = 1, .num_heads = kHeads, .query_len = 1, .key_len = kKeys, .head_dim = kDim};
  args.query = MHA_VIEW(query), args.key = MHA_VIEW(keys), args.value = MHA_VIEW(keys);
  args.output = MHA_MUT_VIEW(output);
  const mha_status status = mha_attention(context, &args, NULL);
  mha_context_destroy(context);
  return status == MHA_OK && output[0] == 0 ? 0 : 1;
}
