// SPDX-License-Identifier: Apache-2.0
#include "runtime.h"

#include <algorithm>
#include <atomic>

namespace mha_torch {
namespace {

constexpr uint32_t kMaxThreads = 1024;

struct Job {
  void (*task)(void* task_data, int64_t index);
  void* task_data;
};

// torch_parallel_for returns to the thread that called it, so its failure is noted there.
thread_local bool threads_failed = false;

void run_range(int64_t begin, int64_t end, void* data) {
  const auto* job = static_cast<const Job*>(data);
  for (int64_t i = begin; i < end; ++i) job->task(job->task_data, i);
}

void run_on_torch(void* /*user*/, int64_t count, void (*task)(void* task_data, int64_t index), void* task_data) {
  Job job = {task, task_data};
  if (torch_parallel_for(0, count, 1, run_range, &job) != TORCH_SUCCESS) threads_failed = true;
}

mha_context* make_context(uint32_t num_threads) {
  mha_context_options options = {};
  options.num_threads = num_threads;
  options.parallel_for.run = run_on_torch;
  mha_context* context = nullptr;
  mha_error error = {};
  check(mha_context_create(&options, &context, &error), error);
  return context;
}

}  // namespace

const mha_context* current_context() {
  static std::atomic<mha_context*> contexts[kMaxThreads + 1];
  uint32_t num_threads = 1;
  if (torch_get_num_threads(&num_threads) != TORCH_SUCCESS) fail("torch does not tell its number of threads");
  num_threads = std::clamp(num_threads, uint32_t{1}, kMaxThreads);
  std::atomic<mha_context*>& slot = contexts[num_threads];
  mha_context* context = slot.load(std::memory_order_acquire);
  if (context != nullptr) return context;
  mha_context* made = make_context(num_threads);
  if (slot.compare_exchange_strong(context, made, std::memory_order_acq_rel)) return made;
  mha_context_destroy(made);  // another thread was first
  return context;
}

void check(mha_status status, const mha_error& error) {
  if (status != MHA_OK) fail(std::string(mha_status_string(status)) + ": " + error.message);
}

void check_threads() {
  if (!threads_failed) return;
  threads_failed = false;
  fail("torch's parallel_for failed");
}

void refuse_gradient(const Tensor& first, const Tensor& second, const Tensor& third) {
  if (!aoti_torch_grad_mode_is_enabled()) return;
  // The stable ABI does not tell whether a tensor requires a gradient. So Python is asked, and only in grad mode.
  using torch::stable::detail::from;
  StableIValue values[] = {from(first), from(second), from(third)};
  const auto status = torch_call_dispatcher("mha::_requires_grad", "", values, TORCH_ABI_VERSION);
  require(status == TORCH_SUCCESS, "_requires_grad failed");
  if (torch::stable::detail::to<bool>(values[0])) {
    fail(
        "an input requires a gradient, but mha computes none: call it under torch.no_grad() or "
        "torch.inference_mode(), or detach() the input");
  }
}

void refuse_gradient(std::initializer_list<const OptionalTensor*> tensors) {
  if (!aoti_torch_grad_mode_is_enabled()) return;
  for (const OptionalTensor* tensor : tensors) {
    if (*tensor) refuse_gradient(**tensor, **tensor, **tensor);
  }
}

}  // namespace mha_torch
