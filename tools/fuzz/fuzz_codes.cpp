// SPDX-License-Identifier: Apache-2.0
// mha_attention over keys and values that are codes, in tensors or in the caller's pages, for any number of threads, on
// every target: in F32 and in BF16 the bits of the call over the floats that they stand for, in INT8 those of the call over
// a dense tensor of the same codes with a float scale for each row, equal on all targets; each row alone has its bits of
// the whole call. Codes of rotated rows: the same bits on the FMA targets (INT8: on all) and for the host's threads. All
// buffers are exact heap blocks for the address sanitizer.
#include <fuzzer/FuzzedDataProvider.h>
#include <mha/mha.hpp>

#include <cmath>
#include <random>

#include "tools/fuzz/code_tensor.h"
#include "tools/fuzz/targets.h"

namespace {

using mha::AttentionCall;
using mha::Context;
using mha::fuzz::Buffer;
using mha::fuzz::check_ok;
using mha::fuzz::CodeTensor;
using mha::fuzz::Elements;
using mha::fuzz::same_bits;
using mha::fuzz::same_float;
using mha::fuzz::take;
using mha::fuzz::Target;
using mha::fuzz::targets;

constexpr float kPoison = -1234.5F;

// A call without its keys and values.
struct Problem {
  AttentionCall args;
  std::int64_t kv_heads, Dv;
  Buffer<float> query;
  Buffer<std::int64_t> lengths;
  Buffer<std::int32_t> table;
  mha_pages pages{};
  mha_dtype output = MHA_F32;
};

struct Results {
  Elements output;
  Buffer<float> weights, lse;
};

Results attend(const Context& context, const Problem& p, const mha_view& key, const mha_view& value, mha_dtype output) {
  AttentionCall args = p.args;
  args.key = key, args.value = value;
  const std::int64_t rows = args.batch * args.query_len * args.num_heads;
  const bool weights = args.results.weights_mode != MHA_WEIGHTS_NONE;
  Results r{Elements(output, rows * p.Dv, kPoison), Buffer<float>(weights ? rows * args.key_len : 0),
            Buffer<float>(rows)};
  r.output.written_by(args.output);
  if (weights) args.results.weights = mha::mut_view(r.weights.data());
  args.results.log_sum_exp = r.lse.data();
  const std::size_t bytes = take(context.attention_workspace_bytes(args));
  const Buffer<std::uint8_t> workspace(static_cast<std::int64_t>(bytes));
  args.resources.workspace = workspace.data(), args.resources.workspace_bytes = bytes;
  check_ok(context.attention(args));
  return r;
}

void check_same(const Results& got, const Results& want, const char* what) {
  for (std::size_t i = 0; i < got.output.size(); ++i)
    MHA_FUZZ_CHECK(got.output.is(i, want.output.get(i)),
                   "%s: element %zu of the output is %.9g (%08x), not %.9g (%08x)", what, i,
                   static_cast<double>(got.output.get(i)), mha::fuzz::bits_of(got.output.get(i)),
                   static_cast<double>(want.output.get(i)), mha::fuzz::bits_of(want.output.get(i)));
  MHA_FUZZ_CHECK(same_bits(got.weights, want.weights) && same_bits(got.lse, want.lse), "%s: weights or log_sum_exp",
                 what);
}

Problem make_problem(FuzzedDataProvider& input, std::mt19937& random) {
  Problem p;
  AttentionCall& a = p.args;
  const auto size = [&](int low, int high) {
    return static_cast<std::int64_t>(input.ConsumeIntegralInRange<int>(low, high));
  };
  a.batch = size(0, 2), p.kv_heads = size(1, 2);
  a.num_heads = p.kv_heads * size(1, 4), a.num_kv_heads = p.kv_heads;
  a.query_len = size(0, 1) == 0 ? 1 : size(0, 20), a.key_len = size(0, 3) == 0 ? size(250, 300) : size(0, 70);
  constexpr std::int64_t kWidths[] = {32, 64, 96, 16, 48};
  const auto width = [&] { return size(0, 1) == 0 ? kWidths[size(0, 4)] : size(1, 70); };
  a.head_dim = width(), p.Dv = a.value_head_dim = width();
  a.causal = static_cast<int>(size(0, 1));
  p.query = Buffer<float>(a.batch * a.query_len * a.num_heads * a.head_dim);
  for (std::size_t i = 0; i < p.query.size(); ++i) p.query[i] = static_cast<float>(random() >> 8) * 0x1p-23F - 1.0F;
  a.query = mha::view<float>(p.query.data());
  a.results.weights_mode = size(0, 3) == 0 ? MHA_WEIGHTS_PER_HEAD : MHA_WEIGHTS_NONE;
  p.output = mha::fuzz::choose_dtype(input);
  a.arithmetic = mha::fuzz::choose_arithmetic(input, true);
  a.positions.align = MHA_ALIGN_END;
  if (size(0, 1) == 0) return p;
  p.lengths = Buffer<std::int64_t>(a.batch);
  for (std::size_t b = 0; b < p.lengths.size(); ++b)
    p.lengths[b] = static_cast<std::int64_t>(random() % static_cast<unsigned>(a.key_len + 1));
  a.items.key_lengths = p.lengths.data();
  if (size(0, 1) == 0) return p;
  constexpr std::int64_t kPages[] = {1, 3, 8, 16, 32};
  p.pages.page_size = kPages[size(0, 4)];
  const std::int64_t per_item = (a.key_len + p.pages.page_size - 1) / p.pages.page_size;
  p.pages.num_pages = size(1, 4) + per_item;
  p.table = Buffer<std::int32_t>(a.batch * per_item);
  for (std::size_t n = 0; n < p.table.size(); ++n)
    p.table[n] = static_cast<std::int32_t>(random() % static_cast<unsigned>(p.pages.num_pages));
  p.pages.table = p.table.data();
  return p;
}

// A row of queries alone has its bits of the whole call, `want`: a call of few rows multiplies codes where they are, one of
// many packs them.
void check_row(const Context& context, const Problem& p, const CodeTensor& key, const CodeTensor& value,
               std::uint32_t which, const Results& want) {
  const AttentionCall& a = p.args;
  if (a.batch == 0 || a.query_len == 0) return;
  const std::int64_t row = which % (a.batch * a.query_len), b = row / a.query_len, i = row % a.query_len;
  Problem alone;
  alone.args = a, alone.Dv = p.Dv;
  AttentionCall& args = alone.args;
  args.batch = args.query_len = 1;
  args.query = mha::view<float>(p.query.data() + row * a.num_heads * a.head_dim);
  const std::int64_t length = p.lengths.size() > 0 ? p.lengths[static_cast<std::size_t>(b)] : a.key_len;
  if (p.lengths.size() > 0) args.items.key_lengths = p.lengths.data() + b;
  args.positions.align = MHA_ALIGN_OFFSET, args.positions.offset = length - a.query_len + i;
  mha_pages pages = p.pages;
  if (a.pages != nullptr) {
    pages.table += b * ((a.key_len + pages.page_size - 1) / pages.page_size);
    args.pages = &pages;
  }
  mha_quant quants[2];
  const std::int64_t first = a.pages != nullptr ? 0 : b;
  const mha_view keys = key.plain_view(quants[0], first), values = value.plain_view(quants[1], first);
  const Results got = attend(context, alone, keys, values, MHA_F32);
  const auto place = static_cast<std::size_t>(row * a.num_heads * p.Dv);
  for (std::size_t n = 0; n < got.output.size(); ++n)
    MHA_FUZZ_CHECK(got.output.is(n, want.output.get(place + n)), "row %d alone: other bits", static_cast<int>(row));
  for (std::int64_t h = 0; h < a.num_heads; ++h) {
    const std::int64_t at = (b * a.num_heads + h) * a.query_len + i;
    const auto own = static_cast<std::size_t>(h * a.key_len), whole = static_cast<std::size_t>(at * a.key_len);
    bool same = same_float(got.lse[static_cast<std::size_t>(h)], want.lse[static_cast<std::size_t>(at)]);
    for (std::size_t j = 0; got.weights.size() > 0 && j < static_cast<std::size_t>(a.key_len); ++j)
      same &= same_float(got.weights[own + j], want.weights[whole + j]);
    MHA_FUZZ_CHECK(same, "row %d alone: other bits of weights or log_sum_exp", static_cast<int>(row));
  }
}

// The results of the first target that others must have the bits of; `turned`: of rotated rows.
struct Firsts {
  Results plain, turned;
  bool has_plain = false, has_turned = false;
};

void check_first(const Target& target, Results results, Results* first, bool* has_first) {
  if (*has_first) check_same(results, *first, target.name.c_str());
  *has_first = true;
  *first = std::move(results);
}

void check_target(const Target& target, const Problem& p, const CodeTensor& key, const CodeTensor& value, int rotated,
                  std::uint32_t row, Firsts* firsts) {
  const bool rotates_keys = (rotated & 1) != 0 && p.args.head_dim % 16 == 0 && !key.scales_inside();
  const bool rotates_values = (rotated & 2) != 0 && p.Dv % 16 == 0 && !value.scales_inside();
  mha_quant quants[6];
  const mha_view keys = key.view(quants[0], false), values = value.view(quants[1], false);
  const mha_view rotated_keys = key.view(quants[2], rotates_keys);
  const mha_view rotated_values = value.view(quants[3], rotates_values);
  const mha_view plain_keys = key.plain_view(quants[4], 0), plain_values = value.plain_view(quants[5], 0);
  const bool same_bits = target.same_bits_in(p.args.arithmetic);
  Results want = attend(target.one_thread, p, plain_keys, plain_values, MHA_F32);
  check_same(attend(target.one_thread, p, keys, values, p.output), want, "codes");
  check_same(attend(target.host_threads, p, keys, values, p.output), want, "codes on threads");
  check_row(target.one_thread, p, key, value, row, want);
  if (same_bits) check_first(target, std::move(want), &firsts->plain, &firsts->has_plain);
  if (!rotates_keys && !rotates_values) return;
  Results turned = attend(target.one_thread, p, rotated_keys, rotated_values, MHA_F32);
  check_same(attend(target.host_threads, p, rotated_keys, rotated_values, p.output), turned, "rotated, on threads");
  if (same_bits) check_first(target, std::move(turned), &firsts->turned, &firsts->has_turned);
}

}  // namespace

// Long enough for every draw; libFuzzer begins with single bytes.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned random) {
  static const std::vector<std::string> seeds = mha::fuzz::random_seeds(300);
  return mha::fuzz::mutate_or_seed(data, size, max_size, random, seeds);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider input(data, size);
  std::mt19937 random(input.ConsumeIntegral<std::uint32_t>());
  Problem p = make_problem(input, random);
  if (p.table.size() > 0) p.args.pages = &p.pages;
  const bool paged = p.args.pages != nullptr;
  const std::int64_t sizes[3] = {paged ? p.pages.num_pages : p.args.batch, paged ? p.pages.page_size : p.args.key_len,
                                 p.kv_heads};
  const bool int8 = p.args.arithmetic == MHA_ARITHMETIC_INT8;
  const CodeTensor key(input, random, sizes, p.args.head_dim, int8), value(input, random, sizes, p.Dv, int8);
  const int rotated = input.ConsumeIntegralInRange<int>(0, 7);  // bits: keys, values
  Firsts firsts;
  const std::uint32_t row = random();
  for (const Target& target : targets())
    if (target.computes(p.args.arithmetic)) check_target(target, p, key, value, rotated, row, &firsts);
  return 0;
}
