# SPDX-License-Identifier: Apache-2.0
"""Sentence embeddings of all-MiniLM-L6-v2 through the library and through PyTorch, side by side.

    compare.py --model DIR --encoder build/tools/mha_encoder --work DIR [--arithmetic bf16]

Tokenises sentences.txt, runs mha_encoder and torch on the same ids (all padded in one batch, and one by one), prints
the differences, the similarity table and tokens per second, and exits with status 1 when a bound below is missed. In
bf16 both compute in it, and both are compared with torch in float32.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import numpy
import safetensors.numpy
import safetensors.torch
import tokenizers
import torch

import torch_bert

SENTENCES = pathlib.Path(__file__).resolve().parent / "sentences.txt"
LEAST_COSINE = 0.99999
LARGEST_DIFFERENCE = 1e-5  # of one element of an embedding of length 1
LEAST_COSINE_BF16 = 0.9999
LEAST_COSINE_CODES = {"int8": 0.999, "int8_rows": 0.98, "int4": 0.93}  # of products over such weights
ROUNDS = 3
NO_FMA = {"sse2"}
MODES = {"padded": "one padded batch", "single": "one by one"}


def progress(text):
    """A line on a terminal's stderr that rewrites itself; silent elsewhere."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def tokenise(model, sentences):
    """ids [S, W] padded with 0, lengths [S]"""
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(json.loads((model / "sentence_bert_config.json").read_text())["max_seq_length"])
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(sentences)]
    lengths = numpy.array([len(ids) for ids in encoded], dtype=numpy.int64)
    ids = numpy.zeros((len(encoded), lengths.max()), dtype=numpy.int64)
    for row, tokens in zip(ids, encoded, strict=True):
        row[: len(tokens)] = tokens
    return ids, lengths


def run_mha(arguments, tokens, target, threads, repeat):
    """Embeddings by mode, and the encoder's report."""
    output = arguments.work / "embeddings.safetensors"
    command = [arguments.encoder, "--model", arguments.model, "--tokens", tokens, "--output", output]
    command += ["--threads", threads, "--repeat", repeat]
    command += ["--arithmetic", arguments.arithmetic]
    if target:
        command += ["--target", target]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return safetensors.numpy.load_file(output), json.loads(done.stdout)


def timed(what, repeat, encode, tensors):
    """The embeddings, and seconds per run after one to warm up."""
    progress(f"torch: {what}, warming up")
    embeddings, seconds = encode(*tensors), []
    for run in range(repeat):
        progress(f"torch: {what}, run {run + 1} of {repeat}")
        start = time.perf_counter()
        encode(*tensors)
        seconds.append(time.perf_counter() - start)
    progress("")
    return embeddings.numpy(), seconds


def cosines(a, b):
    a, b = a.astype(numpy.float64), b.astype(numpy.float64)
    return (a * b).sum(axis=1) / numpy.linalg.norm(a, axis=1) / numpy.linalg.norm(b, axis=1)


def difference(a, b):
    return float(numpy.abs(a.astype(numpy.float64) - b.astype(numpy.float64)).max())


def shorten(text, width):
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def print_table(sentences, lengths, mha, torch_embeddings):
    """Per sentence its tokens and 1 - cosine to torch in each mode, and then the similarities as hundredths."""
    apart = {mode: 1 - cosines(mha[mode], torch_embeddings[mode]) for mode in MODES}
    print("\n  # tokens  1 - cosine to torch    sentence\n             padded   single")
    for n, sentence in enumerate(sentences):
        distances = "  ".join(f"{abs(apart[mode][n]):7.1e}" for mode in MODES)
        print(f" {n:2d} {lengths[n]:6d}  {distances}    {shorten(sentence, 70)}")
    similarity = mha["padded"].astype(numpy.float64) @ mha["padded"].astype(numpy.float64).T
    print("\ncosine similarity in hundredths (mha)\n     " + "".join(f"{n:4d}" for n in range(len(sentences))))
    for n, row in enumerate(similarity):
        print(f"  {n:2d} " + "".join(f"{round(100 * value):4d}" for value in row))


