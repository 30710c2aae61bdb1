# SPDX-License-Identifier: Apache-2.0
"""Makes the source of the site: pages from the Markdown files of the project, pages of the interface from core/mha.h, plots, and
the configuration of mkdocs.

    assemble.py <source tree> <work folder> <site folder>
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import api
import plots
from sitemap import HERE, Site


def main() -> int:
    root, work, out = (Path(argument).resolve() for argument in sys.argv[1:4])
    shutil.rmtree(work, ignore_errors=True)
    site = Site(root, work)
    site.plan()
    site.docs.mkdir(parents=True)
    names = api.write(root / "core/mha.h", site.docs)
    site.api_pages = api.paths_of(names)
    drawn = plots.write(root, site.docs / "plots")
    site.write(drawn)
    shutil.copytree(HERE / "assets", site.docs / "assets")
    (work / "names.json").write_text(json.dumps(names), encoding="utf-8")
    (work / "originals.json").write_text(json.dumps(site.originals()), encoding="utf-8")
    version = re.findall(r"#define MHA_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", (root / "core/mha.h").read_text(encoding="utf-8"))
    settings = {
        "site_name": f"mha {'.'.join(version)}",
        "INHERIT": str(HERE / "mkdocs.yml"),
        "docs_dir": str(site.docs),
        "site_dir": str(out),
        "hooks": [str(HERE / "hooks.py")],
        "extra": {"names": str(work / "names.json"), "polyfills": ["assets/iframe-worker.js"]},
        "nav": site.menu(),
    }
    (work / "mkdocs.yml").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    print(f"{len(site.pages)} pages from {len(site.texts)} files, {len(site.api_pages)} of the interface with {len(names)} names")
    return 0


if __name__ == "__main__":
    sys.exit(main())
