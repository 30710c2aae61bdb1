// SPDX-License-Identifier: Apache-2.0
// Plans in words, a "key: value" a line.
#include "core/explain.h"

#include <cstdarg>
#include <cstdio>

#include "core/attention.h"
#include "core/validate.h"

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

void explain_context(const mha_context& context, int64_t threads, double multiply_adds, Text* out) {
  out->line("target: %s", context.table->name);
  out->line("same bits on every FMA target: %s", context.table->has_fma ? "yes" : "no, this target has no FMA");
  const char* runner = threads <= 1
                           ? "in the calling thread"
                           : (context.parallel_for.run != nullptr ? "by the host's parallel-for" : "by OpenMP");
  out->line("threads: %lld of %lld, %s (%.3g million multiply-adds)", static_cast<ll>(threads),
            static_cast<ll>(context.num_threads), runner, multiply_adds / 1e6);
}

void explain_linear(const char* name, const LinearProblem& p, const LinearPlan& plan, Text* out) {
  out->line("%s projection: %lld x %lld rows, %lld -> %lld features; %lld items of %lld rows x %lld columns", name,
            static_cast<ll>(p.batch), static_cast<ll>(p.rows), static_cast<ll>(p.in_features),
            static_cast<ll>(p.out_features), static_cast<ll>(plan.items), static_cast<ll>(plan.block_rows),
            static_cast<ll>(plan.block_columns));
}

void explain_attention(const AttentionProblem& p, const AttentionPlan& plan, const KernelTable& table, Text* out) {
  out->line("kernel: fused attention, %lld-row x %lld-column tiles, %lld rows share a pass over a chunk of %lld keys",
            static_cast<ll>(table.tile_rows), static_cast<ll>(table.tile_columns),
            static_cast<ll>(table.attention_rows), static_cast<ll>(kChunk));
  out->line("rows: %lld for each of %lld key/value heads (%lld heads share one), in %lld blocks of at most %lld",
            static_cast<ll>(p.group_rows()), static_cast<ll>(p.batch * p.kv_heads), static_cast<ll>(p.group()),
            static_cast<ll>(plan.blocks), static_cast<ll>(plan.block_rows));
  if (plan.split) {
    out->line("items: %lld, one per block and chunk (%lld chunks), merged afterwards: fewer blocks than threads need",
              static_cast<ll>(plan.items), static_cast<ll>(plan.chunks));
  } else {
    out->line("items: %lld, one per block, over all %lld chunks of keys", static_cast<ll>(plan.items),
              static_cast<ll>(plan.chunks));
  }
  const char* weights =
      p.weights_mode == MHA_WEIGHTS_NONE
          ? "not wanted"
          : (p.weights_mode == MHA_WEIGHTS_PER_HEAD ? "per head, by a second pass over the scores"
                                                    : "averaged, by a second pass, heads in ascending order");
  out->line("weights: %s", weights);
  out->line("fallback: none");
}

}  // namespace mha

extern "C" mha_status mha_attention_explain(const mha_context* context, const mha_attention_args* args, char* text,
                                            size_t capacity, size_t* needed, mha_error* error) {
  using namespace mha;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (text == nullptr && capacity > 0) return fail(error, MHA_ERR_NULL, "text is NULL, but capacity is %zu", capacity);
  AttentionProblem problem = {};
  mha_status status = validate_attention(args, Check::kSizesOnly, &problem, error);
  if (status != MHA_OK) return status;
  AttentionPlan plan = {};
  const int64_t threads = threads_for(*context, problem);
  if (!problem.nothing_to_do()) status = plan_attention(*context->table, threads, problem, &plan, error);
  if (status != MHA_OK) return status;
  Text out(text, capacity);
  explain_context(*context, threads, problem.multiply_adds(), &out);
  if (problem.nothing_to_do()) {
    out.line("work: none, a size is 0");
  } else {
    explain_attention(problem, plan, *context->table, &out);
    out.line("workspace: %zu bytes", workspace_bytes(plan.bytes));
  }
  out.finish(needed);
  return MHA_OK;
}
