// SPDX-License-Identifier: Apache-2.0
// `mha notebook`: the demo. Runs the notebook's system in its two meanings, compares it with double precision and with
// PyTorch, and times the layer against the naive reference loops at the notebook's size and at a realistic one.
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/reference/reference.h"
#include "tools/cli/commands.h"
#include "tools/cli/notebook_system.h"
#include "tools/cli/support.h"

namespace mha::cli {
namespace {

using Json = nlohmann::ordered_json;

// Largest difference to double precision and to PyTorch that passes; values are of magnitude 1, float's epsilon
// is 1.2e-7.
constexpr double kBound = 5e-7;
// At the realistic size against the naive loops, which add up 768 products one by one and round each.
constexpr double kNaiveBound = 1e-4;

struct Options {
  std::string data;  // empty: the copy that is installed with the command
  ContextFlags context;
  bool full = false;
  bool quick = false;
  bool json = false;
};

// `columns` numbers a line.
void print_row(const float* values, std::int64_t count, std::int64_t columns, const char* indent) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (i % columns == 0) std::printf("%s%s", i == 0 ? "" : "\n", indent);
    std::printf(" %8.4f", static_cast<double>(values[i]));
  }
  std::printf("\n");
}

void print_differences(const NotebookResult& result) {
  std::printf("  largest difference to the double reference %.1e, to PyTorch %.1e (bound %.0e)\n\n",
              result.reference_difference, result.golden_difference, kBound);
}

void print_standard(const NotebookResult& result) {
  std::printf("Standard attention: each head attends over the 10 positions\n  output [1, 20]\n");
  print_row(result.output.data(), Notebook::kWidth, 10, "   ");
  std::printf("  attention weights [4, 1, 10]\n");
  for (std::int64_t h = 0; h < Notebook::kHeads; ++h) {
    std::printf("    head %lld", static_cast<long long>(h));
    print_row(result.weights.data() + h * Notebook::kPositions, Notebook::kPositions, 10, "");
  }
  print_differences(result);
}

void print_literal(const NotebookResult& result, bool full) {
  std::printf(
      "The notebook's code as written: at each position, heads attend over that position's heads\n"
      "  (the same call on a strided view: batch = positions, query broadcast, sequence = heads)\n"
      "  output [1, 10, 20], attention weights [1, 10, 4, 4]\n");
  const std::int64_t shown = full ? Notebook::kPositions : 2;
  for (std::int64_t p = 0; p < shown; ++p) {
    std::printf("  position %lld, output\n", static_cast<long long>(p));
    print_row(result.output.data() + p * Notebook::kWidth, Notebook::kWidth, 10, "   ");
    for (std::int64_t h = 0; h < Notebook::kHeads; ++h) {
      std::printf("    head %lld over heads", static_cast<long long>(h));
      print_row(result.weights.data() + (p * Notebook::kHeads + h) * Notebook::kHeads, Notebook::kHeads, 10, "");
    }
  }
  if (!full) std::printf("  (positions 2 to 9: --full)\n");
  print_differences(result);
}

struct Timing {
  double naive = 0;
  double ours_one_thread = 0;
  double ours = 0;
  double difference = 0;  // to the naive result
};

// Times one layer forward, packed once, with a workspace, against reference::forward<float>.
Timing time_layer(const ContextFlags& flags, const mha_layer_config& config, const mha_layer_weights& weights,
                  LayerCall args, double budget) {
  std::vector<float> output(static_cast<std::size_t>(args.batch * args.query_len * config.embed_dim));
  std::vector<float> naive(output.size());
  args.output = mut_view(output.data());
  const auto ours = [&](std::int64_t threads) {
    ContextFlags limited = flags;
    limited.threads = threads;
    const Context context = make_context(limited);
    const Layer layer = take(Layer::create(context, config, weights));
    args.resources = {};
    std::vector<std::byte> workspace(take(layer.workspace_bytes(context, args)));
    args.resources.workspace = workspace.data();
    args.resources.workspace_bytes = workspace.size();
    return best_seconds(budget, [&] { check(layer.forward(context, args)); });
  };
  Timing timing;
  timing.ours_one_thread = ours(1);
  timing.ours = ours(flags.threads);
  const mha_layer_args call = args.raw();
  timing.naive = best_seconds(budget, [&] { reference::forward<float>(config, weights, call, naive.data(), nullptr); });
  timing.difference = max_difference(output, naive);
  return timing;
}

Timing time_notebook(const ContextFlags& flags, const Notebook& notebook) {
  return time_layer(flags, notebook.config(), notebook.weights(), notebook.forward_args(), 0.05);
}

