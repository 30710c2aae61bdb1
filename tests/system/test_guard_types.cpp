// SPDX-License-Identifier: Apache-2.0
// Tensors of any types between pages without access: a load of 16 elements at the end of a 16-bit tensor reads nothing
// behind it, and a store nothing around a result; at every element offset. Results have the bits of the f32 call.
#include "tests/support/guard.h"
#include "tests/support/layers.h"
#include "tests/support/random_typed.h"

using namespace mha::test;

namespace {

const Guard kSides[] = {Guard::kAfter, Guard::kBefore};

mha_dtype type_of(int level) { return kElementTypes[level].dtype; }

struct Types {
  mha_dtype query, key, value, output, mask;
  mha_arithmetic arithmetic = MHA_ARITHMETIC_F32;
  std::string describe() const {
    return "arithmetic " + std::to_string(arithmetic) + ": " + dtype_name(query) + " " + dtype_name(key) + " " +
           dtype_name(value) + " " + dtype_name(output) + " mask " + dtype_name(mask);
  }
};

void check_attention(const mha_context* context, const AttentionProblem& p, mha_weights_mode mode, const Types& types,
                     Guard side) {
  const GuardedElements query(Elements(types.query, p.query), side), key(Elements(types.key, p.key), side);
  const GuardedElements value(Elements(types.value, p.value), side), add(Elements(types.mask, p.add_mask), side);
  const std::vector<float> wide_query = query.widened(), wide_key = key.widened(), wide_value = value.widened();
  const std::vector<float> wide_add = add.widened();
  AttentionCall wide = p.args();
  wide.results.weights_mode = mode, wide.arithmetic = types.arithmetic;
  wide.query = view(wide_query.data()), wide.key = view(wide_key.data()), wide.value = view(wide_value.data());
  if (add.bytes()) wide.masks.add_mask.data = wide_add.data();
  const AttentionResult want = run_attention(context, wide);

  const GuardedElements output(Elements(types.output, p.shape.output().count()), side);
  const GuardedFloats weights(poisoned(static_cast<int64_t>(want.weights.size())), side);
  const GuardedFloats lse(poisoned(static_cast<int64_t>(want.log_sum_exp.size())), side);
  AttentionCall args = wide;
  args.query = query.view(), args.key = key.view(), args.value = value.view(), args.output = output.mut_view();
  if (add.bytes()) args.masks.add_mask.data = add.data(), args.masks.add_mask.dtype = types.mask;
  if (mode != MHA_WEIGHTS_NONE) args.results.weights = mut_view(weights.floats());
  args.results.log_sum_exp = lse.floats();
  std::unique_ptr<GuardedBuffer> workspace;
  guarded_workspace(&workspace, &args, [&](size_t* bytes, mha_error* error) {
    return attention_workspace_bytes(context, args, bytes, error);
  });
  mha_error error = {};
  require_ok(attention(context, args, &error), error);
  check_rounded("output", output.elements(), want.output);
  check_same_bits("weights", weights.values(), want.weights);
  check_same_bits("log-sum-exp", lse.values(), want.log_sum_exp);
  CHECK((output.slack_intact() && weights.slack_intact() && lse.slack_intact() && workspace->slack_intact()));
}

}  // namespace

TEST_CASE("guard types: attention over any types between pages without access", "[widening][memory][guard]") {
  const std::vector<int64_t> dims = {1, 3, 8, 15, 16, 17, 31, 33, 47, 64, 65, 81};
  const std::vector<int64_t> query_lens = {1, 2, 5, 7, 13, 25}, key_lens = {1, 7, 15, 16, 17, 33, 255, 257, 515};
  uint64_t seed = 800000;
  for (const std::vector<int>& row : pairwise({12, 9, 12, 6, kMaskKinds, 3, 3, 3, 3, 3, 3}, 9)) {
    const AttentionShape shape = {1, 2, 1, query_lens[row[3]], key_lens[row[1]], dims[row[0]], dims[row[2]]};
    const MaskKind kind = static_cast<MaskKind>(row[4]);
    const AttentionProblem problem(shape, kind, ++seed);
    Types types = {type_of(row[6]), type_of(row[7]), type_of(row[8]), type_of(row[9]), type_of(row[10])};
    for (const mha_arithmetic arithmetic : {MHA_ARITHMETIC_F32, MHA_ARITHMETIC_BF16}) {
      types.arithmetic = arithmetic;
      INFO(describe(shape, kind) << " weights " << row[5] << " " << types.describe());
      for (const std::string& target : targets_of(arithmetic))
        for (Guard side : kSides)
          check_attention(shared_context(target, 1), problem, static_cast<mha_weights_mode>(row[5]), types, side);
    }
  }
}

