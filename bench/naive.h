// SPDX-License-Identifier: Apache-2.0
// The reference on rows picked from a problem: in double to check a result, in float to time the naive loops. Picking
// keeps both within a fraction of a second where the whole would take minutes.
#ifndef MHA_BENCH_NAIVE_H
#define MHA_BENCH_NAIVE_H

#include <string>

#include "core/mha.hpp"

namespace mha::bench {

struct LinearProblem {
  int64_t rows, in_features, out_features;
  const float* input;
  const float* weight;
  const float* bias;
};

/// What is wrong with `output` [rows, out_features], or nothing.
std::string check_linear(const LinearProblem& problem, const float* output,
                         mha_arithmetic arithmetic = MHA_ARITHMETIC_F32);
double naive_linear_seconds(const LinearProblem& problem, int threads);

/// `args` without additive masks, weights_rows, rope, norm, cache and items that differ; queries at the end of the
/// keys. output [B, Tq, H, Dv] and weights [B, H, Tq, Tk] (nullptr: not wanted) are dense.
std::string check_attention(const AttentionCall& args, const float* output, const float* weights);
double naive_attention_seconds(const AttentionCall& args, int threads, bool with_weights);

/// Self-attention or cross-attention without masks, dense; weights [B, H, Tq, Tk] or nullptr.
std::string check_forward(const mha_layer_config& config, const mha_layer_weights& layer, const LayerCall& args,
                          const float* output, const float* weights);

/// Pairs of query and key that are visible in one head of one batch item (the first).
double visible_pairs(const AttentionCall& args);

}  // namespace mha::bench

#endif  // MHA_BENCH_NAIVE_H
