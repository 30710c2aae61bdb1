# SPDX-License-Identifier: Apache-2.0
# Where third-party code comes from: what is installed, in any version; else a pinned upstream tag is fetched. Nothing here
# is needed by users of the installed library.
include(FetchContent)

# Sets XSIMD_INCLUDE_DIR. Only the header directory is used, never its CMake target (Debian's wants -lxtl at link time).
macro(mha_find_xsimd)
  find_path(XSIMD_INCLUDE_DIR xsimd/xsimd.hpp DOC "Directory that holds xsimd/xsimd.hpp")
  if(NOT XSIMD_INCLUDE_DIR)
    # SOURCE_SUBDIR without a CMakeLists.txt: populate, add nothing.
    FetchContent_Declare(xsimd GIT_REPOSITORY https://github.com/xtensor-stack/xsimd.git GIT_TAG 14.1.0 GIT_SHALLOW TRUE
      SOURCE_SUBDIR include)
    FetchContent_MakeAvailable(xsimd)
    set(XSIMD_INCLUDE_DIR "${xsimd_SOURCE_DIR}/include")
  endif()
endmacro()

# mha_find_or_fetch(<package> <target that it brings> <repository> <tag>)
macro(mha_find_or_fetch package target repository tag)
  if(NOT TARGET ${target})
    find_package(${package} QUIET)
  endif()
  if(NOT TARGET ${target})
    message(STATUS "mha: ${package} is not installed; fetching ${tag}")
    FetchContent_Declare(${package} GIT_REPOSITORY ${repository} GIT_TAG ${tag} GIT_SHALLOW TRUE)
    FetchContent_MakeAvailable(${package})
  endif()
endmacro()

macro(mha_find_catch2)
  mha_find_or_fetch(Catch2 Catch2::Catch2 https://github.com/catchorg/Catch2.git v3.5.2)
endmacro()

macro(mha_find_benchmark)
  set(BENCHMARK_ENABLE_TESTING OFF)
  mha_find_or_fetch(benchmark benchmark::benchmark https://github.com/google/benchmark.git v1.8.3)
endmacro()

macro(mha_find_cli11)
  mha_find_or_fetch(CLI11 CLI11::CLI11 https://github.com/CLIUtils/CLI11.git v2.3.2)
endmacro()

macro(mha_find_json)
  mha_find_or_fetch(nlohmann_json nlohmann_json::nlohmann_json https://github.com/nlohmann/json.git v3.11.2)
endmacro()
