// SPDX-License-Identifier: Apache-2.0
// The cache behind the public handle, and all that is done with it: its sequences are cut, forked, saved and read, and
// tokens appended in three steps (reserve, write, commit) of which the second may be a phase of a call.
//
// Every kind is a pool of pages (pages.h) and a table of pages for each sequence. A page holds keys
// [Hkv][page_size][D], then values [Hkv][page_size][Dv], each part with its own element type: the rows of a head follow
// each other, so decoding reads them in place, and rollback, forks and saving are plain copies of bytes. Appending and
// exporting are, too, where the types are the same.
//   contiguous  one page of `capacity` tokens
//   paged       page n of a sequence is entry n of its table; sequences that were forked share pages
//   ring        the pages of the first sink_tokens are pinned; the others take turns on ring_pages entries, enough that
//               the last `capacity` tokens are there. Lengths and token numbers keep growing.
#pragma once

#include "core/base/status.h"
#include "core/cache/pages.h"
#include "core/kernels/kernel_table.h"
#include "core/mha.h"

namespace mha {

// Changed by the one writer of the sequence only.
struct CacheSequence {
  int64_t length;      // tokens so far, dropped ones too
  int64_t first_kept;  // beside a ring's sink tokens
  int64_t reserved;    // the length that the call under way writes to; `length` except between cache_reserve and
                       // cache_commit
  int64_t promised;    // the length that mha_cache_reserve has taken pages for; may be less than `length`
  bool marked;         // while a call looks for sequences that were given twice
  char** pages;        // [table_size], null where none is held

  // Behind it no pages are held.
  int64_t held_end() const { return most(reserved, promised); }
};

// Keys and values are treated alike: two parts of a page.
enum CachePart { kKeys = 0, kValues = 1, kCacheParts = 2 };

struct PartLayout {
  Element element;
  int64_t width;      // elements of a row, and
  int64_t row_bytes;  // bytes; rows of a head follow each other, heads are page_size rows apart
  int64_t offset;     // of the part in a page, in bytes
};

}  // namespace mha

struct mha_cache {
  mha_cache_config config;  // defaults filled in
  const mha::KernelTable* table;
  mha::PartLayout parts[mha::kCacheParts];
  int64_t page_size;     // tokens
  int64_t pinned_pages;  // entries of a table that stay, all but in a ring
  int64_t ring_pages;    // the entries after them; 1 where they are not used
  int64_t table_size;    // entries
  mha::CacheSequence* sequences;
  mutable mha::SpinLock lock;  // of `pool`
  mha::PagePool pool;
  mha_allocator allocator;
  void* owned_memory;  // null where the caller's is used
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
  int64_t length;            // of each, or of all where there are offsets
  const int64_t* offsets;    // null: `length` each, or
  const int64_t* counts;     // counts[b] each

  int64_t sequence(int64_t b) const { return sequences != nullptr ? sequences[b] : b; }
  int64_t count(int64_t b) const {
    if (counts != nullptr) return counts[b];
    return offsets != nullptr ? offsets[b + 1] - offsets[b] : length;
  }
};

// Rows of one part of some tokens, [count, Hkv, width], in memory of the caller's: strides in bytes.
struct PartRows {
  const char* data;
  int64_t stride_t, stride_h;
  Element element;
};
struct PartRowsOut {
  char* data;
  int64_t stride_t, stride_h;
  Element element;
};

// Tokens copied head by head: few enough that a token's rows are still in a core's caches for the next head. Measured:
// a long append takes 1.04 times a copy of its bytes so, against 1.4 for all tokens of a head at once.
constexpr int64_t kRunTokens = 64;

inline int64_t cache_length(const mha_cache& cache, int64_t sequence) { return cache.sequences[sequence].length; }
inline int64_t cache_first_kept(const mha_cache& cache, int64_t sequence) {
  return cache.sequences[sequence].first_kept;
}

// Tokens that a sequence of a ring keeps at most; 0 for other kinds.
inline int64_t ring_tokens(const mha_cache& cache) {
  return cache.config.kind == MHA_CACHE_RING ? cache.table_size * cache.page_size : 0;
}

// Entry of the table for page n of a sequence.
inline int64_t page_entry(const mha_cache& cache, int64_t n) {
  return n < cache.pinned_pages ? n : cache.pinned_pages + (n - cache.pinned_pages) % cache.ring_pages;
}

// The first tokens of a sequence that are kept beside those from first_kept on.
inline int64_t leading_kept(const mha_cache& cache, const CacheSequence& s) {
  return s.first_kept != 0 ? cache.config.sink_tokens : 0;
}

// The first page of a ring's turn at the end of the reservation.
inline int64_t first_page_kept(const mha_cache& cache, const CacheSequence& s) {
  return divide_up(s.reserved, cache.page_size) - cache.ring_pages;
}

