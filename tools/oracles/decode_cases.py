# SPDX-License-Identifier: Apache-2.0
"""Golden cases of decoding: onnxruntime's GroupQueryAttention (com.microsoft) over several steps with a growing cache.

onnxruntime has float32 kernels only, so what is stored is plain maths in float64 (`exact`), proven to be what
onnxruntime computes: each step's output, and the keys and values in its cache, agree within BOUND. Its conventions:
tensors are [B, T, H * D], a cache is [B, Hkv, capacity, D] with rotated keys; local_window_size n leaves a query the n
keys up to its own; the bias is added to the scaled score after softcap; a head's sink is one more logit of its softmax,
smooth_softmax is a sink of 0. Its CPU kernel does all of this but the RMS norm of queries and keys, which it refuses:
there torch's rms_norm is applied before.
"""

import math
import zlib

import numpy
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper

BOUND = 2e-6  # of onnxruntime's float32 to float64: largest measured 7.7e-7
NORM_EPSILON = 1e-6


def case(name, steps, **options):
    """One case. steps: the number of new tokens of each item, step by step (0: idle); items of equal lengths go through
    the operator's plain form, others as right-padded chunks (query_seqlens). options: num_heads, num_kv_heads, head_dim,
    scale (0: 1/sqrt(D)), rope ("", "half", "interleaved"), rope_dims, rope_base, positions (whether they are given,
    token by token, with gaps), norm (RMS norm of queries and keys before rotation), window, softcap, smooth, sinks (a
    learned logit per head), bias (an additive mask per item and head), causal."""
    head_dim = options.get("head_dim", 16 if "rope" in options else 8)  # onnxruntime rotates multiples of 16 only
    return {
        "name": name,
        "steps": steps,
        "num_heads": options.get("num_heads", 4),
        "num_kv_heads": options.get("num_kv_heads", 2),
        "head_dim": head_dim,
        "scale": options.get("scale", 0.0),
        "rope": options.get("rope", ""),
        "rope_dims": options.get("rope_dims", head_dim),
        "rope_base": options.get("rope_base", 10000.0),
        "positions": options.get("positions", False),
        "norm": options.get("norm", False),
        "window": options.get("window", 0),
        "softcap": options.get("softcap", 0.0),
        "smooth": options.get("smooth", False),
        "sinks": options.get("sinks", False),
        "bias": options.get("bias", False),
        "causal": options.get("causal", True),
    }


PREFILL_AND_DECODE = [[6, 6], [1, 1], [1, 1], [1, 1]]
PIECES = [[5], [4], [1], [3], [1]]
RAGGED = [[5, 2], [1, 3], [1, 0], [2, 4], [1, 1]]

CASES = [
    case("plain", PREFILL_AND_DECODE),
    case("mha_d24", PREFILL_AND_DECODE, num_heads=2, num_kv_heads=2, head_dim=24),
    case("pieces", PIECES),
    case("ragged", RAGGED),
    case("scale", PREFILL_AND_DECODE, scale=0.5),
    case("rope_half", PREFILL_AND_DECODE, rope="half"),
    case("rope_interleaved", PREFILL_AND_DECODE, rope="interleaved"),
    case("rope_base", PIECES, rope="half", rope_base=500000.0),
    case("rope_partial", PREFILL_AND_DECODE, rope="half", rope_dims=16, head_dim=32, num_heads=2, num_kv_heads=1),
    case("rope_partial_interleaved", PIECES, rope="interleaved", rope_dims=16, head_dim=32, num_heads=2),
    case("rope_positions", PIECES, rope="half", positions=True),
    case("rope_ragged", RAGGED, rope="half"),
    case("norm_rope", PREFILL_AND_DECODE, rope="half", norm=True),
    case("window", PIECES, window=4),
    case("window_ragged_rope", RAGGED, window=3, rope="interleaved"),
    case("softcap", PREFILL_AND_DECODE, softcap=1.5),
    case("smooth_softmax", PREFILL_AND_DECODE, smooth=True),
    case("sinks", RAGGED, sinks=True),
    case("bias", PREFILL_AND_DECODE, bias=True),
    case("softcap_bias", PIECES, bias=True, softcap=2.0),
    case("everything", RAGGED, rope="half", window=5, softcap=3.0, sinks=True, scale=0.4),
    case("not_causal", [[7, 7]], causal=False),
    case("two_chunks", [[254], [1], [1], [1], [1], [4], [1]], num_heads=2, num_kv_heads=1, head_dim=8, window=250),
]


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float32)


