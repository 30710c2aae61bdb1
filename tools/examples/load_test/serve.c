/* SPDX-License-Identifier: Apache-2.0
 * The threads of the load test. */
#include "tools/examples/load_test/serve.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct worker {
  const load_setup* setup;
  atomic_int* failed; /* some worker has: all stop */
  int64_t number;
  pthread_t thread;
  mha_status status;
  mha_error error;
  toy_engine* engine;
  int64_t next;     /* request that arrives next */
  double next_time; /* in steps */
  int64_t time;     /* steps */
  uint64_t random;
  int64_t* cancels; /* requests of this worker that are to be cancelled, and when */
  int64_t* deadlines;
  int64_t cancel_count;
  size_t peak_bytes;
} worker;

/* Runs `work` for all workers, each on a thread of its own; the first error. */
static mha_status run_workers(const load_setup* setup, void* (*work)(void*), worker* workers, mha_error* error) {
  atomic_int failed = 0;
  mha_status status = MHA_OK;
  int64_t started = 0;
  for (; started < setup->workers; ++started) {
    worker* one = &workers[started];
    one->setup = setup;
    one->failed = &failed;
    one->number = started;
    if (pthread_create(&one->thread, NULL, work, one) != 0) {
      status = toy_fail(error, MHA_ERR_THREAD, "thread %lld cannot be made", (long long)started);
      atomic_store(&failed, 1);
      break;
    }
  }
  for (int64_t n = 0; n < started; ++n) {
    pthread_join(workers[n].thread, NULL);
    if (status != MHA_OK || workers[n].status == MHA_OK) continue;
    status = workers[n].status;
    *error = workers[n].error;
  }
  return status;
}

/* Moves on to the next request that arrives here, by the number of its arrival, and draws its time. Bursts of 64 steps
 * bring six times as many as the steps between them. */
static void next_arrival(worker* w) {
  const load_traffic* traffic = w->setup->traffic;
  const double rate = ((int64_t)w->next_time / 64 % 2 == 0 ? 1.8 : 0.3) / (double)w->setup->workers;
  w->next_time -= log(load_random_unit(&w->random)) / rate;
  do {
    ++w->next;
  } while (w->next < traffic->count && (traffic->requests[w->next].arrival < 0 ||
                                        traffic->requests[w->next].arrival % w->setup->workers != w->number));
}

static mha_status arrive(worker* w) {
  while (w->next < w->setup->traffic->count && w->next_time <= (double)w->time) {
    load_request* request = &w->setup->traffic->requests[w->next];
    const mha_status status = toy_engine_submit(w->engine, &request->request, &w->error);
    if (status != MHA_OK) return status;
    if (request->cancel_after >= 0) {
      w->cancels[w->cancel_count] = w->next;
      w->deadlines[w->cancel_count++] = w->time + request->cancel_after;
    }
    next_arrival(w);
  }
  return MHA_OK;
}

static mha_status cancel(worker* w) {
  for (int64_t n = 0; n < w->cancel_count;) {
    if (w->deadlines[n] > w->time) {
      ++n;
      continue;
    }
    toy_request* request = &w->setup->traffic->requests[w->cancels[n]].request;
    w->cancels[n] = w->cancels[--w->cancel_count];
    w->deadlines[n] = w->deadlines[w->cancel_count];
    if (request->state == kToyDone) continue; /* it was faster */
    const mha_status status = toy_engine_cancel(w->engine, request, &w->error);
    if (status != MHA_OK) return status;
  }
  return MHA_OK;
}

static void see_peak(worker* w) {
  size_t bytes = 0;
  for (int n = 0; n < kToyLayers; ++n) bytes += mha_cache_used_bytes(w->setup->caches->layer[n]);
  if (bytes > w->peak_bytes) w->peak_bytes = bytes;
}

static mha_status serve(worker* w) {
  w->next = -1;
  w->random = (uint64_t)w->number + 1;
  next_arrival(w);
  while (atomic_load(w->failed) == 0) {
    mha_status status = arrive(w);
    if (status == MHA_OK) status = cancel(w);
    if (status != MHA_OK) return status;
    if (toy_engine_idle(w->engine)) {
      if (w->next >= w->setup->traffic->count) return MHA_OK;
      w->time = (int64_t)ceil(w->next_time); /* nothing happens until then */
      continue;
    }
    const int64_t rows = toy_engine_stats(w->engine).rows;
    status = toy_engine_step(w->engine, &w->error);
    if (status != MHA_OK) return status;
    see_peak(w);
    if (toy_engine_stats(w->engine).rows == rows) sched_yield(); /* the others have all of the room */
    ++w->time;
  }
  return MHA_OK;
}

