# SPDX-License-Identifier: Apache-2.0
"""The structs that tools/python/header.py reads from core/mha.h have the layout that a C compiler gives them."""

import ctypes
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "python"))

from header import make_structs  # noqa: E402


def compiled_layout(structs: dict[str, type[ctypes.Structure]]) -> dict[str, int]:
    """Sizes by struct, offsets by struct.field, as the C compiler has them."""
    lines = []
    for struct, made in structs.items():
        lines.append(f'printf("{struct} %zu\\n", sizeof({struct}));')
        lines += [f'printf("{struct}.{name} %zu\\n", offsetof({struct}, {name}));' for name, _ in made._fields_]
    program = '#include <stddef.h>\n#include <stdio.h>\n#include "core/mha.h"\nint main(void) {\n' + "\n".join(lines)
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "layout.c"), Path(folder, "layout")
        source.write_text(program + "\nreturn 0;\n}\n", encoding="utf-8")
        subprocess.run(["cc", "-std=c11", "-I", str(ROOT), str(source), "-o", str(binary)], check=True)
        output = subprocess.run([str(binary)], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split() for line in output.splitlines())}


def main() -> int:
    structs = make_structs(ROOT / "core" / "mha.h")
    expected = compiled_layout(structs)
    found = {struct: ctypes.sizeof(made) for struct, made in structs.items()}
    for struct, made in structs.items():
        found |= {f"{struct}.{name}": getattr(made, name).offset for name, _ in made._fields_}
    wrong = [name for name in expected if expected[name] != found[name]]
    for name in wrong:
        print(f"{name}: {found[name]}, a C compiler says {expected[name]}")
    # Fewer structs than the header has would pass unseen.
    header = (ROOT / "core" / "mha.h").read_text(encoding="utf-8")
    listed = len(re.findall(r"^typedef struct \w+ {", header, re.MULTILINE))
    if len(structs) != listed:
        print(f"{len(structs)} structs read, the header has {listed}")
    return 1 if wrong or len(structs) != listed else 0


if __name__ == "__main__":
    sys.exit(main())
