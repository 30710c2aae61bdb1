/* SPDX-License-Identifier: Apache-2.0
 * A plug-in with a static copy of the library inside. PLUGIN is its name; another may hold another version. */
#include <mha/mha.h>

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

const char* JOIN(PLUGIN, _version)(void);
int64_t JOIN(PLUGIN, _targets)(void);
mha_status JOIN(PLUGIN, _run)(mha_error* error);

const char* JOIN(PLUGIN, _version)(void) { return mha_version(); }

int64_t JOIN(PLUGIN, _targets)(void) { return mha_target_count(); }

mha_status JOIN(PLUGIN, _run)(mha_error* error) {
  mha_context* context = NULL;
  mha_status status = mha_context_create(NULL, &context, error);
  if (status == MHA_OK) mha_context_destroy(context);
  return status;
}
