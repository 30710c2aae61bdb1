# SPDX-License-Identifier: Apache-2.0
# Finds the instruction-set targets under simd/targets/<family>/: one file each, whose first line holds its compiler flags
# ("// build-flags: -mavx2 -mfma"), so that a new target is one new file and no edit here.

# On macOS the architecture may be chosen by a variable of its own.
set(mha_processor "${CMAKE_SYSTEM_PROCESSOR}")
if(CMAKE_OSX_ARCHITECTURES)
  set(mha_processor "${CMAKE_OSX_ARCHITECTURES}")
endif()
if(mha_processor MATCHES "^(x86_64|AMD64|amd64)$")
  set(mha_family x86_64)
elseif(mha_processor MATCHES "^(aarch64|arm64|ARM64)$")
  set(mha_family aarch64)
elseif(mha_processor MATCHES ";")
  message(FATAL_ERROR " mha: one architecture a build, not '${mha_processor}'; lipo joins them")
else()
  message(FATAL_ERROR " mha: no targets for the processor '${mha_processor}' (x86_64 and aarch64 are supported)")
endif()

# What every object of the library is compiled with, after a parent's flags and before those of a target's first line.
# It takes back what a parent may have in CMAKE_CXX_FLAGS: instructions beyond the family's baseline (the last
# -march counts, but an explicit -mavx512f outlives a later -march; -mno-sse3 takes back all that builds on SSE3, which
# is every vector instruction since), arithmetic that changes bits, and link-time optimisation, which would mix code of
# different instruction sets. A parent's -mtune stays: it changes no result.
if(mha_family STREQUAL x86_64)
  set(mha_baseline_flags -march=x86-64 -msse2 -mno-sse3 -mfpmath=sse
    -mno-popcnt -mno-lzcnt -mno-bmi -mno-bmi2 -mno-movbe)
else()
  set(mha_baseline_flags -march=armv8-a)
endif()
list(APPEND mha_baseline_flags -fno-fast-math -fno-rounding-math -ffp-contract=off -fno-math-errno -fno-lto
  $<$<CXX_COMPILER_ID:GNU>:-fno-single-precision-constant>)

include(CheckCXXSourceCompiles)

# The option without which a target has no kernels of its own; empty: it has others.
function(mha_option_of source option)
  file(STRINGS "${source}" line REGEX "^// option: " LIMIT_COUNT 1)
  string(REPLACE "// option: " "" line "${line}")
  set(${option} "${line}" PARENT_SCOPE)
endfunction()

# Adds the target sources named in `wanted` (empty: all) to `library`, and defines MHA_HAVE_<NAME> for all its sources: 1
# for these, 0 for the others of any family. simd/targets.def makes its list of that.
function(mha_add_targets library wanted)
  file(GLOB every CONFIGURE_DEPENDS simd/targets/*/*.cpp)
  file(GLOB sources CONFIGURE_DEPENDS simd/targets/${mha_family}/*.cpp)
  set(known "")
  foreach(source IN LISTS sources)
    get_filename_component(name "${source}" NAME_WE)
    list(APPEND known ${name})
  endforeach()
  foreach(name IN LISTS wanted)
    if(NOT name IN_LIST known)
      message(FATAL_ERROR "MHA_TARGETS: unknown target '${name}' (${mha_family} has: ${known})")
    endif()
  endforeach()
  if(NOT wanted)
    set(wanted ${known})
    # Older compilers do not know the newest instruction sets, which some targets have over their base.
    set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
    foreach(source IN LISTS sources)
      file(STRINGS "${source}" base REGEX "^// base: " LIMIT_COUNT 1)
      file(STRINGS "${source}" first_line LIMIT_COUNT 1)
      if(base AND first_line MATCHES "^// build-flags:(.*)$")
        get_filename_component(name "${source}" NAME_WE)
        set(CMAKE_REQUIRED_FLAGS "${CMAKE_MATCH_1}")
        check_cxx_source_compiles("int main() { return 0; }" MHA_COMPILER_HAS_${name})
        mha_option_of("${source}" option)
        if(NOT ${option})
          list(REMOVE_ITEM wanted ${name})
        elseif(NOT MHA_COMPILER_HAS_${name})
          list(REMOVE_ITEM wanted ${name})
          message(STATUS "mha: without target '${name}', whose flags this compiler does not know")
        endif()
      endif()
    endforeach()
    unset(CMAKE_REQUIRED_FLAGS)
  endif()

  foreach(source IN LISTS sources)
    get_filename_component(name "${source}" NAME_WE)
    if(name IN_LIST wanted)
      file(STRINGS "${source}" base REGEX "^// base: " LIMIT_COUNT 1)
      string(REPLACE "// base: " "" base "${base}")
      mha_option_of("${source}" option)
      if(option AND NOT ${option})
        message(FATAL_ERROR "MHA_TARGETS: '${name}' is of no use with ${option}=OFF")
      endif()
      if(base AND NOT base IN_LIST wanted)
        message(FATAL_ERROR "MHA_TARGETS: '${name}' takes most of its kernels from '${base}', so name both")
      endif()
      file(STRINGS "${source}" first_line LIMIT_COUNT 1)
      if(NOT first_line MATCHES "^// build-flags:(.*)$")
        message(FATAL_ERROR "${source}: the first line must be '// build-flags: ...'")
      endif()
      separate_arguments(flags UNIX_COMMAND "${CMAKE_MATCH_1}")
      # It comes after MinSizeRel's -Os: kernels are always compiled for speed.
      list(APPEND flags $<$<NOT:$<CONFIG:Debug>>:-O3>)
      # gcc 12 takes _mm512_undefined_ps and its like in its own headers for mistakes (gcc bug 105593); clang still warns.
      list(APPEND flags $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized> $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
      set_source_files_properties("${source}" PROPERTIES COMPILE_OPTIONS "${flags}")
      set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${source}")
      target_sources(${library} PRIVATE "${source}")
    endif()
  endforeach()
  foreach(source IN LISTS every)
    get_filename_component(name "${source}" NAME_WE)
    string(TOUPPER ${name} upper)
    set(built 0)
    if(name IN_LIST wanted)
      set(built 1)
    endif()
    target_compile_definitions(${library} PRIVATE MHA_HAVE_${upper}=${built})
  endforeach()
  message(STATUS "mha targets: ${wanted}")
endfunction()

# Options of the shared library's link, each where this linker knows it (that of macOS knows none of the first three).
# Fast-math at the link would add a start-up object that sets flush-to-zero in the program that loads the library.
include(CheckLinkerFlag)
function(mha_link_options library)
  foreach(option -Wl,--as-needed -Wl,--no-undefined -Wl,--gc-sections -fno-fast-math -fno-unsafe-math-optimizations -O2)
    string(MAKE_C_IDENTIFIER "MHA_LINKER_KNOWS${option}" known)
    check_linker_flag(CXX "${option}" ${known})
    if(${known})
      target_link_options(${library} PRIVATE "${option}")
    endif()
  endforeach()
endfunction()
