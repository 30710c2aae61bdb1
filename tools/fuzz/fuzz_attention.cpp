// SPDX-License-Identifier: Apache-2.0
// mha_attention on any small shape, strides, masks, alignment and values, in F32 and in BF16: close to the double
// reference on every target, in equal bits on the FMA targets, for the host's threads, over the query's own data and
// for keys and values in pages of the caller's, in the same bits, or those rounded once, for tensors of any element
// types, nothing outside its elements written; and on a call with one fault in its arguments the stated status with
// nothing written. All buffers are exact heap blocks for the address sanitizer.
#include <fuzzer/FuzzedDataProvider.h>
#include <mha/mha.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "core/reference/reference.h"
#include "tools/fuzz/attention_faults.h"
#include "tools/fuzz/elements.h"
#include "tools/fuzz/targets.h"

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kPoison = -1234.5F;
// Scores reach 2 * 24 + 4, where float's rounding is 4e-6; it enters the weights as a relative error.
constexpr double kF32Bound = 5e-5;

using mha::AttentionCall;
using mha::Context;
using mha::fuzz::Buffer;
using mha::fuzz::check_ok;
using mha::fuzz::Elements;
using mha::fuzz::take;
using mha::fuzz::Target;
using mha::fuzz::targets;

using mha::Strides;

bool is_dense(const Strides& s) { return s.b == 0 && s.t == 0 && s.h == 0; }

// The sizes of a tensor and how its elements lie.
struct Layout {
  std::int64_t n[3] = {0, 0, 0};  // b, t, h
  std::int64_t width = 0;
  Strides strides;  // all 0: dense in the order b, t, h (heads_first: b, h, t)
  bool heads_first = false;

  Strides resolved() const {
    const auto step = [](std::int64_t stride) { return stride == MHA_BROADCAST ? 0 : stride; };
    if (!is_dense(strides)) return {step(strides.b), step(strides.t), step(strides.h)};
    if (heads_first) return {n[1] * n[2] * width, width, n[1] * width};
    return {n[1] * n[2] * width, n[2] * width, width};
  }
  std::int64_t extent() const {
    if (n[0] == 0 || n[1] == 0 || n[2] == 0 || width == 0) return 0;
    const Strides s = resolved();
    return (n[0] - 1) * s.b + (n[1] - 1) * s.t + (n[2] - 1) * s.h + width;
  }
};

// Dense, or the three dimensions in any order with gaps; inputs may also broadcast.
Strides choose_strides(FuzzedDataProvider& input, const Layout& layout, bool is_input) {
  Strides strides;
  if (input.ConsumeBool()) return strides;
  int order[3] = {0, 1, 2};
  std::swap(order[0], order[input.ConsumeIntegralInRange<int>(0, 2)]);
  std::swap(order[1], order[input.ConsumeIntegralInRange<int>(1, 2)]);
  std::int64_t by_dimension[3];
  std::int64_t next = layout.width + input.ConsumeIntegralInRange<int>(0, 3);
  for (const int dimension : order) {
    const bool broadcast = is_input && input.ConsumeIntegralInRange<int>(0, 7) == 0;
    by_dimension[dimension] = broadcast ? MHA_BROADCAST : next;
    if (!broadcast)
      next = next * std::max<std::int64_t>(1, layout.n[dimension]) + input.ConsumeIntegralInRange<int>(0, 3);
  }
  strides = {by_dimension[0], by_dimension[1], by_dimension[2]};
  if (is_input && is_dense(strides)) strides.b = MHA_BROADCAST;
  return strides;
}

// The element types of the tensors in a call.
struct Dtypes {
  mha_dtype query = MHA_F32, key = MHA_F32, value = MHA_F32, output = MHA_F32, add_mask = MHA_F32, add_mask2 = MHA_F32;

  bool all_floats() const {
    return query == MHA_F32 && key == MHA_F32 && value == MHA_F32 && output == MHA_F32 && add_mask == MHA_F32 &&
           add_mask2 == MHA_F32;
  }
};

// One problem with all its buffers: floats that `dtypes` can keep.
struct Problem {
  AttentionCall args;
  Layout query_layout, key_layout, value_layout, output_layout, weights_layout;
  Buffer<float> query, key, value, add_mask, add_mask2;
  Buffer<std::uint8_t> bool_mask;
  Buffer<std::int64_t> lengths, offsets;
  Dtypes dtypes;
  bool want_lse = false;
};

