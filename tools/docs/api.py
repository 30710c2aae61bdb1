# SPDX-License-Identifier: Apache-2.0
"""Writes the pages of the interface from core/mha.h: one for each section of the header, and an index. The text is that of
the comments; this module only turns their fixed forms (Shapes:, Numerics:, Returns:, formulas, lists) into HTML."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path

import header_comments
from header_comments import Declaration, Item, Member, Section

sys.path.append(str(Path(__file__).resolve().parents[1] / "python"))
import header as plain_header

LABELS = "Shapes|Overlap|Numerics|Threads|Requires|Returns"
LABEL = re.compile(rf"^({LABELS}):\s+(.*)$")
INLINE_LABEL = re.compile(rf"(?<=[.)]) ({LABELS}): ")
TERM = re.compile(r"^([A-Za-z][A-Za-z _]*):\s+(.*)$")
NAME = re.compile(r"\b(mha_\w+(?:\.\w+)?|MHA_\w+)\b")
PAPER = re.compile(r"arXiv (\d{4}\.\d{5})")
PAGES = {"tests/README.md": "promises.html", "core/README.md": "inside/core.html"}
KINDS = {"function": "Functions", "struct": "Structs", "enum": "Enumerations", "handle": "Handles", "macro": "Macros"}


def page_of(section: Section) -> str:
    return f"api/{section.title.lower()}"


def prose(text: str) -> str:
    """One paragraph as HTML: names as code, which the hook makes links, papers and pages as links."""
    out = html.escape(text, quote=False)
    out = re.sub(r"`([^`]+)`", r"<code>\1</code>", out)
    out = re.sub(r"(?<![\w>])(mha_\w+(?:\.\w+)?|MHA_\w+)(?![\w*]|</code>)", r"<code>\1</code>", out)
    out = PAPER.sub(r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', out)
    for page, target in PAGES.items():
        out = out.replace(page, f'<a href="../{target}">{page}</a>')
    return out


def _terms(lines: list[str]) -> str:
    """Lines `name: text`, with more lines of text below each, as a list of definitions."""
    out = ["<dl>"]
    texts: list[tuple[str, list[str]]] = []
    for line in lines:
        match = TERM.match(line)
        if match:
            texts.append((match[1], [match[2]]))
        else:
            texts[-1][1].append(line)
    out += [f"<dt>{name}</dt><dd>{prose(' '.join(text))}</dd>" for name, text in texts]
    return "\n".join([*out, "</dl>"])


def _indented(lines: list[str]) -> str:
    indent = min(len(line) - len(line.lstrip()) for line in lines)
    lines = [line[indent:].rstrip() for line in lines]
    if TERM.match(lines[0]):
        return _terms([line.strip() for line in lines])
    if lines[0].startswith("- "):
        entries = "\n".join(lines).removeprefix("- ").split("\n- ")
        entries = [prose(re.sub(r"\s+", " ", entry)) for entry in entries]
        return "\n".join(["<ul>", *(f"<li>{entry}</li>" for entry in entries), "</ul>"])
    return f'<pre class="formula">{html.escape(chr(10).join(lines), quote=False)}</pre>'


def _plain(lines: list[str]) -> list[str]:
    """Paragraphs, which empty lines end, and blocks that are indented by two spaces."""
    out: list[str] = []
    block: list[str] = []
    kind = ""

    def flush() -> None:
        if block:
            out.append(_indented(block) if kind == "indented" else f"<p>{prose(' '.join(block))}</p>")
            block.clear()

    for line in lines:
        found = "" if not line.strip() else "indented" if line.startswith("  ") else "text"
        if found != kind:
            flush()
        kind = found
        if found:
            block.append(line if found == "indented" else line.strip())
    flush()
    return out


def comment_html(text: str) -> str:
    """A whole comment: plain text first, then its labelled parts as a list of definitions."""
    lines = INLINE_LABEL.sub(r"\n\1: ", text).split("\n")
    plain: list[str] = []
    labelled: list[tuple[str, list[str]]] = []
    for line in lines:
        match = LABEL.match(line)
        if match:
            labelled.append((match[1], [match[2]]))
        elif labelled:
            labelled[-1][1].append(line.strip())
        else:
            plain.append(line)
    out = _plain(plain)
    if labelled:
        rows = [f"<dt>{label}</dt><dd>{prose(' '.join(part))}</dd>" for label, part in labelled]
        out += ['<dl class="labels">', *rows, "</dl>"]
    return "\n".join(out)


def _typed(declaration: str) -> str:
    """A declaration in a table, its types as names that the hook can link."""
    named = NAME.sub(r'<span class="n">\1</span>', html.escape(declaration, quote=False))
    return f"<code>{named}</code>"


def _field_type(member: Member) -> str:
    if "(*" in member.declaration:
        return member.declaration
    return re.sub(r"\s*\b\w+(\[\d+\])?(\s*,\s*\**\w+)*$", r"\1", member.declaration)


def _rows(owner: Declaration) -> list[str]:
    rows = []
    for member in owner.members:
        reserved = member.names[0].startswith("reserved")
        kind = f"<code>{member.declaration}</code>" if owner.kind == "enum" else _typed(_field_type(member))
        if owner.kind == "enum":
            name = f'<code id="{member.names[0]}">{member.names[0]}</code>'
        else:
            name = ", ".join(f'<code id="{owner.name}.{one}">{one}</code>' for one in member.names)
        style = ' class="reserved"' if reserved else ""
        rows.append(f"<tr{style}><td>{name}</td><td>{kind}</td><td>{prose(member.doc)}</td></tr>")
    return rows


def declaration_markdown(declaration: Declaration) -> list[str]:
    if declaration.kind in ("struct", "enum"):
        second = "value" if declaration.kind == "enum" else "type"
        first = "name" if declaration.kind == "enum" else "field"
        head = f"<thead><tr><th>{first}</th><th>{second}</th><th>meaning</th></tr></thead>"
        return ['<table class="members">', head, "<tbody>", *_rows(declaration), "</tbody>", "</table>", ""]
    if declaration.kind == "handle":
        return ["```c", f"typedef struct {declaration.name} {declaration.name};", "```", ""]
    return ["```c", _wrapped(declaration.text), "```", ""]


def _wrapped(text: str) -> str:
    """A prototype of more than 90 characters with a parameter in each line."""
    match = re.fullmatch(r"(.*?\()(.*)(\);)", text)
    if len(text) <= 90 or not match:
        return text
    return match[1] + "\n    " + ",\n    ".join(part.strip() for part in match[2].split(",")) + match[3]


def item_markdown(item: Item) -> list[str]:
    names = [declaration.name for declaration in item.declarations]
    lines = [f"## {', '.join(names)} {{ #{names[0]} }}", ""]
    lines += ["".join(f'<span id="{name}"></span>' for name in names[1:]), ""] if names[1:] else []
    structure = item.declarations[0].kind in ("struct", "enum")
    doc = [comment_html(item.doc[:1].upper() + item.doc[1:]), ""] if item.doc else []
    shown = [line for declaration in item.declarations for line in declaration_markdown(declaration)]
    return lines + (doc + shown if structure else shown + doc)


def section_markdown(section: Section) -> str:
    lines = [f"# {section.title}", ""]
    lines += [comment_html(section.doc[:1].upper() + section.doc[1:]), ""] if section.doc else []
    for item in section.items:
        lines += item_markdown(item)
    return "\n".join(lines) + "\n"


def index_markdown(parsed: header_comments.Header) -> str:
    lines = ["# The C interface", "", comment_html(parsed.doc), ""]
    for section in parsed.sections:
        lines += [f"## [{section.title}]({Path(page_of(section)).name}.md) {{ #{section.title.lower()} }}", ""]
        by_kind: dict[str, list[str]] = {}
        for item in section.items:
            for declaration in item.declarations:
                by_kind.setdefault(declaration.kind, []).append(f"`{declaration.name}`")
        for kind, title in KINDS.items():
            if kind in by_kind:
                lines += [f"{title}: {', '.join(by_kind[kind])}", ""]
    return "\n".join(lines) + "\n"


def names_of(parsed: header_comments.Header) -> dict[str, str]:
    """Where each name is documented: page#anchor, from the root of the site."""
    found = {}
    for section in parsed.sections:
        for item in section.items:
            for declaration in item.declarations:
                page = f"{page_of(section)}.html"
                found[declaration.name] = f"{page}#{declaration.name}"
                for name in (name for member in declaration.members for name in member.names):
                    key = name if declaration.kind == "enum" else f"{declaration.name}.{name}"
                    found[key] = f"{page}#{key}"
    return found


def paths_of(names: dict[str, str]) -> list[str]:
    """The pages of the interface, the index first, in the order of the header."""
    return ["api/index", *dict.fromkeys(place.split("#")[0].removesuffix(".html") for place in names.values())]


def missing(names: dict[str, str], path: Path) -> list[str]:
    """What tools/python/header.py finds in the header and these pages lack."""
    wanted = {*plain_header.read_functions(path), *plain_header.read_constants(path)}
    for struct, fields in plain_header.read_structs(path).items():
        wanted |= {struct, *(f"{struct}.{field.name}" for field in fields)}
    return sorted(wanted - names.keys())


def write(path: Path, folder: Path) -> dict[str, str]:
    """Writes api/*.md below `folder` and returns where each name is."""
    parsed = header_comments.read(path)
    names = names_of(parsed)
    absent = missing(names, path)
    if absent:
        sys.exit(f"{path}: the pages lack {', '.join(absent)}")
    (folder / "api").mkdir(parents=True, exist_ok=True)
    (folder / "api/index.md").write_text(index_markdown(parsed), encoding="utf-8")
    for section in parsed.sections:
        (folder / f"{page_of(section)}.md").write_text(section_markdown(section), encoding="utf-8")
    return names
