// SPDX-License-Identifier: Apache-2.0
// Golden cases of PyTorch in float16 and bfloat16: over the same stored numbers, the library's result in that type is
// at least as near to the one in double as PyTorch's is, by its greatest and by its mean error. The cases are listed in
// tools/oracles/half_cases.py.
#include "tests/support/calls.h"
#include "tests/support/golden.h"
#include "tests/support/half_floats.h"
#include "tests/support/targets.h"

using namespace mha::test;

namespace {

// Both round to the same type, mostly to the same number. What is left over is where two sums lie on two sides of a
// place where rounding turns.
constexpr double kNotWorse = 1.001;

struct HalfCase {
  HalfCase(const GoldenFile& golden, const nlohmann::json& what)
      : file(golden), description(what), name(what.at("name")), dtype(what.at("dtype") == "f16" ? MHA_F16 : MHA_BF16) {}
  HalfCase(const HalfCase&) = delete;
  HalfCase& operator=(const HalfCase&) = delete;

  int64_t at(const char* key) const { return description.at(key); }
  bool is(const char* key) const { return description.at(key); }
  bool has(const char* tensor) const { return file.has(name + "/" + tensor); }
  std::vector<float> floats(const char* tensor) const { return file.floats_or_none(name + "/" + tensor); }
  /// The tensor's own elements: rounding what was widened changes nothing.
  ElementRows stored(const char* tensor) const { return element_rows(dtype, floats(tensor)); }
  ElementRows output() const { return ElementRows(dtype, 1, static_cast<int64_t>(floats("exact").size())); }

  const GoldenFile& file;
  const nlohmann::json& description;
  std::string name;
  mha_dtype dtype;
  mha_arithmetic arithmetic = MHA_ARITHMETIC_F32;
};

struct Difference {
  double greatest = 0, mean = 0;  // root of the mean square
};

Difference difference(const std::vector<float>& got, const std::vector<double>& exact) {
  REQUIRE(got.size() == exact.size());
  Difference d;
  for (size_t n = 0; n < got.size(); ++n) {
    const double error = std::fabs(static_cast<double>(got[n]) - exact[n]);
    if (!(error <= d.greatest)) d.greatest = error;  // a NaN stays
    d.mean += error * error;
  }
  d.mean = std::sqrt(d.mean / static_cast<double>(got.size()));
  return d;
}

/// The errors may be so many times PyTorch's.
struct Times {
  double greatest, mean;
};
// In BF16 arithmetic: attention; projections, and layers, which keep floats between their parts.
constexpr Times kAttentionTimes = {1.3, 1.2}, kOtherTimes = {1.2, 1.05};

void check_not_worse(const HalfCase& c, const std::string& target, const ElementRows& output, const Times& times) {
  const std::vector<double> exact = c.file.doubles(c.name + "/exact");
  const Difference torch = difference(c.floats("torch_output"), exact), ours = difference(output.floats(), exact);
  static const bool print = std::getenv("MHA_TEST_MEASURE") != nullptr;
  if (print)
    std::printf("measured %s %s greatest %.3g mean %.3g, of torch's %.4f %.4f\n", target.c_str(), c.name.c_str(),
                ours.greatest, ours.mean, ours.greatest / torch.greatest, ours.mean / torch.mean);
  INFO(c.name << " greatest " << ours.greatest << " mean " << ours.mean << ", torch's " << torch.greatest << " "
              << torch.mean);
  REQUIRE(torch.mean > 0);
  CHECK(ours.greatest <= times.greatest * torch.greatest);
  CHECK(ours.mean <= times.mean * torch.mean);
}

/// A view of [B, heads, T, width], as torch has it.
template <class View>
View by_heads(View view, int64_t heads, int64_t length, int64_t width) {
  view.stride_b = heads * length * width, view.stride_t = width, view.stride_h = length * width;
  return view;
}

void run_attention(const HalfCase& c, const mha_context* context, ElementRows* output) {
  const ElementRows query = c.stored("query"), key = c.stored("key"), value = c.stored("value"),
                    mask = c.stored("mask");
  AttentionCall args;
  args.arithmetic = c.arithmetic;
  args.batch = c.at("batch"), args.num_heads = c.at("num_heads"), args.num_kv_heads = c.at("num_kv_heads");
  args.query_len = c.at("query_len"), args.key_len = c.at("key_len"), args.head_dim = c.at("head_dim");
  args.query = by_heads(query.view(), args.num_heads, args.query_len, args.head_dim);
  args.key = by_heads(key.view(), args.num_kv_heads, args.key_len, args.head_dim);
  args.value = by_heads(value.view(), args.num_kv_heads, args.key_len, args.head_dim);
  args.output = by_heads(output->mut_view(), args.num_heads, args.query_len, args.head_dim);
  if (c.is("causal")) args.causal = 1, args.positions.align = MHA_ALIGN_START;  // top left, as torch
  if (c.is("mask")) args.masks.add_mask = {mask.data(), c.dtype, 0, args.query_len * args.key_len, 0, args.key_len, 1};
  mha_error error = {};
  require_ok(attention(context, args, &error), error);
}

void run_layer(const HalfCase& c, const mha_context* context, ElementRows* output) {
  const ElementRows in_proj = c.stored("in_proj_weight"), out_proj = c.stored("out_proj.weight");
  const std::vector<float> in_bias = c.floats("in_proj_bias"), out_bias = c.floats("out_proj.bias");
  mha_layer_config config = {};
  config.arithmetic = c.arithmetic;
  config.embed_dim = c.at("embed_dim"), config.num_heads = c.at("num_heads");
  mha_layer_weights weights = {};
  weights.in_proj_weight = in_proj.view(), weights.output_weight = out_proj.view();
  if (c.is("bias")) weights.in_proj_bias = in_bias.data(), weights.output_bias = out_bias.data();
  mha_layer* made = nullptr;
  mha_error error = {};
  require_ok(mha_layer_create(context, &config, &weights, &made, &error), error);
  const LayerPtr layer(made);
  const ElementRows query = c.stored("query"), key = c.stored("key"), value = c.stored("value");
  LayerCall args;
  args.arithmetic = c.arithmetic;
  args.batch = c.at("batch"), args.query_len = c.at("query_len");
  args.query = query.view(), args.output = output->mut_view(), args.causal = c.is("causal") ? 1 : 0;
  if (c.is("cross")) args.key_len = c.at("key_len"), args.key = key.view(), args.value = value.view();
  require_ok(layer_forward(context, layer.get(), args, &error), error);
}

void run_linear(const HalfCase& c, const mha_context* context, ElementRows* output) {
  const ElementRows weight = c.stored("weight"), input = c.stored("input");
  const std::vector<float> bias = c.floats("bias");
  mha_linear_config config = {};
  config.arithmetic = c.arithmetic;
  config.in_features = c.at("in_features"), config.out_features = c.at("out_features");
  config.weight = weight.view(), config.bias = c.is("bias") ? bias.data() : nullptr;
  mha_linear* made = nullptr;
  mha_error error = {};
  require_ok(mha_linear_create(context, &config, &made, &error), error);
  const LinearPtr linear(made);
  mha_linear_args args = {};
  args.rows = c.at("rows"), args.input = input.view(), args.output = output->mut_view();
  require_ok(mha_linear_forward(context, linear.get(), &args, &error), error);
}

}  // namespace

