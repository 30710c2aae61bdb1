// SPDX-License-Identifier: Apache-2.0
// An attention layer out of a Hugging Face checkpoint: config.json says what it is, model.safetensors has the weights. Runs
// it on `input` of a .safetensors file and compares with that file's `output`, or prints the output's first numbers where
// there is none. Knows Llama's and BERT's names; other families need a row in kFamilies.
//   example_layer_from_checkpoint <folder of the checkpoint> <layer> <file with input, and perhaps output>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mha/mha.hpp>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tools/io/projection.h"
#include "tools/io/safetensors.h"

namespace {

using Json = nlohmann::json;
using mha::io::Safetensors;

/// How a family names the parts of layer N, and whether its tokens see only those before them, by rotary positions.
struct Family {
  const char* type;
  const char* before;  // N
  const char* after;
  const char *query, *key, *value, *output;
  bool decoder;
};
constexpr Family kFamilies[] = {
    {"llama", "layers.", ".self_attn.", "q_proj", "k_proj", "v_proj", "o_proj", true},
    {"bert", "encoder.layer.", ".attention.", "self.query", "self.key", "self.value", "output.dense", false},
};

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error(message); }

template <class T>
T take(mha::io::Result<T> result) {
  if (!result) fail(result.message());
  return std::move(*result);
}
void require(const mha::Status& status) {
  if (!status) fail(status.message());
}

Json read_config(const std::string& path) {
  std::ifstream file(path);
  if (!file) fail(path + " cannot be read");
  Json config = Json::parse(file, nullptr, false);
  if (!config.is_object()) fail(path + " is no JSON object");
  return config;
}

const Family& family_of(const Json& config) {
  const std::string type = config.value("model_type", "");
  for (const Family& family : kFamilies)
    if (type == family.type) return family;
  fail("model_type is '" + mha::io::printable(type) + "', not llama or bert");
}

mha_layer_config layer_config(const Json& config) {
  mha_layer_config layer = {};
  layer.embed_dim = config.at("hidden_size");
  layer.num_heads = config.at("num_attention_heads");
  layer.num_kv_heads = config.value("num_key_value_heads", layer.num_heads);
  layer.head_dim = config.value("head_dim", std::int64_t{0});  // 0: embed_dim / num_heads
  if (layer.num_heads < 1) fail("num_attention_heads is " + std::to_string(layer.num_heads) + ", not >= 1");
  if (layer.head_dim == 0) layer.head_dim = layer.embed_dim / layer.num_heads;
  return layer;
}

/// Newer files have rope_parameters, older ones rope_theta and, if there is any scaling, rope_scaling.
mha_rope rope_of(const Json& config) {
  Json parameters = config.value("rope_parameters", config.value("rope_scaling", Json::object()));
  if (!parameters.is_object()) parameters = Json::object();  // null: none
  const std::string type = parameters.value("rope_type", parameters.value("type", "default"));
  mha_rope rope = {};
  rope.style = MHA_ROPE_HALF;
  rope.base = parameters.value("rope_theta", config.value("rope_theta", 10000.0));
  if (type == "default") return rope;
  rope.factor = parameters.at("factor");
  if (type == "linear") {
    rope.scaling = MHA_ROPE_SCALING_LINEAR;
  } else if (type == "llama3") {
    rope.scaling = MHA_ROPE_SCALING_LLAMA3;
    rope.low_freq_factor = parameters.at("low_freq_factor");
    rope.high_freq_factor = parameters.at("high_freq_factor");
    rope.original_positions = parameters.at("original_max_position_embeddings");
  } else {
    fail("rope_type is '" + mha::io::printable(type) + "', not default, linear or llama3");
  }
  return rope;
}