TEST_CASE("guard types: attention on several threads", "[widening][memory][guard][threads]") {
  const AttentionProblem problem({1, 1, 1, 5, 20001, 33, 17}, MaskKind::kAll, 801000);
  for (const mha_dtype dtype : {MHA_F16, MHA_BF16})
    for (Guard side : kSides)
      for_each_target(
          [&](const std::string&, const mha_context* context) {
            check_attention(context, problem, MHA_WEIGHTS_PER_HEAD, {dtype, dtype, dtype, dtype, dtype}, side);
          },
          5);
}

TEST_CASE("guard types: every pointer at every element offset", "[widening][memory][alignment]") {
  const AttentionShape s = {1, 2, 2, 7, 270, 18, 18};
  const AttentionProblem p(s, MaskKind::kAdd, 802000);
  for (const mha_dtype dtype : {MHA_F16, MHA_BF16}) {
    for_each_target([&](const std::string&, const mha_context* context) {
      AttentionCall wide = p.args();
      const std::vector<float> q = rounded(dtype, p.query), k = rounded(dtype, p.key), v = rounded(dtype, p.value);
      const std::vector<float> add = rounded(dtype, p.add_mask);
      wide.query = view(q.data()), wide.key = view(k.data()), wide.value = view(v.data());
      wide.masks.add_mask.data = add.data();
      const AttentionResult want = run_attention(context, wide);
      for (int64_t offset = 0; offset < 32; ++offset) {  // elements of 2 bytes: a line has 32
        INFO(dtype_name(dtype) << " offset " << offset);
        const auto shifted = [&](const std::vector<float>& values, int64_t by) {
          std::vector<float> all = poisoned(by % 32);
          all.insert(all.end(), values.begin(), values.end());
          return Elements(dtype, all);
        };
        const int64_t at[] = {offset, (offset + 1) % 32, (offset + 2) % 32, (offset + 3) % 32, (offset + 5) % 32};
        const Elements query = shifted(p.query, at[0]), key = shifted(p.key, at[1]), value = shifted(p.value, at[2]);
        const Elements mask = shifted(p.add_mask, at[3]);
        Elements output(dtype, s.output().count() + 32);
        AttentionCall args = wide;
        args.query = query.view({}, at[0]), args.key = key.view({}, at[1]), args.value = value.view({}, at[2]);
        args.masks.add_mask.data = mask.data(at[3]), args.masks.add_mask.dtype = dtype;
        args.output = output.mut_view({}, at[4]);
        mha_error error = {};
        require_ok(attention(context, args, &error), error);
        std::vector<float> all = poisoned(output.count());
        std::copy(want.output.begin(), want.output.end(), all.begin() + at[4]);
        check_rounded("output and around it", output, all);
      }
    });
  }
}

