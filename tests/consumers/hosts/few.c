/* SPDX-License-Identifier: Apache-2.0
 * Under a limit of address space that leaves no room for a thread's stack (ulimit -v), a context that wants a thread
 * gets a status, and the process goes on on one thread. */
#define _GNU_SOURCE
#include <mha/mha.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static int limit_address_space(void) {
  unsigned long pages = 0;
  FILE* file = fopen("/proc/self/statm", "r");
  if (file == NULL || fscanf(file, "%lu", &pages) != 1) return 1;
  fclose(file);
  const struct rlimit limit = {pages * (unsigned long)getpagesize() + (128u << 10), RLIM_INFINITY};
  return setrlimit(RLIMIT_AS, &limit);
}

int main(void) {
  mha_context_options options;
  mha_context* context = NULL;
  mha_error error;
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof cpus, &cpus) != 0 || limit_address_space() != 0) return 1;
  memset(&options, 0, sizeof options);
  options.num_threads = 2;
  options.threading = MHA_THREADING_POOL;
  const mha_status status = mha_context_create(&options, &context, &error);
  /* On one CPU no thread is wanted. */
  const mha_status expected = CPU_COUNT(&cpus) > 1 ? MHA_ERR_THREAD : MHA_OK;
  if (status != expected || (status == MHA_OK) != (context != NULL)) {
    fprintf(stderr, "two threads: %s\n", mha_status_string(status));
    return 1;
  }
  if (status != MHA_OK) printf("%s: %s\n", mha_status_string(status), error.message);
  mha_context_destroy(context);
  options.num_threads = 1;
  if (mha_context_create(&options, &context, &error) != MHA_OK) {
    fprintf(stderr, "one thread: %s\n", error.message);
    return 1;
  }
  mha_context_destroy(context);
  return 0;
}
