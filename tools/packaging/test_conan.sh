# SPDX-License-Identifier: Apache-2.0
# Sourced by test.sh. `conan create` without network: the package is built, and its test package built and run, static
# and shared. xsimd comes from a recipe of a few lines over the headers of this machine.
environment
xsimd=${XSIMD_INCLUDE_DIR:-/usr/include}
export CONAN_HOME=$out/conan
rm -rf "$CONAN_HOME" "$out/xsimd_recipe"
mkdir -p "$out/xsimd_recipe"
config=$xsimd/xsimd/config/xsimd_config.hpp
version=$(sed -n 's/^#define XSIMD_VERSION_\(MAJOR\|MINOR\|PATCH\) \([0-9]*\)$/\2/p' "$config" | paste -sd.)
cat >"$out/xsimd_recipe/conanfile.py" <<PYTHON
from conan import ConanFile
from conan.tools.files import copy


class Xsimd(ConanFile):
    name = "xsimd"
    version = "$version"
    package_type = "header-library"

    def package(self):
        copy(self, "xsimd/*", "$xsimd", self.package_folder + "/include")
PYTHON
conan profile detect --force >/dev/null
conan remote remove conancenter >/dev/null 2>&1 || true
conan export-pkg "$out/xsimd_recipe" >"$out/conan_xsimd.txt" 2>&1 ||
  { tail -n 20 "$out/conan_xsimd.txt" && fail "xsimd's headers"; }
for shared in False True; do
  conan create "$here/conan" -s build_type=$build_type -o "mha/*:shared=$shared" \
    ${targets:+-o "mha/*:targets=$targets"} -c "tools.cmake.cmake_layout:test_folder=$out/conan_test" --no-remote \
    >"$out/conan_$shared.txt" 2>&1 ||
    { tail -n 40 "$out/conan_$shared.txt" && fail "conan create, shared=$shared"; }
  grep -q 'mha/.* (test package): Running test()' "$out/conan_$shared.txt" || fail "conan ran no test package"
done
# The folder of the last package has the notices of what is compiled in.
folder=$(find "$CONAN_HOME/p/b" -path '*/p/licenses/NOTICE' | head -n 1)
grep -q QuantStack "$folder" || fail "the package has no licenses/NOTICE"
# What a user sees on another system.
if conan create "$here/conan" -s os=Windows -s compiler=gcc --no-remote >"$out/conan_windows.txt" 2>&1; then
  fail "conan took Windows"
fi
grep -q 'mha runs on Linux' "$out/conan_windows.txt" || fail "the recipe does not say why it refuses Windows"