def inputs_of(c):
    """Tokens in the order in which they come, step by step and item by item in each: query [N, H, D], key and value
    [N, Hkv, D]; positions [N]; sinks [H]; bias [B, H, tokens, tokens]."""
    generator = torch.Generator().manual_seed(zlib.crc32(c["name"].encode()))
    tokens = sum(sum(step) for step in c["steps"])
    totals = [sum(column) for column in zip(*c["steps"])]
    own = {
        "query": 2 * normal(generator, tokens, c["num_heads"], c["head_dim"]),
        "key": normal(generator, tokens, c["num_kv_heads"], c["head_dim"]),
        "value": normal(generator, tokens, c["num_kv_heads"], c["head_dim"]),
    }
    if c["positions"]:
        # Of the one item. onnxruntime takes only the first number of a prompt's positions and counts on from it.
        gaps = torch.randint(1, 4, (tokens,), generator=generator)
        gaps[1 : c["steps"][0][0]] = 1
        own["positions"] = gaps.cumsum(0)
    if c["norm"]:
        own["query_norm"] = 1 + 0.2 * normal(generator, c["head_dim"])
        own["key_norm"] = 1 + 0.2 * normal(generator, c["head_dim"])
    if c["sinks"]:
        own["sinks"] = normal(generator, c["num_heads"])
    if c["bias"]:
        own["bias"] = normal(generator, len(totals), c["num_heads"], max(totals), max(totals))
    return own


def rope_tables(c, positions):
    """cos and sin [positions, dims / 2], computed in float64, rounded to float32."""
    half = c["rope_dims"] // 2
    frequencies = c["rope_base"] ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * frequencies
    return angles.cos().float(), angles.sin().float()


def rotate(c, x, positions):
    """x [T, heads, D] in float64 at positions [T]."""
    if not c["rope"]:
        return x
    cos, sin = (table.double()[positions][:, None] for table in rope_tables(c, int(positions.max()) + 1))
    turned, rest = x[..., : c["rope_dims"]], x[..., c["rope_dims"] :]
    if c["rope"] == "half":
        first, second = turned.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
    first, second = turned[..., 0::2], turned[..., 1::2]
    pairs = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([pairs.flatten(-2), rest], dim=-1)


def normed(c, own, dtype):
    """(query, key) as they are before rotation."""
    query, key = own["query"].to(dtype), own["key"].to(dtype)
    if not c["norm"]:
        return query, key
    width = (c["head_dim"],)
    return (
        F.rms_norm(query, width, own["query_norm"].to(dtype), NORM_EPSILON),
        F.rms_norm(key, width, own["key_norm"].to(dtype), NORM_EPSILON),
    )


