# SPDX-License-Identifier: Apache-2.0
# Sourced by test.sh. The SBOM that is installed is valid SPDX 2.3, names what is compiled in with its licence and
# version, and its checksums are those of the sources; a source without a licence is refused.
environment
rm -rf "$out/doc"
cmake --install "$build" --prefix "$out/doc" --component mha_doc >/dev/null
bom=$out/doc/share/doc/mha/mha.spdx.json
pyspdxtools --infile "$bom" --version SPDX-2.3
python3 "$here/check_sbom.py" "$root" "$bom" "$out/doc/share/doc/mha/NOTICE"

# The same tree and time give the same bytes.
again() { SOURCE_DATE_EPOCH=1700000000 cmake -DSOURCE="$root" -DOUTPUT="$1" -P "$here/sbom.cmake"; }
again "$out/first.spdx.json"
again "$out/second.spdx.json"
cmp "$out/first.spdx.json" "$out/second.spdx.json"

rm -rf "$out/untagged"
mkdir -p "$out/untagged"
cp -r "$root/core" "$root/simd" "$out/untagged"
sed -i '/SPDX-License-Identifier/d' "$out/untagged/core/base/memory.cpp"
if cmake -DSOURCE="$out/untagged" -DOUTPUT="$out/untagged.json" -P "$here/sbom.cmake" 2>"$out/message"; then
  fail "a source without a licence was taken"
fi
grep -q 'core/base/memory.cpp does not name its licence' "$out/message" || fail "the message does not name the source"
