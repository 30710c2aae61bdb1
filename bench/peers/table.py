# SPDX-License-Identifier: Apache-2.0
"""The results as Markdown: what the peers are, and how much longer than mha each takes for each case."""

import math
import statistics
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
from report import time_text  # noqa: E402  (bench/report.py)


def header(context: dict) -> str:
    parts = [context["date"][:10], context["cpu"], f"{context['cpus']} CPUs", f"target {context.get('target', '?')}",
             f"mha {context.get('mha', '?')} at {context['revision']}", f"`{context['command']}`"]  # fmt: skip
    return ", ".join(parts)


def in_order(values: list[str]) -> list[str]:
    return list(dict.fromkeys(values))


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values))


def error_text(error: float | None) -> str:
    return "" if error is None else f" ({error:.1e})".replace("e-0", "e-")


def cell(record: dict | None) -> str:
    if record is None:
        return ""
    text = f"{record['speedup']:.2f}"
    text = f"**{text}**" if record["speedup"] < 1 else text
    return text + ("?" if record["interrupted"] > 2 / 3 else "") + error_text(record.get("error"))


def storage(record: dict) -> str:
    """What is compared on equal terms: float32, bfloat16, or caches and weights of fewer bits."""
    if "error" not in record:
        return "float32"
    if record["case"].startswith("linear_int"):
        return "linear, few bits"
    return "decode, few bits" if record["case"].startswith("decode_") else "bfloat16"


def peer_table(records: list[dict], notes: list[dict]) -> list[str]:
    lines = ["| peer | version | threads | of | cases | geometric mean | least | mha slower in |",
             "|---|---|---:|---|" + "---:|" * 4]  # fmt: skip
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        groups.setdefault((record["impl"], record["threads"], storage(record)), []).append(record)
    for (peer, threads, of), own in groups.items():
        ratios = [record["speedup"] for record in own]
        lines.append(f"| {peer} | {own[0]['version']} | {threads} | {of} | {len(own)} | {geometric_mean(ratios):.2f} | "
                     f"{min(ratios):.2f} | {sum(ratio < 1 for ratio in ratios)} |")  # fmt: skip
    for note in notes:
        if note["case"] is None:
            lines.append(f"| {note['peer']} | {note['reason']} | {note['threads']} | | | | | |")
    return [*lines, ""]


def case_table(records: list[dict]) -> list[str]:
    peers = in_order([record["impl"] for record in records])
    by_case: dict[str, dict[str, dict]] = {}
    for record in records:
        by_case.setdefault(record["case"], {})[record["impl"]] = record
    lines = ["| case | mha | fastest peer | " + " | ".join(peers) + " |", "|---|---:|---|" + "---:|" * len(peers)]
    for name, own in by_case.items():
        mha = statistics.median(record["mha_median_us"] for record in own.values())
        best = min(own.values(), key=lambda record: record["speedup"])
        error = max((record["mha_error"] for record in own.values() if "mha_error" in record), default=None)
        cells = [f"`{name}`", time_text(mha) + error_text(error), f"{best['impl']}: {best['how']}"] + [
            cell(own.get(peer)) for peer in peers
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def markdown(records: list[dict], context: dict, notes: list[dict]) -> str:
    lines = [
        header(context),
        "",
        "A peer's median time / mha's, from samples in turn. Above 1 mha is faster, **below 1** the peer.",
    ]
    if any("error" in record for record in records):
        lines.append("In brackets: the error, largest difference / largest value, against the same in double, over the "
                     "rounded tensors for `_bf16` and over the floats before rounding else; beside mha's time "
                     "its own, the largest where peers have queries of different types.")  # fmt: skip
    lines.append("")
    if records:
        lines += peer_table(records, notes) + case_table(records)
    for note in notes:
        if note["case"] is not None or not records:
            lines.append(
                f"\n{note['peer']}, {note['threads']} threads, `{note['case'] or 'all cases'}`: {note['reason']}"
            )
    return "\n".join(lines) + "\n"
