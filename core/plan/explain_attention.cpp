// SPDX-License-Identifier: Apache-2.0
// What is planned for attention, in words: kernels, work items, masks, weights.
#include <cstdio>

#include "core/cache/cache.h"
#include "core/call/items.h"
#include "core/plan/explain.h"

namespace mha {

using ll = long long;

namespace {

void explain_packed(const AttentionProblem& p, const AttentionPlan& plan, Text* out) {
  const PackedKernels& kernels = *plan.kernels.packed;
  out->line(
      "attention kernel: packed, %lld-row x %lld-column tiles (at most %lld x %lld where that takes no more of them), "
      "%lld rows share a pass over a chunk of %lld keys",
      static_cast<ll>(kernels.tile_rows), static_cast<ll>(kernels.tile_columns), static_cast<ll>(kernels.tallest_rows),
      static_cast<ll>(kernels.tallest_columns), static_cast<ll>(kernels.group_rows), static_cast<ll>(kChunk));
  out->line(
      "rows: %lld for each of %lld key/value heads (%lld heads share one), in %lld blocks of at most %lld "
      "(a block packs each chunk of keys once)",
      static_cast<ll>(group_rows_of(p, 0)), static_cast<ll>(p.batch * p.kv_heads), static_cast<ll>(p.group()),
      static_cast<ll>(plan.each.blocks), static_cast<ll>(plan.each.block_rows));
  const int64_t blocks = p.batch * p.kv_heads * plan.each.blocks;
  if (plan.split > 0) {
    out->line(
        "items: %lld, one per block and chunk (%lld chunks), merged afterwards: %lld blocks are too few for %lld "
        "threads, and more of them would pack the keys more often",
        static_cast<ll>(plan.items), static_cast<ll>(plan.each.chunks), static_cast<ll>(blocks),
        static_cast<ll>(plan.threads));
  } else {
    const char* why = plan.threads <= 1           ? "one thread needs no split"
                      : plan.each.chunks <= 1     ? "one chunk cannot be split, threads share heads and rows"
                      : plan.items < plan.threads ? "chunks would not share the work better"
                                                  : "enough blocks for the threads";
    out->line("items: %lld, one per block, over all %lld chunks of keys: %s", static_cast<ll>(plan.items),
              static_cast<ll>(plan.each.chunks), why);
  }
}

void explain_in_place(const AttentionProblem& p, const AttentionPlan& plan, Text* out) {
  out->line("attention kernel: in place: keys and values are read where they are stored, %lld key/value heads together",
            static_cast<ll>(plan.each.heads_per_item));
  out->line("why in place: %lld rows for each key/value head (%lld heads share one); packing pays beyond %lld",
            static_cast<ll>(group_rows_of(p, 0)), static_cast<ll>(p.group()),
            static_cast<ll>(plan.kernels.in_place->head_rows));
  const char* why = plan.split > 0 && plan.each.head_groups > 1
                        ? "one per group of heads and chunk, merged afterwards: threads share heads and chunks"
                    : plan.split > 0 ? "one per group of heads and chunk, merged afterwards: threads share the chunks"
                    : plan.threads <= 1     ? "one per group of heads: one thread needs no split"
                    : plan.items > 1        ? "one per group of heads: threads share the heads"
                    : plan.each.chunks <= 1 ? "one per group of heads: one chunk cannot be split"
                                            : "one per group of heads: to share its chunks would not pay";
  out->line("items: %lld of %lld chunks of keys, %s", static_cast<ll>(plan.items), static_cast<ll>(plan.each.chunks),
            why);
}

void explain_few_keys(const AttentionProblem& p, const AttentionPlan& plan, Text* out) {
  out->line("attention kernel: few keys: keys and values are read where they are stored, %lld rows side by side",
            static_cast<ll>(kPanel));
  out->line(
      "why few keys: all %lld rows for each key/value head (%lld heads share one) see all %lld keys, of at most %lld",
      static_cast<ll>(group_rows_of(p, 0)), static_cast<ll>(p.group()), static_cast<ll>(p.key_len),
      static_cast<ll>(kFewKeys));
  out->line("items: %lld of at most %lld rows, of any heads", static_cast<ll>(plan.items),
            static_cast<ll>(kFewKeysRows));
}

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
  const mha_masks& masks = p.masks;
  explain_flags(
      "masks",
      {{p.causal, "causal"},
       {p.key_lengths != nullptr, "key lengths"},
       {masks.window_left > 0, "window left"},
       {masks.window_right > 0, "window right"},
       {masks.window_left > 0 && masks.sink_tokens > 0, "sink tokens"},
       {masks.prefix_lengths != nullptr, "prefix lengths"},
       {masks.key_segments != nullptr, "segments"},
       {masks.block_mask.pairs != nullptr, "block list"},
       {masks.bit_mask.data != nullptr, "bits"},
       {masks.bool_mask.data != nullptr, "bool"},
       {masks.add_mask.data != nullptr && masks.add_mask_factors == nullptr, "additive"},
       {masks.add_mask_factors != nullptr, "additive, times a factor of each head"},
       {masks.add_mask2.data != nullptr, "second additive"}},
      "in the attention kernel: chunks of 256 keys that no row of a pass sees are skipped, others masked in registers",
      out);
  const mha_score_mods& m = p.mods;
  explain_flags("score changes",
                {
#define MHA_MOD(name, field, text, given) {given, text},
#include "core/kernels/score_mods.def"
                },
                "in the attention kernel, in registers", out);
}

// --- Items of unequal length ---------------------------------------------------------------------------------------

void explain_keys(const AttentionProblem& p, Text* out) {
  if (p.pages.table != nullptr) {
    out->line("keys and values: in the caller's pages of %lld tokens", static_cast<ll>(p.pages.page_size));
    return;
  }
  if (p.cache == nullptr) {
    const char* how = p.key_offsets != nullptr   ? "packed one after the other"
                      : p.key_lengths != nullptr ? "in a padded tensor, the first of each item"
                                                 : "as long in each item";
    out->line("keys and values: %s", how);
    return;
  }
  const mha_cache_config& c = p.cache->config;
  const char* how = p.appends ? "; those of this call are appended by a phase of their own" : "";
  switch (c.kind) {
    case MHA_CACHE_CONTIGUOUS:
      out->line("keys and values: in a contiguous cache%s", how);
      break;
    case MHA_CACHE_PAGED:
      out->line("keys and values: in a paged cache, pages of %lld tokens%s", static_cast<ll>(c.page_size), how);
      break;
    case MHA_CACHE_RING:
      out->line("keys and values: in a ring cache of the last %lld tokens and the first %lld%s",
                static_cast<ll>(c.capacity), static_cast<ll>(c.sink_tokens), how);
      break;
  }
}

void explain_lengths(const AttentionProblem& p, const AttentionPlan& plan, Text* out) {
  int64_t least_queries = INT64_MAX, least_keys = INT64_MAX;
  for (int64_t b = 0; b < p.batch; ++b) {
    least_queries = least(least_queries, query_len_of(p, b)), least_keys = least(least_keys, key_len_of(p, b));
  }
  out->line("sequences: %lld, of %lld to %lld queries and %lld to %lld keys; %lld have no queries",
            static_cast<ll>(p.batch), static_cast<ll>(least_queries), static_cast<ll>(p.longest_query_len),
            static_cast<ll>(least_keys), static_cast<ll>(p.longest_key_len),
            static_cast<ll>(p.batch - plan.in_place - plan.packed));
}

void explain_unequal(const AttentionProblem& p, const AttentionPlan& plan, Text* out) {
  explain_lengths(p, plan, out);
  explain_keys(p, out);
  out->line(
      "attention kernel: in place for %lld sequences (keys and values are read where they are stored), packed for %lld "
      "(%lld-row x %lld-column tiles)",
      static_cast<ll>(plan.in_place), static_cast<ll>(plan.packed), static_cast<ll>(plan.kernels.packed->tile_rows),
      static_cast<ll>(plan.kernels.packed->tile_columns));
  out->line("why: packing keys pays beyond %lld rows for each key/value head (%lld heads share one)",
            static_cast<ll>(plan.kernels.in_place->head_rows), static_cast<ll>(p.group()));
  if (plan.groups > 0) {
    out->line(
        "shared prefixes: %lld sequences in %lld groups begin with the same pages: the rows of a group meet those "
        "chunks together",
        static_cast<ll>(plan.sharing), static_cast<ll>(plan.groups));
  } else {
    out->line("shared prefixes: none");
  }
  out->line("items: %lld; %lld sequences are cut in chunks of %lld keys, merged afterwards: %s",
            static_cast<ll>(plan.items), static_cast<ll>(plan.split), static_cast<ll>(kChunk),
            plan.split > plan.sharing ? "threads share the chunks of what is too long for one"
            : plan.split > 0          ? "what groups share is an item of its own"
            : plan.threads <= 1       ? "one thread needs no split"
                                      : "threads share sequences, heads and rows");
}

void explain_weights(const AttentionProblem& p, Text* out) {
  const char* rows = p.weights_rows != nullptr ? " of the chosen queries" : "";
  switch (p.weights_mode) {
    case MHA_WEIGHTS_NONE:
      out->line("weights: not wanted");
      break;
    case MHA_WEIGHTS_PER_HEAD:
      out->line("weights: per head%s, %s", rows,
                keeps_weights(p) ? "left chunk by chunk on the way" : "by a second pass");
      break;
    case MHA_WEIGHTS_AVERAGED:
      out->line("weights: averaged%s, by a second pass, heads in ascending order", rows);
      break;
    case MHA_WEIGHTS_KEY_SUMS:
      out->line("weights: summed over queries%s, by a second pass, queries in ascending order", rows);
      break;
  }
}

void explain_products(const AttentionProblem& p, const AttentionPlan& plan, Text* out) {
  if (p.arithmetic == Arithmetic::kF32) return;
  if (plan.packed > 0) out->line("arithmetic: %s", plan.kernels.packed->products);
  if (plan.in_place > 0) out->line("arithmetic in place: %s", plan.kernels.in_place->products);
}

// Where anything is no float.
void explain_elements(const AttentionProblem& p, Text* out) {
  const Element all[] = {p.query.element, key_element_of(p), value_element_of(p), p.output.element};
  bool floats = true;
  for (Element element : all) floats = floats && element == Element::kF32;
  if (floats) return;
  const char* read =
      p.arithmetic == Arithmetic::kInt8 ? "keys and values multiplied as they are" : "read by widening to floats";
  out->line("elements: query %s, keys %s, values %s, output %s; %s, the output rounded once", name_of(all[0]),
            name_of(all[1]), name_of(all[2]), name_of(all[3]), read);
}

// Scales and zeros of keys or values that are codes.
void explain_codes(const char* name, Element element, const CodeRows& codes, int64_t width, Text* out) {
  if (!is_code(element)) return;
  if (has_scales_inside(element)) {
    out->line("codes of %s: in blocks of %lld with their scale", name, static_cast<ll>(codes.group));
    return;
  }
  const char* zeros = codes.zeros.place != ScalePlace::kNone ? name_of(codes.zeros.element) : "the type's own";
  if (codes.group >= width) {
    out->line("codes of %s: %s scales of whole rows, zeros: %s", name, name_of(codes.scales.element), zeros);
  } else {
    out->line("codes of %s: %s scales of %lld elements of a row, zeros: %s", name, name_of(codes.scales.element),
              static_cast<ll>(codes.group), zeros);
  }
  if (codes.hadamard) {
    out->line("rotation of %s: by a Walsh-Hadamard matrix, in blocks of %lld elements", name,
              static_cast<ll>(hadamard_block(width)));
  }
}

}  // namespace

