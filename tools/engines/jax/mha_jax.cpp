// SPDX-License-Identifier: Apache-2.0
// A handler of XLA's FFI: attention over XLA's buffers, on XLA's threads. mha_jax.py is its caller, and checks shapes
// and types before it compiles a call.
#include <mha/mha.h>
#include <xla/ffi/api/ffi.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

namespace {

namespace ffi = xla::ffi;

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
    if (done == count) all_done.notify_all();
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

// One context for all calls; each call gives the pool of its execution (mha_resources.parallel_user).
struct SharedContext {
  mha_context* context = nullptr;
  mha_error error = {};

  SharedContext() {
    mha_context_options options = {};
    options.parallel_for.run = run_on_pool;
    mha_context_create(&options, &context, &error);
  }
};

mha_dtype dtype_of(const ffi::AnyBuffer& buffer) {
  if (buffer.element_type() == ffi::F16) return MHA_F16;
  return buffer.element_type() == ffi::BF16 ? MHA_BF16 : MHA_F32;
}

// [1 or batch, T, heads, width]: one item serves all.
mha_view view_of(const ffi::AnyBuffer& buffer, int64_t batch) {
  const auto dims = buffer.dimensions();
  mha_view view = {};
  view.data = buffer.untyped_data();
  view.dtype = dtype_of(buffer);
  view.stride_h = dims[3];
  view.stride_t = dims[2] * dims[3];
  view.stride_b = dims[0] == 1 && batch != 1 ? MHA_BROADCAST : dims[1] * dims[2] * dims[3];
  return view;
}

// [1 or B, 1 or H, 1 or Tq, 1 or Tk]: a dimension of 1 is repeated.
template <typename Mask>
void set_strides(Mask& mask, const ffi::AnyBuffer& buffer) {
  const auto dims = buffer.dimensions();
  mask.stride_k = dims[3] == 1 ? MHA_BROADCAST : 1;
  mask.stride_q = dims[2] == 1 ? 0 : dims[3];
  mask.stride_h = dims[1] == 1 ? 0 : dims[2] * dims[3];
  mask.stride_b = dims[0] == 1 ? 0 : dims[1] * dims[2] * dims[3];
}

void set_masks(mha_masks& masks, const ffi::RemainingArgs& given) {
  for (size_t n = 0; n < given.size(); ++n) {
    const ffi::AnyBuffer buffer = *given.get<ffi::AnyBuffer>(n);
    if (buffer.element_type() == ffi::PRED) {
      masks.bool_mask.data = static_cast<const uint8_t*>(buffer.untyped_data());
      set_strides(masks.bool_mask, buffer);
    } else {
      masks.add_mask.data = buffer.untyped_data();
      masks.add_mask.dtype = dtype_of(buffer);
      set_strides(masks.add_mask, buffer);
    }
  }
}

ffi::Error attention(ffi::ThreadPool pool, ffi::AnyBuffer query, ffi::AnyBuffer key, ffi::AnyBuffer value,
                     ffi::RemainingArgs given_masks, ffi::Result<ffi::AnyBuffer> output, float scale, bool causal,
                     int64_t left, int64_t right) {
  static const SharedContext shared;
  if (shared.context == nullptr) return ffi::Error::Internal(std::string("mha: ") + shared.error.message);
  mha_resources resources = {};
  resources.parallel_user = &pool;
  resources.max_threads = std::max<int64_t>(pool.num_threads(), 1);
  mha_positions positions = {};
  positions.align = MHA_ALIGN_START;  // as jax.nn: query 0 stands at key 0
  mha_masks masks = {};
  masks.window_left = left;
  masks.window_right = right;
  set_masks(masks, given_masks);

  mha_attention_args args = {};
  args.batch = output->dimensions()[0];
  args.query_len = query.dimensions()[1];
  args.num_heads = query.dimensions()[2];
  args.head_dim = query.dimensions()[3];
  args.key_len = key.dimensions()[1];
  args.num_kv_heads = key.dimensions()[2];
  args.value_head_dim = value.dimensions()[3];
  args.query = view_of(query, args.batch);
  args.key = view_of(key, args.batch);
  args.value = view_of(value, args.batch);
  args.output.data = output->untyped_data();
  args.output.dtype = dtype_of(*output);
  args.causal = causal;
  args.scale = scale;
  args.scale_is_exact = 1;
  args.positions = &positions;
  args.masks = &masks;
  args.resources = &resources;
  mha_error error = {};
  if (mha_attention(shared.context, &args, &error) == MHA_OK) return ffi::Error::Success();
  return ffi::Error::InvalidArgument(std::string("mha: ") + error.message);
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
                                  .Attr<bool>("causal")
                                  .Attr<int64_t>("left")
                                  .Attr<int64_t>("right"));
