// SPDX-License-Identifier: Apache-2.0
// Nothing is read or written outside the stated extents: every buffer, workspace included, ends at a page without
// access, and once more starts right after one. And pointers at every element offset.
#include "tests/support/guard.h"
#include "tests/support/layers.h"

using namespace mha::test;

namespace {

const Guard kSides[] = {Guard::kAfter, Guard::kBefore};

/// Calls with every buffer guarded, and with the results that a plain call gives.
void check_attention(const mha_context* context, const AttentionProblem& problem, mha_weights_mode mode, Guard side) {
  AttentionCall args = problem.args();
  args.results.weights_mode = mode;
  const AttentionResult want = run_attention(context, args);
  mha_error error = {};
  size_t bytes = 0;
  require_ok(attention_workspace_bytes(context, args, &bytes, &error), error);

  const GuardedFloats query(problem.query, side), key(problem.key, side), value(problem.value, side);
  const GuardedFloats output(poisoned(static_cast<int64_t>(want.output.size())), side);
  const GuardedFloats weights(poisoned(static_cast<int64_t>(want.weights.size())), side);
  const GuardedFloats lse(poisoned(static_cast<int64_t>(want.log_sum_exp.size())), side);
  const GuardedFloats add(problem.add_mask, side);
  const GuardedBuffer open(problem.bool_mask.size(), side), lengths(problem.key_lengths.size() * sizeof(int64_t), side);
  const GuardedBuffer workspace(bytes, side);
  if (open.bytes()) std::memcpy(open.data(), problem.bool_mask.data(), open.bytes());
  if (lengths.bytes()) std::memcpy(lengths.data(), problem.key_lengths.data(), lengths.bytes());
  std::memset(workspace.data(), 0xff, bytes);

  args.query = view(query.floats());
  args.key = view(key.floats());
  args.value = view(value.floats());
  if (add.bytes()) args.masks.add_mask.data = add.floats();
  if (open.bytes()) args.masks.bool_mask.data = static_cast<const uint8_t*>(open.data());
  if (lengths.bytes()) args.items.key_lengths = static_cast<const int64_t*>(lengths.data());
  args.output = mut_view(output.floats());
  if (mode != MHA_WEIGHTS_NONE) args.results.weights = mut_view(weights.floats());
  args.results.log_sum_exp = lse.floats();
  args.resources.workspace = workspace.data();
  args.resources.workspace_bytes = bytes;
  require_ok(attention(context, args, &error), error);
  check_same_bits("output", output.values(), want.output);
  check_same_bits("weights", weights.values(), want.weights);
  check_same_bits("log-sum-exp", lse.values(), want.log_sum_exp);
  CHECK(output.slack_intact());
  CHECK(weights.slack_intact());
  CHECK(lse.slack_intact());
  CHECK(workspace.slack_intact());
}

void check_layer(const mha_context* context, const LayerProblem& problem, mha_weights_mode mode, Guard side) {
  const LayerPtr made = problem.make(context);
  LayerCall args = problem.args();
  args.results.weights_mode = mode;
  const LayerResult want = run_layer(context, made.get(), args);
  mha_error error = {};
  size_t bytes = 0;
  require_ok(layer_workspace_bytes(context, made.get(), args, &bytes, &error), error);

  // The weights of the layer lie in a guarded blob, and were packed from guarded sources.
  const GuardedFloats wq(problem.query_weight, side), wk(problem.key_weight, side), wv(problem.value_weight, side);
  const GuardedFloats wo(problem.output_weight, side), bq(problem.query_bias, side), bk(problem.key_bias, side);
  const GuardedFloats bv(problem.value_bias, side), bo(problem.output_bias, side);
  mha_layer_weights weights = {};
  weights.query_weight = view(wq.floats());
  weights.key_weight = view(wk.floats());
  weights.value_weight = view(wv.floats());
  weights.output_weight = view(wo.floats());
  weights.query_bias = bq.floats();
  weights.key_bias = bk.floats();
  weights.value_bias = bv.floats();
  weights.output_bias = bo.floats();
  const LayerPtr packed = problem.make_from(context, weights);
  size_t blob_bytes = 0;
  require_ok(mha_layer_save_bytes(packed.get(), &blob_bytes, &error), error);
  const GuardedBuffer blob(blob_bytes, side);
  require_ok(mha_layer_save(packed.get(), blob.data(), blob.bytes(), &error), error);
  mha_layer* mapped_handle = nullptr;
  require_ok(mha_layer_map(context, blob.data(), blob.bytes(), &mapped_handle, &error), error);
  const LayerPtr mapped(mapped_handle);

  const GuardedFloats query(problem.query, side), key(problem.key, side), value(problem.value, side);
  const GuardedFloats output(poisoned(static_cast<int64_t>(want.output.size())), side);
  const GuardedFloats weights_out(poisoned(static_cast<int64_t>(want.weights.size())), side);
  const GuardedBuffer workspace(bytes, side);
  std::memset(workspace.data(), 0xff, bytes);
  args.query = view(query.floats());
  args.key = view(key.floats());
  args.value = view(value.floats());
  args.output = mut_view(output.floats());
  if (mode != MHA_WEIGHTS_NONE) args.results.weights = mut_view(weights_out.floats());
  args.resources.workspace = workspace.data();
  args.resources.workspace_bytes = bytes;
  require_ok(layer_forward(context, mapped.get(), args, &error), error);
  check_same_bits("output", output.values(), want.output);
  check_same_bits("weights", weights_out.values(), want.weights);
  CHECK(output.slack_intact());
  CHECK(weights_out.slack_intact());
  CHECK(workspace.slack_intact());
  CHECK(blob.slack_intact());
}

}  // namespace

