// SPDX-License-Identifier: Apache-2.0
// `mha run`: one layer forward on files. Reads everything, checks every shape against the weights, runs, writes.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/cli/commands.h"
#include "tools/cli/support.h"
#include "tools/cli/torch_weights.h"
#include "tools/io/npy.h"

namespace mha::cli {
namespace {

using Json = nlohmann::ordered_json;
using Shape = std::vector<std::int64_t>;

struct Options {
  std::string weights, query, key, value, mask, key_lengths, output, attention_weights, prefix;
  std::int64_t num_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t repeat = 1;
  float scale = 0;
  std::vector<std::string> causal;
  Causal causal_choice;
  mha_arithmetic arithmetic = MHA_ARITHMETIC_F32;
  std::string weights_mode_word;
  mha_weights_mode weights_mode = MHA_WEIGHTS_NONE;
  ContextFlags context;
  bool json = false;
};

// A query, key or value file: [T, width] or [B, T, width].
struct Input {
  std::string path;
  io::Tensor<float> tensor;
  bool batched = false;
  std::int64_t batch = 1;
  std::int64_t length = 0;
};

Input read_input(const std::string& path, const std::string& role, std::int64_t width) {
  Input input{path, take(io::read_npy<float>(path))};
  const Shape& shape = input.tensor.shape;
  const std::string what = path + ": " + role + " of shape " + io::shape_text(shape);
  if (shape.size() != 2 && shape.size() != 3) throw Failure(what + " must be [T, width] or [B, T, width]");
  if (shape.back() != width) {
    throw Failure(what + " has width " + std::to_string(shape.back()) + ", the weights take " + std::to_string(width));
  }
  input.tensor.values.reserve(1);  // an empty key is not a missing one: its pointer must not be null
  input.batched = shape.size() == 3;
  input.batch = input.batched ? shape[0] : 1;
  input.length = shape[shape.size() - 2];
  return input;
}

void require_same(const Input& input, const std::string& role, const std::string& what, std::int64_t got,
                  std::int64_t wanted) {
  if (got == wanted) return;
  throw Failure(input.path + ": " + role + " of shape " + io::shape_text(input.tensor.shape) + " has " + what + " " +
                std::to_string(got) + ", expected " + std::to_string(wanted));
}

struct Inputs {
  Input query, key, value;
  io::Tensor<std::uint8_t> bool_mask;
  io::Tensor<float> add_mask;
  io::Tensor<std::int64_t> key_lengths;
};

// The strides over which a mask of 2 to 4 dimensions is broadcast to [B, H, Tq, Tk]; a dimension of 1 is broadcast.
struct MaskStrides {
  std::int64_t b = 0, h = 0, q = 0;
};
MaskStrides mask_strides(const std::string& path, const Shape& shape, const LayerCall& args, std::int64_t heads) {
  const std::size_t rank = shape.size();
  const auto fits = [&](std::size_t from_last, std::int64_t full) {
    return rank < from_last || shape[rank - from_last] == full || shape[rank - from_last] == 1;
  };
  const bool batch_fits = rank == 3 ? fits(3, args.batch) : fits(3, heads) && fits(4, args.batch);
  if (rank < 2 || rank > 4 || shape.back() != args.key_len || !fits(2, args.query_len) || !batch_fits) {
    throw Failure(path + ": mask of shape " + io::shape_text(shape) +
                  " must be [Tq, Tk], [B, Tq, Tk] or [B, H, Tq, Tk] with B = " + std::to_string(args.batch) +
                  ", H = " + std::to_string(heads) + ", Tq = " + std::to_string(args.query_len) +
                  ", Tk = " + std::to_string(args.key_len) + " (B, H and Tq may be 1)");
  }
  const auto stride = [&](std::size_t from_last) -> std::int64_t {
    if (rank < from_last || shape[rank - from_last] == 1) return 0;
    std::int64_t product = 1;
    for (std::size_t i = rank - from_last + 1; i < rank; ++i) product *= shape[i];
    return product;
  };
  if (rank == 3) return {stride(3), 0, stride(2)};
  return {stride(4), stride(3), stride(2)};
}

void read_masks(const Options& options, std::int64_t heads, Inputs& inputs, LayerCall& args) {
  args.arithmetic = options.arithmetic;
  args.causal = options.causal_choice.causal;
  args.positions = options.causal_choice.positions;
  if (!options.mask.empty()) {
    const io::Source source = take(io::Source::file(options.mask));
    const io::Scalar scalar = take(io::read_npy_header(source)).scalar;
    if (scalar == io::Scalar::kBool || scalar == io::Scalar::kU8) {
      inputs.bool_mask = take(io::read_npy<std::uint8_t>(source));
      inputs.bool_mask.values.reserve(1);  // as above
      const auto strides = mask_strides(options.mask, inputs.bool_mask.shape, args, heads);
      args.masks.bool_mask = {inputs.bool_mask.values.data(), strides.b, strides.h, strides.q, 1};
    } else {
      inputs.add_mask = take(io::read_npy<float>(source));
      inputs.add_mask.values.reserve(1);
      const auto strides = mask_strides(options.mask, inputs.add_mask.shape, args, heads);
      args.masks.add_mask = {inputs.add_mask.values.data(), MHA_F32, 0, strides.b, strides.h, strides.q, 1};
    }
  }
  if (!options.key_lengths.empty()) {
    inputs.key_lengths = take(io::read_npy<std::int64_t>(options.key_lengths));
    if (inputs.key_lengths.shape != Shape{args.batch}) {
      throw Failure(options.key_lengths + ": key lengths of shape " + io::shape_text(inputs.key_lengths.shape) +
                    " must be " + io::shape_text({args.batch}) + ", one for each batch item");
    }
    if (args.causal != 0 && args.positions.align == MHA_ALIGN_DEFAULT) {
      throw Failure(
          "--causal beside --key-lengths must say where queries stand: top-left (padded prompts), bottom-right (at the "
          "end of each item's keys) or offset N");
    }
    args.items.key_lengths = inputs.key_lengths.values.data();
  }
}

LayerCall read_inputs(const Options& options, const mha_layer_config& config, Inputs& inputs) {
  inputs.query = read_input(options.query, "query", config.embed_dim);
  LayerCall args;
  args.batch = inputs.query.batch;
  args.query_len = args.key_len = inputs.query.length;
  args.query = view(inputs.query.tensor.values.data());
  if (options.key.empty() && config.kdim != config.embed_dim) {
    throw Failure("--key is needed: the weights take keys of width " + std::to_string(config.kdim) +
                  ", queries of width " + std::to_string(config.embed_dim));
  }
  if (options.value.empty() && config.vdim != config.kdim) {
    throw Failure("--value is needed: the weights take values of width " + std::to_string(config.vdim) +
                  ", keys of width " + std::to_string(config.kdim));
  }
  if (!options.key.empty()) {
    inputs.key = read_input(options.key, "key", config.kdim);
    require_same(inputs.key, "key", "batch", inputs.key.batch, args.batch);
    args.key_len = inputs.key.length;
    args.key = view(inputs.key.tensor.values.data());
  }
  if (!options.value.empty()) {
    inputs.value = read_input(options.value, "value", config.vdim);
    require_same(inputs.value, "value", "batch", inputs.value.batch, args.batch);
    require_same(inputs.value, "value", "length", inputs.value.length, args.key_len);
    args.value = view(inputs.value.tensor.values.data());
  }
  return args;
}

Shape weights_shape(const LayerCall& args, std::int64_t heads) {
  if (args.results.weights_mode == MHA_WEIGHTS_AVERAGED) return {args.batch, args.query_len, args.key_len};
  return {args.batch, heads, args.query_len, args.key_len};
}

std::vector<float> allocate(const Shape& shape) {
  std::vector<float> values(static_cast<std::size_t>(take(io::shape_bytes(shape, sizeof(float)))) / sizeof(float));
  values.reserve(1);  // as above
  return values;
}

// Without the leading batch of 1 where the query file had none.
Shape as_given(const Shape& shape, bool batched) { return batched ? shape : Shape(shape.begin() + 1, shape.end()); }

// Everything that --json prints; the text form prints the same keys.
Json run(const Options& options) {
  const Context context = make_context(options.context);
  const TorchWeights torch =
      read_torch_weights(options.weights, options.prefix, options.num_heads, options.num_kv_heads);
  mha_layer_config config = torch.config;
  config.scale = options.scale;
  config.arithmetic = options.arithmetic;
  Inputs inputs;
  LayerCall args = read_inputs(options, config, inputs);
  read_masks(options, config.num_heads, inputs, args);

  const Layer layer = take(Layer::create(context, config, torch.weights));

  const Shape output_shape = {args.batch, args.query_len, config.out_dim};
  std::vector<float> output = allocate(output_shape);
  args.output = mut_view(output.data());
  args.results.weights_mode = options.weights_mode;
  std::vector<float> weights;
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) {
    weights = allocate(weights_shape(args, config.num_heads));
    args.results.weights = mut_view(weights.data());
  }

