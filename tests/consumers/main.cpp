// SPDX-License-Identifier: Apache-2.0
// What a C++ engine does with the wrapper: a context, a packed linear map, one call, a refused one.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <mha/mha.hpp>
#include <vector>

int main() {
  mha::Result<mha::Context> context = mha::Context::create();
  if (!context) {
    std::fprintf(stderr, "%s\n", context.status().message());
    return 1;
  }
  const std::vector<float> weight = {1.0f, 2.0f, 0.0f, -1.0f, 0.5f, 4.0f}, bias = {10.0f, 20.0f};
  mha_linear_config config = {};
  config.in_features = 3;
  config.out_features = 2;
  config.weight = mha::view(weight.data());
  config.bias = bias.data();
  mha::Result<mha::Linear> linear = mha::Linear::create(*context, config);
  if (!linear) {
    std::fprintf(stderr, "%s\n", linear.status().message());
    return 1;
  }
  const std::vector<float> input = {1.0f, 2.0f, 3.0f};
  std::vector<float> output(2);
  mha_linear_args args = {};
  args.rows = 1;
  args.input = mha::view(input.data());
  args.output = mha::mut_view(output.data());
  if (mha::Status status = linear->forward(*context, args); !status) {
    std::fprintf(stderr, "%s\n", status.message());
    return 1;
  }
  if (std::fabs(output[0] - 15.0f) > 1e-5f || std::fabs(output[1] - 32.0f) > 1e-5f) {
    std::fprintf(stderr, "output is %g %g, not 15 32\n", output[0], output[1]);
    return 1;
  }
  args.rows = -1;
  const mha::Status refused = linear->forward(*context, args);
  return !refused && std::strlen(refused.message()) > 0 ? 0 : 1;
}
