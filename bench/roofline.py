# SPDX-License-Identifier: Apache-2.0
"""Draws the results for each number of threads: above, speed over arithmetic intensity under the machine's roofs; below,
how much of its nearer roof each case reaches."""

import math

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (the backend comes first)

# One colour a kind, from Okabe and Ito's palette, which colour-blind readers can tell apart.
KINDS = {
    "linear": ("#0072B2", "o"),
    "attention": ("#D55E00", "s"),
    "attention, causal": ("#E69F00", "D"),
    "attention, one query": ("#CC79A7", "v"),
    "attention, weights returned": ("#000000", "P"),
    "layer": ("#009E73", "^"),
    "notebook": ("#56B4E9", "*"),
}
# The table has the other families: too many to draw, without operations, or with another peak.
DRAWN = ("linear_f32", "linear_f32_denormal", "attention_f32", "attention_f32_denormal", "attention_weights_f32",
         "forward_f32", "notebook_f32")  # fmt: skip
READS = {16: "read from L1", 512: "L2", 16 << 10: "16 MiB", 512 << 10: "512 MiB"}
INK = "#444444"


def kind_of(case):
    if case.family.startswith("linear_"):
        return "linear"
    if case.family == "notebook_f32":
        return "notebook"
    if case.family.startswith("forward_"):
        return "layer"
    if case.family == "attention_weights_f32":
        return "attention, weights returned"
    if case.number("Tq") == 1:
        return "attention, one query"
    return "attention, causal" if case.number("causal") else "attention"


def short_name(case):
    kind = kind_of(case)
    if kind == "linear":
        name = f"linear {case.number('M')} × {case.number('N')} × {case.number('K')}"
    elif kind == "attention, one query":
        name = f"one query, {case.number('Tk')} keys, heads {case.number('H')}/{case.number('Hkv')}"
    elif kind == "layer":
        name = f"layer B {case.number('B')} T {case.number('T')} E {case.number('E')}"
    elif kind == "notebook":
        name = "notebook"
    else:
        name = f"attention T {case.number('Tq')} D {case.number('D')}"
        name += ", causal" if case.number("causal") else ""
        name += ", weights" if kind == "attention, weights returned" else ""
    name += ", denormal" if case.family.endswith("_denormal") else ""
    return name + (f" ({case.target})" if "/target:" in case.name else "")


def point_label(case):
    """What tells a point from others of its colour."""
    kind = kind_of(case)
    if kind == "linear":
        return f"M {case.number('M')}"
    if kind == "attention, one query":
        return f"{case.number('H')}/{case.number('Hkv')}"
    if kind == "attention":
        return f"T {case.number('Tq')}" if case.number("D") == 64 else f"D {case.number('D')}"
    return f"T {case.number('T')}" if kind == "layer" else ""


def draw_roofs(axes, found, threads, peak):
    """The multiply-add roof and a slope for each size read."""
    left, right = axes.get_xlim()
    bottom = axes.get_ylim()[0]
    axes.axhline(peak, color=INK, lw=1.6)
    axes.text(right, peak * 1.08, f"multiply-adds {peak:.0f} GFLOP/s", ha="right", color=INK)
    for kib, label in READS.items():
        case = found.cases.get(f"machine_read/KiB:{kib}/threads:{threads}")
        if case is None:
            continue
        rate = case.median("GBps")
        axes.plot([left, peak / rate], [left * rate, peak], color=INK, lw=0.9, alpha=0.7, zorder=1)
        x = max(left, bottom / rate) * 1.12
        # The second-level cache is little slower than the first: its label goes under the line.
        side, shift = ("top", 0.9) if kib == 512 else ("bottom", 1.08)
        axes.text(x, x * rate * shift, f"{label}, {rate:.0f} GB/s", fontsize=7.5, color=INK, va=side,
                  rotation=math.degrees(math.atan(rate)), rotation_mode="anchor",
                  transform_rotates_text=True)  # fmt: skip


