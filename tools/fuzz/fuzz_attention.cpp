// SPDX-License-Identifier: Apache-2.0
// mha_attention on any small shape, strides, masks, alignment and values, in F32, in BF16 and, over codes, in INT8: close
// to the double reference on every target, in equal bits on the FMA targets (INT8: on all), for the host's threads, over
// the query's own data and for keys and values in pages of the caller's, in the same bits, or those rounded once, for
// tensors of any element types, nothing outside its elements written; and on a call with one fault in its arguments the
// stated status with nothing written. All buffers are exact heap blocks for the address sanitizer.
#include <fuzzer/FuzzedDataProvider.h>
#include <mha/mha.hpp>

#include <algorithm>
#include <cmath>
#include <random>

#include "core/reference/reference.h"
#include "tools/fuzz/attention_faults.h"
#include "tools/fuzz/attention_problem.h"

namespace {

constexpr float kPoison = -1234.5F;
// Scores reach 2 * 24 + 4, where float's rounding is 4e-6; it enters the weights as a relative error.
constexpr double kF32Bound = 5e-5;

using mha::AttentionCall;
using mha::Context;
using mha::Strides;
using mha::fuzz::Buffer;
using mha::fuzz::check_ok;
using mha::fuzz::Dtypes;
using mha::fuzz::Elements;
using mha::fuzz::Layout;
using mha::fuzz::Problem;
using mha::fuzz::RowCodes;
using mha::fuzz::same_bits;
using mha::fuzz::take;
using mha::fuzz::Target;
using mha::fuzz::targets;

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

bool has_codes(const Problem& p) { return p.args.arithmetic == MHA_ARITHMETIC_INT8; }

AttentionCall with_results(const Problem& p, const Results& r) {
  AttentionCall args = p.args;
  if (has_codes(p)) p.key_codes.read_by(args.key), p.value_codes.read_by(args.value);
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
  query.read_by(args.query), output.written_by(args.output);
  if (!has_codes(p)) key.read_by(args.key), value.read_by(args.value);
  if (args.masks.add_mask.data != nullptr) added.read_by(args.masks.add_mask);
  if (args.masks.add_mask2.data != nullptr) added2.read_by(args.masks.add_mask2);
  attend(context, args);
  MHA_FUZZ_CHECK(output.are(want.output.data()), "other element types: other bits");
  MHA_FUZZ_CHECK(same_bits(results.weights, want.weights) && same_bits(results.lse, want.lse),
                 "other element types: other bits of weights or log_sum_exp");
}

// Rows of `width` at strides `s`, [b, t, h], in pages [num_pages, page_size, h, width], in the order of `table`; what no
// item has is `rest`.
template <class T>
Buffer<T> paged(const Problem& p, const std::int64_t (&n)[3], const Strides& s, std::int64_t width, const T* data,
                const std::vector<std::int32_t>& table, std::int64_t page_size, T rest) {
  const std::int64_t row = n[2] * width, pages = static_cast<std::int64_t>(table.size());
  const std::int64_t per_item = n[0] > 0 ? pages / n[0] : 0;
  Buffer<T> made(pages * page_size * row);
  std::fill_n(made.data(), made.size(), rest);
  for (std::int64_t b = 0; b < n[0]; ++b) {
    for (std::int64_t t = 0; t < p.lengths[static_cast<std::size_t>(b)]; ++t) {
      const std::int64_t page = table[static_cast<std::size_t>(b * per_item + t / page_size)];
      for (std::int64_t h = 0; h < n[2]; ++h)
        std::copy_n(data + b * s.b + t * s.t + h * s.h, width,
                    made.data() + (page * page_size + t % page_size) * row + h * width);
    }
  }
  return made;
}

// The keys or values of a problem in pages, as floats or as codes.
struct Paged {
  Elements floats;
  RowCodes codes;
  bool is_codes;

