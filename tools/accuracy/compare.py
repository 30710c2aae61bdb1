# SPDX-License-Identifier: Apache-2.0
"""The error of keys, and of attention over keys and values, that are stored in fewer bits. Prints a table in markdown.

    compare.py --library libmha.so --model DIR     (PYTHONPATH: bench/peers and tools/demo_model)
"""

import argparse
import ctypes
import json
import pathlib
from ctypes import addressof, byref

import numpy as np
import safetensors.torch
import tokenizers
import torch
import torch.nn.functional as F

import torch_bert
from libmha import STRUCTS, Library

F32, F16, BF16, I8, U8, I4, U4 = range(7)
ZERO = {I8: 0, U8: 128, I4: 0, U4: 8}
SENTENCES = pathlib.Path(__file__).resolve().parents[1] / "demo_model" / "sentences.txt"
Storage, Quant, RowsArgs = STRUCTS["mha_storage"], STRUCTS["mha_quant"], STRUCTS["mha_rows_args"]


# --- Ways to store rows [T, H, D]: each returns what is read back -----------------------------------------------------


def widened_halves(stored, dtype):
    if dtype == F16:
        return stored.view(np.float16).astype(np.float32)
    return (stored.astype(np.uint32) << 16).view(np.float32)


def hadamard(rows):
    """Rows of 2^n elements, each rotated by the Walsh-Hadamard matrix, which is its own inverse."""
    width = rows.shape[-1]
    matrix = np.ones((1, 1))
    while len(matrix) < width:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (rows @ (matrix / np.sqrt(width))).astype(np.float32)


