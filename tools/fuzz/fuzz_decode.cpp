// SPDX-License-Identifier: Apache-2.0
// Caches under random operations (append, truncate, fork, remove, reset, export, save and load, attention) of any kind,
// any element types and any small size, against a model that keeps plain vectors of what the types can keep: what is
// exported has the model's bits, attention is close to the double reference on every target, has the bits of the same
// call over the model's floats (INT8: over the codes that are exported), and equal bits on the FMA targets (INT8: on all)
// and for the host's threads, and what fails changes nothing. All buffers are exact heap blocks for the address sanitizer.
#include <fuzzer/FuzzedDataProvider.h>
#include <mha/mha.hpp>

#include <algorithm>
#include <random>

#include "tools/fuzz/decode_attention.h"
#include "tools/fuzz/decode_session.h"

namespace mha::fuzz {

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

}  // namespace mha::fuzz

// Long enough for a session of some operations; libFuzzer begins with single bytes.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned random) {
  static const std::vector<std::string> seeds = mha::fuzz::random_seeds(800);
  return mha::fuzz::mutate_or_seed(data, size, max_size, random, seeds);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider input(data, size);
  mha::fuzz::Session(input).run();
  return 0;
}
