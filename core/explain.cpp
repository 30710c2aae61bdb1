// SPDX-License-Identifier: Apache-2.0
// Plans in words, a "key: value" a line.
#include "core/explain.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "core/cache.h"
#include "core/items.h"
#include "core/linear.h"
#include "core/validate.h"
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
const char* best_target() {
  const CpuFeatures cpu = cpu_features();
  int64_t best = 0;
  while (best + 1 < target_count() && !target_supported(best, cpu)) ++best;
  return target_table(best)->name;
}

const char* runner(const mha_context& context, int64_t threads) {
  if (threads <= 1) return "in the calling thread";
  if (context.parallel_for.run != nullptr) return "by the host's parallel-for";
  return has_openmp() ? "by OpenMP" : "in the calling thread: built without OpenMP";
}

}  // namespace

void explain_context(const mha_context& context, int64_t threads, double work, Text* out) {
  out->line("target: %s", context.table->name);
  const char* best = best_target();
  if (strcmp(best, context.table->name) == 0) {
    out->line("why this target: the best of those built in that this CPU supports");
  } else {
    out->line("why this target: asked for; the best that this CPU supports is %s", best);
  }
  out->line("same bits on every FMA target: %s", context.table->has_fma ? "yes" : "no, this target has no FMA");
  out->line("threads: %lld of %lld, %s", static_cast<ll>(threads), static_cast<ll>(context.num_threads),
            runner(context, threads));
  const char* limit = context.num_threads <= 1        ? "the context has one"
                      : threads < context.num_threads ? "more threads would each get less"
                                                      : "enough for all of the context's";
  out->line(
      "why so many threads: work of %.3g million multiply-adds (or the time of reading in that unit), a thread for "
      "every "
      "%.3g million; %s",
      work / 1e6, kMultiplyAddsPerThread / 1e6, limit);
}

void explain_linear_kernel(const KernelTable& table, Text* out) {
  out->line("linear kernel: packed GEMM, %lld-row x %lld-column tiles, weights in panels of %lld columns",
            static_cast<ll>(table.tile_rows), static_cast<ll>(table.tile_columns), static_cast<ll>(kPanel));
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
}

