// SPDX-License-Identifier: Apache-2.0
// Reads the CLI11 app (interface.h), and the hidden subcommands `mha man` and `mha completion`, which the build runs.
#include "tools/cli/interface.h"

#include <cstdio>
#include <map>
#include <memory>

#include "tools/cli/commands.h"
#include "tools/cli/support.h"

namespace mha::cli {
namespace {

// The values of options that take one of a few words; "bench --output" is the option of that command alone.
const std::map<std::string, std::vector<std::string>>& words_of_options() {
  static const std::map<std::string, std::vector<std::string>> words = [] {
    const std::vector<std::string> floats = {"f32", "f16", "bf16"};
    const std::vector<std::string> stored = {"f32", "f16", "bf16", "i8",
                                             "u8",  "i4",  "u4"};  // by caches, packed weights
    const std::vector<std::string> dtypes = {"f32", "f16", "bf16", "i8", "u8", "i4", "u4", "q8_0", "q4_0"};
    std::map<std::string, std::vector<std::string>> made = {
        {"--arithmetic", {"f32", "bf16", "int8"}},
        {"--attention-arithmetic", {"f32", "bf16", "int8"}},
        {"--causal", {"bottom-right", "top-left", "offset"}},
        {"--align", {"start", "end", "offset"}},
        {"--weights-mode", {"none", "per-head", "averaged", "key-sums"}},
        {"--rope", {"half", "interleaved"}},
        {"--rope-scaling", {"none", "linear", "llama3", "yarn"}},
        {"--cache", {"contiguous", "ring", "paged"}},
        {"--cache-use", {"append", "read"}},
        {"--weight-layout", {"rows", "gptq", "gptq-v2", "awq"}},
        {"--kinds", {"prefill", "decode", "linear", "layer"}},
        {"--weights-dtype", {"f32"}},
        {"bench --output", {"md", "json"}}};
    for (const char* name : {"--key-dtype", "--value-dtype", "--weight-dtype", "--formats"}) made[name] = dtypes;
    for (const char* name : {"--dtype", "--packed", "--cache-key", "--cache-value"}) made[name] = stored;
    for (const char* name : {"--query-dtype", "--output-dtype", "--input-dtype", "--scale-dtype", "--add-mask",
                             "--add-mask2", "layer --key-dtype", "layer --value-dtype"}) {
      made[name] = floats;
    }
    for (std::int64_t i = 0; i < mha_target_count(); ++i) made["--target"].push_back(mha_target_name(i));
    return made;
  }();
  return words;
}

OptionText option_text(const CLI::Option& option, const std::string& command) {
  OptionText text;
  text.name = option.get_name();
  const bool takes_value = option.get_expected_max() > 0 && option.get_type_size_max() > 0;
  if (takes_value) text.type = option.get_type_name();
  text.help = option.get_description();
  text.group = option.get_group();
  text.default_text = option.get_default_str();
  text.required = option.get_required();
  text.is_file = text.type.rfind("FILE", 0) == 0;
  for (const std::string& name : {text.name, command + " " + text.name}) {
    const auto found = words_of_options().find(name);
    if (found != words_of_options().end() && takes_value) text.words = found->second;
  }
  return text;
}

void collect(const CLI::App& app, const std::vector<std::string>& path, std::vector<CommandText>& out) {
  CommandText text;
  text.path = path;
  text.help = app.get_description();
  // CLI11 gives a subcommand the footer of its parent where it has none.
  if (app.get_parent() == nullptr || app.get_footer() != app.get_parent()->get_footer()) text.footer = app.get_footer();
  for (const CLI::Option* option : app.get_options()) {
    text.options.push_back(option_text(*option, path.empty() ? "" : path.back()));
  }
  const auto shown = [](const CLI::App* sub) { return !sub->get_group().empty(); };
  for (const CLI::App* sub : app.get_subcommands(nullptr)) {
    if (shown(sub)) text.subcommands.push_back(sub->get_name());
  }
  out.push_back(text);
  for (const CLI::App* sub : app.get_subcommands(nullptr)) {
    if (!shown(sub)) continue;
    std::vector<std::string> longer = path;
    longer.push_back(sub->get_name());
    collect(*sub, longer, out);
  }
}

}  // namespace

std::vector<CommandText> all_commands(const CLI::App& root) {
  std::vector<CommandText> commands;
  collect(root, {}, commands);
  return commands;
}

std::string joined(const std::vector<std::string>& words, const std::string& separator) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : separator) + word;
  return text;
}

void add_interface(CLI::App& app, int& /*status*/) {
  CLI::App* man = app.add_subcommand("man", "Print the man page")->group("");
  man->callback([&app] { std::fputs(man_page(all_commands(app)).c_str(), stdout); });
  CLI::App* complete = app.add_subcommand("completion", "Print the completion script of a shell")->group("");
  auto shell = std::make_shared<std::string>();
  complete->add_option("shell", *shell, "bash, zsh or fish")->required();
  complete->callback([&app, shell] { std::fputs(completion(all_commands(app), *shell).c_str(), stdout); });
}

}  // namespace mha::cli
