// SPDX-License-Identifier: Apache-2.0
// Golden cases of decoding, on every supported target: onnxruntime's GroupQueryAttention replayed step by step through
// every kind of cache, and PyTorch's scaled_dot_product_attention over items of unequal length in one call. The cases
// are listed in tools/oracles/decode_cases.py and ragged_cases.py.
#include <algorithm>

#include "core/mha.h"
#include "tests/support/caches.h"
#include "tests/support/calls.h"
#include "tests/support/golden.h"
#include "tests/support/targets.h"

using namespace mha::test;

namespace {

// Measured over all cases on avx512 and avx2 (MHA_TEST_MEASURE=1 mha_tests "[golden]" prints each): output 1.2e-6,
// median 5.5e-8; stored keys 1.7e-7, 9e-10; unequal lengths: output 3.5e-7, 3.0e-8, log-sum-exp 2.0e-7, 6.0e-8.
const Bound kOutputBound = {2e-6, 1e-7};
const Bound kKeyBound = {3e-7, 2e-9};
const Bound kRaggedBound = {6e-7, 6e-8};
const Bound kLseBound = {4e-7, 1e-7};

using Sizes = std::vector<int64_t>;

/// [0, a, a + b, ...] of the sizes a, b, ...
Sizes running_sums(const Sizes& sizes) {
  Sizes sums = {0};
  for (const int64_t size : sizes) sums.push_back(sums.back() + size);
  return sums;
}

/// One case of GroupQueryAttention: the tokens in the order in which they come, step by step, item by item in each.
struct DecodeCase {
  DecodeCase(const GoldenFile& file, const nlohmann::json& description)
      : name(description.at("name")),
        steps(description.at("steps").get<std::vector<Sizes>>()),
        num_heads(description.at("num_heads")),
        num_kv_heads(description.at("num_kv_heads")),
        head_dim(description.at("head_dim")),
        scale(description.at("scale")),
        window(description.at("window")),
        causal(description.at("causal") ? 1 : 0),
        query(file.floats(name + "/query")),
        key(file.floats(name + "/key")),
        value(file.floats(name + "/value")),
        query_weight(file.floats_or_none(name + "/query_norm")),
        key_weight(file.floats_or_none(name + "/key_norm")),
        sinks(file.floats_or_none(name + "/sinks")),
        bias(file.floats_or_none(name + "/bias")),
        want_output(file.doubles(name + "/output")),
        totals(steps.front().size()) {
    if (file.has(name + "/positions")) positions = file.integers(name + "/positions");
    if (file.has(name + "/stored_key")) want_key = file.doubles(name + "/stored_key");
    for (const Sizes& step : steps)
      for (size_t b = 0; b < step.size(); ++b) totals[b] += step[b];
    longest = *std::max_element(totals.begin(), totals.end());
    if (description.at("smooth")) sinks.assign(static_cast<size_t>(num_heads), 0.0f);
    mods.softcap = description.at("softcap");
    if (!sinks.empty()) mods.sink_logits = sinks.data();
    const std::string rope_style = description.at("rope");
    has_rope = !rope_style.empty();
    rope.style = description.at("rope") == "interleaved" ? MHA_ROPE_INTERLEAVED : MHA_ROPE_HALF;
    rope.dims = description.at("rope_dims");
    rope.base = description.at("rope_base");
    if (!query_weight.empty()) {
      query_norm.epsilon = key_norm.epsilon = description.at("norm_epsilon");
      query_norm.weight = query_weight.data(), key_norm.weight = key_weight.data();
    }
  }
  DecodeCase(const DecodeCase&) = delete;
  DecodeCase& operator=(const DecodeCase&) = delete;

  bool is_ragged(size_t step) const { return Sizes(steps[step].size(), steps[step][0]) != steps[step]; }
  int64_t longest_step() const {
    int64_t most = 0;
    for (const Sizes& step : steps) most = std::max(most, *std::max_element(step.begin(), step.end()));
    return most;
  }

