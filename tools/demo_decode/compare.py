# SPDX-License-Identifier: Apache-2.0
"""Greedy generation with a small Llama through the library and through PyTorch, side by side.

    compare.py --decoder build/tools/mha_decoder --work DIR [--format NAME]

Makes the model (random weights, fixed seed) and torch's continuation of eight prompts, lets mha_decoder compare itself
with them, prints what it found and tokens per second, and exits with status 1 when something differs. With --format:
how often a cache of that format leads to the token that floats lead to, instead.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import safetensors.torch
import torch

import torch_decoder

SEED = 20260101
COUNT = 200
POSITIONS = 2048
LONG_PROMPT = 1024
# (tokens, seed) of each prompt; the lengths lie on both sides of a chunk of 256 keys. The seeds are those of the first
# prompt of a length whose 200 choices are all clear: the greatest logit is ahead of the next by more than 0.004, two
# hundred times the difference that another order of sums makes.
PROMPTS = [(1, 0), (5, 1), (17, 10), (32, 15), (63, 4), (100, 2), (257, 0), (300, 14)]
LEAST_MARGIN = 4e-3
ROUNDS = 3
MEASURED = {"prefill": "prefill, 1024 tokens", "decode_1": "decode, 1 sequence", "decode_8": "decode, 8 sequences"}


def progress(text):
    """A line on a terminal's stderr that rewrites itself; silent elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def random_prompt(length, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, torch_decoder.CONFIG["vocabulary"], (length,), generator=generator)


def make(work):
    """Writes weights.safetensors and expected.safetensors; returns torch's model, the prompts and the margins."""
    config = torch_decoder.CONFIG
    weights = torch_decoder.make_weights(config, SEED)
    safetensors.torch.save_file(weights, work / "weights.safetensors", {"config": json.dumps(config)})
    model = torch_decoder.TorchDecoder(weights, config, POSITIONS)
    prompts = [random_prompt(length, seed) for length, seed in PROMPTS]
    generated = []
    for n, prompt in enumerate(prompts):
        progress(f"torch: sequence {n + 1} of {len(prompts)}")
        generated.append(model.generate(prompt, COUNT))
    progress("")
    tokens, logits = (torch.stack(part) for part in zip(*generated))
    lengths = torch.tensor([0] + [len(prompt) for prompt in prompts])
    expected = {
        "prompts": torch.cat(prompts),
        "prompt_offsets": lengths.cumsum(0),
        "tokens": tokens,
        "logits": logits,
        "long_prompt": random_prompt(LONG_PROMPT, SEED),
    }
    safetensors.torch.save_file(expected, work / "expected.safetensors")
    return model, prompts, expected


def describe(expected):
    """Prints what the text is like; True if each choice is clear enough for tokens to be compared."""
    best = expected["logits"].topk(2, dim=-1).values
    margin = (best[..., 0] - best[..., 1]).min().item()
    distinct = [len(set(row.tolist())) for row in expected["tokens"]]
    print(
        f"{len(PROMPTS)} prompts of {min(PROMPTS)[0]} to {max(PROMPTS)[0]} tokens, continued by {COUNT} each"
        f" ({min(distinct)} to {max(distinct)} different ones); smallest margin of a choice {margin:.1e},"
        f" logits' deviation {expected['logits'].std().item():.2f}"
    )
    return margin >= LEAST_MARGIN and min(distinct) > COUNT // 2


