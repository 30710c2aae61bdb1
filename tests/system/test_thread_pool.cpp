// SPDX-License-Identifier: Apache-2.0
// A context's own threads: how many there are and until when, who gets them, phases in order and items once, threads
// that cannot be made.
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <numeric>

#include "core/run/thread_pool.h"
#include "tests/support/counting.h"
#include "tests/support/layers.h"
#include "tests/support/runners.h"
#include "tests/support/sanitizer.h"

using namespace mha::test;

namespace {

const mha_layer_config kConfig = {40, 4, 2, 12, 20, 0, 0, 50, 0};

ContextPtr make_pool(const std::string& target, int64_t threads) {
  return Runner{"pool", MHA_THREADING_POOL, false}.make(target, threads);
}

/// A pool of as many threads as asked for, more than there are CPUs too.
class Pool {
 public:
  explicit Pool(int64_t threads) {
    process_.open();
    mha_error error = {};
    require_ok(mha::pool_create(allocator(), {threads, threads, process_.get()}, &pool_, &error), error);
  }
  ~Pool() {
    mha::pool_destroy(allocator(), pool_, process_);
    process_.close();
  }
  void run(int64_t threads, const mha::Phase* phases, int count) const {
    mha::pool_run(pool_, process_, threads, phases, count);
  }

 private:
  static const mha_allocator& allocator() { return shared_context(supported_targets()[0], 1)->allocator; }
  mha::ThreadPool* pool_ = nullptr;
  mha::ProcessId process_;
};

/// Phases that count how often each item ran, and whether one ran before the phase before it was finished.
struct Counted {
  std::vector<std::vector<std::atomic<int>>> runs;
  struct Job {
    Counted* all;
    int phase;
  };
  std::vector<Job> jobs;
  std::vector<mha::Phase> phases;
  std::atomic<int> early{0}, wrong_slots{0};

