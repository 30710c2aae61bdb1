// SPDX-License-Identifier: Apache-2.0
// Completion scripts for bash, zsh and fish; see interface.h.
#include "tools/cli/interface.h"
#include "tools/cli/support.h"

namespace mha::cli {
namespace {

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
  return text;
}

// In single quotes, for any of the shells.
std::string single_quoted(const std::string& text) { return "'" + replaced(text, "'", "'\\''") + "'"; }

std::vector<std::string> option_names(const CommandText& command) {
  std::vector<std::string> names;
  for (const OptionText& option : command.options) {
    if (option.name.rfind("--", 0) == 0) names.push_back(option.name);
  }
  return names;
}

std::vector<std::string> longer(const CommandText& command, const std::string& subcommand) {
  std::vector<std::string> path = command.path;
  path.push_back(subcommand);
  return path;
}

std::string help_of(const std::vector<CommandText>& commands, const std::vector<std::string>& path) {
  for (const CommandText& command : commands) {
    if (command.path == path) return command.help;
  }
  return "";
}

// --- bash --------------------------------------------------------------------------------------------------------------

std::string bash_values(const CommandText& command) {
  std::string text;
  for (const OptionText& option : command.options) {
    const std::string label = "      " + option.name + ") ";
    if (option.is_file) {
      text += label + "COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n";
    } else if (!option.words.empty()) {
      text +=
          label + "COMPREPLY=($(compgen -W " + single_quoted(joined(option.words, " ")) + " -- \"$cur\")); return ;;\n";
    } else if (!option.type.empty()) {
      text += label + "return ;;\n";
    }
  }
  return text;
}

std::string bash(const std::vector<CommandText>& commands) {
  std::string paths, choices, values;
  for (const CommandText& command : commands) {
    const std::string path = joined(command.path, " ");
    for (const std::string& sub : command.subcommands) {
      const std::string word = ":" + sub;
      paths += "      " + single_quoted(path + word) + ") path=" + single_quoted(joined(longer(command, sub), " ")) +
               " ;;\n";
    }
    std::vector<std::string> words = command.subcommands;
    for (const std::string& name : option_names(command)) words.push_back(name);
    choices += "    " + single_quoted(path) + ") words=" + single_quoted(joined(words, " ")) + " ;;\n";
    const std::string of = bash_values(command);
    if (!of.empty()) values += "    " + single_quoted(path) + ") case \"$prev\" in\n" + of + "    esac ;;\n";
  }
  return "# bash completion for mha, made by `mha completion bash`.\n"
         "_mha() {\n"
         "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} path='' words='' i\n"
         "  COMPREPLY=()\n"
         "  for ((i = 1; i < COMP_CWORD; ++i)); do\n"
         "    case \"$path:${COMP_WORDS[i]}\" in\n" +
         paths +
         "    esac\n"
         "  done\n"
         "  case \"$path\" in\n" +
         values +
         "  esac\n"
         "  case \"$path\" in\n" +
         choices +
         "  esac\n"
         "  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
         "}\n"
         "complete -o filenames -F _mha mha\n";
}

// --- zsh ---------------------------------------------------------------------------------------------------------------

// In what _arguments and _describe read, brackets and colons are syntax.
std::string zsh_text(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string zsh_function(const CommandText& command) {
  std::string name = "_mha";
  for (const std::string& word : command.path) name += "_" + word;
  std::string text = name + "() {\n";
  if (!command.subcommands.empty()) return text;  // the caller adds the choice of a subcommand
  text += "  _arguments -s";
  for (const OptionText& option : command.options) {
    if (option.name.rfind("--", 0) != 0) continue;
    std::string spec = option.name + "[" + zsh_text(option.help) + "]";
    if (!option.type.empty()) {
      const std::string action = option.is_file         ? "_files"
                                 : option.words.empty() ? ""
                                                        : "(" + joined(option.words, " ") + ")";
      spec += ":" + zsh_text(option.type) + ":" + action;
    }
    text += " \\\n    " + single_quoted(spec);
  }
  return text + "\n}\n";
}

std::string zsh(const std::vector<CommandText>& commands) {
  std::string text = "#compdef mha\n# zsh completion for mha, made by `mha completion zsh`.\n";
  for (const CommandText& command : commands) {
    text += zsh_function(command);
    if (command.subcommands.empty()) continue;
    const std::string prefix = command.path.empty() ? "_mha_" : "_mha_" + joined(command.path, "_") + "_";
    text += "  local -a commands=(";
    for (const std::string& sub : command.subcommands) {
      text += "\n    " + single_quoted(sub + ":" + zsh_text(help_of(commands, longer(command, sub))));
    }
    text +=
        ")\n"
        "  if ((CURRENT == 2)); then\n"
        "    _describe command commands\n"
        "    compadd -- " +
        joined(option_names(command), " ") +
        "\n"
        "    return\n"
        "  fi\n"
        "  local name=" +
        prefix +
        "${words[2]}\n"
        "  shift words\n"
        "  ((CURRENT--))\n"
        "  (( $+functions[$name] )) && $name\n"
        "}\n";
  }
  return text + "if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _mha \"$@\"; else compdef _mha mha; fi\n";
}

// --- fish --------------------------------------------------------------------------------------------------------------

// The condition that the words so far are those of the command, and no subcommand of it.
std::string fish_condition(const CommandText& command) {
  if (command.path.empty()) return "__fish_use_subcommand";
  std::string text;
  for (const std::string& word : command.path) {
    text += (text.empty() ? "" : "; and ") + ("__fish_seen_subcommand_from " + word);
  }
  if (!command.subcommands.empty()) {
    text += "; and not __fish_seen_subcommand_from " + joined(command.subcommands, " ");
  }
  return text;
}

std::string fish_quoted(const std::string& text) {
  return "'" + replaced(replaced(text, "\\", "\\\\"), "'", "\\'") + "'";
}

std::string fish(const std::vector<CommandText>& commands) {
  std::string text = "# fish completion for mha, made by `mha completion fish`.\ncomplete -c mha -f\n";
  for (const CommandText& command : commands) {
    const std::string begin = "complete -c mha -n " + fish_quoted(fish_condition(command));
    for (const std::string& sub : command.subcommands) {
      text.append(begin).append(" -a ").append(sub);
      text += " -d " + fish_quoted(help_of(commands, longer(command, sub))) + "\n";
    }
    for (const OptionText& option : command.options) {
      if (option.name.rfind("--", 0) != 0) continue;
      text += begin + " -l " + option.name.substr(2) + " -d " + fish_quoted(option.help);
      if (option.is_file) {
        text += " -r -F";
      } else if (!option.words.empty()) {
        text += " -x -a " + fish_quoted(joined(option.words, " "));
      } else if (!option.type.empty()) {
        text += " -x";
      }
      text += "\n";
    }
  }
  return text;
}

}  // namespace

std::string completion(const std::vector<CommandText>& commands, const std::string& shell) {
  if (shell == "bash") return bash(commands);
  if (shell == "zsh") return zsh(commands);
  if (shell == "fish") return fish(commands);
  throw Failure("completion: '" + shell + "' must be bash, zsh or fish");
}

}  // namespace mha::cli
