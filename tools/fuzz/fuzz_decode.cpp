// SPDX-License-Identifier: Apache-2.0
// Caches under random operations (append, truncate, fork, remove, reset, export, save and load, attention) of any kind,
// any element types and any small size, against a model that keeps plain vectors of what the types can keep: what is
// exported has the model's bits, attention is close to the double reference on every target, has the bits of the same
// call over the model's floats, and equal bits on the FMA targets and for the host's threads, and what fails changes
// nothing. All buffers are exact heap blocks for the address sanitizer.
#include <fuzzer/FuzzedDataProvider.h>
#include <mha/mha.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>

#include "core/reference/reference.h"
#include "tools/fuzz/codes.h"
#include "tools/fuzz/decode_call.h"

namespace {

using namespace mha::fuzz;
using mha::AttentionCall;
using mha::Cache;
using mha::Context;
using mha::mut_view;
using mha::Status;
using mha::view;

// Tokens as plain vectors, [T, Hkv, D] and [T, Hkv, Dv].
struct Sequence {
  Floats key, value;
  std::int64_t length = 0;
};

std::int64_t pages_of(std::int64_t length, std::int64_t page) { return (length + page - 1) / page; }

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
    config_.key = choose_storage(input);
    config_.value = choose_storage(input);
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
  void attend();

  FuzzedDataProvider& input_;
  std::mt19937 random_;
  mha_cache_config config_{};
  Buffer<std::uint8_t> memory_;
  Cache cache_;
  std::vector<Sequence> model_;
};

// FULL or OK; not certain where it depends on which pages are shared.
mha_status Session::expected_of_append(const Sizes& sequences, const Sizes& counts, bool& certain) {
  certain = true;
  if (config_.kind == MHA_CACHE_RING) return MHA_OK;
  std::int64_t pages = 0;
  Sizes lengths;
  for (const Sequence& sequence : model_) lengths.push_back(sequence.length);
  for (std::size_t b = 0; b < sequences.size(); ++b) {
    std::int64_t& length = lengths[static_cast<std::size_t>(sequences[b])];
    length += counts[b];
    if (length > config_.capacity) return MHA_ERR_FULL;
  }
  if (config_.kind == MHA_CACHE_CONTIGUOUS) return MHA_OK;
  for (const std::int64_t length : lengths) pages += pages_of(length, config_.page_size);
  certain = pages * config_.page_size <= config_.capacity;
  return MHA_OK;
}

void Session::append() {
  const Sizes sequences = choose_sequences();
  const auto batch = static_cast<std::int64_t>(sequences.size());
  const bool packed = input_.ConsumeBool();
  const std::int64_t most = integer(0, 7) == 0 ? 300 : 20;
  Sizes counts(sequences.size(), integer(0, most));
  if (packed)
    for (std::int64_t& count : counts) count = integer(0, most);
  const Sizes sums = running_sums(counts);
  const Buffer<std::int64_t> offsets = exact(sums), numbers = exact(sequences);
  Floats key = uniforms(sums.back() * key_row()), value = uniforms(sums.back() * value_row());
  const mha_dtype key_dtype = choose_dtype(input_), value_dtype = choose_dtype(input_);
  keep(key_dtype, key), keep(value_dtype, value);
  const Elements key_block(key_dtype, key.data(), key.size()), value_block(value_dtype, value.data(), value.size());
  const bool rotates = config_.head_dim > 1 && input_.ConsumeBool();
  const mha_rope rope = rotates ? choose_rope() : mha_rope{};
  Sizes positions;
  if (rotates && input_.ConsumeBool())
    for (std::int64_t n = 0; n < sums.back(); ++n) positions.push_back(static_cast<std::int64_t>(random_() % 5000));
  const Buffer<std::int64_t> position_block = exact(positions);
  mha_norm norm{};
  norm.epsilon = 1e-5F;
  const mha_norm* key_norm = integer(0, 3) == 0 ? &norm : nullptr;

  mha_append_args args{};
  args.batch = batch;
  args.sequences = numbers.data();
  args.length = packed ? sums.back() : counts[0];
  args.offsets = packed ? offsets.data() : nullptr;
  key_block.read_by(args.key), value_block.read_by(args.value);
  args.rope = rotates ? &rope : nullptr;
  args.positions = positions.empty() ? nullptr : position_block.data();
  args.key_norm = key_norm;
  const Target& target = any_target();
  const Context& context = input_.ConsumeBool() ? target.one_thread : target.host_threads;
  bool certain = true;
  const mha_status expected = expected_of_append(sequences, counts, certain);
  const Status status = cache_.append(context, args);
  MHA_FUZZ_CHECK(status.code() == expected || (!certain && status.code() == MHA_ERR_FULL),
                 "append: %s (%s), expected %s", mha_status_string(status.code()), status.message(),
                 mha_status_string(expected));
  if (!status) return;
  for (std::size_t b = 0; b < sequences.size(); ++b) {
    Sequence& sequence = at(sequences[b]);
    Floats rows(key.begin() + sums[b] * key_row(), key.begin() + sums[b + 1] * key_row());
    const std::int64_t* own = positions.empty() ? nullptr : positions.data() + sums[b];
    if (args.rope != nullptr || key_norm != nullptr)
      prepare(context, rows, key_dtype, config_.num_kv_heads, args.rope, key_norm, own, sequence.length);
    Floats values(value.begin() + sums[b] * value_row(), value.begin() + sums[b + 1] * value_row());
    keep_stored(context, config_.key, config_.head_dim, rows);
    keep_stored(context, config_.value, config_.value_head_dim, values);
    sequence.key.insert(sequence.key.end(), rows.begin(), rows.end());
    sequence.value.insert(sequence.value.end(), values.begin(), values.end());
    sequence.length += counts[b];
    if (config_.kind != MHA_CACHE_RING) MHA_FUZZ_CHECK(first_kept(sequences[b]) == 0, "only a ring drops");
  }
}

