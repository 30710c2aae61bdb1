# SPDX-License-Identifier: Apache-2.0
"""The operator mha::sdpa for torch.export and ExecuTorch: its schema, its result in eager torch, and replace_sdpa(). The
kernel is in libmha_executorch.so (load_kernel(), or link it to your runner)."""

from __future__ import annotations

import ctypes
import pathlib

import torch
import torch.nn.functional as F

_ARGUMENTS = "Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, bool is_causal=False, float? scale=None"
_library = torch.library.Library("mha", "FRAGMENT")
_library.define(f"sdpa({_ARGUMENTS}) -> Tensor")
_library.define(f"sdpa.out({_ARGUMENTS}, *, Tensor(a!) out) -> Tensor(a!)")


def _sdpa(query, key, value, attn_mask=None, is_causal=False, scale=None):
    """What torch itself computes, dense in memory; only the runtime has mha's kernel."""
    output = F.scaled_dot_product_attention(query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=True)
    return output.contiguous()


def _sdpa_out(query, key, value, attn_mask=None, is_causal=False, scale=None, *, out):
    return out.copy_(_sdpa(query, key, value, attn_mask, is_causal, scale))


_library.impl("sdpa", _sdpa, "CompositeExplicitAutograd")
_library.impl("sdpa.out", _sdpa_out, "CompositeExplicitAutograd")


@torch.library.register_fake("mha::sdpa", lib=_library)
def _fake(query, key, value, attn_mask=None, is_causal=False, scale=None):
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


def load_kernel() -> None:
    """Registers the kernel with the runtime of this process."""
    ctypes.CDLL(str(pathlib.Path(__file__).with_name("libmha_executorch.so")))


def replace_sdpa(program: torch.export.ExportedProgram) -> int:
    """Puts mha::sdpa in the place of each scaled_dot_product_attention that it computes, and says how many there were.
    Call it on the result of torch.export.export, before to_edge."""
    count = 0
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.scaled_dot_product_attention.default and _serves(node):
            given = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), node.args)) | node.kwargs
            names = ("query", "key", "value", "attn_mask", "is_causal", "scale")
            node.args = tuple(given.get(name, False if name == "is_causal" else None) for name in names)
            node.kwargs = {}
            node.target = torch.ops.mha.sdpa.default
            count += 1
    program.graph_module.recompile()
    return count


def _serves(node: torch.fx.Node) -> bool:
    dropout = node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0.0)
    query, key, value = (x.meta["val"] for x in node.args[:3])  # [..., heads, tokens, width]
    floats = (torch.float32, torch.float16, torch.bfloat16)
    return (
        dropout == 0.0
        and query.dim() in (3, 4)
        and query.shape[:-3] == key.shape[:-3]
        and query.shape[-3] % key.shape[-3] == 0
        and key.shape[:-2] == value.shape[:-2]
        and all(x.dtype in floats for x in (query, key, value))
    )
