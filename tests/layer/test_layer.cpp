// SPDX-License-Identifier: Apache-2.0
// mha_layer_create and mha_layer_forward against the double reference: every configuration field, biases, masks,
// weights.
#include "tests/support/layers.h"

using namespace mha::test;

namespace {

const Bound kOutputBound = {1e-6, 1.2e-7};
const Bound kWeightsBound = {1.5e-7, 1.2e-8};

struct NamedConfig {
  const char* name;
  mha_layer_config config;
};

// embed_dim, num_heads, num_kv_heads, head_dim, value_head_dim, kdim, vdim, out_dim, scale
const NamedConfig kConfigs[] = {
    {"defaults", {20, 4, 0, 0, 0, 0, 0, 0, 0}},
    {"one head", {16, 1, 0, 0, 0, 0, 0, 0, 0}},
    {"embed_dim 1", {1, 1, 0, 0, 0, 0, 0, 0, 0}},
    {"grouped", {48, 6, 2, 0, 0, 0, 0, 0, 0}},
    {"multi-query", {40, 5, 1, 0, 0, 0, 0, 0, 0}},
    {"kdim and vdim", {24, 3, 0, 0, 0, 10, 37, 0, 0}},
    {"head_dim other than E/H", {21, 4, 0, 13, 0, 0, 0, 0, 0}},
    {"value_head_dim", {32, 4, 0, 0, 11, 0, 0, 0, 0}},
    {"out_dim", {30, 3, 0, 0, 0, 0, 0, 17, 0}},
    {"scale", {32, 2, 0, 0, 0, 0, 0, 0, 0, 0.5f}},
    {"all at once", {33, 6, 3, 9, 19, 12, 65, 71, 0, 0.3f}},
    {"wide", {128, 2, 0, 0, 0, 0, 0, 0, 0}},
};

void check_layer(const LayerProblem& problem, LayerCall args, const std::string& name) {
  for (mha_weights_mode mode : {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED}) {
    args.results.weights_mode = mode;
    const LayerReference want = reference_layer(problem.config, problem.separate_weights(), args);
    for_each_target([&](const std::string& target, const mha_context* context) {
      const LayerPtr layer = problem.make(context);
      const LayerResult got = run_layer(context, layer.get(), args);
      const std::string what = std::string(target).append(" ").append(name);
      check_close("layer output " + what, got.output, want.output, kOutputBound);
      check_close("layer weights " + what, got.weights, want.weights, kWeightsBound);
    });
  }
}

}  // namespace

TEST_CASE("layer: every configuration, with each kind of bias", "[layer]") {
  uint64_t seed = 20000;
  for (const NamedConfig& named : kConfigs) {
    for (Biases biases : {Biases::kNone, Biases::kAll, Biases::kOutputOnly, Biases::kInOnly}) {
      const LayerProblem problem(named.config, 2, 7, 11, biases, seed += 100);
      check_layer(problem, problem.args(), named.name);
    }
  }
}

TEST_CASE("layer: each in-projection bias may be left out alone", "[layer]") {
  const LayerProblem problem(kConfigs[0].config, 1, 3, 5, Biases::kAll, 29000);
  for (int missing = 0; missing < 3; ++missing) {
    mha_layer_weights weights = problem.separate_weights();
    (missing == 0 ? weights.query_bias : missing == 1 ? weights.key_bias : weights.value_bias) = nullptr;
    const LayerReference want = reference_layer(problem.config, weights, problem.args());
    for_each_target([&](const std::string&, const mha_context* context) {
      const LayerPtr layer = problem.make_from(context, weights);
      check_close("output", run_layer(context, layer.get(), problem.args()).output, want.output, kOutputBound);
    });
  }
}

TEST_CASE("layer: lengths around tile and chunk edges", "[layer]") {
  uint64_t seed = 30000;
  for (int64_t Tq : {1, 5, 6, 7, 24, 25, 64, 65}) {
    for (int64_t Tk : {1, 16, 17, 64, 257}) {
      const LayerProblem problem(kConfigs[3].config, 1, Tq, Tk, Biases::kAll, seed += 100);
      check_layer(problem, problem.args(), "Tq " + std::to_string(Tq) + " Tk " + std::to_string(Tk));
    }
  }
}

