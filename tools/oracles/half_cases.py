# SPDX-License-Identifier: Apache-2.0
"""Golden cases of float16 and bfloat16: scaled_dot_product_attention, nn.MultiheadAttention and nn.Linear.

Inputs and parameters are stored in the case's dtype. `torch_output` is torch's result in that dtype on the CPU, `exact`
the float64 result over the stored numbers: what the test compares is the error of the one and of the library, each
against `exact`. torch's conventions are those of attention_cases.py and layer_cases.py; no case has a row that sees
nothing.
"""

import zlib

import torch
import torch.nn as nn
import torch.nn.functional as F

DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}


def attention(name, batch, num_heads, query_len, key_len, head_dim, **options):
    """options: num_kv_heads, causal (top left), mask (an additive mask of the case's dtype for each item, of which one
    entry in five is -inf), magnitude of the queries."""
    return {
        "kind": "attention",
        "name": name,
        "batch": batch,
        "num_heads": num_heads,
        "num_kv_heads": options.get("num_kv_heads", num_heads),
        "query_len": query_len,
        "key_len": key_len,
        "head_dim": head_dim,
        "causal": options.get("causal", False),
        "mask": options.get("mask", False),
        "magnitude": options.get("magnitude", 1.0),
    }


def layer(name, batch, query_len, embed_dim, num_heads, **options):
    """options: key_len (given: key and value are tensors of their own), bias, causal."""
    return {
        "kind": "layer",
        "name": name,
        "batch": batch,
        "query_len": query_len,
        "key_len": options.get("key_len", query_len),
        "cross": "key_len" in options,
        "embed_dim": embed_dim,
        "num_heads": num_heads,
        "bias": options.get("bias", True),
        "causal": options.get("causal", False),
    }


def linear(name, rows, in_features, out_features, bias=True):
    return {
        "kind": "linear",
        "name": name,
        "rows": rows,
        "in_features": in_features,
        "out_features": out_features,
        "bias": bias,
    }


CASES = [
    attention("plain", 1, 1, 20, 33, 28),
    attention("plain_d64", 1, 1, 8, 20, 64),
    attention("two_chunks", 1, 1, 6, 270, 8),
    attention("one_query", 1, 2, 1, 60, 16),
    attention("sharp", 1, 1, 16, 40, 20, magnitude=6.0),
    attention("causal", 1, 2, 20, 20, 16, causal=True),
    attention("mask", 2, 2, 8, 33, 10, mask=True),
    attention("gqa", 1, 6, 6, 20, 16, num_kv_heads=2),
    attention("gqa_causal", 1, 4, 16, 16, 8, num_kv_heads=1, causal=True),
    layer("layer_self", 2, 7, 24, 4),
    layer("layer_self_without_bias", 1, 9, 18, 3, bias=False),
    layer("layer_cross", 2, 5, 20, 2, key_len=17),
    layer("layer_causal", 1, 12, 20, 4, causal=True),
    linear("linear", 9, 64, 24),
    linear("linear_without_bias", 4, 300, 8, bias=False),
    linear("linear_deep", 4, 1030, 2),
]


def as_dtype(tensors, dtype):
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def attention_inputs(c, draw):
    heads, kv_heads, width = c["num_heads"], c["num_kv_heads"], c["head_dim"]
    own = {
        "query": c["magnitude"] * draw(c["batch"], heads, c["query_len"], width),
        "key": draw(c["batch"], kv_heads, c["key_len"], width),
        "value": draw(c["batch"], kv_heads, c["key_len"], width),
    }
    if c["mask"]:
        own["mask"] = draw(c["batch"], 1, c["query_len"], c["key_len"])
        own["mask"][..., 1:][own["mask"][..., 1:] < -0.84] = float("-inf")
    return own


def run_attention(c, own):
    return F.scaled_dot_product_attention(
        own["query"],
        own["key"],
        own["value"],
        attn_mask=own.get("mask"),
        is_causal=c["causal"],
        enable_gqa=c["num_kv_heads"] != c["num_heads"],
    )


def layer_inputs(c, draw):
    width = c["embed_dim"]
    own = {
        "in_proj_weight": draw(3 * width, width) / width**0.5,
        "out_proj.weight": draw(width, width) / width**0.5,
        "query": draw(c["batch"], c["query_len"], width),
    }
    if c["bias"]:
        own["in_proj_bias"], own["out_proj.bias"] = draw(3 * width), draw(width)
    if c["cross"]:
        own["key"], own["value"] = draw(c["batch"], c["key_len"], width), draw(c["batch"], c["key_len"], width)
    return own


def run_layer(c, own):
    dtype = own["query"].dtype
    module = nn.MultiheadAttention(c["embed_dim"], c["num_heads"], bias=c["bias"], batch_first=True, dtype=dtype).eval()
    module.load_state_dict({name: tensor for name, tensor in own.items() if "proj" in name})
    mask = nn.Transformer.generate_square_subsequent_mask(c["query_len"], dtype=dtype) if c["causal"] else None
    key, value = own.get("key", own["query"]), own.get("value", own["query"])
    return module(own["query"], key, value, attn_mask=mask, is_causal=c["causal"], need_weights=False)[0]


def linear_inputs(c, draw):
    own = {
        "input": draw(c["rows"], c["in_features"]),
        "weight": draw(c["out_features"], c["in_features"]) / c["in_features"] ** 0.5,
    }
    if c["bias"]:
        own["bias"] = draw(c["out_features"])
    return own


def run_linear(c, own):
    return F.linear(own["input"], own["weight"], own.get("bias"))


KINDS = {
    "attention": (attention_inputs, run_attention),
    "layer": (layer_inputs, run_layer),
    "linear": (linear_inputs, run_linear),
}


def golden():
    """(tensors by "case/name", cases)"""
    tensors, cases = {}, []
    for c in CASES:
        for short, dtype in DTYPES.items():
            name = f"{c['name']}_{short}"
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            inputs, run = KINDS[c["kind"]]
            own = as_dtype(inputs(c, lambda *shape: torch.randn(*shape, generator=generator)), dtype)
            exact, single = run(c, as_dtype(own, torch.float64)), run(c, as_dtype(own, torch.float32))
            own["torch_output"], own["exact"] = run(c, own), exact
            assert own["torch_output"].dtype == dtype and exact.isfinite().all(), name
            difference = (exact - single).abs().max().item()
            assert difference < 1e-5, f"{name}: torch's float32 and float64 differ by {difference}"
            tensors.update({f"{name}/{key}": tensor for key, tensor in own.items()})
            cases.append({**c, "name": name, "dtype": short, "torch_float32_difference": difference})
    return tensors, cases
