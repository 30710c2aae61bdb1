# SPDX-License-Identifier: Apache-2.0
"""A hook of mkdocs: names of the interface in code, on any page, become links to what is said of them."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

SKIPPED = re.compile(r"(<h[1-6].*?</h[1-6]>|<a [^>]*>.*?</a>)", re.DOTALL)
NAME = r"((?:mha_|MHA_)\w+(?:\.\w+)?)"
INLINE = re.compile(rf"<code>{NAME}</code>")
BLOCK = re.compile(rf'<span class="(n\w*|k\w*)">{NAME}</span>')


def on_page_content(text: str, page: Any, config: Any, **_: Any) -> str:
    names = json.loads(Path(config.extra["names"]).read_text(encoding="utf-8"))
    folder = posixpath.dirname(page.url) or "."

    def link(name: str, inner: str, whole: str) -> str:
        return f'<a href="{posixpath.relpath(names[name], folder)}">{inner}</a>' if name in names else whole

    def linked(piece: str) -> str:
        piece = INLINE.sub(lambda m: link(m[1], m[0], m[0]), piece)
        return BLOCK.sub(lambda m: f'<span class="{m[1]}">{link(m[2], m[2], m[2])}</span>', piece)

    pieces = SKIPPED.split(text)
    return "".join(piece if n % 2 else linked(piece) for n, piece in enumerate(pieces))
