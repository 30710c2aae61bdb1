// SPDX-License-Identifier: Apache-2.0
// The parts of `mha explain`: a subcommand for each call of the library that can be explained.
#ifndef MHA_TOOLS_CLI_EXPLAIN_H
#define MHA_TOOLS_CLI_EXPLAIN_H

#include <mha/mha.hpp>

#include <CLI/CLI.hpp>
#include <cstddef>
#include <functional>

namespace mha::cli {

// Prints the text that `explain` fills in; its result is the size that the text needs.
void print_plan(const std::function<Result<std::size_t>(Span<char> text)>& explain);

void add_explain_linear(CLI::App& parent);
void add_explain_layer(CLI::App& parent);

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_EXPLAIN_H
