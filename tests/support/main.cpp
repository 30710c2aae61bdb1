// SPDX-License-Identifier: Apache-2.0
// main of mha_tests, the same for Catch2 2.13 and 3.x.
#define CATCH_CONFIG_RUNNER
#include "tests/support/catch.h"

int main(int argc, char** argv) { return Catch::Session().run(argc, argv); }