TEST_CASE("layer: self-attention, and value given or taken from key", "[layer]") {
  const LayerProblem problem(kConfigs[0].config, 3, 9, 9, Biases::kAll, 40000);
  LayerCall args = problem.args();
  args.key = {};
  args.value = {};
  check_layer(problem, args, "self");

  // The same numbers given as three views.
  LayerCall given = args;
  given.key = given.value = view(problem.query.data());
  for_each_target([&](const std::string&, const mha_context* context) {
    const LayerPtr layer = problem.make(context);
    check_same_bits("self", run_layer(context, layer.get(), args).output,
                    run_layer(context, layer.get(), given).output);
  });

  args.key = view(problem.key.data());
  check_layer(problem, args, "value from key");
  args.key = {};
  args.value = view(problem.value.data());
  check_layer(problem, args, "key from query, value given");
}

TEST_CASE("layer: masks", "[layer][mask]") {
  LayerProblem problem(kConfigs[3].config, 2, 10, 70, Biases::kAll, 41000);
  const AttentionShape shape = {2, 6, 2, 10, 70, 8, 8};
  for (int kind = 0; kind < kMaskKinds; ++kind) {
    const AttentionProblem masked(shape, static_cast<MaskKind>(kind), 41500 + static_cast<uint64_t>(kind));
    LayerCall args = problem.args();
    masked.masks.put_into(&args);
    check_layer(problem, args, describe(shape, static_cast<MaskKind>(kind)));
  }
}

TEST_CASE("layer: a row with no visible key gives the output bias", "[layer][edges]") {
  const LayerProblem problem(kConfigs[0].config, 2, 4, 6, Biases::kAll, 42000);
  const int64_t lengths[2] = {0, 6};
  LayerCall args = problem.args();
  args.items.key_lengths = lengths;
  for_each_target([&](const std::string&, const mha_context* context) {
    const LayerPtr layer = problem.make(context);
    const std::vector<float> output = run_layer(context, layer.get(), args).output;
    for (size_t n = 0; n < 4 * 20; ++n) CHECK(output[n] == problem.output_bias[n % 20]);
    CHECK(output[4 * 20] != problem.output_bias[0]);
  });
}

TEST_CASE("layer: no keys gives the output bias", "[layer][edges]") {
  const LayerProblem problem(kConfigs[0].config, 1, 2, 0, Biases::kAll, 42500);
  for_each_target([&](const std::string&, const mha_context* context) {
    const LayerPtr layer = problem.make(context);
    LayerCall args = problem.args();
    args.key = args.value = view(problem.query.data());  // not NULL, so that they are not taken from query
    const std::vector<float> output = run_layer(context, layer.get(), args).output;
    for (size_t n = 0; n < output.size(); ++n) CHECK(output[n] == problem.output_bias[n % 20]);
  });
}

TEST_CASE("layer: fused in-projection gives the bits of the separate ones", "[layer]") {
  for (int n : {0, 3, 7}) {
    const LayerProblem problem(kConfigs[n].config, 2, 5, 9, Biases::kAll, 43000);
    for_each_target([&](const std::string&, const mha_context* context) {
      const LayerPtr separate = problem.make(context);
      const LayerPtr fused = problem.make_from(context, problem.fused_weights());
      LayerCall args = problem.args();
      args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
      const LayerResult a = run_layer(context, separate.get(), args), b = run_layer(context, fused.get(), args);
      check_same_bits("output", b.output, a.output);
      check_same_bits("weights", b.weights, a.weights);
    });
  }
}