  explicit Counted(const std::vector<int64_t>& counts) : jobs(counts.size()), phases(counts.size()) {
    for (size_t p = 0; p < counts.size(); ++p) {
      runs.emplace_back(static_cast<size_t>(counts[p]));
      jobs[p] = {this, static_cast<int>(p)};
      phases[p] = {run, &jobs[p], counts[p]};
    }
  }
  static void run(const void* data, int64_t item, int64_t slot) {
    const Job& job = *static_cast<const Job*>(data);
    Counted& all = *job.all;
    if (slot < 0 || slot >= 8) ++all.wrong_slots;
    if (job.phase > 0)
      for (const auto& n : all.runs[static_cast<size_t>(job.phase - 1)]) all.early += n == 1 ? 0 : 1;
    ++all.runs[static_cast<size_t>(job.phase)][static_cast<size_t>(item)];
  }
  bool once() const {
    for (const auto& phase : runs)
      for (const auto& n : phase)
        if (n != 1) return false;
    return early == 0 && wrong_slots == 0;
  }
};

void nothing(const void*, int64_t, int64_t) {}

void pause_ms(int64_t ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

}  // namespace

TEST_CASE("thread pool: threads are made with the context and end with it", "[threads]") {
  const AttentionProblem problem({1, 1, 1, 9, 9000, 64, 64}, MaskKind::kNone, 140000);
  std::thread([] {}).join();  // the thread sanitizer makes one of its own beside a process's first
  for (const std::string& target : supported_targets()) {
    const std::vector<float> want = run_attention(shared_context(target, 1), problem.args()).output;
    for (int64_t threads : {1, 2, 3, 64}) {
      INFO("target " << target << " threads " << threads);
      const int64_t before = num_tasks();
      ContextPtr context = make_pool(target, threads);
      CHECK(mha_context_num_threads(context.get()) == threads);
      CHECK(num_tasks() == before + std::min(threads, num_cpus()) - 1);
      const int64_t with = num_tasks();
      check_same_bits("output", run_attention(context.get(), problem.args()).output, want);
      CHECK(num_tasks() == with);  // a call makes none, and does not touch another runtime
      context.reset();
      CHECK(num_tasks_soon(before) == before);
    }
  }
}

TEST_CASE("thread pool: every item runs once, phase after phase, on any number of threads", "[threads]") {
  const Pool pool(8);
  for (const std::vector<int64_t>& counts : std::vector<std::vector<int64_t>>{
           {1}, {0}, {5}, {100}, {0, 3, 0}, {7, 1, 40}, {1, 1, 1, 1, 1, 1, 1}, {33, 0, 64, 2}}) {
    for (int64_t threads : {2, 3, 8}) {
      for (int round = 0; round < 60; ++round) {
        Counted counted(counts);
        pool.run(threads, counted.phases.data(), static_cast<int>(counts.size()));
        INFO("threads " << threads << " phases " << counts.size() << " round " << round);
        REQUIRE(counted.once());
        if (round % 30 == 29) pause_ms(8);  // its threads are asleep at the next
      }
    }
  }
}

TEST_CASE("thread pool: a phase ends with its slowest item", "[threads]") {
  // The thread of the first item does nothing else meanwhile, the others do all the rest.
  struct Job {
    std::atomic<int> done{0}, early{0};
    static void slow_first(const void* data, int64_t item, int64_t) {
      if (item == 0) pause_ms(5);
      ++const_cast<Job*>(static_cast<const Job*>(data))->done;
    }
    static void after(const void* data, int64_t, int64_t) {
      Job& self = *const_cast<Job*>(static_cast<const Job*>(data));
      if (self.done != 30) ++self.early;
    }
  };
  const Pool pool(3);
  for (int round = 0; round < 20; ++round) {
    Job job;
    const mha::Phase phases[] = {{Job::slow_first, &job, 30}, {Job::after, &job, 3}};
    pool.run(3, phases, 2);
    CHECK(job.early == 0);
  }
}

TEST_CASE("thread pool: threads that sleep are woken, those that are not needed are not waited for", "[threads]") {
  const Pool pool(4);
  for (int64_t threads : {2, 4, 3}) {
    pause_ms(20);
    const Meeting meeting({nothing, nullptr, 64}, threads);
    const mha::Phase phase = meeting.phase();
    pool.run(threads, &phase, 1);
    CHECK(meeting.came() == threads);
  }
}

TEST_CASE("thread pool: several callers at once, one has the threads and the others work alone", "[threads]") {
  const Pool pool(3);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  callers.reserve(6);
  for (int n = 0; n < 6; ++n) {
    callers.emplace_back([&] {
      for (int round = 0; round < 300; ++round) {
        Counted counted({9, 2, 17});
        pool.run(3, counted.phases.data(), 3);
        if (!counted.once()) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0);
}

TEST_CASE("thread pool: a second caller leaves the first one's items alone", "[threads]") {
  const Pool pool(3);
  struct Job {
    std::atomic<int> started{0}, runs[40] = {};
    std::atomic<bool> open{false};
    static void run(const void* data, int64_t item, int64_t) {
      Job& self = *const_cast<Job*>(static_cast<const Job*>(data));
      ++self.started;
      while (!self.open) std::this_thread::yield();
      ++self.runs[item];
    }
  } job;
  const mha::Phase phase = {Job::run, &job, 40};
  std::thread first([&] { pool.run(3, &phase, 1); });
  while (job.started == 0) std::this_thread::yield();
  Counted counted({9, 2, 17});
  pool.run(3, counted.phases.data(), 3);
  job.open = true;
  first.join();
  CHECK(counted.once());
  for (const std::atomic<int>& runs : job.runs) CHECK(runs == 1);
}

TEST_CASE("thread pool: a call from inside an item runs alone", "[threads]") {
  const Pool pool(3);
  struct Job {
    const Pool* pool;
    std::atomic<int> wrong{0};
    static void run(const void* data, int64_t, int64_t) {
      Job& self = *const_cast<Job*>(static_cast<const Job*>(data));
      Counted counted({5, 3});
      self.pool->run(3, counted.phases.data(), 2);
      if (!counted.once()) ++self.wrong;
    }
  } job;
  job.pool = &pool;
  const mha::Phase phase = {Job::run, &job, 40};
  for (int round = 0; round < 50; ++round) pool.run(3, &phase, 1);
  CHECK(job.wrong == 0);
}

TEST_CASE("thread pool: its threads take no signals", "[threads]") {
  const Pool pool(3);
  struct Job {
    pthread_t caller = pthread_self();
    std::atomic<int> others{0}, open{0};
    static void run(const void* data, int64_t, int64_t) {
      Job& self = *const_cast<Job*>(static_cast<const Job*>(data));
      if (pthread_equal(pthread_self(), self.caller)) return;
      ++self.others;
      sigset_t blocked;
      pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
      for (int signal : {SIGINT, SIGTERM, SIGALRM, SIGCHLD, SIGUSR1, SIGPROF})
        if (sigismember(&blocked, signal) == 0) ++self.open;
    }
  } job;
  sigset_t before, after;
  pthread_sigmask(SIG_BLOCK, nullptr, &before);
  const Meeting meeting({Job::run, &job, 64}, 3);
  const mha::Phase phase = meeting.phase();
  pool.run(3, &phase, 1);
  pthread_sigmask(SIG_BLOCK, nullptr, &after);
  CHECK(job.others > 0);
  CHECK(job.open == 0);
  CHECK(sigismember(&before, SIGINT) == sigismember(&after, SIGINT));
}

TEST_CASE("thread pool: layers and attention of many callers have the bits of one thread", "[threads]") {
  for (const std::string& target : supported_targets()) {
    INFO("target " << target);
    const ContextPtr context = make_pool(target, 3);
    const LayerProblem problem(kConfig, 1, 20, 3000, Biases::kAll, 141000);
    const LayerPtr layer = problem.make(context.get());
    const std::vector<float> want = run_layer(shared_context(target, 1), layer.get(), problem.args()).output;
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    callers.reserve(4);
    for (int n = 0; n < 4; ++n) {
      callers.emplace_back([&] {
        for (int round = 0; round < 10; ++round) {
          std::vector<float> output = poisoned(static_cast<int64_t>(want.size()));
          LayerCall args = problem.args();
          args.output = mut_view(output.data());
          if (layer_forward(context.get(), layer.get(), args, nullptr) != MHA_OK || !same_bits(output, want)) ++wrong;
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
    CHECK(wrong == 0);
  }
}

TEST_CASE("thread pool: a call with workspace allocates nothing, and all is given back", "[threads][allocation]") {
  const AttentionProblem problem({1, 2, 2, 9, 5000, 64, 64}, MaskKind::kNone, 142000);
  for (const std::string& target : supported_targets()) {
    CountingAllocator allocator;
    mha_context_options options = allocator.options(target, 2);
    options.threading = MHA_THREADING_POOL;
    {
      const ContextPtr context = make_context(options);
      size_t bytes = 0;
      AttentionCall args = problem.args();
      REQUIRE(attention_workspace_bytes(context.get(), args, &bytes, nullptr) == MHA_OK);
      std::vector<unsigned char> workspace(bytes);
      std::vector<float> output = poisoned(problem.shape.output().count());
      args.output = mut_view(output.data()), args.resources.workspace = workspace.data(),
      args.resources.workspace_bytes = bytes;
      const int64_t made = allocator.calls;
      CHECK(attention(context.get(), args, nullptr) == MHA_OK);
      CHECK(allocator.calls == made);
    }
    CHECK(allocator.live.empty());
    // Whichever allocation fails, no thread is left.
    const int64_t count = allocator.calls, before = num_tasks();
    for (int64_t n = 0; n < std::min<int64_t>(count, num_cpus() > 1 ? 2 : 1); ++n) {
      allocator.calls = 0, allocator.fail_at = n;
      mha_context* context = reinterpret_cast<mha_context*>(&allocator);
      CHECK(mha_context_create(&options, &context, nullptr) == MHA_ERR_OUT_OF_MEMORY);
      CHECK(context == nullptr);
      CHECK(allocator.live.empty());
      CHECK(num_tasks_soon(before) == before);
    }
    CHECK_FALSE(allocator.misuse);
  }
}

#if defined(__linux__) && !defined(MHA_TEST_SANITIZER)  // sanitizers map memory of their own for each thread
namespace {

size_t address_space() {
  size_t pages = 0;
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr || std::fscanf(file, "%zu", &pages) != 1) std::abort();
  std::fclose(file);
  return pages * static_cast<size_t>(getpagesize());
}

/// In a child: the third thread finds no address space for its stack.
int make_too_many() {
  const mha_allocator& allocator = shared_context(supported_targets()[0], 1)->allocator;
  const size_t room = address_space() + (size_t{700} << 10);
  const rlimit limit = {room, room};
  if (setrlimit(RLIMIT_AS, &limit) != 0) return 2;
  mha::ThreadPool* pool = nullptr;
  mha_error error = {};
  const int64_t before = num_tasks();
  const mha_status status = mha::pool_create(allocator, {64, 64, getpid()}, &pool, &error);
  const bool said = mentions(error, "of 63 beside the caller cannot be made: pthread_create says ") &&
                    !mentions(error, "thread 1 of") && error.status == MHA_ERR_THREAD;
  return status == MHA_ERR_THREAD && pool == nullptr && said && num_tasks_soon(before) == before ? 0 : 1;
}

}  // namespace

TEST_CASE("thread pool: a thread that cannot be made is a status, and those made before it are joined",
          "[not_emulated][threads]") {
  supported_targets();
  const pid_t child = fork();
  if (child == 0) _exit(make_too_many());
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}
#endif
