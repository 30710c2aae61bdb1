// SPDX-License-Identifier: Apache-2.0
// Naive attention, linear and layer: written to be read and believed, not to be fast. Every loop is in the order of its
// formula.
#include "core/reference/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "core/reference/elements.h"
#include "core/reference/reference_rope.h"

namespace mha::reference {
namespace {

/// A strided tensor [B, T, heads, width] whose last dimension is dense; S is float (the caller's) or T (projected).
template <class S>
struct Tensor {
  const S* data;
  int64_t stride_b, stride_t, stride_h;
  const mha_pages* pages = nullptr;  // stride_b steps these
  int64_t pages_stride = 0;
  std::shared_ptr<const std::vector<S>> widened = nullptr;  // what `data` points into where the caller's are no floats

  const S* row(int64_t b, int64_t t, int64_t h) const {
    if (pages) b = pages->table[b * pages_stride + t / pages->page_size], t %= pages->page_size;
    return data + b * stride_b + t * stride_t + h * stride_h;
  }
};

template <class S>
Tensor<S> dense_tensor(const S* data, int64_t length, int64_t heads, int64_t width) {
  return {data, length * heads * width, heads * width, width};
}

int64_t stride_or_repeat(int64_t stride) { return stride == MHA_BROADCAST ? 0 : stride; }

int64_t stride_or_dense(const mha_view& view, int64_t stride, int64_t dense) {
  return view.stride_b == 0 && view.stride_t == 0 && view.stride_h == 0 ? dense : stride_or_repeat(stride);
}

/// Rotates rows by their Walsh-Hadamard matrix, which is its own inverse: entry (i, j) of a block of n elements is
/// (-1)^(bits that i and j have in common) / sqrt(n).
void hadamard_rows(int64_t width, std::vector<float>* values) {
  const int64_t n = width & -width;
  std::vector<double> row(static_cast<size_t>(n));
  for (size_t first = 0; first < values->size(); first += row.size()) {
    for (int64_t i = 0; i < n; ++i) {
      row[static_cast<size_t>(i)] = 0;
      for (int64_t j = 0; j < n; ++j) {
        const double x = static_cast<double>((*values)[first + static_cast<size_t>(j)]);
        row[static_cast<size_t>(i)] += __builtin_popcountll(static_cast<uint64_t>(i & j)) % 2 ? -x : x;
      }
    }
    for (size_t i = 0; i < row.size(); ++i) {
      (*values)[first + i] = static_cast<float>(row[i] / std::sqrt(static_cast<double>(n)));
    }
  }
}

/// A tensor of other elements, or of codes, as dense floats.
Tensor<float> widened_tensor(const mha_view& view, int64_t B, int64_t length, int64_t heads, int64_t width) {
  const int64_t row = is_code(view.dtype) ? dense_code_row(view.dtype, width) : width;
  const int64_t stride_h = stride_or_dense(view, view.stride_h, row);
  const int64_t stride_t = stride_or_dense(view, view.stride_t, heads * row);
  const int64_t stride_b = stride_or_dense(view, view.stride_b, length * heads * row);
  auto values = std::make_shared<std::vector<float>>();
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < length; ++t)
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t d = 0; d < width; ++d) {
          const int64_t offset = b * stride_b + t * stride_t + h * stride_h;
          values->push_back(is_code(view.dtype) ? code_value(view, offset, b, t, h, d)
                                                : element_at(view.dtype, view.data, offset + d));
        }
  if (is_code(view.dtype) && view.quant && view.quant->hadamard) hadamard_rows(width, values.get());
  Tensor<float> tensor = dense_tensor<float>(values->data(), length, heads, width);
  tensor.widened = values;
  return tensor;
}

