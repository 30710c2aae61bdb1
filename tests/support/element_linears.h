// SPDX-License-Identifier: Apache-2.0
// Linears over elements of any type, and the widening law of one: the float call over the widened elements is the oracle.
#ifndef MHA_TESTS_SUPPORT_ELEMENT_LINEARS_H
#define MHA_TESTS_SUPPORT_ELEMENT_LINEARS_H

#include "tests/support/half_floats.h"
#include "tests/support/random_cases.h"

namespace mha::test {

/// Memory of a call's workspace: exactly so many bytes at an odd address, NaN before, canaries around.
class WatchedWorkspace {
 public:
  explicit WatchedWorkspace(size_t bytes) : bytes_(bytes), memory_(bytes + 2 * kAround, kFill) {}
  void lend(mha_resources* resources) {
    resources->workspace = memory_.data() + kAround, resources->workspace_bytes = bytes_;
    if (bytes_ == 0) *resources = {};
  }
  bool canaries_intact() const {
    const auto intact = [](unsigned char byte) { return byte == kFill; };
    return std::all_of(memory_.begin(), memory_.begin() + kAround, intact) &&
           std::all_of(memory_.end() - kAround, memory_.end(), intact);
  }

 private:
  static constexpr std::ptrdiff_t kAround = 67;
  static constexpr unsigned char kFill = 0xff;
  size_t bytes_;
  std::vector<unsigned char> memory_;
};

/// The types of a linear's tensors. `packed` -1: as the weights are given.
struct LinearTypes {
  mha_dtype input, weight, output;
  int packed;
  mha_arithmetic arithmetic = MHA_ARITHMETIC_F32;

  mha_dtype kept() const { return packed < 0 ? weight : static_cast<mha_dtype>(packed); }
  std::string describe() const {
    return std::string(name_of(input)) + " x " + name_of(weight) +
           (packed < 0 ? "" : std::string(" packed as ") + name_of(kept())) + " -> " + name_of(output) +
           (arithmetic == MHA_ARITHMETIC_F32 ? "" : " in BF16");
  }
};

struct ElementLinear {
  int64_t M, N, K;
  LinearTypes types;
  bool has_bias;
  ElementRows input, weight;
  std::vector<float> bias;

  ElementLinear(int64_t m, int64_t n, int64_t k, const LinearTypes& t, bool with_bias, uint64_t seed, int64_t pad = 0)
      : ElementLinear(m, n, k, t, with_bias, random_floats(m * k, seed * 4 + 1), random_floats(n * k, seed * 4 + 2),
                      random_floats(n, seed * 4 + 3), pad) {}
  ElementLinear(int64_t m, int64_t n, int64_t k, const LinearTypes& t, bool with_bias, const std::vector<float>& inputs,
                const std::vector<float>& weights, const std::vector<float>& biases, int64_t pad)
      : M(m),
        N(n),
        K(k),
        types(t),
        has_bias(with_bias),
        input(t.input, m, k, pad, pad),
        weight(t.weight, n, k, 2 * pad, pad),
        bias(biases) {
    input.fill(inputs), weight.fill(weights);
  }

  const float* bias_or_null() const { return has_bias ? bias.data() : nullptr; }
  /// The weights as they are kept, widened.
  std::vector<float> kept_weights() const {
    return types.packed < 0 ? weight.floats() : through(types.kept(), weight.floats());
  }
  LinearPtr make(const mha_context* context, mha_storage_error* packed_error = nullptr) const {
    mha_linear_config config = {};
    mha_storage storage = {};
    config.in_features = K, config.out_features = N;
    config.weight = weight.view(), config.bias = bias_or_null(), config.arithmetic = types.arithmetic;
    storage.dtype = types.kept();
    if (types.packed >= 0) config.packed = &storage;
    config.packed_error = packed_error;
    mha_linear* linear = nullptr;
    mha_error error = {};
    require_ok(mha_linear_create(context, &config, &linear, &error), error);
    return LinearPtr(linear);
  }
  /// What the call must give before it is rounded: the float linear over widened numbers.
  std::vector<float> oracle(const mha_context* context) const {
    const std::vector<float> kept = kept_weights();
    const LinearPtr linear = make_linear(context, K, N, kept.data(), bias_or_null(), types.arithmetic);
    return run_linear(context, linear.get(), input.floats(), M);
  }
  /// Rows [first, first + count) of the input, into `output` of as many.
  mha_linear_args args(int64_t first, int64_t count, ElementRows* output) const {
    mha_linear_args args = {};
    args.rows = count, args.input = input.view(), args.output = output->mut_view();
    args.input.data = input.data() + first * input.pitch() * bytes_of(types.input);
    return args;
  }
  std::string describe() const {
    std::ostringstream text;
    text << "M " << M << " N " << N << " K " << K << (has_bias ? " bias, " : ", ") << types.describe();
    return text.str();
  }
};

/// Rows of a linear by one call, which is given its workspace or none.
inline ElementRows run_rows(const mha_context* context, const mha_linear* linear, const ElementLinear& p, int64_t first,
                            int64_t count, bool gives_workspace, int64_t pad = 0) {
  ElementRows output(p.types.output, count, p.N, pad, pad);
  mha_linear_args args = p.args(first, count, &output);
  mha_error error = {};
  size_t bytes = 0;
  require_ok(mha_linear_workspace_bytes(context, linear, &args, &bytes, &error), error);
  WatchedWorkspace workspace(bytes);
  mha_resources resources = {};
  workspace.lend(&resources);
  if (gives_workspace) args.resources = &resources;
  require_ok(mha_linear_forward(context, linear, &args, &error), error);
  CHECK(workspace.canaries_intact());
  CHECK(output.gaps_intact());
  return output;
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_ELEMENT_LINEARS_H
