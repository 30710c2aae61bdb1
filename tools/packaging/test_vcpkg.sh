# SPDX-License-Identifier: Apache-2.0
# Sourced by test.sh. The port builds and its package is used, with stand-ins for vcpkg's functions (try_port.cmake):
# vcpkg itself is not in Debian and not on PyPI.
settings="-DMHA_TARGETS=$targets;-DCMAKE_BUILD_TYPE=$build_type"
[ -z "${CMAKE_CXX_COMPILER_LAUNCHER:-}" ] || settings+=";-DCMAKE_CXX_COMPILER_LAUNCHER=$CMAKE_CXX_COMPILER_LAUNCHER"
port() { # <folder> <features>
  cmake -DWORK="$1" -DINSTALLED=/usr "-DFEATURES=$2" "-DSETTINGS=$settings" -P "$here/vcpkg/try_port.cmake"
}
python3 -c 'import json, sys; json.load(open(sys.argv[1]))' "$here/vcpkg/mha/vcpkg.json"
port "$out/vcpkg" "codes;openmp" # all but one: what is left out can only be OFF by the port's own doing
use_cmake "$out/vcpkg/packages/mha"
use_pkg_config "$out/vcpkg/packages/mha/lib/pkgconfig"
for setting in BF16:.*=OFF CODES:.*=ON OPENMP:.*=ON; do
  grep -q "^MHA_$setting" "$out/vcpkg/build/CMakeCache.txt" || fail "the port's features did not give MHA_$setting"
done
grep -q QuantStack "$out/vcpkg/packages/mha/share/mha/copyright" || fail "the port's copyright lacks xsimd's notice"
# The stand-ins notice an argument that vcpkg's functions do not have.
rm -rf "$out/wrong_port"
cp -r "$here/vcpkg" "$out/wrong_port"
sed -i 's/OUT_FEATURE_OPTIONS/OUT_FEATURES/' "$out/wrong_port/mha/portfile.cmake"
if cmake -DWORK="$out/wrong" -DINSTALLED=/usr -P "$out/wrong_port/try_port.cmake" 2>"$out/message"; then
  fail "a wrong argument in the portfile was not noticed"
fi
grep -q "'OUT_FEATURES.*is wrong" "$out/message" || fail "the message does not name the argument"
