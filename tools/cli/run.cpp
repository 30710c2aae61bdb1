// SPDX-License-Identifier: Apache-2.0
// `mha run`: one layer forward on files. Reads everything, checks every shape against the weights, runs, writes.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/cli/commands.h"
#include "tools/cli/layer_weights.h"
#include "tools/cli/run_inputs.h"
#include "tools/cli/support.h"
#include "tools/io/npy.h"

namespace mha::cli {
namespace {

using Json = nlohmann::ordered_json;
using Shape = std::vector<std::int64_t>;

struct Options {
  WeightFlags weights;
  std::string layer;  // a blob instead
  InputFiles inputs;
  std::string output, attention_weights;
  std::int64_t repeat = 1;
  float scale = 0;
  std::vector<std::string> causal;
  Causal causal_choice;
  mha_arithmetic arithmetic = MHA_ARITHMETIC_F32;
  std::string attention_arithmetic;
  std::string weights_mode_word;
  mha_weights_mode weights_mode = MHA_WEIGHTS_NONE;
  ContextFlags context;
  bool json = false;
};

// A layer, the packed bytes that it may point into, and the types of the weights that it was made from.
struct LoadedLayer {
  std::vector<std::byte> blob;
  Layer layer;
  std::string stored;
};

LoadedLayer load_layer(const Options& options, const Context& context) {
  LoadedLayer loaded;
  const Progress progress("reading the layer", 1);
  if (!options.layer.empty()) {
    const io::Source source = take(io::Source::file(options.layer));
    loaded.blob = take(source.read(0, source.size()));
    auto mapped = Layer::map(context, loaded.blob);
    if (!mapped) throw Failure(options.layer + ": " + mapped.status().message());
    loaded.layer = std::move(*mapped);
    loaded.stored = "packed";
    return loaded;
  }
  const LayerWeights weights = read_layer_weights(options.weights);
  mha_layer_config config = weights.config;
  if (options.scale != 0) config.scale = options.scale;
  config.arithmetic = options.arithmetic;
  loaded.layer = take(Layer::create(context, config, weights.weights));
  loaded.stored = type_names(weights);
  return loaded;
}

Shape weights_shape(const LayerCall& args, std::int64_t heads, std::int64_t keys) {
  switch (args.results.weights_mode) {
    case MHA_WEIGHTS_AVERAGED:
      return {args.batch, args.query_len, keys};
    case MHA_WEIGHTS_KEY_SUMS:
      return {args.batch, heads, keys};
    default:
      return {args.batch, heads, args.query_len, keys};
  }
}

std::vector<float> allocate(const Shape& shape) {
  std::vector<float> values(static_cast<std::size_t>(take(io::shape_bytes(shape, sizeof(float)))) / sizeof(float));
  values.reserve(1);  // the library refuses a null pointer, also to an empty tensor
  return values;
}

// Without the leading batch of 1 where the query file had none.
Shape as_given(const Shape& shape, bool batched) { return batched ? shape : Shape(shape.begin() + 1, shape.end()); }

// The best time of --repeat calls.
double run_layer(const Options& options, const Context& context, const Layer& layer, LayerCall& args) {
  std::vector<std::byte> workspace(take(layer.workspace_bytes(context, args)));
  args.resources.workspace = workspace.data();
  args.resources.workspace_bytes = workspace.size();
  double best = 0;
  Progress progress("running", options.repeat);
  for (std::int64_t i = 0; i < options.repeat; ++i) {
    const double once = seconds_of([&] { check(layer.forward(context, args)); });
    best = i == 0 ? once : std::min(best, once);
    progress.step();
  }
  return best;
}

Json sizes_report(const LayerCall& args, const mha_layer_config& config) {
  return {{"batch", args.batch},
          {"query_len", args.query_len},
          {"key_len", args.key_len},
          {"embed_dim", config.embed_dim},
          {"kdim", config.kdim},
          {"vdim", config.vdim},
          {"out_dim", config.out_dim},
          {"num_heads", config.num_heads},
          {"num_kv_heads", config.num_kv_heads},
          {"head_dim", config.head_dim},
          {"value_head_dim", config.value_head_dim}};
}

// Everything that --json prints; the text form prints the same keys.
Json run(const Options& options) {
  const Context context = make_context(options.context);
  const LoadedLayer loaded = load_layer(options, context);
  const mha_layer_config config = loaded.layer.config();
  Inputs inputs;
  LayerCall args = read_inputs(options.inputs, options.causal_choice, config, inputs);
  args.arithmetic = attention_arithmetic(options.attention_arithmetic, config.arithmetic);

  const Shape output_shape = {args.batch, args.query_len, config.out_dim};
  std::vector<float> output = allocate(output_shape);
  args.output = mut_view(output.data());
  args.results.weights_mode = options.weights_mode;
  const Shape weights_size = weights_shape(args, config.num_heads, args.key_len + loaded.layer.added_keys());
  std::vector<float> weights;
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) {
    weights = allocate(weights_size);
    args.results.weights = mut_view(weights.data());
  }
  const double best = run_layer(options, context, loaded.layer, args);

  const bool batched = inputs.query.batched;
  take(io::write_npy(options.output, as_given(output_shape, batched), output.data()));
  Json report = sizes_report(args, config);
  report["target"] = context.target();
  report["threads"] = context.num_threads();
  report["weights_stored"] = loaded.stored;
  report["arithmetic"] = arithmetic_name(config.arithmetic);
  report["attention_arithmetic"] = arithmetic_name(args.arithmetic);
  report["workspace_bytes"] = args.resources.workspace_bytes;
  report["seconds"] = best;
  report["output"] = as_given(output_shape, batched);
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) {
    take(io::write_npy(options.attention_weights, as_given(weights_size, batched), weights.data()));
    report["attention_weights"] = as_given(weights_size, batched);
  }
  return report;
}

