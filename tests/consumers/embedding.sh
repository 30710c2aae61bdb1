# SPDX-License-Identifier: Apache-2.0
# Sourced by run.sh. Builds tools/examples/embedding as its files say, and compares what the program prints.
example=$source/tools/examples/embedding
skipped=77 # for ctest

prints_means() { # <program>
  local printed
  printed=$("$1")
  echo "$1 prints $printed"
  [ "$printed" = "1 1.5 3" ]
}

case $kind in
  embedding_cc)
    plain_cc ../../tools/examples/embedding/main.c embed
    ;;
  embedding_cmake)
    # The library is built once more, as for add_subdirectory: ccache then has its objects.
    [ "$(uname -m)" = x86_64 ] && one=sse2 || one=neon
    configure -S "$example" -B "$work/subproject" -DMHA_SOURCE="$source" -DMHA_TARGETS=$one
    cmake --build "$work/subproject" -j 2
    prints_means "$work/subproject/embed"
    configure -S "$example" -B "$work/package" -DCMAKE_PREFIX_PATH="$prefix"
    cmake --build "$work/package"
    mv "$work/package/embed" "$work/embed"
    ;;
  embedding_pkg_config)
    cp "$example"/{main.c,Makefile} "$work"
    env -u MAKEFLAGS make -C "$work" PKG_CONFIG_PATH="$PKG_CONFIG_PATH"
    ;;
  embedding_meson)
    if ! command -v meson >/dev/null || ! meson --version >/dev/null 2>&1; then
      echo "skipped: meson is not installed (Debian's package meson)"
      exit $skipped
    fi
    meson setup "$work/build" "$example" --pkg-config-path "$PKG_CONFIG_PATH" -Dwerror=true
    meson compile -C "$work/build"
    mv "$work/build/embed" "$work/embed"
    ;;
esac
prints_means "$work/embed"