/// The tensor of a view, where strides that are all 0 mean dense [B, T, heads, width].
Tensor<float> tensor_of(const mha_view& view, int64_t B, int64_t length, int64_t heads, int64_t width) {
  if (view.dtype != MHA_F32) return widened_tensor(view, B, length, heads, width);
  const float* data = static_cast<const float*>(view.data);
  if (view.stride_b == 0 && view.stride_t == 0 && view.stride_h == 0) return dense_tensor(data, length, heads, width);
  return {data, stride_or_repeat(view.stride_b), stride_or_repeat(view.stride_t), stride_or_repeat(view.stride_h)};
}

/// A group that is not given is one of zeros.
template <class Group>
Group given_or_default(const Group* group) {
  return group ? *group : Group{};
}

/// Sizes with every default filled in, and what goes with them.
struct Problem {
  int64_t B, H, Hkv, Tq, Tk, D, Dv;
  double scale;
  bool causal;
  mha_items items;
  mha_positions positions;
  mha_masks masks;
  mha_weights_mode weights_mode;
  mha_score_mods mods;
  int64_t tail = 0;  // the last keys of Tk, which the layer adds and every query sees

  int64_t keys_of(int64_t b) const { return items.key_lengths ? items.key_lengths[b] : Tk - tail; }
};

/// p(i): where query i of item b stands among the keys.
int64_t position_of(const Problem& p, int64_t b, int64_t i) {
  switch (p.positions.align) {
    case MHA_ALIGN_START:
      return i;
    case MHA_ALIGN_OFFSET:
      return i + (p.positions.offsets ? p.positions.offsets[b] : p.positions.offset);
    default:
      return i + p.keys_of(b) - p.Tq;
  }
}

/// Whether the list of item b and head h has the pair of the blocks of query i and key j.
bool has_pair(const Problem& p, int64_t b, int64_t h, int64_t i, int64_t j) {
  const mha_block_mask& mask = p.masks.block_mask;
  const int64_t begin = mask.pair_offsets ? mask.pair_offsets[b * p.H + h] : 0;
  const int64_t end = mask.pair_offsets ? mask.pair_offsets[b * p.H + h + 1] : mask.num_pairs;
  for (int64_t n = begin; n < end; ++n)
    if (mask.pairs[2 * n] == i / mask.query_block && mask.pairs[2 * n + 1] == j / mask.key_block) return true;
  return false;
}

/// Dense [B, T, heads, width].
template <class T>
std::vector<T> copy_of(const Tensor<float>& from, int64_t B, int64_t length, int64_t heads, int64_t width) {
  std::vector<T> copy;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < length; ++t)
      for (int64_t h = 0; h < heads; ++h) {
        const float* row = from.row(b, t, h);
        copy.insert(copy.end(), row, row + width);
      }
  return copy;
}

/// Norms and rotates x [B, T, heads, D] in place; position(b, t) says where a token stands.
template <class T, class Position>
void norm_rope(const mha_rope* rope, const mha_norm* norm, int64_t B, int64_t length, int64_t heads, int64_t D,
               Position position, T* x) {
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < length; ++t)
      for (int64_t h = 0; h < heads; ++h, x += D) norm_rope_row(rope, norm, position(b, t), D, x);
}

/// Entry (b, h, i, j) of a mask of single keys.
template <class Mask>
int64_t entry_of(const Mask& m, int64_t b, int64_t h, int64_t i, int64_t j) {
  return b * stride_or_repeat(m.stride_b) + h * stride_or_repeat(m.stride_h) + i * stride_or_repeat(m.stride_q) +
         j * (m.stride_k == 0 ? 1 : stride_or_repeat(m.stride_k));
}

/// What a mask adds to a score; 0 where there is none.
float add_mask_of(const mha_add_mask& m, int64_t b, int64_t h, int64_t i, int64_t j) {
  return m.data ? element_at(m.dtype, m.data, entry_of(m, b, h, i, j)) : 0.0f;
}

/// What the first mask adds: its entry times the head's factor, rounded.
float first_mask_of(const mha_masks& m, int64_t b, int64_t h, int64_t i, int64_t j) {
  const float entry = add_mask_of(m.add_mask, b, h, i, j);
  return m.add_mask_factors ? entry * m.add_mask_factors[h] : entry;
}