  const auto workspace_bytes = take(layer.workspace_bytes(context, args));
  std::vector<std::byte> workspace(workspace_bytes);
  args.resources.workspace = workspace.data();
  args.resources.workspace_bytes = workspace_bytes;
  double best = 0;
  {
    Progress progress("running", options.repeat);
    for (std::int64_t i = 0; i < options.repeat; ++i) {
      const double once = seconds_of([&] { check(layer.forward(context, args)); });
      best = i == 0 ? once : std::min(best, once);
      progress.step();
    }
  }

  const bool batched = inputs.query.batched;
  take(io::write_npy(options.output, as_given(output_shape, batched), output.data()));
  Json report = {{"batch", args.batch},
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
  report["target"] = context.target();
  report["threads"] = context.num_threads();
  report["workspace_bytes"] = workspace_bytes;
  report["seconds"] = best;
  report["output"] = as_given(output_shape, batched);
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) {
    const Shape shape = as_given(weights_shape(args, config.num_heads), batched);
    take(io::write_npy(options.attention_weights, shape, weights.data()));
    report["attention_weights"] = shape;
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
  std::printf("time     %s%s\n", time_text(report["seconds"].get<double>()).c_str(),
              options.repeat > 1 ? (" (best of " + std::to_string(options.repeat) + ")").c_str() : " (first call)");
  std::printf("output   %s %s\n", options.output.c_str(), io::shape_text(report["output"].get<Shape>()).c_str());
  if (report.contains("attention_weights")) {
    std::printf("weights  %s %s\n", options.attention_weights.c_str(),
                io::shape_text(report["attention_weights"].get<Shape>()).c_str());
  }
}

void check_options(Options& options) {
  if (options.repeat < 1) throw Failure("--repeat is " + std::to_string(options.repeat) + ", must be at least 1");
  if (!options.weights_mode_word.empty()) {
    options.weights_mode = parse_weights_mode(options.weights_mode_word);
  } else if (!options.attention_weights.empty()) {
    options.weights_mode = MHA_WEIGHTS_PER_HEAD;
  }
  if ((options.weights_mode != MHA_WEIGHTS_NONE) != !options.attention_weights.empty()) {
    throw Failure(options.attention_weights.empty() ? "--weights-mode needs --attention-weights FILE to write to"
                                                    : "--attention-weights needs --weights-mode per-head or averaged");
  }
}

void add_options(CLI::App& command, Options& o) {
  command
      .add_option("--weights", o.weights, "Weights, named as in torch's nn.MultiheadAttention or Hugging Face's models")
      ->required()
      ->type_name("FILE.safetensors");
  command.add_option("--prefix", o.prefix, "What stands before the tensor names, e.g. model.layers.0.self_attn.");
  command.add_option("--query", o.query, "Query, [T, E] or [B, T, E]")->required()->type_name("FILE.npy");
  command.add_option("--key", o.key, "Key (default: the query)")->type_name("FILE.npy");
  command.add_option("--value", o.value, "Value (default: the key)")->type_name("FILE.npy");
  command.add_option("--num-heads", o.num_heads, "Query heads")->required();
  command.add_option("--num-kv-heads", o.num_kv_heads,
                     "Key and value heads, fewer where queries are grouped (default: as many)");
  command
      .add_option("--mask", o.mask,
                  "Mask, [Tq, Tk], [B, Tq, Tk] or [B, H, Tq, Tk], where B, H and Tq may be 1; boolean: True = attend, "
                  "float: added to the scores")
      ->type_name("FILE.npy");
  command
      .add_option("--key-lengths", o.key_lengths, "Integers [B]: item b has that many keys, what follows is padding")
      ->type_name("FILE.npy");
  add_arithmetic_option(command, o.arithmetic);
  add_causal_option(command, o.causal);
  command.add_option("--scale", o.scale, "Factor of the scores (default: 1 / sqrt(D))");
  add_weights_mode_option(command, o.weights_mode_word,
                          "Attention weights to write (default: per-head with --attention-weights)");
  command.add_option("--output", o.output, "Where the output goes")->required()->type_name("FILE.npy");
  command.add_option("--attention-weights", o.attention_weights, "Where the attention weights go")
      ->type_name("FILE.npy");
  command.add_option("--repeat", o.repeat, "Run that many times and report the best time");
  add_context_options(command, o.context);
  command.add_flag("--json", o.json, "Print JSON");
}

}  // namespace

void add_run(CLI::App& app, int& /*status*/) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("run", "Run one attention layer on .npy files with weights from .safetensors");
  add_options(*command, *options);
  command->footer(
      "Example: mha run --weights layer.safetensors --query x.npy --num-heads 12 --causal --output y.npy\n"
      "From a model: mha run --weights model.safetensors --prefix model.layers.0.self_attn. --num-heads 32 "
      "--num-kv-heads 8 --query x.npy --causal --output y.npy\n"
      "Projections and attention only: queries and keys are not rotated.");
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
