# SPDX-License-Identifier: Apache-2.0
# Writes HEADER with the commit that SOURCE is at ("-dirty" appended where files differ from it).
execute_process(COMMAND git -C ${SOURCE} describe --always --dirty --abbrev=12 --exclude=*
  OUTPUT_VARIABLE revision OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
  set(revision "unknown")
endif()
file(CONFIGURE OUTPUT ${HEADER} CONTENT "#define MHA_BENCH_REVISION \"${revision}\"\n")
