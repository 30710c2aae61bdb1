// SPDX-License-Identifier: Apache-2.0
// Every golden case of PyTorch's scaled_dot_product_attention, on every supported target and through the double
// reference. The cases are listed in tools/oracles/attention_cases.py.
#include "core/mha.h"
#include "tests/support/golden.h"
#include "tests/support/shapes.h"
#include "tests/support/targets.h"

using namespace mha::test;

namespace {

// Measured over all cases on avx512, avx2 and sse2 (MHA_TEST_MEASURE=1 mha_tests "[golden]" prints each):
// output 6.0e-7, median 6.0e-8; weights 1.8e-7, 1.2e-8; log-sum-exp 4.8e-7 both, which is one unit in the last place of
// values in [4, 8).
const Bound kOutputBound = {9e-7, 1e-7};
const Bound kWeightsBound = {3e-7, 2e-8};
const Bound kLseBound = {9e-7, 5e-7};

/// The arguments of one scaled_dot_product_attention case: torch's [B, H, T, D] tensors read by stride.
struct AttentionCase {
  AttentionCase(const GoldenFile& file, const nlohmann::json& description)
      : name(description.at("name")),
        query(file.floats(name + "/query")),
        key(file.floats(name + "/key")),
        value(file.floats(name + "/value")) {
    args.batch = description.at("batch");
    args.num_heads = description.at("num_heads");
    args.num_kv_heads = description.at("num_kv_heads");
    args.query_len = description.at("query_len");
    args.key_len = description.at("key_len");
    args.head_dim = description.at("head_dim");
    args.value_head_dim = description.at("value_head_dim");
    args.scale = description.at("scale");
    args.query = by_heads(query, args.num_heads, args.query_len, args.head_dim);
    args.key = by_heads(key, args.num_kv_heads, args.key_len, args.head_dim);
    args.value = by_heads(value, args.num_kv_heads, args.key_len, args.value_head_dim);
    if (description.at("causal")) args.causal = 1, args.positions.align = MHA_ALIGN_START;  // top left, as torch
    if (file.has(name + "/mask")) read_mask(file);
    if (file.has(name + "/weights")) args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
  }
  AttentionCase(const AttentionCase&) = delete;
  AttentionCase& operator=(const AttentionCase&) = delete;

  static mha_view by_heads(const std::vector<float>& values, int64_t heads, int64_t length, int64_t width) {
    return mha::view(values.data(), {heads * length * width, width, length * width});
  }

  void read_mask(const GoldenFile& file) {
    const std::vector<std::int64_t>& shape = file.shape(name + "/mask");
    REQUIRE(shape.size() == 4);
    const int64_t matrix = args.query_len * args.key_len;
    const int64_t stride_b = shape[0] > 1 ? shape[1] * matrix : 0, stride_h = shape[1] > 1 ? matrix : 0;
    if (file.is_bool(name + "/mask")) {
      bool_mask = file.bytes(name + "/mask");
      args.masks.bool_mask = {bool_mask.data(), stride_b, stride_h, args.key_len};
    } else {
      add_mask = file.floats(name + "/mask");
      args.masks.add_mask = {add_mask.data(), MHA_F32, 0, stride_b, stride_h, args.key_len};
    }
  }

  /// torch's output as dense [B, Tq, H, Dv].
  std::vector<double> want_output(const GoldenFile& file) const {
    return swap_middle(file.doubles(name + "/output"), args.batch, args.num_heads, args.query_len, args.value_head_dim);
  }

  std::string name;
  std::vector<float> query, key, value;
  std::vector<uint8_t> bool_mask;
  std::vector<float> add_mask;
  AttentionCall args;
};

}  // namespace

TEST_CASE("golden: scaled_dot_product_attention through the reference", "[golden]") {
  const GoldenFile file("scaled_dot_product_attention");
  for (const auto& description : file.cases()) {
    const AttentionCase c(file, description);
    const AttentionReference got = reference_attention(c.args);
    check_rounds_to("reference output " + c.name, got.output, c.want_output(file));
    check_rounds_to("reference log-sum-exp " + c.name, got.log_sum_exp, file.doubles(c.name + "/log_sum_exp"));
    if (!got.weights.empty())
      check_rounds_to("reference weights " + c.name, got.weights, file.doubles(c.name + "/weights"));
  }
}

TEST_CASE("golden: scaled_dot_product_attention through mha_attention", "[golden]") {
  const GoldenFile file("scaled_dot_product_attention");
  for_each_target([&](const std::string& target, const mha_context* context) {
    for (const auto& description : file.cases()) {
      AttentionCase c(file, description);
      const std::string what = " attention " + target + " " + c.name;
      const AttentionResult got = run_attention(context, c.args);
      check_close("output" + what, got.output, c.want_output(file), kOutputBound);
      check_close("log-sum-exp" + what, got.log_sum_exp, file.doubles(c.name + "/log_sum_exp"), kLseBound);
      if (!got.weights.empty())
        check_close("weights" + what, got.weights, file.doubles(c.name + "/weights"), kWeightsBound);
      if (c.args.causal && c.args.query_len == c.args.key_len) {
        c.args.positions.align = MHA_ALIGN_END;  // the same thing in a square
        check_same_bits("output, bottom right" + what, run_attention(context, c.args).output, got.output);
      }
    }
  });
}
