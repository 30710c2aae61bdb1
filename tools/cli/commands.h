// SPDX-License-Identifier: Apache-2.0
// The subcommands, one file each. Every function adds its subcommand to `app`, with a callback that prints to stdout,
// throws Failure (support.h) for wrong input, and sets `status` where the exit status is to be other than 0.
#ifndef MHA_TOOLS_CLI_COMMANDS_H
#define MHA_TOOLS_CLI_COMMANDS_H

#include <CLI/CLI.hpp>

namespace mha::cli {

void add_info(CLI::App& app, int& status);
void add_run(CLI::App& app, int& status);
void add_quantize(CLI::App& app, int& status);
void add_bench(CLI::App& app, int& status);
void add_verify(CLI::App& app, int& status);
void add_notebook(CLI::App& app, int& status);
void add_explain(CLI::App& app, int& status);
void add_interface(CLI::App& app, int& status);  // hidden: man, completion

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_COMMANDS_H
