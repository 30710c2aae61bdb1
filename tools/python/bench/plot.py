# SPDX-License-Identifier: Apache-2.0
"""Draws the results of end_to_end.py as bars, and prints them as a table.

    plot.py results.json ratios.svg

One bar for each variant: how many times faster it is than the baseline of its case. The line across a bar shows the
middle half of the rounds; a vertical line stands at 1, and a red mark at the least
ratio that is meant to be reached.
"""

from __future__ import annotations

import json
import sys
from html import escape
from pathlib import Path
from typing import Any

LEFT, WIDTH, ROW, GAP = 330, 480, 22, 14
COLOURS = {"mha": "#2f6fb0", "mha, pages": "#6aa5dc", "mha, packed": "#1d4673", "mha bf16": "#4c9a62", "mha int8": "#c9822b"}


def bars(results: dict[str, Any]) -> list[tuple[str, dict[str, Any], list[str]]]:
    return [(name, case, [variant for variant in case["ratio"] if variant != case["baseline"]]) for name, case in results.items()]


def text(x: float, y: float, content: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="1.5"/>'


def draw(results: dict[str, Any]) -> str:
    longest = max(max(high for _, high in case["quartiles"].values()) for case in results.values())
    scale = WIDTH / max(longest, 1.2)
    parts, y = [], 30.0
    for _, case, variants in bars(results):
        parts.append(text(8, y + 15, case["title"]))
        for variant in variants:
            ratio, (low, high) = case["ratio"][variant], case["quartiles"][variant]
            colour = COLOURS.get(variant, "#777777")
            parts.append(f'<rect x="{LEFT}" y="{y:.1f}" width="{ratio * scale:.1f}" height="{ROW - 4}" fill="{colour}"/>')
            parts.append(line(LEFT + low * scale, y + 9, LEFT + high * scale, y + 9, "#222222"))
            parts.append(text(LEFT + max(ratio, high) * scale + 6, y + 14, f"{ratio:.2f}  {variant}"))
            if variant in case["bars"]:
                bar = LEFT + case["bars"][variant] * scale
                parts.append(line(bar, y - 2, bar, y + ROW - 2, "#b02a2a"))
            y += ROW
        y += GAP
    parts.append(line(LEFT + scale, 24, LEFT + scale, y, "#999999"))
    parts.append(text(LEFT, 16, "time of torch's attention (or torch in bf16) / time with mha; red: least ratio"))
    size = f'width="{LEFT + WIDTH + 130}" height="{y + 6:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    return "\n".join([head, f'<rect {size} fill="white"/>', *parts, "</svg>"]) + "\n"


def table(results: dict[str, Any]) -> str:
    rows = ["| model | against | ms | with mha | ms | ratio | middle half | least ratio |", "|---|---|---:|---|---:|---:|---:|---:|"]
    for _, case, variants in bars(results):
        for variant in variants:
            low, high = case["quartiles"][variant]
            baseline, times = case["baseline"], case["milliseconds"]
            bar = f"{case['bars'][variant]:.2f}" if variant in case["bars"] else ""
            rows.append(
                f"| {case['title']} | {baseline} | {times[baseline]:.0f} | {variant} | {times[variant]:.0f} | "
                f"{case['ratio'][variant]:.2f} | {low:.2f} to {high:.2f} | {bar} |"
            )
    return "\n".join(rows)


def main() -> None:
    results = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(draw(results))
    print(table(results))


if __name__ == "__main__":
    main()
