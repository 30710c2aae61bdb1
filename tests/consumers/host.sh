# SPDX-License-Identifier: Apache-2.0
# Sourced by run.sh for host_native, host_v3 and host_shared: builds the library inside a parent with settings that it
# must not take over, and compares the bits of every target with those of the installed library.
if [ "$(uname -m)" = x86_64 ]; then
  native=-march=native newer="-march=x86-64-v3" one=sse2 few="avx2;sse2"
  ! grep -qw avx512f /proc/cpuinfo || native+=" -mavx512f"  # the parent's own program runs here, too
else
  native="-mcpu=native" newer="-march=armv8.2-a+dotprod" one=neon few=neon
fi

host() { # <CXXFLAGS> <standard> <cmake argument>...
  CXXFLAGS=$1 configure -S "$here/hosts" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DMHA_SOURCE="$source" \
    -DHOST_STANDARD="$2" "${@:3}"
  cmake --build "$work/build" -j 2
}

check_objects() {
  MHA_CHECK_DIR=$work/check bash "$source/tools/check/instructions.sh" "$work/build/mha"
  MHA_CHECK_DIR=$work/check bash "$source/tools/check/symbols.sh" "$work/build/mha"
}

case $kind in
  host_native)
    host "$native -ffast-math -flto -Werror -Wconversion -Wold-style-cast -Wfloat-equal" 20 \
      -DCMAKE_INTERPROCEDURAL_OPTIMIZATION=ON -DCMAKE_UNITY_BUILD=ON
    check_objects
    ;;
  host_v3)
    host "$newer -Ofast -flto" 23 "-DMHA_TARGETS=$few"  # host_native builds all; this would take as long again
    check_objects
    ;;
  host_shared)
    # gcc links a start-up object with -ffast-math that sets flush-to-zero in whoever loads the library.
    host "-ffast-math -funsafe-math-optimizations" 17 -DMHA_SHARED=ON -DMHA_TARGETS=$one
    if nm "$work/build/mha/libmha.so" | grep -E 'set_fast_math'; then exit 1; fi
    ;;
esac

# shellcheck disable=SC2046  # pkg-config prints words
"$cxx" -std=c++17 "$here/hosts/bits.cpp" $(pkg-config --cflags --libs mha) -o "$work/plain"
"$work/plain" | sort | tee "$work/plain.txt"
# Where the installed library is a shared one, run.sh's LD_LIBRARY_PATH would put it before the parent's own.
LD_LIBRARY_PATH=$work/build/mha:${LD_LIBRARY_PATH:-} "$work/build/consumer" | sort | tee "$work/host.txt"
case $kind in
  host_shared) built=$one ;;
  host_v3) built=$few ;;
  *) built= ;;
esac
if [ -n "$built" ]; then
  grep -E "^(${built//;/|}) " "$work/plain.txt" >"$work/built.txt"
  mv "$work/built.txt" "$work/plain.txt"
fi
[ -s "$work/plain.txt" ]
diff "$work/plain.txt" "$work/host.txt"
