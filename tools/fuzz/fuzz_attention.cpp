// SPDX-License-Identifier: Apache-2.0
// mha_attention on any small shape, strides, masks and values: close to the double reference on every target, in equal
// bits on the FMA targets and for the host's threads, nothing outside its elements written; and on a call with one
// fault in its arguments the stated status with nothing written. All buffers are exact heap blocks for the address
// sanitizer.
#include <fuzzer/FuzzedDataProvider.h>
#include <mha/mha.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "core/reference.h"
#include "tools/fuzz/targets.h"

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kPoison = -1234.5F;
// Scores reach 2 * 24 + 4, where float's rounding is 4e-6; it enters the weights as a relative error.
constexpr double kBound = 5e-5;

using mha::fuzz::Buffer;
using mha::fuzz::Target;
using mha::fuzz::targets;

struct Strides {
  std::int64_t b = 0, t = 0, h = 0, d = 0;
};

// The sizes of a tensor and how its elements lie.
struct Layout {
  std::int64_t n[3] = {0, 0, 0};  // b, t, h
  std::int64_t width = 0;
  Strides strides;  // d == 0: dense in the order b, t, h (heads_first: b, h, t)
  bool heads_first = false;

  Strides resolved() const {
    if (strides.d != 0) return strides;
    if (heads_first) return {n[1] * n[2] * width, width, n[1] * width, 1};
    return {n[1] * n[2] * width, n[2] * width, width, 1};
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
    by_dimension[dimension] = broadcast ? 0 : next;
    if (!broadcast)
      next = next * std::max<std::int64_t>(1, layout.n[dimension]) + input.ConsumeIntegralInRange<int>(0, 3);
  }
  return {by_dimension[0], by_dimension[1], by_dimension[2], 1};
}

// One problem with all its buffers.
struct Problem {
  AttentionCall args{};
  Layout output_layout, weights_layout;
  Buffer<float> query, key, value, add_mask;
  Buffer<std::uint8_t> bool_mask;
  Buffer<std::int64_t> lengths;
  bool want_lse = false;
};

Buffer<float> make_input(FuzzedDataProvider& input, std::mt19937& random, Layout layout, mha_view& view, int nans) {
  layout.strides = choose_strides(input, layout, true);
  Buffer<float> buffer(layout.extent());
  // NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDelete): it thinks that size() may be 0 inside the loop
  for (std::size_t i = 0; i < buffer.size(); ++i) buffer[i] = static_cast<float>(random() >> 8) * 0x1p-23F - 1.0F;
  for (; nans > 0 && buffer.size() > 0; --nans) buffer[random() % buffer.size()] = std::nanf("");
  view = {buffer.data(), layout.strides.b, layout.strides.t, layout.strides.h, layout.strides.d};
  return buffer;
}