def print_times(tokens, padded_positions, report, mha_seconds, torch_seconds):
    runs = len(torch_seconds["padded"])
    print(
        f"\ntokens per second, {report['threads']} threads, median (best) of {runs} warm runs, mha and torch in turns"
    )
    print(f"  {'':18}{'mha (' + report['target'] + ')':>22}{'torch ' + torch.__version__:>24}   mha / torch")
    for mode, what in MODES.items():
        cells, medians = [], []
        for seconds in (mha_seconds[mode], torch_seconds[mode]):
            medians.append(tokens / statistics.median(seconds))
            cells.append(f"{medians[-1]:.0f} ({tokens / min(seconds):.0f})")
        print(f"  {what:18}{cells[0]:>22}{cells[1]:>24}   {medians[0] / medians[1]:.2f}")
    print(
        f"  counted: {tokens} tokens; the padded batch holds {padded_positions} positions, and both compute all of them"
    )


def verdict(mha, torch_embeddings, exact, count):
    """Prints what was compared; True if every bound holds."""
    print()
    good = count >= 20
    for mode, what in MODES.items():
        cosine, largest = cosines(mha[mode], torch_embeddings[mode]).min(), difference(
            mha[mode], torch_embeddings[mode]
        )
        met = bool(cosine >= LEAST_COSINE and largest <= LARGEST_DIFFERENCE)
        good = good and met
        print(
            f"{what}: least cosine to torch {cosine:.9f} (bound {LEAST_COSINE}), largest difference {largest:.2e}"
            f" (bound {LARGEST_DIFFERENCE:.0e}): {'ok' if met else 'MISSED'}"
        )
    print(
        f"largest difference to torch in float64: mha {difference(mha['single'], exact):.2e},"
        f" torch float32 {difference(torch_embeddings['single'], exact):.2e}"
    )
    same = mha["padded"].tobytes() == mha["single"].tobytes()
    torch_apart = difference(torch_embeddings["padded"], torch_embeddings["single"])
    print(
        f"padded and one by one, mha: {'equal in every bit' if same else 'NOT EQUAL'}"
        f" (torch: largest difference {torch_apart:.2e})"
    )
    return good and same


def verdict_bf16(mha, torch_bf16, wanted, count):
    """Prints how far both are from torch in float32; True if mha is near enough, and nowhere further than torch."""
    print()
    good = count >= 20
    for mode, what in MODES.items():
        ours, theirs = cosines(mha[mode], wanted[mode]), cosines(torch_bf16[mode], wanted[mode])
        met = bool(ours.min() >= LEAST_COSINE_BF16 and (ours >= theirs).all())
        good = good and met
        print(
            f"{what}: least cosine to torch in float32 {ours.min():.7f} (bound {LEAST_COSINE_BF16}), torch's in bfloat16"
            f" {theirs.min():.7f}; mha is the nearer in {(ours >= theirs).sum()} of {count}: {'ok' if met else 'MISSED'}"
        )
    same = mha["padded"].tobytes() == mha["single"].tobytes()
    print(f"padded and one by one, mha: {'equal in every bit' if same else 'NOT EQUAL'}")
    return good and same


def verdict_codes(mha, wanted, arithmetic, count):
    """Prints how far weights of 8 or 4 bits are from torch in float32; True if they are near enough."""
    print()
    good, bound = count >= 20, LEAST_COSINE_CODES[arithmetic]
    for mode, what in MODES.items():
        ours = cosines(mha[mode], wanted[mode])
        met = bool(ours.min() >= bound)
        good = good and met
        print(
            f"{what}: least cosine to torch in float32 {ours.min():.6f} (bound {bound}), mean {ours.mean():.6f}:"
            f" {'ok' if met else 'MISSED'}"
        )
    same = mha["padded"].tobytes() == mha["single"].tobytes()
    print(f"padded and one by one, mha: {'equal in every bit' if same else 'NOT EQUAL'}")
    return good and same


