# SPDX-License-Identifier: Apache-2.0
"""Draws the plots of the site from tables of the pages: no figure stands here. bench/ draws from files of results, which are
not kept; its drawing gets the rows of the tables instead."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path += [str(BENCH), str(BENCH / "peers")]
import plot as peers_plot
import results
import roofline

Row = dict[str, str]
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"}
INPUTS = {"gaussian": "#0072B2", "outlier channels": "#D55E00", "MiniLM": "#009E73"}


def section(path: Path, heading: str) -> str:
    """The text below a heading of level 2 or 3, up to the next one."""
    text = path.read_text(encoding="utf-8")
    match = re.search(rf"^##+ {re.escape(heading)}$(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    if not match:
        sys.exit(f"{path}: there is no heading '{heading}'")
    return match[1]


def tables(text: str) -> list[list[Row]]:
    """Every table: its rows, by the names of its columns (a name that comes again: with a number behind it)."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.strip().split("\n")]
        names = [name if name not in cells[0][:n] else f"{name} {n}" for n, name in enumerate(cells[0])]
        found.append([dict(zip(names, row, strict=True)) for row in cells[2:]])
    return found


def table_with(path: Path, heading: str, column: str) -> list[Row]:
    for table in tables(section(path, heading)):
        if column in table[0]:
            return table
    sys.exit(f"{path}: '{heading}' has no table with a column '{column}'")


def run_line(path: Path, heading: str) -> str:
    """When and on what a table was measured: the line that begins with its date."""
    match = re.search(r"^20\d\d-.*$", section(path, heading), re.MULTILINE)
    if not match:
        sys.exit(f"{path}: '{heading}' does not say when it was measured")
    return match[0]


def number(cell: str) -> float | None:
    match = re.match(r"\**([\d.]+(?:e[-+]\d+)?)", cell)
    return float(match[1]) if match else None


def draw_peers(root: Path, target: Path) -> tuple[str, str]:
    page, heading = root / "bench/README.md", "`make bench-peers`"
    versions = {row["peer"]: row["version"] for row in table_with(page, heading, "version")}
    records: list[dict[str, Any]] = []
    for row in table_with(page, heading, "fastest peer"):
        case = row["case"].strip("`")
        for peer, version in versions.items():
            ratio = number(row[peer])
            if ratio and case.endswith("/threads:1"):
                records.append({"case": case, "threads": 1, "impl": peer, "version": version, "speedup": ratio})
    line = run_line(page, heading)
    with plt.rc_context({"legend.fontsize": 7, "legend.columnspacing": 1, "legend.handletextpad": 0.2}):
        peers_plot.draw(records, str(target), line)
    drawn = target.with_suffix(".svg")
    spaced = re.sub(r"(?<=\S) {2,}(?=\S)", lambda gap: "\u00a0" * len(gap[0]), drawn.read_text(encoding="utf-8"))
    drawn.write_text(spaced, encoding="utf-8")  # SVG takes a run of spaces for one
    return "Time beside other libraries", f"The table of `make bench-peers` below, one thread. {line}"


def draw_fractions(root: Path, target: Path) -> tuple[str, str]:
    page, heading = root / "bench/README.md", "`make bench`"
    cases = []
    for row in table_with(page, heading, "of peak"):
        case = results.Case(row["case"].strip("`"), "", {})
        for counter, column in (("peak_fraction", "of peak"), ("bandwidth_fraction", "of read")):
            percent = number(row[column])
            if percent is not None:
                case.counters[counter] = [percent / 100]
        if case.family in roofline.DRAWN and case.threads == 1 and "/target:" not in case.name:
            cases.append(case)
    cases.sort(key=lambda case: list(roofline.KINDS).index(roofline.kind_of(case)))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 1.2 + 0.19 * len(cases)), layout="constrained")
        roofline.draw_fractions(axes, cases)
        save(figure, target)
    return "Speed beside what the machine can do", f"The table of `make bench` below, one thread. {run_line(page, heading)}"


def draw_formats(root: Path, target: Path) -> tuple[str, str]:
    heading = "What fewer bits cost"
    rows = table_with(root / "tests/README.md", heading, "bits")
    # The columns after the first two are pairs: keys of an input, attention over it.
    columns = list(rows[0])[2:]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 1.3 + 0.34 * len(rows)), layout="constrained")
        for n, (name, colour) in enumerate(INPUTS.items()):
            values = [number(list(row.values())[3 + 2 * n]) for row in rows]
            axes.plot(values, range(len(rows)), "os^"[n], color=colour, label=columns[2 * n].split(":")[0])
        axes.set_xscale("log")
        axes.set_yticks(range(len(rows)), [f"{row['stored as']} ({row['bits']} bits)" for row in rows], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("relative error of attention, root mean square (less is better)")
        axes.grid(axis="both", color="#e6e6e6", lw=0.7)
        axes.set_axisbelow(True)
        figure.legend(frameon=False, loc="outside upper center", ncols=len(INPUTS))
        save(figure, target)
    return "The error of attention over stored keys and values", "The table below as a plot: three kinds of input."


def save(figure: Any, target: Path) -> None:
    figure.savefig(f"{target}.svg", metadata={"Date": None})
    plt.close(figure)


DRAWN = {"peers": draw_peers, "fractions": draw_fractions, "formats": draw_formats}


def write(root: Path, folder: Path) -> dict[str, tuple[str, str]]:
    """Draws <folder>/<name>.svg of every plot; the title and the caption of each."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: draw(root, folder / name) for name, draw in DRAWN.items()}
    for image in folder.glob("*.png"):  # bench draws both
        image.unlink()
    return made
