// SPDX-License-Identifier: Apache-2.0
// A handler of XLA's FFI: attention over XLA's buffers [B, T, H, D], on XLA's threads. mha_jax.py is its caller, and
// checks shapes and types before it compiles a call.
#include <xla/ffi/api/ffi.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>

#include "dense.h"

namespace {

namespace ffi = xla::ffi;
using mha_engines::Tensor;

// The tasks of one parallel region. The caller and threads of XLA's pool take one after the other. The caller may be a
// thread of the pool itself, and the other threads may be busy: so it waits for tasks that a thread has begun, and never
// for a thread to come.
struct Tasks {
  void (*task)(void*, int64_t);
  void* data;
  int64_t count;
  std::atomic<int64_t> next{0};
  int64_t done = 0;
  std::mutex mutex;
  std::condition_variable all_done;

  Tasks(void (*function)(void*, int64_t), void* user, int64_t number) : task(function), data(user), count(number) {}

  void work() {
    int64_t finished = 0;
    for (int64_t index = next++; index < count; index = next++, ++finished) task(data, index);
    const std::lock_guard<std::mutex> lock(mutex);
    done += finished;
    if (done == count) all_done.notify_one();
  }

  void wait() {
    std::unique_lock<std::mutex> lock(mutex);
    all_done.wait(lock, [this] { return done == count; });
  }
};

void run_on_pool(void* user, int64_t count, void (*task)(void*, int64_t), void* data) {
  // A thread that comes late finds no task left; the shared pointer keeps the counter alive for it.
  const auto tasks = std::make_shared<Tasks>(task, data, count);
  for (int64_t n = 1; n < count; ++n) static_cast<ffi::ThreadPool*>(user)->Schedule([tasks] { tasks->work(); });
  tasks->work();
  tasks->wait();
}

Tensor tensor_of(const ffi::AnyBuffer& buffer) {
  const ffi::DataType type = buffer.element_type();
  const mha_dtype dtype = type == ffi::F16 ? MHA_F16 : type == ffi::BF16 ? MHA_BF16 : MHA_F32;
  return mha_engines::dense(buffer.untyped_data(), dtype, buffer.dimensions());
}

ffi::Error attention(ffi::ThreadPool pool, ffi::AnyBuffer query, ffi::AnyBuffer key, ffi::AnyBuffer value,
                     ffi::RemainingArgs masks, ffi::Result<ffi::AnyBuffer> output, float scale, bool causal) {
  static mha::Result<mha::Context> context = mha_engines::make_context(run_on_pool);
  if (!context) return ffi::Error::Internal(std::string("mha: ") + context.status().message());
  mha::AttentionCall call;
  mha_engines::set_tensors(call, mha_engines::Order::kTokensFirst, tensor_of(query), tensor_of(key), tensor_of(value),
                           tensor_of(*output));
  for (size_t n = 0; n < masks.size(); ++n) {
    const ffi::AnyBuffer buffer = *masks.get<ffi::AnyBuffer>(n);
    if (!mha_engines::set_mask(call, tensor_of(buffer), buffer.element_type() == ffi::PRED))
      return ffi::Error::InvalidArgument("mha: a mask does not broadcast to the scores");
  }
  call.causal = causal;
  call.positions.align = MHA_ALIGN_START;  // as jax.nn: query 0 stands at key 0
  call.scale = scale;
  call.scale_is_exact = 1;
  call.resources.parallel_user = &pool;  // of this execution
  call.resources.max_threads = std::max<int64_t>(pool.num_threads(), 1);
  const mha::Status status = context->attention(call);
  if (status) return ffi::Error::Success();
  const bool no_memory = status.code() == MHA_ERR_OUT_OF_MEMORY;
  return ffi::Error(no_memory ? ffi::ErrorCode::kResourceExhausted : ffi::ErrorCode::kInvalidArgument,
                    std::string("mha: ") + status.message());
}

}  // namespace

extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* mha_jax_attention(XLA_FFI_CallFrame* frame);
XLA_FFI_DEFINE_HANDLER_SYMBOL(mha_jax_attention, attention,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<float>("scale")
                                  .Attr<bool>("causal"));
