# SPDX-License-Identifier: Apache-2.0
"""Checks that the site shows every Markdown file as CommonMark with tables (GitHub's rendering) would: mkdocs uses another
parser, which takes a list or a table for text where it stands directly below a paragraph. Texts must be the same, and so must
the numbers of list entries, table rows and code blocks.

    rendering.py <work folder> <site folder>
"""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

from markdown_it import MarkdownIt

COUNTED = ("li", "tr", "pre", "td")
VOID = {"img", "br", "hr", "input", "link", "meta"}


class Shown(HTMLParser):
    """The text of a page and the number of its elements, without what assemble.py or the theme added."""

    def __init__(self, text: str, within: str) -> None:
        super().__init__()
        self.within = within
        self.open: list[tuple[str, bool]] = []  # with: is it left out?
        self.counts = dict.fromkeys(COUNTED, 0)
        self.words: list[str] = []
        self.feed(text)

    def _counts(self) -> bool:
        inside = not self.within or any(tag == self.within for tag, _ in self.open)
        return inside and not any(out for _, out in self.open)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        style = dict(attrs).get("class") or ""
        left_out = bool({"generated", "headerlink", "md-source-file"} & set(style.split())) or tag in ("script", "style", "button")
        if tag not in VOID:
            self.open.append((tag, left_out))
        if tag in COUNTED and self._counts():
            self.counts[tag] += 1

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """<img ... /> and its like hold nothing."""

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._counts():
            self.words.append(data)

    def text(self) -> str:
        return re.sub(r"\s+", "", "".join(self.words))


def first_difference(want: str, got: str) -> str:
    at = next((n for n, (a, b) in enumerate(zip(want, got)) if a != b), min(len(want), len(got)))
    return f"'{want[max(0, at - 20) : at + 40]}' is shown as '{got[max(0, at - 20) : at + 40]}'"


def main() -> int:
    work, site = Path(sys.argv[1]), Path(sys.argv[2])
    originals: dict[str, str] = json.loads((work / "originals.json").read_text(encoding="utf-8"))
    parser = MarkdownIt("commonmark").enable("table")
    faults = []
    for path, original in originals.items():
        want = Shown(parser.render(original), "")
        got = Shown((site / f"{path}.html").read_text(encoding="utf-8"), "article")
        if want.counts != got.counts:
            faults.append(f"{path}: elements {want.counts} are {got.counts} on the site")
        elif want.text() != got.text():
            faults.append(f"{path}: {first_difference(want.text(), got.text())}")
    print("\n".join(faults) or f"{len(originals)} pages are shown as CommonMark shows them")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
