# SPDX-License-Identifier: Apache-2.0
"""Golden cases of torch's scaled_dot_product_attention over items of unequal length, each computed on its own.

Tensors are packed, one item after the other: [T, H, D] of all items. Causal is aligned bottom right, as where queries
are the last tokens of their item: torch's is_causal where an item is square, else a boolean mask.
"""

import math
import zlib

import torch
import torch.nn.functional as F


def case(name, lengths, num_heads, num_kv_heads, head_dim, **options):
    """One case. lengths: (queries, keys) of each item. options: value_head_dim, causal."""
    return {
        "name": name,
        "lengths": lengths,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "value_head_dim": options.get("value_head_dim", head_dim),
        "causal": options.get("causal", True),
    }


CASES = [
    case("prefill", [(5, 5), (1, 1), (9, 9), (17, 17)], 4, 2, 8),
    case("decode", [(1, 6), (1, 1), (1, 40), (1, 19)], 4, 2, 16),
    case("prefill_and_decode", [(1, 21), (12, 12), (3, 10), (1, 4)], 4, 1, 20),
    case("nobody", [(0, 5), (4, 4), (0, 0), (2, 7)], 2, 2, 8),
    case("cross", [(3, 9), (6, 2), (1, 5)], 2, 1, 5, causal=False, value_head_dim=7),
    case("two_chunks", [(2, 300), (1, 3), (1, 257)], 2, 1, 4),
]


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float32)


def attend(c, query, key, value):
    """[T, heads, D] of one item -> output [Tq, H, Dv], log_sum_exp [H, Tq]."""
    length, total, dtype = query.shape[0], key.shape[0], query.dtype
    seen = torch.ones(length, total, dtype=torch.bool)
    if c["causal"]:
        seen = seen.tril(total - length)
    square = c["causal"] and length == total
    output = F.scaled_dot_product_attention(
        *(part.transpose(0, 1)[None] for part in (query, key, value)),
        attn_mask=None if square or not c["causal"] else seen,
        is_causal=square,
        enable_gqa=True,
    )[0].transpose(0, 1)
    group = c["num_heads"] // c["num_kv_heads"]
    scores = torch.einsum("thd,lhd->htl", query, key.repeat_interleave(group, dim=1)) / math.sqrt(c["head_dim"])
    scores = scores.masked_fill(~seen, -math.inf)
    log_sum_exp = torch.logsumexp(scores, dim=-1)
    again = torch.einsum("htl,lhd->thd", torch.softmax(scores, dim=-1), value.repeat_interleave(group, dim=1))
    assert torch.allclose(again, output, rtol=0, atol=1e-13 if dtype == torch.float64 else 1e-5), c["name"]
    return output, log_sum_exp


def run(c, own, dtype):
    outputs, log_sum_exps, query_at, key_at = [], [], 0, 0
    for queries, keys in c["lengths"]:
        if queries > 0:
            parts = own["query"][query_at : query_at + queries], own["key"][key_at : key_at + keys]
            output, lse = attend(c, *(part.to(dtype) for part in (*parts, own["value"][key_at : key_at + keys])))
            outputs.append(output)
            log_sum_exps.append(lse.flatten())
        query_at += queries
        key_at += keys
    return {"output": torch.cat(outputs), "log_sum_exp": torch.cat(log_sum_exps)}


def golden():
    """(tensors by "case/name", cases); log_sum_exp is [H, Tq] of each item, one after the other."""
    tensors, cases = {}, []
    for c in CASES:
        generator = torch.Generator().manual_seed(zlib.crc32(c["name"].encode()))
        queries, keys = (sum(part) for part in zip(*c["lengths"]))
        own = {
            "query": normal(generator, queries, c["num_heads"], c["head_dim"]),
            "key": normal(generator, keys, c["num_kv_heads"], c["head_dim"]),
            "value": normal(generator, keys, c["num_kv_heads"], c["value_head_dim"]),
        }
        exact, single = run(c, own, torch.float64), run(c, own, torch.float32)
        difference = (exact["output"] - single["output"]).abs().max().item()
        own.update({name: tensor.float() for name, tensor in exact.items()})
        tensors.update({f"{c['name']}/{name}": tensor for name, tensor in own.items()})
        cases.append({**c, "torch_float32_difference": difference})
    return tensors, cases
