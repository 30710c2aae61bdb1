// SPDX-License-Identifier: Apache-2.0
// Every golden case of rotary positions and RMS norm, on every supported target and through the double reference. The
// cases are listed in tools/oracles/rope_cases.py.
#include "core/reference/reference.h"
#include "tests/support/calls.h"
#include "tests/support/golden.h"
#include "tests/support/targets.h"

using namespace mha::test;

namespace {

// Measured over all cases (MHA_TEST_MEASURE=1 mha_tests "[golden]" prints each): 2.4e-7, median 1.3e-8.
const Bound kBound = {4e-7, 4e-8};

mha_rope rope_of(const nlohmann::json& description) {
  const nlohmann::json& scaling = description.at("scaling");
  const std::string kind = scaling.at("rope_type");
  mha_rope rope = {};
  rope.style = description.at("style") == "half" ? MHA_ROPE_HALF : MHA_ROPE_INTERLEAVED;
  rope.dims = description.at("dims");
  rope.base = description.at("base");
  rope.factor = scaling.value("factor", 0.0);
  rope.original_positions = scaling.value("original_max_position_embeddings", 0);
  rope.low_freq_factor = scaling.value("low_freq_factor", 0.0);
  rope.high_freq_factor = scaling.value("high_freq_factor", 0.0);
  rope.beta_fast = scaling.value("beta_fast", 0.0);
  rope.beta_slow = scaling.value("beta_slow", 0.0);
  rope.attention_factor = scaling.value("attention_factor", 0.0);
  if (kind == "linear") rope.scaling = MHA_ROPE_SCALING_LINEAR;
  if (kind == "llama3") rope.scaling = MHA_ROPE_SCALING_LLAMA3;
  if (kind == "yarn") rope.scaling = MHA_ROPE_SCALING_YARN;
  return rope;
}

}  // namespace

TEST_CASE("golden: rotary positions and RMS norm", "[golden][rope]") {
  const GoldenFile file("rotary_embedding");
  REQUIRE(file.cases().size() >= 15);
  for (const nlohmann::json& description : file.cases()) {
    const std::string name = description.at("name");
    const std::vector<float> input = file.floats(name + "/input"), weight = file.floats_or_none(name + "/weight");
    const std::vector<int64_t> positions = file.integers(name + "/positions");
    const std::vector<float> want = file.floats(name + "/output");
    const std::vector<double> golden(want.begin(), want.end());
    const mha_rope rope = rope_of(description);
    mha_rows_args args = {};
    args.batch = description.at("batch");
    args.length = description.at("length");
    args.num_heads = description.at("num_heads");
    args.head_dim = description.at("head_dim");
    mha_norm norm = {};
    norm.epsilon = description.at("epsilon");
    norm.weight = weight.empty() ? nullptr : weight.data();
    if (norm.epsilon > 0) args.norm = &norm;
    args.positions = positions.data();
    args.rope = &rope;
    args.input = view(input.data());
    std::vector<double> reference(want.size());
    mha::reference::norm_rope_rows<double>(args, reference.data());
    // epsilon is a float here and a double there: 1e-13 of the result. Angles of a million are known to 1e-10.
    for (size_t n = 0; n < want.size(); ++n) REQUIRE(std::fabs(reference[n] - golden[n]) <= 0x1p-22 + 1e-9);
    for_each_target([&](const std::string& target, const mha_context* context) {
      std::vector<float> got = poisoned(static_cast<int64_t>(want.size()));
      args.output = mut_view(got.data());
      mha_error error = {};
      require_ok(mha_rows_prepare(context, &args, &error), error);
      std::string what = "golden rope ";
      what.append(name).append(" ").append(target);
      check_close(what, got, golden, kBound);
    });
  }
}
