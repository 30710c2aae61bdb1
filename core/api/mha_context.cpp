// SPDX-License-Identifier: Apache-2.0
// Contexts: threads, target and memory, decided once.
#include "core/base/context.h"

#include <cstdlib>
#include <cstring>

#include "core/base/fields.h"
#include "core/base/memory.h"
#include "core/base/status.h"
#include "core/run/cpu_count.h"
#include "core/run/parallel.h"
#include "core/run/thread_pool.h"
#include "simd/dispatch.h"
#include "simd/permission.h"

namespace mha {
namespace {

constexpr int64_t kMaxThreads = 1024;

// Whether the process may use the target, which may take asking the kernel.
bool is_permitted(const KernelTable& table, bool may_ask) { return !table.uses_tiles || (may_ask && permit_tiles()); }

mha_status choose_target(const char* name, bool may_ask, const KernelTable** table, mha_error* error) {
  const char* source = "target";
  if (name == nullptr) {
    name = getenv("MHA_TARGET");
    source = "the environment's MHA_TARGET";
    if (name != nullptr && *name == 0) name = nullptr;  // an empty text: as if unset
  }
  const CpuFeatures cpu = cpu_features();
  const bool any = name == nullptr;
  for (int64_t i = 0; i < target_count(); ++i) {
    if (!any && strcmp(name, target_table(i)->name) != 0) continue;
    if (any ? target_chosen(i, cpu) : target_supported(i, cpu)) {
      if (!is_permitted(*target_table(i), may_ask)) {
        if (any) continue;
        return fail(error, MHA_ERR_TARGET, "%s is \"%s\", whose tiles %s", source, name,
                    may_ask ? "this system does not permit" : "need a permission (no_process_permissions is set)");
      }
      *table = target_table(i);
      return MHA_OK;
    }
    if (!any) return fail(error, MHA_ERR_TARGET, "%s is \"%s\", which this CPU does not support", source, name);
  }
  if (any) return fail(error, MHA_ERR_TARGET, "this CPU supports none of the targets built in");
  return fail(error, MHA_ERR_TARGET, "%s is \"%.40s\", which is not a target of this library", source, name);
}

// What MHA_THREADING_DEFAULT means without a host's parallel-for.
mha_threading default_threading() { return has_openmp() ? MHA_THREADING_OPENMP : MHA_THREADING_POOL; }

mha_status choose_threading(const mha_context_options& o, mha_threading* threading, mha_error* error) {
  const int asked = enum_value(o.threading);
  if (asked < MHA_THREADING_DEFAULT || asked > MHA_THREADING_POOL) {
    return fail(error, MHA_ERR_ARGUMENT, "threading is %d: must be 0 to %d", asked, MHA_THREADING_POOL);
  }
  if (asked != MHA_THREADING_DEFAULT && o.parallel_for.run != nullptr) {
    return fail(error, MHA_ERR_ARGUMENT,
                "threading is %d beside parallel_for.run, which would run all: give one of them", asked);
  }
  if (asked == MHA_THREADING_OPENMP && !has_openmp()) {
    return fail(error, MHA_ERR_THREAD, "threading is %d (OpenMP): this library was built without OpenMP", asked);
  }
  const bool by_host = o.parallel_for.run != nullptr;
  *threading = asked == MHA_THREADING_DEFAULT && !by_host ? default_threading() : o.threading;
  return MHA_OK;
}

// Opens the process id and makes the pool, if the context has several threads.
mha_status start_threads(mha_context* context, mha_error* error) {
  if (context->num_threads <= 1 || context->parallel_for.run != nullptr) return MHA_OK;
  context->process.open();
  const int64_t threads = affinity_cpus(context->num_threads, context->num_threads);
  if (context->threading != MHA_THREADING_POOL || threads <= 1) return MHA_OK;
  const mha_status status =
      pool_create(context->allocator, {threads, threads, context->process.get()}, &context->pool, error);
  if (status != MHA_OK) context->process.close();
  return status;
}

}  // namespace

}  // namespace mha

extern "C" mha_status mha_context_create(const mha_context_options* options, mha_context** context, mha_error* error) {
  using namespace mha;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  *context = nullptr;
  const mha_context_options defaults = {};
  const mha_context_options& o = options != nullptr ? *options : defaults;
  MHA_TRY(check_reserved("options", o.reserved, error));
  if (o.num_threads < 0 || o.num_threads > kMaxThreads) {
    return fail(error, MHA_ERR_ARGUMENT, "num_threads is %lld: must be 0 to %lld",
                static_cast<long long>(o.num_threads), static_cast<long long>(kMaxThreads));
  }
  if (o.allocator.user != nullptr && o.allocator.allocate == nullptr) {
    return fail(error, MHA_ERR_ARGUMENT, "allocator.user is given, but allocator.allocate is NULL");
  }
  if (o.parallel_for.user != nullptr && o.parallel_for.run == nullptr) {
    return fail(error, MHA_ERR_ARGUMENT, "parallel_for.user is given, but parallel_for.run is NULL");
  }
  if ((o.allocator.allocate == nullptr) != (o.allocator.release == nullptr)) {
    return fail(error, MHA_ERR_ARGUMENT, "allocator.%s is NULL: give both functions or neither",
                o.allocator.allocate == nullptr ? "allocate" : "release");
  }
  mha_context made = {};
  MHA_TRY(choose_threading(o, &made.threading, error));
  MHA_TRY(choose_target(o.target, o.no_process_permissions == 0, &made.table, error));
  made.num_threads = o.num_threads != 0 ? o.num_threads : allowed_cpus(kMaxThreads);
  made.parallel_for = o.parallel_for;
  made.allocator = o.allocator;
  if (made.allocator.allocate == nullptr) made.allocator = default_allocator();
  mha_context* handle = static_cast<mha_context*>(allocate(made.allocator, sizeof(mha_context)));
  if (handle == nullptr) return fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for a context");
  *handle = made;
  const mha_status status = start_threads(handle, error);
  if (status != MHA_OK) {
    release(made.allocator, handle, sizeof(mha_context));
    return status;
  }
  *context = handle;
  return MHA_OK;
}

extern "C" void mha_context_destroy(mha_context* context) {
  if (context == nullptr) return;
  const mha_allocator allocator = context->allocator;
  mha::pool_destroy(allocator, context->pool, context->process);
  context->process.close();
  mha::release(allocator, context, sizeof(mha_context));
}

extern "C" const char* mha_context_target(const mha_context* context) {
  return context != nullptr ? context->table->name : nullptr;
}

extern "C" int64_t mha_context_num_threads(const mha_context* context) {
  return context != nullptr ? context->num_threads : 0;
}

extern "C" int64_t mha_target_count(void) { return mha::target_count(); }

extern "C" const char* mha_target_name(int64_t index) {
  return index >= 0 && index < mha::target_count() ? mha::target_table(index)->name : nullptr;
}

extern "C" int mha_target_supported(int64_t index) {
  using namespace mha;
  if (index < 0 || index >= target_count() || !target_supported(index, cpu_features())) return 0;
  return !target_table(index)->uses_tiles || has_tiles() ? 1 : 0;
}

extern "C" int mha_target_same_bits(int64_t index) {
  return index >= 0 && index < mha::target_count() && mha::target_table(index)->has_fma ? 1 : 0;
}
