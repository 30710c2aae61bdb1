// SPDX-License-Identifier: Apache-2.0
// Catch2, whichever version is installed: 2.13 (one header) or 3.x.
#ifndef MHA_TESTS_SUPPORT_CATCH_H
#define MHA_TESTS_SUPPORT_CATCH_H

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#endif  // MHA_TESTS_SUPPORT_CATCH_H