namespace {

void explain_packed(const AttentionProblem& p, const AttentionPlan& plan, const KernelTable& table, Text* out) {
  out->line("attention kernel: fused, %lld-row x %lld-column tiles, %lld rows share a pass over a chunk of %lld keys",
            static_cast<ll>(table.tile_rows), static_cast<ll>(table.tile_columns),
            static_cast<ll>(table.attention_rows), static_cast<ll>(kChunk));
  out->line(
      "rows: %lld for each of %lld key/value heads (%lld heads share one), in %lld blocks of at most %lld "
      "(a block packs each chunk of keys once; more threads make smaller blocks)",
      static_cast<ll>(group_rows_of(p, 0)), static_cast<ll>(p.batch * p.kv_heads), static_cast<ll>(p.group()),
      static_cast<ll>(plan.each.blocks), static_cast<ll>(plan.each.block_rows));
  const int64_t blocks = p.batch * p.kv_heads * plan.each.blocks;
  if (plan.any_split) {
    out->line(
        "items: %lld, one per block and chunk (%lld chunks), merged afterwards: %lld blocks are too few for %lld "
        "threads",
        static_cast<ll>(plan.items), static_cast<ll>(plan.each.chunks), static_cast<ll>(blocks),
        static_cast<ll>(plan.threads));
  } else {
    const char* why = plan.threads <= 1       ? "one thread needs no split"
                      : plan.each.chunks <= 1 ? "one chunk cannot be split"
                                              : "enough blocks for the threads";
    out->line("items: %lld, one per block, over all %lld chunks of keys: %s", static_cast<ll>(plan.items),
              static_cast<ll>(plan.each.chunks), why);
  }
}

void explain_streamed(const AttentionProblem& p, const AttentionPlan& plan, const KernelTable& table, Text* out) {
  out->line("attention kernel: streamed: keys and values are read where they lie, %lld key/value heads together",
            static_cast<ll>(plan.each.heads_per_item));
  out->line("why streamed: %lld rows for each key/value head (%lld heads share one); packing pays beyond %lld",
            static_cast<ll>(group_rows_of(p, 0)), static_cast<ll>(p.group()), static_cast<ll>(table.streamed_rows));
  const char* why = plan.any_split ? "one per group of heads and chunk, merged afterwards: threads share the chunks"
                    : plan.threads <= 1     ? "one per group of heads: one thread needs no split"
                    : plan.each.chunks <= 1 ? "one per group of heads: one chunk cannot be split"
                                            : "one per group of heads: enough for the threads";
  out->line("items: %lld of %lld chunks of keys, %s", static_cast<ll>(plan.items), static_cast<ll>(plan.each.chunks),
            why);
}

// Items that differ in length, or have their keys in a cache, are planned one by one.
void explain_unequal(const AttentionProblem& p, const AttentionPlan& plan, const KernelTable& table, Text* out) {
  out->line("batch: %lld items%s, %lld queries in all, %lld of one item at most, %lld keys at most",
            static_cast<ll>(p.batch), p.query_offsets != nullptr ? " packed without padding" : "",
            static_cast<ll>(p.total_queries()), static_cast<ll>(p.longest_query_len),
            static_cast<ll>(p.longest_key_len));
  if (p.cache != nullptr) {
    static const char* const kKinds[] = {"contiguous", "ring", "paged"};
    out->line("keys and values: in a %s cache, in pages of %lld tokens; %s", kKinds[p.cache->config.kind],
              static_cast<ll>(p.cache->page_size),
              p.appends ? "the new tokens are appended by a phase before attention" : "none are appended");
    out->line("shared prefixes: %s", plan.any_shared ? "chunks that neighbours share are read once for all their rows"
                                                     : "no neighbours share a chunk");
  }
  const char* kernels = plan.any_streamed && plan.any_packed ? "streamed and fused"
                        : plan.any_streamed                  ? "streamed"
                                                             : "fused";
  out->line(
      "attention kernel: %s: streamed (keys and values are read where they lie) for items of at most %lld rows for "
      "each "
      "key/value head (%lld heads share one), fused (%lld rows share a pass over a chunk of %lld keys) for those of "
      "more",
      kernels, static_cast<ll>(table.streamed_rows), static_cast<ll>(p.group()), static_cast<ll>(table.attention_rows),
      static_cast<ll>(kChunk));
  out->line("items: %lld, cut by what each costs%s", static_cast<ll>(plan.items),
            plan.any_split ? ", long ones into chunks, merged afterwards" : "; none is cut into chunks");
}

}  // namespace

namespace {

// Names that apply, one after the other.
struct NamedFlag {
  bool applies;
  const char* name;
};

template <int kCount>
void explain_flags(const char* key, const NamedFlag (&flags)[kCount], const char* how, Text* out) {
  char names[200] = "";
  size_t length = 0;
  for (const NamedFlag& flag : flags) {
    if (!flag.applies) continue;
    length += static_cast<size_t>(
        snprintf(names + length, sizeof(names) - length, "%s%s", length > 0 ? ", " : "", flag.name));
  }
  if (length == 0) {
    out->line("%s: none", key);
  } else {
    out->line("%s: %s; %s", key, names, how);
  }
}

void explain_masks(const AttentionProblem& p, Text* out) {
  const mha_masks& m = p.masks;
  explain_flags("masks",
                {{m.causal != MHA_CAUSAL_NONE, "causal"},
                 {m.key_lengths != nullptr, "key lengths"},
                 {m.window_left > 0, "window left"},
                 {m.window_right > 0, "window right"},
                 {m.window_left > 0 && m.sink_tokens > 0, "sink tokens"},
                 {m.prefix_lengths != nullptr, "prefix lengths"},
                 {m.key_segments != nullptr, "segments"},
                 {m.block_mask.pairs != nullptr, "block list"},
                 {m.bit_mask.data != nullptr, "bits"},
                 {m.bool_mask.data != nullptr, "bool"},
                 {m.add_mask.data != nullptr, "additive"}},
                "in the fused kernel: chunks of 256 keys that no row of a pass sees are skipped (additive: computed), "
                "others masked in registers",
                out);
  explain_flags("score changes",
                {{p.mods.softcap > 0.0f, "softcap"},
                 {p.mods.alibi_slopes != nullptr, "ALiBi"},
                 {p.mods.relative_bias != nullptr, "relative bias"},
                 {p.mods.sink_logits != nullptr, "sink logits"}},
                "in the fused kernel, in registers", out);
}

void explain_weights(const AttentionProblem& p, Text* out) {
  const char* rows = p.weight_rows.rows != nullptr ? " of the chosen queries" : "";
  switch (p.weights_mode) {
    case MHA_WEIGHTS_NONE:
      return out->line("weights: not wanted");
    case MHA_WEIGHTS_PER_HEAD:
      return out->line("weights: per head%s, %s", rows,
                       keeps_scores(p) ? "from the scores that each block keeps" : "by a second pass");
    case MHA_WEIGHTS_AVERAGED:
      return out->line("weights: averaged%s, by a second pass, heads in ascending order", rows);
    case MHA_WEIGHTS_KEY_SUMS:
      return out->line("weights: summed for each key%s, by a second pass, queries in ascending order", rows);
  }
}

}  // namespace