/// Whether query i of head h of item b may attend to key j.
bool is_visible(const Problem& p, int64_t b, int64_t h, int64_t i, int64_t j) {
  const mha_masks& m = p.masks;
  if (j >= p.Tk - p.tail) return true;
  const int64_t at = position_of(p, b, i);
  const bool in_prefix = m.prefix_lengths && j < m.prefix_lengths[b];
  if (p.causal && j > at && !in_prefix) return false;
  if (m.window_right > 0 && j - at >= m.window_right && !in_prefix) return false;
  if (m.window_left > 0 && at - j >= m.window_left && j >= m.sink_tokens) return false;
  if (j >= p.keys_of(b)) return false;
  if (m.key_segments && m.key_segments[b * (p.Tk - p.tail) + j] != m.query_segments[b * p.Tq + i]) return false;
  if (m.block_mask.pairs && !has_pair(p, b, h, i, j)) return false;
  if (m.bit_mask.data) {
    const mha_bit_mask& mask = m.bit_mask;
    const uint8_t* row = mask.data + b * stride_or_repeat(mask.stride_b) + h * stride_or_repeat(mask.stride_h) +
                         i * stride_or_repeat(mask.stride_q);
    if (!(row[j / 8] >> (j % 8) & 1)) return false;
  }
  if (m.bool_mask.data && !m.bool_mask.data[entry_of(m.bool_mask, b, h, i, j)]) return false;
  const float hidden = -std::numeric_limits<float>::infinity();
  return first_mask_of(m, b, h, i, j) != hidden && add_mask_of(m.add_mask2, b, h, i, j) != hidden;
}

/// The score of key j at `distance` = j - p(i), from scale * <q, k>: each modification as the list defines it.
template <class T>
T modified(const Problem& p, int64_t h, int64_t distance, T score) {
  const mha_score_mods& m = p.mods;
#define MHA_SCORE_MOD(name, field, text, given, positions, changed) \
  if (given) score = changed;
#include "core/kernels/score_mods.def"
  return score;
}

/// One query row. q [D]; probs [Tk] out: the softmax weights; out [Dv]. Returns the log-sum-exp.
template <class Q, class S, class T>
T attend_row(const Problem& p, int64_t b, int64_t h, int64_t i, const Q* q, const Tensor<S>& key,
             const Tensor<S>& value, T* probs, T* out) {
  const T kMinusInf = -std::numeric_limits<T>::infinity();
  const int64_t g = h / (p.H / p.Hkv);  // the key/value head that this query head shares
  std::vector<int64_t> visible;

  // Pass 1: scores[j] = modified(scale * <q, key_j>) + mask_j, kept in probs.
  for (int64_t j = 0; j < p.Tk; ++j) {
    probs[j] = 0;
    if (!is_visible(p, b, h, i, j)) continue;
    const S* k = key.row(b, j, g);
    T dot = 0;
    for (int64_t d = 0; d < p.D; ++d) dot += T(q[d]) * T(k[d]);
    probs[j] = modified(p, h, j - position_of(p, b, i), dot * T(p.scale));
    if (j < p.Tk - p.tail) {
      probs[j] += T(first_mask_of(p.masks, b, h, i, j));
      probs[j] += T(add_mask_of(p.masks.add_mask2, b, h, i, j));
    }
    visible.push_back(j);
  }

  // Pass 2: the largest score; a NaN stays.
  const T sink = p.mods.sink_logits ? T(p.mods.sink_logits[h]) : kMinusInf;
  T max = kMinusInf;
  for (int64_t j : visible)
    if (probs[j] > max || std::isnan(probs[j])) max = probs[j];

  for (int64_t d = 0; d < p.Dv; ++d) out[d] = 0;
  if (max == kMinusInf) {
    for (int64_t j : visible) probs[j] = 0;
    return sink;
  }
  if (sink > max || std::isnan(sink)) max = sink;

  // Pass 3: weights = exp(score - max) / sum, where the sink is one more score.
  T sum = std::exp(sink - max);
  for (int64_t j : visible) {
    probs[j] = std::exp(probs[j] - max);
    sum += probs[j];
  }
  for (int64_t j : visible) probs[j] /= sum;

  // Pass 4: out = sum_j weight_j * value_j.
  for (int64_t j : visible) {
    const S* v = value.row(b, j, g);
    for (int64_t d = 0; d < p.Dv; ++d) out[d] += probs[j] * T(v[d]);
  }
  return max + std::log(sum);
}

