// SPDX-License-Identifier: Apache-2.0
// The command line as data: every subcommand with its options, taken from the CLI11 app itself, so that the man page and the
// completions cannot differ from --help.
#ifndef MHA_TOOLS_CLI_INTERFACE_H
#define MHA_TOOLS_CLI_INTERFACE_H

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace mha::cli {

struct OptionText {
  std::string name;  // "--weights"
  std::string type;  // "FILE"; empty: a flag
  std::string help;
  std::string group;  // the heading of the help
  std::string default_text;
  bool required = false;
  std::vector<std::string> words;  // values to complete; empty: any
  bool is_file = false;
};

struct CommandText {
  std::vector<std::string> path;  // {"explain", "layer"}; empty: mha itself
  std::string help, footer;
  std::vector<OptionText> options;
  std::vector<std::string> subcommands;
};

// Depth first, mha itself first; hidden subcommands are left out.
std::vector<CommandText> all_commands(const CLI::App& root);

std::string man_page(const std::vector<CommandText>& commands);
// `shell` is bash, zsh or fish; throws Failure for others.
std::string completion(const std::vector<CommandText>& commands, const std::string& shell);

// "mha explain layer", or with another text between the words.
std::string joined(const std::vector<std::string>& words, const std::string& separator);

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_INTERFACE_H
