// SPDX-License-Identifier: Apache-2.0
// `mha info`: version, targets, the one chosen and why, threads, caches, compiler.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "tools/cli/commands.h"
#include "tools/cli/support.h"

namespace mha::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

std::string first_line(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "48K" as the kernel writes it, in bytes; 0 if it is something else.
std::int64_t size_bytes(const std::string& text) {
  std::size_t used = 0;
  std::int64_t value = 0;
  for (; used < text.size() && used < 12 && text[used] >= '0' && text[used] <= '9'; ++used) {
    value = value * 10 + (text[used] - '0');
  }
  const std::string unit = text.substr(used);
  return unit == "K" ? value << 10 : unit == "M" ? value << 20 : unit.empty() ? value : 0;
}

// The caches of the first CPU, as far as the system tells (empty where there is no sysfs).
Json caches() {
  Json list = Json::array();
  for (int index = 0;; ++index) {
    const std::filesystem::path folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index);
    std::error_code code;
    if (!std::filesystem::is_directory(folder, code)) return list;
    list.push_back({{"level", first_line(folder / "level")},
                    {"type", first_line(folder / "type")},
                    {"bytes", size_bytes(first_line(folder / "size"))},
                    {"shared_by_cpus", first_line(folder / "shared_cpu_list")}});
  }
}

Json collect(const ContextFlags& flags) {
  const Context context = make_context(flags);
  Json info = {{"version", mha_version()}};
  info["targets"] = Json::array();
  for (std::int64_t i = 0; i < mha_target_count(); ++i) {
    info["targets"].push_back({{"name", mha_target_name(i)}, {"supported", mha_target_supported(i) != 0}});
  }
  info["target"] = context.target();
  info["reason"] = target_reason(flags);
  info["threads"] = context.num_threads();
  info["caches"] = caches();
  info["compiler"] = compiler();
  return info;
}

std::string bytes_text(std::int64_t bytes) {
  if (bytes >= 1 << 20) return std::to_string(bytes >> 20) + " MiB";
  return std::to_string(bytes >> 10) + " KiB";
}

void print(const Json& info) {
  std::printf("version   %s\n", info["version"].get<std::string>().c_str());
  const char* label = "targets";
  for (const Json& target : info["targets"]) {
    const auto name = target["name"].get<std::string>();
    const char* state = target["supported"].get<bool>() ? "supported" : "not supported by this CPU";
    std::printf("%-9s %-8s %s", label, name.c_str(), state);
    if (info["target"] == name) std::printf(", chosen: %s", info["reason"].get<std::string>().c_str());
    std::printf("\n");
    label = "";
  }
  std::printf("threads   %lld\n", static_cast<long long>(info["threads"].get<std::int64_t>()));
  label = "caches";
  for (const Json& cache : info["caches"]) {
    std::printf("%-9s L%s %-12s %8s, shared by CPUs %s\n", label, cache["level"].get<std::string>().c_str(),
                cache["type"].get<std::string>().c_str(), bytes_text(cache["bytes"].get<std::int64_t>()).c_str(),
                cache["shared_by_cpus"].get<std::string>().c_str());
    label = "";
  }
  std::printf("compiler  %s\n", info["compiler"].get<std::string>().c_str());
}

}  // namespace

void add_info(CLI::App& app, int& /*status*/) {
  struct Options {
    ContextFlags context;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("info", "Version, targets, the one chosen and why, threads, caches, compiler");
  add_context_options(*command, options->context);
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options] {
    const Json info = collect(options->context);
    if (options->json) {
      std::printf("%s\n", info.dump(2).c_str());
    } else {
      print(info);
    }
  });
}

}  // namespace mha::cli
