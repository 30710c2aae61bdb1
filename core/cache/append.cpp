// SPDX-License-Identifier: Apache-2.0
// Caches: appending, in three steps. Reserving does everything that can fail, for all sequences at once, before
// anything is changed; writing is independent for every token; committing sets the lengths. Also reading, which copies
// the same rows in the other direction.
#include <cstring>

#include "core/base/fields.h"
#include "core/cache/cache.h"

namespace mha {
namespace {

using ll = long long;

void copy_shared_page(mha_cache* cache, CacheSequence* s) {
  char*& page = s->pages[s->length / cache->page_size];
  char* own = take_page(&cache->pool);
  copy_page(*cache, page, own, s->length % cache->page_size);
  release_page(&cache->pool, page);
  page = own;
}

}  // namespace

// Sequences of this batch that will copy the page (`leaving`) will no longer hold it, so they do not count.
int64_t page_to_copy(const mha_cache& cache, const CacheSequence& s) {
  if (cache.config.kind != MHA_CACHE_PAGED || s.length % cache.page_size == 0) return -1;
  const int64_t page = page_number(cache.pool, s.pages[s.length / cache.page_size]);
  return cache.pool.holders[page] - cache.pool.leaving[page] > 1 ? page : -1;
}

// Pages for copies count, too. `leaving` is zeros again on return.
int64_t pages_needed(mha_cache* cache, const CacheBatch& batch) {
  int64_t needed = 0;
  for (int64_t b = 0; b < batch.batch; ++b) {
    const CacheSequence& s = cache->sequences[batch.sequence(b)];
    if (batch.count(b) == 0) continue;
    const int64_t page = page_to_copy(*cache, s);
    if (page >= 0) ++cache->pool.leaving[page], ++needed;
    for_each_page(*cache, s.length / cache->page_size, divide_up(s.length + batch.count(b), cache->page_size),
                  [&](int64_t n) { needed += s.pages[page_entry(*cache, n)] == nullptr ? 1 : 0; });
  }
  if (cache->config.kind != MHA_CACHE_PAGED) return needed;
  for (int64_t b = 0; b < batch.batch; ++b) {
    const CacheSequence& s = cache->sequences[batch.sequence(b)];
    if (s.length == 0) continue;
    cache->pool.leaving[page_number(cache->pool, s.pages[(s.length - 1) / cache->page_size])] = 0;
  }
  return needed;
}

void take_room(mha_cache* cache, CacheSequence* s, int64_t end) {
  // Under the lock: two writers at once would both copy the page, and take one page more than was counted.
  if (page_to_copy(*cache, *s) >= 0) copy_shared_page(cache, s);
  take_pages(cache, s, s->length, end);
}

mha_status check_growth(const mha_cache& cache, const CacheBatch& batch, mha_error* error) {
  for (int64_t b = 0; b < batch.batch; ++b) {
    const int64_t sequence = batch.sequence(b), held = cache.sequences[sequence].length, count = batch.count(b);
    if (cache.config.kind != MHA_CACHE_RING && count > cache.config.capacity - held) {
      return fail(error, MHA_ERR_FULL, "sequence %lld has %lld tokens of %lld (capacity): %lld more do not fit",
                  ll{sequence}, ll{held}, ll{cache.config.capacity}, ll{count});
    }
    MHA_TRY(check_size("a sequence's length", (Size(held) + Size(count)).value(), 0, error));
  }
  return MHA_OK;
}

mha_status check_batch(mha_cache* cache, const CacheBatch& batch, mha_error* error) {
  MHA_TRY(check_sizes({{"batch", batch.batch, 0}, {"length", batch.length, 0}}, error));
  if (batch.offsets != nullptr) {
    MHA_TRY(check_offsets("offsets", batch.offsets, batch.batch, "length", batch.length, error));
  }
  mha_status status = MHA_OK;
  if (batch.sequences == nullptr) {
    if (batch.batch <= cache->config.max_sequences) return MHA_OK;
    return fail(error, MHA_ERR_ARGUMENT, "batch is %lld: there are %lld sequences", ll{batch.batch},
                ll{cache->config.max_sequences});
  }
  int64_t marked = 0;
  for (; marked < batch.batch; ++marked) {
    const int64_t sequence = batch.sequences[marked];
    if (sequence < 0 || sequence >= cache->config.max_sequences) {
      status = fail(error, MHA_ERR_ARGUMENT, "sequences[%lld] is %lld: must be 0 to %lld (max_sequences - 1)",
                    ll{marked}, ll{sequence}, ll{cache->config.max_sequences - 1});
      break;
    }
    if (cache->sequences[sequence].marked) {
      status = fail(error, MHA_ERR_ARGUMENT, "sequences[%lld] is %lld, which is given before: must be distinct",
                    ll{marked}, ll{sequence});
      break;
    }
    cache->sequences[sequence].marked = true;
  }
  for (int64_t b = 0; b < marked; ++b) cache->sequences[batch.sequences[b]].marked = false;
  return status;
}

mha_status cache_reserve(mha_cache* cache, const CacheBatch& batch, mha_error* error) {
  MHA_TRY(check_growth(*cache, batch, error));
  const Locked locked(cache->lock);
  const int64_t needed = pages_needed(cache, batch);
  if (needed > cache->pool.free_count) {
    return fail(error, MHA_ERR_FULL, "%lld pages of %lld tokens are needed: %lld of %lld are free", ll{needed},
                ll{cache->page_size}, ll{cache->pool.free_count}, ll{cache->pool.count});
  }
  for (int64_t b = 0; b < batch.batch; ++b) {
    CacheSequence& s = cache->sequences[batch.sequence(b)];
    if (batch.count(b) == 0) continue;
    s.reserved = s.length + batch.count(b);
    take_room(cache, &s, s.reserved);
  }
  return MHA_OK;
}

namespace {

// Cuts tokens [first, first + count) into runs that are in one page each; calls use(first token, count, page).
template <class Use>
void for_each_run(const mha_cache& cache, int64_t first, int64_t count, Use use) {
  for (int64_t token = first; token < first + count;) {
    const int64_t page = token / cache.page_size, left = (page + 1) * cache.page_size - token;
    const int64_t run = least(least(left, kRunTokens), first + count - token);
    use(token, run, page);
    token += run;
  }
}

// `count` pieces of `bytes` each, for example rows.
void copy_pieces(char* dst, int64_t dst_stride, const char* src, int64_t src_stride, int64_t count, int64_t bytes) {
  for (int64_t n = 0; n < count; ++n) memcpy(dst + n * dst_stride, src + n * src_stride, static_cast<size_t>(bytes));
}

// Some tokens of one head of a part, where they are stored: in a page.
struct StoredRows {
  char *rows, *scales, *zeros;
};

StoredRows stored_rows(const mha_cache& cache, const PartLayout& p, char* page, int64_t slot, int64_t head) {
  const int64_t row = head * cache.page_size + slot;
  return {page + p.offset + row * p.row_bytes, page + p.scales_offset + row * p.scale_bytes,
          page + p.zeros_offset + row * p.zero_bytes};
}

// Stores `run` tokens of head `head`, of which `from` begins with `token`: copied or converted.
void write_rows(const mha_cache& cache, const PartLayout& p, const PartRows& from, int64_t token, int64_t run,
                int64_t head, const StoredRows& to) {
  const char* src = from.data + token * from.stride_t + head * from.stride_h;
  if (from.element == p.element) {
    copy_pieces(to.rows, p.row_bytes, src, from.stride_t, run, p.row_bytes);
    const int64_t heads = cache.config.num_kv_heads, row = token * heads + head;
    if (p.scale_bytes > 0) {
      copy_pieces(to.scales, p.scale_bytes, from.scales + row * p.scale_bytes, heads * p.scale_bytes, run,
                  p.scale_bytes);
    }
    if (p.zero_bytes > 0) {
      copy_pieces(to.zeros, p.zero_bytes, from.zeros + row * p.zero_bytes, heads * p.zero_bytes, run, p.zero_bytes);
    }
  } else {
    ConvertArgs args = {};
    args.src = src, args.src_stride = from.stride_t, args.src_element = from.element;
    args.dst = to.rows, args.dst_stride = p.row_bytes, args.dst_element = p.element;
    args.rows = run, args.columns = p.width;
    cache.table->rows().convert(&args);
  }
}

// Rounds `run` tokens of all heads to codes. Rows are taken as many at once as there are: of a head, or of a token.
void quantise_rows(const mha_cache& cache, const PartLayout& p, const PartRows& from, int64_t token, int64_t run,
                   char* page, int64_t slot) {
  const int64_t heads = cache.config.num_kv_heads;
  const bool by_head = run >= heads;
  const int64_t rows = by_head ? run : heads, others = by_head ? heads : run;
  const int64_t row = by_head ? 1 : cache.page_size;  // from row to row where they are stored
  QuantiseArgs args = quantise_args(p, 0, rows);
  args.head_step = by_head ? 0 : 1;
  args.src_element = from.element, args.src_stride = by_head ? from.stride_t : from.stride_h;
  args.dst_stride = row * p.row_bytes, args.scale_stride = row * p.scale_bytes, args.zero_stride = row * p.zero_bytes;
  for (int64_t n = 0; n < others; ++n) {
    const int64_t head = by_head ? n : 0, t = by_head ? 0 : n;
    const StoredRows to = stored_rows(cache, p, page, slot + t, head);
    args.src = from.data + (token + t) * from.stride_t + head * from.stride_h, args.head = head;
    args.dst = to.rows, args.scales = to.scales;
    if (p.zero_bytes > 0) args.zeros = to.zeros;
    cache.table->rows().quantise(&args);
  }
}

// Rows of codes that were rotated, as floats that are rotated back.
void widen_rotated(const KernelTable& table, const WidenArgs& rows) {
  alignas(64) float row[kMostHadamard];
  WidenArgs args = rows;
  args.count = 1, args.dst = reinterpret_cast<char*>(row), args.dst_element = Element::kF32;
  HadamardArgs back = hadamard_args(1, rows.columns);
  back.src = args.dst, back.src_element = Element::kF32, back.dst = rows.dst, back.dst_element = rows.dst_element;
  for (int64_t n = 0; n < rows.count; ++n, ++args.begin, back.dst += rows.dst_stride) {
    table.rows().widen(&args);
    table.rows().hadamard(&back);
  }
}

// write_rows in the other direction.
void read_rows(const mha_cache& cache, const PartLayout& p, const StoredRows& from, int64_t token, int64_t run,
               int64_t head, const PartRowsOut& to) {
  char* dst = to.data + token * to.stride_t + head * to.stride_h;
  if (to.element == p.element) {
    copy_pieces(dst, to.stride_t, from.rows, p.row_bytes, run, p.row_bytes);
    const int64_t heads = cache.config.num_kv_heads, row = token * heads + head;
    if (p.scale_bytes > 0) {
      copy_pieces(to.scales + row * p.scale_bytes, heads * p.scale_bytes, from.scales, p.scale_bytes, run,
                  p.scale_bytes);
    }
    if (p.zero_bytes > 0) {
      copy_pieces(to.zeros + row * p.zero_bytes, heads * p.zero_bytes, from.zeros, p.zero_bytes, run, p.zero_bytes);
    }
    return;
  }
  if (is_code(p.element)) {
    TokenRows rows = {};  // of this run alone
    CodeRows codes = p.codes;
    codes.scales.offset = from.scales - from.rows, codes.zeros.offset = from.zeros - from.rows;
    rows.base = from.rows, rows.stride_t = p.row_bytes, rows.stride_h = cache.page_size * p.row_bytes;
    rows.element = p.element, rows.codes = &codes, rows.code_h = p.is_fixed() ? head : 0;
    WidenArgs args = {};
    args.rows = &rows, args.count = run, args.columns = p.width;
    args.dst = dst, args.dst_stride = to.stride_t, args.dst_element = to.element;
    if (p.codes.hadamard) return widen_rotated(*cache.table, args);
    cache.table->rows().widen(&args);
  } else {
    ConvertArgs args = {};
    args.src = from.rows, args.src_stride = p.row_bytes, args.src_element = p.element;
    args.dst = dst, args.dst_stride = to.stride_t, args.dst_element = to.element;
    args.rows = run, args.columns = p.width;
    cache.table->rows().convert(&args);
  }
}

}  // namespace

// Head by head, keys and values in turn: they are in different pages of memory, so their cache misses overlap. Rounding to
// codes takes longer than its reads.
void cache_write(const mha_cache& cache, int64_t sequence, int64_t first, int64_t count, const PartRows* rows) {
  const CacheSequence& s = cache.sequences[sequence];
  const int64_t kept = first_page_kept(cache, s);
  for_each_run(cache, first, count, [&](int64_t token, int64_t run, int64_t page) {
    if (page >= cache.pinned_pages && page < kept) return;
    char* base = s.pages[page_entry(cache, page)];
    const int64_t slot = token - page * cache.page_size;
    const auto rounds = [&](int part) { return is_code(cache.parts[part].element) && !is_code(rows[part].element); };
    for (int part = 0; part < kCacheParts; ++part) {
      if (rows[part].data == nullptr || !rounds(part)) continue;
      quantise_rows(cache, cache.parts[part], rows[part], token - first, run, base, slot);
    }
    for (int64_t h = 0; h < cache.config.num_kv_heads; ++h) {
      for (int part = 0; part < kCacheParts; ++part) {
        const PartLayout& p = cache.parts[part];
        if (rows[part].data == nullptr || rounds(part)) continue;
        write_rows(cache, p, rows[part], token - first, run, h, stored_rows(cache, p, base, slot, h));
      }
    }
  });
}

void cache_read(const mha_cache& cache, int64_t sequence, int64_t first, int64_t count, const PartRowsOut* rows) {
  for_each_run(cache, first, count, [&](int64_t token, int64_t run, int64_t page) {
    char* base = cache.sequences[sequence].pages[page_entry(cache, page)];
    for (int part = 0; part < kCacheParts; ++part) {
      const PartLayout& p = cache.parts[part];
      for (int64_t h = 0; h < cache.config.num_kv_heads; ++h) {
        read_rows(cache, p, stored_rows(cache, p, base, token - page * cache.page_size, h), token - first, run, h,
                  rows[part]);
      }
    }
  });
}

void cache_commit(mha_cache* cache, const CacheBatch& batch) {
  for (int64_t b = 0; b < batch.batch; ++b) {
    CacheSequence& s = cache->sequences[batch.sequence(b)];
    const int64_t first_kept = first_kept_at(*cache, s.reserved);
    if (first_kept > s.first_kept) s.first_kept = first_kept;
    s.length = s.reserved;
  }
}

}  // namespace mha