Buffer<float> make_input(FuzzedDataProvider& input, std::mt19937& random, Layout& layout, mha_view& view, int nans,
                         mha_dtype& dtype) {
  layout.strides = choose_strides(input, layout, true);
  Buffer<float> buffer(layout.extent());
  // NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDelete): it thinks that size() may be 0 inside the loop
  for (std::size_t i = 0; i < buffer.size(); ++i) buffer[i] = static_cast<float>(random() >> 8) * 0x1p-23F - 1.0F;
  for (; nans > 0 && buffer.size() > 0; --nans) buffer[random() % buffer.size()] = std::nanf("");
  dtype = mha::fuzz::choose_dtype(input);
  mha::fuzz::keep(dtype, buffer);
  view = mha::view<float>(buffer.data(), layout.strides);
  return buffer;
}

// Where queries stand: at the start or the end of an item's keys, or at an offset, one for all or its own.
void make_positions(FuzzedDataProvider& input, std::mt19937& random, Problem& p) {
  mha_positions& positions = p.args.positions;
  p.args.causal = input.ConsumeIntegralInRange<int>(0, 2) % 2;
  positions.align = static_cast<mha_align>(input.ConsumeIntegralInRange<int>(0, 3));
  if (positions.align != MHA_ALIGN_OFFSET) return;
  if (input.ConsumeBool()) {
    positions.offset = input.ConsumeIntegralInRange<std::int64_t>(-12, 40);
    return;
  }
  p.offsets = Buffer<std::int64_t>(p.args.batch);
  for (std::size_t b = 0; b < p.offsets.size(); ++b) p.offsets[b] = static_cast<std::int64_t>(random() % 53) - 12;
  positions.offsets = p.offsets.data();
}

void make_masks(FuzzedDataProvider& input, std::mt19937& random, Problem& p) {
  const AttentionCall& a = p.args;
  mha_masks& masks = p.args.masks;
  make_positions(input, random, p);
  if (input.ConsumeBool()) {
    p.lengths = Buffer<std::int64_t>(a.batch);
    for (std::int64_t b = 0; b < a.batch; ++b)
      p.lengths[static_cast<std::size_t>(b)] =
          static_cast<std::int64_t>(random() % static_cast<unsigned>(a.key_len + 1));
    p.args.items.key_lengths = p.lengths.data();
    // What the default would be is refused where it matters.
    if (a.positions.align == MHA_ALIGN_DEFAULT && a.causal != 0) p.args.positions.align = MHA_ALIGN_END;
  }
  // [B or 1, H or 1, Tq or 1, Tk or 1] for each kind, entries of a row apart.
  const auto strides = [&](std::int64_t& stride_b, std::int64_t& stride_h, std::int64_t& stride_q,
                           std::int64_t& stride_k) {
    stride_k = input.ConsumeIntegralInRange<int>(-1, 3);
    const std::int64_t step = stride_k == MHA_BROADCAST ? 0 : std::max<std::int64_t>(stride_k, 1);
    const std::int64_t row = std::max<std::int64_t>(a.key_len - 1, 0) * step + 1;
    std::int64_t next = row + input.ConsumeIntegralInRange<int>(0, 2);
    stride_q = input.ConsumeBool() ? next : 0;
    if (stride_q != 0) next *= std::max<std::int64_t>(1, a.query_len);
    stride_h = input.ConsumeBool() ? next : 0;
    if (stride_h != 0) next *= std::max<std::int64_t>(1, a.num_heads);
    stride_b = input.ConsumeBool() ? next : 0;
    if (a.batch == 0 || a.query_len == 0 || a.key_len == 0) return std::int64_t{0};
    return (a.batch - 1) * stride_b + (a.num_heads - 1) * stride_h + (a.query_len - 1) * stride_q + row;
  };
  const unsigned density = input.ConsumeIntegralInRange<unsigned>(0, 8);
  if (input.ConsumeBool()) {
    mha_bool_mask& mask = masks.bool_mask;
    p.bool_mask = Buffer<std::uint8_t>(strides(mask.stride_b, mask.stride_h, mask.stride_q, mask.stride_k));
    for (std::size_t i = 0; i < p.bool_mask.size(); ++i)
      p.bool_mask[i] = random() % 8 < density ? static_cast<std::uint8_t>(1 + random() % 255) : 0;
    mask.data = p.bool_mask.data();
  }
  for (int n = 0; n < 2; ++n) {
    if (!input.ConsumeBool()) continue;
    mha_add_mask& mask = n == 0 ? masks.add_mask : masks.add_mask2;
    Buffer<float>& added = n == 0 ? p.add_mask : p.add_mask2;
    added = Buffer<float>(strides(mask.stride_b, mask.stride_h, mask.stride_q, mask.stride_k));
    for (std::size_t i = 0; i < added.size(); ++i)
      added[i] = random() % 8 < density ? static_cast<float>(random() >> 8) * 0x1p-21F - 4.0F : -kInf;
    mha_dtype& dtype = n == 0 ? p.dtypes.add_mask : p.dtypes.add_mask2;
    dtype = mha::fuzz::choose_dtype(input);
    mha::fuzz::keep(dtype, added);
    mask.data = added.data();
  }
}

