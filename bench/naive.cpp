// SPDX-License-Identifier: Apache-2.0
// See bench/naive.h.
#include "bench/naive.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

#include "bench/machine.h"
#include "core/reference/reference.h"

namespace mha::bench {
namespace {

// Multiply-adds of a check, and of each thread of a naive run: a tenth to a fifth of a second each.
constexpr double kCheckWork = 1.2e8;
constexpr double kNaiveWork = 6e7;
// Error allowed relative to the largest value checked: some ten times the worst seen, thousands of times less than what
// a wrong key or a lost row makes.
constexpr double kTolerance = 1e-5;
constexpr double kBf16Tolerance = 1e-2;  // of BF16: two or three times the worst seen
// Of INT8, three times the worst seen: linears round their inputs to 8 bits, layers twice, attention what it multiplies
// to 15 bits.
constexpr double kInt8LinearTolerance = 1e-2, kInt8LayerTolerance = 3e-2, kInt8AttentionTolerance = 6e-4;

double tolerance_of(mha_arithmetic arithmetic, double of_int8) {
  switch (arithmetic) {
    case MHA_ARITHMETIC_BF16:
      return kBf16Tolerance;
    case MHA_ARITHMETIC_INT8:
      return of_int8;
    default:
      return kTolerance;
  }
}

/// `wanted` of the numbers below `count`, evenly spaced, the first and the last among them.
std::vector<int64_t> pick(int64_t count, double wanted) {
  const int64_t n = std::clamp<int64_t>(static_cast<int64_t>(wanted), std::min<int64_t>(count, 2), count);
  std::vector<int64_t> picked(n);
  for (int64_t k = 0; k < n; ++k) picked[k] = n == 1 ? 0 : k * (count - 1) / (n - 1);
  return picked;
}

/// Compares pieces of a result and keeps the worst.
class Comparison {
 public:
  void add(const float* got, const std::vector<double>& want) {
    for (size_t n = 0; n < want.size(); ++n) {
      scale_ = std::max(scale_, std::fabs(want[n]));
      const double error = std::fabs(got[n] - want[n]);
      if (!(error <= error_)) error_ = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
    }
  }
  std::string verdict(const char* what, double tolerance) const {
    if (error_ <= tolerance * scale_ + std::numeric_limits<float>::min()) return "";  // denormals count as zero
    char text[160];
    std::snprintf(text, sizeof text, "%s differs from the reference by %.3g, where the largest value is %.3g", what,
                  error_, scale_);
    return text;
  }

 private:
  double error_ = 0, scale_ = 0;
};

/// Seconds that `threads` threads take for body(0) ... body(count - 1), the best of as many runs as fit in 20 ms, at
/// least two.
template <class Body>
double seconds_of(int threads, int64_t count, Body body) {
  auto run = [&](int thread) {
    for (int64_t k = thread; k < count; k += threads) body(k);
  };
  double best = std::numeric_limits<double>::infinity();
  const double start = now();
  int runs = 0;
  do {
    const double begin = now();
    on_threads(threads, run);
    best = std::min(best, now() - begin);
  } while (++runs < 2 || now() - start < 0.02);
  return best;
}

// --- Linear -----------------------------------------------------------------------------------------------------------

double work_of_row(const LinearProblem& p) { return static_cast<double>(p.in_features * p.out_features); }

// --- Attention --------------------------------------------------------------------------------------------------------

const float* floats(const mha_view& view) { return static_cast<const float*>(view.data); }

mha_view with_strides(const mha_view& view, int64_t length, int64_t heads, int64_t width) {
  if (view.stride_b != 0 || view.stride_t != 0 || view.stride_h != 0) return view;
  return mha::view(floats(view), {length * heads * width, heads * width, width});
}

/// One query row of one head.
struct Row {
  int64_t b, h, i;
};

/// The attention problem of one row alone; every default filled in.
class RowProblem {
 public:
  explicit RowProblem(const AttentionCall& args) : args_(args) {
    if (args_.num_kv_heads == 0) args_.num_kv_heads = args_.num_heads;
    if (args_.value_head_dim == 0) args_.value_head_dim = args_.head_dim;
    args_.query = with_strides(args.query, args.query_len, args.num_heads, args.head_dim);
    args_.key = with_strides(args.key, args.key_len, args_.num_kv_heads, args.head_dim);
    args_.value = with_strides(args.value, args.key_len, args_.num_kv_heads, args_.value_head_dim);
  }

