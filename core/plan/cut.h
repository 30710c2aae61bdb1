// SPDX-License-Identifier: Apache-2.0
// How threads share one item of the batch: its key/value heads, its rows, or its chunks of keys. A pure function of
// sizes, by an estimate of the time of each way to cut it.
#pragma once

#include <cstdint>

namespace mha {

// What is to be cut, and for whom. Times are in multiply-adds, as all work is (problem.h).
struct Cutting {
  int64_t threads;
  double work;                   // of the item, and
  double call_work;              // of the call
  int64_t kv_heads, rows, keys;  // rows of each key/value head; one key at least
  // A work item has so many key/value heads at most. Where the heads of a token lie side by side, each is run_bytes
  // long; 0: a head's tokens follow each other.
  int64_t most_heads, run_bytes;
  // A block of rows is so long at most and, if it is not all rows, a multiple of row_unit. Packing a chunk of keys for
  // it costs what packing_rows rows cost; 0: nothing is packed.
  int64_t most_rows, row_unit, packing_rows;
  int64_t query_len, value_head_dim;
  // Of a head's queries. 0: all see as many keys; 1: from one to all of them, as under a causal mask.
  double unevenness;
  bool may_split;  // partial results of all chunks have a size that can be said
};

struct Cut {
  int64_t heads;       // key/value heads of a work item
  int64_t block_rows;  // of each head
  bool split;          // a work item is one chunk of keys, else all of them
};

// Cut as little as can be: one thread's way.
Cut cut_least(const Cutting& c);

// For several threads. Where nothing is packed they share heads and chunks; else rows, in blocks, and chunks.
Cut cut_in_place(const Cutting& c);
Cut cut_packed(const Cutting& c);

// Whether threads are done with the call, which is as many such items as its work says, sooner than one would be.
bool threads_pay(const Cutting& c, const Cut& cut);

}  // namespace mha
