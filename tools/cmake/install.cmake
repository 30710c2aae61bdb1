# SPDX-License-Identifier: Apache-2.0
# Install rules: library, headers, CMake package (mha::mha) and pkg-config file. Nothing of xsimd is installed or named.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS mha EXPORT mha-targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${public_headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/mha)
if(TARGET mha_cli)
  install(TARGETS mha_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

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
install(EXPORT mha-targets NAMESPACE mha:: DESTINATION ${package_dir})
# The same for the build tree: a parent that exports its own build tree refers to it.
export(EXPORT mha-targets NAMESPACE mha:: FILE ${CMAKE_CURRENT_BINARY_DIR}/mha-targets.cmake)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mha-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/mha-config-version.cmake
  DESTINATION ${package_dir})

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
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mha.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