  const AttentionCall& args() const { return args_; }
  int64_t count() const { return args_.batch * args_.num_heads * args_.query_len; }
  Row row(int64_t n) const {
    const int64_t head = n / args_.query_len;
    return {head / args_.num_heads, head % args_.num_heads, n % args_.query_len};
  }
  /// By causality alone: the naive loops compute keys that other masks hide, too.
  int64_t visible(const Row& row) const {
    if (args_.causal == 0) return args_.key_len;
    return std::clamp<int64_t>(row.i + args_.key_len - args_.query_len + 1, 0, args_.key_len);
  }
  double work(const Row& row) const {
    return static_cast<double>(visible(row) * (args_.head_dim + args_.value_head_dim));
  }
  template <class T>
  void run(const Row& row, T* output, T* weights) const {
    const int64_t g = row.h / (args_.num_heads / args_.num_kv_heads);
    AttentionCall one = args_;
    one.batch = one.num_heads = one.num_kv_heads = one.query_len = 1;
    const mha_view &q = args_.query, &k = args_.key, &v = args_.value;
    one.query.data = floats(q) + row.b * q.stride_b + row.i * q.stride_t + row.h * q.stride_h;
    one.key.data = floats(k) + row.b * k.stride_b + g * k.stride_h;
    one.value.data = floats(v) + row.b * v.stride_b + g * v.stride_h;
    one.positions.align = MHA_ALIGN_OFFSET;
    one.positions.offset = row.i + args_.key_len - args_.query_len;
    const std::vector<int64_t> pairs = take_masks(row, one.masks);
    take_mods(row.h, one.score_mods);
    reference::attention(one.raw(), output, weights, static_cast<T*>(nullptr));
  }

 private:
  /// Makes the masks those of one row. Returns the pairs of blocks, which they point to.
  std::vector<int64_t> take_masks(const Row& row, mha_masks& masks) const {
    const auto shift = [&](auto& mask) {
      if (mask.data) mask.data += row.b * mask.stride_b + row.h * mask.stride_h + row.i * mask.stride_q;
    };
    shift(masks.bool_mask);
    shift(masks.bit_mask);
    if (masks.prefix_lengths) masks.prefix_lengths += row.b;
    if (masks.query_segments) masks.query_segments += row.b * args_.query_len + row.i;
    if (masks.key_segments) masks.key_segments += row.b * args_.key_len;
    std::vector<int64_t> pairs;
    mha_block_mask& blocks = masks.block_mask;
    if (!blocks.pairs) return pairs;
    pairs.reserve(2 * blocks.num_pairs);
    for (int64_t n = 0; n < blocks.num_pairs; ++n)
      if (blocks.pairs[2 * n] == row.i / blocks.query_block) pairs.insert(pairs.end(), {0, blocks.pairs[2 * n + 1]});
    blocks.pairs = pairs.data();
    blocks.num_pairs = static_cast<int64_t>(pairs.size() / 2);
    return pairs;
  }
  void take_mods(int64_t head, mha_score_mods& m) const {
#define MHA_HEAD_FLOATS(field, count) \
  if (m.field) m.field += head * (count);
#include "core/kernels/score_mods.def"
  }

