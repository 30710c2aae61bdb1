# SPDX-License-Identifier: Apache-2.0
"""Packs the linear layers and the attention of a module."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ._linear import GROUP, Linear, storage_options
from ._multihead import MultiheadAttention

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass
class Conversion:
    """What convert() did. `module` is the given module, or its replacement if it was itself packed."""

    module: torch.nn.Module
    converted: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)  # name: why


def convert(module: torch.nn.Module, weights: str | None = None, arithmetic: str | None = None) -> Conversion:
    """Replaces each nn.Linear and nn.MultiheadAttention inside `module`, in place.

    weights     stored as                               default arithmetic
    None        as they are                             f32
    "f16"       float16                                 f32
    "bf16"      bfloat16                                bf16 where the CPU has it (amx, avx512_bf16), else f32
    "int8"      8-bit codes, a scale for each output    int8
    "int4"      4-bit codes, float16 scales for 32      int8
    arithmetic  "f32", "bf16", "int8": how products are computed
    """
    storage_options(weights, arithmetic)  # refuses unknown names before anything is replaced
    result = Conversion(module)
    replaced: dict[torch.nn.Module, torch.nn.Module] = {}  # a module that is used twice is packed once
    result.module = _convert(module, "", weights, arithmetic, result, replaced)
    return result


def _convert(
    module: torch.nn.Module,
    name: str,
    weights: str | None,
    arithmetic: str | None,
    result: Conversion,
    replaced: dict[torch.nn.Module, torch.nn.Module],
) -> torch.nn.Module:
    if module in replaced:
        return replaced[module]
    replaced[module] = module
    if isinstance(module, (torch.nn.Linear, torch.nn.MultiheadAttention)):
        reason = _why_left(module, weights)
        if reason is None:
            try:
                replaced[module] = _pack(module, weights, arithmetic)
                result.converted.append(name)
                return replaced[module]
            except RuntimeError as error:
                reason = str(error)
        result.left[name] = reason
        return module  # what is inside nn.MultiheadAttention is read by its own forward, so it must stay
    # Not named_children(), which gives a module that has two names once.
    for child_name, child in list(module._modules.items()):
        if child is None:
            continue
        path = f"{name}.{child_name}" if name else child_name
        new = _convert(child, path, weights, arithmetic, result, replaced)
        if new is not child:
            setattr(module, child_name, new)
    return module


def _pack(module: torch.nn.Module, weights: str | None, arithmetic: str | None) -> torch.nn.Module:
    if isinstance(module, torch.nn.MultiheadAttention):
        return MultiheadAttention(module, weights, arithmetic)
    assert isinstance(module, torch.nn.Linear)
    return Linear.from_linear(module, weights, arithmetic)


def _why_left(module: torch.nn.Linear | torch.nn.MultiheadAttention, weights: str | None) -> str | None:
    if type(module) not in (torch.nn.Linear, torch.nn.MultiheadAttention):
        return f"{type(module).__name__} is a subclass, whose forward may differ"
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has forward hooks"
    for tensor in module.parameters():
        if tensor.device.type != "cpu":
            return f"it is on the device {tensor.device.type}"
        if tensor.dtype not in _FLOATS:
            return f"its dtype is {str(tensor.dtype).removeprefix('torch.')}"
    if isinstance(module, torch.nn.Linear):
        widths = [module.in_features]
        if min(module.weight.shape) == 0:
            return "it has no weights"
    else:
        widths = [module.embed_dim, module.kdim, module.vdim]
    if weights == "int4" and any(width % GROUP for width in widths):
        return f"its input width is no multiple of {GROUP}, the group of int4"
    return None
