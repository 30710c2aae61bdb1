# SPDX-License-Identifier: Apache-2.0
"""Golden cases of torch.nn.MultiheadAttention.

torch's conventions, which the stored tensors keep: True in a boolean attn_mask or key_padding_mask means "may NOT
attend" (the library's masks mean the opposite); a float mask is added to the scores; a causal mask is aligned top left.
"""

import zlib

import torch
import torch.nn as nn


def case(name, batch, query_len, embed_dim, num_heads, **options):
    """One case. options: key_len, kdim, vdim (their absence means those of self-attention), bias, batch_first, sources
    (how many of query, key, value are tensors of their own: 1 self-attention, 2 value is key, 3), attn_mask
    ("bool", "float", "bool per head", "causal", whose mask is not stored), key_padding ("bool", "float", "lengths"),
    bias_kv and zero_attn (nn.MultiheadAttention's add_bias_kv and add_zero_attn: one more key each)."""
    return {
        "name": name,
        "batch": batch,
        "query_len": query_len,
        "key_len": options.get("key_len", query_len),
        "embed_dim": embed_dim,
        "num_heads": num_heads,
        "kdim": options.get("kdim", embed_dim),
        "vdim": options.get("vdim", embed_dim),
        "bias": options.get("bias", True),
        "batch_first": options.get("batch_first", True),
        "sources": options.get("sources", 1),
        "attn_mask": options.get("attn_mask", "none"),
        "key_padding": options.get("key_padding", "none"),
        "bias_kv": options.get("bias_kv", False),
        "zero_attn": options.get("zero_attn", False),
    }


# Larger weight matrices are not stored: the file stays small, and the output depends on every weight anyway.
MOST_WEIGHTS = 4096

CASES = [
    case("self", 2, 7, 16, 4),
    case("self_without_bias", 2, 5, 12, 3, bias=False),
    case("self_one_position", 3, 1, 20, 4),
    case("self_head_dim_1", 1, 6, 5, 5),
    case("self_one_head", 2, 6, 13, 1),
    case("self_head_dim_24", 1, 4, 24, 1),
    case("sequence_first", 3, 6, 16, 2, batch_first=False),
    case("cross", 2, 4, 16, 4, key_len=9, sources=2),
    case("cross_three_sources", 2, 5, 12, 2, key_len=6, sources=3),
    case("cross_kdim_vdim", 2, 5, 20, 4, key_len=9, kdim=12, vdim=28, sources=3),
    case("cross_kdim_vdim_without_bias", 1, 3, 12, 2, key_len=5, kdim=7, vdim=9, sources=3, bias=False),
    case("attn_mask_bool", 2, 7, 12, 4, attn_mask="bool"),
    case("attn_mask_bool_cross", 2, 5, 12, 4, key_len=18, sources=2, attn_mask="bool"),
    case("attn_mask_bool_per_head", 2, 6, 12, 4, attn_mask="bool per head"),
    case("attn_mask_float", 2, 7, 12, 4, attn_mask="float"),
    case("key_padding", 3, 6, 12, 4, key_len=11, sources=2, key_padding="bool"),
    case("key_padding_float", 2, 5, 12, 2, key_len=7, sources=2, key_padding="float"),
    case("key_padding_lengths", 4, 8, 12, 3, key_padding="lengths"),
    case("key_padding_and_attn_mask", 2, 6, 12, 4, key_len=9, sources=2, attn_mask="bool", key_padding="bool"),
    case("causal", 2, 7, 12, 4, attn_mask="causal"),
    case("causal_key_padding", 3, 9, 12, 2, attn_mask="causal", key_padding="lengths"),
    case("long_keys", 1, 3, 8, 2, key_len=300, sources=2),
    case("long_self_causal", 1, 270, 4, 1, attn_mask="causal"),
    case("bias_kv", 2, 5, 12, 3, bias_kv=True),
    case("zero_attn", 2, 5, 12, 3, zero_attn=True),
    case("bias_kv_zero_attn", 2, 4, 16, 4, key_len=9, sources=2, bias_kv=True, zero_attn=True),
    case("bias_kv_causal", 2, 7, 12, 2, attn_mask="causal", bias_kv=True),
    case(
        "bias_kv_zero_attn_mask", 2, 6, 12, 4,
        key_len=17,
        sources=2,
        attn_mask="bool per head",
        bias_kv=True,
        zero_attn=True,
    ),
    case("bias_kv_zero_attn_float", 2, 5, 12, 2, attn_mask="float", bias_kv=True, zero_attn=True),
    case("bias_kv_zero_attn_padding", 3, 6, 12, 4, key_padding="lengths", bias_kv=True, zero_attn=True),
    case(
        "zero_attn_both_masks", 2, 6, 12, 4,
        key_len=16,
        sources=2,
        attn_mask="bool",
        key_padding="bool",
        zero_attn=True,
    ),
    case("bias_kv_zero_attn_long", 1, 3, 8, 2, key_len=255, sources=2, bias_kv=True, zero_attn=True),
]


def normal(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float32)


