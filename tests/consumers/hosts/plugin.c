/* SPDX-License-Identifier: Apache-2.0
 * A plug-in with the library in it: makes a context, calls on two threads, destroys it. */
#include <mha/mha.h>
#include <string.h>

enum { kHeads = 8, kDim = 64, kKeys = 4096 };

static float query[kHeads * kDim], keys[kKeys * kHeads * kDim], output[kHeads * kDim];

/* 0: as it should be. */
int plugin_call(int threading, int threads) {
  mha_context_options options;
  mha_context* context = NULL;
  mha_attention_args args;
  memset(&options, 0, sizeof options);
  options.num_threads = threads;
  options.threading = (mha_threading)threading;
  if (mha_context_create(&options, &context, NULL) != MHA_OK) return 1;
  memset(&args, 0, sizeof args);
  args.batch = args.query_len = 1;
  args.num_heads = kHeads;
  args.key_len = kKeys;
  args.head_dim = kDim;
  args.query.data = query;
  args.key.data = args.value.data = keys;
  args.output.data = output;
  for (int i = 0; i < kKeys * kHeads * kDim; ++i) keys[i] = 1.0f;
  for (int call = 0; call < 3; ++call) {
    memset(output, 0, sizeof output);
    if (mha_attention(context, &args, NULL) != MHA_OK || output[0] != 1.0f || output[kHeads * kDim - 1] != 1.0f)
      return 2;
  }
  mha_context_destroy(context);
  return 0;
}
