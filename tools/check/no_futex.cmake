# SPDX-License-Identifier: Apache-2.0
# Included at the library's project(), for no_openmp.sh: its threads sleep as on systems without futexes. A definition of
# the library alone, so that objects of the tests are shared with other builds.
cmake_language(DEFER CALL target_compile_definitions mha PRIVATE MHA_NO_FUTEX)