void make_masks(FuzzedDataProvider& input, std::mt19937& random, Problem& p) {
  const AttentionCall& a = p.args;
  mha_masks& masks = p.args.masks;
  masks.causal = static_cast<mha_causal>(input.ConsumeIntegralInRange<int>(0, 2));
  if (masks.causal == MHA_CAUSAL_OFFSET) masks.causal_offset = input.ConsumeIntegralInRange<std::int64_t>(-12, 40);
  if (input.ConsumeBool()) {
    p.lengths = Buffer<std::int64_t>(a.batch);
    for (std::int64_t b = 0; b < a.batch; ++b)
      p.lengths[static_cast<std::size_t>(b)] =
          static_cast<std::int64_t>(random() % static_cast<unsigned>(a.key_len + 1));
    masks.key_lengths = p.lengths.data();
  }
  // [B or 1, H or 1, Tq or 1, Tk] for each kind.
  const auto strides = [&](std::int64_t& stride_b, std::int64_t& stride_h, std::int64_t& stride_q) {
    std::int64_t next = a.key_len + input.ConsumeIntegralInRange<int>(0, 2);
    stride_q = input.ConsumeBool() ? next : 0;
    if (stride_q != 0) next *= std::max<std::int64_t>(1, a.query_len);
    stride_h = input.ConsumeBool() ? next : 0;
    if (stride_h != 0) next *= std::max<std::int64_t>(1, a.num_heads);
    stride_b = input.ConsumeBool() ? next : 0;
    if (a.batch == 0 || a.num_heads == 0 || a.query_len == 0) return std::int64_t{0};
    return (a.batch - 1) * stride_b + (a.num_heads - 1) * stride_h + (a.query_len - 1) * stride_q + a.key_len;
  };
  const unsigned density = input.ConsumeIntegralInRange<unsigned>(0, 8);
  if (input.ConsumeBool()) {
    mha_bool_mask& mask = masks.bool_mask;
    p.bool_mask = Buffer<std::uint8_t>(strides(mask.stride_b, mask.stride_h, mask.stride_q));
    for (std::size_t i = 0; i < p.bool_mask.size(); ++i)
      p.bool_mask[i] = random() % 8 < density ? static_cast<std::uint8_t>(1 + random() % 255) : 0;
    mask.data = p.bool_mask.data();
  }
  if (input.ConsumeBool()) {
    mha_add_mask& mask = masks.add_mask;
    p.add_mask = Buffer<float>(strides(mask.stride_b, mask.stride_h, mask.stride_q));
    for (std::size_t i = 0; i < p.add_mask.size(); ++i)
      p.add_mask[i] = random() % 8 < density ? static_cast<float>(random() >> 8) * 0x1p-21F - 4.0F : -kInf;
    mask.data = p.add_mask.data();
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
  const std::int64_t kv_heads = size(0, 2);
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
  p.query = make_input(input, random, {{a.batch, a.query_len, a.num_heads}, a.head_dim, {}, false}, a.query, nans);
  p.key = make_input(input, random, {{a.batch, a.key_len, kv_heads}, a.head_dim, {}, false}, a.key, nans);
  p.value = make_input(input, random, {{a.batch, a.key_len, kv_heads}, Dv, {}, false}, a.value, nans);
  make_masks(input, random, p);
  p.output_layout = {{a.batch, a.query_len, a.num_heads}, Dv, {}, false};
  p.output_layout.strides = choose_strides(input, p.output_layout, false);
  a.results.weights_mode = static_cast<mha_weights_mode>(input.ConsumeIntegralInRange<int>(0, 2));
  if (a.results.weights_mode != MHA_WEIGHTS_NONE) {
    // Without heads nothing is written, the mean over them neither.
    const std::int64_t heads =
        a.results.weights_mode == MHA_WEIGHTS_AVERAGED ? std::min<std::int64_t>(1, a.num_heads) : a.num_heads;
    p.weights_layout = {{a.batch, a.query_len, heads}, a.key_len, {}, true};
    p.weights_layout.strides = choose_strides(input, p.weights_layout, false);
    if (a.results.weights_mode == MHA_WEIGHTS_AVERAGED) p.weights_layout.strides.h = 0;  // there is no head dimension
  }
  p.want_lse = input.ConsumeBool();
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
  const Strides& o = p.output_layout.strides;
  const Strides& w = p.weights_layout.strides;
  args.output = {r.output.data(), o.b, o.t, o.h, o.d};
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) args.results.weights = {r.weights.data(), w.b, w.t, w.h, w.d};
  if (p.want_lse) args.results.log_sum_exp = r.lse.data();
  return args;
}

void check_value(float got, double want, const char* what) {
  if (std::isnan(want) || std::isinf(want)) {
    MHA_FUZZ_CHECK(std::isnan(want) ? std::isnan(got) : static_cast<double>(got) == want, "%s is %g, not %g", what,
                   static_cast<double>(got), want);
  } else {
    MHA_FUZZ_CHECK(std::fabs(static_cast<double>(got) - want) <= kBound, "%s is %.9g, not %.9g", what,
                   static_cast<double>(got), want);
  }
}