Problem make_problem(FuzzedDataProvider& input) {
  Problem p;
  AttentionCall& a = p.args;
  const auto size = [&](int low, int high) {
    return static_cast<std::int64_t>(input.ConsumeIntegralInRange<int>(low, high));
  };
  a.batch = size(0, 3);
  const std::int64_t group = size(1, 3);
  const std::int64_t kv_heads = size(1, 2);
  a.num_heads = kv_heads * group;
  a.num_kv_heads = group == 1 && input.ConsumeBool() ? 0 : kv_heads;
  a.query_len = size(0, 9);
  a.key_len = input.ConsumeIntegralInRange<int>(0, 3) == 0 ? size(250, 262) : size(0, 40);
  a.head_dim = size(1, 24);
  const std::int64_t value_dim = size(1, 24);
  a.value_head_dim = input.ConsumeBool() ? 0 : value_dim;
  const std::int64_t Dv = a.value_head_dim == 0 ? a.head_dim : value_dim;
  if (input.ConsumeBool()) a.scale = static_cast<float>(size(1, 200)) * 0.01F;
  std::mt19937 random(input.ConsumeIntegral<std::uint32_t>());
  const int nans = input.ConsumeIntegralInRange<int>(0, 7) == 0 ? 2 : 0;
  p.query_layout = {{a.batch, a.query_len, a.num_heads}, a.head_dim, {}, false};
  p.key_layout = {{a.batch, a.key_len, kv_heads}, a.head_dim, {}, false};
  p.value_layout = {{a.batch, a.key_len, kv_heads}, Dv, {}, false};
  p.query = make_input(input, random, p.query_layout, a.query, nans, p.dtypes.query);
  p.key = make_input(input, random, p.key_layout, a.key, nans, p.dtypes.key);
  p.value = make_input(input, random, p.value_layout, a.value, nans, p.dtypes.value);
  make_masks(input, random, p);
  p.output_layout = {{a.batch, a.query_len, a.num_heads}, Dv, {}, false};
  p.output_layout.strides = choose_strides(input, p.output_layout, false);
  p.dtypes.output = mha::fuzz::choose_dtype(input);
  a.results.weights_mode = static_cast<mha_weights_mode>(input.ConsumeIntegralInRange<int>(0, 2));
  if (a.results.weights_mode != MHA_WEIGHTS_NONE) {
    const std::int64_t heads = a.results.weights_mode == MHA_WEIGHTS_AVERAGED ? 1 : a.num_heads;
    p.weights_layout = {{a.batch, a.query_len, heads}, a.key_len, {}, true};
    p.weights_layout.strides = choose_strides(input, p.weights_layout, false);
    Strides& strides = p.weights_layout.strides;  // without a head dimension: is all 0 only where it is dense anyway
    if (a.results.weights_mode == MHA_WEIGHTS_AVERAGED) strides.h = 0;
  }
  p.want_lse = input.ConsumeBool();
  a.arithmetic = mha::fuzz::choose_arithmetic(input);
  return p;
}

struct Results {
  Buffer<float> output, weights, lse;
};

Results poisoned(const Problem& p) {
  Results r{Buffer<float>(p.output_layout.extent()), Buffer<float>(p.weights_layout.extent()),
            Buffer<float>(p.want_lse ? p.args.batch * p.args.num_heads * p.args.query_len : 0)};
  for (const Buffer<float>* buffer : {&r.output, &r.weights, &r.lse})
    std::fill_n(buffer->data(), buffer->size(), kPoison);
  return r;
}

AttentionCall with_results(const Problem& p, const Results& r) {
  AttentionCall args = p.args;
  args.output = mha::mut_view(r.output.data(), p.output_layout.strides);
  if (args.results.weights_mode != MHA_WEIGHTS_NONE)
    args.results.weights = mha::mut_view(r.weights.data(), p.weights_layout.strides);
  if (p.want_lse) args.results.log_sum_exp = r.lse.data();
  return args;
}

