# SPDX-License-Identifier: Apache-2.0
"""Writes mha/_abi.py: the structs, constants and functions of core/mha.h for ctypes.

    generate_abi.py core/mha.h mha/_abi.py

The package is typed, so the structs are written out as classes instead of being made when it is imported.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from header import Field, read_constants, read_functions, read_structs

CTYPES = {
    "char": "c_char",
    "int": "c_int",
    "int32_t": "c_int32",
    "uint16_t": "c_uint16",
    "uint64_t": "c_uint64",
    "int64_t": "c_int64",
    "size_t": "c_size_t",
    "float": "c_float",
    "double": "c_double",
}

HEAD = '''# SPDX-License-Identifier: Apache-2.0
# Made by generate_abi.py from core/mha.h: do not edit.
"""The structs, constants and functions of mha.h. Pointers are integers (or None), in structs and in calls alike."""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_char, c_char_p, c_double, c_float, c_int, c_int64, c_size_t, c_uint16, c_uint64, c_void_p
from typing import Any
'''


def ctype(field: Field) -> str:
    kind = "c_void_p" if field.pointer else CTYPES.get(field.kind, field.kind)
    return f"{kind} * {field.length}" if field.length else kind


def annotation(field: Field, structs: set[str]) -> str:
    if field.length:
        return "bytes" if field.kind == "char" else "Any"
    if field.pointer:
        return "int | None"
    if field.kind in structs:
        return field.kind
    return "float" if field.kind in ("float", "double") else "int"


def struct_lines(name: str, fields: list[Field], structs: set[str]) -> list[str]:
    lines = ["", "", f"class {name}(Structure):"]
    lines += [f"    {field.name}: {annotation(field, structs)}" for field in fields]
    lines += ["    _fields_ = ["]
    lines += [f'        ("{field.name}", {ctype(field)}),' for field in fields]
    return [*lines, "    ]"]


def returned(kind: str) -> str:
    """The ctypes type of what a function returns."""
    if kind == "void":
        return "None"
    if kind == "const char*":
        return "c_char_p"
    return CTYPES.get(kind, "c_int")  # an enum


def parameter(declaration: str) -> str:
    if "*" in declaration:
        return "c_void_p"
    kind = re.sub(r"\bconst\b", "", declaration).split()[0]
    return CTYPES.get(kind, "c_int")


def main() -> int:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    structs = read_structs(source)
    lines = [HEAD]
    lines += [f"{name} = {value}" for name, value in read_constants(source).items()]
    for name, fields in structs.items():
        lines += struct_lines(name, fields, set(structs))
    lines += ["", "", "# What each function returns, and its parameters.", "FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {"]
    for name, (result, parameters) in read_functions(source).items():
        lines.append(f'    "{name}": ({returned(result)}, [{", ".join(map(parameter, parameters))}]),')
    lines += ["}", "", "", "def declare(library: ctypes.CDLL) -> None:"]
    lines += ['    """Gives every function of the loaded library its types."""', "    for name, (result, parameters) in FUNCTIONS.items():"]
    lines += ["        function = getattr(library, name)", "        function.restype, function.argtypes = result, parameters"]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
