# SPDX-License-Identifier: Apache-2.0
# Install rules. Components: mha_dev (archive or link, headers, CMake package mha::mha, pkg-config file), mha_runtime (the
# shared library), mha_tools (the command, its man page and completions, what `mha notebook` reads), mha_doc (licence,
# notice, SBOM). Nothing of xsimd is installed.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS mha EXPORT mha-targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT mha_dev
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT mha_runtime NAMELINK_COMPONENT mha_dev
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT mha_runtime
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${public_headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/mha COMPONENT mha_dev)
if(TARGET mha_cli)
  install(TARGETS mha_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT mha_tools)
  install(FILES tests/golden/notebook.safetensors DESTINATION ${CMAKE_INSTALL_DATADIR}/mha COMPONENT mha_tools)
  if(NOT CMAKE_CROSSCOMPILING)  # man page and completions of bash, zsh and fish, where these look for them
    install(DIRECTORY ${PROJECT_BINARY_DIR}/tools/share/man/ DESTINATION ${CMAKE_INSTALL_MANDIR} COMPONENT mha_tools)
    install(DIRECTORY ${PROJECT_BINARY_DIR}/tools/share/ DESTINATION ${CMAKE_INSTALL_DATADIR} COMPONENT mha_tools
      PATTERN man EXCLUDE)
  endif()
endif()

# The licence, what distributors of binaries must reproduce, and the SBOM, which is made when it is installed.
set(doc_dir ${CMAKE_INSTALL_DATAROOTDIR}/doc/mha)
install(FILES LICENSE tools/packaging/NOTICE DESTINATION ${doc_dir} COMPONENT mha_doc)
set(sbom_script "${CMAKE_CURRENT_SOURCE_DIR}/tools/packaging/sbom.cmake")
set(sbom_settings "-DSOURCE=${CMAKE_CURRENT_SOURCE_DIR}" "-DOUTPUT=${CMAKE_CURRENT_BINARY_DIR}/mha.spdx.json"
  "-DXSIMD_INCLUDE_DIR=${XSIMD_INCLUDE_DIR}")
if(TARGET mha_cli)
  get_property(command_parts GLOBAL PROPERTY MHA_COMMAND_PARTS)
  list(APPEND sbom_settings "-DCOMMAND_PARTS=${command_parts}")
endif()
list(JOIN sbom_settings "\" \"" sbom_settings)
install(CODE "execute_process(COMMAND \"${CMAKE_COMMAND}\" \"${sbom_settings}\" -P \"${sbom_script}\" RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR \"mha: the SBOM could not be made\")
  endif()" COMPONENT mha_doc)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mha.spdx.json DESTINATION ${doc_dir} COMPONENT mha_doc)

# A static archive leaves the OpenMP runtime to its users; a shared library has it linked already.
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/mha)
if(mha_has_openmp AND NOT MHA_SHARED)
  set(mha_needs_openmp TRUE)
else()
  set(mha_needs_openmp FALSE)
endif()
configure_package_config_file(tools/cmake/mha-config.cmake.in mha-config.cmake INSTALL_DESTINATION ${package_dir}
  NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
# Below 1.0 a new minor version may change the interface.
write_basic_package_version_file(mha-config-version.cmake COMPATIBILITY SameMinorVersion)
install(EXPORT mha-targets NAMESPACE mha:: DESTINATION ${package_dir} COMPONENT mha_dev)
# The same for the build tree: a parent that exports its own build tree refers to it.
export(EXPORT mha-targets NAMESPACE mha:: FILE ${CMAKE_CURRENT_BINARY_DIR}/mha-targets.cmake)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mha-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/mha-config-version.cmake
  DESTINATION ${package_dir} COMPONENT mha_dev)

# The prefix in mha.pc is relative to the file, so that the installed tree can be moved.
file(RELATIVE_PATH pc_prefix "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
string(REGEX REPLACE "/$" "" pc_prefix "${pc_prefix}")
set(link_libraries "-lm")
if(CMAKE_THREAD_LIBS_INIT)  # empty where libc has them
  string(APPEND link_libraries " ${CMAKE_THREAD_LIBS_INIT}")
endif()
if(mha_has_openmp)
  string(APPEND link_libraries " ${OpenMP_CXX_FLAGS}")
endif()
# With the archive alone, a plain `pkg-config --libs` must name them too.
if(MHA_SHARED)
  set(pc_libs "")
  set(pc_libs_private "${link_libraries}")
  set(pc_cflags "-DMHA_SHARED=1")
else()
  set(pc_libs " ${link_libraries}")
  set(pc_libs_private "${link_libraries}")
  set(pc_cflags "")
endif()
configure_file(tools/cmake/mha.pc.in mha.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mha.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT mha_dev)
