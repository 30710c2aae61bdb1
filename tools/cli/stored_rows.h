// SPDX-License-Identifier: Apache-2.0
// A tensor of random values in any storage format: keys, values and weights of `mha bench` and `mha verify`.
#ifndef MHA_TOOLS_CLI_STORED_ROWS_H
#define MHA_TOOLS_CLI_STORED_ROWS_H

#include <mha/mha.hpp>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "tools/cli/formats.h"
#include "tools/cli/support.h"

namespace mha::cli {

// A combination that the library does not have, with its message.
class Unsupported : public Failure {
 public:
  using Failure::Failure;
};
// As check(), but what the library refuses as a combination is Unsupported.
void check_supported(const Status& status);
template <class T>
T take_supported(Result<T> result) {
  check_supported(result.status());
  return std::move(*result);
}

struct RowSizes {
  std::int64_t batch, tokens, heads, width;
};

// [B, T, heads, width], dense. Weights [out, in] are one item of `out` tokens with one head of `in` elements.
class StoredRows {
 public:
  StoredRows() = default;
  StoredRows(StoredRows&&) = default;
  StoredRows& operator=(StoredRows&&) = default;
  // Rounds seeded values of magnitude `scale` with mha_rows_prepare. Blocks of ggml get random codes and scales.
  StoredRows(const Context& context, const Format& format, const RowSizes& sizes, float scale, std::uint32_t seed);

  // Valid as long as this stays where it is.
  mha_view view() const;
  // The floats that the stored elements stand for, computed here by the formula of mha_quant. Not of rotated rows.
  std::vector<float> widened() const;
  // Of the elements with their scales and zeros.
  std::int64_t bytes() const;

 private:
  void prepare(const Context& context, const std::vector<float>& values);
  void fill_blocks(float scale, std::uint32_t seed);
  float code(std::int64_t row, std::int64_t d) const;
  float block_value(std::int64_t row, std::int64_t d) const;
  float scale_at(std::int64_t index) const;

  Format format_;
  RowSizes sizes_{};
  std::vector<std::byte> data_, scales_, zeros_;
  mha_quant quant_{};
};

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_STORED_ROWS_H
