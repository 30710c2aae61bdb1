// SPDX-License-Identifier: Apache-2.0
// Caches for tests: made from a few sizes, filled, and read back through export.
#ifndef MHA_TESTS_SUPPORT_CACHES_H
#define MHA_TESTS_SUPPORT_CACHES_H

#include <string>
#include <vector>

#include "tests/support/compare.h"
#include "tests/support/targets.h"
#include "tests/support/tensors.h"

namespace mha::test {

inline const mha_cache_kind kCacheKinds[] = {MHA_CACHE_CONTIGUOUS, MHA_CACHE_RING, MHA_CACHE_PAGED};

inline const char* kind_name(mha_cache_kind kind) {
  return kind == MHA_CACHE_CONTIGUOUS ? "contiguous" : kind == MHA_CACHE_RING ? "ring" : "paged";
}

/// Sizes that most tests want. A kind takes those that it has; tests set the other fields on the result.
inline mha_cache_config cache_config(mha_cache_kind kind, int64_t capacity, int64_t max_sequences = 1,
                                     int64_t page_size = 0, int64_t sink_tokens = 0) {
  mha_cache_config config = {};
  config.kind = kind;
  config.num_kv_heads = 2;
  config.head_dim = 5;
  config.value_head_dim = 3;
  config.max_sequences = max_sequences;
  config.capacity = capacity;
  if (kind == MHA_CACHE_PAGED) config.page_size = page_size;
  if (kind == MHA_CACHE_RING) config.sink_tokens = sink_tokens;
  return config;
}

inline CachePtr make_cache(const mha_context* context, const mha_cache_config& config) {
  mha_cache* cache = nullptr;
  mha_error error = {};
  require_ok(mha_cache_create(context, &config, &cache, &error), error);
  return CachePtr(cache);
}

/// The one context that tests of caches use: no kernel takes part.
inline const mha_context* cache_context() { return shared_context(supported_targets()[0], 1); }

/// Dense tokens: key [count, Hkv, D], value [count, Hkv, Dv].
struct Tokens {
  std::vector<float> key, value;
};

inline mha_cache_config config_of(const mha_cache* cache) {
  mha_cache_config config = {};
  mha_cache_get_config(cache, &config);
  return config;
}

inline Tokens random_tokens(const mha_cache_config& c, int64_t count, uint64_t seed) {
  return {random_floats(count * c.num_kv_heads * c.head_dim, seed),
          random_floats(count * c.num_kv_heads * (c.value_head_dim ? c.value_head_dim : c.head_dim), seed + 1)};
}

/// Tokens [begin, begin + count) of dense ones.
inline Tokens slice(const mha_cache_config& c, const Tokens& all, int64_t begin, int64_t count) {
  const int64_t key = c.num_kv_heads * c.head_dim;
  const int64_t value = c.num_kv_heads * (c.value_head_dim ? c.value_head_dim : c.head_dim);
  return {std::vector<float>(all.key.begin() + begin * key, all.key.begin() + (begin + count) * key),
          std::vector<float>(all.value.begin() + begin * value, all.value.begin() + (begin + count) * value)};
}

inline Tokens& operator+=(Tokens& all, const Tokens& more) {
  all.key.insert(all.key.end(), more.key.begin(), more.key.end());
  all.value.insert(all.value.end(), more.value.begin(), more.value.end());
  return all;
}

/// Appends dense tokens to one sequence.
inline mha_status append(const mha_context* context, mha_cache* cache, int64_t sequence, const Tokens& tokens,
                         mha_error* error = nullptr) {
  const mha_cache_config c = config_of(cache);
  mha_append_args args = {};
  args.batch = 1;
  args.sequences = &sequence;
  args.length = static_cast<int64_t>(tokens.key.size()) / (c.num_kv_heads * c.head_dim);
  args.key = view(tokens.key.data());
  args.value = view(tokens.value.data());
  return mha_cache_append(context, cache, &args, error);
}

inline void require_append(mha_cache* cache, int64_t sequence, const Tokens& tokens) {
  mha_error error = {};
  require_ok(append(cache_context(), cache, sequence, tokens, &error), error);
}

/// Tokens [begin, begin + count) as export gives them; poison where it fails.
inline Tokens exported(const mha_cache* cache, int64_t sequence, int64_t begin, int64_t count) {
  const mha_cache_config c = config_of(cache);
  Tokens out = {poisoned(count * c.num_kv_heads * c.head_dim), poisoned(count * c.num_kv_heads * c.value_head_dim)};
  mha_export_args args = {};
  args.sequence = sequence, args.begin = begin, args.count = count;
  args.key = mut_view(out.key.data()), args.value = mut_view(out.value.data());
  mha_cache_export(cache, &args, nullptr);
  return out;
}

inline bool same_tokens(const Tokens& a, const Tokens& b) {
  return same_bits(a.key, b.key) && same_bits(a.value, b.value);
}

inline void check_same_tokens(const std::string& what, const Tokens& got, const Tokens& want) {
  check_same_bits(what + " key", got.key, want.key);
  check_same_bits(what + " value", got.value, want.value);
}

inline std::vector<float> save_sequence(const mha_cache* cache, int64_t sequence) {
  mha_error error = {};
  size_t bytes = 0;
  require_ok(mha_cache_save_bytes(cache, sequence, &bytes, &error), error);
  std::vector<float> blob(bytes / sizeof(float));
  require_ok(mha_cache_save(cache, sequence, blob.data(), blob.size() * sizeof(float), &error), error);
  return blob;
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_CACHES_H
