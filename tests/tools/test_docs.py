# SPDX-License-Identifier: Apache-2.0
"""The links between the project's Markdown files lead somewhere, the pages of the interface have every name of mha.h, and
the tools of `make docs` notice where that is not so. Needs no package; `make docs` checks the built site."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "docs"))

import api
import header_comments
import links
import pages
from sitemap import Site


def build(folder: str, change: Callable[[Site], None] = lambda site: None) -> Site:
    site = Site(ROOT, Path(folder))
    change(site)
    site.plan()
    names = api.write(ROOT / "core/mha.h", site.docs)
    site.api_pages = api.paths_of(names)
    plots = [name for page in site.settings["page"] for name in page.get("plots", [])]
    site.write({name: ("title", "caption") for name in plots})
    site.menu()
    return site


def message_of(change: Callable[[Site], None]) -> str:
    """What the run ends with after this change."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            build(folder, change)
        except SystemExit as stop:
            return str(stop.code)
    return "nothing"


def appended(file: str, text: str) -> Callable[[Site], None]:
    def change(site: Site) -> None:
        site.texts[file] += text

    return change


def menu_without_a_folder(site: Site) -> None:
    for _, group in site.settings["menu"]["order"]:
        group[:] = [name for name in group if name != "inside/"]


def absent_section(site: Site) -> None:
    site.settings["page"][-1]["sections"] = ["README.md#no-such-section"]


def faults_of_html(body: str) -> str:
    """What links.py says of a site of this page and another one."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "index.html").write_text(f'<h1 id="top"></h1><a href="other.html#there"></a>{body}', encoding="utf-8")
        (Path(folder) / "other.html").write_text('<p id="there"></p>', encoding="utf-8")
        return str(links.check(Path(folder).resolve())[0])


def check(name: str, want: str, got: str) -> bool:
    if want in got:
        return True
    print(f"{name}: expected '{want}', got '{got}'")
    return False


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        site = build(folder)
        text = (site.docs / "adding.md").read_text(encoding="utf-8")
    names = api.names_of(header_comments.read(ROOT / "core/mha.h"))
    lacking = {name: page for name, page in names.items() if name != "mha_attention_args.causal"}
    good = [
        check("a section that stands on another page", "{ #adding-a-target }", text),
        check("dead link", "README.md: the link to no/such.md leads nowhere", message_of(appended("README.md", "\n[x](no/such.md)\n"))),
        check("dead anchor", "has no heading 'nothing'", message_of(appended("README.md", "\n[x](tests/README.md#nothing)\n"))),
        check("a page without a place", "the menu has no place for", message_of(menu_without_a_folder)),
        check("a section that is not there", "no section 'no-such-section'", message_of(absent_section)),
        check("two sections of one name", "README.md: two sections are named 'Decode'", message_of(appended("README.md", "\n## Decode\n"))),
        check("good links of the site", "[]", faults_of_html('<a href="#top"></a><a href="https://example.org/x"></a>')),
        check("a page that the site lacks", "index.html: no.html leads to no file", faults_of_html('<a href="no.html"></a>')),
        check("an anchor that the site lacks", "other.html#here leads to no anchor", faults_of_html('<a href="other.html#here"></a>')),
        check("an anchor of the page itself", "#bottom leads to no anchor", faults_of_html('<a href="#bottom"></a>')),
        check("an anchor twice", "the anchor top stands twice", faults_of_html('<p id="top"></p>')),
        check(
            "a script from elsewhere",
            "fetches https://example.org/x.js",
            faults_of_html('<script src="https://example.org/x.js"></script>'),
        ),
        check("a name that pages lack", "['mha_attention_args.causal']", str(api.missing(lacking, ROOT / "core/mha.h"))),
        check("nothing lacks", "[]", str(api.missing(names, ROOT / "core/mha.h"))),
        check("a list below text", "['text', '', '- entry']", str(pages.normalised(["text", "- entry"]))),
        check("a number below text is text", "['text', '2. text']", str(pages.normalised(["text", "2. text"]))),
        check("a link over two lines", "['[a', 'b](to x.md)']", str(pages.with_links(["[a", "b](x.md)"], lambda to: f"to {to}"))),
        check("a link in code", "['```', '[a](x.md)', '```']", str(pages.with_links(["```", "[a](x.md)", "```"], str.upper))),
        check("anchors of GitHub", "threads-openmp-the-pool-or-yours", pages.slug("Threads: OpenMP, the pool, or yours")),
    ]
    print(f"{len(site.pages)} pages, {len(names)} names, {sum(good)} of {len(good)} checks good")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
