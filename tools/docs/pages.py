# SPDX-License-Identifier: Apache-2.0
"""A page of the repository (a Markdown file as GitHub renders it): its sections and links, and its text in the form that
mkdocs renders in the same way. The two differ in what may follow a paragraph without an empty line between."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

FENCE = re.compile(r"^\s*```")
HEADING = re.compile(r"^(#{1,6}) +(.*?)\s*$")
ENTRY = re.compile(r"^(\s*)([-*]|\d+\.) ")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|`[^`]*`|\[[^\]]*\])*)\]\(([^)\s]+)\)")
CODE = re.compile(r"`[^`\n]+`")


def markdown_files(root: Path) -> list[str]:
    """All of the project, the root's first; not those of build folders and of tools' folders."""
    found = []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if not name.startswith((".", "build", "node_modules", "__pycache__"))]
        relative = Path(folder).relative_to(root)
        found += [(relative / name).as_posix() for name in files if name.endswith(".md")]
    return sorted(found, key=lambda name: (name.count("/"), name))


def slug(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "").lower()
    return re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")


@dataclass
class Part:
    """A section of level 2 with its heading, or what stands above the first one (title and slug are empty then)."""

    title: str
    slug: str
    lines: list[str]


def _marked(lines: list[str]) -> Iterator[tuple[str, bool]]:
    """Every line, and whether it is inside a fenced block (the fences included)."""
    inside = False
    for line in lines:
        fence = bool(FENCE.match(line))
        yield line, inside or fence
        inside ^= fence


def title_of(text: str) -> str:
    match = re.search(r"^# +(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def parts_of(text: str) -> list[Part]:
    parts = [Part("", "", [])]
    for line, code in _marked(text.split("\n")):
        match = None if code else HEADING.match(line)
        if match and len(match[1]) == 2:
            parts.append(Part(match[2], slug(match[2]), []))
        parts[-1].lines.append(line)
    return parts


def headings_of(lines: list[str]) -> list[str]:
    """The anchors of all headings, those of level 1 left out: they are the page itself."""
    found = [HEADING.match(line) for line, code in _marked(lines) if not code]
    return [slug(match[2]) for match in found if match and len(match[1]) > 1]


def _table(line: str) -> bool:
    return line.lstrip().startswith("|")


def _in_table(line: str) -> str:
    r"""Code in a table: GitHub wants `a \| b`, mkdocs `a | b`."""
    return CODE.sub(lambda match: match[0].replace(r"\|", "|"), line)


def _entry(before: str, line: str, indent: int) -> re.Match[str] | None:
    """The mark of a list's entry. Of numbers 1 alone begins a list directly below text."""
    match = ENTRY.match(line)
    first = match and (match[2] in "-*" or match[2] == "1." or indent >= 0 or not before.strip())
    return match if first else None


def _needs_gap(before: str, line: str, entry: bool, indent: int) -> bool:
    """Does mkdocs need an empty line between these two to begin a list, or a table, where GitHub needs none?"""
    if not before.strip() or HEADING.match(before):
        return False
    return indent < 0 if entry else _table(line) != _table(before)


def normalised(lines: list[str]) -> list[str]:
    out: list[str] = []
    indent = -1  # of the list that the line belongs to
    for line, code in _marked(lines):
        if code:
            out.append(re.sub(r"^(\s*```\w+) fragment\s*$", r"\1", line))
            continue
        before = out[-1] if out else ""
        entry = _entry(before, line, indent)
        if not before.strip() and line.strip() and not entry and not line.startswith(" "):
            indent = -1  # a paragraph at the margin ends the list
        if _needs_gap(before, line, bool(entry), indent):
            out.append("")
        if entry:
            indent = len(entry[1])
        line = re.sub(r"\\([<>])", lambda match: html.escape(match[1]), line)
        out.append(_in_table(line) if _table(line) else line)
    return out


def with_links(lines: list[str], target: Callable[[str], str]) -> list[str]:
    """The lines with the address of every relative link replaced by target(address)."""

    def replaced(match: re.Match[str]) -> str:
        mark, text, address = match.groups()
        return match[0] if "://" in address else f"{mark}[{text}]({target(address)})"

    # The text of a link may go on in the next line, so runs of lines are searched, not lines.
    runs = groupby(_marked(lines), key=lambda marked: marked[1])
    texts = [(code, "\n".join(line for line, _ in run)) for code, run in runs]
    return "\n".join(text if code else LINK.sub(replaced, text) for code, text in texts).split("\n")


def with_anchors(lines: list[str], used: dict[str, int], prefix: str) -> tuple[list[str], dict[str, str]]:
    """The lines with an anchor stated at every heading, and the anchor of each slug: the slug itself, or with the prefix
    where the page has it already."""
    out, anchors = [], {}
    for line, code in _marked(lines):
        match = None if code else HEADING.match(line)
        if match and len(match[1]) > 1:
            own = slug(match[2])
            anchor = own if own not in used else f"{prefix}-{own}"
            used[anchor] = 1
            anchors.setdefault(own, anchor)
            line = f"{line.rstrip()} {{ #{anchor} }}"
        out.append(line)
    return out, anchors
