// SPDX-License-Identifier: Apache-2.0
// Tables, JSON and comparison of `mha bench`; see bench_report.h.
#include "tools/cli/bench_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include "tools/cli/support.h"
#include "tools/io/source.h"
#include "tools/io/tensor.h"

namespace mha::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kLeastChange = 0.02;

// A number in three digits; empty for 0.
std::string digits(double value) {
  if (value == 0) return "";
  char text[32];
  std::snprintf(text, sizeof text, value >= 100 ? "%.0f" : value >= 10 ? "%.1f" : value >= 1 ? "%.2f" : "%.3g", value);
  return text;
}

std::string percent(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %%", 100 * value);
  return text;
}

std::string row(const std::vector<std::string>& cells) {
  std::string text = "|";
  for (const std::string& cell : cells) text += " " + cell + " |";
  return text + "\n";
}

Json to_json(const BenchResult& r) {
  Json json = {{"case", r.name},       {"kind", r.kind},
               {"format", r.format},   {"arithmetic", r.arithmetic},
               {"threads", r.threads}, {"seconds", r.seconds},
               {"spread", r.spread},   {"repetitions", r.repetitions},
               {"calls", r.calls},     {"tokens_per_second", r.tokens_per_second},
               {"gflops", r.gflops}};
  json["gbytes_per_second"] = r.gbytes_per_second != 0 ? Json(r.gbytes_per_second) : Json(nullptr);
  return json;
}

// Reads fields of an object in a file; every failure names the file and the field.
class Fields {
 public:
  Fields(const std::string& path, const Json& object, std::string where)
      : path_(path), object_(object), where_(std::move(where)) {
    if (!object.is_object()) fail("is no object");
  }
  std::string text(const char* name) const { return get(name, &Json::is_string, "a text").get<std::string>(); }
  double number(const char* name) const {
    const double value = get(name, &Json::is_number, "a number").get<double>();
    if (!std::isfinite(value) || value < 0) fail("'" + std::string(name) + "' is not a finite number of at least 0");
    return value;
  }
  const Json& list(const char* name) const { return get(name, &Json::is_array, "a list"); }

 private:
  using Is = bool (Json::*)() const noexcept;
  const Json& get(const char* name, Is is, const char* kind) const {
    const auto found = object_.find(name);
    if (found == object_.end()) fail("has no '" + std::string(name) + "'");
    if (!((*found).*is)()) fail("'" + std::string(name) + "' is not " + kind);
    return *found;
  }
  [[noreturn]] void fail(const std::string& why) const { throw Failure(path_ + ": " + where_ + " " + why); }

  const std::string& path_;
  const Json& object_;
  std::string where_;
};

}  // namespace

std::string BenchResult::key() const { return name + "|" + format + "|" + arithmetic + "|" + std::to_string(threads); }

Json to_json(const BenchReport& report) {
  Json json = {{"schema", kBenchSchema},
               {"version", report.machine.version},
               {"target", report.machine.target},
               {"cpu", report.machine.cpu}};
  json["results"] = Json::array();
  for (const BenchResult& result : report.results) json["results"].push_back(to_json(result));
  json["unsupported"] = Json::array();
  for (const BenchUnsupported& u : report.unsupported) {
    json["unsupported"].push_back(
        {{"case", u.name}, {"format", u.format}, {"arithmetic", u.arithmetic}, {"message", u.message}});
  }
  return json;
}

BenchReport read_bench_json(const std::string& path) {
  const io::Source source = take(io::Source::file(path));
  constexpr std::uint64_t kLimit = std::uint64_t{1} << 26;
  if (source.size() > kLimit) throw Failure(path + ": " + std::to_string(source.size()) + " bytes are no bench result");
  const auto bytes = take(source.read(0, source.size()));
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  const Json json = Json::parse(text, text + bytes.size(), nullptr, false);
  if (json.is_discarded()) throw Failure(path + ": is not JSON");
  const Fields top(path, json, "the file");
  const std::string schema = top.text("schema");
  if (schema != kBenchSchema) {
    throw Failure(path + ": its schema is '" + io::printable(schema) + "', must be '" + kBenchSchema + "'");
  }
  BenchReport report;
  report.machine = {top.text("version"), top.text("target"), top.text("cpu")};
  for (const Json& each : top.list("results")) {
    const Fields fields(path, each, "result " + std::to_string(report.results.size()));
    BenchResult result;
    result.name = fields.text("case"), result.kind = fields.text("kind"), result.format = fields.text("format");
    result.arithmetic = fields.text("arithmetic");
    result.threads = static_cast<std::int64_t>(std::min(fields.number("threads"), 1e6));
    result.seconds = fields.number("seconds"), result.spread = fields.number("spread");
    if (result.seconds == 0)
      throw Failure(path + ": result " + std::to_string(report.results.size()) + " took no time");
    report.results.push_back(result);
  }
  return report;
}

