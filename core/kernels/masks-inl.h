// SPDX-License-Identifier: Apache-2.0
// Masks: what a row sees of a run of keys. Included by algorithms-inl.h, once per target.
//
// Most masks are ranges: a row sees the keys of [0, pinned_end) and [key_begin, key_end), and of a list of blocks where
// there is one. Scores outside are set to -inf, scores inside stay as they are. Masks of single keys (bool, bits,
// segments) become 16 bits for 16 keys.
namespace mha::MHA_TARGET_NS {
namespace {

constexpr float kLowest = -3.402823466e+38f;
constexpr float kInfinity = __builtin_inff();

inline int64_t pinned_end(const AttentionRow& row) { return row.extras != nullptr ? row.extras->pinned_end : 0; }

// The end of the keys that ranges and masks apply to; in a row with a tail a gap follows.
inline bool has_tail(const AttentionRow& row) { return row.tail_begin > 0; }
inline int64_t masked_end(const AttentionRow& row) { return has_tail(row) ? row.gap_begin : row.key_end; }

// --- Masks of single keys --------------------------------------------------------------------------------------------

// How far apart the entries of a row's masks are.
inline int64_t bool_step(const AttentionRow& row) { return row.extras != nullptr ? row.extras->bool_step : 1; }
inline int64_t add_step(const AttentionRow& row) { return row.extras != nullptr ? row.extras->add_step : 1; }
inline const char* add_mask2(const AttentionRow& row) {
  return row.extras != nullptr ? row.extras->add_mask2 : nullptr;
}

// An additive mask of a row: entries of a type, times a factor.
struct AddMask {
  const char* entries;  // null: none
  Element element;
  int64_t step;
  float factor;
};
inline AddMask first_add_mask(const AttentionRow& row) {
  if (row.extras == nullptr) return {row.add_mask, Element::kF32, 1, 1};
  return {row.add_mask, row.extras->add_element, row.extras->add_step, row.extras->add_factor};
}
inline AddMask second_add_mask(const AttentionRow& row) {
  if (row.extras == nullptr) return {nullptr, Element::kF32, 1, 1};
  return {row.extras->add_mask2, row.extras->add2_element, row.extras->add2_step, 1};
}

// Bit l set: entry key + l is not 0, l < count.
MHA_COLD uint32_t strided_bits(const uint8_t* mask, int64_t step, int64_t key, int count) {
  uint32_t bits = 0;
  for (int l = 0; l < count; ++l) bits |= (mask[(key + l) * step] != 0 ? 1u : 0u) << l;
  return bits;
}
inline uint32_t bool_bits(const uint8_t* mask, int64_t step, int64_t key, int count) {
  return step == 1 ? nonzero_bits(mask + key, count) : strided_bits(mask, step, key, count);
}

inline float mask_entry(const AddMask& mask, int64_t key) {
  float entry = 0;
  widen_row(mask.element, mask.entries + key * mask.step * bytes_of(mask.element), 1, &entry);
  return entry * mask.factor;
}

// Entries key + l, l < count; zeros beyond.
MHA_NOINLINE Vec mask_entries(const AddMask& mask, int64_t key, int count) {
  if (mask.step == 1) {
    const Vec entries = mask.element == Element::kF32
                            ? load_first(reinterpret_cast<const float*>(mask.entries) + key, count)
                            : load_elements(mask.element, mask.entries, key, count);
    return mul(entries, set1(mask.factor));
  }
  alignas(64) float buffer[kLanes] = {};
  for (int l = 0; l < count; ++l) buffer[l] = mask_entry(mask, key + l);
  return load(buffer);
}

inline bool has_key_bits(const AttentionRow& row) {
  return row.bool_mask != nullptr ||
         (row.extras != nullptr && (row.extras->bit_mask != nullptr || row.extras->key_segments != nullptr));
}

// Bit l set: these masks show key `key` + l to the row, l < count. `key` is a multiple of 16.
MHA_NOINLINE uint32_t key_bits(const AttentionRow& row, int64_t key, int count) {
  uint32_t bits = (1u << count) - 1;
  if (row.bool_mask != nullptr) bits &= bool_bits(row.bool_mask, bool_step(row), key, count);
  if (row.extras == nullptr) return bits;
  if (row.extras->bit_mask != nullptr) {
    const uint8_t* bytes = row.extras->bit_mask + key / 8;
    bits &= bytes[0] | (count > 8 ? static_cast<uint32_t>(bytes[1]) << 8 : 0);
  }
  if (row.extras->key_segments != nullptr) {
    bits &= equal_bits_first(row.extras->key_segments + key, row.extras->segment, count);
  }
  return bits;
}

// --- Lists of blocks -------------------------------------------------------------------------------------------------

inline bool has_blocks(const AttentionRow& row) { return row.extras != nullptr && row.extras->key_block > 0; }

// The number in the row's list of the first block that ends after `key`.
inline int64_t first_block(const RowExtras& extras, int64_t key) {
  const int64_t wanted = key / extras.key_block;
  int64_t low = 0, high = extras.num_blocks;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (extras.blocks[2 * middle + 1] < wanted) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

inline bool sees_block(const RowExtras& extras, int64_t begin, int64_t end) {
  const int64_t n = first_block(extras, begin);
  return n < extras.num_blocks && extras.blocks[2 * n + 1] <= (end - 1) / extras.key_block;
}

// --- What a row sees -------------------------------------------------------------------------------------------------

// How many of the entries key + l, l < count, are -inf.
inline int hidden_entries(const AddMask& mask, int64_t key, int count) {
  const Vec entries = mask_entries(mask, key, count);
  return static_cast<int>(sum(select_greater(set1(kLowest), entries, set1(1.0f), zero())));
}

// True if the mask hides all keys of [begin, end); if there is none, false.
MHA_NOINLINE bool hides_all(const AddMask& mask, int64_t begin, int64_t end) {
  if (mask.entries == nullptr) return false;
  for (int64_t j = begin; j < end; j += kLanes) {
    const int count = static_cast<int>(least(end - j, kLanes));
    if (hidden_entries(mask, j, count) < count) return false;
  }
  return true;
}

// True if the mask hides a key of [begin, end); if there is none, false.
MHA_NOINLINE bool hides_any(const AddMask& mask, int64_t begin, int64_t end) {
  if (mask.entries == nullptr) return false;
  for (int64_t j = begin; j < end; j += kLanes) {
    if (hidden_entries(mask, j, static_cast<int>(least(end - j, kLanes))) > 0) return true;
  }
  return false;
}

// False only where no key of [begin, end) is visible to the row; begin is a multiple of 16.
inline bool may_see(const AttentionRow& row, int64_t begin, int64_t end) {
  if (has_tail(row) && end > row.tail_begin && begin < row.key_end) return true;
  end = least(end, masked_end(row));
  const bool pinned = begin < pinned_end(row);
  if (begin >= end || (!pinned && end <= row.key_begin)) return false;
  if (has_blocks(row) && !sees_block(*row.extras, begin, end)) return false;
  if (hides_all(first_add_mask(row), begin, end) || hides_all(second_add_mask(row), begin, end)) return false;
  if (!has_key_bits(row)) return true;
  const int64_t from = pinned || row.key_begin <= begin ? begin : row.key_begin / kLanes * kLanes;
  for (int64_t j = from; j < end; j += kLanes) {
    if (key_bits(row, j, static_cast<int>(least(end - j, kLanes))) != 0) return true;
  }
  return false;
}

MHA_NOINLINE bool any_may_see(const AttentionRow* rows, int64_t num_rows, int64_t begin, int64_t end) {
  for (int64_t r = 0; r < num_rows; ++r) {
    if (may_see(rows[r], begin, end)) return true;
  }
  return false;
}

MHA_COLD bool is_visible(const AttentionRow& row, int64_t key) {
  if (has_tail(row) && key >= row.gap_begin) return key >= row.tail_begin && key < row.key_end;
  if (key >= row.key_end || (key < row.key_begin && key >= pinned_end(row))) return false;
  if (row.bool_mask != nullptr && row.bool_mask[key * bool_step(row)] == 0) return false;
  if (row.add_mask != nullptr && mask_entry(first_add_mask(row), key) == -kInfinity) return false;
  if (row.extras == nullptr) return true;
  const RowExtras& e = *row.extras;
  if (e.add_mask2 != nullptr && mask_entry(second_add_mask(row), key) == -kInfinity) return false;
  if (e.bit_mask != nullptr && (e.bit_mask[key / 8] >> (key % 8) & 1) == 0) return false;
  if (e.key_segments != nullptr && e.key_segments[key] != e.segment) return false;
  return e.key_block == 0 || sees_block(e, key, key + 1);
}

// False only where every key of [begin, end) is visible.
inline bool has_hidden_keys(const AttentionRow& row, int64_t begin, int64_t end) {
  return row.key_end < end || row.add_mask != nullptr || row.bool_mask != nullptr ||
         (row.key_begin > begin && pinned_end(row) < end) || (row.gap_begin < end && row.tail_begin > begin) ||
         (row.extras != nullptr && (row.extras->add_mask2 != nullptr || has_key_bits(row) || has_blocks(row)));
}

// The same, but masks of single keys are read: where the entries of [begin, end) hide nothing, they do not count.
inline bool hides_keys(const AttentionRow& row, int64_t begin, int64_t end) {
  if (row.key_end < end || (row.key_begin > begin && pinned_end(row) < end)) return true;
  if (row.gap_begin < end && row.tail_begin > begin) return true;
  end = least(end, masked_end(row));
  if (hides_any(first_add_mask(row), begin, end) || hides_any(second_add_mask(row), begin, end)) return true;
  if (has_blocks(row)) return true;
  for (int64_t j = begin; has_key_bits(row) && j < end; j += kLanes) {
    const int count = static_cast<int>(least(end - j, kLanes));
    if (key_bits(row, j, count) != (1u << count) - 1) return true;
  }
  return false;
}

// --- Scores of a chunk: scores[j] is that of key begin + j, begin a multiple of 16 -----------------------------------

// Sets scores[from, to) to -inf.
inline void hide(float* scores, int64_t from, int64_t to) {
  const Vec hidden = set1(-kInfinity);
  for (int64_t j = from / kLanes * kLanes; j < to; j += kLanes) {
    const uint32_t below = from > j ? (1u << (from - j)) - 1 : 0;
    const uint32_t beyond = to - j < kLanes ? 0xffffu << (to - j) & 0xffffu : 0;
    const uint32_t kept = below | beyond;
    store(scores + j, kept == 0 ? hidden : select_bits(kept, load(scores + j), hidden));
  }
}

// The same, clamped to the chunk's [0, keys).
inline void hide_within(float* scores, int64_t keys, int64_t from, int64_t to) {
  from = most(from, 0), to = least(to, keys);
  if (from < to) hide(scores, from, to);
}

// Which blocks of a row's list meet a chunk. Rows of a group mostly have the same list, so it is searched once for
// them.
struct ChunkBlocks {
  const int64_t* list = nullptr;
  int64_t listed = -1, from = 0, to = 0;  // numbers in the list: [from, to)

  void find(const RowExtras& extras, int64_t begin, int64_t keys) {
    if (list == extras.blocks && listed == extras.num_blocks) return;
    list = extras.blocks, listed = extras.num_blocks;
    const int64_t last = (begin + keys - 1) / extras.key_block;
    for (from = to = first_block(extras, begin); to < listed && list[2 * to + 1] <= last;) ++to;
  }
};

inline void hide_between_blocks(const RowExtras& extras, int64_t begin, int64_t keys, ChunkBlocks& blocks,
                                float* scores) {
  blocks.find(extras, begin, keys);
  int64_t shown = begin;  // up to here all is done
  for (int64_t n = blocks.from; n < blocks.to; ++n) {
    const int64_t block = blocks.list[2 * n + 1] * extras.key_block;
    hide_within(scores, keys, shown - begin, block - begin);
    shown = block + extras.key_block;
  }
  hide_within(scores, keys, shown - begin, keys);
}

// Entries of the mask from key `begin` on.
inline void add_mask_scores(const AddMask& mask, int64_t begin, int64_t keys, float* scores) {
  const Vec hidden = set1(-kInfinity);
  for (int64_t j = 0; j < keys; j += kLanes) {
    const Vec m = mask_entries(mask, begin + j, static_cast<int>(least(keys - j, kLanes)));
    const Vec s = add(load(scores + j), mul(m, set1(kToScoreUnit)));
    store(scores + j, select_greater(set1(kLowest), m, hidden, s));
  }
}

// Which keys of a chunk are of one segment. Rows of a group mostly are of the same, so the keys are compared once for
// them.
struct SegmentBits {
  const int32_t* keys = nullptr;  // of the chunk
  int32_t segment = 0;
  int64_t vectors = 0;  // known so far
  bool all = true;      // of those
  uint32_t bits[kChunk / kLanes];

  void find(const int32_t* of_keys, int32_t wanted, int64_t whole_vectors) {
    if (of_keys != keys || wanted != segment) keys = of_keys, segment = wanted, vectors = 0, all = true;
    for (; vectors < whole_vectors; ++vectors) {
      bits[vectors] = equal_bits_first(keys + vectors * kLanes, segment, kLanes);
      all &= bits[vectors] == 0xffffu;
    }
  }
};

// What rows of a group have in common of a chunk: made anew for each.
struct ChunkMasks {
  SegmentBits segments;
  ChunkBlocks blocks;
};

// Masks of single keys, one kind after the other, so that each is a short loop; where all 16 keys of a vector are
// visible nothing is done.
inline void hide_single_keys(const AttentionRow& row, int64_t begin, int64_t keys, SegmentBits& segments,
                             float* scores) {
  uint32_t bits[kChunk / kLanes];
  const int64_t whole = keys / kLanes, vectors = divide_up(keys, kLanes);
  const bool has_bits = row.extras != nullptr && row.extras->bit_mask != nullptr;
  const bool has_segments = row.extras != nullptr && row.extras->key_segments != nullptr;
  if (has_segments) segments.find(row.extras->key_segments + begin, row.extras->segment, whole);
  const bool all = row.bool_mask == nullptr && !has_bits && segments.all;
  for (int64_t v = 0; v < whole && !all; ++v) bits[v] = has_segments ? segments.bits[v] : 0xffffu;
  if (row.bool_mask != nullptr) {
    const int64_t step = bool_step(row);
    for (int64_t v = 0; v < whole; ++v) bits[v] &= bool_bits(row.bool_mask, step, begin + v * kLanes, kLanes);
  }
  if (has_bits) {
    const uint8_t* bytes = row.extras->bit_mask + begin / 8;
    for (int64_t v = 0; v < whole; ++v) bits[v] &= bytes[2 * v] | static_cast<uint32_t>(bytes[2 * v + 1]) << 8;
  }
  if (vectors > whole) {
    const int count = static_cast<int>(keys - whole * kLanes);
    bits[whole] = key_bits(row, begin + whole * kLanes, count);
    if (has_tail(row)) bits[whole] |= 0xffffu << count & 0xffffu;  // masks must not hide the tail
  }
  const Vec hidden = set1(-kInfinity);
  for (int64_t v = all ? whole : 0; v < vectors; ++v) {
    float* at = scores + v * kLanes;
    if (bits[v] != 0xffffu) store(at, select_bits(bits[v], load(at), hidden));
  }
}

// Sets scores[j] to -inf where key `begin` + j is not visible to the row, j in [0, keys rounded up to 16), and adds the
// additive mask elsewhere. A select, not an addition: what is masked may be NaN.
inline void mask_scores(const AttentionRow& row, int64_t begin, int64_t keys, ChunkMasks& common, float* scores) {
  const int64_t padded_keys = round_up(keys, kLanes);
  const int64_t seen = most(least(keys, masked_end(row) - begin), 0);
  if (row.add_mask != nullptr) add_mask_scores(first_add_mask(row), begin, seen, scores);
  if (add_mask2(row) != nullptr) add_mask_scores(second_add_mask(row), begin, seen, scores);
  if (has_key_bits(row)) hide_single_keys(row, begin, seen, common.segments, scores);
  hide_within(scores, padded_keys, pinned_end(row) - begin, row.key_begin - begin);
  hide_within(scores, padded_keys, row.key_end - begin, padded_keys);
  if (has_tail(row)) hide_within(scores, padded_keys, row.gap_begin - begin, row.tail_begin - begin);
  const int64_t blocked = has_tail(row) ? least(keys, row.tail_begin - begin) : keys;
  if (has_blocks(row) && blocked > 0) hide_between_blocks(*row.extras, begin, blocked, common.blocks, scores);
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