TEST_CASE("guard: attention between pages without access, over all tails", "[memory][guard][slow]") {
  const std::vector<int64_t> dims = {1, 2, 3, 5, 8, 13, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 67, 80, 129};
  const std::vector<int64_t> query_lens = {1, 2, 3, 5, 6, 7, 8, 13, 24, 25};
  const std::vector<int64_t> key_lens = {1, 2, 3, 7, 15, 16, 17, 33, 65, 255, 256, 257, 515};
  uint64_t seed = 90000;
  for (const std::vector<int>& row : pairwise({19, 13, 19, 10, kMaskKinds, 3, 2}, 7)) {
    const AttentionShape shape = {1 + row[6], 2, 1, query_lens[row[3]], key_lens[row[1]], dims[row[0]], dims[row[2]]};
    const MaskKind kind = static_cast<MaskKind>(row[4]);
    const AttentionProblem problem(shape, kind, ++seed);
    INFO(describe(shape, kind) << " weights " << row[5]);
    for (Guard side : kSides)
      for_each_target([&](const std::string&, const mha_context* context) {
        check_attention(context, problem, static_cast<mha_weights_mode>(row[5]), side);
      });
  }
}

TEST_CASE("guard: structured masks and score modifications between pages without access", "[memory][guard][masks]") {
  for (int64_t Tk : {1, 7, 9, 17, 255, 264, 530}) {
    for (int64_t Tq : {1, 20}) {
      const AttentionProblem problem({1, 2, 1, Tq, Tk, 5, 5}, MaskKind::kCausal, 92000);
      for (Guard side : kSides) {
        const GuardedBuffer bits(static_cast<size_t>((Tk + 7) / 8), side);
        const GuardedBuffer pairs(2 * sizeof(int64_t), side), prefix(sizeof(int64_t), side);
        const GuardedBuffer queries(static_cast<size_t>(Tq) * 4, side), keys(static_cast<size_t>(Tk) * 4, side);
        const GuardedFloats slopes({0.1f, 0.2f}, side), bias(random_floats(2 * 24, 3), side), sinks({0, 1}, side);
        std::memset(bits.data(), 0xed, bits.bytes());
        for (const GuardedBuffer* zeros : {&pairs, &prefix, &queries, &keys})
          std::memset(zeros->data(), 0, zeros->bytes());
        INFO("Tk " << Tk << " Tq " << Tq);
        for_each_target([&](const std::string&, const mha_context* context) {
          AttentionCall args = problem.args();
          args.masks.bit_mask = {static_cast<const uint8_t*>(bits.data()), 0, 0, 0};
          args.masks.block_mask = {100, 400, static_cast<const int64_t*>(pairs.data()), 1};
          args.masks.prefix_lengths = static_cast<const int64_t*>(prefix.data());
          args.masks.query_segments = static_cast<const int32_t*>(queries.data());
          args.masks.key_segments = static_cast<const int32_t*>(keys.data());
          args.score_mods.softcap = 3;
          args.score_mods.alibi_slopes = slopes.floats(), args.score_mods.sink_logits = sinks.floats();
          args.score_mods.relative_bias = bias.floats();
          args.score_mods.relative_left = 20, args.score_mods.relative_right = 3;
          for (mha_weights_mode mode : {MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED}) {
            args.results.weights_mode = mode;
            const AttentionReference want = reference_attention(args);
            const AttentionResult got = run_attention(context, args);
            check_close("guarded", got.output, want.output, {1e-6, 1e-6});
            check_close("guarded weights", got.weights, want.weights, {1e-6, 1e-6});
          }
        });
      }
    }
  }
}

