# SPDX-License-Identifier: Apache-2.0
"""Loads libmha_torch.so, which registers the ops torch.ops.mha.*, and adds what only Python can add to them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])

GRADIENT_TEXT = (
    "mha: an input requires a gradient, but mha computes none: call it under torch.no_grad() or "
    "torch.inference_mode(), or detach() the input"
)


def library_folder() -> Path:
    """The folder that holds libmha.so and libmha_torch.so."""
    chosen = os.environ.get("MHA_LIBRARY_DIR")
    return Path(chosen) if chosen else Path(__file__).resolve().parent.parent / "lib"


def _load() -> None:
    folder = library_folder()
    ops = folder / "libmha_torch.so"
    if not ops.exists():
        raise ImportError(f"mha.torch: {ops} does not exist; MHA_LIBRARY_DIR names the folder that has it")
    # libmha_torch.so asks for libmha by its SONAME. A library of that SONAME that is loaded already is taken, whatever
    # its file is called (a wheel has no symbolic links).
    for core in sorted(folder.glob("libmha.so*"), key=lambda path: len(path.name)):
        ctypes.CDLL(str(core))
        break
    torch.ops.load_library(str(ops))


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
