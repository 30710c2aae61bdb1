// SPDX-License-Identifier: Apache-2.0
// Random problems for the property tests: lengths that favour edges, every combination of masks, any layout.
#ifndef MHA_TESTS_SUPPORT_RANDOM_CASES_H
#define MHA_TESTS_SUPPORT_RANDOM_CASES_H

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "layers.h"

namespace mha::test {

inline bool one_in(Random& random, int64_t n) { return random.below(n) == 0; }
/// Uniform in [first, last].
inline int64_t between(Random& random, int64_t first, int64_t last) { return first + random.below(last - first + 1); }

template <class T>
T one_of(Random& random, std::initializer_list<T> choices) {
  return choices.begin()[random.below(static_cast<int64_t>(choices.size()))];
}

/// A length in [0, most]: none, one, a few, next to a multiple of 16 or of 256, or any.
inline int64_t random_length(Random& random, int64_t most) {
  const int64_t kind = random.below(16);
  if (kind == 0) return 0;
  if (kind <= 2) return 1;
  int64_t length = between(random, 1, most);
  if (kind <= 6) length = between(random, 2, 40);
  if (kind >= 11) length = 16 * between(random, 1, 8) + between(random, -1, 1);
  if (kind >= 13) length = 256 * between(random, 1, 5) + between(random, -1, 1);
  return std::min(length, most);
}

/// Masks of one call, owned. Any combination; boolean and additive ones may be broadcast over items, heads and queries.
class RandomMasks {
 public:
  RandomMasks(Random& random, int64_t B, int64_t H, int64_t Tq, int64_t Tk) {
    masks_.causal = one_of(random, {MHA_CAUSAL_NONE, MHA_CAUSAL_BOTTOM_RIGHT, MHA_CAUSAL_OFFSET});
    if (masks_.causal == MHA_CAUSAL_OFFSET) masks_.causal_offset = between(random, -Tq, Tk);
    if (one_in(random, 3)) {
      for (int64_t b = 0; b < B; ++b) lengths_.push_back(one_in(random, 4) ? Tk : random.below(Tk + 1));
      if (B > 0) masks_.key_lengths = lengths_.data();
    }
    if (one_in(random, 3)) {
      mha_bool_mask& m = masks_.bool_mask;
      bools_.resize(place(random, {B, H, Tq, Tk}, &m.stride_b, &m.stride_h, &m.stride_q));
      const int64_t closed = between(random, 1, 7);  // of eight
      for (uint8_t& open : bools_) open = random.below(8) >= closed ? 1 : 0;
      m.data = bools_.data();
    }
    if (one_in(random, 3)) {
      mha_add_mask& m = masks_.add_mask;
      adds_.resize(place(random, {B, H, Tq, Tk}, &m.stride_b, &m.stride_h, &m.stride_q));
      const int64_t closed = between(random, 0, 6);  // of eight
      for (float& add : adds_) add = random.below(8) < closed ? -kInf : 3 * random.uniform();
      m.data = adds_.data();
    }
  }
  RandomMasks(const RandomMasks&) = delete;
  RandomMasks& operator=(const RandomMasks&) = delete;

  const mha_masks& get() const { return masks_; }
  std::string describe() const {
    std::ostringstream text;
    if (masks_.causal == MHA_CAUSAL_BOTTOM_RIGHT) text << " causal";
    if (masks_.causal == MHA_CAUSAL_OFFSET) text << " causal offset " << masks_.causal_offset;
    if (masks_.key_lengths) text << " lengths";
    if (masks_.bool_mask.data) text << " bool";
    if (masks_.add_mask.data) text << " add";
    return text.str();
  }

