// SPDX-License-Identifier: Apache-2.0
// Reads a layer's weights and works out its configuration from their shapes; see torch_weights.h.
#include "tools/cli/torch_weights.h"

#include "tools/cli/support.h"
#include "tools/cli/weight_names.h"

namespace mha::cli {
namespace {

class Reader {
 public:
  Reader(const io::Safetensors& file, std::string prefix, TorchWeights& out)
      : file_(file), prefix_(std::move(prefix)), out_(out) {}

  bool has(const std::string& name) const { return file_.find(prefix_ + name) != nullptr; }

  [[noreturn]] void fail(const std::string& name, const std::string& why) const {
    const io::TensorInfo* info = file_.find(prefix_ + name);
    throw Failure(file_.label() + ": tensor '" + prefix_ + name + "' of shape " +
                  (info != nullptr ? io::shape_text(info->shape) : "[]") + ": " + why);
  }

  // A tensor of `rank` dimensions, none of them 0.
  const io::Tensor<float>& read(const std::string& name, std::size_t rank) {
    const io::TensorInfo* info = file_.find(prefix_ + name);
    if (info == nullptr) throw Failure(file_.label() + ": no tensor '" + prefix_ + name + "'" + layers_hint(file_));
    if (info->shape.size() != rank) fail(name, "must have " + std::to_string(rank) + " dimensions");
    for (const std::int64_t dim : info->shape) {
      if (dim == 0) fail(name, "is empty");
    }
    return out_.tensors[name] = take(file_.read<float>(prefix_ + name));
  }

  const float* read_bias(const std::string& name, std::int64_t size, const std::string& of) {
    if (!has(name)) return nullptr;
    const io::Tensor<float>& bias = read(name, 1);
    if (bias.shape[0] != size) fail(name, of + " needs " + std::to_string(size) + " elements");
    return bias.values.data();
  }

