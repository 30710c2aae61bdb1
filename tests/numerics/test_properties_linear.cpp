// SPDX-License-Identifier: Apache-2.0
// The canonical order on random linear maps and layers, as test_properties.cpp has it for attention.
#include "tests/support/random_cases.h"
#include "tests/support/seeds.h"

using namespace mha::test;

namespace {

std::vector<float> slice(const std::vector<float>& values, int64_t first, int64_t count) {
  return std::vector<float>(values.begin() + first, values.begin() + first + count);
}

/// A width that favours edges, 1 at least.
int64_t random_width(Random& random, int64_t most) { return std::max<int64_t>(random_length(random, most), 1); }

struct LinearCase {
  int64_t M, N, K;
  bool has_bias;
  std::vector<float> input, weight, bias;

  explicit LinearCase(Random& random)
      : M(random_length(random, 1200)),
        N(random_width(random, 700)),
        K(std::min(random_width(random, 1300), std::max<int64_t>(8000000 / std::max<int64_t>(M * N, 1), 1))),
        has_bias(one_in(random, 2)),
        input(random_floats(M * K, random.bits())),
        weight(random_floats(N * K, random.bits())),
        bias(random_floats(N, random.bits())) {
    if (one_in(random, 4)) spoil(random, &input);
    if (one_in(random, 4)) spoil(random, &weight);
  }
  std::string describe() const {
    std::ostringstream text;
    text << "M " << M << " N " << N << " K " << K << (has_bias ? " bias" : "");
    return text.str();
  }
};

/// A view of rows alone, of a tensor that has one item and one head.
template <class View>
View by_rows(View view) {
  view.stride_b = view.stride_h = 0;
  return view;
}

/// Rows [first, first + count) with rows of input and output apart.
std::vector<float> run_strided(Random& random, const mha_context* context, const mha_linear* linear,
                               const LinearCase& c, int64_t first, int64_t count) {
  Placed input = random_placed(random, {1, count, 1, c.K}), output = random_placed(random, {1, count, 1, c.N});
  input.fill(slice(c.input, first * c.K, count * c.K));
  mha_linear_args args = {};
  args.rows = count, args.input = by_rows(input.view()), args.output = by_rows(output.mut_view());
  mha_error error = {};
  require_ok(mha_linear_forward(context, linear, &args, &error), error);
  CHECK(output.gaps_intact());
  return output.dense();
}

void check_linear(Random& random, const LinearCase& c) {
  // Packed by one target, used by all.
  const LinearPtr linear =
      make_linear(random_context(random).get(), c.K, c.N, c.weight.data(), c.has_bias ? c.bias.data() : nullptr);
  std::map<std::string, std::vector<float>> wants;
  for (const std::string& target : supported_targets()) {
    INFO("target " << target << ", one thread");
    wants[target] = run_linear(shared_context(target, 1), linear.get(), c.input, c.M);
    if (has_fma(target)) check_same_bits("output", wants[target], wants[fma_targets()[0]]);
  }
  for (int64_t threads : {2, 3, 5}) {
    const std::string target = random_context(random).target;
    INFO(target << ", " << threads << " threads");
    check_same_bits("output", run_linear(shared_context(target, threads), linear.get(), c.input, c.M), wants[target]);
  }
  for (int n = 0; n < 2; ++n) {
    for (const auto& [first, count] : random_pieces(random, c.M)) {
      const RandomContext context = random_context(random);
      INFO(context.describe() << ", rows " << first << " + " << count);
      const std::vector<float> want = slice(wants[context.target], first * c.N, count * c.N);
      const std::vector<float> rows = slice(c.input, first * c.K, count * c.K);
      if (one_in(random, 2))
        check_same_bits("rows", run_linear(context.get(), linear.get(), rows, count), want);
      else
        check_same_bits("rows apart", run_strided(random, context.get(), linear.get(), c, first, count), want);
    }
  }
}

enum class Sources { kSeparate, kKeyIsValue, kSelf };

struct LayerCase {
  mha_layer_config config;
  Sources sources;
  int64_t B, Tq, Tk;
  LayerProblem problem;
  RandomMasks masks;
  mha_weights_mode mode;

  explicit LayerCase(Random& random)
      : config(random_config(random)),
        sources(config.kdim || config.vdim
                    ? Sources::kSeparate
                    : one_of(random, {Sources::kSeparate, Sources::kKeyIsValue, Sources::kSelf})),
        B(one_in(random, 20) ? 0 : between(random, 1, 3)),
        Tq(random_length(random, 300)),
        Tk(sources == Sources::kSelf ? Tq : random_length(random, 800)),
        problem(config, B, Tq, Tk, one_of(random, {Biases::kNone, Biases::kAll, Biases::kOutputOnly, Biases::kInOnly}),
                random.bits() >> 8),
        masks(random, B, config.num_heads, Tq, Tk),
        mode(one_of(random, {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED})) {
    if (one_in(random, 4)) spoil(random, &problem.query);
  }