void explain_attention(const AttentionProblem& p, const AttentionPlan& plan, Text* out) {
  if (plan.uniform) {
    const auto explain = plan.few_keys ? explain_few_keys : plan.each.in_place ? explain_in_place : explain_packed;
    explain(p, plan, out);
  } else {
    explain_unequal(p, plan, out);
  }
  explain_products(p, plan, out);
  explain_elements(p, out);
  explain_codes("keys", key_element_of(p), key_codes_of(p), p.head_dim, out);
  explain_codes("values", value_element_of(p), value_codes_of(p), p.value_head_dim, out);
  explain_masks(p, out);
  explain_weights(p, out);
  if (p.tail > 0)
    out->line("keys added by the layer: %lld of each item, which every query sees", static_cast<ll>(p.tail));
  const NormRope& r = p.norm_rope;
  if (r.wanted()) {
    const char* last = r.hadamard ? (r.norm || r.rotate ? ", then rotated as the keys" : "rotated as the keys") : "";
    out->line("before attention: %s %s%s%s%s by a phase of its own, %s",
              p.copies_queries ? "queries" : "queries and keys", r.norm ? "RMS-normed" : "",
              r.norm && r.rotate ? " and " : "", r.rotate ? "rotated" : "", last,
              p.copies_queries ? "into the workspace" : "in place in the projections");
  }
  if (p.hadamard_output && p.appends) {
    out->line("before appending: new values rotated as the cache keeps them, in place in the projections");
  }
  if (p.hadamard_output) {
    out->line("after attention: the output rotated back as the values by a phase of its own, %s",
              p.copies_output() ? "from the workspace" : "in place");
  }
  out->line("fallback: none");
}

void explain_attention_workspace(const char* name, size_t bytes, const AttentionPlan& plan, Text* out) {
  out->line(
      "%s: %zu bytes: %lld for softmax states%s, %lld for each of %lld threads (packed keys, scores, rows, outputs)",
      name, bytes, static_cast<ll>(plan.slots_offset), plan.split > 0 ? " and partial results" : "",
      static_cast<ll>(plan.slot_bytes), static_cast<ll>(plan.threads));
}

}  // namespace mha
