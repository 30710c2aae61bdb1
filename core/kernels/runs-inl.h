// SPDX-License-Identifier: Apache-2.0
// Keys and values where they are stored: runs of tokens whose rows are one stride apart, in a tensor or in a cache's
// pages. Included by algorithms-inl.h, once per target.
namespace mha::MHA_TARGET_NS {
namespace {

constexpr int64_t kFloatBytes = sizeof(float);

// Where the rows of a page of a cache begin.
MHA_INLINE const char* cached_page(const TokenRows& t, int64_t page) {
  const int64_t index = page < t.pinned_pages ? page : t.pinned_pages + (page - t.pinned_pages) % t.ring_pages;
  return (t.pages[index] != nullptr ? t.pages[index] : t.spare) + t.offset;
}

// Where a token is: page and place in it.
struct PagePlace {
  int64_t page, slot;
};

MHA_INLINE PagePlace page_place(const TokenRows& t, int64_t token) {
  if (t.page_shift >= 0) return {token >> t.page_shift, token & (t.page_size - 1)};
  return {token / t.page_size, token % t.page_size};
}

struct TokenRun {
  const char* row;
  int64_t stride, count;
};

// The run that begins at `token`, at most `most` tokens of it.
MHA_INLINE TokenRun run_at(const TokenRows& t, int64_t head, int64_t token, int64_t most) {
  if (t.page_size == 0) return {t.base + head * t.stride_h + token * t.stride_t, t.stride_t, most};
  const auto [page, slot] = page_place(t, token);
  if (t.table != nullptr) {
    const char* row = t.base + t.table[page] * t.stride_page + head * t.stride_h + slot * t.stride_t;
    return {row, t.stride_t, least(t.page_size - slot, most)};
  }
  const int64_t left = t.page_size - slot;
  return {cached_page(t, page) + head * t.stride_h + slot * t.stride_t, t.stride_t, left < most ? left : most};
}

// Calls take(run, number of tokens before it) for the runs of tokens [begin, begin + count), in order.
template <class Take>
MHA_INLINE void for_each_run(const TokenRows& t, int64_t head, int64_t begin, int64_t count, Take take) {
  for (int64_t done = 0; done < count;) {
    const TokenRun run = run_at(t, head, begin + done, count - done);
    take(run, done);
    done += run.count;
  }
}

}  // namespace
}  // namespace mha::MHA_TARGET_NS
