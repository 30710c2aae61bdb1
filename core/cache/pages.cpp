// SPDX-License-Identifier: Apache-2.0
// The pages of a cache: taken, shared and given back.
#include "core/cache/pages.h"

#include <cstring>

namespace mha {

void empty_pool(PagePool* pool) {
  memset(pool->holders, 0, static_cast<size_t>(pool->count) * sizeof(int64_t));
  memset(pool->leaving, 0, static_cast<size_t>(pool->count) * sizeof(int64_t));
  for (int64_t n = 0; n < pool->count; ++n) pool->free_pages[n] = pool->count - 1 - n;
  pool->free_count = pool->count;
}

char* take_page(PagePool* pool) {
  const int64_t n = pool->free_pages[--pool->free_count];
  pool->holders[n] = 1;
  return pool->base + n * pool->page_bytes;
}

void share_page(PagePool* pool, const char* page) { ++pool->holders[page_number(*pool, page)]; }

void release_page(PagePool* pool, const char* page) {
  const int64_t n = page_number(*pool, page);
  if (--pool->holders[n] == 0) pool->free_pages[pool->free_count++] = n;
}

}  // namespace mha
