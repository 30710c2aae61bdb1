// SPDX-License-Identifier: Apache-2.0
// rope, norm and positions of mha_attention and mha_layer_forward: values against the double reference; the same bits
// as preparing queries and keys first; pieces, threads, targets; refusals.
#include "tests/support/layers.h"

using namespace mha::test;

namespace {

/// A rotation and norm with everything in it that is not a default.
struct Preparation {
  mha_rope rope = {};
  mha_norm query_norm = {}, key_norm = {};
  std::vector<float> query_weight, key_weight;

  Preparation(int64_t D, mha_rope_style style, uint64_t seed)
      : query_weight(random_floats(D, seed + 1)), key_weight(random_floats(D, seed + 2)) {
    rope.style = style;
    rope.dims = D / 4 * 2;
    rope.base = 500;
    rope.scaling = MHA_ROPE_SCALING_YARN;
    rope.factor = 4;
    rope.original_positions = 256;
    query_norm.epsilon = 1e-5f, query_norm.weight = query_weight.data();
    key_norm.epsilon = 2e-5f, key_norm.weight = key_weight.data();
  }
};

std::vector<int64_t> some_positions(int64_t count, uint64_t seed) {
  Random random(seed);
  std::vector<int64_t> positions;
  for (int64_t n = 0; n < count; ++n) positions.push_back(random.below(5000));
  return positions;
}

/// mha_rows_prepare on dense [B, T, heads, D].
std::vector<float> apply(const mha_context* context, const std::vector<float>& input, int64_t B, int64_t length,
                         int64_t heads, int64_t D, const mha_rope* rope, const mha_norm* norm, const int64_t* positions,
                         int64_t first_position) {
  std::vector<float> output = poisoned(static_cast<int64_t>(input.size()));
  mha_rows_args args = {};
  args.batch = B, args.length = length, args.num_heads = heads, args.head_dim = D;
  args.input = view(input.data()), args.output = mut_view(output.data());
  args.rope = rope, args.positions = positions, args.norm = norm;
  if (positions == nullptr) args.first_position = first_position;
  mha_error error = {};
  require_ok(mha_rows_prepare(context, &args, &error), error);
  return output;
}

constexpr mha_rope_style kStyles[] = {MHA_ROPE_HALF, MHA_ROPE_INTERLEAVED};

}  // namespace

TEST_CASE("prepare: attention with rope and norm against the reference, and as queries prepared before", "[prepare]") {
  const AttentionShape shapes[] = {
      {2, 4, 2, 5, 9, 32, 24}, {1, 8, 2, 1, 700, 64, 64}, {2, 2, 2, 40, 300, 20, 20}, {3, 1, 1, 1, 1, 6, 6}};
  uint64_t seed = 300;
  for (const AttentionShape& s : shapes) {
    for (const mha_rope_style style : kStyles) {
      for (const bool norm : {false, true}) {
        for (const bool given : {false, true}) {
          for (const mha_align align : {MHA_ALIGN_DEFAULT, MHA_ALIGN_END, MHA_ALIGN_OFFSET}) {
            const AttentionProblem p(s, MaskKind::kNone, ++seed);
            const Preparation r(s.D, style, seed);
            const std::vector<int64_t> positions = some_positions(s.B * s.Tq, seed);
            AttentionCall args = p.args();
            args.causal = align == MHA_ALIGN_DEFAULT ? 0 : 1;
            args.positions.align = align;
            if (align == MHA_ALIGN_OFFSET) args.positions.offset = 3;
            args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
            args.rope = &r.rope;
            args.query_norm = norm ? &r.query_norm : nullptr;
            args.positions.query = given ? positions.data() : nullptr;
            const AttentionReference want = reference_attention(args);
            for_each_target([&](const std::string& target, const mha_context* context) {
              const std::string what = "prepare " + target + " " + describe(s);
              const AttentionResult got = run_attention(context, args);
              check_close(what, got.output, want.output, {4e-7, 4e-8});
              check_close(what + " lse", got.log_sum_exp, want.log_sum_exp, {8e-7, 1.5e-7});
              const int64_t first = align == MHA_ALIGN_OFFSET ? 3 : s.Tk - s.Tq;
              const std::vector<float> query =
                  apply(context, p.query, s.B, s.Tq, s.H, s.D, args.rope, args.query_norm, args.positions.query, first);
              AttentionCall plain = args;
              plain.query = view(query.data());
              plain.rope = nullptr, plain.query_norm = nullptr, plain.positions.query = nullptr;
              check_same_results(what, got, run_attention(context, plain));
            });
          }
        }
      }
    }
  }
}

