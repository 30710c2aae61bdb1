// SPDX-License-Identifier: Apache-2.0
// Metadata of GGUF files; see gguf_metadata.h.
#include "tools/cli/gguf_metadata.h"

#include <cstdlib>
#include <utility>

#include "tools/cli/support.h"

namespace mha::cli {
namespace {

std::string architecture(const io::Gguf& file) { return file.text("general.architecture").value_or(""); }

// The block of "blk.12."; 0 for other prefixes.
std::size_t block_of(const std::string& prefix) {
  const std::string before = "blk.";
  if (prefix.rfind(before, 0) != 0) return 0;
  return static_cast<std::size_t>(std::strtoul(prefix.c_str() + before.size(), nullptr, 10));
}

std::int64_t count_of(const io::Gguf& file, const std::string& key, std::size_t block) {
  const std::vector<std::int64_t> counts = file.integers(key);
  if (counts.empty()) return 0;
  if (counts.size() > 1 && block >= counts.size()) {
    throw Failure(file.label() + ": metadata key '" + key + "' has " + std::to_string(counts.size()) +
                  " numbers, none for block " + std::to_string(block));
  }
  const std::int64_t count = counts.size() == 1 ? counts[0] : counts[block];
  constexpr std::int64_t kMost = std::int64_t{1} << 32;
  if (count < 1 || count > kMost) {
    throw Failure(file.label() + ": metadata key '" + key + "' is " + std::to_string(count) +
                  ", the layer would have no heads");
  }
  return count;
}

}  // namespace

Heads gguf_heads(const io::Gguf& file, const std::string& prefix) {
  const std::string base = architecture(file) + ".attention.head_count";
  const std::size_t block = block_of(prefix);
  return {count_of(file, base, block), count_of(file, base + "_kv", block)};
}

float gguf_scale(const io::Gguf& file) {
  const std::pair<const char*, const char*> refused[] = {
      {".attn_logit_softcapping", "a cap of the scores"},
      {".attention.clamp_kqv", "a limit of queries, keys and values"},
      {".attention.max_alibi_bias", "ALiBi's bias of the scores"}};
  for (const auto& [name, what] : refused) {
    const std::string key = architecture(file) + name;
    if (file.number(key).value_or(0) != 0) {
      throw Failure(file.label() + ": metadata key '" + key + "': " + what + " is not supported here");
    }
  }
  return static_cast<float>(file.number(architecture(file) + ".attention.scale").value_or(0));
}

}  // namespace mha::cli
