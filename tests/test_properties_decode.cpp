// SPDX-License-Identifier: Apache-2.0
// Decoding on random histories: attention over a cache, whatever its kind, pages and forks, the batch ragged or not, is
// the bits of one plain call a sequence; so is a layer that decodes in any pieces, and so are partial results merged.
#include "support/random_decode.h"

using namespace mha::test;

namespace {

bool all_poison(const std::vector<float>& values) {
  for (const float value : values)
    if (!is_poison(value)) return false;
  return true;
}

/// Fails and returns false where `count` floats differ.
bool check_run(const std::string& what, const std::vector<float>& got, int64_t at, const std::vector<float>& want,
               int64_t want_at, int64_t count) {
  const int64_t n = first_bit_difference(got.data() + at, want.data() + want_at, static_cast<size_t>(count));
  if (n < 0) return true;
  FAIL_CHECK(what << ": element " << n << " of " << count << " is " << got[at + n] << ", not " << want[want_at + n]);
  return false;
}

/// Item b of the whole call's weights, which are padded to the longest item, against its own.
bool check_weights(const RandomDecode& d, int64_t b, const AttentionResult& all, const AttentionResult& own) {
  const mha_attention_args& a = d.args();
  if (a.weights_mode == MHA_WEIGHTS_NONE) return true;
  const int64_t heads = a.weights_mode == MHA_WEIGHTS_AVERAGED ? 1 : d.H, keys = d.key_len(b);
  int64_t rows = d.rows_chosen() ? a.weight_rows.count : d.query_len(b);
  int64_t total = d.rows_chosen() ? rows : a.query_len, first = 0, item = b * heads * total;
  if (a.weights_mode == MHA_WEIGHTS_KEY_SUMS) {
    rows = total = 1, item = b * heads;
  } else if (a.query_offsets && !d.rows_chosen()) {
    first = d.query_begin(b), item = 0;
  }
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = (item + h * total + first + r) * d.longest_key;
      const std::string what =
          "weights of item " + std::to_string(b) + " head " + std::to_string(h) + " row " + std::to_string(r);
      if (!check_run(what, all.weights, at, own.weights, (h * rows + r) * keys, keys)) return false;
      const std::vector<float> zeros(static_cast<size_t>(d.longest_key - keys));
      if (!check_run(what + " beyond its keys", all.weights, at + keys, zeros, 0, d.longest_key - keys)) return false;
    }
  }
  return true;
}

void check_item(const RandomDecode& d, int64_t b, const AttentionResult& all, const AttentionResult& own) {
  const int64_t outputs = d.H * d.args().value_head_dim, rows = d.query_len(b) * d.H;
  const std::string item = " of item " + std::to_string(b);
  check_run("output" + item, all.output, d.query_begin(b) * outputs, own.output, 0, d.query_len(b) * outputs) &&
      check_run("log-sum-exp" + item, all.log_sum_exp, d.query_begin(b) * d.H, own.log_sum_exp, 0, rows) &&
      check_weights(d, b, all, own);
}

/// The item by a plain call; what a sum over no queries is, nobody else says.
AttentionResult plain_item(const mha_context* context, RandomDecode& d, int64_t b) {
  mha_status status = MHA_OK;
  mha_error error = {};
  AttentionResult own = run_guarded(context, d.item(b), d.key_len(b), &status, &error);
  require_ok(status, error);
  if (d.query_len(b) == 0) std::fill(own.weights.begin(), own.weights.end(), 0.0f);
  return own;
}

/// Far from exact: what matters here is that nothing is left out. Bits say the rest.
void check_reference(RandomDecode& d, int64_t b, const AttentionResult& own) {
  mha_attention_args args = d.item(b);
  args.weights_mode = MHA_WEIGHTS_NONE;
  const AttentionReference want = reference_attention(args);
  check_close("output against the reference", own.output, want.output, {2e-3, 1e-4});
  check_close("log-sum-exp against the reference", own.log_sum_exp, want.log_sum_exp, {2e-3, 1e-4});
}

}  // namespace

TEST_CASE("decode properties: attention over a cache is one plain call a sequence", "[properties][cache][bits]") {
  int64_t refused = 0, rings = 0, shared = 0, closely = 0;
  for (uint64_t seed = 310000; seed < 310400; ++seed) {
    Random random(seed);
    RandomDecode d(random);
    INFO("seed " << seed << ": " << d.describe());
    const RandomContext context = random_context(random);
    mha_status status = MHA_OK;
    mha_error error = {};
    if (d.refused()) {
      const AttentionResult none = run_guarded(context.get(), d.args(), d.longest_key, &status, &error);
      CHECK(status == MHA_ERR_ARGUMENT);
      CHECK((mentions(error, "masks.window_left") || mentions(error, "masks.sink_tokens")));
      CHECK((all_poison(none.output) && all_poison(none.weights) && all_poison(none.log_sum_exp)));
      ++refused;
      continue;
    }
    std::vector<AttentionResult> items;
    for (int64_t b = 0; b < d.B; ++b) items.push_back(plain_item(shared_context(context.target, 1), d, b));
    for (const int64_t threads : {context.threads, int64_t{1}, int64_t{3}}) {
      INFO(context.target << " threads " << threads);
      const AttentionResult all =
          run_guarded(shared_context(context.target, threads), d.args(), d.longest_key, &status, &error);
      require_ok(status, error);
      if (all.output.empty()) continue;  // nothing to be done, nothing written
      for (int64_t b = 0; b < d.B; ++b) check_item(d, b, all, items[b]);
    }
    const int64_t b = random.below(d.B);
    if (d.cache.finite && d.query_len(b) > 0 && one_in(random, 4)) check_reference(d, b, items[b]), ++closely;
    rings += d.cache.first_kept(d.args().sequences[b]) > 0;
    char text[8192];
    require_ok(mha_attention_explain(context.get(), &d.args(), text, sizeof text, nullptr, &error), error);
    shared += std::string(text).find("shared prefixes: none") == std::string::npos;
  }
  // What the draw is to contain; the seeds are fixed, so this changes only with the code above.
  for (const int64_t cases : {refused, rings, shared, closely}) CHECK(cases > 5);
}
