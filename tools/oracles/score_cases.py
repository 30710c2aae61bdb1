# SPDX-License-Identifier: Apache-2.0
"""Golden cases of structured masks and score modifications: windows, prefixes, segments, blocks, bits; softcap, ALiBi,
T5's relative bias, attention sinks.

Each result is made twice: by torch's flex_attention, whose mask_mod and score_mod say the rule for one (query, key),
and by plain tensor operations. Sinks have no place in flex_attention: they are one more column of the softmax, as in
gpt-oss. T5's buckets are those of transformers' T5Attention._relative_position_bucket, written down here as it is
there. Query i stands at position p = i + offset; offset is Tk - Tq unless the case gives one. Tensors are [B, H, T, D].
"""

import math
import warnings
import zlib

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention


def case(name, query_len, key_len, **options):
    """One case. options: batch, num_heads, num_kv_heads, head_dim; causal, offset (None: Tk - Tq), window_left,
    window_right, sink_tokens, prefix (a list, one an item), segments (how many), blocks ([query_block, key_block]),
    bits; softcap, alibi, sinks, t5 ([num_buckets, max_distance, bidirectional])."""
    defaults = {"batch": 2, "num_heads": 2, "num_kv_heads": 2, "head_dim": 8, "causal": False, "offset": None}
    defaults.update({"window_left": 0, "window_right": 0, "sink_tokens": 0, "prefix": [], "segments": 0})
    defaults.update({"blocks": [], "bits": False, "softcap": 0.0, "alibi": False, "sinks": False, "t5": []})
    assert options.keys() <= defaults.keys()
    return {"name": name, "query_len": query_len, "key_len": key_len, **defaults, **options}


CASES = [
    case("window", 9, 9, causal=True, window_left=4),
    case("window_both_sides", 7, 11, window_left=3, window_right=2),
    case("window_offset", 6, 12, causal=True, offset=3, window_left=2),
    case("window_chunks", 3, 700, causal=True, window_left=300, batch=1, num_kv_heads=1, head_dim=2),
    case("window_sink_tokens", 3, 700, causal=True, window_left=100, sink_tokens=5, batch=1, num_kv_heads=1,
         head_dim=2),
    case("prefix", 8, 8, causal=True, prefix=[5, 0]),
    case("segments", 10, 10, causal=True, segments=3),
    case("segments_cross", 6, 13, segments=2),
    case("blocks", 12, 20, blocks=[4, 3]),
    case("bits", 5, 21, bits=True),
    case("softcap", 6, 9, softcap=2.0),
    case("softcap_gqa_window", 6, 40, num_heads=4, causal=True, window_left=16, softcap=20.0),
    case("alibi", 8, 8, causal=True, alibi=True),
    case("alibi_both_sides", 5, 12, num_heads=4, alibi=True),
    case("t5_bidirectional", 5, 30, t5=[8, 20, True]),
    case("t5_causal", 40, 40, causal=True, batch=1, t5=[8, 20, False], head_dim=4),
    case("t5_small", 3, 300, t5=[32, 128, True], batch=1, num_kv_heads=1, head_dim=2),
    case("sinks", 6, 9, causal=True, sinks=True),
    case("sinks_window_chunks", 2, 600, causal=True, window_left=300, sinks=True, batch=1, num_kv_heads=1, head_dim=2),
    case("everything", 20, 30, num_heads=4, causal=True, window_left=12, sink_tokens=2, prefix=[6, 25], segments=2,
         blocks=[3, 2], bits=True, softcap=3.0, alibi=True, sinks=True, t5=[8, 20, True]),
]

# T5's checkpoints use 32 buckets to a distance of 128; others end runs between two distances.
T5_TABLES = [[32, 128, True], [32, 128, False], [8, 20, True], [8, 20, False], [10, 33, True], [2, 2, False],
             [64, 1000, True], [7, 100, False]]


def relative_position_bucket(relative_position, bidirectional, num_buckets, max_distance):
    """transformers 4, modeling_t5.py, T5Attention._relative_position_bucket."""
    relative_buckets = 0
    if bidirectional:
        num_buckets //= 2
        relative_buckets += (relative_position > 0).to(torch.long) * num_buckets
        relative_position = torch.abs(relative_position)
    else:
        relative_position = -torch.min(relative_position, torch.zeros_like(relative_position))
    max_exact = num_buckets // 2
    is_small = relative_position < max_exact
    relative_position_if_large = max_exact + (
        torch.log(relative_position.float() / max_exact)
        / math.log(max_distance / max_exact)
        * (num_buckets - max_exact)
    ).to(torch.long)
    relative_position_if_large = torch.min(
        relative_position_if_large, torch.full_like(relative_position_if_large, num_buckets - 1)
    )
    relative_buckets += torch.where(is_small, relative_position, relative_position_if_large)
    return relative_buckets


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float32)


