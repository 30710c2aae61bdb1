#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Says what moved between two runs of mha_bench, beyond the noise of both.

    compare.py <old.json> <new.json>

A case is judged by the fraction of the nearer roof (multiply-adds or read, measured beside it), so that a machine that was
busier or slower in one run does not show as a change of the library. It moved if the fraction changed by more than the
larger spread over repetitions of the two runs, and by more than 2 %. Exit status 1: something got slower or wrong.
"""

import sys

import results
from report import time_text

FLOOR = 0.02


def judge(old, new):
    """(change of the fraction, noise): 0.1 is ten per cent faster."""
    _, roof = new.roof()
    counter = "bandwidth_fraction" if roof == "read" else "peak_fraction"
    if old.median(counter) is None:
        counter = "peak_fraction"
    if new.median(counter) is None:  # nothing of the machine is its bound: the time alone
        change = old.median("median_us") / new.median("median_us") - 1
        return change, max(FLOOR, old.spread(), new.spread())
    change = new.median(counter) / old.median(counter) - 1
    return change, max(FLOOR, old.spread(counter), new.spread(counter))


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    old, new = (results.load(path) for path in sys.argv[1:])
    for key in ("cpu_model", "target", "compiler", "flags", "git_hash"):
        if old.context.get(key) != new.context.get(key):
            print(f"{key}: {old.context.get(key)} -> {new.context.get(key)}")
    rows = {"slower": [], "faster": []}
    same = 0
    for name, case in new.cases.items():
        if case.is_machine or name not in old.cases:
            continue
        change, noise = judge(old.cases[name], case)
        if abs(change) <= noise:
            same += 1
            continue
        rows["faster" if change > 0 else "slower"].append((change, noise, name))
    print("\n| moved | case | old median | new median | beside the machine | noise |\n|---|---|---:|---:|---:|---:|")
    for verdict, moved in rows.items():
        for change, noise, name in sorted(moved, key=lambda row: -abs(row[0])):
            times = [time_text(run.cases[name].median("median_us")) for run in (old, new)]
            print(f"| {verdict} | `{name}` | {times[0]} | {times[1]} | {100 * change:+.1f} % | {100 * noise:.1f} % |")
    print(f"\n{len(rows['slower'])} slower, {len(rows['faster'])} faster, {same} within the noise")
    for name in sorted(old.cases.keys() ^ new.cases.keys()):
        print(f"only in the {'old' if name in old.cases else 'new'} run: {name}")
    for name, message in new.failed.items():
        print(f"WRONG in the new run: {name}: {message}")
    if not same and not rows["slower"] and not rows["faster"]:
        print("the runs have no case in common")
        return 1
    return 1 if rows["slower"] or new.failed else 0


if __name__ == "__main__":
    sys.exit(main())
