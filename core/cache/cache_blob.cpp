// SPDX-License-Identifier: Apache-2.0
// Caches: sequences copied out, saved and loaded. A saved sequence is a header of 192 bytes, then the tokens that the
// cache keeps, as export lays them out: keys [n, Hkv, D], values [n, Hkv, Dv]. Codes are followed by their scales
// [n, Hkv, groups], by their zeros, and by zeros up to a multiple of 8 bytes. It does not depend on the layout of pages,
// so any kind of cache can load it.
#include <cstdio>
#include <cstring>
#include <initializer_list>

#include "core/base/fields.h"
#include "core/cache/blob.h"
#include "core/cache/cache.h"
#include "core/math/checksum.h"

namespace mha {
namespace {

using ll = long long;
using ull = unsigned long long;

struct BlobHeader {
  BlobHead head;
  int64_t length;      // tokens so far, dropped ones too
  int64_t leading;     // tokens [0, leading) and [first_kept, length) are kept
  int64_t first_kept;  // 0: nothing was dropped, leading is 0 too
  int64_t num_kv_heads, head_dim, value_head_dim;
  BlobStorage key, value;
  uint64_t value_in_key;
  uint64_t payload;                    // checksum of all after the header
  uint64_t fixed_scales[kCacheParts];  // checksums of scales and zeros that are fixed, which are not saved; else 0
  uint64_t reserved[6];
  uint64_t checksum;  // of all before
};
static_assert(sizeof(BlobHeader) == 192, "the blob's header is part of its format");

constexpr BlobFormat kFormat = {{'m', 'h', 'a', 'c', 'a', 'c', 'h', 'e'}, "a saved sequence", 2, sizeof(BlobHeader)};

int64_t tokens_in(const BlobHeader& h) { return h.leading + (h.length - h.first_kept); }

// The bytes of one part. The header's sizes must be valid.
Size part_bytes(const mha_cache& cache, const BlobHeader& h, CachePart part) {
  const PartLayout& p = cache.parts[part];
  const Size rows = Size(tokens_in(h)) * Size(h.num_kv_heads);
  const Size bytes = rows * (Size(p.row_bytes) + Size(p.scale_bytes) + Size(p.zero_bytes));
  if (!is_code(p.element) || !(bytes + Size(8)).ok()) return bytes;
  return Size(round_up(bytes.value(), 8));
}

Size blob_bytes(const mha_cache& cache, const BlobHeader& h) {
  return part_bytes(cache, h, kKeys) + part_bytes(cache, h, kValues) + Size(sizeof(BlobHeader));
}

BlobStorage storage_of(const PartLayout& p) {
  BlobStorage s = {};
  s.dtype = static_cast<uint32_t>(p.element);
  if (!is_code(p.element)) return s;
  const CodeRows& c = p.codes;
  s.scale_dtype = static_cast<uint32_t>(c.scales.element);
  s.flags = (c.zeros.place != ScalePlace::kNone ? kBlobZeroPoints : 0) | (c.hadamard ? kBlobHadamard : 0);
  s.group = p.groups > 1 ? static_cast<uint32_t>(c.group) : 0;
  return s;
}

// Of the fixed scales and zeros of a part, which lie one after the other in the handle.
uint64_t fixed_checksum(const mha_cache& cache, const PartLayout& p) {
  if (!p.is_fixed()) return 0;
  const int64_t heads = cache.config.num_kv_heads;
  uint64_t sum = header_checksum(p.codes.scales.data, static_cast<size_t>(fixed_scale_bytes(p, heads).value()));
  if (p.codes.zeros.place == ScalePlace::kNone) return sum;
  sum ^= 31 * header_checksum(p.codes.zeros.data, static_cast<size_t>(fixed_zero_bytes(p, heads).value()));
  return sum + static_cast<uint64_t>(p.codes.zeros.element);  // equal bytes of another type are other zeros
}

BlobHeader describe(const mha_cache& cache, const CacheSequence& s) {
  const mha_cache_config& c = cache.config;
  BlobHeader h = {};
  h.num_kv_heads = c.num_kv_heads, h.head_dim = c.head_dim, h.value_head_dim = c.value_head_dim;
  h.key = storage_of(cache.parts[kKeys]), h.value = storage_of(cache.parts[kValues]);
  for (int part = 0; part < kCacheParts; ++part) h.fixed_scales[part] = fixed_checksum(cache, cache.parts[part]);
  h.length = s.length, h.leading = leading_kept(cache, s), h.first_kept = s.first_kept;
  h.head.bytes = static_cast<uint64_t>(blob_bytes(cache, h).value());
  return h;
}

// Where the rows of each part begin in a blob, from the index-th kept token on. Element types are the cache's.
struct BlobRows {
  PartRowsOut parts[kCacheParts];
};
BlobRows blob_rows(const mha_cache& cache, const BlobHeader& h, char* blob, int64_t index) {
  BlobRows rows = {};
  char* begin = blob + sizeof(BlobHeader);
  for (CachePart part : {kKeys, kValues}) {
    const PartLayout& p = cache.parts[part];
    const int64_t row = p.row_bytes, token = h.num_kv_heads * row, count = tokens_in(h) * h.num_kv_heads;
    PartRowsOut& r = rows.parts[part];
    r.data = begin + index * token, r.stride_t = token, r.stride_h = row, r.element = p.element;
    r.scales = begin + count * row + index * h.num_kv_heads * p.scale_bytes;
    r.zeros = begin + count * (row + p.scale_bytes) + index * h.num_kv_heads * p.zero_bytes;
    begin += part_bytes(cache, h, part).value();
  }
  return rows;
}

// "MHA_I8 with MHA_F32 scales of 32 elements"
struct StorageName {
  char text[128];
  explicit StorageName(const BlobStorage& s) {
    const char* dtype = dtype_name(static_cast<int>(s.dtype));
    const char* scales = dtype_name(static_cast<int>(s.scale_dtype));
    if (dtype == nullptr || scales == nullptr || !is_code(static_cast<Element>(s.dtype))) {
      snprintf(text, sizeof(text), "%s", dtype != nullptr ? dtype : "an unknown dtype");
    } else {
      snprintf(text, sizeof(text), "%s with %s scales of %u elements (0: rows)%s%s", dtype, scales, s.group,
               (s.flags & kBlobZeroPoints) != 0 ? " and zeros" : "",
               (s.flags & kBlobHadamard) != 0 ? ", rotated by hadamard" : "");
    }
  }
};

mha_status check_storage_of_blob(const char* name, const BlobStorage& blob, const PartLayout& part, mha_error* error) {
  const BlobStorage own = storage_of(part);
  if (memcmp(&blob, &own, sizeof(own)) == 0) return MHA_OK;
  return fail(error, MHA_ERR_BLOB, "blob keeps %s as %s: the cache has %s", name, StorageName(blob).text,
              StorageName(own).text);
}

// Reads the header and checks the whole blob. A blob that passes has the sizes and types of this cache.
mha_status read_header(const mha_cache& cache, const void* blob, size_t bytes, BlobHeader* header, mha_error* error) {
  const mha_cache_config& c = cache.config;
  MHA_TRY(check_blob(kFormat, blob, bytes, error));
  BlobHeader h = {};
  memcpy(&h, blob, sizeof(h));
  bool known = h.value_in_key == 0;
  for (uint64_t word : h.reserved) known = known && word == 0;
  if (!known) return fail(error, MHA_ERR_BLOB, "blob has fields that this library does not know");
  if (h.num_kv_heads != c.num_kv_heads || h.head_dim != c.head_dim || h.value_head_dim != c.value_head_dim) {
    return fail(error, MHA_ERR_BLOB,
                "blob has %lld key/value heads of %lld and %lld: those of the cache are %lld of %lld and %lld",
                ll{h.num_kv_heads}, ll{h.head_dim}, ll{h.value_head_dim}, ll{c.num_kv_heads}, ll{c.head_dim},
                ll{c.value_head_dim});
  }
  MHA_TRY(check_storage_of_blob("keys", h.key, cache.parts[kKeys], error));
  MHA_TRY(check_storage_of_blob("values", h.value, cache.parts[kValues], error));
  for (CachePart part : {kKeys, kValues}) {
    if (h.fixed_scales[part] == fixed_checksum(cache, cache.parts[part])) continue;
    return fail(error, MHA_ERR_BLOB, "blob's %s were rounded with other fixed scales than those of the cache",
                part == kKeys ? "keys" : "values");
  }
  const bool sound = check_size("length", h.length, 0, nullptr) == MHA_OK && h.first_kept <= h.length &&
                     h.leading >= 0 && (h.first_kept == 0 ? h.leading == 0 : h.leading < h.first_kept);
  if (!sound || !blob_bytes(cache, h).ok() || static_cast<uint64_t>(blob_bytes(cache, h).value()) != h.head.bytes) {
    return fail(error, MHA_ERR_BLOB, "blob's header is unsound: length %lld, kept [0, %lld) and from %lld, bytes %llu",
                ll{h.length}, ll{h.leading}, ll{h.first_kept}, ull{h.head.bytes});
  }
  if (bytes < h.head.bytes)
    return fail(error, MHA_ERR_BLOB, "bytes is %zu: the blob has %llu", bytes, ull{h.head.bytes});
  if (h.payload != payload_checksum(static_cast<const char*>(blob) + sizeof(h), h.head.bytes - sizeof(h))) {
    return fail(error, MHA_ERR_BLOB, "blob's tokens are damaged (checksum)");
  }
  *header = h;
  return MHA_OK;
}

// `length` tokens of one sequence.
CacheBatch batch_of(const int64_t* sequence, int64_t length) {
  CacheBatch batch = {};
  batch.batch = 1, batch.sequences = sequence, batch.length = length;
  return batch;
}

// Takes the pages, all or nothing. A blob that lacks its middle tokens fits only rings, which always have room.
mha_status reserve_blob(mha_cache* cache, int64_t sequence, const BlobHeader& h, mha_error* error) {
  if (h.first_kept == 0) return cache_reserve(cache, batch_of(&sequence, h.length), error);
  const mha_cache_config& c = cache->config;
  if (c.kind != MHA_CACHE_RING || c.sink_tokens > h.leading) {
    return fail(error, MHA_ERR_UNSUPPORTED,
                "blob lacks tokens [%lld, %lld), which a ring had dropped: only a ring with at most %lld sink_tokens "
                "loads it",
                ll{h.leading}, ll{h.first_kept}, ll{h.leading});
  }
  CacheSequence& s = cache->sequences[sequence];
  const Locked locked(cache->lock);
  take_pages(cache, &s, 0, c.sink_tokens);
  take_pages(cache, &s, h.first_kept, h.length);
  s.first_kept = h.first_kept, s.reserved = h.length;
  return MHA_OK;
}

void write_blob(mha_cache* cache, int64_t sequence, const BlobHeader& h, const void* blob) {
  const auto write = [&](int64_t first, int64_t count, int64_t index) {
    const BlobRows from = blob_rows(*cache, h, const_cast<char*>(static_cast<const char*>(blob)), index);
    PartRows rows[kCacheParts];
    for (int part = 0; part < kCacheParts; ++part) {
      const PartRowsOut& r = from.parts[part];
      rows[part] = {r.data, r.stride_t, r.stride_h, r.element, r.scales, r.zeros};
    }
    cache_write(*cache, sequence, first, count, rows);
  };
  if (h.first_kept != 0) write(0, cache->config.sink_tokens, 0);
  write(h.first_kept, h.length - h.first_kept, h.leading);
  cache_commit(cache, batch_of(&sequence, h.length));
}

}  // namespace

mha_status cache_save_bytes(const mha_cache& cache, int64_t sequence, size_t* bytes, mha_error* error) {
  MHA_TRY(check_sequence(cache, "sequence", sequence, error));
  *bytes = static_cast<size_t>(describe(cache, cache.sequences[sequence]).head.bytes);
  return MHA_OK;
}

mha_status cache_save(const mha_cache& cache, int64_t sequence, void* blob, size_t bytes, mha_error* error) {
  mha_status status = check_sequence(cache, "sequence", sequence, error);
  if (status == MHA_OK) status = check_blob_pointer(blob, error);
  if (status != MHA_OK) return status;
  BlobHeader h = describe(cache, cache.sequences[sequence]);
  if (bytes < h.head.bytes) {
    return fail(error, MHA_ERR_BUFFER, "bytes is %zu: sequence %lld takes %llu", bytes, ll{sequence},
                ull{h.head.bytes});
  }
  char* out = static_cast<char*>(blob);
  char* end = out + sizeof(h);
  for (CachePart part : {kKeys, kValues}) {  // what follows the codes of a part
    end += part_bytes(cache, h, part).value();
    if (is_code(cache.parts[part].element) && tokens_in(h) > 0) memset(end - 8, 0, 8);
  }
  cache_read(cache, sequence, 0, h.leading, blob_rows(cache, h, out, 0).parts);
  cache_read(cache, sequence, h.first_kept, h.length - h.first_kept, blob_rows(cache, h, out, h.leading).parts);
  h.payload = payload_checksum(out + sizeof(h), h.head.bytes - sizeof(h));
  seal_blob(kFormat, &h);
  memcpy(blob, &h, sizeof(h));
  return MHA_OK;
}

mha_status cache_load(mha_cache* cache, int64_t sequence, const void* blob, size_t bytes, mha_error* error) {
  mha_status status = check_sequence(*cache, "sequence", sequence, error);
  if (status == MHA_OK) status = check_blob_pointer(blob, error);
  if (status != MHA_OK) return status;
  const int64_t held = cache->sequences[sequence].length;
  if (held != 0) {
    return fail(error, MHA_ERR_ARGUMENT, "sequence is %lld, which has %lld tokens: must be empty", ll{sequence},
                ll{held});
  }
  BlobHeader h = {};
  status = read_header(*cache, blob, bytes, &h, error);
  if (status == MHA_OK) status = reserve_blob(cache, sequence, h, error);
  if (status == MHA_OK) write_blob(cache, sequence, h, blob);
  return status;
}

}  // namespace mha
