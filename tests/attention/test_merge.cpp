// SPDX-License-Identifier: Apache-2.0
// mha_attention_merge: against plain double maths and against one call over all keys; parts that saw nothing, NaN,
// results in place, bits, refusals.
#include <cmath>

#include "tests/support/shapes.h"

using namespace mha::test;

namespace {

struct Parts {
  int64_t rows, width;
  std::vector<std::vector<float>> outputs, log_sum_exps;

  Parts(int64_t parts, int64_t row_count, int64_t Dv, uint64_t seed) : rows(row_count), width(Dv) {
    for (int64_t n = 0; n < parts; ++n) {
      outputs.push_back(random_floats(rows * width, seed * 100 + static_cast<uint64_t>(2 * n)));
      log_sum_exps.push_back(random_floats(rows, seed * 100 + static_cast<uint64_t>(2 * n) + 1, 5));
    }
  }
  std::vector<const float*> pointers(const std::vector<std::vector<float>>& parts) const {
    std::vector<const float*> result;
    result.reserve(parts.size());
    for (const std::vector<float>& part : parts) result.push_back(part.data());
    return result;
  }
};

mha_merge_args merge_args(int64_t parts, int64_t rows, int64_t width, const float* const* outputs,
                          const float* const* log_sum_exps, float* output, float* log_sum_exp) {
  mha_merge_args args = {};
  args.num_parts = parts, args.rows = rows, args.value_head_dim = width;
  args.outputs = outputs, args.log_sum_exps = log_sum_exps;
  args.output = output, args.log_sum_exp = log_sum_exp;
  return args;
}

void must_merge(const mha_context* context, const mha_merge_args& args) {
  mha_error error = {};
  require_ok(mha_attention_merge(context, &args, &error), error);
}

struct Merged {
  std::vector<float> output, log_sum_exp;
};

Merged run_merge(const mha_context* context, const Parts& p) {
  Merged result = {poisoned(p.rows * p.width), poisoned(p.rows)};
  const std::vector<const float*> outputs = p.pointers(p.outputs), lses = p.pointers(p.log_sum_exps);
  must_merge(context, merge_args(static_cast<int64_t>(outputs.size()), p.rows, p.width, outputs.data(), lses.data(),
                                 result.output.data(), result.log_sum_exp.data()));
  return result;
}

void check_same(const Merged& got, const Merged& want) {
  check_same_bits("output", got.output, want.output);
  check_same_bits("log-sum-exp", got.log_sum_exp, want.log_sum_exp);
}

}  // namespace

TEST_CASE("merge: against plain double maths; the same bits on every target and for any threads", "[merge]") {
  uint64_t seed = 0;
  for (const int64_t parts : {1, 2, 3, 17}) {
    for (const int64_t width : {1, 16, 64, 65, 200}) {
      Parts p(parts, 37, width, ++seed);
      if (parts == 3) p.log_sum_exps[1][5] += 300, p.log_sum_exps[2][6] -= 1000;
      std::vector<double> output, lse;
      for (int64_t r = 0; r < p.rows; ++r) {
        double sum = 0;
        for (const auto& part : p.log_sum_exps) sum += std::exp(double(part[r]));
        if (parts == 3 && r == 5) sum = std::exp(double(p.log_sum_exps[1][r]));
        lse.push_back(std::log(sum));
        for (int64_t d = 0; d < width; ++d) {
          double value = 0;
          for (int64_t n = 0; n < parts; ++n) {
            value += std::exp(double(p.log_sum_exps[n][r]) - lse.back()) * double(p.outputs[n][r * width + d]);
          }
          output.push_back(value);
        }
      }
      Merged first;
      for_each_target([&](const std::string& target, const mha_context* context) {
        const Merged got = run_merge(context, p);
        check_close("merge " + target, got.output, output, {6e-8, 2e-8});
        check_close("merge lse " + target, got.log_sum_exp, lse, {6e-8, 4e-8});
        if (first.output.empty()) first = got;
        check_same(got, first);
        check_same(run_merge(shared_context(target, 3), p), first);
      });
    }
  }
}

TEST_CASE("merge: parts of the keys give what one call over all of them gives", "[merge]") {
  const AttentionShape s = {2, 4, 2, 7, 500, 32, 24};
  const AttentionProblem p(s, MaskKind::kNone, 50);
  for_each_target([&](const std::string& target, const mha_context* context) {
    const AttentionReference want = reference_attention(p.args());
    Parts parts(0, s.B * s.H * s.Tq, s.Dv, 0);
    for (const auto& range : {std::pair<int64_t, int64_t>{0, 130}, {130, 130}, {130, 499}, {499, 500}}) {
      AttentionCall args = p.args();
      const int64_t row = s.Hkv * s.D, value_row = s.Hkv * s.Dv;
      args.key_len = range.second - range.first;
      args.key = view(p.key.data() + range.first * row, {s.Tk * row, row, s.D});
      args.value = view(p.value.data() + range.first * value_row, {s.Tk * value_row, value_row, s.Dv});
      const AttentionResult result = run_attention(context, args);
      // Rows in the order of log_sum_exp: [B, H, Tq].
      std::vector<float> rows;
      for (int64_t b = 0; b < s.B; ++b)
        for (int64_t h = 0; h < s.H; ++h)
          for (int64_t i = 0; i < s.Tq; ++i) {
            const std::vector<float> one = output_row(s, result.output, b, i, h);
            rows.insert(rows.end(), one.begin(), one.end());
          }
      parts.outputs.push_back(rows);
      parts.log_sum_exps.push_back(result.log_sum_exp);
    }
    const Merged got = run_merge(context, parts);
    check_close("merge attention lse " + target, got.log_sum_exp, want.log_sum_exp, {8e-7, 1.5e-7});
    std::vector<double> rows;
    for (int64_t b = 0; b < s.B; ++b)
      for (int64_t h = 0; h < s.H; ++h)
        for (int64_t i = 0; i < s.Tq; ++i)
          for (int64_t d = 0; d < s.Dv; ++d)
            rows.push_back(want.output[static_cast<size_t>(((b * s.Tq + i) * s.H + h) * s.Dv + d)]);
    check_close("merge attention " + target, got.output, rows, {4e-7, 4e-8});
  });
}

