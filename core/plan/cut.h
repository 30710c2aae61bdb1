// SPDX-License-Identifier: Apache-2.0
// How threads share one item of the batch: its key/value heads, its rows, or its chunks of keys. Pure functions of
// sizes that estimate the time of each way to cut it.
#pragma once

#include <cstdint>

namespace mha {

// What is to be cut, and for whom. Times are in multiply-adds, as all work is (problem.h).
struct Cutting {
  int64_t threads;
  double work;                   // of the item
  double call_work;              // of the call
  int64_t kv_heads, rows, keys;  // rows of each key/value head; one key at least
  // most_heads: the most key/value heads of a work item. run_bytes: bytes of one head of a token where the heads of a
  // token are stored side by side; 0 where the tokens of a head follow each other.
  int64_t most_heads, run_bytes;
  // most_rows: the most rows of a block. A block of less than all rows is a multiple of row_unit. packing_rows: packing
  // a chunk of keys costs as much as so many rows; 0: nothing is packed.
  int64_t most_rows, row_unit, packing_rows;
  int64_t query_len, value_head_dim;
  // 0: all queries of a head see equally many keys; 1: from one key to all, as under a causal mask.
  double unevenness;
  bool may_split;  // the keys may be cut into chunks
};

struct Cut {
  int64_t heads;       // key/value heads of a work item
  int64_t block_rows;  // of each head
  bool split;          // a work item is one chunk of keys, else all of them
};

// As few work items as possible: for one thread.
Cut cut_least(const Cutting& c);

// For several threads. In place, they share heads and chunks of keys; packed, they share blocks of rows and chunks.
Cut cut_in_place(const Cutting& c);
Cut cut_packed(const Cutting& c);

// Whether several threads finish the call sooner than one. The call counts as call_work / work such items.
bool threads_pay(const Cutting& c, const Cut& cut);

}  // namespace mha
