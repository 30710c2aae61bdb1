#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Imports run one way. Holds every #include "..." of core/, simd/, tests/, bench/ and tools/ against the tables below, which
are the design's (core/README.md) and not a picture of today's imports, and extern "C" against its one folder, core/api/.
  layers.py [root]     prints each breach as file:line: rule; the last line says what was seen"""

import re
import sys
from pathlib import Path

# A folder of core/ imports itself and all to its right. Beside that mha.h, and all but base/ the contract of kernels.
CHAIN = ["api", "run", "plan", "call", "cache", "math", "base"]
PUBLIC = ["core/mha.h", "core/mha.hpp"]
TABLE = "core/kernels/kernel_table.h"
MODS = "core/kernels/score_mods-inl.h"
# The lists of element types and of score modifications, which all may import.
LISTS = ["core/kernels/elements.def", "core/kernels/score_mods.def"]

# What of simd/ these folders import, and no other of core/.
SIMD = {"simd/dispatch.h": ["api", "plan"], "simd/float_mode.h": ["api", "run"], "simd/spin_hint.h": ["run"],
        "simd/permission.h": ["api"]}

# Folders outside the chain, the longest first: what they import, as files or as folders that end in "/".
OTHERS = {
    "core/reference/": ["core/reference/", "core/math/", "core/base/", "core/mha.h", *LISTS],
    "core/kernels/": ["core/kernels/", "core/math/elementary_series.h", "simd/vec-inl.h", "simd/functions-inl.h",
                      "simd/doubles-inl.h", "simd/element-inl.h", "simd/bytes-inl.h", "simd/ints-inl.h",
                      "simd/dots-inl.h", "simd/pairs-inl.h", "simd/tiles-inl.h"],
    "simd/targets/": ["core/kernels/all-inl.h", "core/kernels/bf16_table-inl.h", "core/kernels/int8_table-inl.h"],
    "simd/": ["simd/", TABLE, *LISTS],
    "tests/": ["tests/", "core/reference/", TABLE, *LISTS, *PUBLIC],
    "bench/": ["bench/", "core/reference/", *LISTS, *PUBLIC],
    "tools/": ["tools/", "core/reference/", *LISTS, *PUBLIC],
}

# What looks inside besides, and where: white-box tests, each at the part that it tests.
WHITE_BOX = {
    "tests/support/": ["tools/io/"],
    "tests/tools/": ["tools/"],
    "tests/support/runners.h": ["core/run/"],  # brings threads of a team into one phase
    "tests/attention/test_plan.cpp": ["core/plan/", "core/call/", "simd/dispatch.h"],
    "tests/cache/": ["core/cache/"],
    "tests/numerics/": ["core/math/", "simd/dispatch.h", "simd/float_mode.h"],  # elementary functions, kernels alone
    "tests/system/test_context.cpp": ["core/run/"],
    "tests/system/test_cpu.cpp": ["core/run/", "simd/cpu.h", "simd/dispatch.h"],
    "tests/system/test_kernel_table.cpp": ["simd/dispatch.h"],
    "tests/system/test_permission.cpp": ["simd/cpu.h", "simd/permission.h"],
    "tests/numerics/test_tiles.cpp": ["core/base/"],  # a context of a target that is not built in
    "tests/emulated/": ["core/kernels/bf16_table-inl.h"],
    "tests/system/test_cpu_count.cpp": ["core/run/"],
    "tests/system/test_fork.cpp": ["core/base/"],
    "tests/system/test_team.cpp": ["core/run/", "core/call/", "simd/float_mode.h"],
    "tests/system/test_team_patience.cpp": ["core/run/"],
    "tests/system/test_thread_pool.cpp": ["core/run/"],
    "tests/system/test_workspace.cpp": ["core/run/", "core/call/", "core/base/", "simd/float_mode.h"],
    "tests/system/test_workspace_layer.cpp": ["core/run/", "core/call/", "core/base/", "simd/float_mode.h"],
    "bench/support.h": ["core/base/"],  # threads of a context as it was made
    "bench/threads.cpp": ["core/run/", "core/call/"],  # runs stages on as many threads as it is told
}

# Not from the root: a header that CMake makes, mha.hpp beside mha.h (as installed), and programs of strangers.
GENERATED = ["bench_revision.h", "bench_flags.h"]
STRANGERS = "tests/consumers/"
# A folder of tools/engines is a project of its own, which an engine's makers may take over: its files include, not from the
# root, what is beside them or in COMMON.
ADAPTERS, COMMON = "tools/engines/", "tools/engines/common/"


def allowed(path):
    """What a file may include, as files or as folders that end in "/", and the rule in words."""
    folder = path.split("/")[1] if path.startswith("core/") else None
    if folder in CHAIN:
        right = CHAIN[CHAIN.index(folder):]
        simd = [header for header, folders in SIMD.items() if folder in folders]
        table = [] if folder == "base" else [TABLE]
        rule = f"{folder}/ imports {', '.join(right)} of core/" + (f", {', '.join(simd)}" if simd else "")
        return [f"core/{name}/" for name in right] + ["core/mha.h"] + LISTS + table + simd, rule
    for prefix, imports in OTHERS.items():
        if path.startswith(prefix):
            if path == TABLE:
                return [*LISTS, MODS], "the contract of kernels imports the lists, and the arguments of score modifications"
            looks = [to for inside, more in WHITE_BOX.items() if path.startswith(inside) for to in more]
            return imports + looks, f"{prefix} imports {', '.join(imports + looks)}"
    return [], "a file of core/ is in one of its folders"


def matches(include, names):
    return any(include == name or (name.endswith("/") and include.startswith(name)) for name in names)


def check(root, path, breaches):
    """Appends the breaches of one file; how many includes it has."""
    may, rule = allowed(path)
    count = 0
    for number, line in enumerate((root / path).read_text(encoding="utf-8").splitlines(), 1):
        if re.match(r'\s*extern "C"', line) and path.startswith(("core/", "simd/")) and not path.startswith("core/api/"):
            breaches.append(f'{path}:{number}: extern "C" is for core/api/ alone')
        found = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if not found or found[1] in GENERATED:
            continue
        count += 1
        include = found[1]
        if path.startswith(ADAPTERS):
            if not any((root / folder / include).is_file() for folder in (Path(path).parent, COMMON)):
                breaches.append(f"{path}:{number}: {include} is neither beside the adapter nor in {COMMON}")
        elif not (root / include).is_file():
            breaches.append(f"{path}:{number}: {include} is not a path from the project's root")
        elif not matches(include, may):
            breaches.append(f"{path}:{number}: {include}: {rule}")
    return count


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[2])
    files = [p.relative_to(root).as_posix() for top in ("core", "simd", "tests", "bench", "tools")
             for p in sorted((root / top).rglob("*")) if p.suffix in (".h", ".hpp", ".c", ".cpp", ".def")]
    files = [path for path in files if path not in PUBLIC and not path.startswith(STRANGERS)]
    breaches = []
    includes = sum(check(root, path, breaches) for path in files)
    for breach in breaches:
        print(breach)
    print(f"{includes} includes of {len(files)} files: " + (f"{len(breaches)} breaches" if breaches else "all one way"))
    return 1 if breaches or not includes else 0


if __name__ == "__main__":
    sys.exit(main())
