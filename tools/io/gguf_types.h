// SPDX-License-Identifier: Apache-2.0
// The tensor types of GGUF: their number in a file, their name, and the size of a block.
#ifndef MHA_TOOLS_IO_GGUF_TYPES_H
#define MHA_TOOLS_IO_GGUF_TYPES_H

#include <cstdint>

#include "tools/io/gguf.h"

namespace mha::io {

struct GgufTypeInfo {
  std::uint32_t id;
  const char* name;
  std::uint64_t elements, bytes;  // of a block
  GgufType type;
};
inline constexpr GgufTypeInfo kGgufTypes[] = {
    {0, "F32", 1, 4, GgufType::kF32},           {1, "F16", 1, 2, GgufType::kF16},
    {2, "Q4_0", 32, 18, GgufType::kQ4_0},       {3, "Q4_1", 32, 20, GgufType::kOther},
    {6, "Q5_0", 32, 22, GgufType::kOther},      {7, "Q5_1", 32, 24, GgufType::kOther},
    {8, "Q8_0", 32, 34, GgufType::kQ8_0},       {9, "Q8_1", 32, 36, GgufType::kOther},
    {10, "Q2_K", 256, 84, GgufType::kOther},    {11, "Q3_K", 256, 110, GgufType::kOther},
    {12, "Q4_K", 256, 144, GgufType::kOther},   {13, "Q5_K", 256, 176, GgufType::kOther},
    {14, "Q6_K", 256, 210, GgufType::kOther},   {15, "Q8_K", 256, 292, GgufType::kOther},
    {16, "IQ2_XXS", 256, 66, GgufType::kOther}, {17, "IQ2_XS", 256, 74, GgufType::kOther},
    {18, "IQ3_XXS", 256, 98, GgufType::kOther}, {19, "IQ1_S", 256, 50, GgufType::kOther},
    {20, "IQ4_NL", 32, 18, GgufType::kOther},   {21, "IQ3_S", 256, 110, GgufType::kOther},
    {22, "IQ2_S", 256, 82, GgufType::kOther},   {23, "IQ4_XS", 256, 136, GgufType::kOther},
    {24, "I8", 1, 1, GgufType::kOther},         {25, "I16", 1, 2, GgufType::kOther},
    {26, "I32", 1, 4, GgufType::kOther},        {27, "I64", 1, 8, GgufType::kOther},
    {28, "F64", 1, 8, GgufType::kOther},        {29, "IQ1_M", 256, 56, GgufType::kOther},
    {30, "BF16", 1, 2, GgufType::kBF16}};

inline const GgufTypeInfo* find_gguf_type(std::uint32_t id) {
  for (const GgufTypeInfo& known : kGgufTypes) {
    if (known.id == id) return &known;
  }
  return nullptr;
}

}  // namespace mha::io

#endif  // MHA_TOOLS_IO_GGUF_TYPES_H
