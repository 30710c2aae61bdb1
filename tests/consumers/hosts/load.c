/* SPDX-License-Identifier: Apache-2.0
 * A host that loads a plug-in, lets it call on its own threads, and unloads it, many times: load <plug-in> <times>
 * [<threading>]. No crash, no thread and no mapping may be left. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int entries(const char* folder) {
  int count = 0;
  DIR* all = opendir(folder);
  while (all != NULL && readdir(all) != NULL) ++count;
  if (all != NULL) closedir(all);
  return count;
}

static int lines(const char* path) {
  int count = 0;
  FILE* file = fopen(path, "r");
  for (int c; file != NULL && (c = fgetc(file)) != EOF;) count += c == '\n';
  if (file != NULL) fclose(file);
  return count;
}

static int once(const char* path, int threading) {
  void* plugin = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  int (*call)(int, int) = NULL;
  int failed = 1;
  if (plugin == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  *(void**)&call = dlsym(plugin, "plugin_call");
  if (call != NULL) failed = call(threading, 2);
  dlclose(plugin);
  /* The threads must not run in it any more. */
  if (dlopen(path, RTLD_NOW | RTLD_NOLOAD) != NULL) {
    fprintf(stderr, "the plug-in was not unloaded\n");
    return 1;
  }
  return failed;
}

int main(int argc, char** argv) {
  const int times = argc > 2 ? atoi(argv[2]) : 1, threading = argc > 3 ? atoi(argv[3]) : 2;
  int tasks = 0, maps = 0;
  for (int n = 0; n < times; ++n) {
    const int failed = once(argv[1], threading);
    if (failed != 0) {
      fprintf(stderr, "round %d: plugin_call says %d\n", n, failed);
      return 1;
    }
    usleep(n < 20 ? 2000 : 0); /* sometimes a thread that is left would run into memory that is gone */
    if (n == 9) usleep(100000), tasks = entries("/proc/self/task"), maps = lines("/proc/self/maps");
  }
  for (int n = 0; n < 1000 && entries("/proc/self/task") != tasks; ++n) usleep(1000); /* joined, but still listed */
  if (entries("/proc/self/task") != tasks || lines("/proc/self/maps") > maps + 2) {
    fprintf(stderr, "%d tasks and %d mappings at first, %d and %d in the end\n", tasks, maps,
            entries("/proc/self/task"), lines("/proc/self/maps"));
    return 1;
  }
  return 0;
}