  Paged(const Problem& p, const Layout& layout, const Buffer<float>& data, mha_dtype dtype, const RowCodes& given,
        const std::vector<std::int32_t>& table, std::int64_t page_size)
      : is_codes(has_codes(p)) {
    const Strides s = layout.resolved();
    if (!is_codes) {
      const Buffer<float> made = paged(p, layout.n, s, layout.width, data.data(), table, page_size, std::nanf(""));
      floats = Elements(dtype, made.data(), made.size());
      return;
    }
    codes.codes = paged(p, layout.n, s, layout.width, given.codes.data(), table, page_size, std::int8_t{77});
    const mha_quant& q = given.quant;
    Buffer<float> wide(static_cast<std::int64_t>(given.scales.size()));
    for (std::size_t i = 0; i < wide.size(); ++i) wide[i] = given.scales.get(i);
    const Buffer<float> scales =
        paged(p, layout.n, {q.stride_b, q.stride_t, q.stride_h}, 1, wide.data(), table, page_size, std::nanf(""));
    codes.scales = Elements(q.scale_dtype, scales.data(), scales.size());
    codes.quant.scale_dtype = q.scale_dtype;
    codes.quant.stride_h = 1, codes.quant.stride_t = layout.n[2], codes.quant.stride_b = layout.n[2] * page_size;
  }
  void read_by(mha_view& view) const {
    if (is_codes) {
      codes.read_by(view);
    } else {
      floats.read_by(view);
    }
  }
};

// The same call with its keys and values in pages must give the same bits. Entries beyond a length name no page.
void check_pages(const Context& context, const Problem& p, std::int64_t page_size, std::mt19937 random,
                 const Results& want) {
  const AttentionCall& a = p.args;
  const std::int64_t per_item = (a.key_len + page_size - 1) / page_size;
  std::vector<std::int32_t> table(static_cast<std::size_t>(a.batch * per_item));
  for (std::size_t n = 0; n < table.size(); ++n) table[n] = static_cast<std::int32_t>(n);
  std::shuffle(table.begin(), table.end(), random);
  const Paged key(p, p.key_layout, p.key, p.dtypes.key, p.key_codes, table, page_size);
  const Paged value(p, p.value_layout, p.value, p.dtypes.value, p.value_codes, table, page_size);
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

// The greatest sum of magnitudes of a key.
double greatest_key_sum(const Problem& p) {
  const Layout& keys = p.key_layout;
  const Strides s = keys.resolved();
  double most = 0;
  for (std::int64_t row = 0; row < keys.n[0] * keys.n[1] * keys.n[2]; ++row) {
    const float* x =
        p.key.data() + row / keys.n[2] / keys.n[1] * s.b + row / keys.n[2] % keys.n[1] * s.t + row % keys.n[2] * s.h;
    double sum = 0;
    for (std::int64_t d = 0; d < keys.width; ++d) sum += std::fabs(static_cast<double>(x[d]));
    if (sum > most) most = sum;
  }
  return most;
}

double bound_of(const Problem& p) {
  const AttentionCall& a = p.args;
  if (!has_codes(p)) return mha::fuzz::bound_of(a.arithmetic, kF32Bound);
  const double scale = a.scale > 0 ? static_cast<double>(a.scale) : 1 / std::sqrt(static_cast<double>(a.head_dim));
  return kF32Bound + mha::fuzz::int8_bound(mha::fuzz::greatest_of(p.query.data(), p.query.size()), greatest_key_sum(p),
                                           scale, a.key_len);
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
  const double bound = bound_of(p);
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
    if (!target.same_bits_in(a.arithmetic)) continue;
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
  if (!targets()[0].computes(args.arithmetic)) args.arithmetic = MHA_ARITHMETIC_F32;
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
  const Problem problem = mha::fuzz::make_problem(input);
  const AttentionCall& a = problem.args;
  if (fault < mha::fuzz::kFaults && a.batch > 0 && a.query_len > 0) {
    check_fault(problem, fault);
  } else {
    check_problem(problem, page_size, std::mt19937(static_cast<std::uint32_t>(size)));
  }
  return 0;
}
