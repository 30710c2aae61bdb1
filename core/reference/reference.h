// SPDX-License-Identifier: Apache-2.0
// The readable definition of "correct": attention, linear and the layer as naive loops, in double (the oracle of the
// tests) or float (the loops that speed is compared with). A library of its own (mha_reference), for tests, bench and
// tools.
#ifndef MHA_CORE_REFERENCE_H
#define MHA_CORE_REFERENCE_H

#include <cstdint>

#include "core/mha.h"

namespace mha::reference {

/// What mha_attention must compute, one query row at a time in four passes (scores, max, exp and sum, weighted sum).
///   query [B, Tq, H, D], key [B, Tk, Hkv, D], value [B, Tk, Hkv, Dv] (or pages of them) and the groups are read from
///   `args` by their strides; its output, resources and results are ignored, except results.weights_mode. Items are as
///   long as each other, or have key_lengths.
///   output      [B, Tq, H, Dv], dense
///   weights     [B, H, Tq, Tk], or [B, Tq, Tk] with MHA_WEIGHTS_AVERAGED, dense; nullptr: not wanted
///   log_sum_exp [B, H, Tq], dense; nullptr: not wanted
/// A key that is not visible is skipped, so nothing in it matters. A row with no visible key, or with only -inf visible
/// scores, is zeros (weights too) and has log-sum-exp -inf. A visible NaN, or a score of +inf, makes the row NaN.
/// The arguments are not validated. Tensors, weights and additive masks may be of any element type.
template <class T>
void attention(const mha_attention_args& args, T* output, T* weights, T* log_sum_exp);

/// output[m, n] = sum_k input[m, k] * weight[n, k] + bias[n].
///   input [rows, in_features] with `input_stride` elements from row to row, weight [out_features, in_features],
///   bias [out_features] or nullptr, output [rows, out_features] dense.
template <class T>
void linear(const float* input, int64_t input_stride, int64_t rows, int64_t in_features, const float* weight,
            const float* bias, int64_t out_features, T* output);

/// What mha_layer_forward must compute: three projections, attention, output projection, with nothing rounded to float
/// in between.
///   output [B, Tq, out_dim] dense; weights_out as `weights` of attention, with a column more for each key that the
///   layer adds (bias_key, add_zero_attn).
template <class T>
void forward(const mha_layer_config& config, const mha_layer_weights& weights, const mha_layer_args& args, T* output,
             T* weights_out);

/// What mha_rows_prepare must compute: output [B, T, heads, D] dense; slots are ignored.
template <class T>
void norm_rope_rows(const mha_rows_args& args, T* output);

}  // namespace mha::reference

#endif  // MHA_CORE_REFERENCE_H
