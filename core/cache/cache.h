// SPDX-License-Identifier: Apache-2.0
// The cache behind the public handle, and its operations: sequences are cut, forked, saved and read, and tokens are
// appended in three steps (reserve, write, commit). Writing may be a phase of a call.
//
// Every kind is a pool of pages (pages.h) and a table of pages for each sequence. A page holds keys
// [Hkv][page_size][D], then values [Hkv][page_size][Dv], each part with its own element type: the rows of a head follow
// each other, so decoding reads them in place, and rollback, forks and saving are plain copies of bytes. So are
// appending and exporting if the types are the same. Rows of codes are followed by their scales [Hkv][page_size][groups]
// and zeros, if they have any.
//   contiguous  one page of `capacity` tokens
//   paged       page n of a sequence is entry n of its table; sequences that were forked share pages
//   ring        the pages of the first sink_tokens are pinned; later pages take turns on ring_pages entries, enough to
//               hold the last `capacity` tokens. Lengths and token numbers keep growing.
#pragma once

#include "core/base/status.h"
#include "core/cache/pages.h"
#include "core/cache/row_storage.h"
#include "core/kernels/kernel_table.h"
#include "core/mha.h"

namespace mha {

// Changed only by the one writer of the sequence.
struct CacheSequence {
  int64_t length;      // tokens so far, dropped ones too
  int64_t first_kept;  // the first token kept, a ring's sink tokens apart
  int64_t reserved;    // the length after the call under way; equal to `length` except between cache_reserve and
                       // cache_commit
  int64_t promised;    // the length that mha_cache_reserve has taken pages for; may be less than `length`
  bool marked;         // set while a call looks for sequences that are given twice
  char** pages;        // [table_size]; null: no page is held

  // No pages are held behind this token.
  int64_t held_end() const { return most(reserved, promised); }
};

// Keys and values are treated alike: two parts of a page.
enum CachePart { kKeys = 0, kValues = 1, kCacheParts = 2 };

// Rows of a head follow each other, heads are page_size rows apart; so are scales and zeros.
struct PartLayout : RowStorage {
  int64_t offset;  // of the part in a page, in bytes,
  int64_t scales_offset, zeros_offset;
};

}  // namespace mha

struct mha_cache {
  mha_cache_config config;  // defaults filled in
  const mha::KernelTable* table;
  mha::PartLayout parts[mha::kCacheParts];
  mha_quant fixed[mha::kCacheParts];  // what config.key.fixed and config.value.fixed point to
  int64_t page_size;                  // tokens
  int64_t pinned_pages;               // entries of a table that keep their page: all, except in a ring
  int64_t ring_pages;                 // the entries after them, on which pages take turns; 1 if there are none
  int64_t table_size;                 // entries
  mha::CacheSequence* sequences;
  mutable mha::SpinLock lock;  // of `pool`
  mha::PagePool pool;
  mha_allocator allocator;
  void* owned_memory;  // null if the caller gave the memory
  size_t memory_bytes;
  size_t bytes;  // of the allocation that begins with this struct
};

namespace mha {

// --- Made and destroyed (cache.cpp) ----------------------------------------------------------------------------------

mha_status cache_memory_bytes(const mha_cache_config& config, size_t* bytes, mha_error* error);
mha_status cache_create(const mha_context& context, const mha_cache_config& config, mha_cache** cache,
                        mha_error* error);
void cache_destroy(mha_cache* cache);

// --- Reading, and appending (sequences.cpp, append.cpp) --------------------------------------------------------------

// Which sequences grow by how much, as in mha_append_args.
struct CacheBatch {
  int64_t batch;
  const int64_t* sequences;  // null: 0 .. batch - 1
  int64_t length;            // tokens of each sequence; with offsets: of all sequences
  const int64_t* offsets;    // null: `length` tokens each, unless there are counts
  const int64_t* counts;     // tokens of each sequence; null: as above