/// query [B, Tq, H, D], key [B, Tk, Hkv, D], value [B, Tk, Hkv, Dv] -> output [B, Tq, H, Dv] dense and what else is
/// wanted.
template <class Q, class S, class T>
void attend(const Problem& p, const Tensor<Q>& query, const Tensor<S>& key, const Tensor<S>& value, T* output,
            T* weights, T* log_sum_exp) {
  const bool averaged = p.weights_mode == MHA_WEIGHTS_AVERAGED;
  if (weights) {
    const int64_t count = p.B * (averaged ? 1 : p.H) * p.Tq * p.Tk;
    for (int64_t n = 0; n < count; ++n) weights[n] = 0;
  }
  std::vector<T> probs(p.Tk);
  for (int64_t b = 0; b < p.B; ++b) {
    for (int64_t h = 0; h < p.H; ++h) {
      for (int64_t i = 0; i < p.Tq; ++i) {
        T* out = output + ((b * p.Tq + i) * p.H + h) * p.Dv;
        const T lse = attend_row(p, b, h, i, query.row(b, i, h), key, value, probs.data(), out);
        if (log_sum_exp) log_sum_exp[(b * p.H + h) * p.Tq + i] = lse;
        if (!weights) continue;
        const int64_t row = averaged ? b * p.Tq + i : (b * p.H + h) * p.Tq + i;
        const T share = averaged ? T(1) / T(p.H) : T(1);
        for (int64_t j = 0; j < p.Tk; ++j) weights[row * p.Tk + j] += probs[j] * share;
      }
    }
  }
}

/// output[m, n] = sum_k input[m, k] * weight[n, k] + bias[n] for `rows` rows of input.
/// Weights [out, in], rows `stride` apart.
struct Weight {
  const float* data;
  int64_t stride;
  std::shared_ptr<const std::vector<float>> widened = nullptr;  // as in Tensor
};

template <class S, class T>
void multiply(const S* input, int64_t input_stride, int64_t rows, int64_t in_features, const Weight& weight,
              const float* bias, int64_t out_features, T* output) {
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t n = 0; n < out_features; ++n) {
      T sum = 0;
      for (int64_t k = 0; k < in_features; ++k)
        sum += T(input[m * input_stride + k]) * T(weight.data[n * weight.stride + k]);
      output[m * out_features + n] = bias ? sum + T(bias[n]) : sum;
    }
  }
}

/// view [B, length, in_features] -> [B, length, out_features] dense.
template <class T>
std::vector<T> project(const mha_view& view, int64_t batch, int64_t length, int64_t in_features, const Weight& weight,
                       const float* bias, int64_t out_features) {
  const Tensor<float> input = tensor_of(view, batch, length, 1, in_features);
  std::vector<T> output(batch * length * out_features);
  for (int64_t b = 0; b < batch; ++b) {
    multiply(input.row(b, 0, 0), input.stride_t, length, in_features, weight, bias, out_features,
             output.data() + b * length * out_features);
  }
  return output;
}

/// Adds rows to the end of each item of x [B, length, width].
template <class T>
void append_rows(const std::vector<T>& rows, int64_t B, int64_t length, int64_t width, std::vector<T>* x) {
  for (int64_t b = B; b-- > 0;) x->insert(x->begin() + (b + 1) * length * width, rows.begin(), rows.end());
}

double scale_or_default(float scale, int is_exact, int64_t head_dim) {
  return is_exact || scale != 0 ? scale : 1 / std::sqrt(double(head_dim));
}

