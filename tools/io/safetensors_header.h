// SPDX-License-Identifier: Apache-2.0
// The JSON header of a .safetensors file, parsed event by event so that neither depth nor size of hostile JSON matters:
// no document tree is built, and duplicate keys (which a tree would hide) are seen.
#ifndef MHA_TOOLS_IO_SAFETENSORS_HEADER_H
#define MHA_TOOLS_IO_SAFETENSORS_HEADER_H

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "tools/io/result.h"
#include "tools/io/safetensors.h"

namespace mha::io {

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // in the order of the header
  std::map<std::string, std::string> metadata;
};

// Checks everything about the header that does not need the size of the data: types, names, dtypes, and that each
// tensor's offsets span exactly its shape. Messages do not name the file.
Result<SafetensorsHeader> parse_safetensors_header(std::string_view json);

}  // namespace mha::io

#endif  // MHA_TOOLS_IO_SAFETENSORS_HEADER_H
