// SPDX-License-Identifier: Apache-2.0
// Attention over few keys (up to 16) that every row sees, for many short rows: 64 items of 8 heads and one query each,
// say. Included by all-inl.h, once per target. Same operations and same bits as attention-inl.h, but with a lane for
// each of 16 rows where those have one for each of 16 keys: no lane is idle however few the keys, and what is done once
// a row (softmax, merging, the looks at masks) is done once for 16.
namespace mha::MHA_TARGET_NS {
namespace {

// 16 rows; those beyond `count` are the last one again.
struct FewKeysGroup {
  const char* query[kLanes];
  const char* key[kLanes];
  int64_t first, count;
};

inline FewKeysGroup few_keys_group(const FewKeysArgs& a, int64_t first) {
  FewKeysGroup g;
  g.first = first, g.count = least(a.num_rows - first, kLanes);
  for (int64_t r = 0; r < kLanes; ++r) {
    const int64_t row = first + least(r, g.count - 1);
    g.query[r] = a.query[row], g.key[r] = a.key[row];
  }
  return g;
}

// The 16 rows as floats, `offset` bytes further on: where they are, or widened to `block` [16][padded(width)].
MHA_INLINE void rows_of_floats(const char* const* rows, int64_t offset, int64_t width, Element element, float* block,
                               const float** floats) {
  for (int r = 0; r < kLanes; ++r) {
    if (element == Element::kF32) {
      floats[r] = reinterpret_cast<const float*>(rows[r] + offset);
      continue;
    }
    floats[r] = block + r * padded(width);
    widen_row(element, rows[r] + offset, width, block + r * padded(width));
  }
}

// Calls take(d, column d of the 16 rows) for d ascending.
template <class Take>
MHA_INLINE void for_columns(const float* const* rows, int64_t width, Take take) {
  Vec columns[4];
  int64_t d = 0;
  for (; d + 4 <= width; d += 4) {
    transpose_16x4(rows, d, columns);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) take(d + c, columns[c]);
  }
  if (d == width) return;
  if (width >= 4) {  // the last four, of which some have been taken
    transpose_16x4(rows, width - 4, columns);
    if (d + 3 == width) take(d++, columns[1]);
    if (d + 2 == width) take(d++, columns[2]);
    take(d, columns[3]);
    return;
  }
  for (; d < width; ++d) {
    alignas(64) float column[kLanes];
    for (int r = 0; r < kLanes; ++r) column[r] = rows[r][d];
    take(d, load(column));
  }
}

// dst[d][row] = query[row][d], scaled.
inline void transpose_queries(const FewKeysGroup& g, const FewKeysArgs& a, float* block, float* dst) {
  const float* rows[kLanes];
  rows_of_floats(g.query, 0, a.head_dim, a.query_element, block, rows);
  const Vec factor = set1(a.query_scale);
  for_columns(rows, a.head_dim,
              [&](int64_t d, const Vec& q) MHA_ALWAYS_INLINE { store(dst + d * kLanes, mul(q, factor)); });
}

// The scores of the keys `offset` bytes after the first: a chain over d in each lane.
inline Vec few_keys_scores(const FewKeysGroup& g, const FewKeysArgs& a, const float* queries, int64_t offset,
                           float* block) {
  const float* rows[kLanes];
  rows_of_floats(g.key, offset, a.head_dim, a.key_element, block, rows);
  Vec sum = zero();
  for_columns(rows, a.head_dim,
              [&](int64_t d, const Vec& k) MHA_ALWAYS_INLINE { sum = fma(load(queries + d * kLanes), k, sum); });
  return sum;
}

// Rows whose greatest score is huge keep their scores as kHugeScore says: no row here has a mask.
MHA_NOINLINE void keep_huge_rows(float* scores, int64_t keys, float* most) {
  alignas(64) float factors[kLanes];
  for (int r = 0; r < kLanes; ++r) factors[r] = is_huge_max(most[r]) ? kToHugeUnit : 1.0f;
  const Vec factor = load(factors);
  for (int64_t j = 0; j < keys; ++j) store(scores + j * kLanes, mul(load(scores + j * kLanes), factor));
  store(most, mul(load(most), factor));
}

// scores [keys][16 rows] become weights. Sums over keys by the tree of `fold`, of which what is missing adds 0.
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

// weights [keys], 16 apart, times values, combined as for the only chunk of a call.
template <class E>
MHA_INLINE void few_keys_values(const FewKeysArgs& a, const float* weights, const char* value, float take,
                                float inverse, float* output) {
  const Vec taken = set1(take), factor = set1(inverse);
  for (int64_t column = 0; column < a.value_head_dim; column += kLanes) {
    const int count = static_cast<int>(least(a.value_head_dim - column, kLanes));
    Vec sum = zero();
    for (int64_t j = 0; j < a.keys; ++j) {
      const char* at = value + j * a.value_stride + column * E::kBytes;
      sum = fma(set1(weights[j * kLanes]), count == kLanes ? E::load(at) : E::load_first(at, count), sum);
    }
    sum = add(mul(mul(sum, taken), factor), zero());
    if (count == kLanes) {
      store(output + column, sum);
    } else {
      store_first(output + column, sum, count);
    }
  }
}

// weights [keys], 16 apart, as keep_weights finishes them.
inline void few_keys_weights(int64_t keys, const float* weights, float factor, bool nan, float* row) {
  for (int64_t j = 0; j < keys; ++j) row[j] = nan ? __builtin_nanf("") : weights[j * kLanes] * factor;
}

inline void attention_few_keys(const FewKeysArgs* args) {
  const FewKeysArgs& a = *args;
  alignas(64) float scores[kFewKeys * kLanes];
  float* queries = a.scratch;                            // [head_dim][16]
  float* block = queries + padded(a.head_dim) * kLanes;  // [16][D or Dv rounded up to 16]
  RowFactors f;
  for (int64_t first = 0; first < a.num_rows; first += kLanes) {
    const FewKeysGroup g = few_keys_group(a, first);
    transpose_queries(g, a, block, queries);
    for (int64_t j = 0; j < a.keys; ++j) {
      store(scores + j * kLanes, few_keys_scores(g, a, queries, j * a.key_stride, block));
    }
    few_keys_softmax(scores, a.keys, f);
    const bool rounds = a.output_element != Element::kF32;
    with_element(a.value_element, [&](auto e) MHA_ALWAYS_INLINE {
      for (int64_t r = 0; r < g.count; ++r) {
        char* output = a.output[first + r];
        float* sums = rounds ? block : reinterpret_cast<float*>(output);
        few_keys_values<decltype(e)>(a, scores + r, a.value[first + r], f.take[r], f.inverse[r], sums);
        if (rounds) round_row(a.output_element, sums, a.value_head_dim, output);
      }
    });
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