def check_other_targets(arguments, tokens, mha, report):
    """Runs every other target on one thread; True if those with fused multiply-add give the same bits."""
    good = True
    for target in report["supported_targets"]:
        if target == report["target"] or (arguments.arithmetic != "f32" and target in NO_FMA):
            continue
        other, _ = run_mha(arguments, tokens, target, threads=1, repeat=0)
        same = all(mha[mode].tobytes() == other[mode].tobytes() for mode in MODES)
        apart = max(difference(mha[mode], other[mode]) for mode in MODES)
        exempt = NO_FMA & {target, report["target"]}
        reason = f" ({', '.join(exempt)} has no fused multiply-add)" if exempt else ""
        print(
            f"{target} on 1 thread and {report['target']} on {report['threads']}: "
            + ("equal in every bit" if same else f"largest difference {apart:.2e}{reason}")
        )
        good = good and (same or bool(exempt and apart <= LARGEST_DIFFERENCE))
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", type=pathlib.Path, required=True, help="folder with model.safetensors and tokenizer.json"
    )
    parser.add_argument("--encoder", type=pathlib.Path, required=True, help="the mha_encoder program")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for token ids and embeddings")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--target", help="instruction-set target of the library (default: the best)")
    parser.add_argument("--arithmetic", choices=("f32", "bf16", *LEAST_COSINE_CODES), default="f32")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs of each mode, in each of 3 rounds")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    sentences = SENTENCES.read_text(encoding="utf-8").splitlines()
    ids, lengths = tokenise(arguments.model, sentences)
    print(f"{len(sentences)} sentences of {lengths.min()} to {lengths.max()} tokens ([CLS] and [SEP] included)")
    arguments.work.mkdir(parents=True, exist_ok=True)
    tokens = arguments.work / "tokens.safetensors"
    safetensors.numpy.save_file({"ids": ids, "lengths": lengths}, tokens)

    config = json.loads((arguments.model / "config.json").read_text())
    weights = safetensors.torch.load_file(arguments.model / "model.safetensors")
    in_bf16 = arguments.arithmetic == "bf16"
    model = torch_bert.TorchBert(weights, config, torch.bfloat16 if in_bf16 else torch.float32)
    tensors = torch.from_numpy(ids), torch.from_numpy(lengths)
    encoders = {"padded": model.encode, "single": model.encode_one_by_one}
    torch_embeddings = {}
    mha_seconds, torch_seconds = {mode: [] for mode in MODES}, {mode: [] for mode in MODES}
    # In turns, so that what else the machine does meanwhile meets both.
    for _ in range(ROUNDS):
        mha, report = run_mha(arguments, tokens, arguments.target, arguments.threads, arguments.repeat)
        for mode in MODES:
            mha_seconds[mode] += report[f"{mode}_seconds"]
            torch_embeddings[mode], seconds = timed(MODES[mode], arguments.repeat, encoders[mode], tensors)
            torch_seconds[mode] += seconds
    floats = torch_bert.TorchBert(weights, config)
    wanted = torch_embeddings
    if in_bf16:
        wanted = {"padded": floats.encode(*tensors).numpy(), "single": floats.encode_one_by_one(*tensors).numpy()}

    print_table(sentences, lengths, mha, wanted)
    if arguments.repeat > 0:
        print_times(int(lengths.sum()), ids.size, report, mha_seconds, torch_seconds)
    if in_bf16:
        good = verdict_bf16(mha, torch_embeddings, wanted, len(sentences))
    elif arguments.arithmetic in LEAST_COSINE_CODES:
        good = verdict_codes(mha, wanted, arguments.arithmetic, len(sentences))
    else:
        exact = torch_bert.TorchBert(weights, config, torch.float64).encode_one_by_one(*tensors).numpy()
        good = verdict(mha, torch_embeddings, exact, len(sentences))
    good = check_other_targets(arguments, tokens, mha, report) and good
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