/// The weight [out, in] and, where the file has it, the bias. Models with a head have a prefix ("model.", "bert.").
mha::io::Projection read_projection(const Safetensors& file, const std::string& name, std::int64_t out,
                                    std::int64_t in) {
  std::string full = name;
  for (const char* prefix : {"model.", "bert."})
    if (file.find(prefix + name + ".weight") != nullptr) full = prefix + name;
  auto weight = take(file.read<float>(full + ".weight"));
  if (weight.shape != std::vector<std::int64_t>{out, in}) {
    fail(file.label() + ": " + full + ".weight has the shape " + mha::io::shape_text(weight.shape) + ", not " +
         mha::io::shape_text({out, in}));
  }
  mha::io::Projection projection;
  projection.weight = std::move(weight.values);
  if (file.find(full + ".bias") == nullptr) return projection;
  auto bias = take(file.read<float>(full + ".bias"));
  if (bias.shape != std::vector<std::int64_t>{out}) {
    fail(file.label() + ": " + full + ".bias has the shape " + mha::io::shape_text(bias.shape) + ", not " +
         mha::io::shape_text({out}));
  }
  projection.bias = std::move(bias.values);
  return projection;
}

mha::Layer read_layer(const mha::Context& context, const std::string& folder, const Json& config,
                      const std::string& number) {
  const Safetensors file = take(Safetensors::open(folder + "/model.safetensors"));
  const Family& family = family_of(config);
  const mha_layer_config sizes = layer_config(config);
  const std::int64_t width = sizes.num_heads * sizes.head_dim, kv_width = sizes.num_kv_heads * sizes.head_dim;
  const std::string name = family.before + number + family.after;
  const auto query = read_projection(file, name + family.query, width, sizes.embed_dim);
  const auto key = read_projection(file, name + family.key, kv_width, sizes.embed_dim);
  const auto value = read_projection(file, name + family.value, kv_width, sizes.embed_dim);
  const auto output = read_projection(file, name + family.output, sizes.embed_dim, width);
  auto layer = mha::Layer::create(context, sizes, mha::io::layer_weights(query, key, value, output));
  require(layer.status());
  return std::move(*layer);
}

/// 0 unless the output differs from the file's by more than a millionth of its largest number.
int compare(const Safetensors& file, const std::vector<float>& output) {
  if (file.find("output") == nullptr) {
    for (std::size_t i = 0; i < std::min<std::size_t>(output.size(), 8); ++i)
      std::printf("%g ", static_cast<double>(output[i]));
    std::printf("...\n");
    return EXIT_SUCCESS;
  }
  const auto expected = take(file.read<float>("output"));
  if (expected.values.size() != output.size())
    fail(file.label() + ": output has the shape " + mha::io::shape_text(expected.shape) + ", not that of input");
  double difference = 0, largest = 0;
  for (std::size_t i = 0; i < output.size(); ++i) {
    const double error = std::fabs(static_cast<double>(output[i]) - static_cast<double>(expected.values[i]));
    if (!(error <= difference)) difference = error;  // a NaN, too
    largest = std::max(largest, std::fabs(static_cast<double>(expected.values[i])));
  }
  std::printf("%zu numbers, the largest %.3f, differ from those of the file by %.2e at most\n", output.size(), largest,
              difference);
  return difference <= 1e-6 * largest ? EXIT_SUCCESS : EXIT_FAILURE;
}

int run(const std::string& folder, const std::string& number, const std::string& input_path) {
  auto context = mha::Context::create();
  require(context.status());
  const Json config = read_config(folder + "/config.json");
  const mha::Layer layer = read_layer(*context, folder, config, number);
  const Safetensors file = take(Safetensors::open(input_path));
  const auto input = take(file.read<float>("input"));
  const std::int64_t embed_dim = layer.config().embed_dim;
  if (input.shape.size() != 3 || input.shape[2] != embed_dim) {
    fail(input_path + ": input has the shape " + mha::io::shape_text(input.shape) + ", not [B, T, " +
         std::to_string(embed_dim) + "]");
  }
  std::vector<float> output(input.values.size());
  const mha_rope rope = rope_of(config);
  mha::LayerCall args;
  args.batch = input.shape[0];
  args.query_len = input.shape[1];
  args.query = mha::view(input.values.data());
  args.output = mha::mut_view(output.data());
  if (family_of(config).decoder) {
    args.causal = 1;
    args.rope = &rope;
  }
  require(layer.forward(*context, args));
  return compare(file, output);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: %s <folder of a checkpoint> <layer> <file with input, and perhaps output>\n", argv[0]);
    return 2;
  }
  try {
    return run(argv[1], argv[2], argv[3]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return EXIT_FAILURE;
  }
}
