# SPDX-License-Identifier: Apache-2.0
"""Which page of the site each section of each Markdown file stands on, as site.toml says, and what a link between files becomes.
A link that leads nowhere, or a section that is not there, ends the run with a line that names it."""

from __future__ import annotations

import posixpath
import shutil
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pages
import tomllib

HERE = Path(__file__).resolve().parent
LANGUAGES = {".hpp": "cpp", ".h": "c", ".cpp": "cpp", ".py": "python", ".sh": "bash", ".toml": "toml", ".cmake": "cmake"}
IMAGES = {".svg", ".png"}


@dataclass
class Page:
    path: str
    title: str
    nav: str
    parts: list[tuple[str, pages.Part]] = field(default_factory=list)  # with the file that each is from
    moved: list[tuple[str, pages.Part]] = field(default_factory=list)  # sections of its file that stand elsewhere
    plots: list[str] = field(default_factory=list)


def default_path(file: str) -> str:
    folder, name = posixpath.split(file)
    return posixpath.join("inside", folder) if name == "README.md" else posixpath.join("inside", folder, name[: -len(".md")])


def short_title(title: str) -> str:
    return title.split(":")[0]


class Site:
    def __init__(self, root: Path, work: Path) -> None:
        self.root = root
        self.docs = work / "pages"
        self.settings = tomllib.loads((HERE / "site.toml").read_text(encoding="utf-8"))
        self.texts = {file: (root / file).read_text(encoding="utf-8") for file in pages.markdown_files(root)}
        self.pages: dict[str, Page] = {}
        self.home: dict[str, str] = {}  # file -> page
        self.section_page: dict[tuple[str, str], str] = {}  # (file, slug of any heading) -> page
        self.anchors: dict[tuple[str, str], str] = {}  # (file, slug) -> anchor on that page
        self.sources: set[str] = set()  # files that are shown because a page links them
        self.api_pages: list[str] = []

    def _taken(self) -> dict[tuple[str, str], str]:
        """The sections that site.toml names, and their pages."""
        taken: dict[tuple[str, str], str] = {}
        for entry in self.settings["page"]:
            for section in entry.get("sections", []):
                file, _, anchor = section.partition("#")
                taken[file, anchor] = entry["path"]
            if "file" in entry:
                self.home[entry["file"]] = entry["path"]
        return taken

    def plan(self) -> None:
        """Which page each section is on."""
        taken = self._taken()
        parts: dict[tuple[str, str], pages.Part] = {}
        for file, text in self.texts.items():
            for part in pages.parts_of(text):
                if (file, part.slug) in parts:
                    sys.exit(f"{file}: two sections are named '{part.title}'")
                parts[file, part.slug] = part
        for key in taken:
            if key not in parts:
                sys.exit(f"site.toml: there is no section '{key[1]}' in {key[0]}")
            if title := self.settings["titles"].get("#".join(key)):
                parts[key].title, parts[key].lines[0] = title, f"## {title}"
        for entry in self.settings["page"]:
            file = entry.get("file")
            title = entry.get("title") or pages.title_of(self.texts[file])
            page = Page(entry["path"], title, entry["nav"], plots=entry.get("plots", []))
            page.parts = [(key[0], parts[key]) for key, path in taken.items() if path == page.path]
            self.pages[page.path] = page
        for file, text in self.texts.items():
            path = self.home.setdefault(file, default_path(file))
            page = self.pages.setdefault(path, Page(path, pages.title_of(text), short_title(pages.title_of(text))))
            own = [(file, parts[file, part.slug]) for part in pages.parts_of(text)]
            page.parts = [entry for entry in own if (file, entry[1].slug) not in taken] + page.parts
            page.moved = [entry for entry in own if (file, entry[1].slug) in taken]
        for page in self.pages.values():
            for file, part in page.parts:
                for anchor in [part.slug, *pages.headings_of(part.lines)]:
                    self.section_page.setdefault((file, anchor), page.path)

    def target(self, file: str, page: Page, address: str) -> str:
        """What a link of `file`, shown on `page`, becomes."""
        path, _, anchor = address.partition("#")
        found = posixpath.normpath(posixpath.join(posixpath.dirname(file), path)) if path else file
        if found in self.texts:
            return self._page_link(found, page, anchor, f"{file}: {address}")
        if found == "core/mha.h":
            return self._relative("api/index.md", page)
        if (self.root / found).is_dir() and posixpath.join(found, "README.md") in self.texts:
            return self._page_link(posixpath.join(found, "README.md"), page, "", address)
        if not (self.root / found).is_file():
            sys.exit(f"{file}: the link to {address} leads nowhere")
        self.sources.add(found)
        return self._relative(found if Path(found).suffix in IMAGES else f"source/{found}.md", page)

    def _page_link(self, found: str, page: Page, anchor: str, where: str) -> str:
        if not anchor:
            return self._relative(f"{self.home[found]}.md", page)
        if (found, anchor) not in self.section_page:
            sys.exit(f"{where}: {found} has no heading '{anchor}'")
        return f"{self._relative(self.section_page[found, anchor] + '.md', page)}#{self.anchors[found, anchor]}"

    @staticmethod
    def _relative(path: str, page: Page) -> str:
        return posixpath.relpath(path, posixpath.dirname(page.path) or ".")

    def _anchored(self) -> dict[str, list[tuple[str, list[str]]]]:
        """The lines of every page with their anchors, which all links need before any is written."""
        out: dict[str, list[tuple[str, list[str]]]] = {}
        for page in self.pages.values():
            used: dict[str, int] = {}
            for file, part in page.parts:
                prefix = posixpath.dirname(file).replace("/", "-") or "root"
                lines, anchors = pages.with_anchors(pages.normalised(part.lines), used, prefix)
                self.anchors |= {(file, own): anchor for own, anchor in anchors.items()}
                self.anchors[file, part.slug] = next(iter(anchors.values()), "")
                out.setdefault(page.path, []).append((file, lines))
        return out

    def write(self, drawn: dict[str, tuple[str, str]]) -> None:
        anchored = self._anchored()
        for page in self.pages.values():
            whole = not page.parts[0][1].title  # it begins with what stands above the first section of a file
            lines = [] if whole else [f"# {page.title} {{ .generated }}", ""]
            for n, (file, text) in enumerate(anchored[page.path]):
                if n == whole:
                    lines += self._plot_lines(page, drawn)
                lines += [*pages.with_links(text, partial(self.target, file, page)), ""]
            if page.moved:
                links = [f"[{part.title}]({self._page_link(file, page, part.slug, file)})" for file, part in page.moved]
                lines += [f"On pages of their own: {', '.join(links)}.", "{ .generated }", ""]
            self._put(f"{page.path}.md", "\n".join(lines))
        for source in sorted(self.sources):
            if Path(source).suffix in IMAGES:
                (self.docs / source).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.root / source, self.docs / source)
            else:
                language = LANGUAGES.get(Path(source).suffix, "text")
                text = (self.root / source).read_text(encoding="utf-8").rstrip()
                self._put(f"source/{source}.md", f"# {source}\n\n````{language}\n{text}\n````\n")

    def originals(self) -> dict[str, str]:
        """What each page was made of, as the files have it."""
        return {page.path: "\n".join("\n".join(part.lines) for _, part in page.parts) for page in self.pages.values()}

    def _plot_lines(self, page: Page, drawn: dict[str, tuple[str, str]]) -> list[str]:
        lines = []
        for name in page.plots:
            title, caption = drawn[name]
            image = self._relative(f"plots/{name}.svg", page)
            lines += [f"## {title} {{ #plot-{name} .generated }}", "", caption, "{ .generated }", ""]
            lines += [f"![{title}]({image})", "{ .generated }", ""]
        return lines

    def _put(self, path: str, text: str) -> None:
        (self.docs / path).parent.mkdir(parents=True, exist_ok=True)
        (self.docs / path).write_text(text, encoding="utf-8")

    def menu(self) -> list[dict[str, object]]:
        """The navigation of mkdocs; a page that no entry of the menu's order takes ends the run."""
        shown = [f"source/{source}" for source in sorted(self.sources) if Path(source).suffix not in IMAGES]
        left = dict.fromkeys([*self.api_pages, *self.pages, *shown])
        named = {name for _, group in self.settings["menu"]["order"] for name in group if not name.endswith("/")}
        out: list[dict[str, object]] = []
        for title, group in self.settings["menu"]["order"]:
            entries: list[object] = []
            for name in group:
                taken = [path for path in left if path == name or (name.endswith("/") and path.startswith(name) and path not in named)]
                entries += [self._menu_entry(path) for path in taken]
                for path in taken:
                    del left[path]
            out += [{title: entries}] if entries else []
        if left:
            sys.exit(f"site.toml: the menu has no place for {', '.join(left)}")
        return out

    def _menu_entry(self, path: str) -> object:
        return {self.pages[path].nav: f"{path}.md"} if path in self.pages else f"{path}.md"
