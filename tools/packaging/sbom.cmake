# SPDX-License-Identifier: Apache-2.0
# Writes the SBOM of the library, and of the command where that is installed: SPDX 2.3 as JSON. It lists the source
# files with their checksums and the licences that their first lines name, and the headers of others that are compiled
# in. The same tree gives the same file, except the time, which SOURCE_DATE_EPOCH sets.
#
#   cmake -DSOURCE=<source tree> -DOUTPUT=<file> [-DXSIMD_INCLUDE_DIR=<folder>] [-DCOMMAND_PARTS=CLI11=<version>,...]
#     -P sbom.cmake
cmake_minimum_required(VERSION 3.18...3.31)

file(STRINGS "${SOURCE}/core/mha.h" version REGEX "^#define MHA_VERSION_(MAJOR|MINOR|PATCH) [0-9]+$")
list(TRANSFORM version REPLACE "^.* " "")
list(JOIN version "." version)

# Sets <result> to the value of a macro in a header, or to nothing.
function(macro_of header name result)
  set(found "")
  if(EXISTS "${header}")
    file(STRINGS "${header}" line REGEX "^#define ${name} [0-9]+" LIMIT_COUNT 1)
    string(REGEX MATCH "[0-9]+$" found "${line}")
  endif()
  set(${result} "${found}" PARENT_SCOPE)
endfunction()

set(xsimd_config "${XSIMD_INCLUDE_DIR}/xsimd/config/xsimd_config.hpp")
foreach(part MAJOR MINOR PATCH)
  macro_of("${xsimd_config}" XSIMD_VERSION_${part} ${part})
endforeach()
set(xsimd_version "")
if(NOT MAJOR STREQUAL "")
  set(xsimd_version "${MAJOR}.${MINOR}.${PATCH}")
endif()

