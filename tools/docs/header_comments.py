# SPDX-License-Identifier: Apache-2.0
"""Reads core/mha.h with its comments: sections, and in each the functions, structs, enums and macros with what is said of
them. tools/python/header.py reads the same file without comments; api.py compares the two, so that nothing is left out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

TOKEN = re.compile(
    r"(?P<comment>/\*.*?\*/)"
    r"|(?P<block>typedef (?P<kind>enum|struct) \w+ \{(?P<body>.*?)\} (?P<name>\w+);)"
    r"|(?P<handle>typedef struct (?P<handle_name>\w+) \w+;)"
    r"|(?P<function>MHA_API [^;]+;)"
    r"|(?P<macro>\#define (?P<macro_name>\w+)(?:[^\n\\]|\\\n)*)"
    r"|(?P<other>\S[^\n]*)",
    re.DOTALL,
)
HIDDEN_MACROS = {"MHA_MHA_H", "MHA_API", "MHA_DTYPE", "MHA_CODE_DTYPE", "MHA_MUT_DTYPE"}


@dataclass
class Member:
    """A field of a struct (several names of one declaration) or an enumerator."""

    names: list[str]
    declaration: str
    doc: str


@dataclass
class Declaration:
    kind: str  # function, struct, enum, handle, macro
    name: str
    text: str
    members: list[Member] = field(default_factory=list)


@dataclass
class Item:
    """Declarations that share one comment."""

    doc: str
    declarations: list[Declaration]


@dataclass
class Section:
    title: str
    doc: str
    items: list[Item] = field(default_factory=list)


@dataclass
class Header:
    doc: str
    sections: list[Section]


def comment_text(comment: str) -> str:
    """The text of a comment, without its stars; lines and their indents are kept."""
    lines = comment.removeprefix("/*").removesuffix("*/").split("\n")
    return "\n".join([lines[0].strip(), *(re.sub(r"^\s*\* ?", "", line).rstrip() for line in lines[1:])]).strip("\n")


def joined(comment: str | None) -> str:
    """The text of a comment beside a field, as one line."""
    return re.sub(r"\s*\n\s*(\* )?\s*", " ", comment.removeprefix("/*").removesuffix("*/")).strip() if comment else ""


def _struct_names(declaration: str) -> list[str]:
    pointer = re.search(r"\(\*(\w+)\)\s*\(", declaration)
    if pointer:
        return [pointer[1]]
    names = re.sub(r"\[\d+\]", "", declaration).split(",")
    found = [re.search(r"(\w+)\s*$", name) for name in names]
    return [match[1] for match in found if match]


def _struct_members(body: str) -> list[Member]:
    members = []
    shared = ""
    for match in re.finditer(r"\s*(/\*.*?\*/\s*)?([^;/]+);[ \t]*(/\*.*?\*/)?", body, re.DOTALL):
        before, declaration, after = match.groups()
        shared = joined(before.strip()) if before else shared
        own = joined(after)
        shared = "" if own else shared
        declaration = re.sub(r"\s+", " ", declaration).strip()
        members.append(Member(_struct_names(declaration), declaration, own or shared))
    return members


def _enumerators(body: str) -> list[Member]:
    found = re.findall(r"(\w+) = (\d+),?[ \t]*(/\*.*?\*/)?", body, re.DOTALL)
    return [Member([name], value, joined(comment)) for name, value, comment in found]


def _declaration(match: re.Match[str]) -> Declaration | None:
    """What the token declares; None for a macro that users do not call, and for other lines."""
    text = match[0]
    if match["block"]:
        members = _enumerators(match["body"]) if match["kind"] == "enum" else _struct_members(match["body"])
        return Declaration(match["kind"], match["name"], text, members)
    if match["handle"]:
        return Declaration("handle", match["handle_name"], text)
    if match["function"]:
        name = re.search(r"(mha_\w+)\(", text)
        assert name, text
        return Declaration("function", name[1], re.sub(r"\s*\n\s*", " ", text.removeprefix("MHA_API ")))
    if match["macro"] and match["macro_name"] not in HIDDEN_MACROS:
        return Declaration("macro", match["macro_name"], re.sub(r"\s*/\*.*", "", text, flags=re.DOTALL))
    return None


def _section(text: str) -> Section:
    """From the text of a comment that begins with a rule: its first sentence is the title if a colon ends it."""
    body = re.sub(r"^-+\n", "", text).strip()
    title, colon, rest = body.partition(":")
    if not colon or "\n" in title or "(" in title:
        first, _, more = body.partition("\n")
        return Section(first.split(" (")[0], body if " (" in first else more.strip())
    return Section(title, re.sub(r"\s+", " ", rest).strip())


class _Reader:
    """Puts the tokens of the header together: comments with what they are about, items into sections."""

    def __init__(self) -> None:
        self.head = ""
        self.sections: list[Section] = []
        self.early: list[Item] = []  # above the first section: versions
        self.pending = ""
        self.item: Item | None = None  # the item before, where nothing but white space follows it so far

    def comment(self, comment: str, gap: str) -> None:
        body = comment_text(comment)
        if body.startswith("SPDX-License-Identifier"):
            self.head = body.partition("\n")[2]
        elif body.startswith("----"):
            self.sections.append(_section(body))
            self.sections[-1].items += self.early
            self.early = []
        elif self.item and "\n" not in gap:
            self._beside(self.item, joined(comment))
        else:
            self.pending = body
        self.item = None

    def _beside(self, item: Item, doc: str) -> None:
        """A comment beside a declaration is about this one alone."""
        if len(item.declarations) > 1 or item.doc:
            self._add(Item(doc, [item.declarations.pop()]))
        else:
            item.doc = doc

    def _add(self, item: Item) -> None:
        (self.sections[-1].items if self.sections else self.early).append(item)

    def declaration(self, made: Declaration, beside: str, gap: str) -> None:
        if self.item and not self.pending and gap.count("\n") == 1:
            self.item.declarations.append(made)
        else:
            self.item = Item(self.pending, [made])
            self._add(self.item)
        self.item.doc = self.item.doc or beside
        self.pending = ""


def read(path: Path) -> Header:
    text = path.read_text(encoding="utf-8")
    reader = _Reader()
    end = 0
    for match in TOKEN.finditer(text):
        gap = text[end : match.start()]
        end = match.end()
        if match["comment"]:
            reader.comment(match[0], gap)
            continue
        made = _declaration(match)
        if made:
            beside = re.search(r"/\*.*?\*/", match[0], re.DOTALL) if made.kind == "macro" else None
            reader.declaration(made, joined(beside[0]) if beside else "", gap)
        elif match["macro"]:
            reader.pending = ""
    return Header(reader.head, reader.sections)
