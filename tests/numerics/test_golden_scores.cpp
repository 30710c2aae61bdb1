// SPDX-License-Identifier: Apache-2.0
// Every golden case of structured masks and score modifications (torch's flex_attention and plain operations), on every
// supported target and through the double reference; T5's buckets. Listed in tools/oracles/score_cases.py.
#include "tests/support/golden.h"
#include "tests/support/shapes.h"
#include "tests/support/targets.h"

using namespace mha::test;

namespace {

// Measured over all cases on avx512 and avx2: output 2.4e-7, weights 1.2e-7, log-sum-exp 2.1e-7.
const Bound kOutputBound = {5e-7, 6e-8};
const Bound kWeightsBound = {3e-7, 2e-8};
const Bound kLseBound = {5e-7, 2e-7};

/// The arguments of one case and all that they point to.
struct ScoreCase {
  std::string name;
  std::vector<float> query, key, value, slopes, sinks, bias;
  std::vector<int64_t> prefix, pairs;
  std::vector<int32_t> query_segments, key_segments;
  std::vector<uint8_t> bits;
  AttentionCall args;

  ScoreCase(const GoldenFile& file, const nlohmann::json& c)
      : name(c.at("name")),
        query(file.floats(name + "/query")),
        key(file.floats(name + "/key")),
        value(file.floats(name + "/value")) {
    args.batch = c.at("batch"), args.num_heads = c.at("num_heads"), args.num_kv_heads = c.at("num_kv_heads");
    args.query_len = c.at("query_len"), args.key_len = c.at("key_len"), args.head_dim = c.at("head_dim");
    args.query = by_heads(query, args.num_heads, args.query_len);
    args.key = by_heads(key, args.num_kv_heads, args.key_len);
    args.value = by_heads(value, args.num_kv_heads, args.key_len);
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    set_ranges(c);
    set_lists(file, c);
    set_mods(file, c);
  }
  ScoreCase(const ScoreCase&) = delete;
  ScoreCase& operator=(const ScoreCase&) = delete;

  mha_view by_heads(const std::vector<float>& values, int64_t heads, int64_t length) const {
    return mha::view(values.data(), {heads * length * args.head_dim, args.head_dim, length * args.head_dim});
  }
  void set_ranges(const nlohmann::json& c) {
    mha_masks& m = args.masks;
    if (c.at("causal")) args.causal = 1;
    if (!c.at("offset").is_null())
      args.causal = 1, args.positions.align = MHA_ALIGN_OFFSET, args.positions.offset = c.at("offset");
    m.window_left = c.at("window_left"), m.window_right = c.at("window_right"), m.sink_tokens = c.at("sink_tokens");
    prefix = c.at("prefix").get<std::vector<int64_t>>();
    if (!prefix.empty()) m.prefix_lengths = prefix.data();
  }
  void set_lists(const GoldenFile& file, const nlohmann::json& c) {
    mha_masks& m = args.masks;
    if (c.at("segments") > 0) {
      for (int64_t segment : file.integers(name + "/query_segments")) query_segments.push_back(int32_t(segment));
      for (int64_t segment : file.integers(name + "/key_segments")) key_segments.push_back(int32_t(segment));
      m.query_segments = query_segments.data(), m.key_segments = key_segments.data();
    }
    if (!c.at("blocks").empty()) {
      pairs = file.integers(name + "/pairs");
      m.block_mask = {c.at("blocks")[0], c.at("blocks")[1], pairs.data(), int64_t(pairs.size()) / 2};
    }
    if (c.at("bits")) {
      const std::vector<uint8_t> open = file.bytes(name + "/bits");
      const int64_t bytes = (args.key_len + 7) / 8;
      bits.resize(open.size() / size_t(args.key_len) * size_t(bytes));
      for (size_t n = 0; n < open.size(); ++n) {
        const size_t row = n / size_t(args.key_len), j = n % size_t(args.key_len);
        if (open[n]) bits[row * size_t(bytes) + j / 8] |= uint8_t(1 << j % 8);
      }
      m.bit_mask = {bits.data(), args.num_heads * args.query_len * bytes, args.query_len * bytes, bytes};
    }
  }
  void set_mods(const GoldenFile& file, const nlohmann::json& c) {
    mha_score_mods& m = args.score_mods;
    m.softcap = c.at("softcap");
    slopes = file.floats_or_none(name + "/slopes");
    sinks = file.floats_or_none(name + "/sinks");
    if (!slopes.empty()) m.alibi_slopes = slopes.data();
    if (!sinks.empty()) m.sink_logits = sinks.data();
    if (c.at("t5").empty()) return;
    const int64_t distance = c.at("t5")[1];
    bias.resize(size_t(args.num_heads * (2 * distance + 1)));
    mha_error error = {};
    require_ok(mha_t5_bias(file.floats(name + "/table").data(), args.num_heads, c.at("t5")[0], distance,
                           c.at("t5")[2].get<bool>(), bias.data(), &error),
               error);
    m.relative_bias = bias.data(), m.relative_left = m.relative_right = distance;
  }
  std::vector<double> want_output(const GoldenFile& file) const {
    return swap_middle(file.doubles(name + "/output"), args.batch, args.num_heads, args.query_len, args.head_dim);
  }
};

}  // namespace

