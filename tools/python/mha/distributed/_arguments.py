# SPDX-License-Identifier: Apache-2.0
"""Arguments of attention over a part of the context, and their digest, which the ranks compare."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from .. import UnsupportedError
from .._tensors import I32, I64, numbers, tensor
from ._placement import Segment

# What calls of attention take, but not over a context that is split.
_REFUSED = {
    "query_offsets": "all items have the same length",
    "key_offsets": "all items have the same length",
    "key_lengths": "all items have the same length",
    "sequences": "a call has all items of the SplitCache",
    "offsets": "all items have the same length, so `offset` is enough",
    "key_positions": "keys are rotated by append",
    "key_norm": "keys are normed by append",
    "block_mask": "blocks are counted from the first key of the context; give a bit_mask",
}


def refuse_options(options: Mapping[str, Any]) -> None:
    for name, reason in _REFUSED.items():
        if options.get(name) is not None:
            raise UnsupportedError(f"{name} is not implemented for a context that is split over ranks: {reason}")


def first_position(options: Mapping[str, Any], total: int, queries: int) -> int:
    """The position of query 0, as `align` says."""
    align = options.get("align") or "default"
    if options.get("offset") and align != "offset":
        raise ValueError(f"offset is given, but align is {align!r}")
    places = {"default": total - queries, "end": total - queries, "start": 0, "offset": int(options.get("offset") or 0)}
    if align not in places:
        raise ValueError(f"align is {align!r}, but must be one of {', '.join(map(repr, places))}")
    return places[align]


def _cut(array: Any, axis: int, begin: int, end: int) -> Any:
    """array[begin:end] along an axis counted from the last, if it has that axis with more than one element."""
    shape = tensor(array, "mask").shape
    if len(shape) < -axis or shape[axis] == 1:
        return array
    return array[(..., slice(begin, end), *(slice(None),) * (-axis - 1))]


def _table(options: Mapping[str, Any], name: str) -> np.ndarray[Any, Any]:
    """Numbers of items and tokens; a list gets the type that the library takes."""
    given = options[name]
    if isinstance(given, (list, tuple)):
        given = numbers(given, name, I64 if name == "query_positions" else I32, np.shape(given)).owner
    return np.asarray(given)


def options_of_queries(options: Mapping[str, Any], begin: int, end: int) -> dict[str, Any]:
    """The options of the queries [begin, end) alone."""
    made = {name: value for name, value in options.items() if value is not None and name not in ("align", "offset", "sink_logits")}
    for name in ("mask", "mask2", "bit_mask"):
        if name in made:
            made[name] = _cut(made[name], -2, begin, end)
    for name in ("query_segments", "query_positions"):
        if name in made:
            made[name] = np.ascontiguousarray(_table(made, name)[:, begin:end])
    return made


def options_of_item(options: Mapping[str, Any], item: int) -> dict[str, Any]:
    """The options of `options_of_queries` of one item of the batch."""
    made = dict(options)
    for name in ("mask", "mask2", "bit_mask"):
        if name in made:
            made[name] = _cut(made[name], -4, item, item + 1)
    for name in ("query_segments", "query_positions", "key_segments"):
        if name in made:
            made[name] = _table(made, name)[item : item + 1]
    if "prefix_lengths" in made:
        made["prefix_lengths"] = [int(made["prefix_lengths"][item])]
    return made


def options_of_segment(options: Mapping[str, Any], segment: Segment, position: int, queries: int) -> dict[str, Any]:
    """The options of `options_of_item` for the keys of a segment; the first query stands at `position`.

    A part's keys, and so the positions of queries, count from its first key.
    """
    made = dict(options)
    made["align"], made["offset"] = "offset", position - segment.start
    if "rope" in made and "query_positions" not in made:
        made["query_positions"] = np.arange(position, position + queries)[None]
    for name in ("mask", "mask2"):
        if name in made:
            made[name] = _cut(made[name], -1, segment.start, segment.end)
    if "bit_mask" in made:
        made["bit_mask"] = made["bit_mask"][..., segment.start // 8 : -(-segment.end // 8)]
    if "key_segments" in made:
        made["key_segments"] = made["key_segments"][0, segment.start : segment.end]
    if "prefix_lengths" in made:
        made["prefix_lengths"] = [max(0, made["prefix_lengths"][0] - segment.start)]
    if "sink_tokens" in made:
        made["sink_tokens"] = max(0, made["sink_tokens"] - segment.start)
        if not made["sink_tokens"]:
            del made["sink_tokens"]
    return made


def check_sizes(options: Mapping[str, Any], batch: int, queries: int, total: int) -> None:
    """What slices would hide: sizes along items, queries and keys that are not those of the call."""
    for name in ("mask", "mask2", "bit_mask"):
        if options.get(name) is None:
            continue
        shape = tensor(options[name], name).shape
        row = -(-total // 8)
        if name == "bit_mask" and (not shape or shape[-1] < row):
            raise ValueError(f"bit_mask has the shape {shape}, but needs rows of {row} bytes")
        sizes = {-4: batch, -2: queries} if name == "bit_mask" else {-4: batch, -2: queries, -1: total}
        if any(len(shape) >= -axis and shape[axis] not in (1, size) for axis, size in sizes.items()):
            keys = f"{row} bytes" if name == "bit_mask" else total
            raise ValueError(f"{name} has the shape {shape}, which does not broadcast to [{batch}, heads, {queries}, {keys}]")
    for name, wanted in (("query_segments", queries), ("query_positions", queries), ("key_segments", total)):
        if options.get(name) is not None and np.shape(options[name]) != (batch, wanted):
            raise ValueError(f"{name} has the shape {np.shape(options[name])}, but must have {(batch, wanted)}")
    if options.get("prefix_lengths") is not None and len(options["prefix_lengths"]) != batch:
        raise ValueError(f"prefix_lengths has {len(options['prefix_lengths'])} numbers, but must have {batch}")


def checksum(array: Any) -> int:
    """CRC-32 of the elements of an array, in its own order of dimensions."""
    if isinstance(array, np.ndarray):
        data: Any = np.ascontiguousarray(array).reshape(-1)
    else:
        given = array if isinstance(array, torch.Tensor) else torch.utils.dlpack.from_dlpack(array)
        data = given.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return zlib.crc32(data.view(np.uint8))


def described(value: Any) -> str:
    """A value as text that differs where the value does."""
    if is_dataclass(value) and not isinstance(value, type):
        inner = ", ".join(f"{field.name}={described(getattr(value, field.name))}" for field in fields(value))
        return f"{type(value).__name__}({inner})"
    if isinstance(value, np.ndarray) or hasattr(value, "__dlpack__"):
        return f"{value.dtype}{list(value.shape)}#{checksum(value):08x}"
    return repr(value)


def digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()
