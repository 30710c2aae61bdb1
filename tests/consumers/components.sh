# SPDX-License-Identifier: Apache-2.0
# Sourced by run.sh. `cmake --install --component`: each installs its own files, all together are the whole, and
# who develops needs mha_dev alone (and of the shared library mha_runtime). The SBOM that mha_doc installs names xsimd.
export LC_ALL=C # one order of names, whatever the language
install_component() { # <folder> <component>...
  local component
  for component in "${@:2}"; do cmake --install "$build" --prefix "$work/$1" --component "$component" >/dev/null; done
  mkdir -p "$work/$1"
}
files_of() { (cd "$work/$1" && find . \( -type f -o -type l \) | sort); }

components=(mha_dev mha_runtime mha_tools mha_doc)
for component in "${components[@]}"; do install_component "$component" "$component"; done
install_component whole "${components[@]}"
diff <(for component in "${components[@]}"; do files_of "$component"; done | sort) <(files_of whole)
cmake --install "$build" --prefix "$work/all" >/dev/null
diff <(files_of whole) <(files_of all) || { echo "an install rule names no component" && exit 1; }

# The command finds what it reads from where it lies, and says nothing of the machine that built it.
LD_LIBRARY_PATH=$work/all/$libdir "$work/all/bin/mha" notebook --quick >/dev/null
! grep -rlF -e "$source/" -e "$build/" "$work/all/share" || { echo "a path of the build" && exit 1; }
! grep -lF "$source/tests/golden" "$work/all/bin/mha" || { echo "the command reads the sources" && exit 1; }

shared=$(find "$work/mha_runtime" -name 'libmha.so.*' | head -n 1)
if [ -e "$(find "$work/mha_dev" -name libmha.a)" ]; then
  [ -z "$(files_of mha_runtime)" ] || { echo "a static library has a run-time component" && exit 1; }
else
  [ -e "$shared" ] || { echo "mha_runtime has no library" && exit 1; }
  cp -P "$work/mha_runtime/$libdir"/libmha.so.* "$work/mha_dev/$libdir"
fi
diff <(files_of mha_doc) <(printf './share/doc/mha/%s\n' LICENSE NOTICE mha.spdx.json)
! files_of mha_tools | grep -E '^\./(include|lib)/' || { echo "mha_tools has files of mha_dev" && exit 1; }

configure -S "$here/find_package" -B "$work/build" -DCMAKE_PREFIX_PATH="$work/mha_dev" -DCONSUMER_LANGUAGE=C
cmake --build "$work/build"
"$work/build/consumer"
python3 - "$work/mha_doc/share/doc/mha/mha.spdx.json" <<'PYTHON'
import json
import sys

bom = json.load(open(sys.argv[1], encoding="utf-8"))
licences = {package["name"]: package["licenseDeclared"] for package in bom["packages"]}
assert bom["spdxVersion"] == "SPDX-2.3", bom["spdxVersion"]
assert licences["mha"] == "Apache-2.0" and licences["xsimd"] == "BSD-3-Clause", licences
PYTHON
