// SPDX-License-Identifier: Apache-2.0
// attention_f32_ragged: causal self-attention of packed sequences of unequal length, timed in turn with a call for
// each.
#include <algorithm>
#include <cmath>

#include "bench/case.h"
#include "bench/naive.h"
#include "bench/support.h"

namespace mha::bench {
namespace {

constexpr int64_t kHeads = 8, kHeadDim = 64, kWidth = kHeads * kHeadDim;
// Neither ascending nor descending.
constexpr int64_t kLengths[] = {256, 2048, 64, 1024, 128, 512};
constexpr int64_t kBatch = sizeof(kLengths) / sizeof(kLengths[0]);

class RaggedCase : public Case {
 public:
  explicit RaggedCase(const Context& context) : context_(context), offsets_(1, 0) {
    for (int64_t length : kLengths) offsets_.push_back(offsets_.back() + length);
    const int64_t total = offsets_.back();
    query_ = Floats(total * kWidth, kUnitVariance, 1);
    key_ = Floats(total * kWidth, kUnitVariance, 2);
    value_ = Floats(total * kWidth, kUnitVariance, 3);
    output_ = Floats(total * kWidth);
    output_.fill(std::nanf(""));
    args_ = arguments(0, total);
    args_.batch = kBatch;
    args_.items.query_offsets = args_.items.key_offsets = offsets_.data();
    for (int64_t b = 0; b < kBatch; ++b) {
      parts_.push_back(arguments(offsets_[b], kLengths[b]));
      flops += 4.0 * kWidth * visible_pairs(parts_.back());
    }
    bytes = 4.0 * static_cast<double>(4 * output_.size());
    size_t needed = require(context.attention_workspace_bytes(args_));
    for (const AttentionCall& part : parts_)
      needed = std::max(needed, require(context.attention_workspace_bytes(part)));
    workspace_.resize(needed);
    ready_ = with_workspace(args_);
    for (AttentionCall& part : parts_) ready_parts_.push_back(with_workspace(part));
  }
  mha_status run() override { return mha_attention(context_.get(), &ready_, nullptr); }
  mha_status run_parts() override {
    mha_status status = MHA_OK;
    for (const mha_attention_args& part : ready_parts_)
      if (status == MHA_OK) status = mha_attention(context_.get(), &part, nullptr);
    return status;
  }
  bool has_parts() const override { return true; }
  std::string check() override {
    std::string verdict;
    for (int64_t b = 0; b < kBatch; ++b)
      if (verdict.empty()) verdict = check_attention(parts_[b], output_.data() + offsets_[b] * kWidth, nullptr);
    return verdict;
  }
  double naive_seconds(int threads) override {
    double seconds = 0;
    for (const AttentionCall& part : parts_) seconds += naive_attention_seconds(part, threads, false);
    return seconds;
  }

 private:
  AttentionCall arguments(int64_t begin, int64_t length) const {
    AttentionCall args;
    args.batch = 1;
    args.num_heads = kHeads;
    args.query_len = args.key_len = length;
    args.head_dim = kHeadDim;
    args.query = view(query_.data() + begin * kWidth);
    args.key = view(key_.data() + begin * kWidth);
    args.value = view(value_.data() + begin * kWidth);
    args.output = mut_view(output_.data() + begin * kWidth);
    args.causal = 1;
    return args;
  }
  /// Points into args.
  mha_attention_args with_workspace(AttentionCall& args) {
    args.resources.workspace = workspace_.data();
    args.resources.workspace_bytes = workspace_.size();
    return args.raw();
  }

  const Context& context_;
  std::vector<int64_t> offsets_;
  Floats query_, key_, value_, output_;
  std::vector<unsigned char> workspace_;
  AttentionCall args_;
  std::vector<AttentionCall> parts_;
  mha_attention_args ready_ = {};
  std::vector<mha_attention_args> ready_parts_;
};

}  // namespace

CaseSpec ragged_case(int threads) {
  return {"attention_f32_ragged/T:64..2048/H:8/D:64/causal:1/threads:" + std::to_string(threads), "", threads,
          [](const Context& context) { return std::make_unique<RaggedCase>(context); }};
}

}  // namespace mha::bench