TEST_CASE("prepare: norm alone; strided queries stay as they are", "[prepare]") {
  const AttentionShape s = {2, 3, 3, 6, 11, 40, 16};
  const AttentionProblem p(s, MaskKind::kBool, 401);
  const Preparation r(s.D, MHA_ROPE_HALF, 402);
  AttentionCall args = p.args();
  args.query_norm = &r.query_norm;
  const AttentionReference want = reference_attention(args);
  Placed query(s.query(), padded_bthd(s.query(), 5), 3);
  query.fill(p.query);
  for_each_target([&](const std::string& target, const mha_context* context) {
    const AttentionResult got = run_attention(context, args);
    check_close("prepare norm " + target, got.output, want.output, {4e-7, 8e-8});
    AttentionCall strided = args;
    strided.query = query.view();
    check_same_results("strides", run_attention(context, strided), got);
    check_same_bits("the caller's queries", query.dense(), p.query);
  });
}

TEST_CASE("prepare: pieces of queries, threads and targets give the same bits", "[prepare][bits]") {
  const AttentionShape s = {2, 4, 2, 150, 600, 48, 48};
  const AttentionProblem p(s, MaskKind::kNone, 501);
  for (const mha_rope_style style : kStyles) {
    const Preparation r(s.D, style, 502);
    AttentionCall args = p.args();
    args.causal = 1;
    args.rope = &r.rope;
    args.query_norm = &r.query_norm;
    std::vector<float> want;
    for (const std::string& target : fma_targets()) {
      const std::vector<float> whole = run_attention(shared_context(target, 1), args).output;
      if (want.empty()) want = whole;
      check_same_bits(target, whole, want);
      check_same_bits(target + " threads", run_attention(shared_context(target, 3), args).output, want);
      for (const int64_t piece : {1, 37}) {
        std::vector<float> pieces = poisoned(s.output().count());
        for (int64_t begin = 0; begin < s.Tq; begin += piece) {
          const int64_t count = std::min(piece, s.Tq - begin);
          const int64_t row = s.H * s.D;
          AttentionCall part = args;
          part.query_len = count;
          part.query = view(p.query.data() + begin * row, {s.Tq * row, row, s.D});
          part.output = mut_view(pieces.data() + begin * row, {s.Tq * row, row, s.D});
          part.positions.align = MHA_ALIGN_OFFSET;
          part.positions.offset = s.Tk - s.Tq + begin;
          mha_error error = {};
          require_ok(attention(shared_context(target, 1), part, &error), error);
        }
        check_same_bits(target + " pieces", pieces, want);
      }
    }
  }
}

TEST_CASE("prepare: a layer with rope and norm against the reference, and as its parts one by one", "[prepare]") {
  uint64_t seed = 600;
  for (const bool cross : {false, true}) {
    for (const mha_rope_style style : kStyles) {
      for (const bool given : {false, true}) {
        for (const int64_t Tq : {1, 7, 130}) {
          mha_layer_config config = {};
          config.embed_dim = 48, config.num_heads = 6, config.num_kv_heads = 2, config.head_dim = 16;
          config.value_head_dim = 12;
          const int64_t B = 2, Tk = cross ? Tq + 20 : Tq;
          const LayerProblem p(config, B, Tq, Tk, Biases::kAll, seed += 20);
          const Preparation r(16, style, seed);
          const std::vector<int64_t> positions = some_positions(B * Tq, seed);
          const std::vector<int64_t> key_positions = some_positions(B * Tk, seed + 1);
          LayerCall args = p.args();
          args.causal = 1;
          if (!cross) args.key = args.value = {};
          args.rope = &r.rope;
          args.query_norm = &r.query_norm, args.key_norm = &r.key_norm;
          if (given) args.positions.query = positions.data();
          if (given && cross) args.positions.key = key_positions.data();
          const LayerReference want = reference_layer(config, p.separate_weights(), args);
          for_each_target([&](const std::string& target, const mha_context* context) {
            const LayerPtr layer = p.make(context);
            const std::vector<float> got = run_layer(context, layer.get(), args).output;
            check_close("prepare layer " + target, got, want.output, {1e-6, 1.2e-7});
            check_same_bits("threads", run_layer(shared_context(target, 2), layer.get(), args).output, got);

            const auto project = [&](const std::vector<float>& weight, const std::vector<float>& bias, int64_t in,
                                     int64_t out, const std::vector<float>& input, int64_t rows) {
              const LinearPtr linear = make_linear(context, in, out, weight.data(), bias.data());
              return run_linear(context, linear.get(), input, rows);
            };
            const std::vector<float>& keys = cross ? p.key : p.query;
            const std::vector<float>& values = cross ? p.value : p.query;
            std::vector<float> q = project(p.query_weight, p.query_bias, 48, 96, p.query, B * Tq);
            std::vector<float> k = project(p.key_weight, p.key_bias, 48, 32, keys, B * Tk);
            const std::vector<float> v = project(p.value_weight, p.value_bias, 48, 24, values, B * Tk);
            q = apply(context, q, B, Tq, 6, 16, &r.rope, &r.query_norm, args.positions.query, Tk - Tq);
            k = apply(context, k, B, Tk, 2, 16, &r.rope, &r.key_norm, cross ? args.positions.key : args.positions.query,
                      0);
            AttentionCall attention;
            attention.batch = B, attention.num_heads = 6, attention.num_kv_heads = 2, attention.query_len = Tq;
            attention.key_len = Tk, attention.head_dim = 16, attention.value_head_dim = 12;
            attention.query = view(q.data()), attention.key = view(k.data()), attention.value = view(v.data());
            attention.causal = args.causal;
            const std::vector<float> heads = run_attention(context, attention).output;
            check_same_bits("parts", got, project(p.output_weight, p.output_bias, 72, 48, heads, B * Tq));
          });
        }
      }
    }
  }
}

