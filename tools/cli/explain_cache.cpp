// SPDX-License-Identifier: Apache-2.0
// Caches, pages and codes of `mha explain`; see explain_cache.h.
#include "tools/cli/explain_cache.h"

#include <algorithm>

namespace mha::cli {
namespace {

constexpr std::int64_t kByteLimit = std::int64_t{1} << 30;
constexpr std::int64_t kSequenceLimit = std::int64_t{1} << 20;

mha_cache_kind parse_kind(const std::string& word) {
  if (word == "contiguous") return MHA_CACHE_CONTIGUOUS;
  if (word == "ring") return MHA_CACHE_RING;
  if (word == "paged") return MHA_CACHE_PAGED;
  throw Failure("--cache is '" + word + "': must be contiguous, ring or paged");
}

// Storage with one scale of 1 and no zero for all rows, where the format asks for scales that are known in advance.
class Storage {
 public:
  Storage(const std::string& option, const std::string& text) : format_(parse_format(option, text)) {}
  mha_storage get() {
    if (!format_.fixed) return storage_of(format_);
    mha_storage storage{};
    storage.dtype = format_.dtype;
    quant_.scales = &scale_;
    storage.fixed = &quant_;
    return storage;
  }

 private:
  Format format_;
  float scale_ = 1;
  mha_quant quant_{};
};

// How many tokens each sequence has before the call.
std::vector<std::int64_t> held_lengths(const CallOptions& options, const CallData& data, std::int64_t batch,
                                       std::int64_t held) {
  std::int64_t sequences = std::max<std::int64_t>(batch, 1);
  for (const std::int64_t sequence : data.sequences) {
    sequences = std::max(sequences, std::min(sequence, kSequenceLimit) + 1);
  }
  if (sequences > kSequenceLimit) {
    throw Failure("explain makes the cache, and " + std::to_string(sequences) + " sequences are beyond its limit of " +
                  std::to_string(kSequenceLimit));
  }
  const std::string& text = options.cache.lengths;
  if (text.empty()) {
    if (held < 0) throw Failure("--cache needs --key-len >= --query-len >= 0 and --batch >= 0");
    return std::vector<std::int64_t>(static_cast<std::size_t>(sequences), held);
  }
  std::vector<std::int64_t> lengths = parse_numbers("--cache-lengths", text);
  (void)offsets_of("--cache-lengths", lengths);
  if (static_cast<std::int64_t>(lengths.size()) != sequences) {
    throw Failure("--cache-lengths has " + std::to_string(lengths.size()) + " numbers, the call has " +
                  std::to_string(sequences) + " sequences");
  }
  return lengths;
}

void check_bytes(const mha_cache_config& config) {
  if (take(Cache::memory_bytes(config)) > static_cast<std::size_t>(kByteLimit)) {
    throw Failure("explain makes the cache, and one of these sizes is beyond its limit of 1 GiB");
  }
}

// The capacity that the lengths need; config has all else.
std::int64_t capacity_for(mha_cache_config config, const CallOptions& options, const std::vector<std::int64_t>& lengths,
                          std::int64_t appended) {
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  config.capacity = std::max<std::int64_t>(longest + appended, 1);
  if (config.kind == MHA_CACHE_RING && options.masks.window_left > 0) {
    return std::min(options.masks.window_left, longest) + std::max<std::int64_t>(appended, 1);
  }
  if (config.kind == MHA_CACHE_PAGED) {
    check_bytes(config);  // so that the product below fits
    const std::int64_t page = std::max<std::int64_t>(options.cache.page_size, 64);
    return (config.capacity + page) * static_cast<std::int64_t>(lengths.size());
  }
  return config.capacity;
}

// Appends zeros: first what all sequences share, then what each has of its own.
void fill(const Context& context, Cache& cache, const CacheSizes& sizes, const std::vector<std::int64_t>& lengths,
          std::int64_t shared) {
  const std::int64_t width = std::max({sizes.head_dim, sizes.value_head_dim, std::int64_t{1}});
  const std::vector<float> zeros(static_cast<std::size_t>(width));
  const auto append = [&](std::int64_t sequence, std::int64_t length) {
    mha_append_args args{};
    args.batch = 1, args.length = length, args.sequences = &sequence;
    args.key = args.value = view(zeros.data(), {MHA_BROADCAST, MHA_BROADCAST, MHA_BROADCAST});
    check(cache.append(context, args));
  };
  const std::int64_t shortest = *std::min_element(lengths.begin(), lengths.end());
  if (shared < 0 || shared > shortest) {
    throw Failure("--shared-tokens is " + std::to_string(shared) + ", must be in [0, " + std::to_string(shortest) +
                  "], the tokens of the shortest sequence");
  }
  if (shared > 0) append(0, shared);
  for (std::size_t s = 0; s < lengths.size(); ++s) {
    if (shared > 0 && s > 0) check(cache.fork(0, static_cast<std::int64_t>(s), shared));
  }
  for (std::size_t s = 0; s < lengths.size(); ++s) append(static_cast<std::int64_t>(s), lengths[s] - shared);
}

}  // namespace

Cache make_cache(const Context& context, const CallOptions& options, const CallData& data, std::int64_t batch,
                 const CacheSizes& sizes) {
  const CacheOptions& o = options.cache;
  if (batch < 0 || sizes.appended < 0) throw Failure("--cache needs --key-len >= --query-len >= 0 and --batch >= 0");
  const std::vector<std::int64_t> lengths = held_lengths(options, data, batch, sizes.held);
  Storage key("--cache-key", o.key), value("--cache-value", o.value);
  mha_cache_config config{};
  config.kind = parse_kind(o.kind);
  config.value_in_key = o.value_in_key ? 1 : 0;
  config.num_kv_heads = sizes.num_kv_heads, config.head_dim = sizes.head_dim;
  config.value_head_dim = sizes.value_head_dim;
  config.max_sequences = o.max_sequences != 0 ? o.max_sequences : static_cast<std::int64_t>(lengths.size());
  config.page_size = o.page_size;
  config.key = key.get(), config.value = value.get();
  config.sink_tokens = o.sink_tokens;
  if (config.kind == MHA_CACHE_RING && o.sink_tokens == 0) config.sink_tokens = options.masks.sink_tokens;
  config.capacity = o.capacity != 0 ? o.capacity : capacity_for(config, options, lengths, sizes.appended);
  check_bytes(config);
  const Progress progress("filling the cache", 1);
  Cache cache = take(Cache::create(context, config));
  fill(context, cache, sizes, lengths, o.shared_tokens);
  return cache;
}

mha_cache_use parse_cache_use(const CacheOptions& options) {
  if (options.use == "append") return MHA_CACHE_APPEND;
  if (options.use == "read") return MHA_CACHE_READ;
  throw Failure("--cache-use is '" + options.use + "', must be append or read");
}

Pages make_pages(const CacheOptions& options, std::int64_t batch, std::int64_t key_len) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 26;
  const std::int64_t page_size = options.page_size != 0 ? options.page_size : 64;
  if (page_size < 1) throw Failure("--page-size is " + std::to_string(page_size) + ", must be at least 1");
  if (batch < 0 || batch > kSequenceLimit || key_len < 0 || key_len / page_size > kLimit / (batch + 1)) {
    throw Failure("explain makes the table of --pages, and --batch " + std::to_string(batch) + " or --key-len " +
                  std::to_string(key_len) + " is beyond its limits");
  }
  if (options.shared_tokens < 0 || options.shared_tokens > key_len) {
    throw Failure("--shared-tokens is " + std::to_string(options.shared_tokens) + ", must be in [0, " +
                  std::to_string(key_len) + "]");
  }
  const std::int64_t pages = key_len / page_size + (key_len % page_size != 0 ? 1 : 0);
  const std::int64_t shared = options.shared_tokens / page_size;
  Pages made;
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t n = 0; n < pages; ++n) {
      made.table.push_back(static_cast<std::int32_t>(n < shared ? n : b * pages + n));
    }
  }
  made.table.push_back(0);  // never empty
  made.pages.table = made.table.data();
  made.pages.page_size = page_size;
  made.pages.num_pages = std::max<std::int64_t>(batch * pages, 1);
  return made;
}

mha_quant quant_of(const Format& format, std::int64_t tokens, std::int64_t heads, std::int64_t width) {
  mha_quant quant{};
  const std::int64_t groups = format.group > 0 ? width / format.group + (width % format.group != 0 ? 1 : 0) : 1;
  quant.scales = some_floats();
  if (format.zeros) quant.zeros = some_floats();
  quant.scale_dtype = format.scale_dtype;
  quant.zero_dtype = format.dtype == MHA_I8 || format.dtype == MHA_I4 ? MHA_I8 : MHA_U8;
  if (!format.zeros) quant.zero_dtype = MHA_F32;
  quant.group = format.group;
  quant.group_tokens = format.tokens;
  if (format.group > 0) quant.stride_d = 1;
  quant.hadamard = format.hadamard ? 1 : 0;
  if (format.fixed) return quant;  // one scale for the whole tensor
  quant.stride_h = groups;
  if (__builtin_mul_overflow(heads, groups, &quant.stride_t) ||
      __builtin_mul_overflow(tokens, quant.stride_t, &quant.stride_b)) {
    throw Failure("'" + format.text + "': the scales of " + std::to_string(tokens) + " tokens are beyond 63 bits");
  }
  return quant;
}

}  // namespace mha::cli
