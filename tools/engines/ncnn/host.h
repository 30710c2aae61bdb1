// SPDX-License-Identifier: Apache-2.0
// What the layers share: ncnn's threads, allocators and blobs as mha takes them. Results are as those of ncnn's layers: 0,
// or an error, whose reason goes to ncnn's log.
#ifndef MHA_ENGINES_NCNN_HOST_H
#define MHA_ENGINES_NCNN_HOST_H

#include <mat.h>
#include <modelbin.h>
#include <option.h>

#include <mha/mha.hpp>

namespace mha_ncnn {

constexpr int kOutOfMemory = -100;

/// Floats [heads][tokens][width]; strides in floats.
struct Heads {
  float* data;
  int heads, tokens, width;
  size_t head_stride, token_stride;
};

/// A blob [c][h][w].
Heads heads_of(const ncnn::Mat& blob);
/// A blob [h][w] whose rows are the heads, side by side.
Heads heads_of(const ncnn::Mat& blob, int heads);

struct Attention {
  Heads query, key, value, output;
  ncnn::Mat mask;  // added to the scores: [Tq][Tk] or [heads or 1][Tq][Tk]; empty: none
  float scale;     // 0: 1 / sqrt(width)
};

int attend(const Attention& attention, const ncnn::Option& option);

/// The blob `past` (empty: none) with the added tokens behind it: [heads][tokens][width], in past's memory while that has
/// room, so that each token is written once.
int extend(const ncnn::Mat& past, const Heads& added, const ncnn::Option& option, ncnn::Mat& cache);

/// A weight [out][in] and its bias, packed when the model is loaded.
class Linear {
 public:
  int load(const ncnn::ModelBin& weights, int in, int out);
  /// rows: [h][in]; result: [h][out].
  int forward(const ncnn::Mat& rows, ncnn::Mat& result, ncnn::Allocator* allocator, const ncnn::Option& option) const;

 private:
  int in_ = 0, out_ = 0;
  mha::Linear packed_;
};

}  // namespace mha_ncnn

#endif  // MHA_ENGINES_NCNN_HOST_H
