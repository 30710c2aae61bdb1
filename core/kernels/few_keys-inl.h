// SPDX-License-Identifier: Apache-2.0
// Attention over few keys (up to 16) that every row sees, for many short rows, e.g. 64 items of 8 heads with one query
// each. Included by algorithms-inl.h, once per target. Same operations and same bits as the driver in step-inl.h, but the
// lanes of a vector are 16 rows instead of 16 keys: no lane is idle however few the keys are, and the work per row
// (softmax, combining, checks of masks) is done once for 16 rows.
namespace mha::MHA_TARGET_NS {
namespace {

// 16 rows; rows beyond `count` repeat the last one. query and key point to the caller's rows if these are floats; for
// other elements widen_group points them to widened copies.
struct FewKeysGroup {
  const float* query[kLanes];
  const float* key[kLanes];
  int64_t first, count;

  int64_t row(int64_t r) const { return first + least(r, count - 1); }
};

inline FewKeysGroup few_keys_group(const FewKeysArgs& a, int64_t first) {
  FewKeysGroup g;
  g.first = first, g.count = least(a.num_rows - first, kLanes);
  for (int64_t r = 0; r < kLanes; ++r) {
    const int64_t row = g.row(r);
    g.query[r] = reinterpret_cast<const float*>(a.query[row]), g.key[r] = reinterpret_cast<const float*>(a.key[row]);
  }
  return g;
}

// Widens 16 rows of another element type, read `offset` bytes on, to `block` [16][padded(width)]; points `rows` there.
MHA_COLD void widen_group(const FewKeysGroup& g, const char* const* elements, int64_t offset, int64_t width,
                          Element element, float* block, const float** rows) {
  for (int64_t r = 0; r < kLanes; ++r, block += padded(width)) {
    rows[r] = block;
    widen_row(element, elements[g.row(r)] + offset, width, block);
  }
}

// Calls take(d, element offset + d of each of the 16 rows) for d ascending.
template <class Take>
MHA_INLINE void for_columns(const float* const* rows, int64_t offset, int64_t width, Take take) {
  Vec columns[4];
  int64_t d = 0;
  for (; d + 4 <= width; d += 4) {
    transpose_16x4(rows, offset + d, columns);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) take(d + c, columns[c]);
  }
  if (d == width) return;
  if (width >= 4) {  // the last four columns, without those already taken
    transpose_16x4(rows, offset + width - 4, columns);
    if (d + 3 == width) take(d++, columns[1]);
    if (d + 2 == width) take(d++, columns[2]);
    take(d, columns[3]);
    return;
  }
  for (; d < width; ++d) {
    alignas(64) float column[kLanes];
    for (int r = 0; r < kLanes; ++r) column[r] = rows[r][offset + d];
    take(d, load(column));
  }
}

// dst[d][row] = query[row][d], scaled.
inline void transpose_queries(const float* const* rows, int64_t head_dim, float scale, float* dst) {
  const Vec factor = set1(scale);
  for_columns(rows, 0, head_dim,
              [&](int64_t d, const Vec& q) MHA_ALWAYS_INLINE { store(dst + d * kLanes, mul(q, factor)); });
}

// The scores of one key of each row, `offset` floats after its first key. Each lane is one chain over d.
inline Vec few_keys_scores(const float* const* keys, const float* queries, int64_t head_dim, int64_t offset) {
  Vec sum = zero();
  for_columns(keys, offset, head_dim,
              [&](int64_t d, const Vec& k) MHA_ALWAYS_INLINE { sum = fma(load(queries + d * kLanes), k, sum); });
  return sum;
}

// Converts rows with a huge maximum to the unit described at kHugeScore. No row here has a mask.
MHA_COLD void keep_huge_rows(float* scores, int64_t keys, float* most) {
  alignas(64) float factors[kLanes];
  for (int r = 0; r < kLanes; ++r) factors[r] = is_huge_max(most[r]) ? kToHugeUnit : 1.0f;
  const Vec factor = load(factors);
  for (int64_t j = 0; j < keys; ++j) store(scores + j * kLanes, mul(load(scores + j * kLanes), factor));
  store(most, mul(load(most), factor));
}

// Replaces scores [keys][16 rows] by exponentials and merges the states. Sums over keys follow the tree of `fold`; its
// missing keys would add 0, so they are left out.
inline void few_keys_softmax(float* scores, int64_t keys, RowFactors& f) {
  const Vec none = set1(-kInfinity);
  Vec most = none;
  for (int64_t j = 0; j < keys; ++j) most = max_or_second(load(scores + j * kLanes), most);
  store(f.chunk_max, most);
  bool huge = false;
  for (int r = 0; r < kLanes; ++r) huge |= is_huge_max(f.chunk_max[r]);
  if (huge) keep_huge_rows(scores, keys, f.chunk_max);
  most = load(f.chunk_max);
  const Vec base = select_greater(most, none, most, zero());
  alignas(64) float sums[kFewKeys * kLanes];
  for (int64_t j = 0; j < keys; ++j) {
    const Vec e = exp2_of_difference(load(scores + j * kLanes), base);
    store(scores + j * kLanes, e);
    store(sums + j * kLanes, e);
  }
  for (int64_t half = kFewKeys / 2, left = keys; half > 0; half /= 2) {
    for (int64_t j = 0; j + half < left; ++j) {
      store(sums + j * kLanes, add(load(sums + j * kLanes), load(sums + (j + half) * kLanes)));
    }
    left = least(left, half);
  }
  load_states(nullptr, kLanes, true, f);
  store(f.chunk_max, most);
  store(f.chunk_sum, load(sums));
  merge_states(f, kLanes);
}

// The output of one row: exponentials `weights` [keys], 16 apart, times values, combined like the only chunk of a call.
// value: rows of floats, `stride` floats apart.
MHA_INLINE void few_keys_values(const FewKeysArgs& a, const float* weights, const float* value, int64_t stride,
                                float take, float inverse, float* output) {
  const Vec taken = set1(take), factor = set1(inverse);
  for (int64_t column = 0; column < a.value_head_dim; column += kLanes) {
    const int count = static_cast<int>(least(a.value_head_dim - column, kLanes));
    Vec sum = zero();
    for (int64_t j = 0; j < a.keys; ++j) {
      const float* at = value + j * stride + column;
      sum = fma(set1(weights[j * kLanes]), count == kLanes ? load(at) : load_first(at, count), sum);
    }
    sum = add(mul(mul(sum, taken), factor), zero());
    if (count == kLanes) {
      store(output + column, sum);
    } else {
      store_first(output + column, sum, count);
    }
  }
}

// Outputs of the rows of a group, scores [keys][16 rows] being their exponentials.
inline void few_keys_float_outputs(const FewKeysArgs& a, const FewKeysGroup& g, const float* scores,
                                   const RowFactors& f) {
  const int64_t stride = a.value_stride / kFloatBytes;
  for (int64_t r = 0; r < g.count; ++r) {
    const float* value = reinterpret_cast<const float*>(a.value[g.first + r]);
    float* output = reinterpret_cast<float*>(a.output[g.first + r]);
    few_keys_values(a, scores + r, value, stride, f.take[r], f.inverse[r], output);
  }
}

// The same for values or outputs of other element types: `block` [17][padded(Dv)] holds widened values and the output.
MHA_COLD void few_keys_any_outputs(const FewKeysArgs& a, const FewKeysGroup& g, const float* scores,
                                   const RowFactors& f, float* block) {
  const int64_t pitch = padded(a.value_head_dim);
  float* output = block + kFewKeys * pitch;
  for (int64_t r = 0; r < g.count; ++r) {
    for (int64_t j = 0; j < a.keys; ++j) {
      const char* value = a.value[g.first + r] + j * a.value_stride;
      widen_row(a.value_element, value, a.value_head_dim, block + j * pitch);
    }
    few_keys_values(a, scores + r, block, pitch, f.take[r], f.inverse[r], output);
    round_row(a.output_element, output, a.value_head_dim, a.output[g.first + r]);
  }
}

// Stores a row's attention weights: exponentials [keys], 16 apart, times the row's factor, as keep_weights does.
inline void few_keys_weights(int64_t keys, const float* weights, float factor, bool nan, float* row) {
  for (int64_t j = 0; j < keys; ++j) row[j] = nan ? __builtin_nanf("") : weights[j * kLanes] * factor;
}

inline int64_t few_keys_scratch(int64_t head_dim, int64_t value_head_dim) {
  return padded(head_dim) * kLanes + (kFewKeys + 1) * padded(most(head_dim, value_head_dim));
}

inline void attention_few_keys(const FewKeysArgs* args) {
  const FewKeysArgs& a = *args;
  alignas(64) float scores[kFewKeys * kLanes];
  float* queries = a.scratch;                            // [head_dim][16]
  float* block = queries + padded(a.head_dim) * kLanes;  // [17][D or Dv rounded up to 16]
  const bool float_keys = a.key_element == Element::kF32;
  const bool floats = a.value_element == Element::kF32 && a.output_element == Element::kF32;
  RowFactors f;
  for (int64_t first = 0; first < a.num_rows; first += kLanes) {
    FewKeysGroup g = few_keys_group(a, first);
    if (a.query_element != Element::kF32) widen_group(g, a.query, 0, a.head_dim, a.query_element, block, g.query);
    transpose_queries(g.query, a.head_dim, a.query_scale, queries);
    for (int64_t j = 0; j < a.keys; ++j) {
      if (!float_keys) widen_group(g, a.key, j * a.key_stride, a.head_dim, a.key_element, block, g.key);
      const int64_t offset = float_keys ? j * a.key_stride / kFloatBytes : 0;
      store(scores + j * kLanes, few_keys_scores(g.key, queries, a.head_dim, offset));
    }
    few_keys_softmax(scores, a.keys, f);
    if (floats) {
      few_keys_float_outputs(a, g, scores, f);
    } else {
      few_keys_any_outputs(a, g, scores, f, block);
    }
    for (int64_t r = 0; r < g.count; ++r) {
      if (f.running_sum[r] != 0.0f) continue;
      memset(a.output[first + r], 0, static_cast<size_t>(a.value_head_dim * bytes_of(a.output_element)));
    }
    for (int64_t r = 0; r < g.count && a.weights != nullptr; ++r) {
      const bool nan = f.running_sum[r] != f.running_sum[r];
      few_keys_weights(a.keys, scores + r, f.take[r] * f.inverse[r], nan, a.weights[first + r]);
    }
    if (a.states != nullptr) store_states(f, g.count, a.states + first);
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
