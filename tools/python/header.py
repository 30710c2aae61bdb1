# SPDX-License-Identifier: Apache-2.0
"""The structs of core/mha.h as ctypes, read from the header itself, so that they cannot fall behind it."""

import ctypes
import re
from pathlib import Path

PLAIN = {
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


def fields_of(body: str, types: dict[str, type]) -> list[tuple[str, type]]:
    fields = []
    for declaration in filter(None, (part.strip() for part in body.split(";"))):
        function = re.search(r"\(\*(\w+)\)\(", declaration)
        if function:
            fields.append((function[1], ctypes.c_void_p))
            continue
        kind, names = re.fullmatch(r"\s*(\w+)\b(.*)", re.sub(r"\bconst\b", "", declaration), re.DOTALL).groups()
        for name, length in re.findall(r"(?:^|,)[\s*]*(\w+)(?:\[(\d+)\])?", names):
            made = ctypes.c_void_p if "*" in names else types[kind]
            fields.append((name, made * int(length) if length else made))
    return fields


def read_structs(header: Path) -> dict[str, type[ctypes.Structure]]:
    """Every struct of the header by its name. Pointers, also to functions, are void pointers."""
    text = re.sub(r"/\*.*?\*/", "", header.read_text(encoding="utf-8"), flags=re.DOTALL)
    types = dict(PLAIN)
    structs = {}
    for kind, body, name in re.findall(r"typedef (enum|struct) \w+ \{(.*?)\} (\w+);", text, re.DOTALL):
        if kind == "enum":
            types[name] = ctypes.c_int
        else:
            types[name] = structs[name] = type(name, (ctypes.Structure,), {"_fields_": fields_of(body, types)})
    return structs
