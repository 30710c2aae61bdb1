// SPDX-License-Identifier: Apache-2.0
// Caches with a random history: any kind, sizes and storage, appended to in pieces, rolled back, forked, emptied.
#ifndef MHA_TESTS_SUPPORT_RANDOM_CACHE_H
#define MHA_TESTS_SUPPORT_RANDOM_CACHE_H

#include "tests/support/caches.h"
#include "tests/support/quantise.h"

namespace mha::test {

/// How a random cache stores its tokens, and where they come from. The storage does not change what is drawn.
struct RandomStorage {
  mha_dtype key = MHA_F32, value = MHA_F32;
  uint64_t given = 0;     // not 0: tokens are given in types drawn from this seed; 0: as floats
  bool widened = false;   // the twin of a cache that stores those types: one of floats, whose tokens are rounded before
  uint64_t codes = 0;     // not 0: keys, values or both are codes, stored as this seed says
  bool hadamard = false;  // codes may be of rotated rows, whose twins are rotated back
};

/// A cache after appends, rollbacks, forks and removals. `finite`: no NaN or Inf in it.
struct RandomCache {
  mha_cache_config config;
  CachePtr cache;
  bool finite = true;
  std::shared_ptr<CodeStorage> key_codes, value_codes;  // or null: floats

  explicit RandomCache(Random& random, const RandomStorage& storage = {}) : storage_(storage), given_(storage.given) {
    config = cache_config(one_of(random, {MHA_CACHE_CONTIGUOUS, MHA_CACHE_RING, MHA_CACHE_PAGED, MHA_CACHE_PAGED}),
                          1300, between(random, 1, 5));
    config.num_kv_heads = between(random, 1, 3);
    config.head_dim = one_in(random, 3) ? 16 * between(random, 1, 3) : between(random, 1, 40);
    config.value_head_dim = one_in(random, 2) ? config.head_dim : between(random, 1, 40);
    if (config.kind == MHA_CACHE_RING) {
      config.capacity = one_of<int64_t>(random, {1, 16, 50, 64, 200, 700});
      config.sink_tokens = one_in(random, 2) ? random.below(80) : 0;
    }
    if (config.kind == MHA_CACHE_PAGED) {
      config.page_size = one_of<int64_t>(random, {1, 16, 24, 64, 256, 300});
      config.capacity = config.max_sequences * (1300 + config.page_size);
    }
    draw_codes();
    if (!storage.widened) config.key.dtype = storage.key, config.value.dtype = storage.value;
    {
      // Fixed scales are copied: those that the cache is made with are gone afterwards.
      std::vector<CodeStorage> given;
      for (const auto& codes : {key_codes, value_codes}) given.push_back(codes ? *codes : CodeStorage(MHA_I8, 1, 1));
      if (!storage.widened && key_codes) config.key = given[0].storage();
      if (!storage.widened && value_codes) config.value = given[1].storage();
      cache = make_cache(cache_context(), config);
    }
    mha_cache_get_config(cache.get(), &config);
    for (int64_t n = between(random, 1, 10); n > 0; --n) change(random);
  }

  int64_t length(int64_t sequence) const { return mha_cache_length(cache.get(), sequence); }
  int64_t first_kept(int64_t sequence) const { return mha_cache_first_kept(cache.get(), sequence); }

  /// All tokens of a sequence, NaN where a ring dropped them.
  Tokens dense(int64_t sequence) const {
    const int64_t count = length(sequence), kept = first_kept(sequence);
    const int64_t pinned = kept > 0 ? std::min(count, config.sink_tokens) : 0;
    Tokens all = exported(cache.get(), sequence, 0, pinned);
    all.key.resize(static_cast<size_t>(kept * config.num_kv_heads * config.head_dim), kNan);
    all.value.resize(static_cast<size_t>(kept * config.num_kv_heads * config.value_head_dim), kNan);
    return all += exported(cache.get(), sequence, kept, count - kept);
  }

 private:
  void draw_codes() {
    if (storage_.codes == 0) return;
    Random random(storage_.codes);
    const int64_t which = random.below(4);
    if (which != 0) key_codes = std::make_shared<CodeStorage>(random, config.num_kv_heads, config.head_dim);
    if (which != 1) value_codes = std::make_shared<CodeStorage>(random, config.num_kv_heads, config.value_head_dim);
    for (const auto& codes : {key_codes, value_codes})
      if (codes && storage_.hadamard) codes->draw_hadamard(random);
  }
  void change(Random& random) {
    const int64_t sequence = random.below(config.max_sequences), held = length(sequence);
    mha_error error = {};
    switch (random.below(6)) {
      case 0: {
        const int64_t kept = first_kept(sequence);
        require_ok(mha_cache_truncate(cache.get(), sequence, between(random, kept, std::max(kept, held)), &error),
                   error);
        break;
      }
      case 1: {
        const int64_t other = random.below(config.max_sequences);
        if (other == sequence) break;
        require_ok(mha_cache_remove(cache.get(), other, &error), error);
        const int64_t count = one_in(random, 2) ? -1 : between(random, first_kept(sequence), held);
        require_ok(mha_cache_fork(cache.get(), sequence, other, count, &error), error);
        break;
      }
      default:
        append_to_some(random);
    }
  }
  void append_to_some(Random& random) {
    std::vector<int64_t> sequences, offsets{0};
    for (int64_t s = 0; s < config.max_sequences; ++s) {
      if (one_in(random, 3)) continue;
      const int64_t room = config.kind == MHA_CACHE_RING ? 2000 : 1300 - length(s);
      sequences.insert(sequences.begin() + random.below(static_cast<int64_t>(sequences.size()) + 1), s);
      offsets.push_back(std::min(room, random_length(random, 700)));
    }
    for (size_t n = 0; n < sequences.size(); ++n) {  // lengths follow their sequences
      const int64_t room = config.kind == MHA_CACHE_RING ? 2000 : 1300 - length(sequences[n]);
      offsets[n + 1] = offsets[n] + std::min(room, offsets[n + 1]);
    }
    Tokens tokens = random_tokens(config, offsets.back(), random.bits() >> 8);
    if (one_in(random, 6)) spoil(random, &tokens.key), spoil(random, &tokens.value), finite = false;
    mha_append_args args = {};
    args.batch = static_cast<int64_t>(sequences.size());
    args.sequences = sequences.data(), args.offsets = offsets.data(), args.length = offsets.back();
    const Elements key = given(tokens.key, storage_.key, key_codes.get());
    const Elements value = given(tokens.value, storage_.value, value_codes.get());
    args.key = key.view(), args.value = value.view();
    mha_error error = {};
    require_ok(mha_cache_append(shared_context(supported_targets()[0], 3), cache.get(), &args, &error), error);
  }
  /// Tokens as append takes them.
  Elements given(const std::vector<float>& tokens, mha_dtype stored, const CodeStorage* codes) {
    const Elements from(storage_.given ? random_dtype(given_) : MHA_F32, tokens);
    if (storage_.widened && codes) return Elements(MHA_F32, codes->round_all(from.widened()));
    return storage_.widened ? Elements(MHA_F32, rounded(stored, from.widened())) : from;
  }

  RandomStorage storage_;
  Random given_;
};

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_RANDOM_CACHE_H