  int64_t sequence(int64_t b) const { return sequences != nullptr ? sequences[b] : b; }
  int64_t count(int64_t b) const {
    if (counts != nullptr) return counts[b];
    return offsets != nullptr ? offsets[b + 1] - offsets[b] : length;
  }
};

// Rows of one part of some tokens, [count, Hkv, width], in the caller's memory; strides in bytes. Floats, or what the
// part stores; scales and zeros of codes, [count, Hkv, groups], are dense.
struct PartRows {
  const char* data;
  int64_t stride_t, stride_h;
  Element element;
  const char *scales, *zeros;
};
struct PartRowsOut {
  char* data;
  int64_t stride_t, stride_h;
  Element element;
  char *scales, *zeros;
};

// So many tokens are copied at a time, head by head: few enough that a token's rows, which the caller usually stores
// side by side, are still in a core's caches when the next head is copied.
constexpr int64_t kRunTokens = 64;

inline int64_t cache_length(const mha_cache& cache, int64_t sequence) { return cache.sequences[sequence].length; }
inline int64_t cache_first_kept(const mha_cache& cache, int64_t sequence) {
  return cache.sequences[sequence].first_kept;
}

// The most tokens that a sequence of a ring keeps; 0 for other kinds.
inline int64_t ring_tokens(const mha_cache& cache) {
  return cache.config.kind == MHA_CACHE_RING ? cache.table_size * cache.page_size : 0;
}

// Entry of the table for page n of a sequence.
inline int64_t page_entry(const mha_cache& cache, int64_t n) {
  return n < cache.pinned_pages ? n : cache.pinned_pages + (n - cache.pinned_pages) % cache.ring_pages;
}

// How many first tokens of a sequence are kept besides those from first_kept on.
inline int64_t leading_kept(const mha_cache& cache, const CacheSequence& s) {
  return s.first_kept != 0 ? cache.config.sink_tokens : 0;
}

// The oldest page, pinned pages apart, that a ring holds at the end of the reservation.
inline int64_t first_page_kept(const mha_cache& cache, const CacheSequence& s) {
  return divide_up(s.reserved, cache.page_size) - cache.ring_pages;
}

// Where the rows of a sequence are stored; in a contiguous cache as one tensor. Valid for stored and reserved tokens.
TokenRows cache_rows(const mha_cache& cache, CachePart part, int64_t sequence);
// The row of a token's first head in its page, which must be held.
inline char* cache_row(const mha_cache& cache, CachePart part, int64_t sequence, int64_t token) {
  const PartLayout& p = cache.parts[part];
  char* page = cache.sequences[sequence].pages[page_entry(cache, token / cache.page_size)];
  return page + p.offset + token % cache.page_size * p.row_bytes;
}

// How many leading tokens two sequences hold in the same memory.
int64_t shared_tokens(const mha_cache& cache, int64_t a, int64_t b);

mha_status check_sequence(const mha_cache& cache, const char* name, int64_t sequence, mha_error* error);
// Sequences in range and distinct, offsets ascending from 0 to the length.
mha_status check_batch(mha_cache* cache, const CacheBatch& batch, mha_error* error);

// The steps of cache_reserve. cache_promise needs them one by one, since it takes pages in all of several caches or in
// none. All but check_growth need the lock.
// The lengths after the batch must be allowed.
mha_status check_growth(const mha_cache& cache, const CacheBatch& batch, mha_error* error);
// How many pages the batch will take.
int64_t pages_needed(mha_cache* cache, const CacheBatch& batch);
// Takes the pages for tokens of `s` up to `end`.
void take_room(mha_cache* cache, CacheSequence* s, int64_t end);
// Copy-on-write: the page that appending to `s` writes to, if another sequence still holds it. -1: none.
int64_t page_to_copy(const mha_cache& cache, const CacheSequence& s);

// Takes the pages that a checked batch needs, and copies the shared pages that it will write to: all or nothing. Must
// be followed by cache_commit: nothing that comes between can fail.
mha_status cache_reserve(mha_cache* cache, const CacheBatch& batch, mha_error* error);
// Stores tokens [first, first + count) of a sequence, which must be reserved. Different tokens may be written at once.
// Tokens that a ring will have dropped by the end of the reservation are skipped.
// rows [kCacheParts]; a part without data is left as it is.
void cache_write(const mha_cache& cache, int64_t sequence, int64_t first, int64_t count, const PartRows* rows);
// Sets the new lengths of the batch's sequences.
void cache_commit(mha_cache* cache, const CacheBatch& batch);

// --- Room for tokens to come (reserve.cpp) ---------------------------------------------------------------------------

// As mha_cache_reserve, and as mha_cache_room for a valid sequence.
mha_status cache_promise(const mha_reserve_args& args, mha_error* error);
int64_t cache_room(const mha_cache& cache, int64_t sequence);

// --- One sequence changed, copied out, saved and loaded (sequences.cpp, cache_blob.cpp) ------------------------------

// As the mha_* calls of these names, described in mha.h.
mha_status cache_truncate(mha_cache* cache, int64_t sequence, int64_t length, mha_error* error);
mha_status cache_fork(mha_cache* cache, int64_t source, int64_t destination, int64_t length, mha_error* error);
mha_status cache_remove(mha_cache* cache, int64_t sequence, mha_error* error);
void cache_reset(mha_cache* cache);
size_t cache_used_bytes(const mha_cache& cache);

// Copies out tokens [first, first + count), which the cache must keep.
void cache_read(const mha_cache& cache, int64_t sequence, int64_t first, int64_t count, const PartRowsOut* rows);

mha_status cache_save_bytes(const mha_cache& cache, int64_t sequence, size_t* bytes, mha_error* error);
mha_status cache_save(const mha_cache& cache, int64_t sequence, void* blob, size_t bytes, mha_error* error);
mha_status cache_load(mha_cache* cache, int64_t sequence, const void* blob, size_t bytes, mha_error* error);

// --- Pages of a sequence, for the above ------------------------------------------------------------------------------

// Takes the pages of tokens [begin, end) of one sequence; in a ring only the last ones, which it keeps. There must be
// enough free pages. With the lock held.
void take_pages(mha_cache* cache, CacheSequence* s, int64_t begin, int64_t end);
// Gives back the pages behind `length`, up to token `end`, except those that a ring uses for older tokens. With the
// lock held.
void release_pages(mha_cache* cache, CacheSequence* s, int64_t length, int64_t end);
// The first token, sink tokens apart, that a sequence of `length` tokens keeps if nothing was dropped before.
int64_t first_kept_at(const mha_cache& cache, int64_t length);

// Copies the first `count` tokens of a page.
void copy_page(const mha_cache& cache, const char* from, char* to, int64_t count);

// Calls use(n), in order, for each page of [begin, end) that a sequence holds if page end - 1 is its last one.
template <class Use>
void for_each_page(const mha_cache& cache, int64_t begin, int64_t end, Use use) {
  int64_t n = begin;
  for (; n < end && n < cache.pinned_pages; ++n) use(n);
  if (n < end - cache.ring_pages) n = end - cache.ring_pages;
  for (; n < end; ++n) use(n);
}

}  // namespace mha