  AttentionCall args_;
};

/// Whether query i may attend to key j, by the masks of the first item and head.
bool is_visible(const AttentionCall& args, int64_t i, int64_t j) {
  const mha_masks& m = args.masks;
  const int64_t at = i + args.key_len - args.query_len;
  if (args.causal != 0 && j > at && !(m.prefix_lengths && j < m.prefix_lengths[0])) return false;
  if (m.window_left > 0 && at - j >= m.window_left) return false;
  if (m.query_segments && m.query_segments[i] != m.key_segments[j]) return false;
  if (m.bool_mask.data && !m.bool_mask.data[i * m.bool_mask.stride_q + j]) return false;
  if (m.bit_mask.data && !(m.bit_mask.data[i * m.bit_mask.stride_q + j / 8] >> (j % 8) & 1)) return false;
  if (!m.block_mask.pairs) return true;
  const auto* pairs = reinterpret_cast<const std::array<int64_t, 2>*>(m.block_mask.pairs);
  return std::binary_search(pairs, pairs + m.block_mask.num_pairs,
                            std::array<int64_t, 2>{i / m.block_mask.query_block, j / m.block_mask.key_block});
}

double total_work(const RowProblem& problem) {
  const AttentionCall& args = problem.args();
  double work = 0;
  for (int64_t i = 0; i < args.query_len; ++i) work += problem.work({0, 0, i});
  return work * static_cast<double>(args.batch * args.num_heads);
}

std::vector<int64_t> pick_rows(const RowProblem& problem, double work) {
  return pick(problem.count(), work * static_cast<double>(problem.count()) / total_work(problem));
}

}  // namespace

std::string check_linear(const LinearProblem& p, const float* output, mha_arithmetic arithmetic) {
  Comparison comparison;
  std::vector<double> want(p.out_features);
  for (int64_t row : pick(p.rows, kCheckWork / work_of_row(p))) {
    reference::linear(p.input + row * p.in_features, p.in_features, 1, p.in_features, p.weight, p.bias, p.out_features,
                      want.data());
    comparison.add(output + row * p.out_features, want);
  }
  return comparison.verdict("output", tolerance_of(arithmetic, kInt8LinearTolerance));
}

double naive_linear_seconds(const LinearProblem& p, int threads) {
  // Blocks of output features, so that one row feeds several threads too.
  const int64_t blocks = std::min<int64_t>(p.out_features, 8);
  const std::vector<int64_t> rows = pick(p.rows, threads * kNaiveWork / work_of_row(p));
  const int64_t count = static_cast<int64_t>(rows.size());
  std::vector<float> output(count * p.out_features);
  const double seconds = seconds_of(threads, count * blocks, [&](int64_t item) {
    const int64_t row = item / blocks, block = item % blocks;
    const int64_t begin = p.out_features * block / blocks, end = p.out_features * (block + 1) / blocks;
    reference::linear(p.input + rows[row] * p.in_features, p.in_features, 1, p.in_features,
                      p.weight + begin * p.in_features, p.bias ? p.bias + begin : nullptr, end - begin,
                      output.data() + row * p.out_features + begin);
  });
  return seconds * static_cast<double>(p.rows) / static_cast<double>(count);
}

std::string check_attention(const AttentionCall& args, const float* output, const float* weights) {
  const RowProblem problem(args);
  const AttentionCall& full = problem.args();
  Comparison outputs, all_weights;
  std::vector<double> want(full.value_head_dim), want_weights(weights ? full.key_len : 0);
  for (int64_t n : pick_rows(problem, kCheckWork)) {
    const Row row = problem.row(n);
    problem.run(row, want.data(), weights ? want_weights.data() : nullptr);
    outputs.add(output + ((row.b * full.query_len + row.i) * full.num_heads + row.h) * full.value_head_dim, want);
    if (weights) all_weights.add(weights + n * full.key_len, want_weights);
  }
  const double tolerance = tolerance_of(args.arithmetic, kInt8AttentionTolerance);
  std::string verdict = outputs.verdict("output", tolerance);
  return verdict.empty() ? all_weights.verdict("weights", tolerance) : verdict;
}

double naive_attention_seconds(const AttentionCall& args, int threads, bool with_weights) {
  const RowProblem problem(args);
  const std::vector<int64_t> rows = pick_rows(problem, threads * kNaiveWork);
  const int64_t count = static_cast<int64_t>(rows.size()), Tk = with_weights ? args.key_len : 0;
  double work = 0;
  for (int64_t n : rows) work += problem.work(problem.row(n));
  std::vector<float> output(count * problem.args().value_head_dim), weights(count * Tk);
  const double seconds = seconds_of(threads, count, [&](int64_t k) {
    problem.run(problem.row(rows[k]), output.data() + k * problem.args().value_head_dim,
                with_weights ? weights.data() + k * Tk : nullptr);
  });
  return seconds * total_work(problem) / work;
}

std::string check_forward(const mha_layer_config& config, const mha_layer_weights& layer, const LayerCall& args,
                          const float* output, const float* weights) {
  // The first and the last batch item, eight query rows of each: the projections of the keys are most of the work.
  const int64_t E = config.embed_dim, H = config.num_heads, Tq = args.query_len, Tk = args.key_len;
  Comparison outputs, all_weights;
  for (int64_t b : pick(args.batch, 2)) {
    const std::vector<int64_t> rows = pick(Tq, 8);
    const int64_t count = static_cast<int64_t>(rows.size());
    std::vector<float> query(count * E);
    for (int64_t k = 0; k < count; ++k) std::copy_n(floats(args.query) + (b * Tq + rows[k]) * E, E, &query[k * E]);
    LayerCall some;
    some.batch = 1;
    some.query_len = count;
    some.key_len = Tk;
    some.query = view(query.data());
    some.key = view(floats(args.key.data ? args.key : args.query) + b * Tk * E);
    some.value = args.value.data ? view(floats(args.value) + b * Tk * E) : some.key;
    some.results.weights_mode = weights ? MHA_WEIGHTS_PER_HEAD : MHA_WEIGHTS_NONE;
    std::vector<double> want(count * E), want_weights(weights ? H * count * Tk : 0);
    reference::forward(config, layer, some.raw(), want.data(), weights ? want_weights.data() : nullptr);
    for (int64_t k = 0; k < count; ++k) {
      outputs.add(output + (b * Tq + rows[k]) * E, {want.begin() + k * E, want.begin() + (k + 1) * E});
      for (int64_t h = 0; weights && h < H; ++h) {
        const auto row = want_weights.begin() + (h * count + k) * Tk;
        all_weights.add(weights + ((b * H + h) * Tq + rows[k]) * Tk, {row, row + Tk});
      }
    }
  }
  const double tolerance = tolerance_of(config.arithmetic, kInt8LayerTolerance);
  std::string verdict = outputs.verdict("output", tolerance);
  return verdict.empty() ? all_weights.verdict("weights", tolerance) : verdict;
}

double visible_pairs(const AttentionCall& args) {
  int64_t pairs = 0;
  for (int64_t i = 0; i < args.query_len; ++i)
    for (int64_t j = 0; j < args.key_len; ++j) pairs += is_visible(args, i, j) ? 1 : 0;
  return static_cast<double>(pairs);
}

}  // namespace mha::bench