def draw(c, generator):
    """Everything a case needs but its description."""
    own = {
        "query": normal(generator, c["batch"], c["num_heads"], c["query_len"], c["head_dim"]),
        "key": normal(generator, c["batch"], c["num_kv_heads"], c["key_len"], c["head_dim"]),
        "value": normal(generator, c["batch"], c["num_kv_heads"], c["key_len"], c["head_dim"]),
    }
    if c["segments"]:
        for name, length in (("query_segments", c["query_len"]), ("key_segments", c["key_len"])):
            drawn = torch.randint(c["segments"], (c["batch"], length), generator=generator)
            own[name] = torch.sort(drawn, dim=1).values
    if c["blocks"]:
        rows, columns = -(-c["query_len"] // c["blocks"][0]), -(-c["key_len"] // c["blocks"][1])
        own["pairs"] = torch.nonzero(torch.rand(rows, columns, generator=generator) < 0.5)
    if c["bits"]:
        shape = (c["batch"], c["num_heads"], c["query_len"], c["key_len"])
        own["bits"] = torch.rand(shape, generator=generator) < 0.7
    if c["alibi"]:
        own["slopes"] = torch.tensor([2.0 ** (-8 * (h + 1) / c["num_heads"]) for h in range(c["num_heads"])])
    if c["t5"]:
        own["table"] = normal(generator, c["t5"][0], c["num_heads"])
    if c["sinks"]:
        own["sinks"] = normal(generator, c["num_heads"])
    return own


def offset_of(c):
    return c["key_len"] - c["query_len"] if c["offset"] is None else c["offset"]


def mask_mod_of(c, own):
    """The rule of one (item, head, query, key), for flex_attention."""
    prefix = torch.tensor(c["prefix"] or [0] * c["batch"])
    if c["blocks"]:
        columns = -(-c["key_len"] // c["blocks"][1])
        paired = torch.zeros(-(-c["query_len"] // c["blocks"][0]), columns, dtype=torch.bool)
        paired[own["pairs"][:, 0], own["pairs"][:, 1]] = True

    def mask_mod(b, h, i, j):
        p = i + offset_of(c)
        ahead = j < prefix[b]
        visible = (j >= 0) & (ahead | (j <= p)) if c["causal"] else j >= 0
        if c["window_right"]:
            visible = visible & (ahead | (j < p + c["window_right"]))
        if c["window_left"]:
            visible = visible & ((j > p - c["window_left"]) | (j < c["sink_tokens"]))
        if c["segments"]:
            visible = visible & (own["query_segments"][b, i] == own["key_segments"][b, j])
        if c["blocks"]:
            visible = visible & paired[i // c["blocks"][0], j // c["blocks"][1]]
        if c["bits"]:
            visible = visible & own["bits"][b, h, i, j]
        return visible

    return mask_mod


def score_mod_of(c, own, dtype):
    def score_mod(score, b, h, i, j):
        p = i + offset_of(c)
        if c["softcap"]:
            score = c["softcap"] * torch.tanh(score / c["softcap"])
        if c["alibi"]:
            score = score - own["slopes"].to(dtype)[h] * (p - j).abs()
        if c["t5"]:
            bucket = relative_position_bucket(j - p, c["t5"][2], c["t5"][0], c["t5"][1])
            score = score + own["table"].to(dtype)[bucket, h]
        return score

    return score_mod


def run(c, own, dtype):
    """output [B, H, Tq, D], weights [B, H, Tq, Tk] and log_sum_exp [B, H, Tq] by plain operations."""
    group = c["num_heads"] // c["num_kv_heads"]
    key, value = (own[name].to(dtype).repeat_interleave(group, dim=1) for name in ("key", "value"))
    scores = torch.matmul(own["query"].to(dtype), key.transpose(-2, -1)) / math.sqrt(c["head_dim"])
    b, h, i, j = torch.meshgrid(*(torch.arange(n) for n in scores.shape), indexing="ij")
    scores = score_mod_of(c, own, dtype)(scores, b, h, i, j)
    scores = scores.masked_fill(~mask_mod_of(c, own)(b, h, i, j), float("-inf"))
    columns = scores
    if c["sinks"]:
        sink = own["sinks"].to(dtype)[None, :, None, None].expand(*scores.shape[:3], 1)
        columns = torch.cat([scores, sink], dim=-1)
    log_sum_exp = torch.logsumexp(columns, dim=-1)
    seen = (scores != float("-inf")).any(dim=-1, keepdim=True)
    weights = torch.where(seen, torch.softmax(columns, dim=-1)[..., : c["key_len"]], 0)
    return {"output": torch.matmul(weights, value), "weights": weights, "log_sum_exp": log_sum_exp}


def check_with_flex(c, own, result):
    """flex_attention with the sink's share taken off afterwards gives the same."""
    mask = create_block_mask(
        mask_mod_of(c, own), c["batch"], c["num_heads"], c["query_len"], c["key_len"], device="cpu"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled
        output, lse = flex_attention(
            *(own[name].double() for name in ("query", "key", "value")),
            score_mod=score_mod_of(c, own, torch.float64),
            block_mask=mask,
            enable_gqa=c["num_kv_heads"] != c["num_heads"],
            return_lse=True,
        )
    if c["sinks"]:
        output = output * torch.sigmoid(lse - own["sinks"].double()[None, :, None])[..., None]
    seen = (result["weights"] > 0).any(dim=-1, keepdim=True)
    assert torch.allclose(torch.where(seen, output, 0).double(), result["output"], rtol=0, atol=2e-6), c["name"]


def golden():
    """(tensors by "case/name", cases)"""
    tensors, cases = {}, []
    for c in CASES:
        generator = torch.Generator().manual_seed(zlib.crc32(c["name"].encode()))
        own = draw(c, generator)
        exact, single = run(c, own, torch.float64), run(c, own, torch.float32)
        check_with_flex(c, own, exact)
        difference = (exact["output"] - single["output"]).abs().max().item()
        stored = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in own.items()}
        stored.update({name: tensor.float() for name, tensor in exact.items()})
        tensors.update({f"{c['name']}/{name}": tensor for name, tensor in stored.items()})
        cases.append({**c, "torch_float32_difference": difference})
    for num_buckets, max_distance, bidirectional in T5_TABLES:
        distances = torch.arange(-max_distance, max_distance + 1)
        name = f"t5_buckets_{num_buckets}_{max_distance}_{'both' if bidirectional else 'one'}"
        tensors[f"{name}/buckets"] = relative_position_bucket(distances, bidirectional, num_buckets, max_distance)
    return tensors, cases
