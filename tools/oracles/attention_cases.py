# SPDX-License-Identifier: Apache-2.0
"""Golden cases of torch.nn.functional.scaled_dot_product_attention.

torch's conventions, which the stored tensors keep: tensors are [B, H, T, D]; True in a boolean mask means "attend" (as
in the library); is_causal is aligned top left; with enable_gqa, query head h uses key/value head h // (H // Hkv).
"""

import math
import zlib

import torch
import torch.nn.functional as F


def case(name, batch, num_heads, query_len, key_len, head_dim, **options):
    """One case. options: num_kv_heads, value_head_dim, scale (0: 1/sqrt(D)), causal, mask ("bool", "float"), mask_shape
    (which of B, H the mask has of its own: "", "b", "h", "bh"), blind_rows (query rows that may attend to nothing),
    blind_keys (keys [0, n) that nobody may attend to)."""
    return {
        "name": name,
        "batch": batch,
        "num_heads": num_heads,
        "num_kv_heads": options.get("num_kv_heads", num_heads),
        "query_len": query_len,
        "key_len": key_len,
        "head_dim": head_dim,
        "value_head_dim": options.get("value_head_dim", head_dim),
        "scale": options.get("scale", 0.0),
        "causal": options.get("causal", False),
        "mask": options.get("mask", "none"),
        "mask_shape": options.get("mask_shape", ""),
        "blind_rows": options.get("blind_rows", []),
        "blind_keys": options.get("blind_keys", 0),
    }


# Larger weight matrices are not stored: the file stays small, and the output depends on every weight anyway.
MOST_WEIGHTS = 4096

CASES = [
    case("d1", 2, 3, 5, 7, 1),
    case("d5", 1, 4, 6, 10, 5),
    case("d20", 1, 2, 5, 8, 20),
    case("d40", 1, 1, 4, 9, 40),
    case("d64", 1, 1, 5, 6, 64),
    case("d80", 1, 1, 4, 7, 80),
    case("d5_dv12", 2, 2, 4, 6, 5, value_head_dim=12),
    case("d40_dv3", 1, 1, 5, 7, 40, value_head_dim=3),
    case("scale_up", 1, 2, 4, 6, 20, scale=0.75),
    case("scale_down", 1, 2, 4, 6, 20, scale=0.0625),
    case("bool_mask", 2, 2, 6, 9, 5, mask="bool"),
    case("bool_mask_per_item", 2, 2, 4, 9, 5, mask="bool", mask_shape="b"),
    case("bool_mask_per_head", 2, 3, 4, 9, 5, mask="bool", mask_shape="h"),
    case("bool_mask_full", 2, 3, 3, 17, 5, mask="bool", mask_shape="bh"),
    case("float_mask", 2, 2, 6, 9, 5, mask="float"),
    case("float_mask_full", 2, 2, 4, 17, 5, mask="float", mask_shape="bh"),
    case("blind_rows_bool", 2, 2, 5, 6, 8, mask="bool", blind_rows=[0, 3]),
    case("blind_rows_float", 1, 2, 5, 6, 8, mask="float", blind_rows=[4]),
    case("causal", 2, 2, 9, 9, 8, causal=True),
    case("causal_more_keys", 1, 2, 4, 9, 8, causal=True),
    case("causal_more_queries", 1, 2, 9, 4, 8, causal=True),
    case("gqa", 2, 4, 5, 7, 8, num_kv_heads=2),
    case("mqa_causal", 1, 4, 6, 6, 8, num_kv_heads=1, causal=True),
    case("gqa_bool_mask_dv", 1, 6, 5, 9, 20, num_kv_heads=3, value_head_dim=5, mask="bool", mask_shape="bh"),
    case("two_chunks", 1, 1, 3, 300, 4),
    case("two_chunks_causal", 1, 1, 264, 264, 4, causal=True),
    case("three_chunks_first_blind", 1, 1, 3, 530, 4, mask="bool", blind_keys=256),
    case("two_chunks_float_mask", 1, 1, 2, 260, 4, mask="float", blind_rows=[1]),
]


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float32)


