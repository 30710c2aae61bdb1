# SPDX-License-Identifier: Apache-2.0
"""Reads core/mha.h: its structs, constants and functions, so that what calls the library cannot fall behind it."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import NamedTuple

PLAIN: dict[str, type] = {
    "char": ctypes.c_char,
    "int": ctypes.c_int,
    "int32_t": ctypes.c_int32,
    "uint16_t": ctypes.c_uint16,
    "uint64_t": ctypes.c_uint64,
    "int64_t": ctypes.c_int64,
    "size_t": ctypes.c_size_t,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}


class Field(NamedTuple):
    """A field of a struct: `kind name`, `kind* name` or `kind name[length]`. An enum has the kind int."""

    name: str
    kind: str
    pointer: bool
    length: int


def _text(header: Path) -> str:
    return re.sub(r"/\*.*?\*/", "", header.read_text(encoding="utf-8"), flags=re.DOTALL)


def _fields(body: str, enums: set[str]) -> list[Field]:
    fields = []
    for declaration in filter(None, (part.strip() for part in body.split(";"))):
        function = re.search(r"\(\*(\w+)\)\(", declaration)
        if function:
            fields.append(Field(function[1], "void", True, 0))
            continue
        match = re.fullmatch(r"\s*(\w+)\b(.*)", re.sub(r"\bconst\b", "", declaration), re.DOTALL)
        assert match, declaration
        kind, names = match.groups()
        for name, length in re.findall(r"(?:^|,)[\s*]*(\w+)(?:\[(\d+)\])?", names):
            fields.append(Field(name, "int" if kind in enums else kind, "*" in names, int(length or 0)))
    return fields


def read_structs(header: Path) -> dict[str, list[Field]]:
    """The fields of every struct of the header, in its order."""
    enums: set[str] = set()
    structs = {}
    for kind, body, name in re.findall(r"typedef (enum|struct) \w+ \{(.*?)\} (\w+);", _text(header), re.DOTALL):
        if kind == "enum":
            enums.add(name)
        else:
            structs[name] = _fields(body, enums)
    return structs


def read_constants(header: Path) -> dict[str, int]:
    """Every enumerator, and MHA_BROADCAST."""
    text = _text(header)
    constants = {name: int(value) for name, value in re.findall(r"\b(MHA_\w+) = (\d+)", text)}
    match = re.search(r"#define MHA_BROADCAST \((-\d+)\)", text)
    assert match
    return {**constants, "MHA_BROADCAST": int(match[1])}


def read_functions(header: Path) -> dict[str, tuple[str, list[str]]]:
    """What every function returns, and the declarations of its parameters."""
    functions = {}
    for result, name, parameters in re.findall(r"^MHA_API ([\w ]+?\*?) ?(mha_\w+)\((.*?)\);", _text(header), re.DOTALL | re.MULTILINE):
        listed = [part.strip() for part in parameters.split(",")]
        functions[name] = (result, [] if listed == ["void"] else listed)
    return functions


def make_structs(header: Path) -> dict[str, type[ctypes.Structure]]:
    """Every struct of the header as a ctypes structure. Pointers, also to functions, are void pointers."""
    types = dict(PLAIN)
    made: dict[str, type[ctypes.Structure]] = {}
    for name, fields in read_structs(header).items():
        listed = []
        for field in fields:
            kind = ctypes.c_void_p if field.pointer else types[field.kind]
            listed.append((field.name, kind * field.length if field.length else kind))
        types[name] = made[name] = type(name, (ctypes.Structure,), {"_fields_": listed})
    return made