TEST_CASE("golden: masks and score modifications through the reference", "[golden][masks][mods]") {
  const GoldenFile file("masks_and_scores");
  CHECK(file.cases().size() >= 20);
  for (const auto& description : file.cases()) {
    const ScoreCase c(file, description);
    const AttentionReference got = reference_attention(c.args);
    check_rounds_to("reference output " + c.name, got.output, c.want_output(file));
    check_rounds_to("reference weights " + c.name, got.weights, file.doubles(c.name + "/weights"));
    check_rounds_to("reference log-sum-exp " + c.name, got.log_sum_exp, file.doubles(c.name + "/log_sum_exp"));
  }
}

TEST_CASE("golden: masks and score modifications through mha_attention", "[golden][masks][mods]") {
  const GoldenFile file("masks_and_scores");
  for_each_target([&](const std::string& target, const mha_context* context) {
    for (const auto& description : file.cases()) {
      const ScoreCase c(file, description);
      const std::string what = " scores " + target + " " + c.name;
      const AttentionResult got = run_attention(context, c.args);
      check_close("output" + what, got.output, c.want_output(file), kOutputBound);
      check_close("weights" + what, got.weights, file.doubles(c.name + "/weights"), kWeightsBound);
      check_close("log-sum-exp" + what, got.log_sum_exp, file.doubles(c.name + "/log_sum_exp"), kLseBound);
    }
  });
}

TEST_CASE("golden: T5's buckets are transformers'", "[golden][mods]") {
  const GoldenFile file("masks_and_scores");
  const struct {
    int64_t buckets, distance;
    bool both;
  } tables[] = {{32, 128, true}, {32, 128, false}, {8, 20, true},    {8, 20, false},
                {10, 33, true},  {2, 2, false},    {64, 1000, true}, {7, 100, false}};
  for (const auto& t : tables) {
    const std::string name =
        "t5_buckets_" + std::to_string(t.buckets) + "_" + std::to_string(t.distance) + (t.both ? "_both" : "_one");
    const std::vector<int64_t> want = file.integers(name + "/buckets");
    std::vector<float> table;  // bucket n of head h: 2 n + h
    for (int64_t n = 0; n < t.buckets; ++n) table.insert(table.end(), {float(2 * n), float(2 * n + 1)});
    std::vector<float> got = poisoned(2 * int64_t(want.size()));
    mha_error error = {};
    require_ok(mha_t5_bias(table.data(), 2, t.buckets, t.distance, t.both, got.data(), &error), error);
    for (size_t n = 0; n < want.size(); ++n) {
      INFO(name << " distance " << int64_t(n) - t.distance);
      CHECK(got[n] == float(2 * want[n]));
      CHECK(got[want.size() + n] == float(2 * want[n] + 1));
    }
  }
}
