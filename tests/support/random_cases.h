// SPDX-License-Identifier: Apache-2.0
// Random problems for the property tests: lengths that favour edges, every combination of masks, any layout.
#ifndef MHA_TESTS_SUPPORT_RANDOM_CASES_H
#define MHA_TESTS_SUPPORT_RANDOM_CASES_H

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/layers.h"
#include "tests/support/seeds.h"

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

/// Masks and score modifications of one call, owned. Any combination; masks of single keys may be broadcast over items,
/// heads and queries.
class RandomMasks {
 public:
  /// Where keys are in a cache or packed, they have their lengths already.
  enum class Lengths { kAny, kKnown };

  RandomMasks(Random& random, int64_t B, int64_t H, int64_t Tq, int64_t Tk, Lengths lengths = Lengths::kAny) {
    masks_.causal = one_in(random, 3) ? 0 : 1;
    masks_.align = one_of(random, {MHA_ALIGN_DEFAULT, MHA_ALIGN_START, MHA_ALIGN_END, MHA_ALIGN_OFFSET});
    if (lengths == Lengths::kAny && B > 0 && one_in(random, 3)) {
      for (int64_t b = 0; b < B; ++b) lengths_.push_back(one_in(random, 4) ? Tk : random.below(Tk + 1));
      masks_.key_lengths = lengths_.data();
      if (masks_.align == MHA_ALIGN_DEFAULT) masks_.align = MHA_ALIGN_END;
    }
    if (masks_.align == MHA_ALIGN_OFFSET) {
      for (int64_t b = 0; b < B; ++b) offsets_.push_back(between(random, -Tq, Tk));
      masks_.offset = between(random, -Tq, Tk);
      if (B > 0 && one_in(random, 2)) masks_.offset = 0, masks_.offsets = offsets_.data();
    }
    if (one_in(random, 3)) {
      mha_bool_mask& m = masks_.bool_mask;
      bools_.resize(place(random, {B, H, Tq, Tk}, &m));
      const int64_t closed = between(random, 1, 7);  // of eight
      for (uint8_t& open : bools_) open = random.below(8) >= closed ? 1 : 0;
      m.data = bools_.data();
    }
    if (one_in(random, 3)) {
      draw_add_mask(random, {B, H, Tq, Tk}, &adds_, &masks_.add_mask);
      if (one_in(random, 3)) draw_add_mask(random, {B, H, Tq, Tk}, &more_adds_, &masks_.add_mask2);
      if (one_in(random, 3)) draw_factors(random, H);
    }
    if (one_in(random, 2)) draw_structured(random, {B, H, Tq, Tk});
    if (one_in(random, 2)) draw_mods(random, {B, H, Tq, Tk});
  }
  RandomMasks(const RandomMasks&) = delete;
  RandomMasks& operator=(const RandomMasks&) = delete;

