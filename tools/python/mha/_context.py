# SPDX-License-Identifier: Apache-2.0
"""Contexts: which threads and which target calls use."""

from __future__ import annotations

import os
import threading
from ctypes import byref, c_char_p, c_void_p, cast
from typing import Any, Literal

from . import _abi as abi
from ._library import call, library

Threading = Literal["default", "openmp", "pool"]
_THREADING = {
    "default": abi.MHA_THREADING_DEFAULT,
    "openmp": abi.MHA_THREADING_OPENMP,
    "pool": abi.MHA_THREADING_POOL,
}


def number_of(choices: dict[str, int], choice: str, name: str) -> int:
    """The number of an enumerator that is given by name."""
    try:
        return choices[choice]
    except (KeyError, TypeError):
        raise ValueError(f"{name} is {choice!r}, but must be one of {', '.join(map(repr, choices))}") from None


class Context:
    """Threads and target of calls. Immutable; threads may share it.

    num_threads: 0: the CPUs that affinity and cgroup quota allow.
    target: "avx2" or the like (see `targets`); None: the environment's MHA_TARGET, else the best for this CPU.
    threading: whose threads: the context's own pool (a call that comes while another runs works alone, with the same
        bits), or OpenMP's where the library was built with it (a wheel is not).
    process_permissions: False: never request a permission for the whole process (AMX's tiles) from the kernel.

    Raises ArgumentError, TargetError, ThreadError.
    """

    def __init__(
        self, num_threads: int = 0, target: str | None = None, threading: Threading = "pool", process_permissions: bool = True
    ) -> None:
        self._arguments = (num_threads, target, threading, process_permissions)
        options = abi.mha_context_options()
        options.num_threads = num_threads
        name = target.encode() if target is not None else None
        if name is not None:
            options.target = cast(c_char_p(name), c_void_p).value  # read during the call only
        options.threading = number_of(_THREADING, threading, "threading")
        options.no_process_permissions = 0 if process_permissions else 1
        handle = c_void_p()
        call(library.mha_context_create, byref(options), byref(handle))
        # What ctypes passes for the object. It keeps its arguments until the call returns, so a call keeps its context.
        self._as_parameter_ = handle.value

    def __del__(self) -> None:
        if getattr(self, "_as_parameter_", None):
            library.mha_context_destroy(self)

    @property
    def target(self) -> str:
        """The name of the target chosen."""
        text: bytes = library.mha_context_target(self)
        return text.decode()

    @property
    def num_threads(self) -> int:
        """The most threads that a call uses."""
        return int(library.mha_context_num_threads(self))

    def __repr__(self) -> str:
        return f"mha.Context(num_threads={self.num_threads}, target={self.target!r})"


_default: Context | None = None
_arguments: tuple[Any, ...] = ()  # of the default context, where it is made anew
_lock = threading.Lock()


def default_context() -> Context:
    """The context of calls that are given none, made by the first of them."""
    global _default
    found = _default  # which another thread may set
    if found is None:
        with _lock:
            found = _default
            if found is None:
                found = _default = Context(*_arguments)
    return found


def set_default_context(context: Context | None) -> None:
    """Sets the context of calls that are given none; None: a new one of all defaults when it is needed. The child of a fork makes
    one like it."""
    global _default, _arguments
    _default, _arguments = context, ()


of_parents: list[Context] = []  # contexts whose threads are in a process that this one was forked from: kept, never used


def _make_new_in_child() -> None:
    """The threads of a pool are not in the child of a fork: its calls get a new context, made as the old one was. The lock is
    new, too, because the thread that held it may be in the parent alone."""
    global _default, _arguments, _lock
    _lock = threading.Lock()
    if _default is not None:
        of_parents.append(_default)
        _arguments = _default._arguments
        _default = None


os.register_at_fork(after_in_child=_make_new_in_child)


def context_of(context: Context | None) -> Context:
    """The context that a call uses."""
    return context or _default or default_context()


def targets() -> list[str]:
    """Names of the targets that are built in and that this CPU can run, best first."""
    names = []
    for index in range(library.mha_target_count()):
        if library.mha_target_supported(index):
            name: bytes = library.mha_target_name(index)
            names.append(name.decode())
    return names
