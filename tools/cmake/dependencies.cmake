# SPDX-License-Identifier: Apache-2.0
# Where third-party code comes from: what is installed, in any version; else a pinned upstream tag is fetched. Nothing
# here is needed by users of the installed library.
include(FetchContent)

# Ends the configuration with one line, unless <name> was fetched before or its repository can be reached: FetchContent
# itself ends in a page of git's messages that names no remedy. (CMake leaves a text as it is that begins with a space.)
function(mha_check_reachable name repository tag remedy)
  string(TOUPPER "${name}" upper)
  string(TOLOWER "${name}" lower)
  if(FETCHCONTENT_SOURCE_DIR_${upper} OR EXISTS "${FETCHCONTENT_BASE_DIR}/${lower}-src/.git")
    return()
  endif()
  set(reached 1)
  find_package(Git QUIET)
  if(GIT_EXECUTABLE AND NOT FETCHCONTENT_FULLY_DISCONNECTED)
    execute_process(
      COMMAND "${CMAKE_COMMAND}" -E env GIT_TERMINAL_PROMPT=0
        "${GIT_EXECUTABLE}" ls-remote --exit-code "${repository}" "${tag}"
      TIMEOUT 60 RESULT_VARIABLE reached OUTPUT_QUIET ERROR_QUIET)
  endif()
  if(NOT reached EQUAL 0)
    message(FATAL_ERROR " mha: ${name} is not installed and ${repository} cannot be reached: ${remedy}")
  endif()
  message(STATUS "mha: ${name} is not installed; fetching ${tag}")
endfunction()

# Sets XSIMD_INCLUDE_DIR. Only the header directory is used, never its CMake target (Debian's wants -lxtl at link time).
macro(mha_find_xsimd)
  find_path(XSIMD_INCLUDE_DIR xsimd/xsimd.hpp DOC "Directory that holds xsimd/xsimd.hpp")
  if(NOT XSIMD_INCLUDE_DIR)
    mha_check_reachable(xsimd https://github.com/xtensor-stack/xsimd.git 14.1.0
      "install it (Debian: apt-get install libxsimd-dev), or set XSIMD_INCLUDE_DIR to the folder of xsimd/xsimd.hpp")
    # SOURCE_SUBDIR without a CMakeLists.txt: populate, add nothing.
    FetchContent_Declare(xsimd GIT_REPOSITORY https://github.com/xtensor-stack/xsimd.git GIT_TAG 14.1.0 GIT_SHALLOW TRUE
      SOURCE_SUBDIR include)
    FetchContent_MakeAvailable(xsimd)
    set(XSIMD_INCLUDE_DIR "${xsimd_SOURCE_DIR}/include")
  elseif(NOT EXISTS "${XSIMD_INCLUDE_DIR}/xsimd/xsimd.hpp")
    message(FATAL_ERROR " mha: XSIMD_INCLUDE_DIR is '${XSIMD_INCLUDE_DIR}', but there is no xsimd/xsimd.hpp in it")
  endif()
endmacro()

# mha_find_or_fetch(<package> <target that it brings> <Debian package> <option that does without> <repository> <tag>)
macro(mha_find_or_fetch package target debian option repository tag)
  if(NOT TARGET ${target})
    find_package(${package} QUIET)
  endif()
  if(NOT TARGET ${target})
    mha_check_reachable(${package} ${repository} ${tag}
      "install it (Debian: apt-get install ${debian}), name its prefix in CMAKE_PREFIX_PATH, or set ${option}")
    FetchContent_Declare(${package} GIT_REPOSITORY ${repository} GIT_TAG ${tag} GIT_SHALLOW TRUE)
    FetchContent_MakeAvailable(${package})
  endif()
endmacro()

macro(mha_find_catch2)
  mha_find_or_fetch(Catch2 Catch2::Catch2 catch2 MHA_BUILD_TESTS=OFF https://github.com/catchorg/Catch2.git v3.5.2)
endmacro()

macro(mha_find_benchmark)
  set(BENCHMARK_ENABLE_TESTING OFF)
  mha_find_or_fetch(benchmark benchmark::benchmark libbenchmark-dev MHA_BUILD_BENCH=OFF
    https://github.com/google/benchmark.git v1.8.3)
endmacro()

macro(mha_find_cli11)
  mha_find_or_fetch(CLI11 CLI11::CLI11 libcli11-dev MHA_BUILD_TOOLS=OFF https://github.com/CLIUtils/CLI11.git v2.3.2)
endmacro()

macro(mha_find_json)
  mha_find_or_fetch(nlohmann_json nlohmann_json::nlohmann_json nlohmann-json3-dev MHA_BUILD_TOOLS=OFF
    https://github.com/nlohmann/json.git v3.11.2)
endmacro()