def peak_of(found, threads):
    """GFLOP/s of multiply-adds: measured on their own, else beside the cases."""
    case = found.cases.get(f"machine_fma/threads:{threads}")
    if case:
        return case.median("GFLOPS")
    peaks = [case.median("peak_GFLOPS") for case in found.cases.values()
             if not case.is_machine and case.threads == threads and "/target:" not in case.name]  # fmt: skip
    return sorted(peaks)[len(peaks) // 2]


def draw_roofline(axes, found, cases, threads):
    axes.set_xscale("log")
    axes.set_yscale("log")
    peak = peak_of(found, threads)
    axes.set_xlim(0.1, 3000)
    axes.set_ylim(min([0.5] + [0.6 * case.median("GFLOPS") for case in cases]), peak * 1.6)
    draw_roofs(axes, found, threads, peak)
    labelled = []
    for case in cases:
        x, y = case.median("flops") / case.median("bytes"), case.median("GFLOPS")
        colour, marker = KINDS[kind_of(case)]
        axes.plot(x, y, marker, color=colour, ms=9 if marker == "*" else 6, mec="white", mew=0.6)
        # A label only where no other one is near: the chart below names every case.
        near = any(0.7 < x / u < 1.45 and 0.84 < y / v < 1.19 for u, v in labelled)
        if point_label(case) and not near:
            axes.annotate(point_label(case), (x, y), (5, -9), textcoords="offset points", fontsize=7, color=colour)
            labelled.append((x, y))
    axes.set_xlabel("useful operations a byte of inputs, weights and results")
    axes.set_ylabel("GFLOP/s (useful)")
    axes.set_title(f"{threads} thread{'s' if threads > 1 else ''}", loc="left", fontweight="bold")
    axes.grid(which="major", color="#e6e6e6", lw=0.7)
    axes.set_axisbelow(True)


def draw_fractions(axes, cases):
    for row, case in enumerate(cases):
        fraction, roof = case.roof()
        colour, marker = KINDS[kind_of(case)]
        axes.plot([0, fraction], [row, row], color=colour, lw=1, alpha=0.45)
        axes.plot(fraction, row, marker, color=colour, ms=6, mfc=colour if roof == "peak" else "white")
        axes.text(max(fraction, 0) + 0.02, row, f"{100 * fraction:.0f}", va="center", fontsize=7, color=INK)
    axes.set_yticks(range(len(cases)), [short_name(case) for case in cases], fontsize=7.5)
    axes.set_ylim(len(cases) - 0.3, -0.7)
    axes.set_xlim(0, max(1.08, 1.08 * max(case.roof()[0] for case in cases)))
    axes.set_xlabel("% of the nearer roof, measured beside the case (filled: multiply-adds; open: read)")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])
    axes.axvline(1, color=INK, lw=1.2)
    axes.grid(axis="x", color="#e6e6e6", lw=0.7)
    axes.set_axisbelow(True)


def draw(found, path, title):
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"})
    by_threads = {}
    for case in found.cases.values():
        if case.family in DRAWN:
            by_threads.setdefault(case.threads, []).append(case)
    for cases in by_threads.values():
        cases.sort(key=lambda case: list(KINDS).index(kind_of(case)))
    if not by_threads:
        return
    rows = max(len(cases) for cases in by_threads.values())
    below = 0.9 + 0.19 * rows
    figure, panels = plt.subplots(
        2, len(by_threads), squeeze=False, figsize=(7.5 * len(by_threads), 5.2 + below),
        height_ratios=[5.2, below], layout="constrained",
    )  # fmt: skip
    for column, (threads, cases) in enumerate(sorted(by_threads.items())):
        draw_roofline(panels[0][column], found, cases, threads)
        draw_fractions(panels[1][column], cases)
    present = {kind_of(case) for cases in by_threads.values() for case in cases}
    handles = [plt.Line2D([], [], color=colour, marker=marker, ls="", label=kind)
               for kind, (colour, marker) in KINDS.items() if kind in present]  # fmt: skip
    figure.suptitle("mha: speed beside what the machine can do\n", x=0.01, ha="left", fontsize=14, fontweight="bold")
    figure.text(0.01, 1 - 0.42 / figure.get_figheight(), title, fontsize=8.5, color=INK, va="top")
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(f"{path}.png", dpi=130)
    figure.savefig(f"{path}.svg")
    plt.close(figure)