def run_mha(arguments, command, *options, **environment):
    """The program's report; ends this one where it could not run."""
    line = [arguments.decoder, command, "--model", arguments.work / "weights.safetensors"]
    line += ["--expected", arguments.work / "expected.safetensors", *options]
    if arguments.target:
        line += ["--target", arguments.target]
    done = subprocess.run([str(part) for part in line], stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    if done.returncode not in (0, 1):
        sys.exit(done.returncode if done.returncode > 0 else 1)
    return json.loads(done.stdout)


def print_checks(report):
    """True if everything is as it should be."""
    print(f"\nmha ({report['target']}, {report['threads']} threads)")
    for check in report["checks"]:
        print(f"  {'ok    ' if check['ok'] else 'DIFFERS'} {check['what']}: {check['detail']}")
    return all(check["ok"] for check in report["checks"])


def torch_bf16(weights, prompts, expected):
    """As the report of a format: torch in bfloat16, its tensors and its cache, beside torch in float32."""
    model = torch_decoder.TorchDecoder(weights, torch_decoder.CONFIG, POSITIONS, torch.bfloat16)
    same, squares = 0, 0.0
    for n, (prompt, tokens, logits) in enumerate(zip(prompts, expected["tokens"], expected["logits"])):
        progress(f"torch in bfloat16: sequence {n + 1} of {len(prompts)}")
        got = model.feed(prompt, tokens).float()
        same += int((got.argmax(dim=-1) == tokens).sum())
        squares += ((got - logits) ** 2).sum().item()
    progress("")
    rms = (squares / expected["logits"].numel()) ** 0.5
    return {"name": "torch bfloat16", "bytes": 256, "same": same, "tokens": expected["tokens"].numel(), "rms": rms}


def print_formats(report):
    """True if every schedule and target gave the same bits."""
    print(f"\ncaches beside floats ({report['target']}); the tokens that floats choose are fed")
    print(f"  {'format':16}{'bytes of a head':>16}{'same choice':>16}{'rms of logits':>15}  bits")
    for row in report["formats"]:
        share = f"{row['same']} of {row['tokens']}"
        bits = "the same by every schedule and target" if row.get("same_bits") else "DIFFER"
        print(f"  {row['name']:16}{row['bytes']:16.0f}{share:>16}{row['rms']:15.1e}  {bits if 'same_bits' in row else ''}")
    return all(row.get("same_bits", True) for row in report["formats"])


def time_prefill(model, ids):
    cache = torch_decoder.Cache(model.config, 1, len(ids))
    start = time.perf_counter()
    model.forward(ids[None], cache)
    return time.perf_counter() - start


def time_decode(model, prompts, count):
    """Seconds of `count` calls with one token of each sequence; the sequences' lengths differ."""
    longest = max(len(prompt) for prompt in prompts)
    cache = torch_decoder.Cache(model.config, len(prompts), longest + count)
    lengths, logits = [], []
    for b, prompt in enumerate(prompts):
        one = torch_decoder.Cache(model.config, 1, len(prompt))
        logits.append(model.forward(prompt[None], one))
        lengths.append(len(prompt))
        for n in range(model.config["layers"]):
            cache.keys[n][b, :, : len(prompt)] = one.keys[n][0]
            cache.values[n][b, :, : len(prompt)] = one.values[n][0]
    cache.lengths = lengths
    logits = torch.cat(logits)
    start = time.perf_counter()
    for _ in range(count):
        logits = model.forward(logits.argmax(dim=-1)[:, None], cache)
    return time.perf_counter() - start


def time_torch(model, prompts, long_prompt, threads, repeat):
    """As `mha_decoder time`: seconds by what was measured."""
    torch.set_num_threads(threads)
    longest = max(prompts, key=len)
    measure = {
        "prefill": lambda: time_prefill(model, long_prompt),
        "decode_1": lambda: time_decode(model, [longest], COUNT - 1),
        "decode_8": lambda: time_decode(model, prompts, COUNT - 1),
    }
    seconds = {name: [] for name in measure}
    for run in range(-1, repeat):
        for name, once in measure.items():
            progress(f"torch: {MEASURED[name]}, run {run + 1} of {repeat}" if run >= 0 else "torch: warming up")
            taken = once()
            if run >= 0:
                seconds[name].append(taken)
    progress("")
    return seconds


def print_times(arguments, model, prompts, expected, threads):
    mha, beside, report = {name: [] for name in MEASURED}, {name: [] for name in MEASURED}, None
    # In turns, so that what else the machine does meanwhile meets both.
    for _ in range(ROUNDS):
        report = run_mha(arguments, "time", "--threads", threads, "--repeat", arguments.repeat)
        seconds = time_torch(model, prompts, expected["long_prompt"], threads, arguments.repeat)
        for name in MEASURED:
            mha[name] += report["seconds"][name]
            beside[name] += seconds[name]
    print(f"\ntokens per second, threads: {threads}; median (best) of {len(mha['prefill'])} warm runs, in turns")
    print(f"  {'':22}{'mha (' + report['target'] + ')':>20}{'torch ' + torch.__version__:>20}   mha / torch")
    for name, what in MEASURED.items():
        tokens, cells, medians = report["tokens"][name], [], []
        for seconds in (mha[name], beside[name]):
            medians.append(tokens / statistics.median(seconds))
            cells.append(f"{medians[-1]:.0f} ({tokens / min(seconds):.0f})")
        print(f"  {what:22}{cells[0]:>20}{cells[1]:>20}   {medians[0] / medians[1]:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decoder", type=pathlib.Path, required=True, help="the mha_decoder program")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for weights and torch's results")
    parser.add_argument("--threads", type=int, nargs="*", help="thread counts to time (default: 1 and the CPUs allowed)")
    parser.add_argument("--target", help="instruction-set target of the library (default: the best)")
    parser.add_argument("--repeat", type=int, default=2, help="timed runs in each of 3 rounds; 0: no times")
    parser.add_argument("--format", help="compare caches of this format with floats, or of `all` formats")
    arguments = parser.parse_args()
    cpus = len(os.sched_getaffinity(0))
    threads = arguments.threads or sorted({1, min(2, cpus), cpus})
    torch.set_num_threads(threads[-1])
    arguments.work.mkdir(parents=True, exist_ok=True)

    model, prompts, expected = make(arguments.work)
    good = describe(expected)
    if arguments.format:
        chosen = [] if arguments.format == "all" else ["--format", arguments.format]
        report = run_mha(arguments, "formats", "--threads", threads[-1], *chosen, OMP_WAIT_POLICY="passive")
        for n, row in enumerate(report["formats"]):
            if row["name"] == "bf16_arithmetic":
                report["formats"].insert(n + 1, torch_bf16(model.weights, prompts, expected))
                break
        good = print_formats(report) and good
        print("\neverything agrees" if good else "\nSOMETHING DIFFERS")
        sys.exit(0 if good else 1)
    # Not timed: threads that sleep while they wait, so that other work on the machine does not hold up each barrier.
    report = run_mha(arguments, "check", "--threads", threads[-1], OMP_WAIT_POLICY="passive")
    good = print_checks(report) and good
    if arguments.repeat > 0:
        for count in threads:
            print_times(arguments, model, prompts, expected, count)
    print("\neverything agrees" if good else "\nSOMETHING DIFFERS")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
