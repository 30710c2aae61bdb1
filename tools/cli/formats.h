// SPDX-License-Identifier: Apache-2.0
// How options name element types and storage: "f16", or for codes "i4:group=32:scales=f16:zeros:hadamard". Also the comma
// lists of numbers and words.
#ifndef MHA_TOOLS_CLI_FORMATS_H
#define MHA_TOOLS_CLI_FORMATS_H

#include <mha/mha.hpp>

#include <cstdint>
#include <string>
#include <vector>

namespace mha::cli {

// An element type, and of codes where their scales are.
struct Format {
  mha_dtype dtype = MHA_F32;
  mha_dtype scale_dtype = MHA_F32;
  std::int64_t group = 0;   // elements that share a scale; 0: the row
  std::int64_t tokens = 0;  // tokens that share a scale, of tensors; 0: 1
  bool zeros = false;       // every scale has a zero
  bool hadamard = false;
  bool fixed = false;  // scales known in advance, one for all
  std::string text;    // as it was given
};

// For the help of options that take a Format.
inline constexpr const char* kFormatType = "DTYPE[:group=N][:tokens=N][:scales=DTYPE][:zeros][:hadamard][:fixed]";
inline constexpr const char* kDtypeNames = "f32, f16, bf16, i8, u8, i4, u4, q8_0, q4_0";

// Throws Failure that names `option`.
Format parse_format(const std::string& option, const std::string& text);
// Only a type; `option` refuses what belongs to codes.
mha_dtype parse_dtype(const std::string& option, const std::string& text);
const char* dtype_name(mha_dtype dtype);

bool has_scales(mha_dtype dtype);  // codes with a mha_quant
bool is_block(mha_dtype dtype);    // MHA_Q8_0, MHA_Q4_0

// Bytes of `count` elements that follow each other, without their scales; of blocks with them. Rows of two elements a
// byte and of blocks are whole: `count` is a multiple of the row.
std::int64_t code_bytes(mha_dtype dtype, std::int64_t count);

// For caches, packed weights and mha_rows_prepare; without what Format::fixed stands for. Throws Failure for scales of several
// tokens, which storage does not have.
mha_storage storage_of(const Format& format);

// "1,2,3" as numbers. Throws Failure that names `option`; an empty text or item is wrong.
std::vector<std::int64_t> parse_numbers(const std::string& option, const std::string& text);
// "a,b" as words.
std::vector<std::string> parse_words(const std::string& option, const std::string& text);
// 0 and the sums of the first 1, 2, ... numbers.
std::vector<std::int64_t> offsets_of(const std::string& option, const std::vector<std::int64_t>& lengths);

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_FORMATS_H