  std::string name;
  std::vector<Sizes> steps;  // new tokens of each item
  int64_t num_heads, num_kv_heads, head_dim;
  float scale;
  int64_t window;
  int causal;
  std::vector<float> query, key, value, query_weight, key_weight, sinks, bias;
  std::vector<double> want_output, want_key;
  Sizes totals, positions;
  int64_t longest = 0;
  mha_score_mods mods = {};
  bool has_rope = false;
  mha_rope rope = {};
  mha_norm query_norm = {}, key_norm = {};  // where epsilon > 0
};

CachePtr make_cache(const mha_context* context, const DecodeCase& c, mha_cache_kind kind) {
  mha_cache_config config = {};
  config.kind = kind;
  config.num_kv_heads = c.num_kv_heads;
  config.head_dim = c.head_dim;
  config.max_sequences = static_cast<int64_t>(c.totals.size());
  config.capacity = c.longest;
  if (kind == MHA_CACHE_RING && c.window > 0)
    config.capacity = std::min(c.longest, c.window + c.longest_step() - 1);  // the window of a step's first token
  if (kind == MHA_CACHE_PAGED) {
    config.page_size = 3;
    config.capacity = config.max_sequences * (c.longest + config.page_size);
  }
  return mha::test::make_cache(context, config);
}

/// Where a step begins: tokens before it, of all items and of the first.
struct Begin {
  int64_t token = 0;
  int64_t of_item = 0;
};

void append(const mha_context* context, const DecodeCase& c, const Begin& begin, const Sizes& counts,
            const int64_t* offsets, mha_cache* cache) {
  mha_append_args args = {};
  args.batch = static_cast<int64_t>(counts.size());
  args.length = offsets ? offsets[args.batch] : counts[0];
  args.offsets = offsets;
  args.key = view(c.key.data() + begin.token * c.num_kv_heads * c.head_dim);
  args.value = view(c.value.data() + begin.token * c.num_kv_heads * c.head_dim);
  if (c.has_rope) args.rope = &c.rope;
  if (!c.positions.empty()) args.positions = c.positions.data() + begin.token;
  if (c.key_norm.epsilon > 0) args.key_norm = &c.key_norm;
  mha_error error = {};
  require_ok(mha_cache_append(context, cache, &args, &error), error);
}

void attend(const mha_context* context, const DecodeCase& c, const Begin& begin, const Sizes& counts,
            const int64_t* offsets, const mha_cache* cache, float* output) {
  AttentionCall args;
  args.batch = static_cast<int64_t>(counts.size());
  args.num_heads = c.num_heads;
  args.num_kv_heads = c.num_kv_heads;
  args.head_dim = c.head_dim;
  args.scale = c.scale;
  args.query_len = offsets ? offsets[args.batch] : counts[0];
  args.items.query_offsets = offsets;
  args.query = view(c.query.data() + begin.token * c.num_heads * c.head_dim);
  args.output = mut_view(output + begin.token * c.num_heads * c.head_dim);
  args.cache = cache;
  args.causal = c.causal;
  args.masks.window_left = c.window;
  if (!c.bias.empty()) {  // [B, H, tokens, tokens], of which this step has the rows from begin.of_item on
    const int64_t matrix = c.longest * c.longest;
    args.masks.add_mask = {
        c.bias.data() + begin.of_item * c.longest, MHA_F32, 0, c.num_heads * matrix, matrix, c.longest, 1};
  }
  args.score_mods = c.mods;
  if (c.has_rope) args.rope = &c.rope;
  if (c.query_norm.epsilon > 0) args.query_norm = &c.query_norm;
  if (!c.positions.empty()) args.positions.query = c.positions.data() + begin.token;
  mha_error error = {};
  require_ok(attention(context, args, &error), error);
}

/// All steps. Equal lengths go as a dense batch, or packed like unequal ones.
std::vector<float> replay(const mha_context* context, const DecodeCase& c, mha_cache* cache, bool always_packed) {
  std::vector<float> output = poisoned(static_cast<int64_t>(c.query.size()));
  Begin begin;
  for (size_t n = 0; n < c.steps.size(); ++n) {
    const Sizes& counts = c.steps[n];
    const Sizes offsets = running_sums(counts);
    const int64_t* packed = always_packed || c.is_ragged(n) ? offsets.data() : nullptr;
    append(context, c, begin, counts, packed, cache);
    attend(context, c, begin, counts, packed, cache, output.data());
    begin.token += offsets.back();
    begin.of_item += counts[0];
  }
  return output;
}

/// The keys of an item in the order of its tokens, as they were given.
std::vector<float> keys_of(const DecodeCase& c, size_t item) {
  const int64_t row = c.num_kv_heads * c.head_dim;
  std::vector<float> keys;
  const float* at = c.key.data();
  for (const Sizes& step : c.steps) {
    for (size_t b = 0; b < step.size(); ++b) {
      if (b == item) keys.insert(keys.end(), at, at + step[b] * row);
      at += step[b] * row;
    }
  }
  return keys;
}

/// What the cache holds at the end: the oracle's rotated keys, or the very keys given where nothing turns them.
void check_stored_keys(const std::string& what, const DecodeCase& c, const mha_cache* cache) {
  const int64_t row = c.num_kv_heads * c.head_dim;
  int64_t first = 0;
  for (size_t b = 0; b < c.totals.size(); ++b) {
    const auto item = static_cast<int64_t>(b);
    REQUIRE(mha_cache_length(cache, item) == c.totals[b]);
    std::vector<float> key = poisoned(c.totals[b] * row), value = poisoned(c.totals[b] * row);
    mha_export_args args = {};
    args.sequence = item, args.count = c.totals[b];
    args.key = mut_view(key.data()), args.value = mut_view(value.data());
    mha_error error = {};
    require_ok(mha_cache_export(cache, &args, &error), error);
    if (c.want_key.empty()) {
      check_same_bits(what, key, keys_of(c, b));
    } else {
      const auto begin = c.want_key.begin() + first * row;
      check_close(what, key, {begin, begin + c.totals[b] * row}, kKeyBound);
    }
    first += c.totals[b];
  }
}

}  // namespace