TEST_CASE("guard: attention on several threads between pages without access", "[memory][guard][threads]") {
  for (int64_t Tk : {20001, 20225}) {  // a thread is used for every million multiply-adds
    const AttentionProblem problem({1, 1, 1, 5, Tk, 33, 17}, MaskKind::kAll, 91000);
    for (Guard side : kSides)
      for_each_target(
          [&](const std::string&, const mha_context* context) {
            check_attention(context, problem, MHA_WEIGHTS_PER_HEAD, side);
          },
          5);
  }
}

TEST_CASE("guard: strided inputs, whose last row ends at the page", "[memory][guard][strides]") {
  const AttentionShape s = {2, 3, 3, 7, 37, 11, 5};
  const AttentionProblem problem(s, MaskKind::kNone, 91500);
  for_each_target([&](const std::string&, const mha_context* context) {
    const AttentionResult want = run_attention(context, problem.args());
    // Each buffer is exactly the extent: it stops after the last element, without the last row's padding.
    const auto place = [](const Extent& e, const std::vector<float>& dense) {
      const Strides st = padded_bthd(e, 3);
      const int64_t size = (e.b - 1) * st.b + (e.t - 1) * st.t + (e.h - 1) * st.h + e.d;
      Placed placed(e, st);
      if (!dense.empty()) placed.fill(dense);
      const float* data = &placed.at(0, 0, 0, 0);
      return std::vector<float>(data, data + size);
    };
    const GuardedFloats query(place(s.query(), problem.query), Guard::kAfter);
    const GuardedFloats key(place(s.key(), problem.key), Guard::kAfter);
    const GuardedFloats value(place(s.value(), problem.value), Guard::kAfter);
    const GuardedFloats output(place(s.output(), {}), Guard::kAfter);
    AttentionCall args = problem.args();
    args.query = view(query.floats(), padded_bthd(s.query(), 3));
    args.key = view(key.floats(), padded_bthd(s.key(), 3));
    args.value = view(value.floats(), padded_bthd(s.value(), 3));
    args.output = mut_view(output.floats(), padded_bthd(s.output(), 3));
    mha_error error = {};
    require_ok(attention(context, args, &error), error);
    Placed expected(s.output(), padded_bthd(s.output(), 3));
    expected.fill(want.output);
    const float* first = &expected.at(0, 0, 0, 0);
    const std::vector<float> got = output.values();
    check_same_bits("output and its gaps", got, std::vector<float>(first, first + got.size()));
  });
}

TEST_CASE("guard: linear between pages without access, over all tails", "[memory][guard]") {
  const std::vector<int64_t> rows = {1, 2, 3, 5, 6, 7, 8, 9, 12, 13, 14, 15, 24, 25};
  const std::vector<int64_t> features = {1, 2, 3, 4, 7, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 97, 130};
  uint64_t seed = 92000;
  for (const std::vector<int>& row : pairwise({14, 18, 18, 2}, 8)) {
    const int64_t M = rows[row[0]], N = features[row[1]], K = features[row[2]];
    const std::vector<float> x = random_floats(M * K, ++seed), w = random_floats(N * K, ++seed),
                             b = random_floats(N, ++seed);
    INFO("M " << M << " N " << N << " K " << K);
    for (Guard side : kSides) {
      const GuardedFloats input(x, side), weight(w, side), bias(b, side), output(poisoned(M * N), side);
      for_each_target([&](const std::string&, const mha_context* context) {
        const LinearPtr plain = make_linear(context, K, N, w.data(), row[3] ? b.data() : nullptr);
        const LinearPtr linear = make_linear(context, K, N, weight.floats(), row[3] ? bias.floats() : nullptr);
        const mha_linear_args args = linear_args(M, input.floats(), output.floats());
        mha_error error = {};
        require_ok(mha_linear_forward(context, linear.get(), &args, &error), error);
        check_same_bits("output", output.values(), run_linear(context, plain.get(), x, M));
        CHECK(output.slack_intact());
      });
    }
  }
}

