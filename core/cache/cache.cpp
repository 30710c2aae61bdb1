// SPDX-License-Identifier: Apache-2.0
// Caches: sizes from a configuration, made and destroyed.
#include "core/cache/cache.h"

#include <cstring>

#include "core/base/fields.h"
#include "core/base/layout.h"
#include "core/base/memory.h"

namespace mha {
namespace {

using ll = long long;

constexpr int64_t kDefaultPage = 64;

// The sizes of a cache, from its configuration.
struct CacheLayout {
  mha_cache_config config;  // defaults filled in
  PartLayout parts[kCacheParts];
  int64_t page_size, page_bytes;
  int64_t pinned_pages, ring_pages, table_size, num_pages;
  int64_t memory_bytes;  // with the slack for alignment
  int64_t sequences_at, tables_at, holders_at, leaving_at, free_at;
  int64_t scales_at[kCacheParts], zeros_at[kCacheParts];  // fixed ones
  int64_t bytes;                                          // of the handle
};

mha_status check_config(const mha_cache_config& config, mha_cache_config* resolved, mha_error* error) {
  const int kind = enum_value(config.kind);
  MHA_TRY(check_reserved("config", config.reserved, error));
  if (kind < MHA_CACHE_CONTIGUOUS || kind > MHA_CACHE_PAGED) {
    return fail(error, MHA_ERR_ARGUMENT, "kind is %d: not a value of mha_cache_kind", kind);
  }
  MHA_TRY(check_sizes({{"num_kv_heads", config.num_kv_heads, 1},
                       {"head_dim", config.head_dim, 1},
                       {"value_head_dim", config.value_head_dim, 0},
                       {"max_sequences", config.max_sequences, 0},
                       {"capacity", config.capacity, 1},
                       {"page_size", config.page_size, 0},
                       {"sink_tokens", config.sink_tokens, 0}},
                      error));
  if (config.value_in_key != 0) {
    return fail(error, MHA_ERR_UNSUPPORTED, "value_in_key is %d: this version keeps values apart", config.value_in_key);
  }
  if (kind != MHA_CACHE_PAGED && config.page_size != 0) {
    return fail(error, MHA_ERR_ARGUMENT, "page_size is %lld, but kind is not MHA_CACHE_PAGED", ll{config.page_size});
  }
  if (kind != MHA_CACHE_RING && config.sink_tokens != 0) {
    return fail(error, MHA_ERR_ARGUMENT, "sink_tokens is %lld, but kind is not MHA_CACHE_RING", ll{config.sink_tokens});
  }
  *resolved = config;
  if (config.value_head_dim == 0) resolved->value_head_dim = config.head_dim;
  if (config.max_sequences == 0) resolved->max_sequences = 1;
  if (kind == MHA_CACHE_PAGED && config.page_size == 0) resolved->page_size = kDefaultPage;
  return MHA_OK;
}

// Pages and tables. Rounding up cannot overflow: sizes are at most 2^62.
void lay_out_pages(CacheLayout* l) {
  mha_cache_config& c = l->config;
  l->ring_pages = 1;
  switch (c.kind) {
    case MHA_CACHE_CONTIGUOUS:
      l->page_size = c.capacity;
      l->pinned_pages = l->table_size = 1;
      break;
    case MHA_CACHE_PAGED:
      l->page_size = c.page_size;
      l->pinned_pages = l->table_size = divide_up(c.capacity, c.page_size);
      break;
    case MHA_CACHE_RING:
      // One page more than the capacity fills, because the newest page is seldom full.
      l->page_size = least(kDefaultPage, round_up(c.capacity, kPanel));
      l->pinned_pages = divide_up(c.sink_tokens, l->page_size);
      l->ring_pages = divide_up(c.capacity, l->page_size) + 1;
      l->table_size = l->pinned_pages + l->ring_pages;
      break;
  }
}

// Places a part in a page behind what is in it.
void lay_out_part(const mha_cache_config& c, int64_t page_size, Layout* page, PartLayout* part) {
  const Size rows = Size(c.num_kv_heads) * Size(page_size);
  const Size row = is_code(part->element) ? Size(part->row_bytes) : Size(part->width) * Size(bytes_of(part->element));
  part->offset = page->append(rows * row);
  part->row_bytes = row.ok() ? row.value() : 0;
  const auto place = [&](int64_t row_bytes, int64_t* offset, CodeScales* s) {
    if (row_bytes == 0) return;
    *offset = page->append(rows * Size(row_bytes));
    s->place = ScalePlace::kPages, s->offset = *offset - part->offset;
    s->stride_d = mha::row_bytes(s->element, 1), s->stride_t = row_bytes;
    s->stride_h = (Size(page_size) * Size(row_bytes)).ok() ? page_size * row_bytes : 0;
  };
  place(part->scale_bytes, &part->scales_offset, &part->codes.scales);
  place(part->zero_bytes, &part->zeros_offset, &part->codes.zeros);
}

mha_status lay_out(const mha_cache_config& config, CacheLayout* layout, mha_error* error) {
  CacheLayout l = {};
  const mha_status status = check_config(config, &l.config, error);
  if (status != MHA_OK) return status;
  const mha_cache_config& c = l.config;
  lay_out_pages(&l);
  const bool paged = c.kind == MHA_CACHE_PAGED;
  const Size num_pages = paged ? Size(l.table_size) : Size(c.max_sequences) * Size(l.table_size);
  const Size capacity = paged ? Size(l.table_size) * Size(l.page_size) : Size(c.capacity);
  MHA_TRY(resolve_storage("key", c.key, c.num_kv_heads, c.head_dim, &l.parts[kKeys], error));
  MHA_TRY(resolve_storage("value", c.value, c.num_kv_heads, c.value_head_dim, &l.parts[kValues], error));
  Layout page;
  for (PartLayout& part : l.parts) lay_out_part(c, l.page_size, &page, &part);
  const Size memory = num_pages * page.bytes() + Size(kAlignment - 1);
  Layout handle;
  handle.append(Size(sizeof(mha_cache)));
  l.sequences_at = handle.append(Size(c.max_sequences) * Size(sizeof(CacheSequence)));
  l.tables_at = handle.append(Size(c.max_sequences) * Size(l.table_size) * Size(sizeof(char*)));
  l.holders_at = handle.append(num_pages * Size(sizeof(int64_t)));
  l.leaving_at = handle.append(num_pages * Size(sizeof(int64_t)));
  l.free_at = handle.append(num_pages * Size(sizeof(int64_t)));
  for (int part = 0; part < kCacheParts; ++part) {
    l.scales_at[part] = handle.append(fixed_scale_bytes(l.parts[part], c.num_kv_heads));
    l.zeros_at[part] = handle.append(fixed_zero_bytes(l.parts[part], c.num_kv_heads));
  }
  if (!memory.ok() || !handle.bytes().ok() || !capacity.ok()) {
    return fail(error, MHA_ERR_OVERFLOW,
                "capacity %lld, sink_tokens %lld, max_sequences %lld, num_kv_heads %lld, head_dim %lld, value_head_dim "
                "%lld: the cache exceeds 2^63 bytes",
                ll{c.capacity}, ll{c.sink_tokens}, ll{c.max_sequences}, ll{c.num_kv_heads}, ll{c.head_dim},
                ll{c.value_head_dim});
  }
  l.config.capacity = capacity.value();
  l.num_pages = num_pages.value();
  l.page_bytes = page.bytes().value();
  l.memory_bytes = memory.value();
  l.bytes = handle.bytes().value();
  *layout = l;
  return MHA_OK;
}

// Makes the handle in `block`; `memory` is for the tokens.
mha_cache* make_cache(const CacheLayout& l, char* block, char* memory) {
  mha_cache* cache = reinterpret_cast<mha_cache*>(block);
  *cache = {};
  cache->config = l.config;
  mha_storage* storages[kCacheParts] = {&cache->config.key, &cache->config.value};
  for (int n = 0; n < kCacheParts; ++n) {
    PartLayout& part = cache->parts[n];
    part = l.parts[n];
    if (!part.is_fixed()) continue;
    copy_fixed(l.config.num_kv_heads, block + l.scales_at[n], block + l.zeros_at[n], &part, &cache->fixed[n]);
    storages[n]->fixed = &cache->fixed[n];
  }
  cache->page_size = l.page_size;
  cache->pinned_pages = l.pinned_pages, cache->ring_pages = l.ring_pages, cache->table_size = l.table_size;
  cache->sequences = reinterpret_cast<CacheSequence*>(block + l.sequences_at);
  char** tables = reinterpret_cast<char**>(block + l.tables_at);
  for (int64_t s = 0; s < l.config.max_sequences; ++s) {
    cache->sequences[s] = {};
    cache->sequences[s].pages = tables + s * l.table_size;
    for (int64_t n = 0; n < l.table_size; ++n) cache->sequences[s].pages[n] = nullptr;
  }
  memory += (kAlignment - reinterpret_cast<uintptr_t>(memory) % kAlignment) % kAlignment;
  PagePool& pool = cache->pool;
  pool.base = memory, pool.page_bytes = l.page_bytes, pool.count = l.num_pages;
  pool.holders = reinterpret_cast<int64_t*>(block + l.holders_at);
  pool.leaving = reinterpret_cast<int64_t*>(block + l.leaving_at);
  pool.free_pages = reinterpret_cast<int64_t*>(block + l.free_at);
  empty_pool(&cache->pool);
  cache->memory_bytes = static_cast<size_t>(l.memory_bytes), cache->bytes = static_cast<size_t>(l.bytes);
  return cache;
}

}  // namespace

mha_status cache_memory_bytes(const mha_cache_config& config, size_t* bytes, mha_error* error) {
  CacheLayout layout = {};
  const mha_status status = lay_out(config, &layout, error);
  if (status == MHA_OK) *bytes = static_cast<size_t>(layout.memory_bytes);
  return status;
}

mha_status cache_create(const mha_context& context, const mha_cache_config& config, mha_cache** cache,
                        mha_error* error) {
  const mha_allocator& allocator = context.allocator;
  CacheLayout layout = {};
  const mha_status status = lay_out(config, &layout, error);
  if (status != MHA_OK) return status;
  const size_t memory_bytes = static_cast<size_t>(layout.memory_bytes), bytes = static_cast<size_t>(layout.bytes);
  void* memory = config.memory;
  if (memory == nullptr && config.memory_bytes != 0) {
    return fail(error, MHA_ERR_ARGUMENT, "memory_bytes is %zu, but memory is NULL", config.memory_bytes);
  }
  if (memory != nullptr && config.memory_bytes < memory_bytes) {
    return fail(error, MHA_ERR_BUFFER, "memory_bytes is %zu: this cache needs %zu", config.memory_bytes, memory_bytes);
  }
  void* owned = nullptr;
  if (memory == nullptr) {
    memory = owned = allocate(allocator, memory_bytes);
    if (owned == nullptr) return fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for %zu bytes of tokens", memory_bytes);
  }
  char* block = static_cast<char*>(allocate(allocator, bytes));
  if (block == nullptr) {
    release(allocator, owned, memory_bytes);
    return fail(error, MHA_ERR_OUT_OF_MEMORY, "no memory for a cache's tables of %zu bytes", bytes);
  }
  *cache = make_cache(layout, block, static_cast<char*>(memory));
  (*cache)->table = context.table;
  (*cache)->allocator = allocator;
  (*cache)->owned_memory = owned;
  return MHA_OK;
}

void cache_destroy(mha_cache* cache) {
  const mha_allocator allocator = cache->allocator;
  release(allocator, cache->owned_memory, cache->memory_bytes);
  release(allocator, cache, cache->bytes);
}

}  // namespace mha
