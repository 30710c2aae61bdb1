# SPDX-License-Identifier: Apache-2.0
# Port of mha for vcpkg. It builds the source tree that it is in:
# `vcpkg install mha --overlay-ports=tools/packaging/vcpkg`. In a registry,
# vcpkg_from_github or its like takes the place of the next line, with the tag "v${VERSION}".
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../../.." ABSOLUTE)

vcpkg_check_features(OUT_FEATURE_OPTIONS feature_options FEATURES
  bf16 MHA_BF16
  codes MHA_CODES
  openmp MHA_OPENMP)
vcpkg_cmake_configure(SOURCE_PATH "${SOURCE_PATH}" OPTIONS
  ${feature_options}
  -DMHA_BUILD_TESTS=OFF
  -DMHA_BUILD_BENCH=OFF
  -DMHA_BUILD_TOOLS=OFF
  "-DXSIMD_INCLUDE_DIR=${CURRENT_INSTALLED_DIR}/include")
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(PACKAGE_NAME mha CONFIG_PATH lib/cmake/mha)
vcpkg_fixup_pkgconfig()

file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/debug/include" "${CURRENT_PACKAGES_DIR}/debug/share")
file(RENAME "${CURRENT_PACKAGES_DIR}/share/doc/mha/mha.spdx.json" "${CURRENT_PACKAGES_DIR}/share/mha/mha.spdx.json")
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/share/doc")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/mha")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE" "${SOURCE_PATH}/tools/packaging/NOTICE")
