# SPDX-License-Identifier: Apache-2.0
"""Replaces torch's scaled_dot_product_attention by mha's within a block of code."""

from __future__ import annotations

import inspect
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.overrides import TorchFunctionMode

from ._attention import attend, attend_with_weights, why_not

if TYPE_CHECKING:
    from typing_extensions import Self

Tensor = torch.Tensor
_torch_attention = torch._C._nn.scaled_dot_product_attention
_torch_multi_head = torch.nn.functional.multi_head_attention_forward

_signature = inspect.signature(_torch_multi_head)

NEED_WEIGHTS = "need_weights in torch.compile"


class _PassedOn(Exception):
    """mha does not compute the call that _active.wanted is for."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Active(threading.local):
    """What this thread does."""

    def __init__(self) -> None:
        self.stack: list[replace_sdpa] = []  # the innermost last
        self.handling = False  # a function is being handled
        self.wanted: str | None = None  # the weights that the next call also computes, and leaves in `weights`
        self.weights: Tensor | None = None


_active = _Active()


class replace_sdpa(TorchFunctionMode):  # used as a function
    """with replace_sdpa() as replaced: ...

    Within the block and in its thread, mha computes torch.nn.functional.scaled_dot_product_attention, also inside
    nn.MultiheadAttention (with need_weights, too). What mha does not compute goes to torch. `taken` counts the calls
    that mha computed, `passed` those that went to torch, by their reasons. Blocks may be nested; the end of a block
    undoes it, also after an exception. A function of torch.compile counts a call when it is traced, not when it runs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0
        self.passed: Counter[str] = Counter()

    def __enter__(self) -> Self:
        super().__enter__()
        _active.stack.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        _active.stack.pop()
        super().__exit__(*exception)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not _torch_attention and func is not _torch_multi_head:
            if func is torch.Tensor.unflatten and torch.compiler.is_compiling():
                func = torch.unflatten  # torch.compile cannot trace the method within a mode
            return func(*args, **kwargs)
        run = _attention if func is _torch_attention else _multi_head
        if torch.compiler.is_compiling():
            return run(*args, **kwargs)
        if func is _torch_multi_head and _active.handling:
            return _twin(*args, **kwargs)  # a block within this one handles the call, and counts it
        # A block around this one handles what this one passes on, and counts for itself.
        handling, _active.handling = _active.handling, True
        _active.stack.append(self)
        try:
            return run(*args, **kwargs)
        finally:
            _active.stack.pop()
            _active.handling = handling


def _count_now(reason: str | None) -> bool:
    """Counts a call for the replacement that handles it. torch.compile runs this while it traces."""
    if _active.stack:
        if reason is None:
            _active.stack[-1].taken += 1
        else:
            _active.stack[-1].passed[reason] += 1
    return True


_count = cast(Callable[[str | None], bool], torch.compiler.assume_constant_result(_count_now))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    reason = why_not(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    wanted = None if torch.compiler.is_compiling() else _active.wanted
    if reason is not None:
        if wanted is not None:
            raise _PassedOn(reason)
        _count(reason)
        result: Tensor = _torch_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        return result
    if wanted is None:
        result = attend(query, key, value, attn_mask, is_causal, scale)
    else:
        result, _active.weights = attend_with_weights(query, key, value, attn_mask, is_causal, scale, wanted)
    _count(None)
    return result


def _own_multi_head() -> Callable[..., Any]:
    """A twin of multi_head_attention_forward whose scaled_dot_product_attention is ours. A mode is off while it handles
    a function, so it would not see that call. The names are those of a module, because torch.compile looks them up
    there."""
    module = types.ModuleType("mha.torch._functional", "torch.nn.functional with mha's scaled_dot_product_attention")
    module.__dict__.update({k: v for k, v in _torch_multi_head.__globals__.items() if not k.startswith("__")})
    module.__dict__["__builtins__"] = _torch_multi_head.__globals__["__builtins__"]
    module.__dict__["scaled_dot_product_attention"] = _attention
    sys.modules[module.__name__] = module
    twin = types.FunctionType(_torch_multi_head.__code__, module.__dict__, None, _torch_multi_head.__defaults__)
    twin.__kwdefaults__ = _torch_multi_head.__kwdefaults__
    module.__dict__["multi_head_attention_forward"] = _torch_multi_head  # what the twin names when it hands a call on
    return twin


_twin = _own_multi_head()


def _multi_head(*args: Any, **kwargs: Any) -> Any:
    given = _signature.bind(*args, **kwargs)
    given.apply_defaults()
    if not given.arguments["need_weights"]:
        return _twin(*args, **kwargs)
    # torch computes the weights without scaled_dot_product_attention. So its other path runs, and mha's op, which
    # computes both, leaves the weights in _active.
    if torch.compiler.is_compiling():
        _count(NEED_WEIGHTS)
        return _twin(*args, **kwargs)
    given.arguments["need_weights"] = False
    _active.wanted = "averaged" if given.arguments["average_attn_weights"] else "per_head"
    try:
        output, _ = _twin(*given.args, **given.kwargs)
    except _PassedOn as passed:
        _count(passed.reason)
        _active.wanted = None
        return _twin(*args, **kwargs)
    finally:
        _active.wanted = None
    weights, _active.weights = _active.weights, None
    assert weights is not None
    weights = weights.to(output.dtype)
    return output, weights if given.arguments["query"].dim() == 3 else weights.squeeze(0)