// Self-attention over 512 positions of width 768 with 12 heads, weights as a trained model's in magnitude.
Timing time_realistic(const ContextFlags& flags) {
  constexpr std::int64_t kLength = 512;
  constexpr std::int64_t kEmbed = 768;
  const std::vector<float> input = random_values(kLength * kEmbed, 1);
  std::vector<float> in_proj = random_values(3 * kEmbed * kEmbed, 2);
  std::vector<float> out_proj = random_values(kEmbed * kEmbed, 3);
  for (float& w : in_proj) w *= 0.0625F;
  for (float& w : out_proj) w *= 0.0625F;
  const std::vector<float> bias = random_values(3 * kEmbed, 4);
  mha_layer_config config{};
  config.embed_dim = kEmbed;
  config.num_heads = 12;
  mha_layer_weights weights{};
  weights.in_proj_weight = view(in_proj.data());
  weights.in_proj_bias = bias.data();
  weights.output_weight = view(out_proj.data());
  weights.output_bias = bias.data();
  LayerCall args;
  args.batch = 1;
  args.query_len = args.key_len = kLength;
  args.query = view(input.data());
  const Progress progress("timing T 512, E 768, H 12", 1);
  return time_layer(flags, config, weights, args, 0.2);
}

void print_timing(const char* size, const Timing& timing, std::int64_t threads) {
  std::printf("  %-38s naive %8s   mha, 1 thread %8s (%.0fx)", size, time_text(timing.naive).c_str(),
              time_text(timing.ours_one_thread).c_str(), timing.naive / timing.ours_one_thread);
  if (threads > 1) {
    std::printf(", %lld threads %8s (%.0fx)", static_cast<long long>(threads), time_text(timing.ours).c_str(),
                timing.naive / timing.ours);
  }
  std::printf("\n");
}

Json timing_json(const Timing& timing) {
  return {{"naive_seconds", timing.naive},
          {"seconds_one_thread", timing.ours_one_thread},
          {"seconds", timing.ours},
          {"difference_to_naive", timing.difference}};
}

Json result_json(const NotebookResult& result) {
  return {{"output", result.output},
          {"weights", result.weights},
          {"difference_to_reference", result.reference_difference},
          {"difference_to_pytorch", result.golden_difference}};
}

// The copy beside the command: <prefix>/bin/mha has it in <prefix>/share/mha; a build has the same form.
std::string installed_data() {
  std::error_code code;
  const std::filesystem::path command = std::filesystem::read_symlink("/proc/self/exe", code);
  const std::filesystem::path file = command.parent_path().parent_path() / "share/mha/notebook.safetensors";
  if (code || !std::filesystem::exists(file, code)) {
    throw Failure("the demo's data is not there (" + file.string() + "): give --data FILE " +
                  "(tests/golden/notebook.safetensors of the sources)");
  }
  return file.string();
}

bool passes(const NotebookResult& result) {
  return result.reference_difference <= kBound && result.golden_difference <= kBound;
}

int run(const Options& options) {
  const Notebook notebook = read_notebook(options.data.empty() ? installed_data() : options.data);
  const Context context = make_context(options.context);
  const std::int64_t threads = context.num_threads();
  const NotebookResult standard = run_standard(context, notebook);
  const NotebookResult literal = run_literal(context, notebook);
  bool ok = passes(standard) && passes(literal);
  Json report = {{"target", context.target()},
                 {"threads", threads},
                 {"bound", kBound},
                 {"standard", result_json(standard)},
                 {"literal", result_json(literal)}};
  if (!options.json) {
    std::printf(
        "The notebook: query 1x20, key and value 10x20, embed_dim 20, 4 heads, projections with bias; on %s\n\n",
        context.target());
    print_standard(standard);
    print_literal(literal, options.full);
    std::printf("Time of the whole layer, against the naive loops in float on one thread\n");
  }
  const Timing small = time_notebook(options.context, notebook);
  report["notebook_size"] = timing_json(small);
  if (!options.json) print_timing("notebook (Tq 1, Tk 10, E 20, H 4)", small, threads);
  if (!options.quick) {
    const Timing large = time_realistic(options.context);
    ok = ok && large.difference <= kNaiveBound;
    report["realistic_size"] = timing_json(large);
    if (!options.json) {
      print_timing("realistic (T 512, E 768, H 12)", large, threads);
      std::printf("  largest difference to the naive loops there %.1e (bound %.0e)\n", large.difference, kNaiveBound);
    }
  }
  report["ok"] = ok;
  if (options.json) std::printf("%s\n", report.dump(2).c_str());
  if (!options.json && !ok) std::printf("FAIL: a difference is beyond its bound\n");
  return ok ? 0 : 1;
}

}  // namespace

void add_notebook(CLI::App& app, int& status) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("notebook", "The demo: the notebook's attention, checked and timed");
  command
      ->add_option("--data", options->data,
                   "The notebook's inputs, weights and PyTorch's results (default: those installed)")
      ->type_name("FILE.safetensors");
  command->add_flag("--full", options->full, "Print every position of the literal form");
  command->add_flag("--quick", options->quick, "Leave out the timing at the realistic size");
  command->add_flag("--json", options->json, "Print JSON");
  add_context_options(*command, options->context);
  command->callback([options, &status] { status = run(*options); });
}

}  // namespace mha::cli