TEST_CASE("golden: GroupQueryAttention through every kind of cache", "[golden]") {
  const GoldenFile file("group_query_attention");
  for_each_target([&](const std::string& target, const mha_context* context) {
    for (const auto& description : file.cases()) {
      const DecodeCase c(file, description);
      std::vector<float> first;
      for (const mha_cache_kind kind : kCacheKinds) {
        for (const bool always_packed : {false, true}) {
          if (always_packed && !c.bias.empty()) continue;  // the mask of an item begins where the others' do
          const std::string what =
              " " + target + " " + c.name + " " + kind_name(kind) + (always_packed ? " packed" : "");
          INFO(what);
          CachePtr cache = make_cache(context, c, kind);
          const std::vector<float> got = replay(context, c, cache.get(), always_packed);
          if (first.empty()) {
            first = got;
            check_close("output" + what, got, c.want_output, kOutputBound);
          }
          check_same_bits("output" + what, got, first);
          if (mha_cache_first_kept(cache.get(), 0) == 0) check_stored_keys("keys" + what, c, cache.get());
        }
      }
    }
  });
}

TEST_CASE("golden: scaled_dot_product_attention over items of unequal length", "[golden]") {
  const GoldenFile file("ragged_attention");
  for_each_target([&](const std::string& target, const mha_context* context) {
    for (const auto& description : file.cases()) {
      const std::string name = description.at("name");
      std::string what = " ragged ";
      what.append(target).append(" ").append(name);
      INFO(what);
      Sizes queries, keys;
      for (const auto& item : description.at("lengths")) {
        queries.push_back(item.at(0));
        keys.push_back(item.at(1));
      }
      const Sizes query_offsets = running_sums(queries), key_offsets = running_sums(keys);
      const std::vector<float> query = file.floats(name + "/query"), key = file.floats(name + "/key");
      const std::vector<float> value = file.floats(name + "/value");
      const std::vector<double> want = file.doubles(name + "/output"), want_lse = file.doubles(name + "/log_sum_exp");
      std::vector<float> output = poisoned(static_cast<int64_t>(want.size()));
      std::vector<float> log_sum_exp = poisoned(static_cast<int64_t>(want_lse.size()));
      AttentionCall args;
      args.batch = static_cast<int64_t>(queries.size());
      args.num_heads = description.at("num_heads");
      args.num_kv_heads = description.at("num_kv_heads");
      args.head_dim = description.at("head_dim");
      args.value_head_dim = description.at("value_head_dim");
      args.query_len = query_offsets.back();
      args.key_len = key_offsets.back();
      args.items.query_offsets = query_offsets.data();
      args.items.key_offsets = key_offsets.data();
      args.query = view(query.data());
      args.key = view(key.data());
      args.value = view(value.data());
      if (description.at("causal")) args.causal = 1;
      args.output = mut_view(output.data());
      args.results.log_sum_exp = log_sum_exp.data();
      mha_error error = {};
      require_ok(attention(context, args, &error), error);
      check_close("output" + what, output, want, kRaggedBound);
      check_close("log-sum-exp" + what, log_sum_exp, want_lse, kLseBound);
    }
  });
}