void Session::truncate() {
  const std::int64_t s = integer(0, config_.max_sequences - 1);
  Sequence& sequence = at(s);
  const std::int64_t length = integer(0, sequence.length + 1);
  const bool allowed = length <= sequence.length && can_end_at(s, length);
  const Status status = cache_.truncate(s, length);
  MHA_FUZZ_CHECK(status.code() == (allowed ? MHA_OK : MHA_ERR_ARGUMENT), "truncate: %s", status.message());
  if (!allowed) return;
  sequence.length = length;
  sequence.key.resize(static_cast<std::size_t>(length * key_row()));
  sequence.value.resize(static_cast<std::size_t>(length * value_row()));
}

void Session::fork() {
  const std::int64_t from = integer(0, config_.max_sequences - 1), to = integer(0, config_.max_sequences - 1);
  const std::int64_t wanted = integer(-1, at(from).length + 1);
  const std::int64_t length = wanted == -1 ? at(from).length : wanted;
  const bool allowed = from != to && at(to).length == 0 && length <= at(from).length && can_end_at(from, length);
  const Status status = cache_.fork(from, to, wanted);
  MHA_FUZZ_CHECK(status.code() == (allowed ? MHA_OK : MHA_ERR_ARGUMENT), "fork: %s", status.message());
  if (!allowed) return;
  at(to) = at(from);
  at(to).length = length;
  at(to).key.resize(static_cast<std::size_t>(length * key_row()));
  at(to).value.resize(static_cast<std::size_t>(length * value_row()));
  check_tokens(cache_, to);
}

void Session::remove() {
  if (integer(0, 3) == 0) {
    cache_.reset();
    for (Sequence& sequence : model_) sequence = {};
    MHA_FUZZ_CHECK(cache_.used_bytes() == 0, "%zu", cache_.used_bytes());
    return;
  }
  const std::int64_t s = integer(0, config_.max_sequences - 1);
  check_ok(cache_.remove(s));
  at(s) = {};
}

// All that the sequence keeps has the model's bits, rounded where it is exported to another type.
void Session::check_tokens(const Cache& cache, std::int64_t s, const Sequence& want) {
  const std::int64_t kept = cache.first_kept(s);
  const std::int64_t begins[] = {0, kept};
  const std::int64_t ends[] = {kept == 0 ? 0 : std::min(config_.sink_tokens, want.length), want.length};
  for (int part = 0; part < 2; ++part) {
    const std::int64_t begin = begins[part], count = ends[part] - begin;
    const Elements key(kDtypes[random_() % std::size(kDtypes)], count * key_row(), kPoison);
    const Elements value(kDtypes[random_() % std::size(kDtypes)], count * value_row(), kPoison);
    mha_export_args args{};
    args.sequence = s, args.begin = begin, args.count = count;
    key.written_by(args.key), value.written_by(args.value);
    check_ok(cache.export_to(args));
    MHA_FUZZ_CHECK(key.are(want.key.data() + begin * key_row()) && value.are(want.value.data() + begin * value_row()),
                   "sequence %d keeps other tokens", static_cast<int>(s));
  }
}

