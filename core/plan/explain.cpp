// SPDX-License-Identifier: Apache-2.0
// Plans in words, a "key: value" a line.
#include "core/plan/explain.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "simd/dispatch.h"

namespace mha {

using ll = long long;

void Text::line(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  char* at = length_ < capacity_ ? text_ + length_ : nullptr;
  const int length = vsnprintf(at, at != nullptr ? capacity_ - length_ : 0, format, arguments);
  va_end(arguments);
  length_ += length > 0 ? static_cast<size_t>(length) : 0;
  if (length_ < capacity_) text_[length_] = '\n';
  ++length_;
}

void Text::finish(size_t* needed) {
  if (capacity_ > 0) text_[length_ < capacity_ ? length_ : capacity_ - 1] = 0;
  if (needed != nullptr) *needed = length_ + 1;
}

namespace {

// The best target that is built in and runs here.
const KernelTable& best_target() {
  const CpuFeatures cpu = cpu_features();
  int64_t best = 0;
  while (best + 1 < target_count() && !target_chosen(best, cpu)) ++best;
  return *target_table(best);
}

const char* runner(const mha_context& context, bool threads_lost, int64_t threads) {
  if (threads <= 1) return "in the calling thread";
  if (context.parallel_for.run != nullptr) return "by the host's parallel-for";
  if (threads_lost) return "in the calling thread: this process was forked after its threads were made";
  return context.threading == MHA_THREADING_POOL ? "by the context's own, at most one a CPU"
                                                 : "by OpenMP, at most one a CPU";
}

}  // namespace

void explain_context(const mha_context& context, bool threads_lost, int64_t threads, double work, Text* out) {
  out->line("target: %s", context.table->name);
  const KernelTable& best = best_target();
  if (&best == context.table) {
    out->line("why this target: the best of those built in that this CPU supports");
  } else {
    out->line("why this target: asked for%s; the best that this CPU supports is %s",
              best.uses_tiles ? ", or the permission to use tiles was not given" : "", best.name);
  }
  out->line("same bits on every FMA target: %s", context.table->has_fma ? "yes" : "no, this target has no FMA");
  out->line("threads: %lld of %lld, %s", static_cast<ll>(threads), static_cast<ll>(context.num_threads),
            runner(context, threads_lost, threads));
  const int64_t worth = useful_threads(context.num_threads, work);
  const char* limit = context.num_threads <= 1        ? "the context has one"
                      : threads < worth               ? "the work cannot be shared by more of them to a profit"
                      : threads < context.num_threads ? "more threads would each get less"
                                                      : "enough for all of the context's";
  out->line(
      "why so many threads: work of %.3g million multiply-adds (or the time of reading in that unit), a thread for "
      "every "
      "%.3g million; %s",
      work / 1e6, kMultiplyAddsPerThread / 1e6, limit);
}

void explain_linear_kernel(const LinearKernels& kernels, Text* out) {
  out->line("linear kernel: packed GEMM, %lld-row x %lld-column tiles, weights in panels of %lld columns",
            static_cast<ll>(kernels.tile_rows), static_cast<ll>(kernels.tile_columns), static_cast<ll>(kPanel));
  if (kernels.products != nullptr) out->line("linear arithmetic: %s", kernels.products);
}

void explain_linear(const char* name, const LinearProblem& p, const LinearPlan& plan, int64_t threads, Text* out) {
  const char* rows = plan.row_blocks > 1 ? "rows cut in blocks that each pass once over the weights"
                                         : "rows whole: they share one pass over the weights";
  const char* columns = plan.column_blocks > 1 ? "columns cut, so that every thread has items"
                        : threads > 1          ? "columns whole: no more items are needed, or none can be had"
                                               : "columns whole: one thread";
  out->line("%s: %lld x %lld rows, %lld -> %lld features; %lld items of at most %lld rows x %lld columns (%s; %s)",
            name, static_cast<ll>(p.batch), static_cast<ll>(p.rows), static_cast<ll>(p.in_features),
            static_cast<ll>(p.out_features), static_cast<ll>(plan.items), static_cast<ll>(plan.block_rows),
            static_cast<ll>(plan.block_columns), rows, columns);
  if (p.is_float()) return;
  out->line("%s: input %s, weights %s, output %s; widened to floats block by block, the output rounded once", name,
            name_of(p.input.element), name_of(p.weight.form.element), name_of(p.output.element));
  if (!is_code(p.weight.form.element)) return;
  const WeightForm& form = p.weight.form;
  const char* zeros = form.has_zeros ? " and a zero" : "";
  if (form.group == 0) {
    out->line("%s: a scale of %s%s for each output", name, name_of(form.scale_element), zeros);
  } else {
    out->line("%s: a scale of %s%s for each output and %lld inputs", name, name_of(form.scale_element), zeros,
              static_cast<ll>(form.group));
  }
}

}  // namespace mha