def parameters_of(c, generator):
    """Weights in the size torch initialises them with, and biases that are not zero (torch's are)."""
    embed = c["embed_dim"]
    names = {"out_proj.weight": (embed, embed)}
    if c["kdim"] == embed and c["vdim"] == embed:
        names["in_proj_weight"] = (3 * embed, embed)
    else:
        names["q_proj_weight"] = (embed, embed)
        names["k_proj_weight"] = (embed, c["kdim"])
        names["v_proj_weight"] = (embed, c["vdim"])
    if c["bias"]:
        names["in_proj_bias"] = (3 * embed,)
        names["out_proj.bias"] = (embed,)
    if c["bias_kv"]:
        names["bias_k"] = names["bias_v"] = (1, 1, embed)
    return {
        name: normal(generator, *shape) * (shape[1] ** -0.5 if len(shape) == 2 else 0.3)
        for name, shape in names.items()
    }


def attn_mask_of(c, generator):
    tq, tk = c["query_len"], c["key_len"]
    if c["attn_mask"] == "none":
        return None
    if c["attn_mask"] == "causal":
        return torch.ones(tq, tk, dtype=torch.bool).triu(1)
    shape = (c["batch"] * c["num_heads"], tq, tk) if c["attn_mask"] == "bool per head" else (tq, tk)
    blocked = torch.rand(shape, generator=generator) < 0.4
    if c["bias_kv"] or c["zero_attn"]:
        blocked[..., 0, :] = True  # that query sees the added keys alone
    else:
        # Key 2 stays visible to every query: torch gives NaN for a row that sees nothing, the library gives zeros.
        blocked[..., 2] = False
    if c["attn_mask"] == "float":
        return (2 * normal(generator, *shape)).masked_fill(blocked, float("-inf"))
    return blocked


def key_padding_of(c, generator):
    """(key_padding_mask or None, key lengths or None)"""
    batch, tk = c["batch"], c["key_len"]
    if c["key_padding"] == "none":
        return None, None
    if c["key_padding"] == "lengths":
        lengths = torch.randint(1, tk + 1, (batch,), generator=generator)
        lengths[0], lengths[-1] = tk, 1
        return torch.arange(tk)[None, :] >= lengths[:, None], lengths
    blocked = torch.rand(batch, tk, generator=generator) < 0.4
    blocked[:, 2] = False
    if c["key_padding"] == "float":
        return normal(generator, batch, tk).masked_fill(blocked, float("-inf")), None
    return blocked, None


def run(c, tensors, dtype):
    """output [B, Tq, E] or [Tq, B, E], weights [B, H, Tq, Tk], their average over heads [B, Tq, Tk]."""
    layer = nn.MultiheadAttention(
        c["embed_dim"],
        c["num_heads"],
        bias=c["bias"],
        kdim=c["kdim"],
        vdim=c["vdim"],
        batch_first=c["batch_first"],
        add_bias_kv=c["bias_kv"],
        add_zero_attn=c["zero_attn"],
        dtype=dtype,
    ).eval()
    wanted = layer.state_dict().keys()
    layer.load_state_dict({name: tensors[name].to(dtype) for name in wanted})
    query = tensors["query"].to(dtype)
    key = tensors["key"].to(dtype) if "key" in tensors else query
    value = tensors["value"].to(dtype) if "value" in tensors else key

    def cast(mask):
        return mask if mask is None or mask.dtype == torch.bool else mask.to(dtype)

    masks = {name: cast(tensors.get(name)) for name in ("attn_mask", "key_padding_mask")}
    output, weights = layer(query, key, value, average_attn_weights=False, **masks)
    same_output, average = layer(query, key, value, average_attn_weights=True, **masks)
    assert torch.equal(output, same_output)
    if {mask.dtype for mask in masks.values() if mask is not None} in (set(), {torch.bool}):
        fused, _ = layer(query, key, value, need_weights=False, **masks)
        bound = 1e-13 if dtype == torch.float64 else 1e-5
        assert torch.allclose(output, fused, rtol=0, atol=bound), f"{c['name']}: torch's two paths differ"
    return {"output": output, "weights": weights, "weights_averaged": average}


def golden():
    """(tensors by "case/name", cases)"""
    tensors, cases = {}, []
    for c in CASES:
        generator = torch.Generator().manual_seed(zlib.crc32(c["name"].encode()))

        def sequence(length, width, c=c, generator=generator):
            first, second = (c["batch"], length) if c["batch_first"] else (length, c["batch"])
            return normal(generator, first, second, width)

        own = {"query": sequence(c["query_len"], c["embed_dim"])}
        if c["sources"] >= 2:
            own["key"] = sequence(c["key_len"], c["kdim"])
        if c["sources"] == 3:
            own["value"] = sequence(c["key_len"], c["vdim"])
        own.update(parameters_of(c, generator))
        attn_mask = attn_mask_of(c, generator)
        if attn_mask is not None:
            own["attn_mask"] = attn_mask
        key_padding_mask, key_lengths = key_padding_of(c, generator)
        if key_padding_mask is not None:
            own["key_padding_mask"] = key_padding_mask
        exact, single = run(c, own, torch.float64), run(c, own, torch.float32)
        assert all(tensor.isfinite().all() for tensor in exact.values()), c["name"]
        difference = max((exact[name] - single[name]).abs().max().item() for name in exact)
        if key_lengths is not None:
            own["key_lengths"] = key_lengths
        if c["attn_mask"] == "causal":
            del own["attn_mask"]
        if exact["weights"].numel() > MOST_WEIGHTS:
            del exact["weights"], exact["weights_averaged"]
        own.update({name: tensor.float() for name, tensor in exact.items()})
        tensors.update({f"{c['name']}/{name}": tensor for name, tensor in own.items()})
        cases.append({**c, "torch_float32_difference": difference})
    return tensors, cases
