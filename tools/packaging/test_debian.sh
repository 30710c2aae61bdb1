# SPDX-License-Identifier: Apache-2.0
# Sourced by test.sh. The Debian packages are built in a copy of the tree, checked by lintian, unpacked and used, and
# installed.
tree=$out/debian/mha
rm -rf "$out/debian"
mkdir -p "$tree"
(cd "$root" && git ls-files -z | tar --null --files-from=- -cf -) | tar -xf - -C "$tree"
[ -e "$tree/CMakeLists.txt" ] || fail "the tree is no checkout of git"
cp -r "$here/debian" "$tree/debian"

[ $build_type = Release ] || export DEB_BUILD_OPTIONS=nocheck # `mha verify` takes long where nothing is optimised
export CMAKE_ARGS="-DMHA_TARGETS=$targets -DCMAKE_BUILD_TYPE=$build_type"
(cd "$tree" && dpkg-buildpackage --build=binary --no-sign) >"$out/debian/build.txt" 2>&1 ||
  { tail -n 40 "$out/debian/build.txt" && fail "dpkg-buildpackage"; }
lintian --fail-on error,warning --suppress-tags-from-file "$here/debian_tags.txt" "$out"/debian/mha_*.changes

multiarch=$(dpkg-architecture -qDEB_HOST_MULTIARCH)
for package in libmha-dev mha-tools; do
  dpkg-deb -x "$out/debian/$package"_*.deb "$out/debian/root"
  grep -q QuantStack "$out/debian/root/usr/share/doc/$package/NOTICE"* ||
    zgrep -q QuantStack "$out/debian/root/usr/share/doc/$package/NOTICE.gz" || fail "$package has no notice of xsimd's"
done
use_cmake "$out/debian/root/usr"
use_pkg_config "$out/debian/root/usr/lib/$multiarch/pkgconfig"
"$out/debian/root/usr/bin/mha" info | grep -q '^version'

# Installed by dpkg into a root of its own (what the packages depend on is not there), and removed without a trace.
database=$out/debian/installed
mkdir -p "$database/var/lib/dpkg/updates" "$database/var/lib/dpkg/info" "$database/var/log"
touch "$database/var/lib/dpkg/status" "$database/var/lib/dpkg/available"
own_root() {
  dpkg --root="$database" --force-depends --force-not-root --force-script-chrootless --log=/dev/null "$@" \
    >>"$out/debian/dpkg.txt" 2>&1
}
own_root --install "$out"/debian/*.deb || { tail -n 20 "$out/debian/dpkg.txt" && fail "dpkg --install"; }
[ -e "$database/usr/include/mha/mha.h" ] && [ -x "$database/usr/bin/mha" ] || fail "dpkg did not install the files"
own_root --remove libmha-dev mha-tools
! find "$database" -path '*mha*' -type f -not -path '*/var/lib/dpkg/*' | grep . || fail "dpkg left files behind"

if [ "${PACKAGING_INSTALL:-0}" = 1 ]; then
  dpkg --install "$out"/debian/*.deb
  trap 'dpkg --remove libmha-dev mha-tools' EXIT
  rm -rf "$out/debian/system"
  cmake -S "$root/tests/consumers/find_package" -B "$out/debian/system" -DCONSUMER_LANGUAGE=C --log-level=WARNING
  cmake --build "$out/debian/system" >/dev/null
  "$out/debian/system/consumer"
  mha info | grep -q '^version'
  dpkg --remove libmha-dev mha-tools
  trap - EXIT
fi
