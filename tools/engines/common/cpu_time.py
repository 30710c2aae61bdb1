# SPDX-License-Identifier: Apache-2.0
"""Which threads of this process work: the tests' way to see that mha runs on as many threads as its engine gives it."""

import os
import time


def _ticks():
    taken = {}
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        taken[thread] = int(fields[11]) + int(fields[12])
    return taken


def shares(call, seconds=2):
    """The CPU time of each thread while calls are made, over that of the busiest; descending."""
    call()
    before, end = _ticks(), time.monotonic() + seconds
    while time.monotonic() < end:
        call()
    spent = sorted((ticks - before.get(thread, 0) for thread, ticks in _ticks().items()), reverse=True)
    return [ticks / max(spent[0], 1) for ticks in spent]


def cpus():
    return len(os.sched_getaffinity(0))
