// SPDX-License-Identifier: Apache-2.0
// `mha bench`: times prefill, decode, linear and layer in every format and arithmetic, and compares with an earlier run.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "tools/cli/bench_cases.h"
#include "tools/cli/bench_report.h"
#include "tools/cli/commands.h"
#include "tools/cli/formats.h"
#include "tools/cli/stored_rows.h"
#include "tools/cli/support.h"

namespace mha::cli {
namespace {

// Lists as they are given. The sizes are those of one layer of a model of 1 billion parameters.
struct Options {
  std::string kinds = "prefill,decode,linear,layer";
  std::string formats = "f32,f16,bf16,i8,i4:group=32:scales=f16,q8_0,q4_0";
  std::string arithmetic = "f32,bf16,int8";
  std::string threads, target;
  std::string batch = "1", num_heads = "32", num_kv_heads = "8", head_dim = "64";
  std::string length = "512", keys = "4096", layer_length = "64";
  std::string rows = "1,128", in_features = "2048", out_features = "2048";
  std::int64_t repetitions = 5;
  double min_time = 0.02;
  std::string output = "md", compare;
};

// The lists as numbers and words.
struct Lists {
  std::vector<BenchKind> kinds;
  std::vector<Format> formats;
  std::vector<mha_arithmetic> arithmetics;
  std::vector<std::int64_t> threads, batch, heads, kv_heads, dims, lengths, keys, layer_lengths, rows, inputs, outputs;
};

std::vector<std::int64_t> sizes(const std::string& option, const std::string& text, std::int64_t most) {
  std::vector<std::int64_t> list = parse_numbers(option, text);
  const auto wrong = std::find_if(list.begin(), list.end(), [&](std::int64_t size) { return size < 1 || size > most; });
  if (wrong == list.end()) return list;
  throw Failure(option + " '" + text + "': " + std::to_string(*wrong) + " must be in [1, " + std::to_string(most) +
                "]");
}

BenchKind parse_kind(const std::string& word) {
  for (int kind = 0; kind < 4; ++kind) {
    if (word == kBenchKindNames[kind]) return static_cast<BenchKind>(kind);
  }
  throw Failure("--kinds: '" + word + "' is none of prefill, decode, linear, layer");
}

Lists parse_lists(const Options& o) {
  constexpr std::int64_t kMost = std::int64_t{1} << 24, kMostThreads = 1024;
  Lists lists;
  for (const std::string& word : parse_words("--kinds", o.kinds)) lists.kinds.push_back(parse_kind(word));
  for (const std::string& word : parse_words("--formats", o.formats)) {
    lists.formats.push_back(parse_format("--formats", word));
    if (lists.formats.back().fixed) throw Failure("--formats: '" + word + "': scales are computed here, not fixed");
  }
  for (const std::string& word : parse_words("--arithmetic", o.arithmetic)) {
    lists.arithmetics.push_back(parse_arithmetic("--arithmetic", word));
  }
  if (o.threads.empty()) {
    lists.threads = {make_context(o.target.empty() ? nullptr : o.target.c_str(), 0).num_threads()};
  } else {
    lists.threads = sizes("--threads", o.threads, kMostThreads);
  }
  lists.batch = sizes("--batch", o.batch, kMost);
  lists.heads = sizes("--num-heads", o.num_heads, kMost);
  lists.kv_heads = sizes("--num-kv-heads", o.num_kv_heads, kMost);
  lists.dims = sizes("--head-dim", o.head_dim, kMost);
  lists.lengths = sizes("--length", o.length, kMost);
  lists.keys = sizes("--keys", o.keys, kMost);
  lists.layer_lengths = sizes("--layer-length", o.layer_length, kMost);
  lists.rows = sizes("--rows", o.rows, kMost);
  lists.inputs = sizes("--in-features", o.in_features, kMost);
  lists.outputs = sizes("--out-features", o.out_features, kMost);
  return lists;
}

// Calls `each` with every combination of the sizes of a kind.
template <class Each>
void for_sizes(const Lists& l, BenchKind kind, const Each& each) {
  BenchSpec s;
  s.kind = kind;
  if (kind == BenchKind::kLinear) {
    for (const std::int64_t rows : l.rows) {
      for (const std::int64_t in : l.inputs) {
        for (const std::int64_t out : l.outputs) {
          s.length = rows, s.in_features = in, s.out_features = out;
          each(s);
        }
      }
    }
    return;
  }
  const auto& lengths = kind == BenchKind::kPrefill ? l.lengths : kind == BenchKind::kDecode ? l.keys : l.layer_lengths;
  for (const std::int64_t batch : l.batch) {
    for (const std::int64_t heads : l.heads) {
      for (const std::int64_t kv : l.kv_heads) {
        for (const std::int64_t dim : l.dims) {
          for (const std::int64_t length : lengths) {
            s.batch = batch, s.num_heads = heads, s.num_kv_heads = kv, s.head_dim = dim, s.length = length;
            each(s);
          }
        }
      }
    }
  }
}

std::vector<BenchSpec> all_specs(const Lists& l) {
  std::vector<BenchSpec> specs;
  for (const BenchKind kind : l.kinds) {
    for_sizes(l, kind, [&](BenchSpec spec) {
      for (const Format& format : l.formats) {
        for (const mha_arithmetic arithmetic : l.arithmetics) {
          for (const std::int64_t threads : l.threads) {
            spec.format = format, spec.arithmetic = arithmetic, spec.threads = threads;
            specs.push_back(spec);
          }
        }
      }
    });
  }
  return specs;
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown CPU";
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

// After calls that warm caches and threads up: repetitions of as many calls as fill --min-time.
BenchResult time_case(const BenchSpec& spec, BenchCase& bench, const Options& o) {
  const double once = best_seconds(o.min_time, [&] { bench.run(); });
  BenchResult result;
  result.name = spec.name(), result.kind = kBenchKindNames[static_cast<int>(spec.kind)];
  result.format = spec.format.text, result.arithmetic = arithmetic_name(spec.arithmetic);
  result.threads = spec.threads, result.repetitions = o.repetitions;
  result.calls = std::max<std::int64_t>(1, static_cast<std::int64_t>(std::ceil(o.min_time / std::max(once, 1e-9))));
  std::vector<double> times;
  for (std::int64_t r = 0; r < o.repetitions; ++r) {
    const double all = seconds_of([&] {
      for (std::int64_t n = 0; n < result.calls; ++n) bench.run();
    });
    times.push_back(std::max(all, 1e-9) / static_cast<double>(result.calls));
  }
  result.seconds = median(times);
  const auto [least, most] = std::minmax_element(times.begin(), times.end());
  result.spread = (*most - *least) / result.seconds;
  result.tokens_per_second = bench.tokens / result.seconds;
  result.gflops = bench.operations / result.seconds / 1e9;
  result.gbytes_per_second = bench.bytes / result.seconds / 1e9;
  return result;
}

BenchReport run(const Options& o, const std::vector<BenchSpec>& specs) {
  const char* target = o.target.empty() ? nullptr : o.target.c_str();
  BenchReport report;
  report.machine = {mha_version(), make_context(target, 1).target(), cpu_name()};
  Progress progress("bench", static_cast<std::int64_t>(specs.size()));
  for (const BenchSpec& spec : specs) {
    const Context context = make_context(target, spec.threads);
    try {
      const std::unique_ptr<BenchCase> bench = make_bench_case(spec, context);
      report.results.push_back(time_case(spec, *bench, o));
    } catch (const Unsupported& unsupported) {  // once, whatever the number of threads
      const BenchUnsupported entry = {spec.name(), spec.format.text, arithmetic_name(spec.arithmetic),
                                      unsupported.what()};
      const auto same = [&](const BenchUnsupported& u) {
        return u.name == entry.name && u.format == entry.format && u.arithmetic == entry.arithmetic;
      };
      if (std::none_of(report.unsupported.begin(), report.unsupported.end(), same)) report.unsupported.push_back(entry);
    }
    progress.step();
  }
  return report;
}

void bench(const Options& o) {
  if (o.output != "md" && o.output != "json") throw Failure("--output is '" + o.output + "', must be md or json");
  constexpr std::int64_t kMostRepetitions = 10000;
  if (o.repetitions < 1 || o.repetitions > kMostRepetitions) {
    throw Failure("--repetitions is " + std::to_string(o.repetitions) + ", must be in [1, 10000]");
  }
  if (!(o.min_time >= 0 && o.min_time <= 600)) {
    throw Failure("--min-time is " + std::to_string(o.min_time) + ", must be in [0, 600] seconds");
  }
  const std::vector<BenchSpec> specs = all_specs(parse_lists(o));
  BenchReport before;
  if (!o.compare.empty()) before = read_bench_json(o.compare);  // before the time is spent
  const BenchReport report = run(o, specs);
  if (report.results.empty()) {
    throw Failure("no case could run: " + report.unsupported[0].name + ", " + report.unsupported[0].format + ": " +
                  report.unsupported[0].message);
  }
  if (o.output == "json") {
    auto json = to_json(report);
    if (!o.compare.empty()) json["comparison"] = to_json(compare(before, report));
    std::printf("%s\n", json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
    return;
  }
  std::fputs(markdown(report).c_str(), stdout);
  if (!o.compare.empty()) std::fputs(markdown(compare(before, report)).c_str(), stdout);
}

}  // namespace

void add_bench(CLI::App& app, int& /*status*/) {
  auto options = std::make_shared<Options>();
  Options& o = *options;
  CLI::App* command = app.add_subcommand("bench", "Time prefill, decode, linear and layer in every format");
  const auto list = [&](const char* name, std::string& value, const std::string& help, const char* type) {
    command->add_option(name, value, help)->type_name(type)->capture_default_str();
  };
  constexpr const char* kNumbers = "N[,N...]";
  list("--kinds", o.kinds, "What is timed", "LIST");
  list("--formats", o.formats, "How keys and values, or weights, are stored", "LIST");
  list("--arithmetic", o.arithmetic, "How products are computed", "LIST");
  command->add_option("--threads", o.threads, "Threads (default: as many as this process may run on)")
      ->type_name(kNumbers);
  add_target_option(*command, o.target);
  list("--batch", o.batch, "B of prefill, decode, layer", kNumbers);
  list("--num-heads", o.num_heads, "H", kNumbers);
  list("--num-kv-heads", o.num_kv_heads, "Hkv", kNumbers);
  list("--head-dim", o.head_dim, "D; a layer has E = H * D", kNumbers);
  list("--length", o.length, "T of prefill", kNumbers);
  list("--keys", o.keys, "Keys of decode", kNumbers);
  list("--layer-length", o.layer_length, "T of layer", kNumbers);
  list("--rows", o.rows, "M of linear", kNumbers);
  list("--in-features", o.in_features, "K of linear", kNumbers);
  list("--out-features", o.out_features, "N of linear", kNumbers);
  command->add_option("--repetitions", o.repetitions, "Repetitions, whose median counts")->capture_default_str();
  command->add_option("--min-time", o.min_time, "Seconds that the calls of a repetition fill")->capture_default_str();
  command->add_option("--output", o.output, "md (Markdown) or json")->type_name("NAME")->capture_default_str();
  command->add_option("--compare", o.compare, "JSON of an earlier run to compare with")->type_name("FILE.json");
  command->footer(
      "Example: mha bench --kinds decode --formats f32,bf16,i8 --keys 1024,16384 --output json > before.json\n"
      "         mha bench --kinds decode --formats f32,bf16,i8 --keys 1024,16384 --compare before.json\n"
      "GB/s counts what is read once, where reading is the limit: keys and values of one query, weights at up to 8 "
      "rows.");
  command->callback([options] { bench(*options); });
}

}  // namespace mha::cli
