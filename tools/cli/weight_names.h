// SPDX-License-Identifier: Apache-2.0
// How checkpoints name the tensors of an attention layer, and where in a file there is one.
#ifndef MHA_TOOLS_CLI_WEIGHT_NAMES_H
#define MHA_TOOLS_CLI_WEIGHT_NAMES_H

#include <string>
#include <vector>

#include "tools/cli/weight_file.h"

namespace mha::cli {

// One way of naming four projections that each have a weight [out, in] and may have a bias [out].
struct ProjectionNames {
  const char* query;
  const char* key;
  const char* value;
  std::vector<const char*> outputs;  // any of these
};

// Query, key and value in one tensor: nn.MultiheadAttention's and GGUF's.
struct FusedNames {
  const char* weight;
  const char* bias;
  const char* output;
};

// Those that the file has at `prefix`; null: none.
const FusedNames* find_fused(const WeightFile& file, const std::string& prefix);

// The first in which the file has a whole layer at `prefix`; else the first whose query weight it has; else null.
const ProjectionNames* find_names(const WeightFile& file, const std::string& prefix);

// The output projection of a layer at `prefix`: of those that `names` allows the one that is there, else the first.
std::string output_name(const WeightFile& file, const std::string& prefix, const ProjectionNames& names);

// ", attention layers are at --prefix a., b. and 30 more": where the file has whole layers of any naming; or that it
// has none.
std::string layers_hint(const WeightFile& file);

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_WEIGHT_NAMES_H