BenchComparison compare(const BenchReport& before, const BenchReport& after) {
  BenchComparison comparison;
  std::map<std::string, const BenchResult*> old;
  for (const BenchResult& result : before.results) old[result.key()] = &result;
  for (const BenchResult& result : after.results) {
    const auto found = old.find(result.key());
    if (found == old.end()) {
      ++comparison.only_after;
      continue;
    }
    BenchChange change{*found->second, result, result.seconds / found->second->seconds, "the same"};
    const double least = std::max({change.before.spread, change.after.spread, kLeastChange});
    if (change.ratio > 1 + least) change.verdict = "slower";
    if (change.ratio < 1 / (1 + least)) change.verdict = "faster";
    comparison.changes.push_back(change);
    old.erase(found);
  }
  comparison.only_before = static_cast<std::int64_t>(old.size());
  const auto warn = [&](const char* what, const std::string& a, const std::string& b) {
    if (a != b) comparison.warnings.push_back(std::string(what) + ": " + a + " before, " + b + " now");
  };
  warn("version", before.machine.version, after.machine.version);
  warn("target", before.machine.target, after.machine.target);
  warn("CPU", before.machine.cpu, after.machine.cpu);
  return comparison;
}

Json to_json(const BenchComparison& comparison) {
  Json json = {{"warnings", comparison.warnings},
               {"only_before", comparison.only_before},
               {"only_after", comparison.only_after}};
  json["changes"] = Json::array();
  for (const BenchChange& c : comparison.changes) {
    json["changes"].push_back({{"case", c.after.name},
                               {"format", c.after.format},
                               {"arithmetic", c.after.arithmetic},
                               {"threads", c.after.threads},
                               {"seconds_before", c.before.seconds},
                               {"seconds", c.after.seconds},
                               {"ratio", c.ratio},
                               {"spread_before", c.before.spread},
                               {"spread", c.after.spread},
                               {"verdict", c.verdict}});
  }
  return json;
}

std::string markdown(const BenchReport& report) {
  std::string text = "mha " + report.machine.version + ", " + report.machine.target + ", " + report.machine.cpu +
                     "\n\n| case | format | arithmetic | threads | time | spread | tokens/s | GFLOP/s | GB/s |\n"
                     "|---|---|---|---:|---:|---:|---:|---:|---:|\n";
  for (const BenchResult& r : report.results) {
    text += row({r.name, r.format, r.arithmetic, std::to_string(r.threads), time_text(r.seconds), percent(r.spread),
                 digits(r.tokens_per_second), digits(r.gflops), digits(r.gbytes_per_second)});
  }
  if (report.unsupported.empty()) return text;
  text += "\nNot supported:\n\n| case | format | arithmetic | the library's message |\n|---|---|---|---|\n";
  for (const BenchUnsupported& u : report.unsupported) text += row({u.name, u.format, u.arithmetic, u.message});
  return text;
}

std::string markdown(const BenchComparison& comparison) {
  std::string text = "\nCompared with the earlier run (time now / before; changed if beyond both spreads and 2 %):\n\n";
  for (const std::string& warning : comparison.warnings) text += "- " + io::printable(warning, 400) + "\n";
  if (!comparison.warnings.empty()) text += "\n";
  text +=
      "| case | format | arithmetic | threads | before | now | now / before | spreads | |\n"
      "|---|---|---|---:|---:|---:|---:|---:|---|\n";
  std::int64_t moved = 0;
  for (const BenchChange& c : comparison.changes) {
    const bool same = std::string(c.verdict) == "the same";
    if (!same) ++moved;
    text += row({c.after.name, c.after.format, c.after.arithmetic, std::to_string(c.after.threads),
                 time_text(c.before.seconds), time_text(c.after.seconds), digits(c.ratio),
                 percent(c.before.spread) + ", " + percent(c.after.spread),
                 same ? std::string() : "**" + std::string(c.verdict) + "**"});
  }
  text += "\n" + std::to_string(comparison.changes.size()) + " cases compared, " + std::to_string(moved) +
          " changed; " + std::to_string(comparison.only_before) + " only in the earlier run, " +
          std::to_string(comparison.only_after) + " only in this one\n";
  return text;
}

}  // namespace mha::cli