  const Masks& get() const { return masks_; }
  const mha_score_mods& mods() const { return mods_; }
  std::string describe() const {
    std::ostringstream text;
    static const char* const kAligns[] = {"", " from the start", " to the end", " at an offset"};
    if (masks_.causal) text << " causal";
    text << kAligns[masks_.align];
    if (masks_.key_lengths) text << " lengths";
    if (masks_.bool_mask.data) text << " bool";
    if (masks_.add_mask.data) text << " add";
    if (masks_.add_mask2.data) text << " twice";
    if (masks_.add_mask_factors) text << " factors";
    if (masks_.window_left) text << " window left " << masks_.window_left;
    if (masks_.window_right) text << " window right " << masks_.window_right;
    if (masks_.sink_tokens) text << " sink tokens " << masks_.sink_tokens;
    if (masks_.prefix_lengths) text << " prefixes";
    if (masks_.key_segments) text << " segments";
    if (masks_.bit_mask.data) text << " bits";
    if (masks_.block_mask.pairs)
      text << " blocks " << masks_.block_mask.query_block << " x " << masks_.block_mask.key_block
           << (masks_.block_mask.pair_offsets ? " of their own" : "");
    const mha_score_mods& m = mods_;
#define MHA_MOD(name, field, description, given) \
  if (given) text << " " << description;
#include "core/kernels/score_mods.def"
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

  /// The same of a mask of single keys, whose keys may be any distance apart, or one.
  template <class Mask>
  static size_t place(Random& random, Sizes s, Mask* m) {
    const int64_t step = one_of<int64_t>(random, {0, 0, 1, 2, 3, MHA_BROADCAST});
    m->stride_k = step;
    s.Tk *= step == MHA_BROADCAST ? 1 : std::max<int64_t>(step, 1);
    return place(random, s, &m->stride_b, &m->stride_h, &m->stride_q);
  }
  static void draw_add_mask(Random& random, const Sizes& s, std::vector<float>* values, mha_add_mask* m) {
    values->resize(place(random, s, m));
    const int64_t closed = between(random, 0, 6);  // of eight
    for (float& add : *values) add = random.below(8) < closed ? -kInf : 3 * random.uniform();
    m->data = values->data();
  }

  void draw_factors(Random& random, int64_t heads) {
    for (int64_t h = 0; h < heads; ++h) factors_.push_back(std::exp2(4 * random.uniform()));
    masks_.add_mask_factors = factors_.data();
  }

  void draw_structured(Random& random, const Sizes& s) {
    if (one_in(random, 3)) masks_.window_left = random_length(random, s.Tk + 1);
    if (one_in(random, 3)) masks_.window_right = random_length(random, s.Tk + 1);
    if (one_in(random, 3)) masks_.sink_tokens = random.below(s.Tk + 2);
    if (one_in(random, 4)) {
      for (int64_t b = 0; b < s.B; ++b) prefixes_.push_back(random.below(s.Tk + 10));
      if (s.B > 0) masks_.prefix_lengths = prefixes_.data();
    }
    if (one_in(random, 4)) draw_segments(random, s);
    if (one_in(random, 4)) {
      mha_bit_mask& m = masks_.bit_mask;
      const Sizes bytes = {s.B, s.H, s.Tq, (s.Tk + 7) / 8};
      bits_.resize(place(random, bytes, &m.stride_b, &m.stride_h, &m.stride_q));
      const int64_t closed = random.below(3);  // of eight in the mean: 0, 4, 6
      for (uint8_t& byte : bits_) {
        byte = static_cast<uint8_t>(random.bits() | (closed == 0 ? 255 : 0));
        if (closed == 2) byte &= static_cast<uint8_t>(random.bits());
      }
      m.data = bits_.data();
    }
    if (one_in(random, 4)) draw_blocks(random, s);
  }
  /// Documents one after the other, now and then in any order.
  void draw_segments(Random& random, const Sizes& s) {
    const bool shuffled = one_in(random, 4);
    const int64_t count = between(random, 1, 5);
    const auto segment = [&](int64_t n, int64_t length) {
      return static_cast<int32_t>(shuffled ? random.below(count) : n * count / length);
    };
    for (int64_t b = 0; b < s.B; ++b) {
      for (int64_t i = 0; i < s.Tq; ++i) query_segments_.push_back(segment(i, s.Tq));
      for (int64_t j = 0; j < s.Tk; ++j) key_segments_.push_back(segment(j, s.Tk));
    }
    query_segments_.push_back(0), key_segments_.push_back(0);  // never empty
    masks_.query_segments = query_segments_.data();
    masks_.key_segments = key_segments_.data();
  }
  void draw_blocks(Random& random, const Sizes& s) {
    mha_block_mask& m = masks_.block_mask;
    m.query_block = one_of<int64_t>(random, {1, 7, 64, 1000});
    m.key_block = one_of<int64_t>(random, {5, 16, 64, 100, 256, 300});
    const bool own = s.B * s.H <= 8 && one_in(random, 3);  // a list for each item and head
    const int64_t lists = own ? s.B * s.H : 1;
    for (int64_t n = 0; n < lists; ++n) {
      pair_offsets_.push_back(static_cast<int64_t>(pairs_.size()) / 2);
      const int64_t open = between(random, 1, 7);  // of eight
      for (int64_t q = 0; q * m.query_block < s.Tq; ++q) {
        for (int64_t k = 0; k * m.key_block < s.Tk + 300; ++k) {
          if (random.below(8) < open) pairs_.insert(pairs_.end(), {q, k});
        }
      }
    }
    m.num_pairs = static_cast<int64_t>(pairs_.size()) / 2;
    pair_offsets_.push_back(m.num_pairs);
    pairs_.push_back(0);  // never empty
    m.pairs = pairs_.data();
    if (own) m.pair_offsets = pair_offsets_.data();
  }
  void draw_mods(Random& random, const Sizes& s) {
#define MHA_MOD(name, field, text, given) \
  if (one_in(random, 3)) draw_##name(random, s);
#include "core/kernels/score_mods.def"
  }
  void draw_softcap(Random& random, const Sizes&) { mods_.softcap = one_of(random, {0.5f, 5.0f, 30.0f}); }
  void draw_alibi(Random& random, const Sizes& s) {
    slopes_ = random_floats(s.H, random.bits() >> 8, 0.1f);
    mods_.alibi_slopes = slopes_.data();
  }
  void draw_relative_bias(Random& random, const Sizes& s) {
    mods_.relative_left = random.below(one_of<int64_t>(random, {1, 20, 300}));
    mods_.relative_right = random.below(one_of<int64_t>(random, {1, 20, 300}));
    biases_ = random_floats(s.H * (mods_.relative_left + mods_.relative_right + 1), random.bits() >> 8, 2.0f);
    mods_.relative_bias = biases_.data();
  }
  void draw_sinks(Random& random, const Sizes& s) {
    sinks_ = random_floats(s.H, random.bits() >> 8, 4.0f);
    mods_.sink_logits = sinks_.data();
  }

  Masks masks_;
  mha_score_mods mods_ = {};
  std::vector<int64_t> prefixes_, pairs_, pair_offsets_, offsets_;
  std::vector<int32_t> query_segments_, key_segments_;
  std::vector<uint8_t> bits_;
  std::vector<float> slopes_, biases_, sinks_;
  std::vector<int64_t> lengths_;
  std::vector<uint8_t> bools_;
  std::vector<float> adds_, more_adds_, factors_;
};

/// Items [b, b + B), heads [h, h + H), queries [q, q + count) of a call of of_heads heads, Tq queries and Tk keys.
struct MaskPart {
  int64_t b, B, h, H, q, count, of_heads, Tq, Tk;
};

/// The masks of a part of a call, whose queries stand at offsets of their own. What the result points to is valid until
/// the next call of this function.
inline Masks masks_from(Masks masks, const MaskPart& part) {
  static std::vector<int32_t> segments;
  static std::vector<int64_t> pairs, pair_offsets, offsets;
  const auto [b, B, h, H, q, count, of_heads, Tq, Tk] = part;
  offsets.clear();
  for (int64_t n = b; n < b + B; ++n) offsets.push_back(masks.first_position(n, Tq, Tk) + q);
  offsets.push_back(0);  // never empty
  masks.align = MHA_ALIGN_OFFSET, masks.offset = 0, masks.offsets = offsets.data();
  if (masks.prefix_lengths) masks.prefix_lengths += b;
  if (masks.key_lengths) masks.key_lengths += b;
  if (masks.key_segments) {
    segments.assign(1, 0);
    for (int64_t n = 0; n < B * count; ++n)
      segments.insert(segments.end() - 1, masks.query_segments[(b + n / count) * Tq + q + n % count]);
    masks.query_segments = segments.data();
    masks.key_segments += b * Tk;
  }
  if (masks.block_mask.pairs) {  // in blocks of one query, a list for each item and head
    mha_block_mask& m = masks.block_mask;
    pairs.clear(), pair_offsets.assign(1, 0);
    for (int64_t list = 0; list < B * H; ++list) {
      const int64_t of = (b + list / H) * of_heads + h + list % H;
      const int64_t begin = m.pair_offsets ? m.pair_offsets[of] : 0,
                    end = m.pair_offsets ? m.pair_offsets[of + 1] : m.num_pairs;
      for (int64_t i = q; i < q + count; ++i) {
        for (int64_t n = begin; n < end; ++n)
          if (m.pairs[2 * n] == i / m.query_block) pairs.insert(pairs.end(), {i - q, m.pairs[2 * n + 1]});
      }
      pair_offsets.push_back(static_cast<int64_t>(pairs.size()) / 2);
    }
    m.num_pairs = static_cast<int64_t>(pairs.size()) / 2;
    pairs.push_back(0);  // never empty
    m.query_block = 1, m.pairs = pairs.data(), m.pair_offsets = pair_offsets.data();
  }
  const auto entry = [b = b, h = h, q = q](const auto& m) { return b * m.stride_b + h * m.stride_h + q * m.stride_q; };
  if (masks.bit_mask.data) masks.bit_mask.data += entry(masks.bit_mask);
  if (masks.bool_mask.data) masks.bool_mask.data += entry(masks.bool_mask);
  for (mha_add_mask* m : {&masks.add_mask, &masks.add_mask2}) {
    if (m->data) m->data = static_cast<const float*>(m->data) + entry(*m);
  }
  if (masks.add_mask_factors) masks.add_mask_factors += h;
  return masks;
}

/// The modifications as heads from h on see them.
inline mha_score_mods mods_from(mha_score_mods m, int64_t h) {
#define MHA_HEAD_FLOATS(field, count) \
  if (m.field) m.field += h * (count);
#include "core/kernels/score_mods.def"
  return m;
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

/// Random problems in F32, and others in BF16.
struct ArithmeticSeed {
  mha_arithmetic arithmetic;
  uint64_t seed;
};
inline std::vector<ArithmeticSeed> seeds_of_both(uint64_t first, uint64_t in_f32, uint64_t in_bf16) {
  std::vector<ArithmeticSeed> all;
  for (const uint64_t seed : seeds(first, in_f32)) all.push_back({MHA_ARITHMETIC_F32, seed});
  if (targets_of(MHA_ARITHMETIC_BF16).empty()) return all;
  for (const uint64_t seed : seeds(first + in_f32, in_bf16)) all.push_back({MHA_ARITHMETIC_BF16, seed});
  return all;
}

/// A context of random thread count on a random target.
struct RandomContext {
  std::string target;
  int64_t threads;
  const mha_context* get() const { return shared_context(target, threads); }
  std::string describe() const { return target + ", " + std::to_string(threads) + " threads"; }
};
inline RandomContext random_context(Random& random, mha_arithmetic arithmetic = MHA_ARITHMETIC_F32) {
  const std::vector<std::string>& targets = targets_of(arithmetic);
  return {targets[static_cast<size_t>(random.below(static_cast<int64_t>(targets.size())))],
          one_of<int64_t>(random, {1, 2, 3, 5})};
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_RANDOM_CASES_H