TEST_CASE("layer: equals linear, attention, linear done by hand, bit for bit", "[layer]") {
  const LayerProblem p(kConfigs[10].config, 2, 6, 8, Biases::kAll, 44000);
  const mha_layer_config c = full_config(p.config);
  for_each_target([&](const std::string&, const mha_context* context) {
    const LayerPtr layer = p.make(context);
    const LayerResult want = run_layer(context, layer.get(), p.args());

    const auto project = [&](const std::vector<float>& input, int64_t in, const std::vector<float>& weight,
                             const std::vector<float>& bias, int64_t out) {
      const LinearPtr linear = make_linear(context, in, out, weight.data(), bias.data());
      return run_linear(context, linear.get(), input, static_cast<int64_t>(input.size()) / in);
    };
    const int64_t H = c.num_heads, Hkv = c.num_kv_heads, D = c.head_dim, Dv = c.value_head_dim;
    const std::vector<float> q = project(p.query, c.embed_dim, p.query_weight, p.query_bias, H * D);
    const std::vector<float> k = project(p.key, c.kdim, p.key_weight, p.key_bias, Hkv * D);
    const std::vector<float> v = project(p.value, c.vdim, p.value_weight, p.value_bias, Hkv * Dv);
    AttentionCall args;
    args.batch = p.B;
    args.num_heads = H;
    args.num_kv_heads = Hkv;
    args.query_len = p.Tq;
    args.key_len = p.Tk;
    args.head_dim = D;
    args.value_head_dim = Dv;
    args.scale = c.scale;
    args.query = view(q.data());
    args.key = view(k.data());
    args.value = view(v.data());
    const std::vector<float> heads = run_attention(context, args).output;
    check_same_bits("output", project(heads, H * Dv, p.output_weight, p.output_bias, c.out_dim), want.output);
  });
}

TEST_CASE("layer: strided query, key, value and output", "[layer][strides]") {
  const LayerProblem problem(kConfigs[5].config, 2, 6, 8, Biases::kAll, 45000);
  const mha_layer_config c = full_config(problem.config);
  for_each_target([&](const std::string&, const mha_context* context) {
    const LayerPtr layer = problem.make(context);
    const LayerResult want = run_layer(context, layer.get(), problem.args());
    for (int64_t pad : {1, 5}) {
      const auto place = [&](int64_t length, int64_t width) {
        return Placed({problem.B, length, 1, width}, {(width + pad) * (length + 1), width + pad, 0}, pad % 4);
      };
      Placed query = place(problem.Tq, c.embed_dim).fill(problem.query),
             key = place(problem.Tk, c.kdim).fill(problem.key);
      Placed value = place(problem.Tk, c.vdim).fill(problem.value), output = place(problem.Tq, c.out_dim);
      LayerCall args = problem.args();
      args.query = query.view();
      args.key = key.view();
      args.value = value.view();
      args.output = output.mut_view();
      mha_error error = {};
      require_ok(layer_forward(context, layer.get(), args, &error), error);
      check_same_bits("output", output.dense(), want.output);
      CHECK(output.gaps_intact());
    }
    // Sequence first, [T, B, width], as torch's batch_first=False.
    Placed query({2, 6, 1, c.embed_dim}, {c.embed_dim, 2 * c.embed_dim, 0});
    Placed output({2, 6, 1, c.out_dim}, {c.out_dim, 2 * c.out_dim, 0});
    query.fill(problem.query);
    LayerCall args = problem.args();
    args.query = query.view();
    args.output = output.mut_view();
    mha_error error = {};
    require_ok(layer_forward(context, layer.get(), args, &error), error);
    check_same_bits("sequence first", output.dense(), want.output);
  });
}

