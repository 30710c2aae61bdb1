// SPDX-License-Identifier: Apache-2.0
// Allocation, the floating point environment, and the stack: a call with workspace allocates nothing, every failing
// allocation is reported and leaks nothing, MXCSR and rounding stay, a small stack is enough.
#include <pthread.h>

#include <cfenv>
#include <cstdlib>
#include <functional>

#include "tests/support/counting.h"
#include "tests/support/layers.h"
#include "tests/support/sanitizer.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace {
/// Calls of the C allocator by this thread.
thread_local int64_t heap_calls = 0;
}  // namespace

#if defined(MHA_TEST_SANITIZER)
// The sanitizers own malloc and offer a hook instead.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*malloc_hook)(const volatile void*, size_t),
                                                         void (*free_hook)(const volatile void*));
namespace {
bool count_heap_calls() {
  static const bool installed =
      __sanitizer_install_malloc_and_free_hooks([](const volatile void*, size_t) { ++heap_calls; },
                                                [](const volatile void*) {}) > 0;
  return installed;
}
}  // namespace
#elif defined(__GLIBC__)
// This executable's own malloc comes before libc's, which stays reachable by its second name.
extern "C" {
// NOLINTBEGIN(readability-identifier-naming): the names are glibc's.
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
// NOLINTEND(readability-identifier-naming)

void* malloc(size_t bytes) {
  ++heap_calls;
  return __libc_malloc(bytes);
}
void* calloc(size_t count, size_t bytes) {
  ++heap_calls;
  return __libc_calloc(count, bytes);
}
void* realloc(void* block, size_t bytes) {
  ++heap_calls;
  return __libc_realloc(block, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  ++heap_calls;
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** block, size_t alignment, size_t bytes) {
  ++heap_calls;
  *block = __libc_memalign(alignment, bytes);
  return *block ? 0 : 12;
}
}
namespace {
bool count_heap_calls() { return true; }
}  // namespace
#else
namespace {
bool count_heap_calls() { return false; }
}  // namespace
#endif

using namespace mha::test;

namespace {

const mha_layer_config kConfig = {40, 4, 2, 12, 20, 0, 0, 50, 0};

/// One call of each kind, with buffers and workspace made beforehand, so that call() alone is observed.
class PreparedCalls {
 public:
  PreparedCalls(const mha_context* context, int64_t Tk)
      : context_(context),
        attention_({2, 4, 2, 9, Tk, 20, 12}, MaskKind::kAll, 100000),
        layer_problem_(kConfig, 2, 9, Tk, Biases::kAll, 100001),
        layer_(layer_problem_.make(context)),
        linear_(make_linear(context, 40, 33, layer_problem_.query_weight.data(), nullptr)) {
    attention_args_ = attention_.args();
    attention_args_.results.weights_mode = MHA_WEIGHTS_AVERAGED;
    attention_output_ = poisoned(2 * 9 * 4 * 12);
    attention_weights_ = poisoned(2 * 9 * Tk);
    lse_ = poisoned(2 * 4 * 9);
    attention_args_.output = mut_view(attention_output_.data());
    attention_args_.results.weights = mut_view(attention_weights_.data());
    attention_args_.results.log_sum_exp = lse_.data();
    layer_args_ = layer_problem_.args();
    layer_args_.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    layer_output_ = poisoned(2 * 9 * 50);
    layer_weights_ = poisoned(2 * 4 * 9 * Tk);
    layer_args_.output = mut_view(layer_output_.data());
    layer_args_.results.weights = mut_view(layer_weights_.data());
    linear_output_ = poisoned(18 * 33);
    linear_args_ = linear_args(18, layer_problem_.query.data(), linear_output_.data());
  }

  void give_workspace() {
    size_t attention_bytes = 0, layer_bytes = 0;
    REQUIRE(attention_workspace_bytes(context_, attention_args_, &attention_bytes, nullptr) == MHA_OK);
    REQUIRE(layer_workspace_bytes(context_, layer_.get(), layer_args_, &layer_bytes, nullptr) == MHA_OK);
    workspace_.resize(std::max(attention_bytes, layer_bytes));
    attention_args_.resources.workspace = layer_args_.resources.workspace = workspace_.data();
    attention_args_.resources.workspace_bytes = attention_bytes;
    layer_args_.resources.workspace_bytes = layer_bytes;
  }

  mha_status call() {
    const mha_status attended = attention(context_, attention_args_, nullptr);
    const mha_status layer = layer_forward(context_, layer_.get(), layer_args_, nullptr);
    const mha_status linear = mha_linear_forward(context_, linear_.get(), &linear_args_, nullptr);
    return attended != MHA_OK ? attended : layer != MHA_OK ? layer : linear;
  }
  std::vector<float> results() const {
    std::vector<float> all;
    for (const auto* part :
         {&attention_output_, &attention_weights_, &lse_, &layer_output_, &layer_weights_, &linear_output_})
      all.insert(all.end(), part->begin(), part->end());
    return all;
  }

 private:
  const mha_context* context_;
  AttentionProblem attention_;
  LayerProblem layer_problem_;
  LayerPtr layer_;
  LinearPtr linear_;
  AttentionCall attention_args_;
  LayerCall layer_args_;
  mha_linear_args linear_args_;
  std::vector<float> attention_output_, attention_weights_, lse_, layer_output_, layer_weights_, linear_output_;
  std::vector<unsigned char> workspace_;
};

void run_in_order(void*, int64_t count, void (*task)(void*, int64_t), void* data) {
  for (int64_t i = 0; i < count; ++i) task(data, i);
}

}  // namespace

TEST_CASE("memory: a call with workspace allocates nothing", "[memory][allocation]") {
  const bool counts_heap = count_heap_calls();
  for (const std::string& target : supported_targets()) {
    for (int64_t threads : {1, 3}) {
      for (int64_t Tk : {17, 3000}) {  // the latter is enough work for three threads
        INFO("target " << target << " threads " << threads << " Tk " << Tk);
        CountingAllocator allocator;
        mha_context_options options = allocator.options(target, threads);
        options.parallel_for.run = run_in_order;  // the OpenMP runtime may allocate, the library may not
        const ContextPtr context = make_context(options);
        PreparedCalls calls(context.get(), Tk);
        calls.give_workspace();
        const int64_t made = allocator.calls, heap = heap_calls;
        const mha_status status = calls.call();
        const int64_t heap_after = heap_calls;
        CHECK(status == MHA_OK);
        CHECK(allocator.calls == made);
        CHECK(heap_after == heap);
        if (counts_heap) {
          void* volatile probe = std::malloc(1);  // volatile: a compiler may leave an unused allocation out
          CHECK(heap_calls > heap_after);         // the counter does count
          std::free(probe);
        }
      }
    }
  }
}

TEST_CASE("memory: a call without workspace takes it from the context's allocator and gives it back",
          "[memory][allocation]") {
  for (const std::string& target : supported_targets()) {
    CountingAllocator allocator;
    {
      const ContextPtr context = make_context(allocator.options(target, 2));
      PreparedCalls without(context.get(), 600), with(context.get(), 600);
      with.give_workspace();
      const size_t live = allocator.live.size();
      REQUIRE(without.call() == MHA_OK);
      CHECK(allocator.live.size() == live);
      REQUIRE(with.call() == MHA_OK);
      check_same_bits("results", with.results(), without.results());
    }
    CHECK(allocator.live.empty());
    CHECK_FALSE(allocator.misuse);
  }
}

TEST_CASE("memory: whichever allocation fails is reported, leaks nothing, and a retry works", "[memory][allocation]") {
  for (const std::string& target : supported_targets()) {
    CountingAllocator allocator;
    const LayerProblem problem(kConfig, 1, 5, 300, Biases::kAll, 101000);
    const AttentionProblem attention_problem({1, 1, 1, 5, 700, 8, 8}, MaskKind::kNone, 101001);
    std::vector<float> output(5 * 50), attention_output(5 * 8);
    // Everything in the API that allocates. Returns the first status that is not MHA_OK.
    const auto everything = [&]() -> mha_status {
      mha_context_options options = allocator.options(target, 3);
      options.parallel_for.run = run_in_order;
      mha_context* context = nullptr;
      mha_error error = {};
      mha_status status = mha_context_create(&options, &context, &error);
      if (status != MHA_OK) {
        CHECK(context == nullptr);
        CHECK(error.status == status);
        return status;
      }
      const ContextPtr context_owner(context);
      mha_linear* linear = reinterpret_cast<mha_linear*>(&error);
      mha_linear_config linear_config = {};
      linear_config.in_features = 40, linear_config.out_features = 48;
      linear_config.weight = view(problem.query_weight.data());
      status = mha_linear_create(context, &linear_config, &linear, &error);
      if (status != MHA_OK) CHECK(linear == nullptr);
      const LinearPtr linear_owner(linear);
      if (status != MHA_OK) return status;
      mha_layer* layer = reinterpret_cast<mha_layer*>(&error);
      const mha_layer_weights weights = problem.separate_weights();
      status = mha_layer_create(context, &problem.config, &weights, &layer, &error);
      if (status != MHA_OK) CHECK(layer == nullptr);
      const LayerPtr layer_owner(layer);
      if (status != MHA_OK) return status;
      size_t blob_bytes = 0;
      REQUIRE(mha_layer_save_bytes(layer, &blob_bytes, &error) == MHA_OK);
      std::vector<float> blob(blob_bytes / 4 + 1);
      REQUIRE(mha_layer_save(layer, blob.data(), blob.size() * 4, &error) == MHA_OK);
      mha_layer* mapped = reinterpret_cast<mha_layer*>(&error);
      status = mha_layer_map(context, blob.data(), blob_bytes, &mapped, &error);
      if (status != MHA_OK) CHECK(mapped == nullptr);
      const LayerPtr mapped_owner(mapped);
      if (status != MHA_OK) return status;
      LayerCall args = problem.args();
      std::fill(output.begin(), output.end(), float_of_bits(kPoisonBits));
      args.output = mut_view(output.data());
      status = layer_forward(context, mapped, args, &error);
      if (status != MHA_OK) {
        CHECK(std::all_of(output.begin(), output.end(), is_poison));
        return status;
      }
      AttentionCall attention_args = attention_problem.args();
      std::fill(attention_output.begin(), attention_output.end(), float_of_bits(kPoisonBits));
      attention_args.output = mut_view(attention_output.data());
      status = attention(context, attention_args, &error);
      if (status != MHA_OK) CHECK(std::all_of(attention_output.begin(), attention_output.end(), is_poison));
      return status;
    };

    REQUIRE(everything() == MHA_OK);
    const std::vector<float> want = output;
    const int64_t count = allocator.calls;
    CHECK(count >= 6);  // context, linear, layer, mapped layer, two workspaces
    for (int64_t n = 0; n < count; ++n) {
      INFO("target " << target << " allocation " << n);
      allocator.calls = 0;
      allocator.fail_at = n;
      CHECK(everything() == MHA_ERR_OUT_OF_MEMORY);
      CHECK(allocator.live.empty());
      allocator.fail_at = -1;
      CHECK(everything() == MHA_OK);
      check_same_bits("retry", output, want);
    }
    CHECK(allocator.live.empty());
    CHECK_FALSE(allocator.misuse);
  }
}

TEST_CASE("memory: workspace is not a matter of Tq x Tk", "[memory]") {
  // Four times the scores take twice the workspace at most, and a small part of one head's matrix of scores, whatever
  // masks the call has and what it does to scores.
  constexpr int64_t kLength = 16384;
  const uint8_t byte = 1;
  const float number = 0;
  const int64_t lengths[1] = {9}, pairs[2] = {0, 0};
  const int32_t segments[1] = {0};
  const std::vector<std::function<void(AttentionCall&)>> options = {
      [](auto&) {},
      [](auto& a) { a.causal = 1; },
      [](auto& a) { a.masks.window_left = a.masks.window_right = 100, a.masks.sink_tokens = 4; },
      [&](auto& a) { a.masks.prefix_lengths = a.items.key_lengths = lengths; },
      [&](auto& a) { a.masks.query_segments = a.masks.key_segments = segments; },
      [&](auto& a) {
        a.masks.block_mask = {64, 64, pairs, 1};
      },
      [&](auto& a) {
        a.masks.bool_mask = {&byte, 0, 0, 0}, a.masks.bit_mask = {&byte, 0, 0, 0};
      },
      [&](auto& a) { a.masks.add_mask = {&number}; },
      [&](auto& a) {
        a.score_mods.alibi_slopes = a.score_mods.relative_bias = a.score_mods.sink_logits = &number,
        a.score_mods.softcap = 5;
      },
      [](auto& a) { a.results.weights_mode = MHA_WEIGHTS_AVERAGED; },
      [](auto& a) { a.results.weights_mode = MHA_WEIGHTS_KEY_SUMS; },
      [](auto& a) { a.results.weights_mode = MHA_WEIGHTS_PER_HEAD; },
  };
  for (int64_t threads : {1, 3}) {
    for_each_target(
        [&](const std::string&, const mha_context* context) {
          for (size_t n = 0; n < options.size(); ++n) {
            INFO("threads " << threads << " option " << n);
            size_t bytes[2] = {0, 0};
            for (int64_t i : {0, 1}) {
              AttentionCall args;
              args.batch = 1, args.num_heads = 4, args.head_dim = 64, args.query_len = args.key_len = kLength << i;
              options[n](args);
              REQUIRE(attention_workspace_bytes(context, args, &bytes[i], nullptr) == MHA_OK);
            }
            CHECK(bytes[1] <= 2 * bytes[0]);
            CHECK(bytes[0] < static_cast<size_t>(kLength * kLength) / 64);
          }
        },
        threads);
  }
}

TEST_CASE("memory: what the workspace held before changes nothing", "[memory]") {
  const AttentionProblem any({1, 2, 2, 9, 7000, 20, 12}, MaskKind::kBool, 102000);
  const AttentionProblem causal({1, 2, 2, 9, 7000, 20, 28}, MaskKind::kCausal, 102001);
  const std::vector<int64_t> pairs = {0, 0, 0, 9, 0, 27};  // chunks between them that nobody sees
  for (int64_t threads : {1, 4}) {
    for (int kind = 0; kind < 3; ++kind) {
      const AttentionProblem& problem = kind == 0 ? any : causal;
      for_each_target(
          [&](const std::string&, const mha_context* context) {
            AttentionCall args = problem.args();
            if (kind == 1) args.masks.window_left = 300;  // begins within a chunk
            if (kind == 2) args.masks.block_mask = {1000, 256, pairs.data(), 3};
            const AttentionResult want = run_attention(context, args);
            size_t bytes = 0;
            REQUIRE(attention_workspace_bytes(context, args, &bytes, nullptr) == MHA_OK);
            for (unsigned char filler : {0x00, 0x7f, 0xff}) {
              INFO("threads " << threads << " kind " << kind << " filler " << int{filler});
              std::vector<unsigned char> workspace(bytes + 1, filler);
              std::vector<float> output = poisoned(problem.shape.output().count());
              args.output = mut_view(output.data());
              args.resources.workspace = workspace.data();
              args.resources.workspace_bytes = bytes;
              REQUIRE(attention(context, args, nullptr) == MHA_OK);
              check_same_bits("output", output, want.output);
            }
          },
          threads);
    }
  }
}

TEST_CASE("memory: the floating point environment is left as found", "[memory][environment]") {
  for_each_target([&](const std::string& target, const mha_context* context) {
    PreparedCalls calls(context, 300);
    for (int rounding : {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
      INFO("target " << target << " rounding " << rounding);
      std::fesetround(rounding);
#if defined(__x86_64__)
      // Flags cleared; flush-to-zero and denormals-are-zero on for one of them: the caller's choice stays.
      _mm_setcsr((_mm_getcsr() & ~0x803fu & ~0x40u) | (rounding == FE_UPWARD ? 0x8040u : 0u));
      const unsigned before = _mm_getcsr() & ~0x3fu;  // without the sticky exception flags, which arithmetic may set
#endif
      const mha_status status = calls.call();
      const int rounding_after = std::fegetround();
#if defined(__x86_64__)
      const unsigned after = _mm_getcsr() & ~0x3fu;
      _mm_setcsr(0x1f80);
#endif
      std::fesetround(FE_TONEAREST);
      CHECK(status == MHA_OK);
      CHECK(rounding_after == rounding);
#if defined(__x86_64__)
      CHECK(after == before);
#endif
    }
  });
}

TEST_CASE("memory: a stack of 128 KiB is enough", "[memory][stack]") {
#if defined(MHA_TEST_SANITIZER)
  const size_t kStack = 1024 * 1024;  // the sanitizers' own frames and red zones
#else
  const size_t kStack = 128 * 1024;
#endif
  for_each_target([&](const std::string& target, const mha_context* context) {
    INFO("target " << target);
    PreparedCalls calls(context, 1100);
    struct Job {
      PreparedCalls* calls;
      mha_status status;
    } job = {&calls, MHA_ERR_ARGUMENT};
    pthread_attr_t attributes;
    REQUIRE(pthread_attr_init(&attributes) == 0);
    REQUIRE(pthread_attr_setstacksize(&attributes, kStack) == 0);
    pthread_t thread;
    REQUIRE(pthread_create(
                &thread, &attributes,
                [](void* data) -> void* {
                  Job* own = static_cast<Job*>(data);
                  own->status = own->calls->call();
                  return nullptr;
                },
                &job) == 0);
    pthread_join(thread, nullptr);
    pthread_attr_destroy(&attributes);
    CHECK(job.status == MHA_OK);
    const std::vector<float> small_stack = calls.results();
    REQUIRE(calls.call() == MHA_OK);
    check_same_bits("results", small_stack, calls.results());
  });
}
