// SPDX-License-Identifier: Apache-2.0
// attention_f32 and attention_weights_f32: scaled dot-product attention on its own, everything dense [B, T, H, D].
// attention_f32_denormal: on values that are, or whose products are, denormal.
#include "bench/attention_case.h"
#include "bench/twin.h"

namespace mha::bench {
namespace {

// Every product of query and key is denormal, as are their sums, every value, and the result.
constexpr Scales kDenormal = {1e-20f, 1e-20f, 5e-39f};

std::string name_of(const char* kind, const AttentionShape& s, int threads) {
  std::string name = kind;
  for (const auto& [key, number] : {std::pair<const char*, int64_t>{"/Tq:", s.query_len},
                                    {"/Tk:", s.key_len},
                                    {"/H:", s.num_heads},
                                    {"/Hkv:", s.num_kv_heads},
                                    {"/D:", s.head_dim},
                                    {"/causal:", s.causal},
                                    {"/threads:", threads}})
    name += key + std::to_string(number);
  return name;
}

}  // namespace

CaseSpec attention_case(const AttentionShape& shape, int threads) {
  return {name_of("attention_f32", shape, threads), "", threads,
          [=](const Context& context) { return std::make_unique<AttentionCase>(context, shape); }};
}

CaseSpec attention_denormal_case(const AttentionShape& shape, int threads) {
  return {name_of("attention_f32_denormal", shape, threads), "", threads, [=](const Context& context) {
            return std::make_unique<TwinCase>(std::make_unique<AttentionCase>(context, shape, kDenormal),
                                              std::make_unique<AttentionCase>(context, shape), "denormal_ratio");
          }};
}

CaseSpec attention_weights_case(const AttentionShape& shape, int threads) {
  return {name_of("attention_weights_f32", shape, threads), "", threads, [=](const Context& context) {
            return std::make_unique<AttentionCase>(context, shape, kOrdinary, [](AttentionCall& args) {
              args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
            });
          }};
}

}  // namespace mha::bench
