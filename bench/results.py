# SPDX-License-Identifier: Apache-2.0
"""Reads what mha_bench writes: one Case from the repetitions of each benchmark."""

import json
import re
import statistics
from dataclasses import dataclass


@dataclass
class Case:
    """A benchmark's repetitions; every counter is a list with an entry for each."""

    name: str
    target: str
    counters: dict

    def median(self, counter):
        """The median over repetitions, or None where the case has no such counter."""
        values = self.counters.get(counter)
        return statistics.median(values) if values else None

    def best(self):
        return min(self.counters["best_us"])

    def spread(self, counter="median_us"):
        """(largest - smallest) / median over repetitions."""
        values = self.counters[counter]
        return (max(values) - min(values)) / statistics.median(values)

    @property
    def is_machine(self):
        return self.name.startswith("machine_")

    @property
    def family(self):
        return self.name.split("/")[0]

    @property
    def threads(self):
        return self.number("threads", 1)

    def number(self, key, default=None):
        """The number after "key:" in the name."""
        found = re.search(rf"/{key}:(\d+)", self.name)
        return int(found.group(1)) if found else default

    def roof(self):
        """(fraction of the roof that is nearer, "read" or "peak")."""
        fractions = {"read": self.median("bandwidth_fraction") or 0, "peak": self.median("peak_fraction") or 0}
        kind = max(fractions, key=fractions.get)
        return fractions[kind], kind


@dataclass
class Results:
    context: dict
    cases: dict  # name -> Case, in the order they ran
    failed: dict  # name -> message


def load(path):
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    cases, failed = {}, {}
    known = {
        "family_index", "per_family_instance_index", "run_name", "name", "run_type", "repetitions", "repetition_index",
        "threads", "iterations", "real_time", "cpu_time", "time_unit", "label", "error_occurred", "error_message",
        "skipped", "skip_message",
    }  # fmt: skip
    for run in data["benchmarks"]:
        if run.get("run_type") == "aggregate":
            continue
        name = run["run_name"]
        if run.get("error_occurred") or run.get("skipped"):
            failed[name] = run.get("error_message") or run.get("skip_message")
            continue
        case = cases.setdefault(name, Case(name, run.get("label", ""), {}))
        for key, value in run.items():
            if key not in known:
                case.counters.setdefault(key, []).append(value)
    return Results(data["context"], cases, failed)