static void* serving_thread(void* data) {
  worker* w = data;
  const int64_t slots = kLoadSlots / w->setup->workers;
  toy_engine_config config = {.model = w->setup->model, .context = w->setup->context, .caches = w->setup->caches};
  config.slots = slots;
  config.first_sequence = 2 * slots * w->number;
  w->status = toy_engine_create(&config, &w->engine, &w->error);
  if (w->status == MHA_OK) w->status = serve(w);
  if (w->status != MHA_OK) atomic_store(w->failed, 1);
  return NULL;
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void add_figures(const worker* w, load_figures* figures) {
  const toy_stats stats = toy_engine_stats(w->engine);
  toy_stats* sum = &figures->engines;
  sum->steps += stats.steps;
  sum->finished += stats.finished;
  sum->cancelled += stats.cancelled;
  sum->forks += stats.forks;
  sum->generated += stats.generated;
  sum->rows += stats.rows;
  sum->preemptions += stats.preemptions;
  sum->proposed += stats.proposed;
  sum->accepted += stats.accepted;
  sum->mixed_steps += stats.mixed_steps;
  if (stats.largest_batch > sum->largest_batch) sum->largest_batch = stats.largest_batch;
  if (w->peak_bytes > figures->peak_bytes) figures->peak_bytes = w->peak_bytes;
}

mha_status load_serve(const load_setup* setup, load_figures* figures, mha_error* error) {
  static worker workers[kLoadMaxWorkers];
  const size_t places = (size_t)setup->traffic->count + 1;
  mha_status status = MHA_OK;
  memset(workers, 0, sizeof workers);
  memset(figures, 0, sizeof *figures);
  for (int64_t n = 0; n < setup->workers && status == MHA_OK; ++n) {
    workers[n].cancels = malloc(places * sizeof *workers[n].cancels);
    workers[n].deadlines = malloc(places * sizeof *workers[n].deadlines);
    if (workers[n].cancels == NULL || workers[n].deadlines == NULL)
      status = toy_fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for the cancellations of worker %lld", (long long)n);
  }
  const double start = now();
  if (status == MHA_OK) status = run_workers(setup, serving_thread, workers, error);
  figures->seconds = now() - start;
  for (int64_t n = 0; n < setup->workers; ++n) {
    if (status == MHA_OK) add_figures(&workers[n], figures);
    toy_engine_destroy(workers[n].engine);
    free(workers[n].cancels);
    free(workers[n].deadlines);
  }
  return status;
}

static mha_status check(worker* w, toy_runner* runner) {
  for (int64_t i = w->number; i < w->setup->traffic->count && atomic_load(w->failed) == 0; i += w->setup->workers) {
    const toy_request* request = &w->setup->traffic->requests[i].request;
    if (request->state != kToyDone && request->state != kToyCancelled) {
      return toy_fail(&w->error, MHA_ERR_ARGUMENT, "request %lld is lost, in state %d", (long long)i, request->state);
    }
    if (request->state == kToyDone && request->count - request->prompt != request->wanted) {
      return toy_fail(&w->error, MHA_ERR_ARGUMENT, "request %lld wanted %lld tokens and got %lld", (long long)i,
                      (long long)request->wanted, (long long)(request->count - request->prompt));
    }
    const mha_status status = toy_check_alone(runner, request, &w->error);
    if (status != MHA_OK) return status;
  }
  return MHA_OK;
}

static void* checking_thread(void* data) {
  worker* w = data;
  const mha_context_options one_thread = {.num_threads = 1};
  mha_context* context = NULL;
  toy_caches caches = {{NULL}};
  toy_runner* runner = NULL;
  w->status = mha_context_create(&one_thread, &context, &w->error);
  if (w->status == MHA_OK)
    w->status = toy_caches_create(context, MHA_CACHE_CONTIGUOUS, 1, kToyMaxTokens, &caches, &w->error);
  if (w->status == MHA_OK) w->status = toy_runner_create(w->setup->model, context, &caches, &runner, &w->error);
  if (w->status == MHA_OK) w->status = check(w, runner);
  if (w->status != MHA_OK) atomic_store(w->failed, 1);
  toy_runner_destroy(runner);
  toy_caches_destroy(&caches);
  mha_context_destroy(context);
  return NULL;
}

mha_status load_check(const load_setup* setup, mha_error* error) {
  static worker workers[kLoadMaxWorkers];
  memset(workers, 0, sizeof workers);
  return run_workers(setup, checking_thread, workers, error);
}
