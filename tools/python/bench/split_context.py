# SPDX-License-Identifier: Apache-2.0
"""Measures mha.distributed: time, bytes and steps of one decoded token of one layer, on 1, 2 and 4 ranks of this machine; and
calculates bytes and steps for more ranks. Prints the tables of mha/distributed/README.md.

    python split_context.py [--tokens 262144] [--steps 32] [--ranks 1 2 4]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

HEADS, KV_HEADS, DIM = 32, 8, 128
CALCULATED = (8, 16, 32, 64, 128, 256, 512, 1024)


def chunks_of(tokens: int, ranks: int) -> list[int]:
    """Chunks of each rank, the context divided evenly."""
    chunks = tokens // 256
    return [chunks * (rank + 1) // ranks - chunks * rank // ranks for rank in range(ranks)]


def measure(rank: int, size: int, store: str, tokens: int, steps: int, connection: Any) -> None:
    import torch
    import torch.distributed as dist

    import mha
    from mha import distributed

    torch.set_num_threads(1)
    context = mha.Context(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    ranks = distributed.Ranks(timeout=300)
    capacity = 256 * max(chunks_of(tokens, size))
    cache = distributed.SplitCache(KV_HEADS, DIM, capacity, ranks=ranks, key="bf16", value="bf16", context=context)
    # The last chunk keeps room for the decoded tokens, so that the number of chunks stays.
    own = 256 * chunks_of(tokens, size)[rank] - (steps + 1 if rank == size - 1 else 0)
    block = torch.randn(1, min(own, 4096), KV_HEADS, DIM, generator=torch.Generator().manual_seed(rank)).bfloat16()
    prompt = block.repeat(1, -(-own // block.shape[1]), 1, 1)[:, :own]
    cache.append_shard(prompt, prompt)
    del prompt
    query, token = (torch.randn(1, 1, heads, DIM, generator=torch.Generator().manual_seed(9)) for heads in (HEADS, KV_HEADS))
    seconds = []
    for step in range(steps + 1):
        before = ranks.traffic
        dist.barrier()
        begin = time.perf_counter()
        cache.append(token, token)
        cache.attention(query, causal=True)
        if step:  # the first one touches memory
            seconds.append(time.perf_counter() - begin)
    made = ranks.traffic - before
    expected = distributed.attention_traffic(cache.chunks, rank, rows=HEADS, value_head_dim=DIM)
    assert made == expected, (made, expected)
    connection.send((seconds, made))
    dist.barrier()


def measured(size: int, tokens: int, steps: int) -> tuple[list[float], list[Any]]:
    """The slowest rank's seconds of each token, and the traffic of each rank."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [spawn.Pipe() for _ in range(size)]
        processes = [
            spawn.Process(target=measure, args=(rank, size, str(Path(folder) / "store"), tokens, steps, pipes[rank][1]))
            for rank in range(size)
        ]
        for process in processes:
            process.start()
        found = [pipe.recv() for pipe, _ in pipes]
        for process in processes:
            process.join()
    slowest = [max(times) for times in zip(*(seconds for seconds, _ in found))]
    return slowest, [traffic for _, traffic in found]


def row_of(size: int, tokens: int, traffic: list[Any], how: str) -> str:
    """One line of the table: the most of any rank."""
    chunks = chunks_of(tokens, size)
    gathered = (sum(chunks) - min(chunks)) * HEADS * (DIM + 2) * 4 if size > 1 else 0
    sent, received = max(made.bytes_sent for made in traffic), max(made.bytes_received for made in traffic)
    steps, messages = max(made.steps for made in traffic), max(made.messages_sent for made in traffic)
    kib = " | ".join(f"{number / 1024:.1f}" for number in (sent, received, gathered))
    return f"| {size} | {max(chunks)} | {steps} | {messages} | {kib} | {how} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=262144)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2, 4])
    options = parser.parse_args()
    tokens = options.tokens // 256 * 256

    from mha import distributed

    print("| ranks | chunks a rank | steps | messages sent | KiB sent | KiB received | KiB received by an all-gather | how |")
    print("|---:|---:|---:|---:|---:|---:|---:|---|")
    times = []
    for size in options.ranks:
        seconds, traffic = measured(size, tokens, options.steps)
        times.append(f"| {size} | {min(seconds) * 1e3:.0f} | {statistics.median(seconds) * 1e3:.0f} |")
        print(row_of(size, tokens, traffic, "measured"), flush=True)
    for size in CALCULATED:
        chunks = chunks_of(tokens, size)
        traffic = [distributed.attention_traffic(chunks, rank, rows=HEADS, value_head_dim=DIM) for rank in range(size)]
        print(row_of(size, tokens, traffic, "calculated"), flush=True)
    print(f"\n| ranks on {os.cpu_count()} CPUs | least ms a token | median |\n|---:|---:|---:|")
    print("\n".join(times))


if __name__ == "__main__":
    main()
