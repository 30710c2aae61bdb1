// SPDX-License-Identifier: Apache-2.0
// ggml's max_bias: the mask of head h is the given one, of any values, times a slope of its own (arXiv 2108.12409).
// mha's masks have no factor for a head, so the products are written to a mask of floats, for as many queries at a time
// as keep it small.
#pragma once

#include <ggml.h>
#include <mha/mha.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "team.h"

namespace mha_ggml_detail {

class ScaledMask {
 public:
  // Calls attend(args) for one block of queries after the other.
  template <typename Attend>
  mha_status for_blocks(const mha_attention_args& whole, float max_bias, Team* team, const Attend& attend) {
    set_slopes(whole.num_heads, max_bias);
    mha_attention_args args = whole;
    mha_masks masks = *whole.masks;
    args.masks = &masks;
    const int64_t items = whole.masks->add_mask.stride_b == 0 ? 1 : whole.batch;
    const int64_t row = std::max<int64_t>(whole.key_len * whole.num_heads * items, 1);
    const int64_t most = std::min(std::max<int64_t>(kFloats / row, 1), whole.query_len);
    const int64_t width = whole.num_heads * whole.value_head_dim;
    args.output.stride_h = whole.value_head_dim, args.output.stride_t = width;
    args.output.stride_b = width * whole.query_len;
    mha_status status = MHA_OK;
    for (int64_t first = 0; first < whole.query_len && status == MHA_OK; first += most) {
      args.query_len = std::min(most, whole.query_len - first);
      fill(whole, first, args.query_len, items, team);
      masks.add_mask.data = scaled_.data(), masks.add_mask.dtype = MHA_F32;
      masks.add_mask.stride_q = whole.key_len, masks.add_mask.stride_h = whole.key_len * args.query_len;
      if (items > 1) masks.add_mask.stride_b = masks.add_mask.stride_h * whole.num_heads;
      args.query.data = static_cast<const float*>(whole.query.data) + first * whole.query.stride_t;
      args.output.data = static_cast<float*>(whole.output.data) + first * width;
      status = attend(args);
    }
    return status;
  }

 private:
  static constexpr int64_t kFloats = 1 << 22;

  void set_slopes(int64_t heads, float max_bias) {
    const auto power = static_cast<int64_t>(1) << static_cast<int>(std::floor(std::log2(static_cast<double>(heads))));
    const float first = std::pow(2.0F, -max_bias / static_cast<float>(power));
    const float second = std::pow(2.0F, -max_bias / 2 / static_cast<float>(power));
    slopes_.resize(heads);
    for (int64_t h = 0; h < heads; ++h) {
      const bool within = h < power;
      slopes_[h] = std::pow(within ? first : second, static_cast<float>(within ? h + 1 : 2 * (h - power) + 1));
    }
  }

  struct Fill {
    ScaledMask* self;
    const mha_add_mask* mask;
    int64_t items, first, queries, keys, heads;
  };

  void fill(const mha_attention_args& whole, int64_t first, int64_t queries, int64_t items, Team* team) {
    scaled_.resize(static_cast<size_t>(items * whole.num_heads * queries * whole.key_len));
    Fill task = {this, &whole.masks->add_mask, items, first, queries, whole.key_len, whole.num_heads};
    Team::run(team, whole.num_heads, fill_head, &task);
  }

  static void fill_head(void* data, int64_t head) {
    const Fill& task = *static_cast<const Fill*>(data);
    const mha_add_mask& mask = *task.mask;
    const float slope = task.self->slopes_[head];
    for (int64_t n = 0; n < task.items * task.queries; ++n) {
      const int64_t item = n / task.queries, i = n % task.queries;
      const auto* from = static_cast<const ggml_fp16_t*>(mask.data) + item * mask.stride_b + head * mask.stride_h;
      float* to = task.self->scaled_.data() + ((item * task.heads + head) * task.queries + i) * task.keys;
      ggml_fp16_to_fp32_row(from + (task.first + i) * mask.stride_q, to, task.keys);
      for (int64_t j = 0; j < task.keys; ++j) to[j] *= slope;
    }
  }

  std::vector<float> slopes_, scaled_;
};

}  // namespace mha_ggml_detail
