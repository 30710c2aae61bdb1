// SPDX-License-Identifier: Apache-2.0
// `mha quantize`: packs one layer's weights in another format, writes the packed layer to a file, and says what the format
// costs. `mha run --layer` and mha_layer_map read the file.
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/cli/commands.h"
#include "tools/cli/formats.h"
#include "tools/cli/layer_weights.h"
#include "tools/cli/support.h"
#include "tools/io/source.h"

namespace mha::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kProjections[] = {"query", "key", "value", "output"};
constexpr int kProjectionCount = 4;

struct Options {
  WeightFlags weights;
  std::string dtype, scale_dtype = "f32", output;
  std::int64_t group = 0;
  bool zero_points = false;
  float scale = 0;
  mha_arithmetic arithmetic = MHA_ARITHMETIC_F32;
  ContextFlags context;
  bool json = false;
};

mha_storage storage_of(const Options& options) {
  mha_storage storage{};
  storage.dtype = parse_dtype("--dtype", options.dtype);
  if (is_block(storage.dtype)) {
    throw Failure("--dtype is '" + options.dtype + "': weights are packed as f32, f16, bf16, i8, u8, i4 or u4");
  }
  storage.scale_dtype = parse_dtype("--scale-dtype", options.scale_dtype);
  storage.group = options.group;
  storage.zero_points = options.zero_points ? 1 : 0;
  return storage;
}

std::string storage_text(const Options& options, const mha_storage& storage) {
  std::string text = dtype_name(storage.dtype);
  if (!has_scales(storage.dtype)) return text;
  text += std::string(", ") + dtype_name(storage.scale_dtype) + " scales of ";
  text += storage.group != 0 ? std::to_string(storage.group) + " inputs" : "each output";
  if (options.zero_points) text += " with zero points";
  return text;
}

// Elements of [out, in] of a projection.
std::int64_t elements_of(const mha_layer_config& c, int projection) {
  const std::int64_t query = c.num_heads * c.head_dim, key = c.num_kv_heads * c.head_dim;
  const std::int64_t value = c.num_kv_heads * c.value_head_dim, output = c.num_heads * c.value_head_dim;
  const std::int64_t sizes[] = {query * c.embed_dim, key * c.kdim, value * c.vdim, c.out_dim * output};
  return sizes[projection];
}

Json quantize(const Options& options) {
  const mha_storage storage = storage_of(options);
  const Context context = make_context(options.context);
  const Progress progress("packing the layer", 1);
  const LayerWeights weights = read_layer_weights(options.weights);
  mha_layer_config config = weights.config;
  if (options.scale != 0) config.scale = options.scale;
  config.arithmetic = options.arithmetic;
  mha_storage_error errors[kProjectionCount] = {};
  config.packed = &storage;
  config.packed_error = errors;
  const Layer layer = take(Layer::create(context, config, weights.weights));
  std::vector<std::byte> blob(take(layer.save_bytes()));
  check(layer.save(blob));
  take(io::write_file(options.output, "", blob.data(), blob.size()));

  const mha_layer_config made = layer.config();
  std::int64_t elements = 0;
  Json report = {{"weights_stored", type_names(weights)},
                 {"packed", storage_text(options, storage)},
                 {"arithmetic", arithmetic_name(config.arithmetic)}};
  report["projections"] = Json::array();
  for (int p = 0; p < kProjectionCount; ++p) {
    const mha_storage_error& e = errors[p];
    elements += elements_of(made, p);
    report["projections"].push_back({{"name", kProjections[p]},
                                     {"elements", elements_of(made, p)},
                                     {"max_error", e.max},
                                     {"rms_error", e.rms},
                                     {"rms_weight", e.rms_given},
                                     {"relative_error", e.rms_given > 0 ? e.rms / e.rms_given : 0}});
  }
  report["output"] = options.output;
  report["bytes"] = blob.size();
  report["bits_per_weight"] = 8.0 * static_cast<double>(blob.size()) / static_cast<double>(elements);
  return report;
}

void print(const Json& report) {
  std::printf("%s -> %s, arithmetic %s\n\n", report["weights_stored"].get<std::string>().c_str(),
              report["packed"].get<std::string>().c_str(), report["arithmetic"].get<std::string>().c_str());
  std::printf(
      "| projection | weights | largest error | rms error | rms of weights | relative error |\n"
      "|---|---:|---:|---:|---:|---:|\n");
  for (const Json& p : report["projections"]) {
    std::printf("| %s | %lld | %.3g | %.3g | %.3g | %.3g |\n", p["name"].get<std::string>().c_str(),
                static_cast<long long>(p["elements"].get<std::int64_t>()), p["max_error"].get<double>(),
                p["rms_error"].get<double>(), p["rms_weight"].get<double>(), p["relative_error"].get<double>());
  }
  std::printf("\n%s: %lld bytes, %.2f bits for each weight\n", report["output"].get<std::string>().c_str(),
              static_cast<long long>(report["bytes"].get<std::int64_t>()), report["bits_per_weight"].get<double>());
}

}  // namespace

void add_quantize(CLI::App& app, int& /*status*/) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  CLI::App* command =
      app.add_subcommand("quantize", "Pack a layer's weights in another format, with the error it costs");
  add_weight_file_options(*command, o.weights);
  command->get_option("--weights")->required();
  command->add_option("--dtype", o.dtype, "Format of the packed weights: i8, u8, i4, u4, f16, bf16, f32")
      ->required()
      ->type_name("DTYPE");
  command->add_option("--group", o.group, "Inputs that share a scale, a multiple of 16 (default 0: all of an output)");
  command->add_option("--scale-dtype", o.scale_dtype, "Type of the scales: f32 (default), f16, bf16")
      ->type_name("DTYPE");
  command->add_flag("--zero-points", o.zero_points, "Every scale has a zero point");
  command->add_option("--scale", o.scale, "Factor of the scores, kept in the layer (default: 1 / sqrt(D))");
  add_arithmetic_option(*command, o.arithmetic);
  command->add_option("--output", o.output, "Where the packed layer goes")->required()->type_name("FILE");
  add_context_options(*command, o.context);
  command->add_flag("--json", o.json, "Print JSON");
  command->footer(
      "Example: mha quantize --weights model.safetensors --prefix model.layers.0.self_attn. --num-heads 32 "
      "--num-kv-heads 8 --dtype i4 --group 64 --scale-dtype f16 --output layer0.mha\n"
      "Then: mha run --layer layer0.mha --query x.npy --causal --output y.npy");
  command->callback([options] {
    const Json report = quantize(*options);
    if (options->json) {
      std::printf("%s\n", report.dump(2).c_str());
    } else {
      print(report);
    }
  });
}

}  // namespace mha::cli
