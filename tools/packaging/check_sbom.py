# SPDX-License-Identifier: Apache-2.0
"""Compares an SBOM with the tree that it is of, and with the notices for distributors.

check_sbom.py <source tree> <mha.spdx.json> <NOTICE>
"""

import hashlib
import json
import sys
from pathlib import Path


def main() -> int:
    root, bom_path, notice = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]).read_text(encoding="utf-8")
    bom = json.loads(bom_path.read_text(encoding="utf-8"))
    faults = []
    for file in bom["files"]:
        data = (root / file["fileName"]).read_bytes()
        for checksum in file["checksums"]:
            if hashlib.new(checksum["algorithm"].lower(), data).hexdigest() != checksum["checksumValue"]:
                faults.append(f"{file['fileName']}: another {checksum['algorithm']}")
    listed = {file["fileName"] for file in bom["files"]}
    for folder in ("core", "simd", "tools/cli", "tools/io"):
        sources = [path for path in (root / folder).rglob("*") if path.suffix in (".h", ".hpp", ".cpp", ".def")]
        faults += [f"{path} is not listed" for path in sources if f"./{path.relative_to(root)}" not in listed]
    packages = {package["name"]: package for package in bom["packages"]}
    for name, licence in (("xsimd", "BSD-3-Clause"), ("CLI11", "BSD-3-Clause"), ("nlohmann_json", "MIT")):
        package = packages.get(name, {})
        if package.get("licenseDeclared") != licence or not package.get("versionInfo"):
            faults.append(f"{name} is listed as {package}")
    links = {(link["spdxElementId"], link["relationshipType"], link["relatedSpdxElement"]) for link in bom["relationships"]}
    if ("SPDXRef-library", "STATIC_LINK", "SPDXRef-xsimd") not in links:
        faults.append("the library is not said to hold xsimd")
    # Each holder that the SBOM names has its notice.
    for holder in ("Johan Mabille", "QuantStack", "Serge Guelton", "University of Cincinnati", "Niels Lohmann"):
        if holder not in notice:
            faults.append(f"NOTICE does not name {holder}")
    print("\n".join(faults) or f"{len(listed)} files, {len(packages)} packages: as in the tree")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
