// SPDX-License-Identifier: Apache-2.0
// What tests of reserved room share: reserving in lists of caches, all that can be seen of a cache, one that is eaten up.
#ifndef MHA_TESTS_SUPPORT_RESERVE_H
#define MHA_TESTS_SUPPORT_RESERVE_H

#include <vector>

#include "tests/support/caches.h"

namespace mha::test {

using Integers = std::vector<int64_t>;

inline mha_status reserve(const std::vector<mha_cache*>& caches, const Integers& sequences, const Integers& tokens,
                          mha_error* error = nullptr) {
  mha_reserve_args args = {};
  args.caches = caches.data(), args.num_caches = static_cast<int64_t>(caches.size());
  args.batch = static_cast<int64_t>(tokens.size());
  args.sequences = sequences.empty() ? nullptr : sequences.data(), args.tokens = tokens.data();
  return mha_cache_reserve(&args, error);
}

inline void must_reserve(const std::vector<mha_cache*>& caches, const Integers& sequences, const Integers& tokens) {
  mha_error error = {};
  require_ok(reserve(caches, sequences, tokens, &error), error);
}

inline int64_t length_of(const CachePtr& cache, int64_t sequence) { return mha_cache_length(cache.get(), sequence); }
inline Tokens contents(const CachePtr& cache, int64_t sequence) {
  const int64_t first = mha_cache_first_kept(cache.get(), sequence);
  return exported(cache.get(), sequence, first, length_of(cache, sequence) - first);
}

/// All that can be seen of a cache.
struct Snapshot {
  Integers lengths, rooms;
  std::vector<std::vector<float>> saved;
  size_t used;

  explicit Snapshot(const mha_cache* cache) : used(mha_cache_used_bytes(cache)) {
    for (int64_t s = 0; s < config_of(cache).max_sequences; ++s) {
      lengths.push_back(mha_cache_length(cache, s));
      rooms.push_back(mha_cache_room(cache, s));
      saved.push_back(save_sequence(cache, s));
    }
  }
  bool operator==(const Snapshot& other) const {
    for (size_t s = 0; s < saved.size(); ++s)
      if (!same_bits(saved[s], other.saved[s])) return false;
    return lengths == other.lengths && rooms == other.rooms && used == other.used;
  }
};

/// Of one page.
inline size_t page_bytes(const mha_cache_config& config) {
  CachePtr cache = make_cache(cache_context(), config);
  require_append(cache.get(), 0, random_tokens(config, 1, 1));
  return mha_cache_used_bytes(cache.get());
}

/// Other sequences take all that is left.
inline void eat(mha_cache* cache, int64_t sequence) {
  const mha_cache_config c = config_of(cache);
  const int64_t room = mha_cache_room(cache, sequence);
  require_append(cache, sequence, random_tokens(c, room, 7));
  CHECK(append(cache_context(), cache, sequence, random_tokens(c, 1, 7)) == MHA_ERR_FULL);
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_RESERVE_H
