// SPDX-License-Identifier: Apache-2.0
// mha_decoder: generates greedily with a small Llama through libmha.
//   mha_decoder check --model WEIGHTS.safetensors --expected EXPECTED.safetensors
//   mha_decoder time  --model WEIGHTS.safetensors --expected EXPECTED.safetensors
//   mha_decoder formats --model WEIGHTS.safetensors --expected EXPECTED.safetensors [--format NAME]...
// EXPECTED has "prompts" [tokens of all, packed], "prompt_offsets" [S+1], torch's "tokens" [S, N] and "logits" [S, N,
// vocabulary], and "long_prompt" [T], whose prefill is timed. check: every kind of cache and every schedule against
// torch and, bit for bit, against each other. formats: caches of other formats beside floats. stdout: one JSON object. Exit status 1: something differs; 2, with one
// line on stderr: something is wrong with the arguments or a file.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "tools/demo_decode/checks.h"
#include "tools/demo_decode/formats.h"
#include "tools/demo_decode/timing.h"

namespace {

using mha::demo::Expected;

struct Options {
  std::string model, expected, target;
  int64_t threads = 0;
  int64_t repeat = 1;
  std::vector<std::string> formats = mha::demo::format_names();
};

void add_options(CLI::App& app, Options& options) {
  app.add_option("--model", options.model, ".safetensors file with the weights")->required();
  app.add_option("--expected", options.expected, ".safetensors file with prompts and torch's results")->required();
  app.add_option("--threads", options.threads, "0: the CPUs allowed")->check(CLI::Range(0, 1024));
  app.add_option("--target", options.target, "instruction-set target (default: the best)");
}

int run_check(const Options& options) {
  const Expected expected = Expected::read(options.expected);
  const nlohmann::json report = mha::demo::check(options.model, expected, options.target, options.threads);
  std::printf("%s\n", report.dump().c_str());
  for (const auto& check : report.at("checks"))
    if (!check.at("ok")) return 1;
  return 0;
}

int run_time(const Options& options) {
  const Expected expected = Expected::read(options.expected);
  const auto report = mha::demo::time(options.model, expected, options.target, options.threads, options.repeat);
  std::printf("%s\n", report.dump().c_str());
  return 0;
}

int run_formats(const Options& options) {
  const Expected expected = Expected::read(options.expected);
  const nlohmann::json report =
      mha::demo::compare_formats(options.model, expected, options.formats, options.target, options.threads);
  std::printf("%s\n", report.dump().c_str());
  for (const auto& format : report.at("formats"))
    if (!format.at("same_bits")) return 1;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Options options;
    CLI::App app("Greedy generation with libmha");
    app.require_subcommand(1);
    CLI::App* check = app.add_subcommand("check", "compare with torch and the schedules with each other");
    CLI::App* time = app.add_subcommand("time", "seconds of prefill and decode");
    add_options(*check, options);
    CLI::App* formats = app.add_subcommand("formats", "caches of other formats beside one of floats");
    add_options(*time, options);
    add_options(*formats, options);
    formats->add_option("--format", options.formats, "some of them (default: all)")
        ->check(CLI::IsMember(mha::demo::format_names()));
    time->add_option("--repeat", options.repeat, "timed runs")->check(CLI::Range(1, 1000));
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      return app.exit(error) == 0 ? 0 : 2;
    }
    return *check ? run_check(options) : *time ? run_time(options) : run_formats(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mha_decoder: %s\n", error.what());
    return 2;
  }
}