TEST_CASE("layer: get_config gives every default filled in", "[layer]") {
  for (const NamedConfig& named : kConfigs) {
    const LayerProblem problem(named.config, 1, 1, 1, Biases::kNone, 46000);
    const ContextPtr context = make_context(mha_context_options{});
    const LayerPtr layer = problem.make(context.get());
    const mha_layer_config want = full_config(named.config);
    mha_layer_config got = {};
    mha_layer_get_config(layer.get(), &got);
    INFO(named.name);
    CHECK(got.embed_dim == want.embed_dim);
    CHECK(got.num_heads == want.num_heads);
    CHECK(got.num_kv_heads == want.num_kv_heads);
    CHECK(got.head_dim == want.head_dim);
    CHECK(got.value_head_dim == want.value_head_dim);
    CHECK(got.kdim == want.kdim);
    CHECK(got.vdim == want.vdim);
    CHECK(got.out_dim == want.out_dim);
    const double scale =
        named.config.scale != 0 ? named.config.scale : 1 / std::sqrt(static_cast<double>(want.head_dim));
    CHECK(std::fabs(got.scale - scale) <= 1e-7 * scale);
  }
  mha_layer_config untouched = kConfigs[0].config;
  mha_layer_get_config(nullptr, &untouched);
  CHECK(untouched.embed_dim == 20);
}

TEST_CASE("layer: outlives the context and the sources it was made from", "[layer]") {
  for (const std::string& target : supported_targets()) {
    auto problem = std::make_unique<LayerProblem>(kConfigs[3].config, 1, 4, 6, Biases::kAll, 47000);
    ContextPtr maker = make_context(target, 1);
    const LayerPtr layer = problem->make(maker.get());
    const std::vector<float> query = problem->query, key = problem->key, value = problem->value;
    LayerCall args = problem->args();
    args.query = view(query.data());
    args.key = view(key.data());
    args.value = view(value.data());
    const std::vector<float> before = run_layer(maker.get(), layer.get(), args).output;
    maker = ContextPtr();
    problem.reset();
    check_same_bits("output", run_layer(shared_context(target, 1), layer.get(), args).output, before);
  }
}

TEST_CASE("layer: no keys, whatever kdim and vdim; what is given for them is not read", "[layer][edges]") {
  const LayerProblem problem({8, 2, 2, 4, 4, 5, 7, 8, 0}, 1, 3, 0, Biases::kAll, 75500);
  const float unread = kNan;
  for_each_target([&](const std::string&, const mha_context* context) {
    const LayerPtr layer = problem.make(context);
    LayerCall args = problem.args();
    args.key = args.value = view(&unread);
    const LayerResult got = run_layer(context, layer.get(), args);
    for (size_t n = 0; n < got.output.size(); ++n) CHECK(got.output[n] == problem.output_bias[n % 8]);
    // NULL is not "no keys": it means those of the query, which must fit.
    std::vector<float> output = poisoned(3 * 8);
    args.output = mut_view(output.data());
    mha_error error = {};
    args.value = {};
    CHECK(layer_forward(context, layer.get(), args, &error) == MHA_ERR_SHAPE);
    CHECK(mentions(error, "vdim is 7 and kdim 5"));
    args.key = {};
    CHECK(layer_forward(context, layer.get(), args, &error) == MHA_ERR_SHAPE);
    CHECK(mentions(error, "kdim is 5 and embed_dim 8"));
    CHECK(std::all_of(output.begin(), output.end(), is_poison));
  });
}

TEST_CASE("layer: without a key, key_len is 0 or query_len", "[layer][edges]") {
  const LayerProblem problem(kConfigs[0].config, 2, 5, 5, Biases::kAll, 75600);
  for_each_target([&](const std::string&, const mha_context* context) {
    const LayerPtr layer = problem.make(context);
    LayerCall args = problem.args();
    args.key = args.value = {};
    const LayerResult want = run_layer(context, layer.get(), args);
    args.key_len = 0;
    check_same_bits("key_len 0", run_layer(context, layer.get(), args).output, want.output);
    std::vector<float> output = poisoned(2 * 5 * 20);
    args.output = mut_view(output.data());
    args.key_len = 4;
    mha_error error = {};
    CHECK(layer_forward(context, layer.get(), args, &error) == MHA_ERR_SHAPE);
    CHECK(mentions(error, "key_len is 4"));
    CHECK(std::all_of(output.begin(), output.end(), is_poison));
  });
}
