// SPDX-License-Identifier: Apache-2.0
// Prints each target that runs here and a hash of the bits of an attention call and a linear map on it. The inputs are
// small integers times powers of two, which no compiler option can round, and some denormals.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mha/mha.hpp>
#include <vector>

namespace {

class Inputs {
 public:
  std::vector<float> make(std::int64_t count) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < values.size(); ++i) {
      state_ = state_ * 6364136223846793005u + 1442695040888963407u;
      const auto integer = static_cast<std::int32_t>(state_ >> 43) - (1 << 20);
      values[i] = static_cast<float>(integer) * 0x1p-20f;
      const std::uint32_t denormal = 0x00012345;
      if (i % 50 == 7) std::memcpy(&values[i], &denormal, sizeof denormal);
    }
    return values;
  }

 private:
  std::uint64_t state_ = 1;
};

std::uint64_t hash(const std::vector<float>& values, std::uint64_t h) {
  std::vector<unsigned char> bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  for (const unsigned char byte : bytes) h = (h ^ byte) * 1099511628211u;
  return h;
}

bool report(const mha::Status& status) {
  if (!status) std::fprintf(stderr, "%s\n", status.message());
  return static_cast<bool>(status);
}

bool run(const char* target) {
  constexpr std::int64_t kHeads = 6, kKvHeads = 2, kQueries = 37, kKeys = 300, kDim = 40;
  mha_context_options options = {};
  options.target = target;
  options.num_threads = 2;
  auto context = mha::Context::create(options);
  if (!report(context.status())) return false;

  Inputs inputs;
  const auto query = inputs.make(kQueries * kHeads * kDim), key = inputs.make(kKeys * kKvHeads * kDim);
  const auto value = inputs.make(kKeys * kKvHeads * kDim);
  std::vector<float> output(query.size()), mapped(query.size());
  mha::AttentionCall args;
  args.batch = 1;
  args.num_heads = kHeads;
  args.num_kv_heads = kKvHeads;
  args.query_len = kQueries;
  args.key_len = kKeys;
  args.head_dim = kDim;
  args.query = mha::view(query.data());
  args.key = mha::view(key.data());
  args.value = mha::view(value.data());
  args.output = mha::mut_view(output.data());
  args.causal = 1;
  args.score_mods.softcap = 20;
  if (!report(context->attention(args))) return false;

  const auto weight = inputs.make(kDim * kDim), bias = inputs.make(kDim);
  mha_linear_config config = {};
  config.in_features = config.out_features = kDim;
  config.weight = mha::view(weight.data());
  config.bias = bias.data();
  auto linear = mha::Linear::create(*context, config);
  if (!report(linear.status())) return false;
  mha_linear_args rows = {};
  rows.rows = kQueries * kHeads;
  rows.input = mha::view(output.data());
  rows.output = mha::mut_view(mapped.data());
  if (!report(linear->forward(*context, rows))) return false;

  const std::uint64_t h = hash(mapped, hash(output, 14695981039346656037u));
  std::printf("%s %016llx\n", target, static_cast<unsigned long long>(h));
  return true;
}

}  // namespace

int main() {
  bool ok = true;
  for (std::int64_t n = 0; n < mha_target_count(); ++n)
    if (mha_target_supported(n)) ok = run(mha_target_name(n)) && ok;
  return ok ? 0 : 1;
}