TEST_CASE("golden: float16 and bfloat16 are at least as near to double as PyTorch's", "[golden][elements]") {
  const GoldenFile file("half_precision");
  REQUIRE(file.cases().size() == 32);
  for_each_target([&](const std::string& target, const mha_context* context) {
    for (const auto& description : file.cases()) {
      const HalfCase c(file, description);
      ElementRows output = c.output();
      const std::string kind = description.at("kind");
      (kind == "attention" ? run_attention : kind == "layer" ? run_layer : run_linear)(c, context, &output);
      check_not_worse(c, target, output, {kNotWorse, kNotWorse});
    }
  });
}

TEST_CASE("golden: BF16 arithmetic beside PyTorch's bfloat16", "[golden][bf16]") {
  const GoldenFile file("half_precision");
  int64_t cases = 0;
  for (const std::string& target : targets_of(MHA_ARITHMETIC_BF16)) {
    for (const auto& description : file.cases()) {
      HalfCase c(file, description);
      if (c.dtype != MHA_BF16) continue;
      c.arithmetic = MHA_ARITHMETIC_BF16;
      ElementRows output = c.output();
      const std::string kind = description.at("kind");
      (kind == "attention" ? run_attention
       : kind == "layer"   ? run_layer
                           : run_linear)(c, shared_context(target, 1), &output);
      check_not_worse(c, target, output, kind == "attention" ? kAttentionTimes : kOtherTimes);
      ++cases;
    }
  }
  CHECK((cases >= 16 || targets_of(MHA_ARITHMETIC_BF16).empty()));
}
