// SPDX-License-Identifier: Apache-2.0
// fuzz_decode's session: a cache, and a model of it that keeps plain vectors.
#ifndef MHA_TOOLS_FUZZ_DECODE_SESSION_H
#define MHA_TOOLS_FUZZ_DECODE_SESSION_H

#include <fuzzer/FuzzedDataProvider.h>
#include <mha/mha.hpp>

#include <algorithm>
#include <random>
#include <vector>

#include "tools/fuzz/codes.h"
#include "tools/fuzz/decode_call.h"

namespace mha::fuzz {

// Tokens as plain vectors, [T, Hkv, D] and [T, Hkv, Dv].
struct Sequence {
  Floats key, value;
  std::int64_t length = 0;
};

inline std::int64_t pages_of(std::int64_t length, std::int64_t page) { return (length + page - 1) / page; }

class Session {
 public:
  explicit Session(FuzzedDataProvider& input) : input_(input) {
    config_.kind = static_cast<mha_cache_kind>(integer(0, 2));
    config_.num_kv_heads = integer(1, 2);
    config_.head_dim = integer(1, 20);
    config_.value_head_dim = integer(1, 20);
    config_.max_sequences = integer(1, 4);
    config_.capacity = integer(0, 3) == 0 ? integer(250, 600) : integer(1, 48);
    if (config_.kind == MHA_CACHE_PAGED) config_.page_size = integer(1, 20);
    if (config_.kind == MHA_CACHE_RING && integer(0, 3) == 0) config_.sink_tokens = integer(0, 70);
    const bool int8 = integer(0, 3) == 0;
    config_.key = int8 ? choose_int8_storage(input) : choose_storage(input);
    config_.value = int8 ? choose_int8_storage(input) : choose_storage(input);
    random_.seed(input.ConsumeIntegral<std::uint32_t>());
    cache_ = make_cache(config_, memory_);
    config_ = cache_.config();
    config_.memory = nullptr;
    config_.memory_bytes = 0;
    model_.resize(static_cast<std::size_t>(config_.max_sequences));
  }

  void run() {
    for (int n = 0; n < 40 && input_.remaining_bytes() > 0; ++n) {
      switch (integer(0, 9)) {
        case 0:
        case 1:
        case 2:
          append();
          break;
        case 3:
          truncate();
          break;
        case 4:
          fork();
          break;
        case 5:
          remove();
          break;
        case 6:
          save_and_load();
          break;
        case 7:
          check_tokens(cache_, integer(0, config_.max_sequences - 1));
          break;
        default:
          attend();
      }
      for (std::int64_t s = 0; s < config_.max_sequences; ++s)
        MHA_FUZZ_CHECK(cache_.length(s) == at(s).length, "sequence %d", static_cast<int>(s));
    }
    for (std::int64_t s = 0; s < config_.max_sequences; ++s) check_tokens(cache_, s);
  }

 private:
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    return input_.ConsumeIntegralInRange<std::int64_t>(low, high);
  }
  float uniform() { return static_cast<float>(random_() >> 8) * 0x1p-23F - 1.0F; }
  Floats uniforms(std::int64_t count, float scale = 1) {
    Floats values(static_cast<std::size_t>(count));
    for (float& value : values) value = uniform() * scale;
    return values;
  }
  Sequence& at(std::int64_t s) { return model_[static_cast<std::size_t>(s)]; }
  std::int64_t first_kept(std::int64_t s) { return cache_.first_kept(s); }
  std::int64_t key_row() const { return config_.num_kv_heads * config_.head_dim; }
  std::int64_t value_row() const { return config_.num_kv_heads * config_.value_head_dim; }
  bool can_end_at(std::int64_t s, std::int64_t length) {
    return length <= config_.sink_tokens || length >= first_kept(s);
  }
  const Target& any_target() {
    return targets()[static_cast<std::size_t>(integer(0, static_cast<std::int64_t>(targets().size()) - 1))];
  }

