# SPDX-License-Identifier: Apache-2.0
"""Loads libmha and turns its statuses into exceptions."""

from __future__ import annotations

import ctypes
import os
import threading
from ctypes import byref
from pathlib import Path
from typing import Any

from . import _abi as abi


class Error(Exception):
    """A call of the library failed. The text is the library's own: it names the argument and its value."""

    status: int = 0
    """The mha_status, for example 3."""
    name: str = ""
    """Its name, for example "MHA_ERR_SHAPE"."""


class ArgumentError(Error, ValueError):
    """A value, a shape or a stride that the call does not take."""


class UnsupportedError(Error, NotImplementedError):
    """A combination that this version does not implement."""


class OutOfMemoryError(Error, MemoryError):
    """The allocator has no memory."""


class TargetError(Error, RuntimeError):
    """The target is unknown, not built in, or not supported by this CPU."""


class ThreadError(Error, RuntimeError):
    """A thread cannot be made."""


class BlobError(Error, ValueError):
    """A saved blob is damaged, truncated, or of another version."""


class CacheFullError(Error, RuntimeError):
    """A cache has no room for the new tokens."""


_EXCEPTIONS: dict[int, type[Error]] = {
    abi.MHA_ERR_UNSUPPORTED: UnsupportedError,
    abi.MHA_ERR_OUT_OF_MEMORY: OutOfMemoryError,
    abi.MHA_ERR_TARGET: TargetError,
    abi.MHA_ERR_THREAD: ThreadError,
    abi.MHA_ERR_BLOB: BlobError,
    abi.MHA_ERR_FULL: CacheFullError,
}


def library_folder() -> Path:
    """Where libmha is: mha/lib of the package, or the folder that MHA_LIBRARY_DIR names."""
    given = os.environ.get("MHA_LIBRARY_DIR")
    return Path(given) if given else Path(__file__).parent / "lib"


def _load() -> ctypes.CDLL:
    path = library_folder() / "libmha.so"
    if not path.exists():
        raise ImportError(f"{path} is missing: this is the source of the package, which `make wheel` builds")
    library = ctypes.CDLL(str(path))
    abi.declare(library)
    return library


library = _load()


class _ErrorOfThread(threading.local):
    def __init__(self) -> None:
        self.error = abi.mha_error()
        self.pointer = byref(self.error)


_of_thread = _ErrorOfThread()


def raise_error(status: int, message: bytes) -> None:
    kind = _EXCEPTIONS.get(status, ArgumentError)
    error = kind(message.decode("utf-8", "replace"))
    error.status = status
    error.name = library.mha_status_string(status).decode()
    raise error


def call(function: Any, *arguments: Any) -> None:
    """Calls a function whose last parameter is an mha_error; without the GIL, as ctypes does."""
    of_thread = _of_thread
    status = function(*arguments, of_thread.pointer)
    if status:
        raise_error(status, of_thread.error.message)


def text_of(function: Any, *arguments: Any) -> str:
    """The text of an mha_*_explain."""
    needed = ctypes.c_size_t()
    call(function, *arguments, None, 0, byref(needed))
    buffer = ctypes.create_string_buffer(needed.value)
    call(function, *arguments, buffer, needed.value, None)
    return buffer.value.decode()


def version() -> str:
    """The version of the library, for example "0.2.0"."""
    text: bytes = library.mha_version()
    return text.decode()
