# SPDX-License-Identifier: Apache-2.0
"""Draws how much longer than mha each peer takes: a row a case, a mark a peer, a panel for each number of threads."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)
from matplotlib.ticker import FixedLocator, NullLocator  # noqa: E402

sys.path.append(str(Path(__file__).resolve().parents[1]))
import decode_inputs  # noqa: E402
import results  # noqa: E402  (bench/results.py)
from roofline import INK, KINDS, kind_of, short_name  # noqa: E402  (bench/roofline.py)

# Okabe and Ito's colours; those who answer for linear layers alone are open.
PEERS = {
    "torch": ("#D55E00", "o", True),
    "onnxruntime": ("#0072B2", "s", True),
    "openvino": ("#CC79A7", "D", True),
    "ggml": ("#009E73", "^", True),
    "onednn": ("#D55E00", "o", False),
    "mkl": ("#0072B2", "s", False),
    "openblas": ("#009E73", "^", False),
}
TICKS = (0.1, 0.25, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6)
FARTHEST = 6.5  # what lies beyond stands at the edge, with its number
SLOWER = "#B3261E"


def case_of(record: dict) -> results.Case:
    return results.Case(record["case"], "", {})


def group_of(record: dict) -> str:
    """What stands together: the kinds of the roofline plot, and each family of decoding."""
    case = case_of(record)
    return case.family if case.family in decode_inputs.FAMILIES else kind_of(case)


def rank_of(record: dict) -> int:
    """Decoding comes after attention with one query."""
    kinds = list(KINDS)
    after = kinds.index("attention, one query") + 1
    return [*kinds[:after], *decode_inputs.FAMILIES, *kinds[after:]].index(group_of(record))


def label_of(record: dict) -> str:
    case = case_of(record)
    if case.family not in decode_inputs.FAMILIES:
        coded = case.family.removeprefix("linear_") if case.family.startswith("linear_int") else ""
        coded += " in groups" if case.number("group") else ""
        coded += ", outliers" if case.number("outliers") else ""
        return short_name(case) + (", bf16" if case.family.endswith("_bf16") else f", {coded}" if coded else "")
    bits = case.family.removeprefix("decode_")
    return f"decode {bits}, {case.number('Tk')} keys, heads {case.number('H')}/{case.number('Hkv')}"


def draw_panel(axes: plt.Axes, records: list[dict], limits: tuple[float, float], title: str) -> None:
    by_case: dict[str, list[dict]] = {}
    for record in sorted(records, key=rank_of):
        by_case.setdefault(record["case"], []).append(record)
    last_kind = None
    for row, own in enumerate(by_case.values()):
        kind = group_of(own[0])
        if last_kind not in (None, kind):
            axes.axhline(row - 0.5, color="#bbbbbb", lw=0.8, zorder=0)
        last_kind = kind
        if row % 2:
            axes.axhspan(row - 0.5, row + 0.5, color="#000000", alpha=0.025, lw=0, zorder=0)
        # A peer has its own height in a row, so that equal times stay apart.
        own.sort(key=lambda record: list(PEERS).index(record["impl"]))
        for n, record in enumerate(own):
            colour, marker, filled = PEERS[record["impl"]]
            y = row + 0.56 * (n / (len(own) - 1) - 0.5) if len(own) > 1 else row
            x = min(record["speedup"], limits[1] / 1.04)
            axes.plot(x, y, marker, color=colour, ms=5, mfc=colour if filled else "white", mew=1.1, zorder=3)
            if x < record["speedup"]:
                axes.text(x / 1.03, y, f"{record['speedup']:.0f} →", ha="right", va="center", fontsize=7, color=colour)
        least = min(own, key=lambda record: record["speedup"])
        axes.text(1.01, row, f"{least['speedup']:.2f} {least['impl']}", transform=axes.get_yaxis_transform(),
                  va="center", fontsize=7.5, color=SLOWER if least["speedup"] < 1 else INK)  # fmt: skip
    axes.text(1.01, -0.9, "fastest peer", transform=axes.get_yaxis_transform(), fontsize=7.5, color=INK)
    axes.set_yticks(range(len(by_case)), [label_of(own[0]) for own in by_case.values()], fontsize=8)
    axes.set_ylim(len(by_case) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    shown = [tick for tick in TICKS if limits[0] <= tick <= limits[1]]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"{tick:g}" for tick in shown])
    axes.axvspan(limits[0], 1, color="#f6e3d8", alpha=0.55, lw=0, zorder=0)
    axes.axvline(1, color=INK, lw=1.4, zorder=2)
    axes.set_xlabel("← peer faster      time of the peer / time of mha      mha faster →")
    axes.set_title(title, loc="left", fontweight="bold")
    axes.grid(axis="x", color="#e6e6e6", lw=0.7)
    axes.set_axisbelow(True)


def draw(records: list[dict], path: str, title: str) -> None:
    """Writes <path>.png and <path>.svg."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"})
    threads = sorted({record["threads"] for record in records})
    rows = max(len({record["case"] for record in records if record["threads"] == count}) for count in threads)
    ratios = [record["speedup"] for record in records]
    limits = (min(0.65, 0.9 * min(ratios)), min(FARTHEST, max(3.2, 1.12 * max(ratios))))
    figure, panels = plt.subplots(1, len(threads), squeeze=False, figsize=(8 * len(threads), 1.9 + 0.29 * rows),
                                  layout="constrained")  # fmt: skip
    for axes, count in zip(panels[0], threads):
        own = [record for record in records if record["threads"] == count]
        draw_panel(axes, own, limits, f"{count} thread{'s' if count > 1 else ''}")
    versions = {record["impl"]: record["version"] for record in records}
    handles = [plt.Line2D([], [], color=colour, marker=marker, mfc=colour if filled else "white", ls="",
                          label=f"{peer} {versions[peer].split(' ')[0]}")
               for peer, (colour, marker, filled) in PEERS.items() if peer in versions]  # fmt: skip
    figure.suptitle("mha beside its peers\n", x=0.01, ha="left", fontsize=14, fontweight="bold")
    figure.text(0.01, 1 - 0.42 / figure.get_figheight(), title.replace("`", ""), fontsize=8.5, color=INK, va="top")
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(f"{path}.png", dpi=130)
    figure.savefig(f"{path}.svg")
    plt.close(figure)