TEST_CASE("prepare: refusals", "[prepare]") {
  const AttentionShape s = {1, 2, 2, 3, 3, 8, 8};
  const AttentionProblem p(s, MaskKind::kNone, 700);
  mha_layer_config config = {};
  config.embed_dim = 16, config.num_heads = 2;
  const LayerProblem layer_problem(config, 1, 3, 3, Biases::kAll, 701);
  for_each_target([&](const std::string&, const mha_context* context) {
    const LayerPtr layer = layer_problem.make(context);
    mha_rope rope = {};
    mha_norm norm = {};
    norm.epsilon = 1e-5f;
    const int64_t negative[] = {0, -2, 0};
    // Through both calls, which check alike.
    const auto refused = [&](auto change, mha_status want, const std::string& text) {
      std::vector<float> output = poisoned(s.output().count());
      AttentionCall call = p.args();
      LayerCall forward = layer_problem.args();
      call.output = forward.output = mut_view(output.data());
      call.rope = forward.rope = &rope;
      call.query_norm = forward.query_norm = &norm;
      change(call), change(forward);
      mha_error error = {};
      CHECK(attention(context, call, &error) == want);
      INFO(error.message);
      CHECK(mentions(error, text));
      error = {};
      CHECK(layer_forward(context, layer.get(), forward, &error) == want);
      INFO(error.message);
      CHECK(mentions(error, text));
      CHECK(std::all_of(output.begin(), output.end(), is_poison));
    };
    refused([&](auto& a) { a.positions.query = negative; }, MHA_ERR_ARGUMENT, "positions.query[1] is -2");
    refused(
        [&](auto& a) {
          a.causal = 1;
          a.positions.align = MHA_ALIGN_OFFSET, a.positions.offset = -1;
        },
        MHA_ERR_ARGUMENT, "positions.query is NULL) is -1");
    rope.dims = 7;
    refused([](auto&) {}, MHA_ERR_ARGUMENT, "rope.dims is 7");
    rope.dims = 0;
    for (const float epsilon : {0.0f, -1.0f, 1e-41f, kInf, kNan}) {
      norm.epsilon = epsilon;
      refused([](auto&) {}, MHA_ERR_ARGUMENT, "query_norm.epsilon is ");
    }
    norm.epsilon = 1;

    std::vector<float> output = poisoned(s.output().count());
    LayerCall forward = layer_problem.args();
    forward.output = mut_view(output.data());
    forward.rope = &rope;
    forward.positions.key = negative;
    mha_error error = {};
    CHECK(layer_forward(context, layer.get(), forward, &error) == MHA_ERR_ARGUMENT);
    CHECK(mentions(error, "positions.key[1] is -2"));
    forward.key = forward.value = {};
    CHECK(layer_forward(context, layer.get(), forward, &error) == MHA_ERR_ARGUMENT);
    CHECK(mentions(error, "positions.key is given"));
    // A table that ends before the last key.
    const std::vector<float> table(2 * 4, 0.5f);
    rope.cos = rope.sin = table.data();
    rope.table_positions = 2;
    const int64_t zeros[] = {0, 0, 0};
    forward = layer_problem.args();
    forward.output = mut_view(output.data());
    forward.rope = &rope;
    forward.positions.query = zeros;
    CHECK(layer_forward(context, layer.get(), forward, &error) == MHA_ERR_ARGUMENT);
    CHECK(mentions(error, "the last position is 2"));
    CHECK(std::all_of(output.begin(), output.end(), is_poison));
  });
}

TEST_CASE("prepare: explain says so", "[prepare][explain]") {
  const AttentionShape s = {1, 2, 2, 3, 30, 8, 8};
  const AttentionProblem p(s, MaskKind::kNone, 800);
  const mha_rope rope = {};
  mha_norm norm = {};
  norm.epsilon = 1e-5f;
  for_each_target([&](const std::string&, const mha_context* context) {
    AttentionCall args = p.args();
    std::vector<char> text(8192);
    mha_error error = {};
    const auto explained = [&] {
      require_ok(attention_explain(context, args, text.data(), text.size(), nullptr, &error), error);
      return std::string(text.data());
    };
    CHECK(explained().find("before attention") == std::string::npos);
    args.rope = &rope;
    CHECK(explained().find("before attention: queries rotated by a phase of its own, into the workspace") !=
          std::string::npos);
    args.query_norm = &norm;
    CHECK(explained().find("before attention: queries RMS-normed and rotated") != std::string::npos);
    CHECK(explained().find("fallback: none") != std::string::npos);
  });
}