 private:
  struct Sizes {
    int64_t B, H, Tq, Tk;
  };
  /// Chooses strides; returns how many elements they span, never 0.
  static size_t place(Random& random, const Sizes& s, int64_t* stride_b, int64_t* stride_h, int64_t* stride_q) {
    int64_t end = s.Tk + random.below(3);
    for (const auto& [stride, size] : {std::pair{stride_q, s.Tq}, {stride_h, s.H}, {stride_b, s.B}}) {
      if (one_in(random, 3)) continue;  // broadcast
      *stride = end;
      end *= std::max<int64_t>(size, 1);
    }
    return static_cast<size_t>(end + 1);
  }

  mha_masks masks_ = {};
  std::vector<int64_t> lengths_;
  std::vector<uint8_t> bools_;
  std::vector<float> adds_;
};

/// The masks as batch items from b on, heads from h on, queries from q on see them; Tq and Tk are those of the whole.
inline mha_masks masks_from(mha_masks masks, int64_t b, int64_t h, int64_t q, int64_t Tq, int64_t Tk) {
  if (masks.causal == MHA_CAUSAL_BOTTOM_RIGHT) masks.causal_offset = Tk - Tq;
  if (masks.causal != MHA_CAUSAL_NONE) {
    masks.causal = MHA_CAUSAL_OFFSET;
    masks.causal_offset += q;
  }
  if (masks.key_lengths) masks.key_lengths += b;
  mha_bool_mask& bm = masks.bool_mask;
  if (bm.data) bm.data += b * bm.stride_b + h * bm.stride_h + q * bm.stride_q;
  mha_add_mask& am = masks.add_mask;
  if (am.data) am.data += b * am.stride_b + h * am.stride_h + q * am.stride_q;
  return masks;
}

/// Strides of a layout with the three outer dimensions in any order and gaps after each.
inline Strides random_strides(Random& random, const Extent& e) {
  Strides s = {};
  std::vector<std::pair<int64_t*, int64_t>> outer = {{&s.b, e.b}, {&s.t, e.t}, {&s.h, e.h}};
  int64_t end = e.d + random.below(20);
  while (!outer.empty()) {
    const auto at = outer.begin() + random.below(static_cast<int64_t>(outer.size()));
    *at->first = end;
    end = end * std::max<int64_t>(at->second, 1) + random.below(5);
    outer.erase(at);
  }
  return s;
}

inline Placed random_placed(Random& random, const Extent& extent) {
  return Placed(extent, random_strides(random, extent), random.below(4));
}

/// One element becomes a NaN, an infinity, a denormal, or close to the largest float.
inline void spoil(Random& random, std::vector<float>* values) {
  if (values->empty()) return;
  const float special = one_of(random, {kNan, kInf, -kInf, 3e38f, -3e38f, 1e-40f, -0.0f});
  (*values)[static_cast<size_t>(random.below(static_cast<int64_t>(values->size())))] = special;
}

/// [0, length) cut at random places, sometimes at every place.
inline std::vector<std::pair<int64_t, int64_t>> random_pieces(Random& random, int64_t length) {
  const int64_t most = length <= 12 && one_in(random, 2) ? 1 : std::max<int64_t>(length, 1);
  std::vector<std::pair<int64_t, int64_t>> pieces;  // first and count
  for (int64_t first = 0; first < length;) {
    const int64_t left = length - first;
    int64_t count = std::min(left, between(random, 1, most));
    if (pieces.size() >= 4 && most > 1) count = left;
    pieces.emplace_back(first, count);
    first += count;
  }
  return pieces;
}

/// A context of random thread count on a random target.
struct RandomContext {
  std::string target;
  int64_t threads;
  const mha_context* get() const { return shared_context(target, threads); }
  std::string describe() const { return target + ", " + std::to_string(threads) + " threads"; }
};
inline RandomContext random_context(Random& random) {
  const std::vector<std::string>& targets = supported_targets();
  return {targets[static_cast<size_t>(random.below(static_cast<int64_t>(targets.size())))],
          one_of<int64_t>(random, {1, 2, 3, 5})};
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_RANDOM_CASES_H