TEST_CASE("guard: layer, its sources and its blob between pages without access", "[memory][guard]") {
  const mha_layer_config configs[] = {{20, 4, 0, 0, 0, 0, 0, 0, 0},
                                      {33, 6, 3, 9, 19, 12, 65, 71, 0, 0.3f},
                                      {1, 1, 0, 0, 0, 0, 0, 0, 0},
                                      {64, 4, 2, 17, 0, 3, 5, 1, 0}};
  for (const mha_layer_config& config : configs)
    for (int64_t Tq : {1, 6, 13})
      for (int64_t Tk : {1, 17, 257})
        for (Guard side : kSides) {
          const LayerProblem problem(config, 2, Tq, Tk, Biases::kAll, 93000);
          INFO("embed_dim " << config.embed_dim << " Tq " << Tq << " Tk " << Tk);
          for (int64_t threads : {1, 3})
            for_each_target(
                [&](const std::string&, const mha_context* context) {
                  check_layer(context, problem, static_cast<mha_weights_mode>(Tq % 3), side);
                },
                threads);
        }
}

TEST_CASE("guard: every pointer at every element offset", "[memory][alignment]") {
  const AttentionShape s = {1, 2, 2, 7, 270, 18, 18};
  const AttentionProblem problem(s, MaskKind::kAdd, 94000);
  for_each_target([&](const std::string&, const mha_context* context) {
    AttentionCall plain = problem.args();
    plain.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    const AttentionResult want = run_attention(context, plain);
    mha_error error = {};
    size_t bytes = 0;
    require_ok(attention_workspace_bytes(context, plain, &bytes, &error), error);
    for (int64_t offset = 0; offset < 16; ++offset) {
      INFO("offset " << offset);
      const auto shifted = [&](const std::vector<float>& values, int64_t by) {
        std::vector<float> buffer = poisoned(16);
        buffer.resize(static_cast<size_t>(by % 16));
        buffer.insert(buffer.end(), values.begin(), values.end());
        return buffer;
      };
      // Each at an offset of its own, so that no two share an alignment.
      const std::vector<float> query = shifted(problem.query, offset), key = shifted(problem.key, offset + 1);
      const std::vector<float> value = shifted(problem.value, offset + 2), add = shifted(problem.add_mask, offset + 3);
      std::vector<float> output = poisoned(s.output().count() + 16), lse = poisoned(14 + 16);
      std::vector<float> weights = poisoned(static_cast<int64_t>(want.weights.size()) + 16);
      std::vector<unsigned char> workspace(bytes + 64);
      AttentionCall args = plain;
      args.query = view(query.data() + offset);
      args.key = view(key.data() + (offset + 1) % 16);
      args.value = view(value.data() + (offset + 2) % 16);
      args.masks.add_mask.data = add.data() + (offset + 3) % 16;
      float *const to = output.data() + (offset + 5) % 16, *const weights_to = weights.data() + (offset + 7) % 16;
      args.output = mut_view(to);
      args.results.weights = mut_view(weights_to);
      args.results.log_sum_exp = lse.data() + (offset + 9) % 16;
      args.resources.workspace = workspace.data() + offset * 3 + 1;  // any alignment, odd addresses too
      args.resources.workspace_bytes = bytes;
      require_ok(attention(context, args, &error), error);
      CHECK(first_bit_difference(to, want.output.data(), want.output.size()) < 0);
      CHECK(first_bit_difference(weights_to, want.weights.data(), want.weights.size()) < 0);
      CHECK(first_bit_difference(args.results.log_sum_exp, want.log_sum_exp.data(), want.log_sum_exp.size()) < 0);
    }
  });
}

TEST_CASE("guard: linear with input and output at every element offset", "[memory][alignment]") {
  const std::vector<float> x = random_floats(9 * 35, 95000), w = random_floats(50 * 35, 95001);
  for_each_target([&](const std::string&, const mha_context* context) {
    const LinearPtr linear = make_linear(context, 35, 50, w.data(), nullptr);
    const std::vector<float> want = run_linear(context, linear.get(), x, 9);
    for (size_t offset = 0; offset < 16; ++offset) {
      std::vector<float> input(offset), output = poisoned(9 * 50 + 16);
      input.insert(input.end(), x.begin(), x.end());
      float* first = output.data() + 15 - offset;
      const mha_linear_args args = linear_args(9, input.data() + offset, first);
      CHECK(mha_linear_forward(context, linear.get(), &args, nullptr) == MHA_OK);
      CHECK(first_bit_difference(first, want.data(), want.size()) < 0);
    }
  });
}