// The rows of a sequence where they lie; of a contiguous cache as one tensor. Valid for the tokens that are there, and
// for those reserved.
TokenRows cache_rows(const mha_cache& cache, CachePart part, int64_t sequence);
// The row of a token's first head in its page, which must be held.
inline char* cache_row(const mha_cache& cache, CachePart part, int64_t sequence, int64_t token) {
  const PartLayout& p = cache.parts[part];
  char* page = cache.sequences[sequence].pages[page_entry(cache, token / cache.page_size)];
  return page + p.offset + token % cache.page_size * p.row_bytes;
}

// Leading tokens that two sequences hold in the same memory.
int64_t shared_tokens(const mha_cache& cache, int64_t a, int64_t b);

mha_status check_sequence(const mha_cache& cache, const char* name, int64_t sequence, mha_error* error);
// Sequences in range and distinct, offsets ascending from 0 to the length.
mha_status check_batch(mha_cache* cache, const CacheBatch& batch, mha_error* error);

// The parts of cache_reserve, for cache_promise, which takes pages in several caches or in none. With the lock held,
// except the first: whether the lengths can be; how many pages are missing; taking them.
mha_status check_growth(const mha_cache& cache, const CacheBatch& batch, mha_error* error);
int64_t pages_needed(mha_cache* cache, const CacheBatch& batch);
// Sequence s will have tokens up to `end`.
void take_room(mha_cache* cache, CacheSequence* s, int64_t end);
// The page that appending to the sequence would write to although others hold it too: it is copied first. -1: none.
int64_t page_to_copy(const mha_cache& cache, const CacheSequence& s);

// Takes the pages that a checked batch needs, and copies those that it will write to but shares with other sequences:
// all or nothing. Must be followed by cache_commit or cache_rollback.
mha_status cache_reserve(mha_cache* cache, const CacheBatch& batch, mha_error* error);
// Stores tokens [first, first + count) of a sequence, which are reserved. Different tokens may be written at once. What
// a ring will have dropped by the end of the reservation is passed over; what it drops is lost from here on, so a ring
// may be rolled back only before.
// rows [kCacheParts]; a part without data is left as it is.
void cache_write(const mha_cache& cache, int64_t sequence, int64_t first, int64_t count, const PartRows* rows);
// The sequences of the batch have their new lengths.
void cache_commit(mha_cache* cache, const CacheBatch& batch);
// Gives the pages back; pages that were copied stay copied.
void cache_rollback(mha_cache* cache, const CacheBatch& batch);

// --- Room for tokens to come (reserve.cpp) ---------------------------------------------------------------------------

// As mha_cache_reserve, and mha_cache_room of a sequence that is there.
mha_status cache_promise(const mha_reserve_args& args, mha_error* error);
int64_t cache_room(const mha_cache& cache, int64_t sequence);

// --- One sequence changed, copied out, saved and loaded (sequences.cpp, cache_blob.cpp) ------------------------------

// As the mha_* calls, whose comments in mha.h hold.
mha_status cache_truncate(mha_cache* cache, int64_t sequence, int64_t length, mha_error* error);
mha_status cache_fork(mha_cache* cache, int64_t source, int64_t destination, int64_t length, mha_error* error);
mha_status cache_remove(mha_cache* cache, int64_t sequence, mha_error* error);
void cache_reset(mha_cache* cache);
size_t cache_used_bytes(const mha_cache& cache);

// Copies tokens [first, first + count), which are kept.
void cache_read(const mha_cache& cache, int64_t sequence, int64_t first, int64_t count, const PartRowsOut* rows);

mha_status cache_save_bytes(const mha_cache& cache, int64_t sequence, size_t* bytes, mha_error* error);
mha_status cache_save(const mha_cache& cache, int64_t sequence, void* blob, size_t bytes, mha_error* error);
mha_status cache_load(mha_cache* cache, int64_t sequence, const void* blob, size_t bytes, mha_error* error);

// --- Pages of a sequence, for the above ------------------------------------------------------------------------------

// One sequence, for those who change it otherwise: takes the pages of tokens [begin, end), of which a ring needs the
// last ones only; there must be enough. With the lock held.
void take_pages(mha_cache* cache, CacheSequence* s, int64_t begin, int64_t end);
// Gives back the pages behind `length`, up to token `end`, but where a ring keeps older tokens. With the lock held.
void release_pages(mha_cache* cache, CacheSequence* s, int64_t length, int64_t end);
// The first token that a sequence of so many keeps beside the sink tokens, if nothing was dropped before.
int64_t first_kept_at(const mha_cache& cache, int64_t length);

// The first `count` tokens of a page; all of it where they fill it.
void copy_page(const mha_cache& cache, const char* from, char* to, int64_t count);

// Calls use(n) for those of the pages [begin, end) that a sequence which ends with page end - 1 holds, in order.
template <class Use>
void for_each_page(const mha_cache& cache, int64_t begin, int64_t end, Use use) {
  int64_t n = begin;
  for (; n < end && n < cache.pinned_pages; ++n) use(n);
  if (n < end - cache.ring_pages) n = end - cache.ring_pages;
  for (; n < end; ++n) use(n);
}

}  // namespace mha
