// SPDX-License-Identifier: Apache-2.0
// Reads a layer's weights and works out its configuration from their shapes; see layer_weights.h.
#include "tools/cli/layer_weights.h"

#include "tools/cli/gguf_metadata.h"
#include "tools/cli/support.h"
#include "tools/cli/weight_names.h"

namespace mha::cli {
namespace {

// Rows per head, where `name` must hold `heads` heads.
std::int64_t rows_per_head(const LayerReader& reader, const std::string& name, std::int64_t rows, std::int64_t heads) {
  if (rows % heads != 0) {
    reader.fail(name, std::to_string(rows) + " rows are not a multiple of " + std::to_string(heads) + " heads");
  }
  return rows / heads;
}

// The output projection `name`, and the sizes that follow from it.
void read_output(LayerReader& reader, const std::string& name, LayerWeights& out) {
  const std::string weight = name + ".weight";
  const StoredWeight& output = reader.read_weight(weight);
  if (output.shape[1] % out.config.num_heads != 0) {
    reader.fail(weight, std::to_string(output.shape[1]) + " columns are not a multiple of --num-heads " +
                            std::to_string(out.config.num_heads));
  }
  out.config.out_dim = output.shape[0];
  out.config.value_head_dim = output.shape[1] / out.config.num_heads;
  out.weights.output_weight = output.view();
  out.weights.output_bias = reader.read_bias(name + ".bias", output.shape[0], weight);
}

// Query, key and value in one tensor `name`, after the output projection `output`.
void read_fused(LayerReader& reader, const FusedNames& names, LayerWeights& out) {
  mha_layer_config& config = out.config;
  const std::string output = std::string(names.output) + ".weight";
  const StoredWeight& weight = reader.read_weight(names.weight);
  const std::int64_t rows = weight.shape[0];
  const std::int64_t value_rows = config.num_kv_heads * config.value_head_dim;
  const std::int64_t heads = config.num_heads + config.num_kv_heads;
  if (rows <= value_rows || (rows - value_rows) % heads != 0) {
    reader.fail(names.weight, std::to_string(rows) + " rows are not H*D + Hkv*D + Hkv*Dv for any D, with H = " +
                                  std::to_string(config.num_heads) + ", Hkv = " + std::to_string(config.num_kv_heads) +
                                  " and Dv = " + std::to_string(config.value_head_dim) + " (from " + output + ")");
  }
  config.head_dim = (rows - value_rows) / heads;
  config.embed_dim = config.kdim = config.vdim = weight.shape[1];
  out.weights.in_proj_weight = weight.view();
  out.weights.in_proj_bias = reader.read_bias(names.bias, rows, names.weight);
}

// The names of a layer whose projections are tensors of their own.
struct SeparateNames {
  std::string query, key, value, output;  // of the weights
};

// Weights whose names are `n`; the shapes must fit each other.
void read_separate(LayerReader& reader, const SeparateNames& n, LayerWeights& out) {
  mha_layer_config& config = out.config;
  const StoredWeight& query = reader.read_weight(n.query);
  const StoredWeight& key = reader.read_weight(n.key);
  const StoredWeight& value = reader.read_weight(n.value);
  config.head_dim = rows_per_head(reader, n.query, query.shape[0], config.num_heads);
  const auto check_rows = [&](const std::string& name, const char* dims, std::int64_t rows, std::int64_t dim,
                              const std::string& from) {
    const std::int64_t wanted = config.num_kv_heads * dim;
    if (rows == wanted) return;
    std::string why = std::string("must have ") + dims + " = " + std::to_string(wanted) + " rows (" + from + ")";
    if (rows % dim == 0 && config.num_heads % (rows / dim) == 0) {
      why += "; --num-kv-heads " + std::to_string(rows / dim) + " would fit";
    }
    reader.fail(name, why);
  };
  check_rows(n.key, "Hkv*D", key.shape[0], config.head_dim, "D from " + n.query);
  check_rows(n.value, "Hkv*Dv", value.shape[0], config.value_head_dim, "Dv from " + n.output);
  config.embed_dim = query.shape[1];
  config.kdim = key.shape[1];
  config.vdim = value.shape[1];
  out.weights.query_weight = query.view();
  out.weights.key_weight = key.view();
  out.weights.value_weight = value.view();
}

// torch's nn.MultiheadAttention with three weights, and biases in one.
void read_torch(LayerReader& reader, LayerWeights& out) {
  read_output(reader, "out_proj", out);
  read_separate(reader, {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"}, out);
  const std::int64_t query_rows = out.config.num_heads * out.config.head_dim;
  const std::int64_t key_rows = out.config.num_kv_heads * out.config.head_dim;
  const std::int64_t rows = query_rows + key_rows + out.config.num_kv_heads * out.config.value_head_dim;
  const float* bias = reader.read_bias("in_proj_bias", rows, "{q,k,v}_proj_weight");
  if (bias == nullptr) return;
  out.weights.query_bias = bias;
  out.weights.key_bias = bias + query_rows;
  out.weights.value_bias = bias + query_rows + key_rows;
}

// Each projection with a weight and perhaps a bias of its own. `output` is the name of the output projection.
void read_projections(LayerReader& reader, const ProjectionNames& names, const std::string& output, LayerWeights& out) {
  const std::string query = names.query, key = names.key, value = names.value;
  read_output(reader, output, out);
  read_separate(reader, {query + ".weight", key + ".weight", value + ".weight", output + ".weight"}, out);
  const mha_layer_config& c = out.config;
  out.weights.query_bias = reader.read_bias(query + ".bias", c.num_heads * c.head_dim, query + ".weight");
  out.weights.key_bias = reader.read_bias(key + ".bias", c.num_kv_heads * c.head_dim, key + ".weight");
  out.weights.value_bias = reader.read_bias(value + ".bias", c.num_kv_heads * c.value_head_dim, value + ".weight");
}

// What a layer has beside projections, and the command does not compute.
void refuse_others(const LayerReader& reader) {
  for (const char* name : {"bias_k", "bias_v"}) {
    if (reader.has(name)) reader.fail(name, "a learned extra key and value (add_bias_kv) is not supported");
  }
  for (const char* name :
       {"q_norm.weight", "k_norm.weight", "q_layernorm.weight", "k_layernorm.weight", "relative_attention_bias.weight",
        "attn_q_norm.weight", "attn_k_norm.weight", "attn_sinks.weight", "attn_rel_b.weight"}) {
    if (reader.has(name)) reader.fail(name, "what changes queries, keys or scores is not supported here");
  }
}

void take_heads(const WeightFlags& flags, const WeightFile& file, mha_layer_config& config) {
  const Heads stored = file.gguf() != nullptr ? gguf_heads(*file.gguf(), flags.prefix) : Heads{};
  const auto choose = [&](const char* option, std::int64_t given, std::int64_t of_file) {
    if (given != 0 && of_file != 0 && given != of_file) {
      throw Failure(std::string(option) + " is " + std::to_string(given) + ", but " + file.label() + " says " +
                    std::to_string(of_file));
    }
    return given != 0 ? given : of_file;
  };
  config.num_heads = choose("--num-heads", flags.num_heads.value_or(0), stored.query);
  config.num_kv_heads = choose("--num-kv-heads", flags.num_kv_heads, stored.key_value);
  if (config.num_kv_heads == 0) config.num_kv_heads = config.num_heads;
  if (flags.num_heads && *flags.num_heads < 1) {
    throw Failure("--num-heads is " + std::to_string(*flags.num_heads) + ", must be at least 1");
  }
  if (config.num_heads == 0) throw Failure("--num-heads is required: " + file.label() + " does not say it");
  if (config.num_kv_heads < 0) {
    throw Failure("--num-kv-heads is " + std::to_string(flags.num_kv_heads) + ", must not be negative");
  }
  if (config.num_heads % config.num_kv_heads != 0) {
    throw Failure("--num-heads " + std::to_string(config.num_heads) + " is not a multiple of --num-kv-heads " +
                  std::to_string(config.num_kv_heads));
  }
}

void read_named(LayerReader& reader, const std::string& prefix, LayerWeights& out) {
  const WeightFile& file = reader.file();
  const FusedNames* fused = find_fused(file, prefix);
  const bool separate = reader.has("q_proj_weight");
  if (fused != nullptr && separate) {
    throw Failure(file.label() + ": has both '" + prefix + fused->weight + "' and '" + prefix + "q_proj_weight'");
  }
  if (fused != nullptr) {
    read_output(reader, fused->output, out);
    return read_fused(reader, *fused, out);
  }
  if (separate) return read_torch(reader, out);
  const ProjectionNames* names = find_names(file, prefix);
  if (names == nullptr) {
    const bool gguf = file.gguf() != nullptr;
    throw Failure(file.label() + ": no '" + prefix + (gguf ? "attn_q.weight' or '" : "in_proj_weight', '") + prefix +
                  (gguf ? "attn_qkv.weight'" : "q_proj.weight' or '" + prefix + "query.weight'") + layers_hint(file));
  }
  read_projections(reader, *names, output_name(file, prefix, *names).substr(prefix.size()), out);
}

}  // namespace

void add_weight_file_options(CLI::App& app, WeightFlags& flags) {
  app.add_option("--weights", flags.path,
                 "Weights, named as in torch's nn.MultiheadAttention, Hugging Face's models or GGUF")
      ->type_name("FILE");
  app.add_option("--prefix", flags.prefix,
                 "What stands before the tensor names, e.g. model.layers.0.self_attn. or blk.0.")
      ->type_name("TEXT");
  app.add_option("--num-heads", flags.num_heads, "Query heads (needed, unless the file is GGUF, which says them)");
  app.add_option("--num-kv-heads", flags.num_kv_heads,
                 "Key and value heads, fewer where queries are grouped (default: as many, or what the file says)");
}

LayerWeights read_layer_weights(const WeightFlags& flags) {
  const WeightFile file = take(WeightFile::open(flags.path));
  LayerWeights out;
  LayerReader reader(file, flags.prefix);
  take_heads(flags, file, out.config);
  refuse_others(reader);
  read_named(reader, flags.prefix, out);
  if (file.gguf() != nullptr) out.config.scale = gguf_scale(*file.gguf());
  out.tensors = reader.take_weights();
  out.biases = reader.take_biases();
  return out;
}

std::string type_names(const LayerWeights& weights) {
  std::string text;
  for (const auto& [name, weight] : weights.tensors) {
    if ((", " + text + ",").find(", " + weight.type_name + ",") != std::string::npos) continue;
    text += (text.empty() ? "" : ", ") + weight.type_name;
  }
  return text;
}

}  // namespace mha::cli
