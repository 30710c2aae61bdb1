#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns the JSON of mha_bench into one Markdown table and, where matplotlib is installed, a roofline.

    report.py <mha_bench.json> [--markdown <file>] [--roofline <file without extension>]
"""

import argparse
import sys

import results


def time_text(microseconds):
    if microseconds >= 1e5:
        return f"{microseconds / 1e3:.0f} ms"
    if microseconds >= 1e3:
        return f"{microseconds / 1e3:.2f} ms"
    return f"{microseconds:.1f} µs" if microseconds >= 100 else f"{microseconds:.2f} µs"


def percent(value):
    return "" if value is None else f"{100 * value:.0f} %"


def ratio(value, digits=0):
    return "" if value is None else f"{value:.{digits}f}"


# What a case is timed in turn with, by the counter of the ratio.
TWINS = {
    "parts_ratio": "parts",
    "plain_ratio": "plain",
    "contiguous_ratio": "contiguous",
    "f32_ratio": "f32",
    "one_query_ratio": "one query",
    "copy_ratio": "copy",
    "denormal_ratio": "ordinary",
    "table_ratio": "table",
}


def twin_text(case):
    """The time / that of what it was timed in turn with, and what that is."""
    found = [(case.median(counter), name) for counter, name in TWINS.items() if case.median(counter) is not None]
    return f"{found[0][0]:.2f} {found[0][1]}" if found else ""


def peak_text(case):
    """The share of the peak of floats and, where integers are multiplied, that of theirs."""
    integers = case.median("int8_peak_fraction")
    return percent(case.median("peak_fraction")) + ("" if integers is None else f", int8 {percent(integers)}")


def speed_up(case, cases):
    """One thread's median / this one's, where both were measured."""
    if case.threads == 1:
        return None
    single = cases.get(case.name.replace(f"/threads:{case.threads}", "/threads:1"))
    return single.median("median_us") / case.median("median_us") if single else None


def header(context):
    """What was measured where, as a line."""
    parts = [
        context["date"][:10],
        context.get("cpu_model", "unknown CPU"),
        f"{context['num_cpus']} CPUs",
        f"target {context['target']}",
        context["compiler"],
        f"mha {context['mha_version']} at {context['git_hash']}",
    ]
    return ", ".join(parts)


def machine_table(cases):
    machine = [case for case in cases.values() if case.is_machine]
    if not machine:
        return []
    threads = sorted({case.threads for case in machine})
    lines = ["| machine | " + " | ".join(f"threads: {n}" for n in threads) + " |", "|---|" + "---:|" * len(threads)]
    rows = {}
    for case in machine:
        rate, integers = case.median("GFLOPS"), case.median("GOPS")
        text = f"{rate:.0f} GFLOP/s" if rate else f"{integers:.0f} GOP/s" if integers else None
        text = text or f"{case.median('GBps'):.1f} GB/s"
        kib = case.number("KiB")
        label = "multiply-adds" if kib is None else f"read of {kib} KiB" if kib < 1024 else f"read of {kib >> 10} MiB"
        label += " of integers" if integers else ""
        rows.setdefault(label, {})[case.threads] = text
    for label, row in rows.items():
        lines.append(f"| {label} | " + " | ".join(row.get(n, "") for n in threads) + " |")
    return lines + [""]


def case_table(cases):
    lines = [
        "| case | best | median | spread | GFLOP/s | of peak | GB/s | of read | × naive | × 1 thread | ÷ twin "
        "| interrupted |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for case in cases.values():
        if case.is_machine:
            continue
        cells = [
            f"`{case.name}`",
            time_text(case.best()),
            time_text(case.median("median_us")),
            percent(case.spread()),
            ratio(case.median("GFLOPS"), 1),
            peak_text(case),
            ratio(case.median("GBps"), 1),
            percent(case.median("bandwidth_fraction")),
            ratio(case.median("naive_ratio"), 1),
            ratio(speed_up(case, cases), 2),
            twin_text(case),
            percent(case.median("interrupted")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def markdown(found):
    lines = [header(found.context), ""] + machine_table(found.cases) + case_table(found.cases)
    for name, message in found.failed.items():
        lines.append(f"\n**WRONG** `{name}`: {message}")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json")
    parser.add_argument("--markdown", help="also write the table here")
    parser.add_argument("--roofline", help="write <this>.png and <this>.svg")
    arguments = parser.parse_args()
    found = results.load(arguments.json)
    text = markdown(found)
    print(text, end="")
    if arguments.markdown:
        with open(arguments.markdown, "w", encoding="utf-8") as file:
            file.write(text)
    if arguments.roofline and any(not case.is_machine for case in found.cases.values()):
        try:
            import roofline
        except ImportError as error:
            print(f"report: no roofline drawn: {error}", file=sys.stderr)
        else:
            roofline.draw(found, arguments.roofline, header(found.context))
    return 1 if found.failed else 0


if __name__ == "__main__":
    sys.exit(main())
