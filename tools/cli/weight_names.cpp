// SPDX-License-Identifier: Apache-2.0
#include "tools/cli/weight_names.h"

#include <algorithm>
#include <cstddef>

namespace mha::cli {
namespace {

constexpr std::size_t kMostPrefixes = 6;  // in a message

const std::vector<ProjectionNames>& all_names() {
  static const std::vector<ProjectionNames> names = {
      // Llama, Mistral, Qwen; Whisper, BART, CLIP; Phi
      {"q_proj", "k_proj", "v_proj", {"o_proj", "out_proj", "dense"}},
      // BERT and what is derived from it
      {"self.query", "self.key", "self.value", {"output.dense"}},
      // ViT
      {"attention.query", "attention.key", "attention.value", {"output.dense"}},
      {"query", "key", "value", {"output.dense", "out_proj", "dense", "output"}},
      // DistilBERT
      {"q_lin", "k_lin", "v_lin", {"out_lin"}},
      // GGUF
      {"attn_q", "attn_k", "attn_v", {"attn_output", "attn_out"}},
  };
  return names;
}

constexpr FusedNames kFused[] = {{"in_proj_weight", "in_proj_bias", "out_proj"},
                                 {"attn_qkv.weight", "attn_qkv.bias", "attn_output"}};

bool has(const WeightFile& file, const std::string& name) { return file.find(name) != nullptr; }

bool has_weight(const WeightFile& file, const std::string& projection) { return has(file, projection + ".weight"); }

bool has_layer(const WeightFile& file, const std::string& prefix, const ProjectionNames& names) {
  return has_weight(file, prefix + names.query) && has_weight(file, prefix + names.key) &&
         has_weight(file, prefix + names.value) && has_weight(file, output_name(file, prefix, names));
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// The prefixes of whole layers, in the order of the file.
std::vector<std::string> prefixes_in(const WeightFile& file) {
  std::vector<std::string> found;
  const auto take = [&](const std::string& name, const std::string& end, auto is_layer) {
    if (!ends_with(name, end)) return;
    const std::string prefix = name.substr(0, name.size() - end.size());
    const bool whole_word = prefix.empty() || prefix.back() == '.';
    if (!whole_word || !is_layer(prefix)) return;
    if (std::find(found.begin(), found.end(), prefix) == found.end()) found.push_back(prefix);
  };
  for (const WeightInfo& tensor : file.tensors()) {
    for (const FusedNames& names : kFused) {
      take(tensor.name, names.weight,
           [&](const std::string& prefix) { return has_weight(file, prefix + names.output); });
    }
    take(tensor.name, "q_proj_weight",
         [&](const std::string& prefix) { return has_weight(file, prefix + "out_proj"); });
    for (const ProjectionNames& names : all_names()) {
      take(tensor.name, std::string(names.query) + ".weight",
           [&](const std::string& prefix) { return has_layer(file, prefix, names); });
    }
  }
  return found;
}

}  // namespace

const FusedNames* find_fused(const WeightFile& file, const std::string& prefix) {
  for (const FusedNames& names : kFused) {
    if (has(file, prefix + names.weight)) return &names;
  }
  return nullptr;
}

const ProjectionNames* find_names(const WeightFile& file, const std::string& prefix) {
  for (const ProjectionNames& names : all_names()) {
    if (has_layer(file, prefix, names)) return &names;
  }
  for (const ProjectionNames& names : all_names()) {
    if (has_weight(file, prefix + names.query)) return &names;
  }
  return nullptr;
}

std::string output_name(const WeightFile& file, const std::string& prefix, const ProjectionNames& names) {
  for (const char* output : names.outputs) {
    if (has_weight(file, prefix + output)) return prefix + output;
  }
  return prefix + names.outputs.front();
}

std::string layers_hint(const WeightFile& file) {
  const std::vector<std::string> found = prefixes_in(file);
  if (found.empty()) return ", and no prefix of its tensors makes a whole attention layer";
  std::string text =
      found.size() == 1 ? ", the attention layer is at --prefix " : ", attention layers are at --prefix ";
  for (std::size_t n = 0; n < found.size() && n < kMostPrefixes; ++n) {
    text += (n > 0 ? ", " : "") + (found[n].empty() ? "''" : found[n]);
  }
  if (found.size() > kMostPrefixes) text += " and " + std::to_string(found.size() - kMostPrefixes) + " more";
  return text;
}

}  // namespace mha::cli
