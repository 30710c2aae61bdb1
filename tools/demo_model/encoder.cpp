// SPDX-License-Identifier: Apache-2.0
// mha_encoder: turns token ids into sentence embeddings, all sentences padded in one batch and one by one, and times
// both.
//   mha_encoder --model DIR --tokens IDS.safetensors --output EMBEDDINGS.safetensors [--arithmetic bf16]
// DIR has config.json and model.safetensors (BERT in Hugging Face's naming). IDS has the integer tensors "ids" [S, W]
// and "lengths" [S]; EMBEDDINGS gets "padded" and "single", [S, hidden] each. stdout: one JSON object with the
// times. Exit status 2, with one line on stderr, when something is wrong with the arguments or a file.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "tools/demo_model/bert.h"

namespace {

using mha::demo::Bert;
using mha::demo::TokenBatch;

struct Options {
  std::string model, tokens, output, target;
  std::string format = "f32";
  int64_t threads = 0;
  int64_t repeat = 1;
};

TokenBatch read_tokens(const std::string& path) {
  const auto file = mha::io::Safetensors::open(path);
  if (!file) throw std::runtime_error(file.message());
  const auto ids = file->read<int64_t>("ids");
  if (!ids) throw std::runtime_error(ids.message());
  const auto lengths = file->read<int64_t>("lengths");
  if (!lengths) throw std::runtime_error(lengths.message());
  if (ids->shape.size() != 2 || lengths->shape != std::vector<int64_t>{ids->shape[0]})
    throw std::runtime_error(path + ": want ids [S, W] and lengths [S], found " + mha::io::shape_text(ids->shape) +
                             " and " + mha::io::shape_text(lengths->shape));
  return {ids->shape[0], ids->shape[1], ids->values, lengths->values};
}

/// A line on a terminal's stderr that rewrites itself; silent elsewhere.
void show_progress(const std::string& text) {
  static const bool terminal = isatty(STDERR_FILENO) == 1;
  if (!terminal) return;
  std::fprintf(stderr, "\r\033[K%s", text.c_str());
  std::fflush(stderr);
}

std::vector<std::string> supported_targets() {
  std::vector<std::string> names;
  for (int64_t n = 0; n < mha_target_count(); ++n)
    if (mha_target_supported(n)) names.push_back(mha_target_name(n));
  return names;
}

struct Run {
  std::vector<float> embeddings;
  std::vector<double> seconds;  // one per repetition
};

/// Once to warm up, then `repeat` times against the clock.
Run timed(const std::string& what, int64_t repeat, const std::function<std::vector<float>()>& encode) {
  Run run;
  show_progress("mha: " + what + ", warming up");
  run.embeddings = encode();
  for (int64_t n = 0; n < repeat; ++n) {
    show_progress("mha: " + what + ", run " + std::to_string(n + 1) + " of " + std::to_string(repeat));
    const auto start = std::chrono::steady_clock::now();
    const std::vector<float> again = encode();
    run.seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    if (again != run.embeddings) throw std::runtime_error(what + ": two runs gave different embeddings");
  }
  show_progress("");
  return run;
}

void run(const Options& options) {
  mha_context_options context_options = {};
  context_options.num_threads = options.threads;
  context_options.target = options.target.empty() ? nullptr : options.target.c_str();
  const mha::Context context = mha::demo::require(mha::Context::create(context_options));

  const TokenBatch tokens = read_tokens(options.tokens);
  const auto config = mha::demo::BertConfig::read(options.model + "/config.json");
  Bert model(context, config, options.model + "/model.safetensors", mha::demo::ProductFormat::named(options.format));

  const Run padded = timed("one padded batch", options.repeat, [&] { return model.encode(tokens); });
  const Run single = timed("one by one", options.repeat, [&] {
    std::vector<float> all;
    for (int64_t b = 0; b < tokens.batch; ++b) {
      const std::vector<float> one = model.encode(tokens.item(b));
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  });

  const std::vector<int64_t> shape = {tokens.batch, config.hidden};
  const auto written = mha::io::write_safetensors(
      options.output, {{"padded", {shape, padded.embeddings}}, {"single", {shape, single.embeddings}}});
  if (!written) throw std::runtime_error(written.message());
  const nlohmann::json report = {{"target", context.target()},
                                 {"supported_targets", supported_targets()},
                                 {"threads", context.num_threads()},
                                 {"padded_seconds", padded.seconds},
                                 {"single_seconds", single.seconds}};
  std::printf("%s\n", report.dump().c_str());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Options options;
    CLI::App app("Sentence embeddings with libmha");
    app.add_option("--model", options.model, "folder with config.json and model.safetensors")->required();
    app.add_option("--tokens", options.tokens, ".safetensors file with ids [S, W] and lengths [S]")->required();
    app.add_option("--output", options.output, ".safetensors file to write")->required();
    app.add_option("--threads", options.threads, "0: the CPUs allowed")->check(CLI::Range(0, 1024));
    app.add_option("--target", options.target, "instruction-set target (default: the best)");
    app.add_option(
           "--arithmetic", options.format,
           "of attention and of all products: f32 or bf16; int8, int8_rows, int4: of products over such weights")
        ->check(CLI::IsMember({"f32", "bf16", "int8", "int8_rows", "int4"}));
    app.add_option("--repeat", options.repeat, "timed runs of each mode")->check(CLI::Range(0, 1000));
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      return app.exit(error) == 0 ? 0 : 2;
    }
    run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mha_encoder: %s\n", error.what());
    return 2;
  }
  return 0;
}
