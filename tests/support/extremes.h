// SPDX-License-Identifier: Apache-2.0
// One call on every way that a score can take, against the reference in double: packed, in place, split over threads, in
// parts that are merged, weights on the way and by a second pass.
#ifndef MHA_TESTS_SUPPORT_EXTREMES_H
#define MHA_TESTS_SUPPORT_EXTREMES_H

#include <cfloat>

#include "tests/support/layers.h"
#include "tests/support/partials.h"

namespace mha::test {

/// Bounds on output and weights, and on the log-sum-exp.
struct Bounds {
  double values, log_sum_exp;
};
inline constexpr Bounds kOrdinary = {2e-6, 2e-6};

inline double within_float(double x) { return std::isinf(x) ? x : std::clamp<double>(x, -FLT_MAX, FLT_MAX); }

struct Want {
  AttentionReference plain;  // with weights per head
  std::vector<double> averaged, key_sums, last_row;

  explicit Want(AttentionCall args) {
    args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
    plain = reference_attention(args);
    for (double& lse : plain.log_sum_exp) lse = within_float(lse);
    const int64_t H = args.num_heads, Tq = args.query_len, Tk = args.key_len;
    averaged.resize(static_cast<size_t>(args.batch * Tq * Tk));
    key_sums.resize(static_cast<size_t>(args.batch * H * Tk));
    last_row.resize(key_sums.size());
    for (size_t n = 0; n < plain.weights.size(); ++n) {
      const int64_t at = static_cast<int64_t>(n), j = at % Tk, i = at / Tk % Tq, h = at / Tk / Tq % H;
      const int64_t b = at / Tk / Tq / H;
      averaged[static_cast<size_t>((b * Tq + i) * Tk + j)] += plain.weights[n] / static_cast<double>(H);
      key_sums[static_cast<size_t>((b * H + h) * Tk + j)] += plain.weights[n];
      if (i == Tq - 1) last_row[static_cast<size_t>((b * H + h) * Tk + j)] = plain.weights[n];
    }
  }
};

inline void check_weights(const mha_context* context, AttentionCall args, const std::string& what,
                          const std::vector<double>& want, double bound) {
  std::vector<float> output = poisoned(args.batch * args.query_len * args.num_heads * args.value_head_dim);
  std::vector<float> weights = poisoned(static_cast<int64_t>(want.size()));
  args.output = mut_view(output.data());
  args.results.weights = mut_view(weights.data());
  call_attention(context, args);
  check_close(what, weights, want, {bound, bound});
}

/// The call on every target, by one thread and by three, with every kind of weights and in parts.
inline void check_everywhere(const std::string& what, const AttentionProblem& p, AttentionCall args, Bounds bounds) {
  const Want want(args);
  const double rows = static_cast<double>(args.query_len);
  INFO(what << ": " << describe(p.shape));
  for_each_target([&](const std::string& target, const mha_context* one) {
    const AttentionResult got = run_attention(one, args);
    check_close("output", got.output, want.plain.output, {bounds.values, bounds.values});
    check_close("log-sum-exp", got.log_sum_exp, want.plain.log_sum_exp, {bounds.log_sum_exp, bounds.log_sum_exp});
    for (const int64_t threads : {1, 3}) {
      const mha_context* context = shared_context(target, threads);
      check_same_results("by threads", run_attention(context, args), got);
      AttentionCall with = args;
      with.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
      check_weights(context, with, "weights", want.plain.weights, bounds.values);
      with.results.weights_mode = MHA_WEIGHTS_AVERAGED;
      check_weights(context, with, "weights averaged", want.averaged, bounds.values);
      with.results.weights_mode = MHA_WEIGHTS_KEY_SUMS;
      check_weights(context, with, "key sums", want.key_sums, bounds.values * rows);
      const int64_t last = args.query_len - 1;
      with.results.weights_mode = MHA_WEIGHTS_PER_HEAD, choose_weights_rows(&with, &last, 1);
      check_weights(context, with, "weights of the last row", want.last_row, bounds.values);
    }
    std::vector<float> partials;
    for (int64_t begin = 0; begin < p.shape.Tk; begin += 256) {
      const int64_t count = std::min<int64_t>(256, p.shape.Tk - begin);
      const std::vector<float> part = partial(one, part_of(p, args, begin, count));
      partials.insert(partials.end(), part.begin(), part.end());
    }
    const AttentionResult parts = merged(one, p.shape, partials, args.score_mods.sink_logits);
    check_same_bits("merged output", parts.output, got.output);
    check_same_bits("merged log-sum-exp", parts.log_sum_exp, got.log_sum_exp);
  });
}

/// Packed, in place, and both in chunks that threads share.
inline constexpr AttentionShape kShapes[] = {
    {1, 4, 2, 40, 600, 8, 20}, {2, 2, 2, 1, 300, 24, 16}, {1, 2, 1, 1, 5000, 64, 64}, {1, 1, 1, 20, 1500, 64, 64}};

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_EXTREMES_H
