# SPDX-License-Identifier: Apache-2.0
"""Checks the links of a built site: every file and every anchor that a page refers to must be there, and no page may fetch
anything from elsewhere. Links to other sites are counted, not followed.

    links.py <site folder>

Exit status 1, with a line for each fault, if there is one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

REFERENCES = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src", "iframe": "src"}


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: list[str] = []
        self.references: list[tuple[str, str]] = []  # (tag, address)
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors += [value for value in (found.get("id"), found.get("name") if tag == "a" else None) if value]
        address = found.get(REFERENCES.get(tag, ""))
        if address:
            self.references.append((tag, address))


def faults_of(site: Path, name: Path, pages: dict[Path, Page], counts: dict[str, int]) -> Iterable[str]:
    for tag, address in pages[name].references:
        url = urlsplit(address)
        if url.scheme or url.netloc:
            counts["external"] += 1
            if tag != "a" and url.scheme != "data":
                yield f"{name}: fetches {address}"
            continue
        counts["internal"] += 1
        target = (site / name.parent / unquote(url.path)).resolve() if url.path else site / name
        target = target / "index.html" if target.is_dir() else target
        if not target.is_file():
            yield f"{name}: {address} leads to no file"
        anchored = target.is_file() and target.suffix == ".html" and url.fragment
        if anchored and unquote(url.fragment) not in pages[target.relative_to(site)].anchors:
            yield f"{name}: {address} leads to no anchor"


def check(site: Path) -> tuple[list[str], str]:
    """The faults of a site, and what was looked at."""
    files = [path for path in site.rglob("*.html") if path.name != "404.html"]  # whose links are those of a server's root
    pages = {path.relative_to(site): Page(path.read_text(encoding="utf-8")) for path in files}
    counts = {"internal": 0, "external": 0}
    faults = [fault for name in sorted(pages) for fault in faults_of(site, name, pages, counts)]
    for name, page in sorted(pages.items()):
        twice = {anchor for anchor in page.anchors if page.anchors.count(anchor) > 1 and not anchor.startswith("__")}
        faults += [f"{name}: the anchor {anchor} stands twice" for anchor in sorted(twice)]
    if not pages or not counts["internal"]:
        faults.append(f"{site}: there is no page with a link")
    return faults, f"{len(pages)} pages, {counts['internal']} links, {counts['external']} to other sites"


def main() -> int:
    faults, seen = check(Path(sys.argv[1]).resolve())
    print("\n".join(faults) or f"{seen}: no fault")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
