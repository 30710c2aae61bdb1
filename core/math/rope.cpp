// SPDX-License-Identifier: Apache-2.0
// Rotary positions. Frequencies as Hugging Face's modeling_rope_utils computes them, but in double.
#include "core/math/rope.h"

#include <cfloat>
#include <cmath>

#include "core/call/checks.h"
#include "core/math/denormal.h"
#include "core/math/elementary.h"

namespace mha {
namespace {

using ll = long long;

constexpr double kTwoPi = 6.28318530717958647693;

// In a call a denormal compares equal to 0, which means the default: it is left to be refused.
bool is_not_given(double value) { return value == 0 && !is_denormal(value); }

bool is_finite_from(double value, double least) { return std::isfinite(value) && value >= least; }

mha_status check_llama3(const mha_rope& r, mha_error* error) {
  if (!is_finite_from(r.low_freq_factor, DBL_MIN)) {
    return fail(error, MHA_ERR_ARGUMENT, "rope.low_freq_factor is %g: must be > 0 and finite", r.low_freq_factor);
  }
  if (!is_finite_from(r.high_freq_factor, DBL_MIN) || r.high_freq_factor <= r.low_freq_factor) {
    return fail(error, MHA_ERR_ARGUMENT, "rope.high_freq_factor is %g: must be finite and > low_freq_factor (%g)",
                r.high_freq_factor, r.low_freq_factor);
  }
  return MHA_OK;
}

mha_status check_yarn(const mha_rope& r, mha_error* error) {
  if (!is_finite_from(r.beta_slow, DBL_MIN)) {
    return fail(error, MHA_ERR_ARGUMENT, "rope.beta_slow is %g: must be > 0 and finite", r.beta_slow);
  }
  if (!is_finite_from(r.beta_fast, DBL_MIN) || r.beta_fast < r.beta_slow) {
    return fail(error, MHA_ERR_ARGUMENT, "rope.beta_fast is %g: must be finite and >= beta_slow (%g)", r.beta_fast,
                r.beta_slow);
  }
  if (!is_finite_from(r.attention_factor, DBL_MIN)) {
    return fail(error, MHA_ERR_ARGUMENT, "rope.attention_factor is %g: must be > 0 and finite", r.attention_factor);
  }
  return MHA_OK;
}

mha_status check_scaling(int scaling, mha_rope* r, mha_error* error) {
  if (scaling < MHA_ROPE_SCALING_NONE || scaling > MHA_ROPE_SCALING_YARN) {
    return fail(error, MHA_ERR_ARGUMENT, "rope.scaling is %d: not a value of mha_rope_scaling", scaling);
  }
  if (is_not_given(r->base)) r->base = 10000;
  if (!std::isfinite(r->base) || r->base <= 1) {
    return fail(error, MHA_ERR_ARGUMENT, "rope.base is %g: must be > 1 and finite", r->base);
  }
  if (scaling == MHA_ROPE_SCALING_NONE) return MHA_OK;
  if (!is_finite_from(r->factor, 1)) {
    return fail(error, MHA_ERR_ARGUMENT, "rope.factor is %g: must be >= 1 and finite", r->factor);
  }
  if (scaling == MHA_ROPE_SCALING_LINEAR) return MHA_OK;
  if (r->original_positions < 1 || r->original_positions > kMaxPosition) {
    return fail(error, MHA_ERR_ARGUMENT, "rope.original_positions is %lld: must be 1 to %lld",
                ll{r->original_positions}, ll{kMaxPosition});
  }
  if (scaling == MHA_ROPE_SCALING_LLAMA3) {
    if (is_not_given(r->low_freq_factor)) r->low_freq_factor = 1;
    if (is_not_given(r->high_freq_factor)) r->high_freq_factor = 4;
    return check_llama3(*r, error);
  }
  if (is_not_given(r->beta_fast)) r->beta_fast = 32;
  if (is_not_given(r->beta_slow)) r->beta_slow = 1;
  if (is_not_given(r->attention_factor)) r->attention_factor = 0.1 * elementary::log(r->factor) + 1;
  return check_yarn(*r, error);
}

mha_status check_table(const mha_rope& r, int scaling, mha_error* error) {
  if (r.cos == nullptr || r.sin == nullptr) {
    return fail(error, MHA_ERR_SHAPE, "rope.%s is given and rope.%s is NULL: both or none",
                r.cos != nullptr ? "cos" : "sin", r.cos != nullptr ? "sin" : "cos");
  }
  if (!is_not_given(r.base) || scaling != MHA_ROPE_SCALING_NONE) {
    return fail(error, MHA_ERR_SHAPE, "rope.base is %g and rope.scaling %d beside rope.cos and rope.sin: must be 0",
                r.base, scaling);
  }
  if (r.table_positions < 1 || !(Size(r.table_positions) * Size(r.dims) * Size(sizeof(float))).ok()) {
    return fail(error, r.table_positions < 1 ? MHA_ERR_ARGUMENT : MHA_ERR_OVERFLOW,
                "rope.table_positions is %lld: must be >= 1, and the table below 2^63 bytes", ll{r.table_positions});
  }
  return MHA_OK;
}

// The pair that turns `rotations` times over the length trained on.
double yarn_pair(const mha_rope& r, double rotations) {
  const double dims = static_cast<double>(r.dims), length = static_cast<double>(r.original_positions);
  return dims * (elementary::log(length) - elementary::log(rotations * kTwoPi)) / (2 * elementary::log(r.base));
}

// Pairs below `low` stay, those from `high` on are stretched, in between a ramp.
struct Ramp {
  double low, high;
};
Ramp yarn_ramp(const mha_rope& r) {
  Ramp ramp = {std::floor(yarn_pair(r, r.beta_fast)), std::ceil(yarn_pair(r, r.beta_slow))};
  const double last = static_cast<double>(r.dims - 1);
  if (ramp.low < 0) ramp.low = 0;
  if (ramp.high > last) ramp.high = last;
  if (ramp.low == ramp.high) ramp.high += 0.001;
  return ramp;
}

FrequencyArgs frequency_args(const mha_rope& r, double* frequencies) {
  FrequencyArgs args = {};
  args.dims = r.dims, args.log_base = elementary::log(r.base);
  args.factor = r.factor, args.frequencies = frequencies;
  if (r.scaling == MHA_ROPE_SCALING_LINEAR) args.scaling = FrequencyScaling::kAll;
  if (r.scaling == MHA_ROPE_SCALING_LLAMA3) {
    args.scaling = FrequencyScaling::kWavelengths;
    args.length = static_cast<double>(r.original_positions);
    args.low = r.low_freq_factor, args.high = r.high_freq_factor;
  }
  if (r.scaling == MHA_ROPE_SCALING_YARN) {
    const Ramp ramp = yarn_ramp(r);
    args.scaling = FrequencyScaling::kRamp;
    args.low = ramp.low, args.high = ramp.high;
  }
  return args;
}

/// Refuses what neither the scaling nor the table would use: forgotten `scaling` must not rotate by other angles.
mha_status check_unused(const mha_rope& r, int scaling, bool table, mha_error* error) {
  const bool scaled = scaling != MHA_ROPE_SCALING_NONE;
  const bool llama3 = scaling == MHA_ROPE_SCALING_LLAMA3, yarn = scaling == MHA_ROPE_SCALING_YARN;
  const struct {
    const char* name;
    double value;
    bool used;
  } fields[] = {{"factor", r.factor, scaled},
                {"original_positions", static_cast<double>(r.original_positions), llama3 || yarn},
                {"low_freq_factor", r.low_freq_factor, llama3},
                {"high_freq_factor", r.high_freq_factor, llama3},
                {"beta_fast", r.beta_fast, yarn},
                {"beta_slow", r.beta_slow, yarn},
                {"attention_factor", r.attention_factor, yarn},
                {"table_positions", static_cast<double>(r.table_positions), table}};
  for (const auto& field : fields) {
    if (field.used || is_not_given(field.value)) continue;
    return fail(error, MHA_ERR_ARGUMENT, "rope.%s is given, but %s does not use it", field.name,
                table    ? "a table"
                : scaled ? "this rope.scaling"
                         : "rope without scaling or a table");
  }
  return MHA_OK;
}

}  // namespace

mha_status validate_rope(const mha_rope* rope, int64_t head_dim, mha_rope* resolved, mha_error* error) {
  *resolved = {};
  if (rope == nullptr) return MHA_OK;
  MHA_TRY(check_reserved("rope", rope->reserved, error));
  mha_rope r = *rope;
  const int style = enum_value(rope->style), scaling = enum_value(rope->scaling);
  if (style != MHA_ROPE_HALF && style != MHA_ROPE_INTERLEAVED) {
    return fail(error, MHA_ERR_ARGUMENT, "rope.style is %d: not a value of mha_rope_style", style);
  }
  if (r.dims == 0) r.dims = head_dim;
  if (r.dims < 0 || r.dims > head_dim || r.dims % 2 != 0) {
    return fail(error, MHA_ERR_ARGUMENT, "rope.dims is %lld: must be even and at most head_dim (%lld)", ll{r.dims},
                ll{head_dim});
  }
  if (r.dims > kMaxRopeDims) {
    return fail(error, MHA_ERR_UNSUPPORTED, "rope.dims is %lld: at most %lld", ll{r.dims}, ll{kMaxRopeDims});
  }
  const bool table = r.cos != nullptr || r.sin != nullptr;
  MHA_TRY(table ? check_table(r, scaling, error) : check_scaling(scaling, &r, error));
  MHA_TRY(check_unused(*rope, scaling, table, error));
  *resolved = r;
  return MHA_OK;
}

mha_status check_position(const mha_rope& rope, const char* name, int64_t index, int64_t position, mha_error* error) {
  const int64_t last =
      rope.cos != nullptr && rope.table_positions <= kMaxPosition ? rope.table_positions - 1 : kMaxPosition;
  if (position >= 0 && position <= last) return MHA_OK;
  const char* why = rope.cos != nullptr ? "the last of rope's table" : "2^31 - 1";
  if (index < 0) {
    return fail(error, MHA_ERR_ARGUMENT, "%s is %lld: must be 0 to %lld (%s)", name, ll{position}, ll{last}, why);
  }
  return fail(error, MHA_ERR_ARGUMENT, "%s[%lld] is %lld: must be 0 to %lld (%s)", name, ll{index}, ll{position},
              ll{last}, why);
}

RopeAngles::RopeAngles(const KernelTable& table, const mha_rope& rope) : table_(table), rope_(rope) {
  if (rope.dims == 0 || rope.cos != nullptr) return;
  const FrequencyArgs args = frequency_args(rope, frequencies_);
  table.rope_frequencies(&args);
}

void RopeAngles::turn_to(int64_t position) {
  const bool interleaved = rope_.style == MHA_ROPE_INTERLEAVED;
  const int64_t pairs = rope_.dims / 2;
  if (rope_.cos == nullptr) {
    const double amplitude = rope_.scaling == MHA_ROPE_SCALING_YARN ? rope_.attention_factor : 1;
    const AngleArgs args = {frequencies_, pairs, static_cast<double>(position), amplitude, interleaved, cos_, sin_};
    return table_.rope_angles(&args);
  }
  const float *cos = rope_.cos + position * pairs, *sin = rope_.sin + position * pairs;
  for (int64_t d = 0; d < pairs; ++d) {
    if (interleaved) {
      cos_[2 * d] = cos_[2 * d + 1] = cos[d];
      sin_[2 * d] = -sin[d], sin_[2 * d + 1] = sin[d];
    } else {
      cos_[d] = cos[d], sin_[d] = sin[d];
    }
  }
}

}  // namespace mha