void check_value(float got, double want, double bound, const char* what) {
  if (std::isnan(want) || std::isinf(want)) {
    MHA_FUZZ_CHECK(std::isnan(want) ? std::isnan(got) : static_cast<double>(got) == want, "%s is %g, not %g", what,
                   static_cast<double>(got), want);
  } else {
    MHA_FUZZ_CHECK(std::fabs(static_cast<double>(got) - want) <= bound, "%s is %.9g, not %.9g", what,
                   static_cast<double>(got), want);
  }
}

// Every element close to `want` (dense, in the layout's order), every gap as it was.
void check_tensor(const Layout& layout, const Buffer<float>& got, const std::vector<double>& want, double bound,
                  const char* what) {
  std::vector<bool> is_element(got.size());
  const Strides s = layout.resolved();
  const int middle = layout.heads_first ? 2 : 1;
  const int inner = layout.heads_first ? 1 : 2;
  std::size_t at = 0;
  std::int64_t i[3];
  for (i[0] = 0; i[0] < layout.n[0]; ++i[0]) {
    for (i[middle] = 0; i[middle] < layout.n[middle]; ++i[middle]) {
      for (i[inner] = 0; i[inner] < layout.n[inner]; ++i[inner]) {
        for (std::int64_t d = 0; d < layout.width; ++d) {
          const auto place = static_cast<std::size_t>(i[0] * s.b + i[1] * s.t + i[2] * s.h + d);
          check_value(got[place], want[at++], bound, what);
          is_element[place] = true;
        }
      }
    }
  }
  for (std::size_t place = 0; place < got.size(); ++place) {
    MHA_FUZZ_CHECK(is_element[place] || got[place] == kPoison, "%s: wrote to the gap at %zu", what, place);
  }
}