TEST_CASE("guard types: strided tensors, whose last row ends at the page", "[widening][memory][guard][strides]") {
  const AttentionShape s = {2, 3, 3, 7, 37, 11, 5};
  const AttentionProblem p(s, MaskKind::kNone, 803000);
  const auto place = [](const Extent& e, const std::vector<float>& dense) {
    const Strides st = padded_bthd(e, 3);
    const int64_t size = (e.b - 1) * st.b + (e.t - 1) * st.t + (e.h - 1) * st.h + e.d;
    Placed placed(e, st);
    if (!dense.empty()) placed.fill(dense);
    const float* data = &placed.at(0, 0, 0, 0);
    return std::vector<float>(data, data + size);
  };
  for (const mha_dtype dtype : {MHA_F16, MHA_BF16}) {
    for_each_target([&](const std::string&, const mha_context* context) {
      const GuardedElements query(Elements(dtype, place(s.query(), p.query)), Guard::kAfter);
      const GuardedElements key(Elements(dtype, place(s.key(), p.key)), Guard::kAfter);
      const GuardedElements value(Elements(dtype, place(s.value(), p.value)), Guard::kAfter);
      const GuardedElements output(Elements(dtype, static_cast<int64_t>(place(s.output(), {}).size())), Guard::kAfter);
      AttentionCall wide = p.args();
      const std::vector<float> q = rounded(dtype, p.query), k = rounded(dtype, p.key), v = rounded(dtype, p.value);
      wide.query = view(q.data()), wide.key = view(k.data()), wide.value = view(v.data());
      AttentionCall args = p.args();
      args.query = query.view(padded_bthd(s.query(), 3)), args.key = key.view(padded_bthd(s.key(), 3));
      args.value = value.view(padded_bthd(s.value(), 3)), args.output = output.mut_view(padded_bthd(s.output(), 3));
      mha_error error = {};
      require_ok(attention(context, args, &error), error);
      check_rounded("output and its gaps", output.elements(), place(s.output(), run_attention(context, wide).output));
    });
  }
}

namespace {

/// A product of guarded operands, its workspace too, against that of their values as floats.
void check_linear(const mha_context* context, int64_t M, int64_t N, int64_t K, const GuardedElements& input,
                  const GuardedElements& weight, const std::vector<float>& bias, mha_dtype to, Guard side) {
  const LinearPtr plain = make_linear(context, K, N, weight.widened().data(), bias.data());
  const std::vector<float> want = run_linear(context, plain.get(), input.widened(), M);
  mha_linear_config config = {};
  config.in_features = K, config.out_features = N, config.weight = weight.view(), config.bias = bias.data();
  mha_linear* made = nullptr;
  mha_error error = {};
  require_ok(mha_linear_create(context, &config, &made, &error), error);
  const LinearPtr linear(made);
  const GuardedElements output(Elements(to, M * N), side);
  mha_linear_args args = {};
  args.rows = M, args.input = input.view(), args.output = output.mut_view();
  mha_resources resources = {};
  size_t bytes = 0;
  require_ok(mha_linear_workspace_bytes(context, linear.get(), &args, &bytes, &error), error);
  const GuardedBuffer workspace(bytes, side);
  std::memset(workspace.data(), 0xff, bytes);
  if (bytes > 0) resources.workspace = workspace.data(), resources.workspace_bytes = bytes, args.resources = &resources;
  require_ok(mha_linear_forward(context, linear.get(), &args, &error), error);
  check_rounded("output", output.elements(), want);
  CHECK((output.slack_intact() && workspace.slack_intact()));
}

}  // namespace

TEST_CASE("guard types: linear over any types between pages without access", "[widening][memory][guard]") {
  const std::vector<int64_t> rows = {1, 2, 5, 6, 7, 8, 13, 24, 25},
                             features = {1, 3, 7, 15, 16, 17, 33, 63, 64, 65, 130};
  uint64_t seed = 804000;
  for (const std::vector<int>& row : pairwise({9, 11, 11, 3, 3, 3, 2}, 10)) {
    const int64_t M = rows[row[0]], N = features[row[1]], K = features[row[2]];
    const std::vector<float> x = random_floats(M * K, ++seed), w = random_floats(N * K, ++seed);
    const std::vector<float> bias = random_floats(N, ++seed);
    INFO("M " << M << " N " << N << " K " << K << " types " << row[3] << row[4] << row[5]);
    for (Guard side : kSides) {
      const GuardedElements input(Elements(type_of(row[3]), x), side), weight(Elements(type_of(row[4]), w), side);
      for_each_target(
          [&](const std::string&, const mha_context* context) {
            check_linear(context, M, N, K, input, weight, bias, type_of(row[5]), side);
          },
          row[6] ? 3 : 1);
    }
  }
}