def attend(c, query, keys, values, bias, sinks):
    """query [T, H, D] at the end of keys [L, Hkv, D] -> [T, H, D], all in float64; bias [H, T, L]."""
    group, length, total = c["num_heads"] // c["num_kv_heads"], query.shape[0], keys.shape[0]
    keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
    scores = torch.einsum("thd,lhd->htl", query, keys) * (c["scale"] or 1 / math.sqrt(c["head_dim"]))
    if c["softcap"] > 0:
        scores = c["softcap"] * torch.tanh(scores / c["softcap"])
    if bias is not None:
        scores = scores + bias
    own = torch.arange(total - length, total)[:, None]
    key = torch.arange(total)[None, :]
    if c["causal"]:
        scores = scores.masked_fill(key > own, -math.inf)
    if c["window"] > 0:
        scores = scores.masked_fill(key <= own - c["window"], -math.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks[:, None, None].expand(-1, length, 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., :total]
    return torch.einsum("htl,lhd->thd", weights, values)


def exact(c, own):
    """Plain maths: (outputs of each step and item, keys and values of each item's cache at the end)."""
    batch = len(c["steps"][0])
    keys, values = [[] for _ in range(batch)], [[] for _ in range(batch)]
    outputs, at = [], 0
    queries, all_keys = normed(c, own, torch.float64)
    sinks = own["sinks"].double() if c["sinks"] else None
    if c["smooth"]:
        sinks = torch.zeros(c["num_heads"], dtype=torch.float64)
    for step in c["steps"]:
        outputs.append([])
        for b, count in enumerate(step):
            new = slice(at, at + count)
            at += count
            begin = sum(len(part) for part in keys[b])
            positions = own["positions"][new] if c["positions"] else torch.arange(begin, begin + count)
            if count == 0:
                outputs[-1].append(torch.zeros(0, c["num_heads"], c["head_dim"], dtype=torch.float64))
                continue
            keys[b].append(rotate(c, all_keys[new], positions))
            values[b].append(own["value"][new].double())
            query = rotate(c, queries[new], positions)
            end = begin + count
            bias = own["bias"][b, :, begin:end, :end].double() if c["bias"] else None
            outputs[-1].append(attend(c, query, torch.cat(keys[b]), torch.cat(values[b]), bias, sinks))
    return outputs, [torch.cat(part) for part in keys], [torch.cat(part) for part in values]


INPUTS = (
    "query key value past_key past_value seqlens_k total_sequence_length cos_cache sin_cache position_ids attention_bias"
    " head_sink k_scale v_scale q_norm_weight k_norm_weight query_seqlens"
).split()


def session_of(c, given):
    """The operator alone, with those of its inputs that are given."""
    attributes = {
        "num_heads": c["num_heads"],
        "kv_num_heads": c["num_kv_heads"],
        "scale": c["scale"] or 1 / math.sqrt(c["head_dim"]),
        "local_window_size": c["window"] or -1,
        "softcap": c["softcap"],
        "do_rotary": int(bool(c["rope"])),
        "rotary_interleaved": int(c["rope"] == "interleaved"),
        "smooth_softmax": int(c["smooth"]),
        "causal": int(c["causal"]),
    }
    names = [name if name in given else "" for name in INPUTS]
    while not names[-1]:
        names.pop()
    results = ["output", "present_key", "present_value"]
    node = helper.make_node("GroupQueryAttention", names, results, domain="com.microsoft", **attributes)
    types = {numpy.dtype("float32"): TensorProto.FLOAT, numpy.dtype("int32"): TensorProto.INT32}
    types[numpy.dtype("int64")] = TensorProto.INT64
    values = [helper.make_tensor_value_info(name, types[array.dtype], array.shape) for name, array in given.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results]
    graph = helper.make_graph([node], "gqa", values, outputs)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def padded(parts, length):
    """[T_b, heads, D] of each item -> [B, length, heads * D], right-padded with 99, which must not matter."""
    rows = torch.full((len(parts), length, parts[0][0].numel() if len(parts[0]) else parts[1][0].numel()), 99.0)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part.flatten(1)
    return rows.numpy()


def onnxruntime_run(c, own):
    """As `exact`, by onnxruntime in float32."""
    batch, heads, width = len(c["steps"][0]), c["num_heads"], c["head_dim"]
    totals = [sum(column) for column in zip(*c["steps"])]
    is_ragged = any(len(set(step)) > 1 for step in c["steps"])
    capacity = max(totals) + max(max(step) for step in c["steps"]) if is_ragged else 0
    past = [numpy.zeros((batch, c["num_kv_heads"], capacity, width), numpy.float32) for _ in range(2)]
    new = dict(zip(("query", "key"), normed(c, own, torch.float32)), value=own["value"])
    outputs, lengths, at = [], [0] * batch, 0
    for step in c["steps"]:
        begins = numpy.cumsum([at] + step).tolist()
        at, longest = begins[-1], max(step)
        given = {
            name: padded([rows[a:b] for a, b in zip(begins, begins[1:])], longest) for name, rows in new.items()
        }
        starts, lengths = lengths, [a + b for a, b in zip(lengths, step)]
        total = capacity or max(lengths)
        given |= {"past_key": past[0], "past_value": past[1]}
        given["seqlens_k"] = numpy.array(lengths, numpy.int32) - 1
        given["total_sequence_length"] = numpy.array(total, numpy.int32)
        if c["rope"]:
            rows = int(own["positions"].max()) + 1 if c["positions"] else total
            given["cos_cache"], given["sin_cache"] = (table.numpy() for table in rope_tables(c, rows))
        if c["positions"]:
            given["position_ids"] = own["positions"][None, begins[0] : begins[1]].numpy()
        if c["bias"]:
            given["attention_bias"] = own["bias"][:, :, starts[0] : lengths[0], :total].contiguous().numpy()
        if c["sinks"]:
            given["head_sink"] = own["sinks"].numpy()
        if is_ragged:
            given["query_seqlens"] = numpy.array(step, numpy.int32)
        output, *past = session_of(c, given).run(None, given)
        outputs.append([torch.from_numpy(output[b, :count]).unflatten(1, (heads, width)) for b, count in enumerate(step)])
    present = [[torch.from_numpy(part[b, :, :n]).transpose(0, 1) for b, n in enumerate(lengths)] for part in past]
    return outputs, present[0], present[1]


def distance(a, b):
    return (a - b).abs().max().item() if a.numel() else 0.0


def golden():
    """(tensors by "case/name", cases). Besides the inputs: output [N, H, D] in the order of the tokens; stored_key
    [N, Hkv, D] item after item, where it is not the key itself."""
    tensors, cases = {}, []
    for c in CASES:
        own = inputs_of(c)
        outputs, keys, values = exact(c, own)
        other_outputs, other_keys, other_values = onnxruntime_run(c, own)
        difference = max(distance(a, b) for row, other in zip(outputs, other_outputs) for a, b in zip(row, other))
        for b in range(len(keys)):
            difference = max(difference, distance(keys[b], other_keys[b]), distance(values[b], other_values[b]))
        assert difference <= BOUND, f"{c['name']}: onnxruntime is {difference:.2g} from plain maths"
        own["output"] = torch.cat([torch.cat(row) for row in outputs]).float()
        if c["rope"] or c["norm"]:
            own["stored_key"] = torch.cat(keys).float()  # item after item
        tensors.update({f"{c['name']}/{name}": tensor for name, tensor in own.items()})
        cases.append({**c, "norm_epsilon": NORM_EPSILON, "onnxruntime_float32_difference": difference})
    return tensors, cases
