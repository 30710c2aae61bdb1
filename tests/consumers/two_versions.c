/* SPDX-License-Identifier: Apache-2.0
 * A program with a static copy of the library, which loads plug-ins that have copies of their own, all names global.
 *   two_versions { <plug-in's file> <its name> }...
 * Prints "<name> <version> <number of targets>" of itself and of each. */
#include <dlfcn.h>
#include <mha/mha.h>
#include <stdio.h>
#include <string.h>

/* ISO C has no cast from an object's pointer to a function's. */
static void find(void* library, const char* name, const char* suffix, void* function, size_t bytes) {
  char symbol[64];
  snprintf(symbol, sizeof symbol, "%s_%s", name, suffix);
  void* address = dlsym(library, symbol);
  memcpy(function, &address, bytes);
}

int main(int argc, char** argv) {
  printf("program %s %d\n", mha_version(), (int)mha_target_count());
  for (int i = 1; i + 1 < argc; i += 2) {
    void* library = dlopen(argv[i], RTLD_NOW | RTLD_GLOBAL);
    if (library == NULL) {
      fprintf(stderr, "%s\n", dlerror());
      return 1;
    }
    const char* (*version)(void) = NULL;
    int64_t (*targets)(void) = NULL;
    mha_status (*run)(mha_error*) = NULL;
    mha_error error = {MHA_OK, ""};
    find(library, argv[i + 1], "version", &version, sizeof version);
    find(library, argv[i + 1], "targets", &targets, sizeof targets);
    find(library, argv[i + 1], "run", &run, sizeof run);
    if (version == NULL || targets == NULL || run == NULL || run(&error) != MHA_OK) {
      fprintf(stderr, "%s: %s\n", argv[i], error.message);
      return 1;
    }
    printf("%s %s %d\n", argv[i + 1], version(), (int)targets());
  }
  return 0;
}
