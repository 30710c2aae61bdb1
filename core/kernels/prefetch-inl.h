// SPDX-License-Identifier: Apache-2.0
// Prefetching for the packed policy while it computes: rows that it, or the next call of this thread, reads or writes
// later. Included by algorithms-inl.h, once per target.
//
// Rows of one head are far apart ([T, H, D]), too far for the hardware prefetcher. The value tiles prefetch them line
// by line, one line with every four steps, spread over all of a block's work: issued at once they would fill the
// line-fill buffers.
namespace mha::MHA_TARGET_NS {
namespace {

constexpr int64_t kLine = 64;  // bytes that one prefetch fetches

struct PrefetchRows {
  const char* row;
  int64_t stride, lines, left;  // bytes; lines of a row; rows left

  // Takes whole rows of about `wanted` lines in all, at least one row. Returns the number of lines.
  int64_t take(int64_t wanted, const char** first) {
    const int64_t few = wanted / lines > 0 ? wanted / lines : 1;
    const int64_t rows = few < left ? few : left;
    *first = row;
    row += rows * stride, left -= rows;
    return rows * lines;
  }
};

// The streams of rows that a group of rows prefetches, one after the other.
struct PrefetchStreams {
  PrefetchRows next_queries;  // of the next group, or of the next call
  PrefetchRows next_weights;  // the next group's rows of attention weights, to be written
  PrefetchRows next_masks;    // the next group's rows of a mask
  PrefetchRows next_keys;     // of the next chunk, or of the next call
  PrefetchRows next_values;

  // The first stream that has rows left; null: none has.
  PrefetchRows* stream() {
    PrefetchRows* all[] = {&next_queries, &next_weights, &next_masks, &next_keys, &next_values};
    for (PrefetchRows* rows : all) {
      if (rows->left > 0) return rows;
    }
    return nullptr;
  }
};

// `count` rows of `width` elements, `stride` bytes apart.
inline PrefetchRows rows_ahead(const char* row, int64_t stride, int64_t width, Element element, int64_t count) {
  return {row, stride, divide_up(row_bytes(element, width), kLine), count};
}

// The queries of the group at `row`; after the last group, those of the next call's first group.
inline PrefetchRows queries_ahead(const AttentionArgs& a, int64_t row, int64_t group_rows, bool last_chunk) {
  const int64_t count = least(a.num_rows - row, group_rows);
  if (count <= 0 && last_chunk && a.next_keys > 0) {
    return rows_ahead(a.next_query, a.next_query_stride, a.head_dim, a.query_element, group_rows);
  }
  if (count < 2) return {};
  const char* first = a.rows[row].query;  // one stride for all: nearly all rows are of one head, others are missed
  return rows_ahead(first, a.rows[row + 1].query - first, a.head_dim, a.query_element, count);
}

// That group's rows of attention weights, for these keys.
inline PrefetchRows weights_ahead(const AttentionArgs& a, int64_t row, int64_t group_rows, int64_t begin,
                                  int64_t keys) {
  const int64_t count = least(a.num_rows - row, group_rows);
  if (count < 2 || keys == 0 || a.rows[row].weights == nullptr) return {};
  float* first = a.rows[row].weights;
  return rows_ahead(reinterpret_cast<const char*>(first + begin), (a.rows[row + 1].weights - first) * kFloatBytes, keys,
                    Element::kF32, count);
}

// That group's rows of a mask, for these keys. Bit masks are not prefetched: they are small and close together.
inline PrefetchRows masks_ahead(const AttentionArgs& a, int64_t row, int64_t group_rows, int64_t begin, int64_t keys) {
  const int64_t count = least(a.num_rows - row, group_rows);
  if (count < 2 || keys == 0) return {};
  const AttentionRow &first = a.rows[row], &second = a.rows[row + 1];
  if (first.bool_mask != nullptr && bool_step(first) == 1) {
    return {reinterpret_cast<const char*>(first.bool_mask + begin), second.bool_mask - first.bool_mask,
            divide_up(keys, kLine), count};
  }
  if (first.add_mask != nullptr && add_step(first) == 1) {
    const Element element = first_add_mask(first).element;
    return rows_ahead(first.add_mask + begin * bytes_of(element), second.add_mask - first.add_mask, keys, element,
                      count);
  }
  return {};
}

// The first run of tokens [begin, begin + count).
inline PrefetchRows tokens_ahead(const TokenRows& tokens, int64_t begin, int64_t count, int64_t width) {
  if (count <= 0) return {};
  const TokenRun run = run_at(tokens, 0, begin, count);
  return rows_ahead(run.row, run.stride, width, tokens.element, run.count);
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