bool same_bits(const Buffer<float>& a, const Buffer<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

bool same_bits(const Results& a, const Results& b) {
  return same_bits(a.output, b.output) && same_bits(a.weights, b.weights) && same_bits(a.lse, b.lse);
}

// With a workspace of exactly the bytes that are asked for.
void attend(const Context& context, AttentionCall args) {
  const std::size_t bytes = take(context.attention_workspace_bytes(args));
  const Buffer<std::uint8_t> workspace(static_cast<std::int64_t>(bytes));
  args.resources.workspace = workspace.data();
  args.resources.workspace_bytes = bytes;
  check_ok(context.attention(args));
}

Results call(const Context& context, const Problem& p) {
  Results results = poisoned(p);
  attend(context, with_results(p, results));
  return results;
}

// The same call over tensors of the drawn types gives the same bits; its output is rounded once.
void check_dtypes(const Context& context, const Problem& p, const Results& want) {
  const Dtypes& d = p.dtypes;
  if (d.all_floats()) return;
  const Elements query(d.query, p.query.data(), p.query.size()), key(d.key, p.key.data(), p.key.size());
  const Elements value(d.value, p.value.data(), p.value.size());
  const Elements added(d.add_mask, p.add_mask.data(), p.add_mask.size());
  const Elements added2(d.add_mask2, p.add_mask2.data(), p.add_mask2.size());
  const Elements output(d.output, p.output_layout.extent(), kPoison);
  const Results results = poisoned(p);
  AttentionCall args = with_results(p, results);
  query.read_by(args.query), key.read_by(args.key), value.read_by(args.value), output.written_by(args.output);
  if (args.masks.add_mask.data != nullptr) added.read_by(args.masks.add_mask);
  if (args.masks.add_mask2.data != nullptr) added2.read_by(args.masks.add_mask2);
  attend(context, args);
  MHA_FUZZ_CHECK(output.are(want.output.data()), "other element types: other bits");
  MHA_FUZZ_CHECK(same_bits(results.weights, want.weights) && same_bits(results.lse, want.lse),
                 "other element types: other bits of weights or log_sum_exp");
}

// The keys or values of a problem in pages [num_pages, page_size, Hkv, width], in the order of `table`; what no item
// has is NaN.
Elements paged(const Problem& p, const Layout& layout, const float* data, mha_dtype dtype,
               const std::vector<std::int32_t>& table, std::int64_t page_size) {
  const std::int64_t row = layout.n[2] * layout.width, pages = static_cast<std::int64_t>(table.size());
  const std::int64_t per_item = layout.n[0] > 0 ? pages / layout.n[0] : 0;
  Buffer<float> made(pages * page_size * row);
  std::fill_n(made.data(), made.size(), std::nanf(""));
  const Strides s = layout.resolved();
  for (std::int64_t b = 0; b < layout.n[0]; ++b) {
    for (std::int64_t t = 0; t < p.lengths[static_cast<std::size_t>(b)]; ++t) {
      const std::int64_t page = table[static_cast<std::size_t>(b * per_item + t / page_size)];
      for (std::int64_t h = 0; h < layout.n[2]; ++h)
        std::copy_n(data + b * s.b + t * s.t + h * s.h, layout.width,
                    made.data() + (page * page_size + t % page_size) * row + h * layout.width);
    }
  }
  return {dtype, made.data(), made.size()};
}

// The same call with its keys and values in pages must give the same bits. Entries beyond a length name no page.
void check_pages(const Context& context, const Problem& p, std::int64_t page_size, std::mt19937 random,
                 const Results& want) {
  const AttentionCall& a = p.args;
  const std::int64_t per_item = (a.key_len + page_size - 1) / page_size;
  std::vector<std::int32_t> table(static_cast<std::size_t>(a.batch * per_item));
  for (std::size_t n = 0; n < table.size(); ++n) table[n] = static_cast<std::int32_t>(n);
  std::shuffle(table.begin(), table.end(), random);
  const Elements key = paged(p, p.key_layout, p.key.data(), p.dtypes.key, table, page_size);
  const Elements value = paged(p, p.value_layout, p.value.data(), p.dtypes.value, table, page_size);
  const Buffer<std::int32_t> entries(static_cast<std::int64_t>(table.size()));
  for (std::size_t n = 0; n < table.size(); ++n) {
    const auto item = static_cast<std::int64_t>(n) / per_item,
               first = static_cast<std::int64_t>(n) % per_item * page_size;
    entries[n] = first < p.lengths[static_cast<std::size_t>(item)] ? table[n] : -1;
  }
  mha_pages pages{};
  pages.table = entries.data();
  pages.page_size = page_size;
  pages.num_pages = static_cast<std::int64_t>(table.size());
  Results results = poisoned(p);
  AttentionCall args = with_results(p, results);
  args.key = args.value = mha_view{};
  key.read_by(args.key), value.read_by(args.value);
  args.pages = &pages;
  attend(context, args);
  MHA_FUZZ_CHECK(same_bits(results, want), "pages of %d tokens change bits", static_cast<int>(page_size));
}

// The output over the query's own data, of its type: the same bits, rounded. Where query has an element for each that
// output has.
void check_in_place(const Context& context, const Problem& p, const Results& want) {
  const Strides s = p.query_layout.resolved(), o = p.output_layout.resolved();
  const std::int64_t* n = p.query_layout.n;
  if (p.query_layout.width != p.output_layout.width || p.args.query.stride_b < 0 || p.args.query.stride_t < 0 ||
      p.args.query.stride_h < 0 || (s.b == 0 && n[0] > 1) || (s.t == 0 && n[1] > 1) || (s.h == 0 && n[2] > 1))
    return;
  const Elements both(p.dtypes.query, p.query.data(), p.query.size());
  Results results = poisoned(p);
  AttentionCall args = with_results(p, results);
  both.read_by(args.query), both.written_by(args.output);
  args.output.stride_b = p.query_layout.strides.b, args.output.stride_t = p.query_layout.strides.t;
  args.output.stride_h = p.query_layout.strides.h;
  attend(context, args);
  for (std::int64_t b = 0; b < n[0]; ++b)
    for (std::int64_t t = 0; t < n[1]; ++t)
      for (std::int64_t h = 0; h < n[2]; ++h)
        for (std::int64_t d = 0; d < p.query_layout.width; ++d)
          MHA_FUZZ_CHECK(both.is(static_cast<std::size_t>(b * s.b + t * s.t + h * s.h + d),
                                 want.output[static_cast<std::size_t>(b * o.b + t * o.t + h * o.h + d)]),
                         "over the query: other bits");
  MHA_FUZZ_CHECK(same_bits(results.weights, want.weights) && same_bits(results.lse, want.lse),
                 "over the query: other bits of weights or log_sum_exp");
}

// A tensor of the problem as the call multiplies it.
Buffer<float> operands(const AttentionCall& a, const Buffer<float>& values) {
  Buffer<float> rounded(static_cast<std::int64_t>(values.size()));
  std::copy_n(values.data(), values.size(), rounded.data());
  mha::fuzz::keep_operands(a.arithmetic, rounded);
  return rounded;
}

void check_problem(const Problem& p, std::int64_t page_size, const std::mt19937& random) {
  const AttentionCall& a = p.args;
  const std::int64_t rows = a.batch * a.num_heads * a.query_len;
  std::vector<double> output(static_cast<std::size_t>(rows * p.output_layout.width));
  std::vector<double> weights(static_cast<std::size_t>(rows * a.key_len));
  std::vector<double> lse(static_cast<std::size_t>(rows));
  if (rows > 0) {
    const bool with_weights = a.results.weights_mode != MHA_WEIGHTS_NONE;
    const Buffer<float> query = operands(a, p.query), key = operands(a, p.key), value = operands(a, p.value);
    AttentionCall rounded = a;
    rounded.query.data = query.data(), rounded.key.data = key.data(), rounded.value.data = value.data();
    mha::reference::attention<double>(rounded.raw(), output.data(), with_weights ? weights.data() : nullptr,
                                      lse.data());
  }
  const double bound = mha::fuzz::bound_of(a.arithmetic, kF32Bound);
  Results fma;
  bool have_fma = false;
  for (const Target& target : targets()) {
    if (!target.computes(a.arithmetic)) continue;
    Results results = call(target.one_thread, p);
    check_tensor(p.output_layout, results.output, output, bound, "output");
    if (a.results.weights_mode != MHA_WEIGHTS_NONE)
      check_tensor(p.weights_layout, results.weights, weights, bound, "weights");
    for (std::size_t i = 0; i < results.lse.size(); ++i) check_value(results.lse[i], lse[i], bound, "log_sum_exp");
    const Results threaded = call(target.host_threads, p);
    MHA_FUZZ_CHECK(same_bits(results, threaded), "threads change bits on %s", target.name.c_str());
    if (a.items.key_lengths != nullptr && page_size > 0)
      check_pages(target.host_threads, p, page_size, random, results);
    check_in_place(target.host_threads, p, results);
    check_dtypes(target.one_thread, p, results);
    check_dtypes(target.host_threads, p, results);
    if (!target.same_bits) continue;
    if (have_fma) {
      MHA_FUZZ_CHECK(same_bits(results, fma), "%s gives other bits", target.name.c_str());
    }
    have_fma = true;
    fma = std::move(results);
  }
}

// One fault in a call that would otherwise do something: the stated status, with a message, and nothing written.
void check_fault(const Problem& p, int fault) {
  Results results = poisoned(p);
  AttentionCall args = with_results(p, results);
  if (!targets()[0].has_bf16) args.arithmetic = MHA_ARITHMETIC_F32;
  const Context& context = targets()[0].one_thread;
  const std::size_t bytes = take(context.attention_workspace_bytes(args));
  const Buffer<std::uint8_t> workspace(static_cast<std::int64_t>(bytes));
  args.resources.workspace = workspace.data();
  args.resources.workspace_bytes = bytes;
  mha_status expected = MHA_OK;
  if (!mha::fuzz::break_argument(fault, args, expected) || (expected == MHA_ERR_BUFFER && bytes == 0)) return;
  const mha::Status status = context.attention(args);
  MHA_FUZZ_CHECK(status.code() == expected, "fault %d: status %s (%s), expected %s", fault,
                 mha_status_string(status.code()), status.message(), mha_status_string(expected));
  MHA_FUZZ_CHECK(status.message()[0] != '\0', "fault %d: no message", fault);
  for (const Buffer<float>* buffer : {&results.output, &results.weights, &results.lse}) {
    for (std::size_t i = 0; i < buffer->size(); ++i)
      MHA_FUZZ_CHECK((*buffer)[i] == kPoison, "fault %d: written", fault);
  }
}

}  // namespace

// Long enough for every draw; libFuzzer begins with single bytes.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned random) {
  static const std::vector<std::string> seeds = mha::fuzz::random_seeds(420);
  return mha::fuzz::mutate_or_seed(data, size, max_size, random, seeds);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider input(data, size);
  const int fault = input.ConsumeIntegralInRange<int>(0, 127);
  const std::int64_t page_size = input.ConsumeIntegralInRange<int>(0, 20);
  const Problem problem = make_problem(input);
  const AttentionCall& a = problem.args;
  if (fault < mha::fuzz::kFaults && a.batch > 0 && a.query_len > 0) {
    check_fault(problem, fault);
  } else {
    check_problem(problem, page_size, std::mt19937(static_cast<std::uint32_t>(size)));
  }
  return 0;
}