// Into an empty cache of any kind with room; a damaged or shortened block is refused.
void Session::save_and_load() {
  const std::int64_t s = integer(0, config_.max_sequences - 1);
  const std::size_t bytes = take(cache_.save_bytes(s));
  const Buffer<float> floats(static_cast<std::int64_t>(bytes + 3) / 4);
  auto* blob = reinterpret_cast<std::byte*>(floats.data());
  check_ok(cache_.save(s, {blob, bytes}));
  mha_cache_config config = config_;
  config.kind = static_cast<mha_cache_kind>(integer(0, 2));
  config.capacity = std::max<std::int64_t>(1, at(s).length);
  config.page_size = config.kind == MHA_CACHE_PAGED ? integer(1, 20) : 0;
  if (config.kind != MHA_CACHE_RING) config.sink_tokens = 0;
  config.max_sequences = 1;
  if (integer(0, 7) == 0) {
    const mha_dtype other_dtype = config_.value.dtype == MHA_F16 ? MHA_BF16 : MHA_F16;
    config.value = {};
    config.value.dtype = other_dtype;
  }
  Buffer<std::uint8_t> memory;
  Cache other = make_cache(config, memory);

  const std::size_t place = integer(0, 1) == 0 ? random_() % bytes : random_() % std::min<std::size_t>(bytes, 192);
  const auto flip = static_cast<std::byte>(1U << random_() % 8);
  blob[place] ^= flip;
  MHA_FUZZ_CHECK(other.load(0, {blob, bytes}).code() == MHA_ERR_BLOB, "damage at %zu", place);
  blob[place] ^= flip;
  const std::size_t less = random_() % bytes;
  const Buffer<float> part(static_cast<std::int64_t>(less) / 4);
  std::copy_n(floats.data(), part.size(), part.data());
  const auto* shortened = reinterpret_cast<const std::byte*>(part.data());
  MHA_FUZZ_CHECK(other.load(0, {shortened, part.size() * 4}).code() == MHA_ERR_BLOB, "shortened");
  MHA_FUZZ_CHECK(other.length(0) == 0, "a damaged block was loaded");

  const Status status = other.load(0, {blob, bytes});
  if (config.value.dtype != config_.value.dtype) {
    MHA_FUZZ_CHECK(status.code() == MHA_ERR_BLOB && other.length(0) == 0, "values of another type were loaded");
    return;
  }
  if (first_kept(s) > 0 && config.kind != MHA_CACHE_RING) {
    MHA_FUZZ_CHECK(status.code() == MHA_ERR_UNSUPPORTED, "%s", mha_status_string(status.code()));
    return;
  }
  check_ok(status);
  MHA_FUZZ_CHECK(other.length(0) == at(s).length, "loaded");
  check_tokens(other, 0, at(s));
}

Call Session::choose_call() {
  Call c;
  c.sequences = choose_sequences();
  const bool packed = input_.ConsumeBool();
  c.counts.assign(c.sequences.size(), integer(0, 9));
  if (packed)
    for (std::int64_t& count : c.counts) count = integer(0, integer(0, 7) == 0 ? 40 : 5);
  c.offsets = running_sums(c.counts);
  AttentionCall& a = c.args;
  a.batch = static_cast<std::int64_t>(c.sequences.size());
  a.num_kv_heads = config_.num_kv_heads;
  a.num_heads = a.num_kv_heads * integer(1, 3);
  a.query_len = packed ? c.offsets.back() : c.counts[0];
  a.head_dim = config_.head_dim;
  a.value_head_dim = config_.value_head_dim;
  a.cache = cache_.get();
  c.is_packed = packed;
  c.query = uniforms(c.offsets.back() * a.num_heads * a.head_dim, 2);
  c.query_dtype = choose_dtype(input_), c.output_dtype = choose_dtype(input_);
  keep(c.query_dtype, c.query);
  for (const std::int64_t s : c.sequences) c.lengths.push_back(at(s).length);
  choose_masks(input_, random_, c);
  if (config_.kind == MHA_CACHE_RING && input_.ConsumeBool()) {
    // As far as the ring reaches, or one token more or less.
    const std::int64_t reach = c.position(0) - first_kept(c.sequences[0]) + 1 + integer(-1, 1);
    a.masks.window_left = std::max<std::int64_t>(1, reach);
  }
  choose_mods(input_, random_, c);
  if (a.head_dim > 1 && input_.ConsumeBool()) {
    c.has_rope = true;
    c.rope = choose_rope();
    for (std::int64_t n = 0; n < c.offsets.back(); ++n)
      c.positions.push_back(static_cast<std::int64_t>(random_() % 5000));
  }
  if (integer(0, 3) == 0) c.norm.epsilon = 1e-5F;
  a.arithmetic = choose_arithmetic(input_);
  return c;
}

// Where a ring dropped tokens, the window must leave them out.
bool Session::is_allowed(const Call& c) {
  const mha_masks& masks = c.args.masks;
  for (std::size_t b = 0; b < c.sequences.size(); ++b) {
    const std::int64_t kept = first_kept(c.sequences[b]);
    if (kept == 0 || c.counts[b] == 0) continue;
    if (masks.window_left == 0 || c.position(b) - masks.window_left + 1 < kept) return false;
    if (masks.sink_tokens > config_.sink_tokens) return false;
  }
  return true;
}