# --- Files of the source ----------------------------------------------------------------------------------------------
set(patterns core/*.h core/*.hpp core/*/*.h core/*/*.cpp core/*/*.def)
list(APPEND patterns simd/*.h simd/*.cpp simd/*.def simd/targets/*/*.cpp)
if(COMMAND_PARTS)
  list(APPEND patterns tools/cli/*.h tools/cli/*.cpp tools/io/*.h tools/io/*.cpp)
endif()
list(TRANSFORM patterns PREPEND "${SOURCE}/")
file(GLOB sources RELATIVE "${SOURCE}" ${patterns})
list(SORT sources)
set(files "")
set(checksums "")
set(contained "")
foreach(source IN LISTS sources)
  file(SHA1 "${SOURCE}/${source}" sha1)
  file(SHA256 "${SOURCE}/${source}" sha256)
  file(STRINGS "${SOURCE}/${source}" tag REGEX "SPDX-License-Identifier: [A-Za-z0-9.-]+" LIMIT_COUNT 1)
  if(NOT tag MATCHES "SPDX-License-Identifier: ([A-Za-z0-9.-]+)")
    message(FATAL_ERROR "sbom: ${source} does not name its licence")
  endif()
  set(licence "${CMAKE_MATCH_1}")
  string(REGEX REPLACE "[^A-Za-z0-9.]" "-" id "${source}")
  list(APPEND checksums ${sha1})
  list(APPEND contained "\"SPDXRef-File-${id}\"")
  list(APPEND files "{\"SPDXID\": \"SPDXRef-File-${id}\", \"fileName\": \"./${source}\", \"fileTypes\": [\"SOURCE\"],
     \"checksums\": [{\"algorithm\": \"SHA1\", \"checksumValue\": \"${sha1}\"},
       {\"algorithm\": \"SHA256\", \"checksumValue\": \"${sha256}\"}],
     \"licenseConcluded\": \"${licence}\", \"licenseInfoInFiles\": [\"${licence}\"],
     \"copyrightText\": \"NOASSERTION\"}")
endforeach()
# The code over all files, as SPDX 2.3 (7.9) defines it.
list(SORT checksums)
list(JOIN checksums "" checksums)
string(SHA1 verification "${checksums}")

# --- Packages and how they belong together ----------------------------------------------------------------------------
set(packages "")
set(relations "")

# add_package(<id> <name> <version> <licence> <where it is from> <copyright> <more fields>)
function(add_package id name version licence location copyright more)
  set(text "{\"SPDXID\": \"SPDXRef-${id}\", \"name\": \"${name}\"")
  if(NOT version STREQUAL "")
    string(APPEND text ", \"versionInfo\": \"${version}\"")
  endif()
  string(APPEND text ", \"downloadLocation\": \"${location}\", \"licenseConcluded\": \"${licence}\",
     \"licenseDeclared\": \"${licence}\", \"copyrightText\": \"${copyright}\", ${more}}")
  set(packages ${packages} "${text}" PARENT_SCOPE)
endfunction()

macro(relate from kind to)
  list(APPEND relations "{\"spdxElementId\": \"SPDXRef-${from}\", \"relationshipType\": \"${kind}\",
     \"relatedSpdxElement\": \"SPDXRef-${to}\"}")
endmacro()

set(ours "Copyright the mha authors")
list(JOIN contained ", " has_files)
add_package(source mha "${version}" Apache-2.0 NOASSERTION "${ours}"
  "\"filesAnalyzed\": true, \"packageVerificationCode\": {\"packageVerificationCodeValue\": \"${verification}\"},
     \"licenseInfoFromFiles\": [\"Apache-2.0\"], \"hasFiles\": [${has_files}]")
add_package(library libmha "${version}" "Apache-2.0 AND BSD-3-Clause" NOASSERTION "${ours}"
  "\"filesAnalyzed\": false, \"primaryPackagePurpose\": \"LIBRARY\"")
add_package(xsimd xsimd "${xsimd_version}" BSD-3-Clause https://github.com/xtensor-stack/xsimd
  "Copyright Johan Mabille, Sylvain Corlay, Wolf Vollprecht and Martin Renou, QuantStack, Serge Guelton"
  "\"filesAnalyzed\": false, \"comment\": \"Headers that are compiled in: binaries reproduce its notice (NOTICE).\"")
relate(DOCUMENT DESCRIBES library)
relate(library GENERATED_FROM source)
relate(library STATIC_LINK xsimd)
relate(xsimd BUILD_DEPENDENCY_OF library)

if(COMMAND_PARTS)
  add_package(command mha-command "${version}" "Apache-2.0 AND BSD-3-Clause AND MIT" NOASSERTION "${ours}"
    "\"filesAnalyzed\": false, \"primaryPackagePurpose\": \"APPLICATION\"")
  relate(DOCUMENT DESCRIBES command)
  relate(command GENERATED_FROM source)
  relate(command STATIC_LINK library)
  set(CLI11_facts BSD-3-Clause https://github.com/CLIUtils/CLI11
    "Copyright University of Cincinnati, developed by Henry Schreiner")
  set(nlohmann_json_facts MIT https://github.com/nlohmann/json "Copyright Niels Lohmann")
  string(REPLACE "," ";" parts "${COMMAND_PARTS}")
  foreach(part IN LISTS parts)
    string(REGEX MATCH "^([^=]+)=(.*)$" matched "${part}")
    set(name "${CMAKE_MATCH_1}")
    set(part_version "${CMAKE_MATCH_2}")
    string(REPLACE "_" "-" id "${name}")
    add_package(${id} ${name} "${part_version}" ${${name}_facts} "\"filesAnalyzed\": false")
    relate(command STATIC_LINK ${id})
    relate(${id} BUILD_DEPENDENCY_OF command)
  endforeach()
endif()

# --- The document -----------------------------------------------------------------------------------------------------
string(TIMESTAMP created UTC)
string(UUID uuid NAMESPACE 6ba7b811-9dad-11d1-80b4-00c04fd430c8 TYPE SHA1
  NAME "mha-${version}-${verification}-xsimd-${xsimd_version}-${COMMAND_PARTS}-${created}")
foreach(list packages files relations)
  string(REPLACE ";" ",\n    " ${list} "${${list}}")
endforeach()
file(WRITE "${OUTPUT}" "{
  \"spdxVersion\": \"SPDX-2.3\",
  \"dataLicense\": \"CC0-1.0\",
  \"SPDXID\": \"SPDXRef-DOCUMENT\",
  \"name\": \"mha-${version}\",
  \"documentNamespace\": \"https://spdx.org/spdxdocs/mha-${version}-${uuid}\",
  \"creationInfo\": {\"created\": \"${created}\", \"creators\": [\"Tool: mha-sbom.cmake-${version}\"]},
  \"packages\": [
    ${packages}
  ],
  \"files\": [
    ${files}
  ],
  \"relationships\": [
    ${relations}
  ]
}
")