  static mha_layer_config random_config(Random& random) {
    mha_layer_config c = {};
    c.num_kv_heads = between(random, 1, 3);
    c.num_heads = c.num_kv_heads * between(random, 1, 3);
    c.embed_dim = between(random, 1, 90);
    c.head_dim = between(random, 1, 24);
    if (one_in(random, 2)) c.value_head_dim = between(random, 1, 24);
    if (one_in(random, 3)) c.kdim = between(random, 1, 60), c.vdim = between(random, 1, 60);
    if (one_in(random, 3)) c.out_dim = between(random, 1, 60);
    return c;
  }
  /// Queries [q, q + count) of items [b, b + items).
  LayerCall args(int64_t b, int64_t items, int64_t q, int64_t count) const {
    const mha_layer_config c = full_config(config);
    LayerCall args = problem.args();
    args.batch = items;
    args.query_len = count;
    args.query = view(problem.query.data() + (b * Tq + q) * c.embed_dim, {Tq * c.embed_dim, c.embed_dim, 0});
    args.key = view(problem.key.data() + b * Tk * c.kdim, {Tk * c.kdim, c.kdim, 0});
    args.value = view(problem.value.data() + b * Tk * c.vdim, {Tk * c.vdim, c.vdim, 0});
    if (sources == Sources::kSelf) {
      args.key = view(problem.query.data() + b * Tq * c.embed_dim, {Tq * c.embed_dim, c.embed_dim, 0});
      if (q == 0 && count == Tq) args.key = {};
    }
    if (sources != Sources::kSeparate) args.value = {};
    masks_from(masks.get(), {b, items, 0, c.num_heads, q, count, c.num_heads, Tq, Tk}).put_into(&args);
    args.score_mods = masks.mods();
    args.results.weights_mode = mode;
    return args;
  }
  std::string describe() const {
    std::ostringstream text;
    text << "B " << B << " Tq " << Tq << " Tk " << Tk << " E " << config.embed_dim << " H " << config.num_heads << "/"
         << config.num_kv_heads << " D " << config.head_dim << "/" << config.value_head_dim << " kdim " << config.kdim
         << " vdim " << config.vdim << " out " << config.out_dim << " sources " << static_cast<int>(sources) << ":"
         << masks.describe() << ", weights " << mode;
    return text.str();
  }
};

void check_piece(const LayerCase& c, int64_t b, int64_t q, int64_t count, const LayerResult& got,
                 const LayerResult& want) {
  const int64_t width = full_config(c.config).out_dim;
  check_same_bits("output", got.output, slice(want.output, (b * c.Tq + q) * width, count * width));
  const int64_t heads = c.mode == MHA_WEIGHTS_NONE ? 0 : c.mode == MHA_WEIGHTS_AVERAGED ? 1 : c.config.num_heads;
  for (int64_t h = 0; h < heads; ++h)
    check_same_bits("weights", slice(got.weights, h * count * c.Tk, count * c.Tk),
                    slice(want.weights, ((b * heads + h) * c.Tq + q) * c.Tk, count * c.Tk));
}

void check_layer(Random& random, const LayerCase& c) {
  const LayerPtr layer = c.problem.make(random_context(random).get());
  const LayerCall whole = c.args(0, c.B, 0, c.Tq);
  std::map<std::string, LayerResult> wants;
  const auto check_same = [&](const LayerResult& got, const LayerResult& want) {
    check_same_bits("output", got.output, want.output);
    check_same_bits("weights", got.weights, want.weights);
  };
  for (const std::string& target : supported_targets()) {
    INFO("target " << target << ", one thread");
    wants[target] = run_layer(shared_context(target, 1), layer.get(), whole);
    if (has_fma(target)) check_same(wants[target], wants[fma_targets()[0]]);
  }
  for (int64_t threads : {2, 3, 5}) {
    const std::string target = random_context(random).target;
    INFO(target << ", " << threads << " threads");
    check_same(run_layer(shared_context(target, threads), layer.get(), whole), wants[target]);
  }
  for (int64_t b = 0; b < c.B; ++b) {
    for (const auto& [first, count] : random_pieces(random, c.Tq)) {
      const RandomContext context = random_context(random);
      INFO(context.describe() << ", item " << b << ", queries " << first << " + " << count);
      check_piece(c, b, first, count, run_layer(context.get(), layer.get(), c.args(b, 1, first, count)),
                  wants[context.target]);
    }
  }
}

}  // namespace

TEST_CASE("properties: linear comes to the same bits by every way", "[properties][bits][linear]") {
  for (const uint64_t seed : seeds(210000, 200)) {
    Random random(seed);
    const LinearCase c(random);
    INFO("seed " << seed << ": " << c.describe());
    check_linear(random, c);
  }
}

TEST_CASE("properties: a layer comes to the same bits by every way", "[properties][bits][layer]") {
  for (const uint64_t seed : seeds(220000, 200)) {
    Random random(seed);
    const LayerCase c(random);
    INFO("seed " << seed << ": " << c.describe());
    check_layer(random, c);
  }
}