/// Weights [rows, in_features] of a view.
Weight weight_of(const mha_view& view, int64_t rows, int64_t in_features) {
  const int64_t stride = view.stride_t ? view.stride_t : in_features;
  if (view.dtype == MHA_F32) return {static_cast<const float*>(view.data), stride};
  auto values = std::make_shared<std::vector<float>>();
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t k = 0; k < in_features; ++k) values->push_back(element_at(view.dtype, view.data, n * stride + k));
  return {values->data(), in_features, values};
}

/// `rows` rows of the fused in-projection from output row `first` on, if there is one; else the separate ones.
Weight pick(const mha_view& fused, int64_t first, const mha_view& separate, int64_t rows, int64_t in_features) {
  if (!fused.data) return weight_of(separate, rows, in_features);
  const Weight all = weight_of(fused, first + rows, in_features);
  return {all.data + first * all.stride, all.stride, all.widened};
}
const float* pick(const float* fused, int64_t first, const float* separate) { return fused ? fused + first : separate; }

}  // namespace

template <class T>
void attention(const mha_attention_args& args, T* output, T* weights, T* log_sum_exp) {
  Problem p = {};
  p.B = args.batch, p.H = args.num_heads, p.Hkv = args.num_kv_heads ? args.num_kv_heads : args.num_heads;
  p.Tq = args.query_len, p.Tk = args.key_len, p.D = args.head_dim;
  p.Dv = args.value_head_dim ? args.value_head_dim : args.head_dim;
  p.scale = scale_or_default(args.scale, args.scale_is_exact, args.head_dim), p.causal = args.causal != 0;
  p.items = given_or_default(args.items), p.positions = given_or_default(args.positions);
  p.masks = given_or_default(args.masks), p.mods = given_or_default(args.score_mods);
  p.weights_mode = given_or_default(args.results).weights_mode;
  std::vector<T> query = copy_of<T>(tensor_of(args.query, p.B, p.Tq, p.H, p.D), p.B, p.Tq, p.H, p.D);
  const int64_t* positions = p.positions.query;
  norm_rope(
      args.rope, args.query_norm, p.B, p.Tq, p.H, p.D,
      [&](int64_t b, int64_t i) { return positions ? positions[b * p.Tq + i] : position_of(p, b, i); }, query.data());
  const int64_t tokens = args.pages ? args.pages->page_size : p.Tk;
  const int64_t items = args.pages ? args.pages->num_pages : p.B;
  Tensor<float> key = tensor_of(args.key, items, tokens, p.Hkv, p.D);
  Tensor<float> value = tensor_of(args.value, items, tokens, p.Hkv, p.Dv);
  if (args.pages) {
    key.pages = value.pages = args.pages;
    const int64_t each = (p.Tk + tokens - 1) / tokens;
    key.pages_stride = value.pages_stride = args.pages->stride ? args.pages->stride : each;
  }
  attend(p, dense_tensor(query.data(), p.Tq, p.H, p.D), key, value, output, weights, log_sum_exp);
}

template <class T>
void linear(const float* input, int64_t input_stride, int64_t rows, int64_t in_features, const float* weight,
            const float* bias, int64_t out_features, T* output) {
  multiply(input, input_stride ? input_stride : in_features, rows, in_features, {weight, in_features, nullptr}, bias,
           out_features, output);
}

