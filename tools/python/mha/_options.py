# SPDX-License-Identifier: Apache-2.0
"""The groups that calls of attention and layers share (mha_items, mha_masks, ...), as keyword arguments."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from ctypes import addressof, c_int64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

from . import _abi as abi
from ._context import number_of
from ._tensors import BOOL, I32, I64, dtype_name, numbers, stride_of, tensor

if TYPE_CHECKING:
    from ._cache import Cache

Arithmetic = Literal["f32", "bf16", "int8"]
Align = Literal["default", "start", "end", "offset"]
WeightsMode = Literal["none", "per_head", "averaged", "key_sums"]
RopeStyle = Literal["half", "interleaved"]
RopeScaling = Literal["none", "linear", "llama3", "yarn"]

ARITHMETIC = {"f32": abi.MHA_ARITHMETIC_F32, "bf16": abi.MHA_ARITHMETIC_BF16, "int8": abi.MHA_ARITHMETIC_INT8}
ALIGN = {
    "default": abi.MHA_ALIGN_DEFAULT,
    "start": abi.MHA_ALIGN_START,
    "end": abi.MHA_ALIGN_END,
    "offset": abi.MHA_ALIGN_OFFSET,
}
WEIGHTS = {
    "none": abi.MHA_WEIGHTS_NONE,
    "per_head": abi.MHA_WEIGHTS_PER_HEAD,
    "averaged": abi.MHA_WEIGHTS_AVERAGED,
    "key_sums": abi.MHA_WEIGHTS_KEY_SUMS,
}
_ROPE_STYLE = {"half": abi.MHA_ROPE_HALF, "interleaved": abi.MHA_ROPE_INTERLEAVED}
_ROPE_SCALING = {
    "none": abi.MHA_ROPE_SCALING_NONE,
    "linear": abi.MHA_ROPE_SCALING_LINEAR,
    "llama3": abi.MHA_ROPE_SCALING_LLAMA3,
    "yarn": abi.MHA_ROPE_SCALING_YARN,
}


@dataclass(frozen=True)
class Rope:
    """Rotary positions (RoPE, arXiv 2104.09864). Fields and defaults as in mha_rope; 0 is the default.

    style: "half": pairs (d, d + dims/2), GPT-NeoX and Llama of Hugging Face; "interleaved": pairs (2d, 2d + 1).
    scaling: "linear" (factor), "llama3" (factor, low_freq_factor, high_freq_factor, original_positions), "yarn"
        (factor, beta_fast, beta_slow, attention_factor, original_positions).
    dims: the first elements of a row, which are rotated; 0: all.
    cos, sin: float32 [positions, dims/2], a table instead of base and scaling (`rope_table` makes one).
    """

    style: RopeStyle = "half"
    scaling: RopeScaling = "none"
    dims: int = 0
    base: float = 0.0
    factor: float = 0.0
    low_freq_factor: float = 0.0
    high_freq_factor: float = 0.0
    beta_fast: float = 0.0
    beta_slow: float = 0.0
    attention_factor: float = 0.0
    original_positions: int = 0
    cos: Any = None
    sin: Any = None

    @property
    def table_positions(self) -> int | None:
        """How many positions the table has; None: there is no table."""
        if self.cos is None:
            return None
        shape = tensor(self.cos, "rope.cos").shape
        return shape[0] if shape else 0

    def make(self, head_dim: int, keep: list[Any]) -> abi.mha_rope:
        rope = abi.mha_rope()
        rope.style = number_of(_ROPE_STYLE, self.style, "rope.style")
        rope.scaling = number_of(_ROPE_SCALING, self.scaling, "rope.scaling")
        rope.dims, rope.base, rope.factor = self.dims, self.base, self.factor
        rope.low_freq_factor, rope.high_freq_factor = self.low_freq_factor, self.high_freq_factor
        rope.beta_fast, rope.beta_slow, rope.attention_factor = self.beta_fast, self.beta_slow, self.attention_factor
        rope.original_positions = self.original_positions
        if self.cos is not None and self.sin is not None:
            rope.table_positions = self.table_positions or 0
            shape = (rope.table_positions, (self.dims or head_dim) // 2)
            cos, sin = (numbers(table, f"rope.{name}", abi.MHA_F32, shape) for name, table in (("cos", self.cos), ("sin", self.sin)))
            rope.cos, rope.sin = cos.data, sin.data
            keep += [cos, sin]
        elif self.cos is not None or self.sin is not None:
            raise ValueError("rope.cos and rope.sin: give both or none")
        keep.append(rope)
        return rope


@dataclass(frozen=True)
class Norm:
    """RMS norm of the rows of a head (arXiv 1910.07467): x / sqrt(mean(x^2) + epsilon) * weight. weight: float32 [D]."""

    epsilon: float
    weight: Any = None

    def make(self, head_dim: int, name: str, keep: list[Any]) -> abi.mha_norm:
        norm = abi.mha_norm()
        norm.epsilon = self.epsilon
        if self.weight is not None:
            weight = numbers(self.weight, f"{name}.weight", abi.MHA_F32, (head_dim,))
            norm.weight = weight.data
            keep.append(weight)
        keep.append(norm)
        return norm


@dataclass(frozen=True)
class Pages:
    """The caller's own pages of keys and values (a block table), which needs key_lengths. The arrays key and value are
    then [num_pages, page_size, Hkv, D], with layout "bhtd" [num_pages, Hkv, page_size, D].

    table: int32 [B, pages of an item]: page table[b, n] has the tokens from n * page_size on of item b.
    key_len: an upper bound of the lengths, which gives the layout of weights and masks; None: their greatest.
    """

    table: Any
    key_len: int | None = None


@dataclass(frozen=True)
class BlockMask:
    """Block-sparse attention: queries of block i see keys of block j for each pair (i, j).

    pairs: int64 [num_pairs, 2], ascending and distinct in each list.
    pair_offsets: int64 [B * H + 1]: head h of item b has the pairs from offsets[b * H + h] on; None: all heads have all.
    """

    query_block: int
    key_block: int
    pairs: Any
    pair_offsets: Any = None


class Options(TypedDict, total=False):
    """What calls of attention and layers take beside their tensors. In square brackets: the shape of an array, or of a
    list of numbers; int64 unless it says otherwise.

    query_offsets, key_offsets: [B + 1]: packed items, as flash-attn's cu_seqlens; tensors then have no batch dimension.
    key_lengths: [B]: keys beyond them are not read.
    sequences: [B]: sequences of the cache; default 0 .. B - 1.
    align: where query 0 stands: "start": at key 0; "end" (default): the last query at the last key; "offset": query i at
        i + offset, or i + offsets[b]. offset, offsets: [B]. With key_lengths it must be given where anything depends on
        positions (causal, windows, ALiBi, relative bias, rope without query_positions).
    query_positions, key_positions: [B, Tq], [B, Tk] (packed: [Tq]), for rope alone.
    window_left, window_right: n >= 1: keys j > p(i) - n, and j < p(i) + n. sink_tokens: window_left does not hide these.
    prefix_lengths: [B]: causality does not hide keys j < prefix_lengths[b].
    query_segments, key_segments: int32 [B, Tq], [B, Tk] (packed: [Tq], [Tk]).
    mask: bool (True: visible) or float32, float16, bfloat16 (added to scores); broadcasts to [B, H, Tq, Tk].
    mask2: float: added after mask. mask_factors: float32 [H]: a float mask is multiplied by the head's before.
    bit_mask: uint8 [B or 1, H or 1, Tq or 1, ceil(Tk / 8)]: a bit for each key, the lowest first.
    block_mask: BlockMask.
    softcap: scores become softcap * tanh(score / softcap).
    alibi_slopes: float32 [H]. relative_bias: float32 [H, relative_left + relative_right + 1]. relative_left: distances
        left of 0 in it; default half of them.
    sink_logits: float32 [H].
    query_norm, key_norm: Norm. rope: Rope.
    max_threads: the call uses at most this many threads of its context.
    """

    query_offsets: Any
    key_offsets: Any
    key_lengths: Any
    sequences: Any
    align: Align
    offset: int
    offsets: Any
    query_positions: Any
    key_positions: Any
    window_left: int
    window_right: int
    sink_tokens: int
    prefix_lengths: Any
    query_segments: Any
    key_segments: Any
    mask: Any
    mask2: Any
    mask_factors: Any
    bit_mask: Any
    block_mask: BlockMask
    softcap: float
    alibi_slopes: Any
    relative_bias: Any
    relative_left: int
    sink_logits: Any
    query_norm: Norm
    key_norm: Norm
    rope: Rope
    max_threads: int


class Sizes(NamedTuple):
    """Of a call. query_len and key_len are those of the tensors, for packed items the sums; item_queries and item_keys
    are those of the longest item."""

    batch: int
    heads: int
    head_dim: int
    query_len: int
    key_len: int
    item_queries: int
    item_keys: int
    packed_queries: bool
    packed_keys: bool


Group = Callable[[str], Any]


def _array(name: str, dtype: int, field: str, group: str, shape: Callable[[Sizes], tuple[int, ...]]) -> Any:
    def fill(value: Any, sizes: Sizes, groups: Group, keep: list[Any]) -> None:
        given = numbers(value, name, dtype, shape(sizes))
        keep.append(given)
        setattr(groups(group), field, given.data)

    return fill


def _number(name: str, field: str, group: str) -> Any:
    def fill(value: Any, sizes: Sizes, groups: Group, keep: list[Any]) -> None:
        try:
            setattr(groups(group), field, value)
        except TypeError:
            raise TypeError(f"{name} is a {type(value).__name__}, but must be a number") from None

    return fill


def _query_rows(sizes: Sizes) -> tuple[int, ...]:
    return (sizes.query_len,) if sizes.packed_queries else (sizes.batch, sizes.query_len)


def _key_rows(sizes: Sizes) -> tuple[int, ...]:
    return (sizes.key_len,) if sizes.packed_keys else (sizes.batch, sizes.key_len)


def _broadcast_strides(given: Any, name: str, shape: tuple[int, ...], packed: bool) -> tuple[int, ...]:
    """Strides of a mask that broadcasts to the shape; 0 repeats. Masks of packed items may be larger than an item."""
    sizes = (1,) * (len(shape) - len(given.shape)) + given.shape
    strides = (0,) * (len(shape) - len(given.shape)) + given.strides
    fits = len(sizes) == len(shape) and all(
        size in (1, wanted) or (packed and n >= 2 and size >= wanted) for n, (size, wanted) in enumerate(zip(sizes, shape))
    )
    if not fits:
        raise ValueError(f"{name} has the shape {given.shape}, which does not broadcast to {shape}")
    if min(strides, default=0) < 0:
        raise ValueError(f"{name} has a negative stride: copy it first")
    return tuple([stride if size > 1 else 0 for size, stride in zip(sizes, strides)])


def _mask_shape(sizes: Sizes) -> tuple[int, ...]:
    return (sizes.batch, sizes.heads, sizes.item_queries, sizes.item_keys)


def _fill_mask(value: Any, sizes: Sizes, groups: Group, keep: list[Any], name: str = "mask") -> None:
    given = tensor(value, name)
    keep.append(given)
    packed = sizes.packed_queries or sizes.packed_keys
    strides = _broadcast_strides(given, name, _mask_shape(sizes), packed)
    masks = groups("masks")
    if given.dtype == BOOL and name == "mask":
        into = masks.bool_mask
    elif given.dtype in (abi.MHA_F32, abi.MHA_F16, abi.MHA_BF16):
        into = masks.add_mask if name == "mask" else masks.add_mask2
        into.dtype = given.dtype
    else:
        raise TypeError(f"{name} is {dtype_name(given.dtype)}, but must be bool, float32, float16 or bfloat16")
    into.data = given.data
    into.stride_b, into.stride_h, into.stride_q = strides[:3]
    into.stride_k = stride_of(sizes.item_keys, strides[3])


def _fill_mask2(value: Any, sizes: Sizes, groups: Group, keep: list[Any]) -> None:
    _fill_mask(value, sizes, groups, keep, "mask2")


def _fill_bit_mask(value: Any, sizes: Sizes, groups: Group, keep: list[Any]) -> None:
    given = tensor(value, "bit_mask")
    keep.append(given)
    if given.dtype != abi.MHA_U8:
        raise TypeError(f"bit_mask is {dtype_name(given.dtype)}, but must be uint8")
    row = (sizes.item_keys + 7) // 8
    if not given.shape or given.shape[-1] < row or (row > 1 and given.strides[-1] != 1):
        raise ValueError(f"bit_mask has the shape {given.shape}; rows must be dense and of at least {row} bytes")
    shape = (sizes.batch, sizes.heads, sizes.item_queries, given.shape[-1])
    strides = _broadcast_strides(given, "bit_mask", shape, sizes.packed_queries)
    mask = groups("masks").bit_mask
    mask.data = given.data
    mask.stride_b, mask.stride_h, mask.stride_q = strides[:3]


def _fill_block_mask(value: BlockMask, sizes: Sizes, groups: Group, keep: list[Any]) -> None:
    mask = groups("masks").block_mask
    mask.query_block, mask.key_block = value.query_block, value.key_block
    pairs = tensor(value.pairs, "block_mask.pairs")
    mask.num_pairs = pairs.shape[0] if pairs.shape else 0
    pairs = numbers(value.pairs, "block_mask.pairs", I64, (mask.num_pairs, 2))
    keep.append(pairs)
    mask.pairs = pairs.data
    if value.pair_offsets is not None:
        shape = (sizes.batch * sizes.heads + 1,)
        offsets = numbers(value.pair_offsets, "block_mask.pair_offsets", I64, shape)
        keep.append(offsets)
        mask.pair_offsets = offsets.data


def _fill_align(value: str, sizes: Sizes, groups: Group, keep: list[Any]) -> None:
    groups("positions").align = number_of(ALIGN, value, "align")


def _fill_norm(name: str) -> Any:
    def fill(value: Norm, sizes: Sizes, groups: Group, keep: list[Any]) -> None:
        if not isinstance(value, Norm):
            raise TypeError(f"{name} is a {type(value).__name__}, but must be an mha.Norm")
        setattr(groups("args"), name, addressof(value.make(sizes.head_dim, name, keep)))

    return fill


def _fill_rope(value: Rope, sizes: Sizes, groups: Group, keep: list[Any]) -> None:
    if not isinstance(value, Rope):
        raise TypeError(f"rope is a {type(value).__name__}, but must be an mha.Rope")
    groups("args").rope = addressof(value.make(sizes.head_dim, keep))


def _fill_relative_bias(value: Any, sizes: Sizes, groups: Group, keep: list[Any]) -> None:
    mods = groups("score_mods")
    width = tensor(value, "relative_bias").shape[-1:]
    given = numbers(value, "relative_bias", abi.MHA_F32, (sizes.heads, *width))
    keep.append(given)
    mods.relative_bias = given.data
    mods.relative_left = (width[0] - 1) // 2
    mods.relative_right = width[0] - 1 - mods.relative_left


def _fill_relative_left(value: int, sizes: Sizes, groups: Group, keep: list[Any]) -> None:
    mods = groups("score_mods")  # after relative_bias, whose width it divides
    mods.relative_left, mods.relative_right = value, mods.relative_left + mods.relative_right - value


_FILL: dict[str, Any] = {
    "query_offsets": _array("query_offsets", I64, "query_offsets", "items", lambda s: (s.batch + 1,)),
    "key_offsets": _array("key_offsets", I64, "key_offsets", "items", lambda s: (s.batch + 1,)),
    "key_lengths": _array("key_lengths", I64, "key_lengths", "items", lambda s: (s.batch,)),
    "sequences": _array("sequences", I64, "sequences", "items", lambda s: (s.batch,)),
    "align": _fill_align,
    "offset": _number("offset", "offset", "positions"),
    "offsets": _array("offsets", I64, "offsets", "positions", lambda s: (s.batch,)),
    "query_positions": _array("query_positions", I64, "query", "positions", _query_rows),
    "key_positions": _array("key_positions", I64, "key", "positions", _key_rows),
    "window_left": _number("window_left", "window_left", "masks"),
    "window_right": _number("window_right", "window_right", "masks"),
    "sink_tokens": _number("sink_tokens", "sink_tokens", "masks"),
    "prefix_lengths": _array("prefix_lengths", I64, "prefix_lengths", "masks", lambda s: (s.batch,)),
    "query_segments": _array("query_segments", I32, "query_segments", "masks", _query_rows),
    "key_segments": _array("key_segments", I32, "key_segments", "masks", _key_rows),
    "mask": _fill_mask,
    "mask2": _fill_mask2,
    "mask_factors": _array("mask_factors", abi.MHA_F32, "add_mask_factors", "masks", lambda s: (s.heads,)),
    "bit_mask": _fill_bit_mask,
    "block_mask": _fill_block_mask,
    "softcap": _number("softcap", "softcap", "score_mods"),
    "alibi_slopes": _array("alibi_slopes", abi.MHA_F32, "alibi_slopes", "score_mods", lambda s: (s.heads,)),
    "relative_bias": _fill_relative_bias,
    "relative_left": _fill_relative_left,
    "sink_logits": _array("sink_logits", abi.MHA_F32, "sink_logits", "score_mods", lambda s: (s.heads,)),
    "query_norm": _fill_norm("query_norm"),
    "key_norm": _fill_norm("key_norm"),
    "rope": _fill_rope,
    "max_threads": _number("max_threads", "max_threads", "resources"),
}

_GROUPS: dict[str, Any] = {
    "items": abi.mha_items,
    "positions": abi.mha_positions,
    "masks": abi.mha_masks,
    "score_mods": abi.mha_score_mods,
    "results": abi.mha_results,
    "resources": abi.mha_resources,
}


def groups_of(args: Any, keep: list[Any]) -> Group:
    """The groups of an args struct by name, each made when it is first used."""
    made: dict[str, Any] = {"args": args}

    def group(name: str) -> Any:
        if name not in made:
            made[name] = _GROUPS[name]()
            keep.append(made[name])
            setattr(args, name, addressof(made[name]))
        return made[name]

    return group


def fill_options(options: Mapping[str, Any], own: frozenset[str], sizes: Sizes, groups: Group, keep: list[Any]) -> None:
    """Fills the groups. own: names of options that the call itself has used."""
    for name in options:
        if name not in _FILL and name not in own:
            raise TypeError(f"{name!r} is no argument of this call; there are {', '.join([*sorted(own), *_FILL])}")
    for name, fill in _FILL.items():  # in this order: relative_left needs relative_bias
        value = options.get(name)
        if value is not None:
            fill(value, sizes, groups, keep)


def batch_of(options: Mapping[str, Any]) -> int | None:
    """The number of items that query_offsets state, or None."""
    offsets = options.get("query_offsets")
    if offsets is None:
        return None
    length = len(offsets) if isinstance(offsets, (list, tuple)) else tensor(offsets, "query_offsets").shape[0]
    if length < 1:
        raise ValueError("query_offsets has no entries, but needs one more than there are items")
    return length - 1


def longest(offsets: Any, name: str) -> int:
    """The greatest difference of neighbouring offsets."""
    if not isinstance(offsets, (list, tuple)):
        given = numbers(offsets, name, I64, tensor(offsets, name).shape)
        offsets = (c_int64 * given.shape[0]).from_address(given.data)[:] if given.shape else []
    return max((int(end) - int(begin) for begin, end in itertools.pairwise(offsets)), default=0)


def cache_lengths(cache: Cache, sequences: Any, batch: int) -> list[int]:
    order = range(batch) if sequences is None else [int(s) for s in sequences]
    return [cache.length(s) for s in order]
