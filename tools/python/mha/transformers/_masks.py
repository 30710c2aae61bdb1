# SPDX-License-Identifier: Apache-2.0
"""Masks of transformers as parameters of the attention op, without a tensor of Tq x Tk.

transformers describes a mask by a function of (batch, head, query, key), composed from a few known functions, and by
the two-dimensional padding mask. `attention_mask` takes such a description apart once in a forward pass. Causality,
windows, packed sequences and padding become parameters. Of any other description it makes the boolean tensor that
transformers makes for torch's attention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import masking_utils
from transformers.utils.import_utils import is_tracing

Tensor = torch.Tensor
MaskFunction = Callable[..., Any]


@dataclass(frozen=True)
class Pattern:
    """What a query sees. Query i stands at key i + offset."""

    causal: bool = False
    offset: int = 0
    window_left: int = 0
    window_right: int = 0
    key_lengths: Tensor | None = None  # int64 [B]: keys from there on are padding
    padding: Tensor | None = None  # bool [B, Tk]: True where a key is a token
    segments: Tensor | None = None  # int32 [B, T] of queries and keys: packed sequences


class Mask(torch.Tensor):
    """A mask [B, 1, Tq, Tk] of bool that is stored as its Pattern.

    It has the shape of the boolean tensor that it stands for, so that a model may pass it on. An operation of torch on
    it gets that tensor, which is made then.
    """

    pattern: Pattern
    make: Callable[[], Tensor]

    @staticmethod
    def of(pattern: Pattern, sizes: tuple[int, int, int], make: Callable[[], Tensor]) -> Mask:
        batch, queries, keys = sizes
        mask = torch.zeros((), dtype=torch.bool).expand(batch, 1, queries, keys).as_subclass(Mask)
        mask.pattern = pattern
        mask.make = make
        return mask

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func in SHAPE_READS:
                return func(*args, **(kwargs or {}))
            return func(*map(_made, args), **{name: _made(value) for name, value in (kwargs or {}).items()})


def reads_of_shape() -> set[Any]:
    """Functions of a tensor that read no element."""
    names = ("shape", "ndim", "dtype", "device", "layout", "requires_grad", "is_cpu", "is_cuda", "grad_fn", "is_leaf")
    getters = {getattr(torch.Tensor, name).__get__ for name in names}
    return getters | {torch.Tensor.dim, torch.Tensor.size, torch.Tensor.ndimension, torch.Tensor.numel, torch.Tensor.__len__}


SHAPE_READS = reads_of_shape()


def _made(argument: Any) -> Any:
    if isinstance(argument, Mask):
        return argument.make()
    if isinstance(argument, (list, tuple)):
        return type(argument)(map(_made, argument))
    return argument


def _variables(function: MaskFunction) -> dict[str, Any]:
    """The variables that a function has from the function around it."""
    code = getattr(function, "__code__", None)
    cells = getattr(function, "__closure__", None) or ()
    return {name: cell.cell_contents for name, cell in zip(code.co_freevars, cells)} if code is not None else {}


def _name(function: MaskFunction) -> str:
    """The name of a function of transformers' masks; the name of the function that made it, where one did."""
    if getattr(function, "__module__", None) != masking_utils.__name__:
        return ""
    return str(getattr(function, "__qualname__", "")).split(".")[0]


def pattern_of(function: MaskFunction, pattern: Pattern) -> Pattern | None:
    """`pattern` with the mask of the function added to it; None: it has parts that are no parameter."""
    name, variables = _name(function), _variables(function)
    if name == "and_masks":
        found: Pattern | None = pattern
        for part in variables["mask_functions"]:
            if found is not None:
                found = pattern_of(part, found)
        return found
    if name == "causal_mask_function":
        return replace(pattern, causal=True)
    if name == "bidirectional_mask_function":
        return pattern
    if name == "sliding_window_overlay" and pattern.window_left == 0:
        return replace(pattern, window_left=int(variables["sliding_window"]))
    if name == "sliding_window_bidirectional_overlay" and pattern.window_left == pattern.window_right == 0:
        width = int(variables["sliding_window"]) + 1
        return replace(pattern, window_left=width, window_right=width)
    if name == "remap_positions_for_packed_sequence":
        # Positions ascend by one inside each packed sequence, so that distances are those of the places in the row.
        return pattern_of(variables["mask_function"], pattern)
    if name == "packed_sequence_mask_function" and pattern.segments is None:
        return replace(pattern, segments=variables["packed_sequence_mask"].to(torch.int32).contiguous())
    return None


def with_padding(pattern: Pattern, mask: Tensor | None, queries: int, keys: int, first_key: int) -> Pattern:
    """`pattern` with the two-dimensional padding mask, whose columns from first_key on are the keys.

    Keys beyond its columns are padding, too: those of a static cache that are not yet filled.
    """
    if mask is None:
        return pattern
    mask = mask[:, first_key : first_key + keys]
    width = mask.shape[1]
    if bool(mask.all()):
        hidden = pattern.causal and width >= pattern.offset + queries
        return pattern if width == keys or hidden else replace(pattern, key_lengths=mask.sum(-1))
    if not bool((mask[:, 1:] & ~mask[:, :-1]).any()):  # in no row does a token follow padding
        return replace(pattern, key_lengths=mask.sum(-1))
    if width < keys:
        mask = torch.nn.functional.pad(mask, (0, keys - width))
    return replace(pattern, padding=mask)


def simplified(pattern: Pattern, queries: int, keys: int) -> Pattern:
    """The same mask without the parts that hide nothing."""
    last = pattern.offset + queries - 1
    if pattern.window_left > last:
        pattern = replace(pattern, window_left=0)
    if pattern.window_right and pattern.offset + pattern.window_right >= keys:
        pattern = replace(pattern, window_right=0)
    if pattern.causal and pattern.offset >= keys - 1:
        pattern = replace(pattern, causal=False)
    return pattern


def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: MaskFunction = masking_utils.causal_mask_function,
    attention_mask: Tensor | None = None,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Tensor | None:
    """The mask of attn_implementation="mha", as transformers asks for it; None: none, or causality alone.

    None stands for causality where the first query stands at the first key, and the skip is allowed.
    """
    make: Callable[..., Any] = partial(
        masking_utils.sdpa_mask,
        batch_size,
        q_length,
        kv_length,
        q_offset,  # type: ignore[arg-type]  # a static cache gives a tensor
        kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        use_vmap=use_vmap,
        device=device,
        **kwargs,
    )
    pattern = None
    if not (use_vmap or is_tracing(attention_mask) or is_tracing(q_offset)):
        pattern = pattern_of(mask_function, Pattern(offset=int(q_offset) - kv_offset))
    if pattern is None:
        made: Tensor | None = make(allow_is_causal_skip=allow_is_causal_skip, allow_is_bidirectional_skip=allow_is_bidirectional_skip)
        return made
    pattern = simplified(with_padding(pattern, attention_mask, q_length, kv_length, kv_offset), q_length, kv_length)
    if pattern == Pattern(causal=True) and allow_is_causal_skip:
        return None
    if pattern == Pattern(offset=pattern.offset) and (allow_is_bidirectional_skip or (allow_is_causal_skip and q_length == 1)):
        return None
    never = partial(make, allow_is_causal_skip=False, allow_is_bidirectional_skip=False)
    return Mask.of(pattern, (batch_size, q_length, kv_length), never)
