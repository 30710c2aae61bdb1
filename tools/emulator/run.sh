#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a program under Linux on the emulated CPU, once build.sh has been run: prints what it prints, to stdout and stderr, and
# exits with its exit code (124: out of time; 125: none was seen, the end of the console is printed instead).
#   run.sh [option]... PROGRAM [ARGUMENT]...
#     -m MODEL       the CPU: sapphire_rapids (the default: AMX, BF16, VNNI), tigerlake (AVX-512 with VNNI, without BF16),
#                    corei7_skylake_x (without VNNI), corei7_haswell_4770 (AVX2), ...: build/emulator/bochs --help cpu
#     -t SECONDS     to run at most, 3600 by default
#     -e NAME=VALUE  an environment variable
#     -f FILE        a file or folder that the program needs, at its own path. Programs bring their shared libraries.
#     -s SCRIPT      a script for busybox's sh to run instead; all that follows are then files that it needs
# KEEP=1 keeps the run's folder. KERNEL_LOG=loglevel=7 with CONSOLE=1 shows the kernel's messages too.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
emulator=$(realpath "${MHA_EMULATOR:-$here/../../build/emulator}")
model=sapphire_rapids
limit=3600
variables=()
files=()
script=
usage() {
  sed -n '5,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}
while getopts m:t:e:f:s: option; do
  case $option in
    m) model=$OPTARG ;;
    t) limit=$OPTARG ;;
    e) variables+=("$OPTARG") ;;
    f) files+=("$OPTARG") ;;
    s) script=$OPTARG ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))
[ -n "$script" ] || [ $# -gt 0 ] || usage
if [ ! -e "$emulator/made_of" ]; then
  echo "run.sh: no emulator in $emulator: tools/emulator/build.sh makes it" >&2
  exit 2
fi

machine=$emulator/machine
work=$(mktemp -d "$emulator/run.XXXXXX")
bochs=
finish() {
  [ -z "$bochs" ] || kill "$bochs" 2>/dev/null || true
  [ -n "${KEEP:-}" ] || rm -rf "$work"
}
trap finish EXIT

# --- What Linux finds in its root --------------------------------------------------------------------------------------
files_root=$work/root
mkdir -p "$files_root"/{bin,dev,etc,proc,root,sys,tmp,usr} "$work/iso/isolinux"
cp "$machine/busybox" "$files_root/bin/"
ln -s busybox "$files_root/bin/sh"

# copy <file>: to the same path; through links, as the program may use either name.
copy() {
  mkdir -p "$files_root$(dirname "$1")"
  cp -aL "$1" "$files_root$1"
}

# add <file>: a file and, of a program, its shared libraries.
add() {
  local file library
  file=$(realpath "$1")
  copy "$file"
  [ "$(realpath -s "$1")" = "$file" ] || copy "$(realpath -s "$1")"
  [ "$(head -c 4 "$file" | tail -c 3)" = ELF ] || return 0
  strip "$files_root$file" 2>/dev/null || true
  for library in $(ldd "$file" 2>/dev/null | grep -o '/[^ ]*'); do
    [ -e "$files_root$library" ] || copy "$library"
  done
}

for file in "${files[@]}"; do
  if [ -d "$file" ]; then
    folder=$(realpath "$file")
    mkdir -p "$files_root$folder"
    cp -aL "$folder/." "$files_root$folder/"
  else
    add "$file"
  fi
done
if [ -n "$script" ]; then
  for file in "$@"; do add "$file"; done
  cp "$script" "$files_root/job"
else
  add "$1"
  { printf '%q ' exec "$(realpath "$1")" "${@:2}"; } >"$files_root/job"
fi
for variable in "${variables[@]}"; do printf 'export %s=%q\n' "${variable%%=*}" "${variable#*=}"; done >"$files_root/env"
cat >"$files_root/init" <<'END'
#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
ip link set lo up
. /env
echo EMULATED-BEGIN
{
  sh /job
  echo "EMULATED-EXIT $?"
} 2>&1 </dev/null | cat  # no terminal: no colours, no progress
stty -F /dev/ttyS0 sane  # once all is written
sleep 1
poweroff -f
END
chmod +x "$files_root/init"

# --- A CD to start it from ---------------------------------------------------------------------------------------------
(cd "$files_root" && find . | cpio -o -H newc --quiet) >"$work/iso/initrd"
cp "$machine/vmlinuz" "$work/iso/"
cp "$machine"/{isolinux.bin,ldlinux.c32} "$work/iso/isolinux/"
# Without what takes long on an emulated CPU (self-tests, mitigations) or in it (string moves that claim to be fast).
arguments="console=ttyS0,115200 ${KERNEL_LOG:-quiet} panic=-1 tsc=reliable nokaslr nopcid no5lvl clearcpuid=fsrm"
arguments+=" mitigations=off nmi_watchdog=0 random.trust_cpu=on lsm=yama cryptomgr.notests audit=0"
cat >"$work/iso/isolinux/isolinux.cfg" <<END
DEFAULT linux
PROMPT 0
TIMEOUT 0
LABEL linux
  KERNEL /vmlinuz
  APPEND initrd=/initrd $arguments
END
xorriso -as mkisofs -quiet -o "$work/boot.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
  -boot-load-size 4 -boot-info-table "$work/iso" 2>/dev/null
rm -rf "$work/iso" "$files_root"
sed "s#@MODEL@#$model#; s#@WORK@#$work#; s#@MACHINE@#$machine#" "$here/bochsrc.in" >"$work/bochsrc"

# --- The run -----------------------------------------------------------------------------------------------------------
: >"$work/serial"
cd "$work"
timeout "$limit" "$emulator/bochs" -q -f bochsrc -unlock >stdout 2>&1 </dev/null &
bochs=$!
tail -n +1 -s 0.5 -f --pid=$bochs serial | stdbuf -o0 tr -d '\r' |
  sed -nu "${CONSOLE:+p;d;}"'/EMULATED-BEGIN/,/EMULATED-EXIT/{/EMULATED-BEGIN/d;/EMULATED-EXIT/d;p}' &
ended=0
wait $bochs || ended=$?
bochs=
wait $!
code=$(tr -d '\r' <serial | sed -n 's/.*EMULATED-EXIT //p' | tail -n 1)
if [ -z "$code" ]; then
  [ $ended -ne 124 ] || echo "run.sh: not done after $limit s" >&2
  [ $ended -eq 124 ] || ended=125
  { tail -n 20 serial && tail -n 20 log && tail -n 5 stdout; } >&2
  exit $ended
fi
exit "$code"
