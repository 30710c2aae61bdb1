# SPDX-License-Identifier: Apache-2.0
# Runs the port without vcpkg, which neither Debian nor PyPI has: functions of the names that the portfile calls do what
# vcpkg's own are documented to do, for a release build alone. They fail on arguments that they do not know.
#
#   cmake -DWORK=<folder> -DINSTALLED=<folder with include/xsimd> [-DFEATURES=bf16;codes] [-DSETTINGS=-D...;-D...]
#     -P try_port.cmake
cmake_minimum_required(VERSION 3.18...3.31)
set(CURRENT_INSTALLED_DIR "${INSTALLED}")
set(CURRENT_PACKAGES_DIR "${WORK}/packages/mha")
set(build "${WORK}/build")

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE failed OUTPUT_QUIET)
  if(failed)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "vcpkg port: failed: ${command}")
  endif()
endfunction()

# Parses the arguments of a function of vcpkg: <name> <single values> <lists> <argument>...
macro(parse name single multiple)
  cmake_parse_arguments(arg "" "${single}" "${multiple}" ${ARGN})
  if(arg_UNPARSED_ARGUMENTS OR arg_KEYWORDS_MISSING_VALUES)
    message(FATAL_ERROR "vcpkg port: ${name}: '${arg_UNPARSED_ARGUMENTS}${arg_KEYWORDS_MISSING_VALUES}' is wrong")
  endif()
endmacro()

function(vcpkg_check_features)
  parse(vcpkg_check_features "OUT_FEATURE_OPTIONS" "FEATURES" ${ARGN})
  set(options "")
  while(arg_FEATURES)
    list(POP_FRONT arg_FEATURES feature option)
    if(feature IN_LIST FEATURES)
      list(APPEND options -D${option}=ON)
    else()
      list(APPEND options -D${option}=OFF)
    endif()
  endwhile()
  set(${arg_OUT_FEATURE_OPTIONS} ${options} PARENT_SCOPE)
endfunction()

function(vcpkg_cmake_configure)
  parse(vcpkg_cmake_configure "SOURCE_PATH" "OPTIONS" ${ARGN})
  run("${CMAKE_COMMAND}" -S "${arg_SOURCE_PATH}" -B "${build}" -G Ninja -DCMAKE_BUILD_TYPE=Release
    -DBUILD_SHARED_LIBS=OFF "-DCMAKE_INSTALL_PREFIX=${CURRENT_PACKAGES_DIR}" -DCMAKE_INSTALL_LIBDIR=lib
    ${arg_OPTIONS} ${SETTINGS})
endfunction()

function(vcpkg_cmake_install)
  parse(vcpkg_cmake_install "" "" ${ARGN})
  run("${CMAKE_COMMAND}" --build "${build}" --target install -j 2)
endfunction()

# Moves the package files to share/<name>, one folder nearer to the prefix.
function(vcpkg_cmake_config_fixup)
  parse(vcpkg_cmake_config_fixup "PACKAGE_NAME;CONFIG_PATH" "" ${ARGN})
  set(target "${CURRENT_PACKAGES_DIR}/share/${arg_PACKAGE_NAME}")
  file(MAKE_DIRECTORY "${CURRENT_PACKAGES_DIR}/share")
  file(RENAME "${CURRENT_PACKAGES_DIR}/${arg_CONFIG_PATH}" "${target}")
  file(GLOB configs "${target}/*.cmake")
  foreach(config IN LISTS configs)
    file(READ "${config}" text)
    set(call "get_filename_component\\(_IMPORT_PREFIX \"\\\${")
    string(REGEX REPLACE "${call}CMAKE_CURRENT_LIST_FILE}\" PATH\\)(\n${call}_IMPORT_PREFIX}\" PATH\\))*"
      "get_filename_component(_IMPORT_PREFIX \"\${CMAKE_CURRENT_LIST_DIR}/../..\" ABSOLUTE)" text "${text}")
    string(REPLACE "\${CMAKE_CURRENT_LIST_DIR}/../../../" "\${CMAKE_CURRENT_LIST_DIR}/../../" text "${text}")
    file(WRITE "${config}" "${text}")
  endforeach()
endfunction()

function(vcpkg_fixup_pkgconfig)
  parse(vcpkg_fixup_pkgconfig "" "" ${ARGN})
  file(GLOB found "${CURRENT_PACKAGES_DIR}/lib/pkgconfig/*.pc")
  if(NOT found)
    message(FATAL_ERROR "vcpkg port: there is no pkg-config file")
  endif()
endfunction()

function(vcpkg_install_copyright)
  parse(vcpkg_install_copyright "COMMENT" "FILE_LIST" ${ARGN})
  foreach(licence IN LISTS arg_FILE_LIST)
    file(READ "${licence}" text)
    file(APPEND "${CURRENT_PACKAGES_DIR}/share/mha/copyright" "${text}\n")
  endforeach()
endfunction()

file(REMOVE_RECURSE "${WORK}")
include("${CMAKE_CURRENT_LIST_DIR}/mha/portfile.cmake")
# What vcpkg's own checks after a build look at.
file(GLOB_RECURSE installed RELATIVE "${CURRENT_PACKAGES_DIR}" "${CURRENT_PACKAGES_DIR}/*")
foreach(wanted include/mha/mha.h lib/libmha.a lib/pkgconfig/mha.pc share/mha/mha-config.cmake share/mha/copyright
    share/mha/usage)
  if(NOT wanted IN_LIST installed)
    message(FATAL_ERROR "vcpkg port: ${wanted} is missing; there are: ${installed}")
  endif()
endforeach()
foreach(file IN LISTS installed)
  if(file MATCHES "^(debug/include|debug/share|share/doc|lib/cmake)/")
    message(FATAL_ERROR "vcpkg port: ${file} is where vcpkg allows none")
  endif()
endforeach()
