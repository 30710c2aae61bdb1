// SPDX-License-Identifier: Apache-2.0
// The man page mha(1) in roff; see interface.h.
#include "tools/cli/interface.h"
#include "tools/cli/support.h"

namespace mha::cli {
namespace {

// Text as roff prints it: no escapes, no requests, hyphens that can be copied.
std::string escaped(const std::string& text) {
  std::string out;
  bool line_start = true;
  for (const char c : text) {
    if (line_start && (c == '.' || c == '\'')) out += "\\&";
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c;
    }
    line_start = c == '\n';
  }
  return out;
}

std::string bold(const std::string& text) { return "\\fB" + escaped(text) + "\\fR"; }
std::string italic(const std::string& text) { return "\\fI" + escaped(text) + "\\fR"; }

std::string option_entry(const OptionText& option) {
  std::string text = ".TP\n" + bold(option.name);
  if (!option.type.empty()) text += " " + italic(option.type);
  text += "\n" + escaped(option.help);
  if (!option.default_text.empty()) text += " (default " + escaped(option.default_text) + ")";
  if (option.required) text += " (required)";
  return text + "\n";
}

std::string command_section(const CommandText& command) {
  std::string text = ".SS " + escaped("mha " + joined(command.path, " ")) + "\n" + escaped(command.help) + ".\n";
  if (!command.subcommands.empty()) {
    text += ".br\nOne of " + escaped(joined(command.subcommands, ", ")) + " follows, which has options of its own.\n";
  }
  std::string group = "Options";
  for (const OptionText& option : command.options) {
    if (option.name == "--help") continue;
    if (option.group != group) text += ".PP\n" + italic(option.group) + "\n";
    group = option.group;
    text += option_entry(option);
  }
  if (!command.footer.empty()) text += ".PP\n.nf\n" + escaped(command.footer) + "\n.fi\n";
  return text;
}

}  // namespace

std::string man_page(const std::vector<CommandText>& commands) {
  const CommandText& root = commands.front();
  std::string text = std::string(".\\\" Made by `mha man` from the options of the command.\n.TH MHA 1 \"\" \"mha ") +
                     mha_version() + "\" \"User Commands\"\n";
  text += ".SH NAME\nmha \\- " + escaped("multi-head attention for CPUs, on the command line") + "\n";
  text += ".SH SYNOPSIS\n" + bold("mha") + " " + italic("COMMAND") + " [" + italic("OPTIONS") + "]\n.br\n" +
          bold("mha") + " " + bold("--help") + " | " + bold("--version") + "\n";
  text += ".SH DESCRIPTION\n" + escaped(root.help) + "\nEvery command has " + bold("--help") + ".\n";
  text += ".SH COMMANDS\n";
  for (std::size_t i = 1; i < commands.size(); ++i) text += command_section(commands[i]);
  text +=
      ".SH EXIT STATUS\n.TP\n0\nAll is well.\n.TP\n1\nA check failed (verify, notebook).\n"
      ".TP\n2\nWrong arguments or files; one line on standard error says what.\n";
  text += ".SH ENVIRONMENT\n.TP\n" + bold("MHA_TARGET") + "\nThe instruction set to run on, where " + bold("--target") +
          " is not given.\n";
  text +=
      ".SH FILES\nInputs and results are NumPy's .npy files. Weights are read from .safetensors files (F32, F16, BF16, "
      "F64, "
      "I8 with scales) and GGUF files (F32, F16, BF16, Q8_0, Q4_0). In GGUF files of Llama the rows of attn_q and "
      "attn_k are permuted for interleaved rotary positions, both alike, so that the scores without rotation are the "
      "same.\n";
  return text;
}

}  // namespace mha::cli