void print(const Options& options, const Json& report) {
  const auto number = [&](const char* key) { return static_cast<long long>(report[key].get<std::int64_t>()); };
  std::printf(
      "shapes   B %lld, Tq %lld, Tk %lld, E %lld (kdim %lld, vdim %lld, out %lld), H %lld (Hkv %lld), D %lld (Dv "
      "%lld)\n",
      number("batch"), number("query_len"), number("key_len"), number("embed_dim"), number("kdim"), number("vdim"),
      number("out_dim"), number("num_heads"), number("num_kv_heads"), number("head_dim"), number("value_head_dim"));
  std::printf("target   %s (%s), up to %lld threads\n", report["target"].get<std::string>().c_str(),
              target_reason(options.context).c_str(), number("threads"));
  std::printf("stored   %s; arithmetic %s, of attention %s\n", report["weights_stored"].get<std::string>().c_str(),
              report["arithmetic"].get<std::string>().c_str(),
              report["attention_arithmetic"].get<std::string>().c_str());
  std::printf("time     %s%s\n", time_text(report["seconds"].get<double>()).c_str(),
              options.repeat > 1 ? (" (best of " + std::to_string(options.repeat) + ")").c_str() : " (first call)");
  std::printf("output   %s %s\n", options.output.c_str(), io::shape_text(report["output"].get<Shape>()).c_str());
  if (report.contains("attention_weights")) {
    std::printf("weights  %s %s\n", options.attention_weights.c_str(),
                io::shape_text(report["attention_weights"].get<Shape>()).c_str());
  }
}

void check_options(Options& options) {
  if (options.weights.path.empty() && options.layer.empty())
    throw Failure("--weights FILE or --layer FILE is required");
  if (options.repeat < 1) throw Failure("--repeat is " + std::to_string(options.repeat) + ", must be at least 1");
  if (!options.weights_mode_word.empty()) {
    options.weights_mode = parse_weights_mode(options.weights_mode_word);
  } else if (!options.attention_weights.empty()) {
    options.weights_mode = MHA_WEIGHTS_PER_HEAD;
  }
  if ((options.weights_mode != MHA_WEIGHTS_NONE) != !options.attention_weights.empty()) {
    throw Failure(options.attention_weights.empty() ? "--weights-mode needs --attention-weights FILE to write to"
                                                    : "--attention-weights needs a --weights-mode other than none");
  }
}

void add_options(CLI::App& command, Options& o) {
  add_weight_file_options(command, o.weights);
  command.add_option("--layer", o.layer, "A layer that mha quantize packed, instead of --weights")->type_name("FILE");
  InputFiles& files = o.inputs;
  command.add_option("--query", files.query, "Query, [T, E] or [B, T, E]")->required()->type_name("FILE.npy");
  command.add_option("--key", files.key, "Key (default: the query)")->type_name("FILE.npy");
  command.add_option("--value", files.value, "Value (default: the key)")->type_name("FILE.npy");
  command
      .add_option("--mask", files.mask,
                  "Mask, [Tq, Tk], [B, Tq, Tk] or [B, H, Tq, Tk], where B, H and Tq may be 1; boolean: True = attend, "
                  "float: added to the scores")
      ->type_name("FILE.npy");
  command
      .add_option("--key-lengths", files.key_lengths,
                  "Integers [B]: item b has that many keys, what follows is padding")
      ->type_name("FILE.npy");
  add_arithmetic_option(command, o.arithmetic);
  add_attention_arithmetic_option(command, o.attention_arithmetic);
  add_causal_option(command, o.causal);
  command.add_option("--scale", o.scale, "Factor of the scores (default: 1 / sqrt(D), or what the file says)");
  add_weights_mode_option(command, o.weights_mode_word,
                          "Attention weights to write: none, per-head, averaged, key-sums (default: per-head with "
                          "--attention-weights)");
  command.add_option("--output", o.output, "Where the output goes")->required()->type_name("FILE.npy");
  command.add_option("--attention-weights", o.attention_weights, "Where the attention weights go")
      ->type_name("FILE.npy");
  command.add_option("--repeat", o.repeat, "Run that many times and report the best time");
  add_context_options(command, o.context);
  command.add_flag("--json", o.json, "Print JSON");
  CLI::Option* layer = command.get_option("--layer");
  for (const char* other : {"--weights", "--prefix", "--num-heads", "--num-kv-heads", "--scale", "--arithmetic"}) {
    layer->excludes(command.get_option(other));
  }
}

}  // namespace

void add_run(CLI::App& app, int& /*status*/) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("run", "Run one attention layer on .npy files with weights from .safetensors or GGUF");
  add_options(*command, *options);
  command->footer(
      "Example: mha run --weights layer.safetensors --query x.npy --num-heads 12 --causal --output y.npy\n"
      "From a model: mha run --weights model.safetensors --prefix model.layers.0.self_attn. --num-heads 32 "
      "--num-kv-heads 8 --query x.npy --causal --output y.npy\n"
      "GGUF: mha run --weights model.gguf --prefix blk.0. --query x.npy --causal --output y.npy\n"
      "Weights stay in the type in which the file stores them. Projections and attention only: queries and keys are "
      "not "
      "rotated.");
  command->callback([options, command] {
    check_options(*options);
    options->causal_choice = parse_causal(*command, options->causal);
    const Json report = run(*options);
    if (options->json) {
      std::printf("%s\n", report.dump(2).c_str());
    } else {
      print(*options, report);
    }
  });
}

}  // namespace mha::cli