def store(library, rows, dtype, group=0, scale_dtype=F32, zeros=False, fixed=None, rotated=False):
    """By mha_rows_prepare. fixed: scales [H, D], of channels."""
    tokens, heads, width = rows.shape
    rows = np.ascontiguousarray(rows, np.float32)
    args = RowsArgs(batch=1, length=tokens, num_heads=heads, head_dim=width)
    args.input.data, args.output.dtype = rows.ctypes.data, dtype
    if dtype in (F16, BF16):
        stored = np.zeros(rows.shape, np.uint16)
        args.output.data = stored.ctypes.data
        library.call("mha_rows_prepare", library.context, byref(args))
        return widened_halves(stored, dtype)
    nibbles = dtype in (I4, U4)
    stored = np.zeros((tokens, heads, width // 2 if nibbles else width), np.uint8)
    groups = width // group if group else 1
    storage = Storage(dtype=dtype, group=group, scale_dtype=scale_dtype, zero_points=int(zeros),
                      hadamard=int(rotated))  # fmt: skip
    args.output.data, args.storage = stored.ctypes.data, addressof(storage)
    if fixed is not None:
        scales = np.ascontiguousarray(fixed, np.float32)
        quant = Quant(scales=scales.ctypes.data, group=1, stride_h=width, stride_d=1)
        storage.fixed = addressof(quant)
        scale, zero = scales[None], ZERO[dtype]
    else:
        scales = np.zeros((tokens, heads, groups), np.float32 if scale_dtype == F32 else np.uint16)
        points = np.zeros((tokens, heads, groups), np.uint8 if dtype in (U8, U4) else np.int8)
        args.scales = scales.ctypes.data
        if zeros:
            args.zeros = points.ctypes.data
    library.call("mha_rows_prepare", library.context, byref(args))
    if fixed is None:
        scale = scales if scale_dtype == F32 else widened_halves(scales, scale_dtype)
        scale = np.repeat(scale, width // groups, axis=2)
        zero = np.repeat(points.astype(np.float32), width // groups, axis=2) if zeros else ZERO[dtype]
    if nibbles:
        codes = np.stack([stored & 15, stored >> 4], axis=-1).reshape(tokens, heads, width).astype(np.float32)
        codes -= 8 if dtype == I4 else 0
    else:
        codes = (stored.view(np.int8) if dtype == I8 else stored).astype(np.float32)
    return hadamard(scale * (codes - zero)) if rotated else scale * (codes - zero)


def blocks_of_32(rows):
    return rows.reshape(-1, 32)


def ggml_q8_0(rows):
    blocks = blocks_of_32(rows)
    scale = (np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)).astype(np.float32)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    product = blocks * inverse
    codes = np.sign(product) * np.floor(np.abs(product) + np.float32(0.5))  # C's roundf
    return (codes * scale.astype(np.float16).astype(np.float32)).reshape(rows.shape)


def ggml_q4_0(rows):
    blocks = blocks_of_32(rows)
    greatest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    scale = greatest / np.float32(-8)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
    codes = np.minimum(15, np.trunc(blocks * inverse + np.float32(8.5)))
    return ((codes - 8) * scale.astype(np.float16).astype(np.float32)).reshape(rows.shape)


def by_channel(library, rows, dtype):
    return store(library, rows, dtype, fixed=np.abs(rows).max(axis=0) / (127 if dtype == I8 else 7))


def formats(library):
    """Name, bits of an element with its share of the scale where a row has 128, and the way."""
    return [
        ("f16", 16, lambda rows: store(library, rows, F16)),
        ("bf16", 16, lambda rows: store(library, rows, BF16)),
        ("int8, a scale for each row", 8.25, lambda rows: store(library, rows, I8)),
        ("int8, f16 scales of 32", 8.5, lambda rows: store(library, rows, I8, 32, F16)),
        ("uint8 with a zero for each row", 8.31, lambda rows: store(library, rows, U8, zeros=True)),
        ("ggml q8_0", 8.5, ggml_q8_0),
        ("ONNX Runtime int8, of channels", 8, lambda rows: by_channel(library, rows, I8)),
        ("int8, a scale for each row, rotated", 8.25, lambda rows: store(library, rows, I8, rotated=True)),
        ("int4, f16 scales of 32", 4.5, lambda rows: store(library, rows, I4, 32, F16)),
        ("int4, f16 scales of 32, rotated", 4.5, lambda rows: store(library, rows, I4, 32, F16, rotated=True)),
        ("uint4 with zeros, f16 scales of 32", 4.75, lambda rows: store(library, rows, U4, 32, F16, zeros=True)),
        ("ggml q4_0", 4.5, ggml_q4_0),
        ("ONNX Runtime int4, of channels", 4, lambda rows: by_channel(library, rows, I4)),
    ]


# --- Data: pieces of (queries, keys, values), [T, H, D] each ----------------------------------------------------------


def gaussian(outliers):
    generator = np.random.default_rng(20261127)
    query, key, value = (generator.standard_normal((512, 8, 128)).astype(np.float32) for _ in range(3))
    if outliers:
        key[:, :, [5, 37, 70, 101]] *= 20
        query[:, :, [5, 37, 70, 101]] /= 20
        value[:, :, [11, 90]] *= 20
    return [(query, key, value)]


class Watched(torch_bert.TorchBert):
    """Keeps what each layer's attention is given."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.pieces = []

    def attention(self, x, name, mask):
        parts = [self.linear(x, f"{name}.self.{part}").unflatten(-1, (self.heads, -1))[0] for part in ("query", "key", "value")]
        self.pieces.append(tuple(part.numpy() for part in parts))
        return super().attention(x, name, mask)


def minilm(model):
    config = json.loads((model / "config.json").read_text())
    watched = Watched(safetensors.torch.load_file(model / "model.safetensors"), config)
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding(), tokenizer.no_truncation()
    ids = tokenizer.encode(" ".join(SENTENCES.read_text().split("\n"))).ids[:512]
    watched.encode(torch.tensor([ids]), torch.tensor([len(ids)]))
    return watched.pieces


# --- Errors ------------------------------------------------------------------------------------------------------------


def attention(query, key, value):
    parts = [torch.from_numpy(np.ascontiguousarray(part)).double().transpose(0, 1) for part in (query, key, value)]
    return F.scaled_dot_product_attention(*parts).numpy()


def relative(got, want):
    return np.square(got.astype(np.float64) - want).sum(), np.square(want.astype(np.float64)).sum()


def errors(pieces, way):
    """Root mean square of the error, relative, of keys and of the result of attention."""
    sums = np.zeros(4)
    for query, key, value in pieces:
        kept = way(key), way(value)
        sums += [*relative(kept[0], key), *relative(attention(query, *kept), attention(query, key, value))]
    return [(sums[0] / sums[1]) ** 0.5, (sums[2] / sums[3]) ** 0.5]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    library = Library(arguments.library, 0)
    data = [gaussian(False), gaussian(True), minilm(arguments.model)]
    print("| stored as | bits | gaussian: keys | attention | outlier channels: keys | attention | MiniLM: keys | attention |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, bits, way in formats(library):
        cells = [f"{error:.1e}" for pieces in data for error in errors(pieces, way)]
        print(f"| {name} | {bits:g} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