// An item over plain floats has the bits of the cache.
void Session::check_plain(const Context& context, const AttentionCall& item, const float* output, const float* lse) {
  const std::int64_t rows = item.query_len * item.num_heads;
  const Elements made(MHA_F32, rows * item.value_head_dim, kPoison);
  const Buffer<float> sums(rows);
  AttentionCall args = item;
  made.written_by(args.output);
  args.results.log_sum_exp = sums.data();
  check_ok(context.attention(args));
  MHA_FUZZ_CHECK(made.are(output) && std::memcmp(sums.data(), lse, sums.size() * sizeof(float)) == 0,
                 "the cache changes bits");
}

// The rows of item `b`, beside the reference on the model's tokens.
void Session::check_item(const Context& context, const Call& c, std::size_t b, const Results& results) {
  const AttentionCall& a = c.args;
  Sequence sequence = at(c.sequences[b]);
  for (std::int64_t t = config_.sink_tokens; t < first_kept(c.sequences[b]); ++t)  // dropped: must not matter
    std::fill_n(sequence.key.begin() + t * key_row(), key_row(), std::numeric_limits<float>::quiet_NaN());
  const std::int64_t row = a.num_heads * a.head_dim;
  Floats query(c.query.begin() + c.offsets[b] * row, c.query.begin() + c.offsets[b + 1] * row);
  if (c.has_rope || c.norm.epsilon > 0)
    prepare(context, query, c.query_dtype, a.num_heads, c.has_rope ? &c.rope : nullptr,
            c.norm.epsilon > 0 ? &c.norm : nullptr, c.has_rope ? c.positions.data() + c.offsets[b] : nullptr, 0);
  AttentionCall item = c.item(b);
  item.query = view<float>(query.data());
  item.key = view<float>(sequence.key.data());
  item.value = view<float>(sequence.value.data());
  const auto first = static_cast<std::size_t>(c.offsets[b] * a.num_heads);
  const float* made = results.output.floats().data() + first * static_cast<std::size_t>(a.value_head_dim);
  check_plain(context, item, made, results.lse.data() + first);
  for (Floats* operand : {&query, &sequence.key, &sequence.value}) keep_operands(a.arithmetic, *operand);
  const std::int64_t rows = c.counts[b] * a.num_heads;
  std::vector<double> output(static_cast<std::size_t>(rows * a.value_head_dim));
  std::vector<double> lse(static_cast<std::size_t>(rows));
  mha::reference::attention<double>(item.raw(), output.data(), nullptr, lse.data());
  const double bound = bound_of(a.arithmetic, kF32Bound);
  for (std::size_t n = 0; n < output.size(); ++n) check_value(made[n], output[n], bound, "output");
  for (std::size_t n = 0; n < lse.size(); ++n) check_value(results.lse[first + n], lse[n], bound, "log_sum_exp");
}

void Session::attend() {
  const Call c = choose_call();
  const bool allowed = is_allowed(c);
  Results fma;
  bool have_fma = false;
  for (const Target& target : targets()) {
    if (!target.computes(c.args.arithmetic)) continue;
    Called made = call(target.one_thread, c, true);
    Results& results = made.results;
    MHA_FUZZ_CHECK(made.status.code() == (allowed ? MHA_OK : MHA_ERR_ARGUMENT), "attention: %s (%s)",
                   mha_status_string(made.status.code()), made.status.message());
    if (!allowed) {
      for (std::size_t n = 0; n < results.output.size(); ++n) MHA_FUZZ_CHECK(results.output.is(n, kPoison), "written");
      continue;
    }
    const Results threaded = call(target.host_threads, c, true).results;
    MHA_FUZZ_CHECK(same_bits(threaded, results), "threads change bits on %s", target.name.c_str());
    const Called typed = call(input_.ConsumeBool() ? target.one_thread : target.host_threads, c, false);
    MHA_FUZZ_CHECK(typed.status && same_bits(typed.results, results), "other types change bits on %s: %s",
                   target.name.c_str(), typed.status.message());
    for (std::size_t b = 0; b < c.sequences.size(); ++b)
      if (c.counts[b] > 0) check_item(target.one_thread, c, b, results);
    if (!target.same_bits) continue;
    if (have_fma) MHA_FUZZ_CHECK(same_bits(results, fma), "%s gives other bits", target.name.c_str());
    have_fma = true;
    fma = std::move(results);
  }
}

}  // namespace

// Long enough for a session of some operations; libFuzzer begins with single bytes.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned random) {
  static const std::vector<std::string> seeds = mha::fuzz::random_seeds(800);
  return mha::fuzz::mutate_or_seed(data, size, max_size, random, seeds);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider input(data, size);
  Session(input).run();
  return 0;
}
