# SPDX-License-Identifier: Apache-2.0
"""Loads libmha_torch.so, which registers the ops torch.ops.mha.*, and adds what only Python can add to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from .._library import library_folder

Function = TypeVar("Function", bound=Callable[..., Any])

GRADIENT_TEXT = (
    "mha: an input requires a gradient, but mha computes none: call it under torch.no_grad() or "
    "torch.inference_mode(), or detach() the input"
)


def _load() -> None:
    ops = library_folder() / "libmha_torch.so"
    if not ops.exists():
        raise ImportError(f"mha.torch: {ops} does not exist; MHA_LIBRARY_DIR names the folder that has it")
    torch.ops.load_library(str(ops))  # it asks for libmha by its SONAME, and gets the one that mha has loaded


_load()

# The object keeps the registrations alive.
_registrations = torch.library.Library("mha", "FRAGMENT")


def register_fake(name: str) -> Callable[[Function], Function]:
    """torch.library.register_fake, with a type."""
    return cast(Callable[[Function], Function], torch.library.register_fake(name))


def refuse_gradient(*arguments: Any) -> None:
    """Raises if grad mode is on and one of the arguments is a tensor that requires a gradient."""
    if torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in arguments):
        raise RuntimeError(GRADIENT_TEXT)


def _requires_grad(first: torch.Tensor, second: torch.Tensor, third: torch.Tensor) -> bool:
    return first.requires_grad or second.requires_grad or third.requires_grad


_registrations.impl("_requires_grad", _requires_grad, "CPU")


def target() -> str:
    """The instruction set that the ops use, for example avx512."""
    return str(torch.ops.mha._target())
