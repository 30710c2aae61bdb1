# SPDX-License-Identifier: Apache-2.0
"""Caches: keys and values kept between calls, for one or more sequences."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof, byref, c_void_p
from typing import Any, Literal, NamedTuple

import numpy as np

from . import _abi as abi
from ._attention import Layout, axes_of, shaped
from ._context import Context, context_of, number_of
from ._library import call, library
from ._linear import saved
from ._options import Norm, Rope
from ._storage import BITS, DTYPES, Codes, Dtype, Storage, broadcast, code_bytes, group_count, storage_of
from ._tensors import I64, fill_view, is_dense, numbers, tensor

CacheKind = Literal["contiguous", "ring", "paged"]
_KINDS = {"contiguous": abi.MHA_CACHE_CONTIGUOUS, "ring": abi.MHA_CACHE_RING, "paged": abi.MHA_CACHE_PAGED}
_NAMES = {number: name for name, number in DTYPES.items()}
_NUMPY = {"f32": np.float32, "f16": np.float16}


class ExportedCodes(NamedTuple):
    """Codes of a cache as it keeps them: codes [T, Hkv, bytes of a row], scales and zeros [T, Hkv, groups] or None."""

    codes: Any
    scales: Any
    zeros: Any


class Cache:
    """Keys and values of earlier tokens, for sequences numbered from 0.

    num_kv_heads Hkv, head_dim D, value_head_dim Dv (default D).
    capacity: tokens: of each sequence ("contiguous"), the last ones kept of each ("ring"), of all together ("paged").
    page_size: "paged": tokens in a page, default 64. sink_tokens: "ring": first tokens that are kept too.
    key, value: how they are stored: a `Storage`, or "f32", "f16", "bf16", "i8", "u8", "i4", "u4".
    key_fixed, value_fixed: scales (and zeros) known in advance, as `Codes` without codes: Codes(None, scales) with
        scales that broadcast to [Hkv, groups] (one number; a scale a head; group=1: a scale a channel).

    One writer for each sequence; see mha_cache_create for what may run at the same time.
    Raises ArgumentError, UnsupportedError, OutOfMemoryError.
    """

    def __init__(
        self,
        num_kv_heads: int,
        head_dim: int,
        capacity: int,
        *,
        kind: CacheKind = "contiguous",
        value_head_dim: int = 0,
        max_sequences: int = 1,
        page_size: int = 0,
        sink_tokens: int = 0,
        key: Storage | Dtype | None = None,
        value: Storage | Dtype | None = None,
        key_fixed: Codes | None = None,
        value_fixed: Codes | None = None,
        context: Context | None = None,
    ) -> None:
        keep: list[Any] = []
        config = abi.mha_cache_config()
        config.kind = number_of(_KINDS, kind, "kind")
        config.num_kv_heads, config.head_dim, config.value_head_dim = num_kv_heads, head_dim, value_head_dim
        config.capacity, config.max_sequences = capacity, max_sequences
        config.page_size, config.sink_tokens = page_size, sink_tokens
        storage_of(key).fill(config.key)
        storage_of(value).fill(config.value)
        for part, fixed, width, name in (
            (config.key, key_fixed, head_dim, "key_fixed"),
            (config.value, value_fixed, value_head_dim or head_dim, "value_fixed"),
        ):
            if fixed is not None:
                part.fixed = addressof(_fixed_quant(fixed, name, num_kv_heads, width, keep))
        handle = c_void_p()
        call(library.mha_cache_create, context_of(context), byref(config), byref(handle))
        self._handle = handle.value
        library.mha_cache_get_config(self._handle, byref(config))
        self.num_kv_heads, self.head_dim, self.value_head_dim = config.num_kv_heads, config.head_dim, config.value_head_dim
        self.kind, self.capacity, self.max_sequences = kind, config.capacity, config.max_sequences
        self._config = config

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle:
            library.mha_cache_destroy(handle)

    def __repr__(self) -> str:
        key, value = _NAMES[self._config.key.dtype], _NAMES[self._config.value.dtype]
        return f"mha.Cache({self.kind!r}, num_kv_heads={self.num_kv_heads}, head_dim={self.head_dim}, key={key!r}, value={value!r})"

    def append(
        self,
        key: Any,
        value: Any,
        *,
        sequences: Any = None,
        offsets: Any = None,
        positions: Any = None,
        key_norm: Norm | None = None,
        rope: Rope | None = None,
        layout: Layout = "bthd",
        context: Context | None = None,
    ) -> None:
        """Appends tokens to sequences, all or nothing. key: [B, T, Hkv, D], value: [B, T, Hkv, Dv]; with offsets (int64 [B + 1])
        packed, [T, Hkv, D]. sequences: int64 [B], default 0 .. B - 1. positions: int64 [B, T] (packed [T]), for rope.
        Raises CacheFullError."""
        keep: list[Any] = []
        args = abi.mha_append_args()
        axes = axes_of(layout, offsets is not None)
        keys, values = tensor(key, "key"), tensor(value, "value")
        fill_view(args.key, keys, "key", axes)
        fill_view(args.value, values, "value", axes)
        batch, args.length, heads, width = shaped(keys, axes, "key", "[B, T, Hkv, D]")
        if (heads, width) != (self.num_kv_heads, self.head_dim):
            raise ValueError(f"key has the shape {keys.shape}, but the cache has {self.num_kv_heads} heads of {self.head_dim}")
        if shaped(values, axes, "value", "[B, T, Hkv, Dv]") != (batch, args.length, heads, self.value_head_dim):
            raise ValueError(f"value has the shape {values.shape}, which does not fit key {keys.shape} and widths of {self.value_head_dim}")
        args.batch = batch
        if offsets is not None:
            args.batch = len(offsets) - 1
            given = numbers(offsets, "offsets", I64, (len(offsets),))
            args.offsets = given.data
            keep.append(given)
        if sequences is not None:
            given = numbers(sequences, "sequences", I64, (args.batch,))
            args.sequences = given.data
            keep.append(given)
        if positions is not None:
            shape = (args.length,) if offsets is not None else (args.batch, args.length)
            given = numbers(positions, "positions", I64, shape)
            args.positions = given.data
            keep.append(given)
        if key_norm is not None:
            args.key_norm = addressof(key_norm.make(self.head_dim, "key_norm", keep))
        if rope is not None:
            args.rope = addressof(rope.make(self.head_dim, keep))
        call(library.mha_cache_append, context_of(context), self._handle, byref(args))

    def length(self, sequence: int = 0) -> int:
        """Tokens appended so far, including those that a ring has dropped."""
        return self._known(library.mha_cache_length(self._handle, sequence), sequence)

    def first_kept(self, sequence: int = 0) -> int:
        """The first token that is still kept, except a ring's sink tokens."""
        return self._known(library.mha_cache_first_kept(self._handle, sequence), sequence)

    def room(self, sequence: int = 0) -> int:
        """How many more tokens the sequence can take if no other sequence grows."""
        return self._known(library.mha_cache_room(self._handle, sequence), sequence)

    def _known(self, result: int, sequence: int) -> int:
        if result < 0:
            raise IndexError(f"sequence is {sequence}, but the cache has {self.max_sequences}")
        return int(result)

    @property
    def used_bytes(self) -> int:
        """Bytes of the pages that sequences hold."""
        return int(library.mha_cache_used_bytes(self._handle))

    def truncate(self, sequence: int, length: int) -> None:
        """Removes the tokens from `length` on, as if they had never been appended."""
        call(library.mha_cache_truncate, self._handle, sequence, length)

    def fork(self, source: int, destination: int, length: int = -1) -> None:
        """Makes the empty sequence `destination` equal to the first `length` tokens of `source`; -1: all."""
        call(library.mha_cache_fork, self._handle, source, destination, length)

    def remove(self, sequence: int) -> None:
        """Empties a sequence and gives its pages back."""
        call(library.mha_cache_remove, self._handle, sequence)

    def reset(self) -> None:
        """Empties all sequences."""
        library.mha_cache_reset(self._handle)

    def save(self, sequence: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """One sequence as bytes, with a checksum."""
        return saved(library.mha_cache_save_bytes, library.mha_cache_save, self._handle, sequence)

    def load(self, sequence: int, blob: Any) -> None:
        """Loads saved bytes into an empty sequence, or changes nothing. Raises BlobError, CacheFullError."""
        given = tensor(blob, "blob")
        if given.dtype not in (abi.MHA_U8, abi.MHA_I8) or len(given.shape) != 1 or not is_dense(given):
            raise ValueError(f"blob has the shape {given.shape}, but must be dense bytes")
        call(library.mha_cache_load, self._handle, sequence, given.data, given.shape[0])

    def export(
        self, sequence: int = 0, begin: int = 0, count: int | None = None, *, dtype: Literal["f32", "f16"] = "f32"
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Keys [T, Hkv, D] and values [T, Hkv, Dv] of the tokens from `begin` on, as they are stored (after rope), as floats."""
        count = self.length(sequence) - begin if count is None else count
        args = abi.mha_export_args()
        args.sequence, args.begin, args.count = sequence, begin, count
        if dtype not in _NUMPY:
            raise ValueError(f"dtype is {dtype!r}, but must be one of {', '.join(map(repr, _NUMPY))}")
        rows = (max(count, 0), self.num_kv_heads)
        keys, values = np.empty((*rows, self.head_dim), _NUMPY[dtype]), np.empty((*rows, self.value_head_dim), _NUMPY[dtype])
        for view, array in ((args.key, keys), (args.value, values)):
            view.data, view.dtype = array.ctypes.data, DTYPES[dtype]
        call(library.mha_cache_export, self._handle, byref(args))
        return keys, values

    def export_codes(self, sequence: int = 0, begin: int = 0, count: int | None = None) -> tuple[ExportedCodes, ExportedCodes]:
        """Keys and values of the tokens from `begin` on as the codes that the cache keeps. Both must be stored as codes."""
        count = self.length(sequence) - begin if count is None else count
        args = abi.mha_export_args()
        args.sequence, args.begin, args.count = sequence, begin, count
        parts = []
        for part, storage, width in (("key", self._config.key, self.head_dim), ("value", self._config.value, self.value_head_dim)):
            if storage.dtype not in BITS:
                raise ValueError(f"the cache stores its {part}s as {_NAMES[storage.dtype]}: `export` gives them")
            made = _exported(max(count, 0), self.num_kv_heads, storage, width)
            view = getattr(args, part)
            view.data, view.dtype = made.codes.ctypes.data, storage.dtype
            if made.scales is not None:
                setattr(args, f"{part}_scales", made.scales.ctypes.data)
            if made.zeros is not None:
                setattr(args, f"{part}_zeros", made.zeros.ctypes.data)
            parts.append(made)
        call(library.mha_cache_export, self._handle, byref(args))
        return parts[0], parts[1]


def _exported(count: int, heads: int, storage: abi.mha_storage, width: int) -> ExportedCodes:
    signed = storage.dtype in (abi.MHA_I8, abi.MHA_I4)
    codes = np.empty((count, heads, code_bytes(width, storage.dtype)), np.int8 if storage.dtype == abi.MHA_I8 else np.uint8)
    if storage.fixed:
        return ExportedCodes(codes, None, None)
    groups = group_count(width, storage.group)
    scale_type: Any = np.float32 if storage.scale_dtype == abi.MHA_F32 else np.float16
    if storage.scale_dtype == abi.MHA_BF16:
        import ml_dtypes

        scale_type = ml_dtypes.bfloat16
    zeros = np.empty((count, heads, groups), np.int8 if signed else np.uint8) if storage.zero_points else None
    return ExportedCodes(codes, np.empty((count, heads, groups), scale_type), zeros)


def _fixed_quant(fixed: Codes, name: str, heads: int, width: int, keep: list[Any]) -> abi.mha_quant:
    groups = group_count(width, fixed.group)
    quant = abi.mha_quant()
    scales = broadcast(
        np.asarray(fixed.scales, np.float32) if np.isscalar(fixed.scales) else fixed.scales, f"{name}.scales", (heads, groups)
    )
    quant.scales, quant.scale_dtype = scales.data, scales.dtype
    quant.group = fixed.group
    quant.stride_h = scales.strides[0]
    quant.stride_d = scales.strides[1] if groups > 1 else 0
    keep += [scales, quant]
    if fixed.zeros is not None:
        zeros = broadcast(fixed.zeros, f"{name}.zeros", (heads, groups))
        if zeros.strides != scales.strides:
            raise ValueError(f"{name}.zeros must have the layout of {name}.scales")
        quant.zeros, quant.zero_dtype = zeros.data, zeros.dtype
        keep.append(zeros)
    return quant


def reserve(caches: Sequence[Cache], tokens: Any, *, sequences: Any = None) -> None:
    """Reserves room for tokens[b] (int64 [B]) more tokens of sequences[b] in every cache (the layers of a model), or in none.
    Raises CacheFullError."""
    args = abi.mha_reserve_args()
    handles = np.array([cache._handle for cache in caches], np.uintp)
    args.caches, args.num_caches = handles.ctypes.data, len(caches)
    args.batch = len(tokens)
    given = numbers(tokens, "tokens", I64, (args.batch,))
    args.tokens = given.data
    if sequences is not None:
        chosen = numbers(sequences, "sequences", I64, (args.batch,))
        args.sequences = chosen.data
    call(library.mha_cache_reserve, byref(args))
