// SPDX-License-Identifier: Apache-2.0
// attention_f32_masked: causal self-attention with one thing more, timed in turn with causal alone.
// attention_f32_window: one query that sees a window of the keys, timed in turn with one that has no more keys.
#include <cmath>
#include <utility>

#include "bench/attention_case.h"
#include "bench/twin.h"

namespace mha::bench {
namespace {

/// What masks and mods point to. One of the vectors is filled.
struct MaskData {
  std::vector<uint8_t> bytes;
  std::vector<int32_t> segments;
  std::vector<int64_t> numbers;
  std::vector<float> floats;
};

using Fill = void (*)(MaskData& data, AttentionCall& args);

// Every other key is visible, at random.
bool is_chosen(int64_t i, int64_t j) {
  const uint64_t mixed = (static_cast<uint64_t>(i) << 32 | static_cast<uint64_t>(j)) * 0x9e3779b97f4a7c15u;
  return i == j || (mixed ^ mixed >> 29) >> 33 & 1;
}

void fill_bits(MaskData& data, AttentionCall& args) {
  const int64_t row = (args.key_len + 7) / 8;
  data.bytes.resize(args.query_len * row);
  for (int64_t i = 0; i < args.query_len; ++i)
    for (int64_t j = 0; j < args.key_len; ++j)
      data.bytes[i * row + j / 8] |= static_cast<uint8_t>(is_chosen(i, j) << (j % 8));
  args.masks.bit_mask = {data.bytes.data(), 0, 0, row};
}

void fill_bools(MaskData& data, AttentionCall& args) {
  data.bytes.resize(args.query_len * args.key_len);
  for (int64_t n = 0; n < static_cast<int64_t>(data.bytes.size()); ++n)
    data.bytes[n] = is_chosen(n / args.key_len, n % args.key_len);
  args.masks.bool_mask = {data.bytes.data(), 0, 0, args.key_len, 1};
}

void fill_segments(int64_t length, MaskData& data, AttentionCall& args) {
  for (int64_t j = 0; j < args.key_len; ++j) data.segments.push_back(static_cast<int32_t>(j / length));
  args.masks.query_segments = args.masks.key_segments = data.segments.data();
}

// Four documents; their ends fall within chunks.
void fill_documents(MaskData& data, AttentionCall& args) { fill_segments(500, data, args); }

// One document: nothing can be left out.
void fill_one_document(MaskData& data, AttentionCall& args) { fill_segments(args.key_len, data, args); }

// Blocks of 64: the last four up to the diagonal, and every fourth one; so every chunk is seen.
void fill_blocks(MaskData& data, AttentionCall& args) {
  constexpr int64_t kBlock = 64;
  for (int64_t q = 0; q < args.query_len / kBlock; ++q)
    for (int64_t k = 0; k <= q; ++k)
      if (q - k < 4 || k % 4 == 0) data.numbers.insert(data.numbers.end(), {q, k});
  args.masks.block_mask = {kBlock, kBlock, data.numbers.data(), static_cast<int64_t>(data.numbers.size() / 2), nullptr};
}

void fill_window(MaskData&, AttentionCall& args) { args.masks.window_left = 1024; }

void fill_prefix(MaskData& data, AttentionCall& args) {
  data.numbers = {256};
  args.masks.prefix_lengths = data.numbers.data();
}

void fill_alibi(MaskData& data, AttentionCall& args) {
  for (int64_t h = 0; h < args.num_heads; ++h) data.floats.push_back(std::exp2(-static_cast<float>(h + 1)));
  args.score_mods.alibi_slopes = data.floats.data();
}

void fill_relative_bias(MaskData& data, AttentionCall& args) {
  args.score_mods.relative_left = args.score_mods.relative_right = 128;
  for (int64_t n = 0; n < args.num_heads * 257; ++n) data.floats.push_back(static_cast<float>(n % 61) / 61 - 0.5f);
  args.score_mods.relative_bias = data.floats.data();
}

void fill_sinks(MaskData& data, AttentionCall& args) {
  data.floats.assign(args.num_heads, 1);
  args.score_mods.sink_logits = data.floats.data();
}

void fill_softcap(MaskData&, AttentionCall& args) { args.score_mods.softcap = 30; }

constexpr std::pair<const char*, Fill> kMasks[] = {
    {"bits", fill_bits},     {"bool", fill_bools},    {"segments:4", fill_documents}, {"segments:1", fill_one_document},
    {"blocks", fill_blocks}, {"window", fill_window}, {"prefix", fill_prefix},
#define MHA_MOD(name, field, text, given) {#name, fill_##name},
#include "core/kernels/score_mods.def"
};

std::unique_ptr<Case> make_masked(const Context& context, const AttentionShape& shape, Fill fill) {
  auto data = std::make_shared<MaskData>();
  auto masked = std::make_unique<AttentionCase>(context, shape, kOrdinary,
                                                [data, fill](AttentionCall& args) { fill(*data, args); });
  return std::make_unique<TwinCase>(std::move(masked), std::make_unique<AttentionCase>(context, shape), "plain_ratio");
}

}  // namespace

std::vector<CaseSpec> masked_cases(int64_t length, int threads) {
  const AttentionShape shape = {length, length, 8, 8, 64, true};
  std::vector<CaseSpec> cases;
  for (const auto& [name, fill] : kMasks) {
    cases.push_back({"attention_f32_masked/T:" + std::to_string(length) + "/H:8/D:64/mask:" + name +
                         "/threads:" + std::to_string(threads),
                     "", threads,
                     [shape, fill = fill](const Context& context) { return make_masked(context, shape, fill); }});
  }
  return cases;
}

CaseSpec window_case(int64_t key_len, int64_t window, int threads) {
  const std::string name = "attention_f32_window/Tq:1/Tk:" + std::to_string(key_len) +
                           "/window:" + std::to_string(window) + "/H:32/Hkv:8/D:128/threads:" + std::to_string(threads);
  return {name, "", threads, [=](const Context& context) {
            const AttentionShape all = {1, key_len, 32, 8, 128, true}, seen = {1, window, 32, 8, 128, true};
            auto work = std::make_unique<AttentionCase>(context, all, kOrdinary,
                                                        [=](AttentionCall& args) { args.masks.window_left = window; });
            return std::make_unique<TwinCase>(std::move(work), std::make_unique<AttentionCase>(context, seen),
                                              "plain_ratio");
          }};
}

}  // namespace mha::bench
