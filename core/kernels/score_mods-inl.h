// SPDX-License-Identifier: Apache-2.0
// Score modifications: what kernels take of each, and how it changes scores between the product and the softmax. The
// file has two parts, so that a modification is in one place: the arguments, which kernel_table.h includes, and the
// functions, which algorithms-inl.h includes once per target (MHA_KERNELS is defined there).
#ifndef MHA_CORE_KERNELS_SCORE_MODS_ARGS
#define MHA_CORE_KERNELS_SCORE_MODS_ARGS

#include <cstdint>

namespace mha {

// Of a call.
struct ScoreMods {
  // Whether the call has it, for each of the list: softcap, alibi, ...
#define MHA_MOD(name, field, text, given) bool name;
#include "core/kernels/score_mods.def"

  float rescale;    // first, score *= rescale: a power of two that the queries' scale leaves out; 1: none
  float cap;        // in the unit of scores: score = cap * tanh(product), where the queries' scale is divided by it;
  float cap_slope;  // not 0: it is not, and score = cap * tanh(score * cap_slope)
  int64_t relative_left, relative_right;  // the distances that relative_bias has: [-relative_left, relative_right]
};

// Of a query row.
struct RowMods {
  int64_t position;            // of the query, in keys: what distances count from
  const float* relative_bias;  // the bias of distance 0; null: none
  float alibi_slope;           // in the unit of scores
  float sink;                  // the logit of the sink, as greatest scores are kept
};

}  // namespace mha

#endif  // MHA_CORE_KERNELS_SCORE_MODS_ARGS

#ifdef MHA_KERNELS
namespace mha::MHA_TARGET_NS {
namespace {

// Not a member of ScoreMods: an inline function outside the target's namespace would be one symbol for all targets.
inline bool changes_scores(const ScoreMods& mods) {
  return mods.rescale != 1.0f
#define MHA_SCORE_MOD(name, field, text, given, positions, changed) || mods.name
#include "core/kernels/score_mods.def"
      ;
}

// Scores [from, end) of a chunk, `from` a multiple of 16; `distance` is that of score 0.
struct ScoreRange {
  int64_t from, end, distance;
};

// scores[j] = change(scores[j], distance of j), 16 at a time. Each modification has a loop of its own: one loop for all
// would test for every vector which of them apply.
template <class Change>
MHA_INLINE void change_scores(const ScoreRange& range, float* scores, Change change) {
  for (int64_t j = range.from; j < range.end; j += kLanes) {
    store(scores + j, change(load(scores + j), range.distance + j));
  }
}

// A scale of extreme size leaves a power of two out of the queries (core/README.md, 2).
inline void rescale_scores(float factor, const ScoreRange& range, float* scores) {
  const Vec rescale = set1(factor);
  change_scores(range, scores, [&](Vec s, int64_t) MHA_ALWAYS_INLINE { return mul(rescale, s); });
}

// The product is the score (core/README.md, 6). A score that is small beside the cap stays as it is, since tanh x is x
// there and s / cap may be denormal.
template <class Rounding>
MHA_COLD void apply_extreme_softcap(const ScoreMods& mods, const ScoreRange& range, float* scores) {
  const Vec cap = set1(mods.cap), slope = set1(mods.cap_slope), linear = set1(0x1p-12f);
  change_scores(range, scores, [&](Vec s, int64_t) MHA_ALWAYS_INLINE {
    const Vec x = mul(s, slope);
    return select_greater(absolute(x), linear, mul(cap, tanh<Rounding>(x)), s);
  });
}

template <class Rounding>
inline void apply_softcap(const ScoreMods& mods, const RowMods&, const ScoreRange& range, float* scores) {
  if (mods.cap_slope != 0.0f) return apply_extreme_softcap<Rounding>(mods, range, scores);
  const Vec cap = set1(mods.cap);
  change_scores(range, scores, [&](Vec s, int64_t) MHA_ALWAYS_INLINE { return mul(cap, tanh<Rounding>(s)); });
}

// Distances count on by 16, which is less work than computing each from its key.
template <class Rounding>
inline void apply_alibi(const ScoreMods&, const RowMods& row, const ScoreRange& range, float* scores) {
  const Vec slope = set1(-row.alibi_slope), step = set1(kLanes);
  Vec at = add(set1(static_cast<float>(range.distance + range.from)), lane_numbers());
  for (int64_t j = range.from; j < range.end; j += kLanes, at = add(at, step)) {
    store(scores + j, Rounding::multiply_add(slope, absolute(at), load(scores + j)));
  }
}

// 16 biases, some of them beyond the table.
MHA_COLD Vec edge_biases(const float* bias, int64_t distance, const ScoreMods& mods) {
  alignas(64) float buffer[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    buffer[i] = bias[least(most(distance + i, -mods.relative_left), mods.relative_right)];
  }
  return load(buffer);
}

// 16 biases from distance `distance` on.
MHA_INLINE Vec load_biases(const float* bias, int64_t distance, const ScoreMods& mods) {
  if (distance >= -mods.relative_left && distance <= mods.relative_right - (kLanes - 1)) return load(bias + distance);
  if (distance > mods.relative_right) return set1(bias[mods.relative_right]);
  if (distance < -mods.relative_left - (kLanes - 1)) return set1(bias[-mods.relative_left]);
  return edge_biases(bias, distance, mods);
}

template <class Rounding>
inline void apply_relative_bias(const ScoreMods& mods, const RowMods& row, const ScoreRange& range, float* scores) {
  const float* bias = row.relative_bias;
  const Vec scale = set1(kToScoreUnit), farthest = set1(bias[-mods.relative_left]);
  // Up to here all 16 keys of a vector are farther away than the table reaches.
  const int64_t beyond = most(-mods.relative_left - (kLanes - 1) - range.distance - range.from, 0);
  const int64_t far_end = least(range.end, divide_up(beyond, kLanes) * kLanes + range.from);
  change_scores({range.from, far_end, range.distance}, scores,
                [&](Vec s, int64_t) MHA_ALWAYS_INLINE { return Rounding::multiply_add(farthest, scale, s); });
  change_scores({most(range.from, far_end), range.end, range.distance}, scores,
                [&](Vec s, int64_t at)
                    MHA_ALWAYS_INLINE { return Rounding::multiply_add(load_biases(bias, at, mods), scale, s); });
}

// All modifications of the keys in the row's range, in the order of the list. Scores outside are hidden afterwards.
template <class Rounding>
inline void modify_scores(const AttentionRow& row, const ScoreMods& mods, int64_t begin, int64_t keys, float* scores) {
  const RowMods& own = row.extras->mods;
  const int64_t seen = row.key_begin - begin;
  ScoreRange range = {};
  range.from = begin < pinned_end(row) ? 0 : most(seen, 0) / kLanes * kLanes;
  range.end = least(keys, row.key_end - begin), range.distance = begin - own.position;
  if (mods.rescale != 1.0f) rescale_scores(mods.rescale, range, scores);
#define MHA_SCORE_MOD(name, field, text, given, positions, changed) \
  if (mods.name) apply_##name<Rounding>(mods, own, range, scores);
#include "core/kernels/score_mods.def"
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
#endif  // MHA_KERNELS
