// SPDX-License-Identifier: Apache-2.0
// The `mha` command: parses the command line, runs one subcommand, and turns every failure into one line and status 2.
#include <mha/mha.hpp>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "tools/cli/commands.h"
#include "tools/io/tensor.h"

namespace {

constexpr int kBadInput = 2;

int fail(const std::string& message) {
  std::fprintf(stderr, "mha: %s\n", mha::io::printable(message, 2000).c_str());
  return kBadInput;
}

// "a command is required: info, run, ...", as below.
std::string no_command(const CLI::App& app) {
  std::string names;
  for (const CLI::App* command : app.get_subcommands(nullptr)) {
    if (command->get_group().empty()) continue;  // hidden
    names += (names.empty() ? "" : ", ") + command->get_name();
  }
  return "a command is required: " + names + " (usage: mha COMMAND [OPTIONS]; mha --help says what each does)";
}

}  // namespace

int main(int argc, char** argv) {
  int status = 0;
  try {
    CLI::App app{"Multi-head attention for CPUs: look at this machine, run, pack and time layers, check the library.",
                 "mha"};
    app.set_version_flag("--version", mha_version());
    app.require_subcommand(1);
    app.footer(
        "Exit status: 0 all is well, 1 a check failed, 2 wrong arguments or files.\n`mha COMMAND --help` says more.");
    mha::cli::add_info(app, status);
    mha::cli::add_run(app, status);
    mha::cli::add_quantize(app, status);
    mha::cli::add_bench(app, status);
    mha::cli::add_verify(app, status);
    mha::cli::add_notebook(app, status);
    mha::cli::add_explain(app, status);
    mha::cli::add_interface(app, status);
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      const std::vector<std::string> rest = app.remaining(true);
      // Of an unknown command CLI11 says only that a command is missing.
      if (dynamic_cast<const CLI::RequiredError*>(&error) != nullptr && !rest.empty()) {
        return fail("unknown command or option '" + rest[0] + "' (mha --help lists the commands)");
      }
      if (argc <= 1) return fail(no_command(app));
      if (error.get_exit_code() != 0) return fail(error.what());
      app.exit(error);  // --help and --version
    }
  } catch (const std::bad_alloc&) {
    return fail("not enough memory");
  } catch (const std::exception& error) {
    return fail(error.what());
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) return fail("cannot write to standard output");
  return status;
}
