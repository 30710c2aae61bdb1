// SPDX-License-Identifier: Apache-2.0
// Each modification in a namespace of its own: how its fields are checked, and what kernels take of them.
#include "core/call/score_mods.h"

#include <cmath>

#include "core/call/checks.h"
#include "core/math/denormal.h"

namespace mha {
namespace {

using ll = long long;

constexpr double kToUnit = kNaturalToScoreUnit;

// Whether a cap is applied to finished scores (core/README.md, 6): scale / cap would make queries denormal or overflow.
bool caps_apart(const AttentionProblem& p) {
  return p.mods.softcap > 0.0f && (p.mods.softcap < kLeastOrdinary || p.mods.softcap > kMostOrdinary ||
                                   p.is_extreme(static_cast<double>(p.scale) / static_cast<double>(p.mods.softcap)));
}

// What is checked, and for how many heads; without data the arrays are not read.
struct GivenMods {
  const mha_score_mods& m;
  int64_t heads;
  bool has_data;
};

// For modifications that have nothing to check, or nothing that kernels take.
namespace none {
mha_status check(const GivenMods&, mha_error*) { return MHA_OK; }
void set(const AttentionProblem&, ScoreMods*) {}
void fill(const AttentionProblem&, int64_t, RowMods*) {}
}  // namespace none

namespace softcap {
using none::fill;

// 1 / cap in the unit of scores. Of a cap below 2^-97 it would overflow; then exp(cap) is 1 in float, whatever part
// of the cap a score gets.
float slope(float cap) {
  constexpr double kMost = 0x1p100;
  const double slope = 1 / (static_cast<double>(cap) * kToUnit);
  return static_cast<float>(slope < kMost ? slope : kMost);
}

mha_status check(const GivenMods& given, mha_error* error) {
  const float cap = given.m.softcap;
  if (!std::isfinite(cap) || cap < 0.0f) {
    return fail(error, MHA_ERR_ARGUMENT, "score_mods.softcap is %g: must be finite and >= 0", static_cast<double>(cap));
  }
  if (!is_denormal(cap)) return MHA_OK;
  return fail(error, MHA_ERR_ARGUMENT, "score_mods.softcap is %g: a denormal would count as 0, no cap",
              exact_value(cap));
}
void set(const AttentionProblem& p, ScoreMods* mods) {
  mods->cap = static_cast<float>(static_cast<double>(p.mods.softcap) * kToUnit);
  mods->cap_slope = caps_apart(p) ? slope(p.mods.softcap) : 0.0f;
}
}  // namespace softcap

namespace alibi {
using none::set;
mha_status check(const GivenMods& given, mha_error* error) {
  const float* slopes = given.m.alibi_slopes;
  for (int64_t h = 0; h < given.heads && slopes != nullptr && given.has_data; ++h) {
    if (std::isfinite(slopes[h])) continue;
    return fail(error, MHA_ERR_ARGUMENT, "score_mods.alibi_slopes[%lld] is %g: must be finite", ll{h},
                static_cast<double>(slopes[h]));
  }
  return MHA_OK;
}
void fill(const AttentionProblem& p, int64_t h, RowMods* row) {
  row->alibi_slope = static_cast<float>(static_cast<double>(p.mods.alibi_slopes[h]) * kToUnit);
}
}  // namespace alibi

namespace relative_bias {
mha_status check(const GivenMods& given, mha_error* error) {
  const mha_score_mods& m = given.m;
  if (m.relative_bias == nullptr) {
    if (m.relative_left == 0 && m.relative_right == 0) return MHA_OK;
    return fail(error, MHA_ERR_ARGUMENT,
                "score_mods.relative_left is %lld and relative_right %lld, but relative_bias is NULL",
                ll{m.relative_left}, ll{m.relative_right});
  }
  MHA_TRY(check_sizes(
      {{"score_mods.relative_left", m.relative_left, 0}, {"score_mods.relative_right", m.relative_right, 0}}, error));
  const Size entries = Size(given.heads) * (Size(m.relative_left) + Size(m.relative_right) + Size(1));
  if (entries.ok() && entries.value() <= kMaxBytes) return MHA_OK;
  return fail(
      error, MHA_ERR_OVERFLOW,
      "score_mods.relative_left %lld and relative_right %lld: relative_bias of %lld heads ends beyond 2^63 bytes",
      ll{m.relative_left}, ll{m.relative_right}, ll{given.heads});
}
void set(const AttentionProblem& p, ScoreMods* mods) {
  mods->relative_left = p.mods.relative_left, mods->relative_right = p.mods.relative_right;
}
void fill(const AttentionProblem& p, int64_t h, RowMods* row) {
  const int64_t width = p.mods.relative_left + p.mods.relative_right + 1;
  row->relative_bias = p.mods.relative_bias + h * width + p.mods.relative_left;
}
}  // namespace relative_bias

namespace sinks {
using none::check;
using none::set;
void fill(const AttentionProblem& p, int64_t h, RowMods* row) { row->sink = sink_of(p, h); }
}  // namespace sinks

// The power of two by which scores are multiplied instead of queries. A query times a scale near FLT_MAX would overflow
// even if keys are small; a scale near FLT_MIN divided by the unit would be denormal.
double rescale_of(const AttentionProblem& p) {
  if (!p.rescales_scores()) return 1;
  return p.scale > 1.0f || p.scale < -1.0f ? 0x1p64 : 1 / static_cast<double>(kScoreUnit);
}

}  // namespace

mha_status check_mods(const mha_score_mods& m, Check check, AttentionProblem* p, mha_error* error) {
  const GivenMods given = {m, p->heads, check != Check::kSizesOnly};
#define MHA_MOD(name, field, text, is_given) MHA_TRY(name::check(given, error));
#include "core/kernels/score_mods.def"
  p->mods = m;
  return MHA_OK;
}

const char* changing_mod(const mha_score_mods& m) {
  const char* last = nullptr;
#define MHA_SCORE_MOD(name, field, text, given, positions, changed) \
  if (given) last = "score_mods." #field;
#include "core/kernels/score_mods.def"
  return last;
}

bool mods_look_at_positions(const mha_score_mods& m) {
  bool look = false;
#define MHA_SCORE_MOD(name, field, text, given, positions, changed) look |= positions && (given);
#include "core/kernels/score_mods.def"
  return look;
}

float query_scale(const AttentionProblem& p) {
  const double scale = static_cast<double>(p.scale);
  if (p.mods.softcap > 0.0f && !caps_apart(p)) return static_cast<float>(scale / static_cast<double>(p.mods.softcap));
  return static_cast<float>(scale * kToUnit / rescale_of(p));
}

ScoreMods kernel_mods(const AttentionProblem& p) {
  const mha_score_mods& m = p.mods;
  ScoreMods mods = {};
  mods.rescale = m.softcap > 0.0f && !caps_apart(p) ? 1.0f : static_cast<float>(rescale_of(p));
#define MHA_MOD(name, field, text, given) \
  if (given) mods.name = true, name::set(p, &mods);
#include "core/kernels/score_mods.def"
  return mods;
}

void fill_row_mods(const AttentionProblem& p, int64_t h, RowMods* row) {
  const mha_score_mods& m = p.mods;
#define MHA_MOD(name, field, text, given) \
  if (given) name::fill(p, h, row);
#include "core/kernels/score_mods.def"
}

// As an additive mask of the same value comes out.
float sink_score(float logit) {
  if (is_huge(logit * kToScoreUnit)) return logit / kHugeUnit;
  return static_cast<float>(static_cast<double>(logit) * kToUnit);
}

float sink_of(const AttentionProblem& p, int64_t h) {
  return p.mods.sink_logits != nullptr ? sink_score(p.mods.sink_logits[h]) : 0.0f;
}

}  // namespace mha
