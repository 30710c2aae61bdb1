#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes what run.sh starts: Bochs, from Debian's source with the patches of patch.py, and the parts of the machine that it
# emulates: BIOS, boot loader, kernel, shell. Those are Debian packages that are unpacked and not installed. They come
# through apt, with lists and a cache of its own, from where this machine has its packages, of the releases named below.
#   tools/emulator/build.sh     into build/emulator, or $MHA_EMULATOR (four minutes of CPU time); quiet where it is made
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
emulator=${MHA_EMULATOR:-$root/build/emulator}
jobs=${JOBS:-$(nproc)}

source_release=trixie  # has Bochs 3.0
bochs=bochs_3.0+dfsg.orig.tar.xz
bochs_sha256=78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b
kernel_release=bookworm  # Linux 6.1: no older one gives tiles to a process
kernel=linux-image-cloud-amd64

say() { printf 'emulator: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 1
}

[ "$(uname -m)" = x86_64 ] || fail "needs an x86-64 machine"
made_of=$(cat "$here/build.sh" "$here/patch.py" | sha256sum)
[ "$(cat "$emulator/made_of" 2>/dev/null || true)" != "$made_of" ] || exit 0
"$root/tools/setup.sh" emulator
command -v apt-get >/dev/null || fail "needs Debian's apt"
mkdir -p "$emulator"
emulator=$(cd "$emulator" && pwd)
work=$emulator/work  # may be removed at any time
log=$emulator/build.log
rm -rf "$work" "$emulator/made_of"
mkdir -p "$work"/{apt/lists/partial,apt/cache/archives/partial,packages,bochs,unpacked}
: >"$log"

# logged <command>...: its output goes to the log, of which the end is shown if it fails.
logged() {
  if ! "$@" >>"$log" 2>&1; then
    tail -n 20 "$log" >&2
    fail "failed: $1 (all of its output: $log)"
  fi
}

# --- apt, apart from the machine's -------------------------------------------------------------------------------------
# The archive is that of the machine's own release; else the first one that it has.
# shellcheck disable=SC2016  # the dollars are apt's
archive=$(apt-get indextargets --no-release-info --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
  awk -v own="$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" '
    $3 == "main" && $2 == own && !found { found = $1 } !first { first = $1 } END { print found ? found : first }')
[ -n "$archive" ] || fail "apt has no source of packages here"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
options="[arch=amd64$([ ! -e $keys ] || echo " signed-by=$keys")]"
{
  echo "deb $options $archive $kernel_release main"
  echo "deb $options $archive $source_release main"
  echo "deb-src $options $archive $source_release main"
} >"$work/apt/sources.list"
: >"$work/apt/status"
export APT_CONFIG=$work/apt/apt.conf
cat >"$APT_CONFIG" <<END
Dir::State "$work/apt";
Dir::State::status "$work/apt/status";
Dir::Cache "$work/apt/cache";
Dir::Etc::sourcelist "$work/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "amd64";
APT::Sandbox::User "root";
Acquire::Languages "none";
END

say "fetching Bochs's source and packages of the emulated machine with apt"
cd "$work/packages"
logged apt-get update -q
logged apt-get source -q --download-only --tar-only --only-source "bochs/$source_release"
sha256sum --quiet -c - <<<"$bochs_sha256  $bochs" || fail "$bochs is not the source that the patches are for"
# The kernel's package of today's version is the one that the package without a version needs.
kernel=$(apt-cache depends "$kernel/$kernel_release" | awk '$1 == "Depends:" && $2 ~ /^linux-image/ { print $2 }')
[ -n "$kernel" ] || fail "no kernel in $kernel_release"
logged apt-get download -q {bochsbios,vgabios}/$source_release {"$kernel",isolinux,syslinux-common,busybox-static}/$kernel_release

# --- The emulated machine's parts --------------------------------------------------------------------------------------
for package in *.deb; do logged dpkg-deb -x "$package" "$work/unpacked"; done
cd "$work/unpacked"
mkdir -p "$emulator/machine"
cp usr/share/bochs/BIOS-bochs-latest usr/share/vgabios/vgabios.bin usr/lib/ISOLINUX/isolinux.bin \
  usr/lib/syslinux/modules/bios/ldlinux.c32 "$emulator/machine"
cp boot/vmlinuz-* "$emulator/machine/vmlinuz"
cp "$(find . -path '*bin/busybox')" "$emulator/machine/busybox"

# --- Bochs: one CPU, 64 bits, AVX-512 and AMX; no screen, network, sound, USB or virtual machines ----------------------
say "building Bochs with $jobs jobs"
cd "$work/bochs"
tar xf "$work/packages/$bochs" --strip-components=1
logged python3 "$here/patch.py" .
flags="-O2 -ffp-contract=off -fno-strict-aliasing -w"
logged env CFLAGS="$flags" CXXFLAGS="$flags" ./configure --enable-x86-64 --enable-avx --enable-evex --enable-amx \
  --enable-long-phy-address --enable-all-optimizations --disable-docbook --with-nogui
logged make -j "$jobs"
strip -o "$emulator/bochs" bochs
rm -rf "$work"
echo "$made_of" >"$emulator/made_of"
say "made: $emulator, with $kernel"
