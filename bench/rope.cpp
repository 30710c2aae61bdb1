// SPDX-License-Identifier: Apache-2.0
// rope_f32: tokens rotated by angles that the call computes, timed in turn with the same by a table of the caller's.
#include <cmath>
#include <vector>

#include "bench/support.h"
#include "bench/twin.h"
#include "core/reference/reference.h"

namespace mha::bench {
namespace {

constexpr double kBase = 10000;
constexpr int64_t kFirstPosition = 100;

class RopeCase : public Case {
 public:
  RopeCase(const Context& context, int64_t tokens, int64_t num_heads, int64_t head_dim, bool by_table)
      : context_(&context), input_(tokens * num_heads * head_dim, kUnitVariance, 1), output_(input_.size()) {
    rope_.base = kBase;
    if (by_table) make_table(kFirstPosition + tokens, head_dim / 2);
    args_.batch = 1;
    args_.length = tokens;
    args_.num_heads = num_heads;
    args_.head_dim = head_dim;
    args_.input = view(input_.data());
    args_.output = mut_view(output_.data());
    args_.rope = &rope_;
    args_.first_position = kFirstPosition;
    bytes = 4.0 * static_cast<double>(input_.size() + output_.size());
  }
  mha_status run() override { return mha_rows_prepare(context_->get(), &args_, nullptr); }
  std::string check() override {
    std::vector<double> want(static_cast<size_t>(output_.size()));
    reference::norm_rope_rows(args_, want.data());
    for (int64_t n = 0; n < output_.size(); ++n) {
      if (!(std::fabs(output_.data()[n] - want[n]) < 1e-5)) return "output differs from the reference";
    }
    return "";
  }
  double naive_seconds(int) override { return 0; }

 private:
  void make_table(int64_t positions, int64_t pairs) {
    cos_ = Floats(positions * pairs), sin_ = Floats(positions * pairs);
    for (int64_t p = 0; p < positions; ++p) {
      for (int64_t d = 0; d < pairs; ++d) {
        const double angle =
            static_cast<double>(p) * std::pow(kBase, -static_cast<double>(d) / static_cast<double>(pairs));
        cos_.data()[p * pairs + d] = static_cast<float>(std::cos(angle));
        sin_.data()[p * pairs + d] = static_cast<float>(std::sin(angle));
      }
    }
    rope_ = {};
    rope_.cos = cos_.data(), rope_.sin = sin_.data(), rope_.table_positions = positions;
  }

  const Context* context_;
  Floats input_, output_, cos_, sin_;
  mha_rope rope_ = {};
  mha_rows_args args_ = {};
};

}  // namespace

CaseSpec rope_case(int64_t tokens, int64_t num_heads, int64_t head_dim) {
  const std::string name = "rope_f32/T:" + std::to_string(tokens) + "/H:" + std::to_string(num_heads) +
                           "/D:" + std::to_string(head_dim) + "/threads:1";
  return {name, "", 1, [=](const Context& context) {
            return std::make_unique<TwinCase>(std::make_unique<RopeCase>(context, tokens, num_heads, head_dim, false),
                                              std::make_unique<RopeCase>(context, tokens, num_heads, head_dim, true),
                                              "table_ratio");
          }};
}

}  // namespace mha::bench
