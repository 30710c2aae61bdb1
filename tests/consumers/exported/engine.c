/* SPDX-License-Identifier: Apache-2.0 */
#include <mha/mha.h>

int engine_runs(void);

int engine_runs(void) {
  mha_context* context = NULL;
  const int runs = mha_context_create(NULL, &context, NULL) == MHA_OK;
  mha_context_destroy(context);
  return runs;
}
