// SPDX-License-Identifier: Apache-2.0
// Checks of rotary positions and of the stage that norms and rotates.
#include "core/call/rope.h"

#include <cfloat>
#include <cmath>

#include "core/call/checks.h"
#include "core/call/items.h"
#include "core/math/denormal.h"
#include "core/math/elementary.h"

namespace mha {
namespace {

using ll = long long;

// 0 means the default. In a call a denormal compares equal to 0, too, but it must be refused.
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

// Refuses fields that neither the scaling nor the table uses: whoever forgets `scaling` must not get other angles.
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

mha_status check_given_positions(const mha_rope& rope, const char* name, const int64_t* positions, int64_t count,
                                 mha_error* error) {
  for (int64_t i = 0; i < count; ++i) MHA_TRY(check_position(rope, name, i, positions[i], error));
  return MHA_OK;
}

mha_status check_counted_positions(const mha_rope& rope, const char* name, int64_t first, int64_t count,
                                   mha_error* error) {
  MHA_TRY(check_position(rope, name, -1, first, error));
  return check_position(rope, "the last position", -1, first + (count - 1), error);
}

namespace {

mha_status check_query_positions(const AttentionProblem& p, mha_error* error) {
  const NormRope& r = p.norm_rope;
  if (r.positions != nullptr) {
    return check_given_positions(r.rope, "positions.query", r.positions, p.total_queries(), error);
  }
  for (int64_t b = 0; b < p.batch; ++b) {
    if (query_len_of(p, b) == 0) continue;
    MHA_TRY(check_counted_positions(r.rope, "position of the first query (p(0), since positions.query is NULL)",
                                    position_of(p, b, 0), query_len_of(p, b), error));
    if (p.uniform()) break;
  }
  return MHA_OK;
}

mha_status check_one_norm(const char* name, const mha_norm& norm, float* epsilon, const float** weight,
                          mha_error* error) {
  *epsilon = norm.epsilon, *weight = norm.weight;
  return check_norm(name, norm, error);
}

}  // namespace

mha_status check_norm_rope(const Groups& groups, Check check, AttentionProblem* p, mha_error* error) {
  const mha_positions& positions = given_or_default(groups.positions);
  NormRope& r = p->norm_rope;
  r.norm = groups.query_norm != nullptr || groups.key_norm != nullptr, r.rotate = groups.rope != nullptr;
  r.hadamard = key_codes_of(*p).hadamard;
  r.positions = positions.query;
  r.key_positions = groups.keys_are_queries ? positions.query : positions.key;
  if (groups.rope != nullptr) MHA_TRY(validate_rope(groups.rope, p->head_dim, &r.rope, error));
  if (groups.query_norm != nullptr) {
    MHA_TRY(check_one_norm("query_norm", *groups.query_norm, &r.query_epsilon, &r.query_weight, error));
  }
  if (groups.key_norm != nullptr) {
    MHA_TRY(check_one_norm("key_norm", *groups.key_norm, &r.key_epsilon, &r.key_weight, error));
  }
  if (check == Check::kSizesOnly || !r.rotate || p->nothing_to_do()) return MHA_OK;
  MHA_TRY(check_query_positions(*p, error));
  if (!groups.changes_keys || p->longest_key_len == 0) return MHA_OK;
  if (r.key_positions == nullptr) {
    return check_counted_positions(r.rope, "position of key 0", 0, p->longest_key_len, error);
  }
  if (groups.keys_are_queries) return MHA_OK;
  const int64_t keys = p->key_offsets != nullptr ? p->key_len : p->batch * p->key_len;
  return check_given_positions(r.rope, "positions.key", r.key_positions, keys, error);
}

}  // namespace mha