 private:
  const io::Safetensors& file_;
  std::string prefix_;
  TorchWeights& out_;
};

// Rows per head, where `name` must hold `heads` heads.
std::int64_t rows_per_head(const Reader& reader, const std::string& name, std::int64_t rows, std::int64_t heads) {
  if (rows % heads != 0) {
    reader.fail(name, std::to_string(rows) + " rows are not a multiple of " + std::to_string(heads) + " heads");
  }
  return rows / heads;
}

// The output projection `name`, and the sizes that follow from it.
void read_output(Reader& reader, const std::string& name, TorchWeights& out) {
  const std::string weight = name + ".weight";
  const auto& output = reader.read(weight, 2);
  if (output.shape[1] % out.config.num_heads != 0) {
    reader.fail(weight, std::to_string(output.shape[1]) + " columns are not a multiple of --num-heads " +
                            std::to_string(out.config.num_heads));
  }
  out.config.out_dim = output.shape[0];
  out.config.value_head_dim = output.shape[1] / out.config.num_heads;
  out.weights.output_weight = view(output.values.data());
  out.weights.output_bias = reader.read_bias(name + ".bias", output.shape[0], weight);
}

void read_fused(Reader& reader, TorchWeights& out) {
  mha_layer_config& config = out.config;
  const auto& weight = reader.read("in_proj_weight", 2);
  const std::int64_t rows = weight.shape[0];
  const std::int64_t value_rows = config.num_kv_heads * config.value_head_dim;
  const std::int64_t heads = config.num_heads + config.num_kv_heads;
  if (rows <= value_rows || (rows - value_rows) % heads != 0) {
    reader.fail("in_proj_weight", std::to_string(rows) + " rows are not H*D + Hkv*D + Hkv*Dv for any D, with H = " +
                                      std::to_string(config.num_heads) +
                                      ", Hkv = " + std::to_string(config.num_kv_heads) +
                                      " and Dv = " + std::to_string(config.value_head_dim) + " (from out_proj.weight)");
  }
  config.head_dim = (rows - value_rows) / heads;
  config.embed_dim = config.kdim = config.vdim = weight.shape[1];
  out.weights.in_proj_weight = view(weight.values.data());
  out.weights.in_proj_bias = reader.read_bias("in_proj_bias", rows, "in_proj_weight");
}

// The names of a layer whose projections are tensors of their own.
struct SeparateNames {
  std::string query, key, value, output;  // of the weights
};

// Weights whose names are `n`; the shapes must fit each other.
void read_separate(Reader& reader, const SeparateNames& n, TorchWeights& out) {
  mha_layer_config& config = out.config;
  const auto& query = reader.read(n.query, 2);
  const auto& key = reader.read(n.key, 2);
  const auto& value = reader.read(n.value, 2);
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
  out.weights.query_weight = view(query.values.data());
  out.weights.key_weight = view(key.values.data());
  out.weights.value_weight = view(value.values.data());
}

// torch's nn.MultiheadAttention: weights in one tensor or three, biases in one.
void read_torch(Reader& reader, bool fused, TorchWeights& out) {
  for (const char* name : {"bias_k", "bias_v"}) {
    if (reader.has(name)) reader.fail(name, "a learned extra key and value (add_bias_kv) is not supported");
  }
  read_output(reader, "out_proj", out);
  if (fused) return read_fused(reader, out);
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
void read_projections(Reader& reader, const ProjectionNames& names, const std::string& output, TorchWeights& out) {
  for (const char* name : {"q_norm.weight", "k_norm.weight", "q_layernorm.weight", "k_layernorm.weight",
                           "relative_attention_bias.weight"}) {
    if (reader.has(name)) reader.fail(name, "what changes queries, keys or scores is not supported here");
  }
  const std::string query = names.query, key = names.key, value = names.value;
  read_output(reader, output, out);
  read_separate(reader, {query + ".weight", key + ".weight", value + ".weight", output + ".weight"}, out);
  const mha_layer_config& c = out.config;
  out.weights.query_bias = reader.read_bias(query + ".bias", c.num_heads * c.head_dim, query + ".weight");
  out.weights.key_bias = reader.read_bias(key + ".bias", c.num_kv_heads * c.head_dim, key + ".weight");
  out.weights.value_bias = reader.read_bias(value + ".bias", c.num_kv_heads * c.value_head_dim, value + ".weight");
}

}  // namespace

TorchWeights read_torch_weights(const std::string& path, const std::string& prefix, std::int64_t num_heads,
                                std::int64_t num_kv_heads) {
  const io::Safetensors file = take(io::Safetensors::open(path));
  TorchWeights out;
  Reader reader(file, prefix, out);
  if (num_heads < 1) throw Failure("--num-heads is " + std::to_string(num_heads) + ", must be at least 1");
  if (num_kv_heads < 0) throw Failure("--num-kv-heads is " + std::to_string(num_kv_heads) + ", must not be negative");
  out.config.num_heads = num_heads;
  out.config.num_kv_heads = num_kv_heads == 0 ? num_heads : num_kv_heads;
  if (num_heads % out.config.num_kv_heads != 0) {
    throw Failure("--num-heads " + std::to_string(num_heads) + " is not a multiple of --num-kv-heads " +
                  std::to_string(num_kv_heads));
  }

  const bool fused = reader.has("in_proj_weight");
  const bool separate = reader.has("q_proj_weight");
  if (fused && separate) {
    throw Failure(file.label() + ": has both '" + prefix + "in_proj_weight' and '" + prefix + "q_proj_weight'");
  }
  if (fused || separate) {
    read_torch(reader, fused, out);
    return out;
  }
  const ProjectionNames* names = find_names(file, prefix);
  if (names == nullptr) {
    throw Failure(file.label() + ": no '" + prefix + "in_proj_weight', '" + prefix + "q_proj.weight' or '" + prefix +
                  "query.weight'" + layers_hint(file));
  }
  read_projections(reader, *names, output_name(file, prefix, *names).substr(prefix.size()), out);
  return out;
}

}  // namespace mha::cli