// Every element close to `want` (dense, in the layout's order), every gap as it was.
void check_tensor(const Layout& layout, const Buffer<float>& got, const std::vector<double>& want, const char* what) {
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
          check_value(got[place], want[at++], what);
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

Results call(const mha_context* context, const Problem& p) {
  Results results = poisoned(p);
  AttentionCall args = with_results(p, results);
  mha_error error{};
  std::size_t bytes = 0;
  MHA_FUZZ_CHECK(attention_workspace_bytes(context, args, &bytes, &error) == MHA_OK, "%s", error.message);
  const Buffer<std::uint8_t> workspace(static_cast<std::int64_t>(bytes));
  args.resources.workspace = workspace.data();
  args.resources.workspace_bytes = bytes;
  const mha_status status = attention(context, args, &error);
  MHA_FUZZ_CHECK(status == MHA_OK, "%s", error.message);
  return results;
}

void check_problem(const Problem& p) {
  const AttentionCall& a = p.args;
  const std::int64_t rows = a.batch * a.num_heads * a.query_len;
  std::vector<double> output(static_cast<std::size_t>(rows * p.output_layout.width));
  std::vector<double> weights(static_cast<std::size_t>(rows * a.key_len));
  std::vector<double> lse(static_cast<std::size_t>(rows));
  if (rows > 0) {
    mha::reference::attention<double>(a, output.data(), a.results.weights_mode != MHA_WEIGHTS_NONE ? weights.data() : nullptr,
                                      lse.data());
  }
  Results fma;
  bool have_fma = false;
  for (const Target& target : targets()) {
    Results results = call(target.one_thread.get(), p);
    check_tensor(p.output_layout, results.output, output, "output");
    if (a.results.weights_mode != MHA_WEIGHTS_NONE) check_tensor(p.weights_layout, results.weights, weights, "weights");
    for (std::size_t i = 0; i < results.lse.size(); ++i) check_value(results.lse[i], lse[i], "log_sum_exp");
    const Results threaded = call(target.host_threads.get(), p);
    MHA_FUZZ_CHECK(same_bits(results.output, threaded.output) && same_bits(results.weights, threaded.weights) &&
                       same_bits(results.lse, threaded.lse),
                   "threads change bits on %s", target.name.c_str());
    if (target.name == "sse2") continue;  // has no fused multiply-add
    if (have_fma) {
      MHA_FUZZ_CHECK(same_bits(results.output, fma.output) && same_bits(results.weights, fma.weights) &&
                         same_bits(results.lse, fma.lse),
                     "%s gives other bits", target.name.c_str());
    }
    have_fma = true;
    fma = std::move(results);
  }
}

// Breaks one argument; false if that fault does not apply to this problem.
bool break_argument(int fault, AttentionCall& a, mha_status& expected) {
  const bool dense = a.query.stride_d == 0;
  expected = MHA_ERR_ARGUMENT;
  switch (fault) {
    case 0:
      a.batch = -1;
      return true;
    case 1:
      a.key_len = std::numeric_limits<std::int64_t>::min();
      return true;
    case 2:
      a.head_dim = 0;
      return true;
    case 3:
      a.masks.causal = static_cast<mha_causal>(3);
      return true;
    case 4:
      a.results.weights_mode = static_cast<mha_weights_mode>(4);
      return true;
    case 5:
      a.scale = kInf;
      return true;
    case 6:
      expected = MHA_ERR_NULL;
      a.query = {};
      return true;
    case 7:
      expected = MHA_ERR_NULL;
      a.value = {};
      return a.key_len > 0;
    case 8:
      expected = MHA_ERR_NULL;
      a.output = {};
      return true;
    case 9:
      expected = MHA_ERR_SHAPE;
      a.num_kv_heads = a.num_heads + 1;
      return true;
    case 10:
      expected = MHA_ERR_STRIDE;
      a.query.stride_d = 2;
      return true;
    case 11:
      expected = MHA_ERR_STRIDE;
      a.key.stride_d = dense ? -1 : 3;
      return true;
    case 12:
      expected = MHA_ERR_STRIDE;
      a.value.stride_d = 1;
      a.value.stride_t = -4;
      return true;
    case 13:
      expected = MHA_ERR_STRIDE;
      a.output.stride_d = 1;
      a.output.stride_t = a.output.stride_h = a.output.stride_b = 0;
      return a.query_len > 1;
    case 14:
      expected = MHA_ERR_OVERFLOW;
      a.query = view(a.query.data, {std::numeric_limits<std::int64_t>::max(), 1, 1});
      return a.batch > 2;
    default:
      expected = MHA_ERR_BUFFER;
      a.resources.workspace_bytes = 0;
      return true;
  }
}

// One fault in a call that would otherwise do something: the stated status, with a message, and nothing written.
void check_fault(const Problem& p, int fault) {
  Results results = poisoned(p);
  AttentionCall args = with_results(p, results);
  const mha_context* context = targets()[0].one_thread.get();
  std::size_t bytes = 0;
  MHA_FUZZ_CHECK(attention_workspace_bytes(context, args, &bytes, nullptr) == MHA_OK, "workspace");
  const Buffer<std::uint8_t> workspace(static_cast<std::int64_t>(bytes));
  args.resources.workspace = workspace.data();
  args.resources.workspace_bytes = bytes;
  mha_status expected = MHA_OK;
  if (!break_argument(fault, args, expected) || (expected == MHA_ERR_BUFFER && bytes == 0)) return;
  mha_error error{};
  const mha_status status = attention(context, args, &error);
  MHA_FUZZ_CHECK(status == expected, "fault %d: status %s (%s), expected %s", fault, mha_status_string(status),
                 error.message, mha_status_string(expected));
  MHA_FUZZ_CHECK(error.status == status && error.message[0] != '\0', "fault %d: no message", fault);
  for (const Buffer<float>* buffer : {&results.output, &results.weights, &results.lse}) {
    for (std::size_t i = 0; i < buffer->size(); ++i)
      MHA_FUZZ_CHECK((*buffer)[i] == kPoison, "fault %d: written", fault);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider input(data, size);
  const int fault = input.ConsumeIntegralInRange<int>(0, 63);
  const Problem problem = make_problem(input);
  const AttentionCall& a = problem.args;
  if (fault < 16 && a.batch > 0 && a.num_heads > 0 && a.query_len > 0) {
    check_fault(problem, fault);
  } else {
    check_problem(problem);
  }
  return 0;
}
