/* SPDX-License-Identifier: Apache-2.0
 * Attention of one query over three keys; prints the library's version and the bits of the output. Built with this
 * version's header, or (NEWER) with one that has a field where this one has a reserved word, which is set to a number
 * where the argument says so: "args" or "masks". A call that is refused must leave the output alone. */
#include <mha/mha.h>
#include <stdio.h>
#include <string.h>

enum { kKeys = 3, kWidth = 4 };

static int run(const mha_context* context, const char* field) {
  static const float query[kWidth] = {0.5f, -1.0f, 2.0f, 0.25f};
  static const float keys[kKeys * kWidth] = {1, 0, -1, 2, 0.5f, 3, -2, 1, -0.25f, 1, 1, -1};
  static const float values[kKeys * kWidth] = {1, 2, 3, 4, -1, 5, 0.5f, 7, 8, -9, 10, 0.125f};
  static const float before[kWidth] = {7, 7, 7, 7};
  static const uint8_t visible[kKeys] = {1, 0, 1};
  float output[kWidth];
  uint32_t bits[kWidth];
  mha_error error;
  mha_masks masks = {.bool_mask = {.data = visible}};
  mha_attention_args args = {.batch = 1, .num_heads = 1, .query_len = 1, .key_len = kKeys, .head_dim = kWidth};

  args.query = MHA_VIEW(query), args.key = MHA_VIEW(keys), args.value = MHA_VIEW(values);
  args.output = MHA_MUT_VIEW(output);
  args.masks = &masks;
#ifdef NEWER
  if (strcmp(field, "args") == 0) args.next_field = 7;
  if (strcmp(field, "masks") == 0) masks.next_field = 7;
#else
  if (strcmp(field, "none") != 0) return 2;
#endif
  memcpy(output, before, sizeof output);
  if (mha_attention(context, &args, &error) != MHA_OK) {
    printf("%s: %s\n", mha_status_string(error.status), error.message);
    return memcmp(output, before, sizeof output) == 0 ? 0 : 3;
  }
  memcpy(bits, output, sizeof bits);
  printf("%s:", mha_version());
  for (int i = 0; i < kWidth; ++i) printf(" %08lx", (unsigned long)bits[i]);
  printf("\n");
  return 0;
}

int main(int argc, char** argv) {
  mha_context* context = NULL;
  mha_context_options options = {.num_threads = 1};
  int status = 1;
  if (argc != 2 || mha_context_create(&options, &context, NULL) != MHA_OK) return 1;
  status = run(context, argv[1]);
  mha_context_destroy(context);
  return status;
}
