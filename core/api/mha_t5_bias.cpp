// SPDX-License-Identifier: Apache-2.0
// T5's bucketed biases, expanded to distances: half of the buckets of a direction hold one distance each, the others
// runs of distances that grow by equal factors up to max_distance.
#include "core/call/checks.h"
#include "core/math/elementary.h"

namespace mha {
namespace {

// The bucket of `distance` in [0, max_distance] among `buckets` of its direction.
int64_t bucket_of(int64_t distance, int64_t buckets, int64_t max_distance) {
  const int64_t exact = buckets / 2;
  if (distance < exact) return distance;
  if (exact == 0) return buckets - 1;
  const double origin = elementary::log(static_cast<double>(exact));
  const double share = (elementary::log(static_cast<double>(distance)) - origin) /
                       (elementary::log(static_cast<double>(max_distance)) - origin);
  // Where a run begins exactly at a distance, the quotient may come out a little less.
  const int64_t bucket = exact + static_cast<int64_t>(share * static_cast<double>(buckets - exact) + 1e-9);
  return bucket < buckets ? bucket : buckets - 1;
}

mha_status check_t5(const float* table, int64_t num_heads, int64_t num_buckets, int64_t max_distance,
                    bool bidirectional, const float* result, mha_error* error) {
  mha_status status = check_size("num_heads", num_heads, 1, error);
  if (status == MHA_OK) status = check_size("num_buckets", num_buckets, 2, error);
  if (status == MHA_OK) status = check_size("max_distance", max_distance, 1, error);
  if (status != MHA_OK) return status;
  if (bidirectional && num_buckets % 2 != 0) {
    return fail(error, MHA_ERR_ARGUMENT, "num_buckets is %lld: must be even where bidirectional",
                static_cast<long long>(num_buckets));
  }
  const int64_t exact = num_buckets / (bidirectional ? 4 : 2);
  if (max_distance <= exact) {
    return fail(error, MHA_ERR_ARGUMENT, "max_distance is %lld: must be more than %lld, as %lld buckets hold one each",
                static_cast<long long>(max_distance), static_cast<long long>(exact), static_cast<long long>(exact));
  }
  const Size bytes = Size(num_heads) * (Size(2) * Size(max_distance) + Size(1)) * Size(sizeof(float));
  if (!bytes.ok() || !(Size(num_heads) * Size(num_buckets) * Size(sizeof(float))).ok()) {
    return fail(error, MHA_ERR_OVERFLOW, "num_heads is %lld, max_distance %lld, num_buckets %lld: too large",
                static_cast<long long>(num_heads), static_cast<long long>(max_distance),
                static_cast<long long>(num_buckets));
  }
  if (table == nullptr) return fail(error, MHA_ERR_NULL, "table is NULL");
  if (result == nullptr) return fail(error, MHA_ERR_NULL, "result is NULL");
  return MHA_OK;
}

}  // namespace
}  // namespace mha

extern "C" mha_status mha_t5_bias(const float* table, int64_t num_heads, int64_t num_buckets, int64_t max_distance,
                                  int bidirectional, float* result, mha_error* error) {
  using namespace mha;
  const mha_status status = check_t5(table, num_heads, num_buckets, max_distance, bidirectional != 0, result, error);
  if (status != MHA_OK) return status;
  const int64_t buckets = bidirectional != 0 ? num_buckets / 2 : num_buckets;
  for (int64_t distance = -max_distance; distance <= max_distance; ++distance) {
    const bool ahead = distance > 0;  // a key after the query: buckets of its own, or as if it were at the query
    const int64_t first = ahead && bidirectional != 0 ? buckets : 0;
    const int64_t away = ahead ? (bidirectional != 0 ? distance : 0) : -distance;
    const int64_t bucket = first + bucket_of(away, buckets, max_distance);
    for (int64_t h = 0; h < num_heads; ++h) {
      result[h * (2 * max_distance + 1) + max_distance + distance] = table[bucket * num_heads + h];
    }
  }
  return MHA_OK;
}