void explain_attention(const AttentionProblem& p, const AttentionPlan& plan, const KernelTable& table, Text* out) {
  if (p.uniform()) {
    (plan.each.streamed ? explain_streamed : explain_packed)(p, plan, table, out);
  } else {
    explain_unequal(p, plan, table, out);
  }
  explain_masks(p, out);
  explain_weights(p, out);
  if (p.tail > 0)
    out->line("keys added by the layer: %lld of each item, which every query sees", static_cast<ll>(p.tail));
  const Preparation& r = p.preparation;
  if (r.wanted()) {
    out->line("before attention: %s %s%s%s by a phase of its own, %s",
              p.copies_queries ? "queries" : "queries and keys", r.norm ? "RMS-normed" : "",
              r.norm && r.rotate ? " and " : "", r.rotate ? "rotated" : "",
              p.copies_queries ? "into the workspace" : "in place in the projections");
  }
  out->line("fallback: none");
}

void explain_attention_workspace(const char* name, size_t bytes, const AttentionPlan& plan, Text* out) {
  out->line("%s: %zu bytes: %lld for softmax states%s, %lld for each of %lld threads (packed keys, scores, rows)", name,
            bytes, static_cast<ll>(plan.slots_offset), plan.any_split ? " and partial results" : "",
            static_cast<ll>(plan.slot_bytes), static_cast<ll>(plan.threads));
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
  const int64_t threads = useful_threads(context->num_threads, work_of_call(problem));
  if (!problem.nothing_to_do()) status = plan_attention(*context->table, threads, problem, false, &plan, error);
  if (status != MHA_OK) return status;
  Text out(text, capacity);
  explain_context(*context, threads, work_of_call(problem), &out);
  if (problem.nothing_to_do()) {
    out.line("work: none, a size is 0");
  } else {
    explain_attention(problem, plan, *context->table, &out);
    explain_attention_workspace("workspace", workspace_bytes(plan.bytes), plan, &out);
  }
  out.finish(needed);
  return MHA_OK;
}

extern "C" mha_status mha_linear_explain(const mha_context* context, const mha_linear* linear,
                                         const mha_linear_args* args, char* text, size_t capacity, size_t* needed,
                                         mha_error* error) {
  using namespace mha;
  if (context == nullptr) return fail(error, MHA_ERR_NULL, "context is NULL");
  if (linear == nullptr) return fail(error, MHA_ERR_NULL, "linear is NULL");
  if (args == nullptr) return fail(error, MHA_ERR_NULL, "args is NULL");
  if (text == nullptr && capacity > 0) return fail(error, MHA_ERR_NULL, "text is NULL, but capacity is %zu", capacity);
  LinearProblem problem = {};
  const mha_status status = linear_problem(*linear, *args, Check::kSizesOnly, &problem, error);
  if (status != MHA_OK) return status;
  const int64_t threads = useful_threads(context->num_threads, problem.work());
  Text out(text, capacity);
  explain_context(*context, threads, problem.work(), &out);
  if (problem.rows == 0) {
    out.line("work: none, a size is 0");
  } else {
    explain_linear_kernel(*context->table, &out);
    explain_linear("product", problem, plan_linear(*context->table, threads, problem), threads, &out);
    out.line("fallback: none");
    out.line("workspace: 0 bytes: the weights were packed once, the output is written in place");
  }
  out.finish(needed);
  return MHA_OK;
}