template <class T>
void forward(const mha_layer_config& config, const mha_layer_weights& w, const mha_layer_args& args, T* output,
             T* weights_out) {
  const int64_t E = config.embed_dim, H = config.num_heads;
  const int64_t Hkv = config.num_kv_heads ? config.num_kv_heads : H;
  const int64_t D = config.head_dim ? config.head_dim : E / H;
  const int64_t Dv = config.value_head_dim ? config.value_head_dim : D;
  const int64_t kdim = config.kdim ? config.kdim : E, vdim = config.vdim ? config.vdim : E;
  const int64_t out_dim = config.out_dim ? config.out_dim : E;
  const int64_t B = args.batch, Tq = args.query_len, Tk = args.key.data ? args.key_len : Tq;
  const mha_view& key_view = args.key.data ? args.key : args.query;
  const mha_view& value_view = args.value.data ? args.value : key_view;

  // Rows of the fused in-projection: H*D of query, Hkv*D of key, Hkv*Dv of value.
  const int64_t first_k = H * D, first_v = first_k + Hkv * D;
  std::vector<T> q = project<T>(args.query, B, Tq, E, pick(w.in_proj_weight, 0, w.query_weight, H * D, E),
                                pick(w.in_proj_bias, 0, w.query_bias), H * D);
  std::vector<T> k = project<T>(key_view, B, Tk, kdim, pick(w.in_proj_weight, first_k, w.key_weight, Hkv * D, kdim),
                                pick(w.in_proj_bias, first_k, w.key_bias), Hkv * D);
  std::vector<T> v =
      project<T>(value_view, B, Tk, vdim, pick(w.in_proj_weight, first_v, w.value_weight, Hkv * Dv, vdim),
                 pick(w.in_proj_bias, first_v, w.value_bias), Hkv * Dv);

  Problem p = {};
  p.B = B, p.H = H, p.Hkv = Hkv, p.Tq = Tq, p.Tk = Tk, p.D = D, p.Dv = Dv;
  p.scale = scale_or_default(config.scale, config.scale_is_exact, D), p.causal = args.causal != 0;
  p.items = given_or_default(args.items), p.positions = given_or_default(args.positions);
  p.masks = given_or_default(args.masks), p.mods = given_or_default(args.score_mods);
  p.weights_mode = given_or_default(args.results).weights_mode;
  const int64_t* positions = p.positions.query;
  const int64_t* key_positions = args.key.data ? p.positions.key : positions;
  norm_rope(
      args.rope, args.query_norm, B, Tq, H, D,
      [&](int64_t b, int64_t i) { return positions ? positions[b * Tq + i] : position_of(p, b, i); }, q.data());
  norm_rope(
      args.rope, args.key_norm, B, Tk, Hkv, D,
      [&](int64_t b, int64_t j) { return key_positions ? key_positions[b * Tk + j] : j; }, k.data());
  // The keys and values that the layer adds: a learned one, then one of zeros.
  std::vector<T> added_k, added_v;
  if (w.bias_key)
    added_k.assign(w.bias_key, w.bias_key + Hkv * D), added_v.assign(w.bias_value, w.bias_value + Hkv * Dv);
  p.tail = (w.bias_key ? 1 : 0) + (config.add_zero_attn ? 1 : 0);
  added_k.resize(p.tail * Hkv * D), added_v.resize(p.tail * Hkv * Dv);
  append_rows(added_k, B, Tk, Hkv * D, &k);
  append_rows(added_v, B, Tk, Hkv * Dv, &v);
  p.Tk += p.tail;

  std::vector<T> heads(B * Tq * H * Dv);
  attend(p, dense_tensor(q.data(), Tq, H, D), dense_tensor(k.data(), p.Tk, Hkv, D),
         dense_tensor(v.data(), p.Tk, Hkv, Dv), heads.data(), weights_out, static_cast<T*>(nullptr));
  multiply(heads.data(), H * Dv, B * Tq, H * Dv, weight_of(w.output_weight, out_dim, H * Dv), w.output_bias, out_dim,
           output);
}

#define MHA_INSTANTIATE(T)                                                                                   \
  template void attention<T>(const mha_attention_args&, T*, T*, T*);                                         \
  template void linear<T>(const float*, int64_t, int64_t, int64_t, const float*, const float*, int64_t, T*); \
  template void forward<T>(const mha_layer_config&, const mha_layer_weights&, const mha_layer_args&, T*, T*)
MHA_INSTANTIATE(double);
MHA_INSTANTIATE(float);
#undef MHA_INSTANTIATE

}  // namespace mha::reference