  // In memory of its own or the library's.
  Cache make_cache(mha_cache_config config, Buffer<std::uint8_t>& memory) {
    const std::size_t bytes = take(Cache::memory_bytes(config));
    if (input_.ConsumeBool()) {
      memory = Buffer<std::uint8_t>(static_cast<std::int64_t>(bytes));
      config.memory = memory.data();
      config.memory_bytes = bytes;
    }
    return take(Cache::create(targets()[0].one_thread, config));
  }

  mha_rope choose_rope() {
    mha_rope rope{};
    rope.style = static_cast<mha_rope_style>(integer(0, 1));
    rope.dims = 2 * integer(1, config_.head_dim / 2);
    rope.base = input_.ConsumeBool() ? 500000 : 0;
    return rope;
  }

  // Rows [T, heads, D] as the library norms and rotates them on their own; from and to other types: the same, rounded.
  void prepare(const Context& context, Floats& rows, mha_dtype given, std::int64_t heads, const mha_rope* rope,
               const mha_norm* norm, const std::int64_t* positions, std::int64_t first) {
    if (rows.empty()) return;
    mha_rows_args args{};
    args.batch = 1;
    args.length = static_cast<std::int64_t>(rows.size()) / (heads * config_.head_dim);
    args.num_heads = heads;
    args.head_dim = config_.head_dim;
    args.rope = rope;
    args.norm = norm;
    if (rope != nullptr) {
      args.positions = positions;
      args.first_position = positions == nullptr ? first : 0;
    }
    const mha_dtype wanted = kDtypes[random_() % std::size(kDtypes)];
    const Elements input(given, rows.data(), rows.size());
    const Elements output(wanted, static_cast<std::int64_t>(rows.size()), kPoison);
    input.read_by(args.input), output.written_by(args.output);
    check_ok(context.rows_prepare(args));
    args.input = view<float>(rows.data());
    args.output = mut_view(rows.data());
    check_ok(context.rows_prepare(args));
    MHA_FUZZ_CHECK(output.are(rows.data()), "prepared from or to other types: other bits");
  }

  // Rows become what the cache keeps of them.
  void keep_stored(const Context& context, const mha_storage& storage, std::int64_t width, Floats& rows) {
    if (storage.dtype > MHA_BF16) return keep_codes(context, storage, config_.num_kv_heads, width, rows);
    keep(storage.dtype, rows);
  }

  // Distinct sequences, in any order.
  Sizes choose_sequences() {
    Sizes all(static_cast<std::size_t>(config_.max_sequences));
    for (std::size_t s = 0; s < all.size(); ++s) all[s] = static_cast<std::int64_t>(s);
    std::shuffle(all.begin(), all.end(), random_);
    all.resize(static_cast<std::size_t>(integer(1, config_.max_sequences)));
    return all;
  }

  void append();
  mha_status expected_of_append(const Sizes& sequences, const Sizes& counts, bool& certain);
  void truncate();
  void fork();
  void remove();
  void save_and_load();
  void check_tokens(const Cache& cache, std::int64_t s) { check_tokens(cache, s, at(s)); }
  void check_tokens(const Cache& cache, std::int64_t s, const Sequence& want);
  Call choose_call();
  bool is_allowed(const Call& c);
  void check_item(const Context& context, const Call& c, std::size_t b, const Results& results);
  void check_plain(const Context& context, const AttentionCall& item, const float* output, const float* lse);
  void export_codes(std::int64_t s, const CodedTokens& key, const CodedTokens& value);
  double bound_of_item(const Call& c, const AttentionCall& item, const Floats& query, const Floats& key);
  void attend();

  FuzzedDataProvider& input_;
  std::mt19937 random_;
  mha_cache_config config_{};
  Buffer<std::uint8_t> memory_;
  Cache cache_;
  std::vector<Sequence> model_;
};

}  // namespace mha::fuzz

#endif  // MHA_TOOLS_FUZZ_DECODE_SESSION_H