def mask_of(c, generator):
    if c["mask"] == "none":
        return None
    shape = (
        c["batch"] if "b" in c["mask_shape"] else 1,
        c["num_heads"] if "h" in c["mask_shape"] else 1,
        c["query_len"],
        c["key_len"],
    )
    attend = torch.rand(shape, generator=generator) < 0.6
    attend[..., -1] = True  # so that only the rows named below see nothing
    attend[..., : c["blind_keys"]] = False
    attend[:, :, c["blind_rows"], :] = False
    if c["mask"] == "bool":
        return attend
    return (2 * normal(generator, *shape)).masked_fill(~attend, float("-inf"))


def scores_of(c, tensors, mask, dtype):
    """The scaled and masked scores [B, H, Tq, Tk], from which the weights and the log-sum-exp are made."""
    group = c["num_heads"] // c["num_kv_heads"]
    key = tensors["key"].to(dtype).repeat_interleave(group, dim=1)
    scale = c["scale"] or 1 / math.sqrt(c["head_dim"])
    scores = torch.matmul(tensors["query"].to(dtype), key.transpose(-2, -1)) * scale
    if c["causal"]:
        later = torch.ones(c["query_len"], c["key_len"], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    if mask is not None and mask.dtype == torch.bool:
        return scores.masked_fill(~mask, float("-inf"))
    return scores if mask is None else scores + mask.to(dtype)


def run(c, tensors, mask, dtype):
    """output [B, H, Tq, Dv] from torch's function; weights [B, H, Tq, Tk] and log_sum_exp [B, H, Tq] from the formula,
    proven to belong to that output."""
    output = F.scaled_dot_product_attention(
        tensors["query"].to(dtype),
        tensors["key"].to(dtype),
        tensors["value"].to(dtype),
        attn_mask=mask if mask is None or mask.dtype == torch.bool else mask.to(dtype),
        is_causal=c["causal"],
        scale=c["scale"] or None,
        enable_gqa=c["num_kv_heads"] != c["num_heads"],
    )
    scores = scores_of(c, tensors, mask, dtype)
    log_sum_exp = torch.logsumexp(scores, dim=-1)
    seen = (log_sum_exp != float("-inf"))[..., None]
    weights = torch.where(seen, torch.softmax(scores, dim=-1), 0)
    value = tensors["value"].to(dtype).repeat_interleave(c["num_heads"] // c["num_kv_heads"], dim=1)
    bound = 1e-13 if dtype == torch.float64 else 1e-5
    assert torch.allclose(torch.matmul(weights, value), output, rtol=0, atol=bound), c["name"]
    return {"output": output, "weights": weights, "log_sum_exp": log_sum_exp}


def golden():
    """(tensors by "case/name", cases)"""
    tensors, cases = {}, []
    for c in CASES:
        generator = torch.Generator().manual_seed(zlib.crc32(c["name"].encode()))
        own = {
            "query": normal(generator, c["batch"], c["num_heads"], c["query_len"], c["head_dim"]),
            "key": normal(generator, c["batch"], c["num_kv_heads"], c["key_len"], c["head_dim"]),
            "value": normal(generator, c["batch"], c["num_kv_heads"], c["key_len"], c["value_head_dim"]),
        }
        mask = mask_of(c, generator)
        if mask is not None:
            own["mask"] = mask
        exact, single = run(c, own, mask, torch.float64), run(c, own, mask, torch.float32)
        assert exact["output"].isfinite().all(), f"{c['name']}: torch gives no number"
        difference = (exact["output"] - single["output"]).abs().max().item()
        if exact["weights"].numel() > MOST_WEIGHTS:
            del exact["weights"]
        own.update({name: tensor.float() for name, tensor in exact.items()})
        tensors.update({f"{c['name']}/{name}": tensor for name, tensor in own.items()})
        cases.append({**c, "torch_float32_difference": difference})
    return tensors, cases