TEST_CASE("merge: what saw nothing counts for nothing; NaN and Inf stay in their rows; in place", "[merge]") {
  Parts p(3, 6, 70, 60);
  for (float& value : p.log_sum_exps[1]) value = -kInf;
  for (float& value : p.outputs[1]) value = kNan;
  for (int n : {0, 2}) p.log_sum_exps[n][2] = -kInf;  // no part saw a key
  p.log_sum_exps[2][3] = kNan;
  p.log_sum_exps[0][4] = kInf;
  p.outputs[2][5 * 70 + 69] = kNan;
  for_each_target([&](const std::string&, const mha_context* context) {
    const Merged got = run_merge(context, p);
    for (int64_t r = 0; r < p.rows; ++r) {
      INFO("row " << r);
      const std::vector<float> row(got.output.begin() + r * 70, got.output.begin() + (r + 1) * 70);
      const auto nans = std::count_if(row.begin(), row.end(), [](float value) { return std::isnan(value); });
      CHECK(nans == (r == 3 || r == 4 ? 70 : (r == 5 ? 1 : 0)));
      if (r == 2) CHECK(all_zero(row));
    }
    CHECK(got.log_sum_exp[2] == -kInf);
    CHECK(std::isnan(got.log_sum_exp[3]));
    CHECK(got.log_sum_exp[4] == kInf);
    CHECK(std::isfinite(got.log_sum_exp[5]));

    Parts same = p;
    const std::vector<const float*> outputs = same.pointers(same.outputs), lses = same.pointers(same.log_sum_exps);
    must_merge(context, merge_args(3, p.rows, p.width, outputs.data(), lses.data(), same.outputs[0].data(),
                                   same.log_sum_exps[0].data()));
    check_same({same.outputs[0], same.log_sum_exps[0]}, got);

    std::vector<float> output = poisoned(p.rows * p.width);
    must_merge(context, merge_args(3, p.rows, p.width, p.pointers(p.outputs).data(), p.pointers(p.log_sum_exps).data(),
                                   output.data(), nullptr));
    check_same_bits("without log-sum-exp", output, got.output);
    must_merge(context, merge_args(0, p.rows, p.width, nullptr, nullptr, output.data(), nullptr));
    CHECK(all_zero(output));
    must_merge(context, merge_args(3, 0, p.width, nullptr, nullptr, nullptr, nullptr));
  });
}

TEST_CASE("merge: refusals", "[merge]") {
  const Parts p(2, 3, 4, 70);
  for_each_target([&](const std::string&, const mha_context* context) {
    const std::vector<const float*> outputs = p.pointers(p.outputs), lses = p.pointers(p.log_sum_exps);
    const std::vector<const float*> hole = {outputs[0], nullptr};
    std::vector<float> output = poisoned(12);
    const auto refused = [&](mha_status want, const std::string& text, int64_t parts, int64_t rows, int64_t width,
                             const float* const* o, const float* const* l, float* result) {
      mha_error error = {};
      const mha_merge_args args = merge_args(parts, rows, width, o, l, result, nullptr);
      CHECK(mha_attention_merge(context, &args, &error) == want);
      INFO(error.message);
      CHECK(mentions(error, text));
      CHECK(std::all_of(output.begin(), output.end(), is_poison));
    };
    const float* const* o = outputs.data();
    const float* const* l = lses.data();
    refused(MHA_ERR_ARGUMENT, "num_parts is -1", -1, 3, 4, o, l, output.data());
    refused(MHA_ERR_ARGUMENT, "rows is -2", 2, -2, 4, o, l, output.data());
    refused(MHA_ERR_ARGUMENT, "value_head_dim is 0", 2, 3, 0, o, l, output.data());
    refused(MHA_ERR_OVERFLOW, "rows", 2, int64_t{1} << 40, int64_t{1} << 40, o, l, output.data());
    refused(MHA_ERR_NULL, "outputs is NULL", 2, 3, 4, nullptr, l, output.data());
    refused(MHA_ERR_NULL, "log_sum_exps is NULL", 2, 3, 4, o, nullptr, output.data());
    refused(MHA_ERR_NULL, "outputs[1] is NULL", 2, 3, 4, hole.data(), l, output.data());
    refused(MHA_ERR_NULL, "log_sum_exps[1] is NULL", 2, 3, 4, o, hole.data(), output.data());
    refused(MHA_ERR_NULL, "output is NULL", 2, 3, 4, o, l, nullptr);
    mha_error error = {};
    mha_merge_args args = merge_args(2, 3, 4, o, l, output.data(), nullptr);
    CHECK(mha_attention_merge(nullptr, &args, &error) == MHA_ERR_NULL);
    CHECK(mha_attention_merge(context, nullptr, &error) == MHA_ERR_NULL);
    args.reserved[2] = 1;
    CHECK(mha_attention_merge(context, &args, &error) == MHA_ERR_ARGUMENT);
    CHECK(mentions(error, "args.reserved[2] is not 0"));
    CHECK(std::all_of(output.begin(), output.end(), is_poison));
  });
}
