# SPDX-License-Identifier: Apache-2.0
# Finds the instruction-set targets under simd/targets/<family>/: one file each, whose first line holds its compiler flags
# ("// build-flags: -mavx2 -mfma"), so that a new target is one new file and no edit here.

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(mha_family x86_64)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  set(mha_family aarch64)
else()
  message(FATAL_ERROR "mha: no targets for the processor '${CMAKE_SYSTEM_PROCESSOR}' (x86_64 and aarch64 are supported)")
endif()

# Adds the target sources named in `wanted` (empty: all) to `library`, and defines MHA_HAVE_<NAME>=1 for each on all its
# sources, from which simd/dispatch.cpp makes its table.
function(mha_add_targets library wanted)
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
  endif()

  foreach(source IN LISTS sources)
    get_filename_component(name "${source}" NAME_WE)
    if(name IN_LIST wanted)
      file(STRINGS "${source}" first_line LIMIT_COUNT 1)
      if(NOT first_line MATCHES "^// build-flags:(.*)$")
        message(FATAL_ERROR "${source}: the first line must be '// build-flags: ...'")
      endif()
      separate_arguments(flags UNIX_COMMAND "${CMAKE_MATCH_1}")
      # gcc 12 takes _mm512_undefined_ps and its like in its own headers for mistakes (gcc bug 105593); clang still warns.
      list(APPEND flags $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized> $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
      set_source_files_properties("${source}" PROPERTIES COMPILE_OPTIONS "${flags}")
      set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${source}")
      string(TOUPPER ${name} upper)
      target_sources(${library} PRIVATE "${source}")
      target_compile_definitions(${library} PRIVATE MHA_HAVE_${upper}=1)
    endif()
  endforeach()
  message(STATUS "mha targets: ${wanted}")
endfunction()
