# SPDX-License-Identifier: Apache-2.0
"""Scaled dot-product attention, whole, in parts, and merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import addressof, byref, c_size_t
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from . import _abi as abi
from ._context import Context, context_of, number_of
from ._library import call, library, text_of
from ._options import (
    ARITHMETIC,
    WEIGHTS,
    Arithmetic,
    Group,
    Options,
    Pages,
    Sizes,
    WeightsMode,
    batch_of,
    cache_lengths,
    fill_options,
    groups_of,
    longest,
)
from ._storage import fill_source
from ._tensors import I32, I64, FloatDtype, Tensor, empty_like, fill_view, finished, numbers, output_array, tensor

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._cache import Cache

Layout = Literal["bthd", "bhtd"]
# Axes (b, t, h) of tensors in either layout; those of packed items have no b.
_AXES = {"bthd": 0, "bhtd": 1}
_BATCHED = ((0, 1, 2), (0, 2, 1))
_PACKED = ((-1, 0, 1), (-1, 1, 0))


class AttentionOptions(Options, total=False):
    """What `attention` and its like take: see there."""

    causal: bool
    scale: float | None
    arithmetic: Arithmetic
    layout: Layout
    cache: Cache | None
    pages: Pages | None


_OWN = frozenset(("causal", "scale", "arithmetic", "layout", "cache", "pages"))


class Results(NamedTuple):
    """output: as `attention` gives it.
    weights: float32 [B, H, Tq, Tk] ("per_head"), [B, Tq, Tk] ("averaged": the mean over heads) or [B, H, Tk] ("key_sums":
        summed over queries); of packed queries [H, Tq, Tk], [Tq, Tk], [B, H, Tk]; with weights_rows these rows alone.
    log_sum_exp: float32 [B, H, Tq]; of packed queries one array of H * Tq numbers, [H, Tq_b] of item b after another.
    """

    output: Any
    weights: Any
    log_sum_exp: Any


def axes_of(layout: str, packed: bool) -> tuple[int, int, int]:
    return (_PACKED if packed else _BATCHED)[number_of(_AXES, layout, "layout")]


def shaped(given: Tensor, axes: tuple[int, int, int], name: str, wanted: str) -> tuple[int, int, int, int]:
    """Sizes (b, t, h, d) of a tensor; b is 1 where it has no such axis."""
    if len(given.shape) != (3 if axes[0] < 0 else 4):
        raise ValueError(f"{name} has the shape {given.shape}, but must be {wanted}")
    b, t, h = axes
    return (given.shape[b] if b >= 0 else 1, given.shape[t], given.shape[h], given.shape[-1])


def fill_results(
    groups: Group, like: Any, sizes: Sizes, weights: str, weights_rows: Any, log_sum_exp: bool, keep: list[Any]
) -> tuple[Any, Any]:
    """Makes the arrays of a call's results and points the group at them."""
    mode = number_of(WEIGHTS, weights, "weights")
    made_weights = made_lse = None
    rows = sizes.query_len
    if weights_rows is not None:
        results = groups("results")
        results.num_weights_rows = len(weights_rows)
        given = numbers(weights_rows, "weights_rows", I64, (results.num_weights_rows,))
        keep.append(given)
        results.weights_rows = given.data
        rows = results.num_weights_rows
    if mode:
        heads = (sizes.heads,) if sizes.packed_queries else (sizes.batch, sizes.heads)
        shape: tuple[int, ...] = (*heads, rows, sizes.item_keys)
        if mode == abi.MHA_WEIGHTS_AVERAGED:
            shape = (*heads[:-1], rows, sizes.item_keys)
        elif mode == abi.MHA_WEIGHTS_KEY_SUMS:
            shape = (sizes.batch, sizes.heads, sizes.item_keys)
        made_weights = empty_like(like, shape, abi.MHA_F32)
        if not rows:
            made_weights[...] = 0  # sums over no query: the library writes nothing where there are none
        results = groups("results")
        results.weights_mode = mode
        results.weights.data = tensor(made_weights, "weights", True).data
    if log_sum_exp:
        count = (sizes.heads * sizes.query_len,) if sizes.packed_queries else (sizes.batch, sizes.heads, sizes.query_len)
        made_lse = empty_like(like, count, abi.MHA_F32)
        groups("results").log_sum_exp = tensor(made_lse, "log_sum_exp", True).data
    return made_weights, made_lse


class _Call:
    """The arguments of a call of attention, and what keeps their memory."""

    def __init__(self, query: Any, key: Any, value: Any, options: Mapping[str, Any]) -> None:
        self.keep: list[Any] = []
        self.args = args = abi.mha_attention_args()
        self.groups = groups_of(args, self.keep)
        self.layout = options.get("layout", "bthd")
        self.axes = axes_of(self.layout, options.get("query_offsets") is not None)
        self.query = tensor(query, "query")
        fill_view(args.query, self.query, "query", self.axes)
        args.batch, args.query_len, args.num_heads, args.head_dim = shaped(
            self.query, self.axes, "query", "[B, T, H, D] (packed: [T, H, D])"
        )
        batch = batch_of(options)
        if batch is not None:
            args.batch = batch
        args.causal = int(options.get("causal", False))
        scale = options.get("scale")
        if scale is not None:
            args.scale, args.scale_is_exact = scale, 1
        args.arithmetic = number_of(ARITHMETIC, options.get("arithmetic", "f32"), "arithmetic")
        self.sizes = self._fill_keys(key, value, options)
        fill_options(options, _OWN, self.sizes, self.groups, self.keep)

    def _fill_keys(self, key: Any, value: Any, options: Mapping[str, Any]) -> Sizes:
        args = self.args
        cache, pages = options.get("cache"), options.get("pages")
        packed_queries, packed_keys = self.axes[0] < 0, options.get("key_offsets") is not None
        item_queries = longest(options["query_offsets"], "query_offsets") if packed_queries else args.query_len
        if cache is not None:
            if key is not None or value is not None or pages is not None:
                raise ValueError("cache is given with key, value or pages: give one of them")
            args.cache, args.num_kv_heads, args.value_head_dim = cache._handle, cache.num_kv_heads, cache.value_head_dim
            self.keep.append(cache)
            lengths = cache_lengths(cache, options.get("sequences"), args.batch)
            key_len, item_keys, packed_keys = sum(lengths), max(lengths, default=0), True
        else:
            axes = axes_of(self.layout, packed_keys)
            keys = fill_source(args.key, key, "key", axes, self.keep)
            values = fill_source(args.value, value, "value", axes, self.keep)
            wanted = "[B, T, Hkv, D] (packed: [T, Hkv, D]; pages: [pages, page_size, Hkv, D])"
            batch, key_len, args.num_kv_heads, head_dim = shaped(keys, axes, "key", wanted)
            *of_values, args.value_head_dim = shaped(values, axes, "value", wanted)
            if head_dim != args.head_dim or of_values != [batch, key_len, args.num_kv_heads]:
                raise ValueError(f"query, key and value do not fit: {self.query.shape}, {keys.shape}, {values.shape}")
            if args.num_kv_heads < 1:
                raise ValueError(f"key has the shape {keys.shape}: no heads")
            if pages is not None:
                key_len = self._fill_pages(pages, batch, key_len, options)
            elif not packed_keys and batch != args.batch:
                raise ValueError(f"key has {batch} items, but query has {args.batch}")
            args.key_len = key_len
            item_keys = longest(options["key_offsets"], "key_offsets") if packed_keys else key_len
        return Sizes(
            args.batch, args.num_heads, args.head_dim, args.query_len, key_len, item_queries, item_keys, packed_queries, packed_keys
        )

    def _fill_pages(self, pages: Pages, num_pages: int, page_size: int, options: Mapping[str, Any]) -> int:
        """Returns key_len."""
        lengths = options.get("key_lengths")
        if lengths is None:
            raise ValueError("key_lengths must be given with pages")
        given = numbers(lengths, "key_lengths", I64, (self.args.batch,))
        longest_item = max(np.asarray(lengths).tolist() if not isinstance(lengths, (list, tuple)) else lengths, default=0)
        key_len = longest_item if pages.key_len is None else pages.key_len
        table = tensor(pages.table, "pages.table")
        table = numbers(pages.table, "pages.table", I32, (self.args.batch, *table.shape[1:2]))
        if table.shape[1] * page_size < longest_item:
            raise ValueError(f"pages.table has the shape {table.shape}, too few pages of {page_size} for {longest_item} tokens")
        group = abi.mha_pages()
        group.table, group.stride = table.data, table.shape[1]
        group.page_size, group.num_pages = page_size, num_pages
        self.args.pages = addressof(group)
        self.keep += [given, table, group]
        return int(key_len)

    def output(self, query: Any, out: Any, dtype: str | None) -> Any:
        """The array for the output: `out`, or a new one."""
        shape = (*self.query.shape[:-1], self.args.value_head_dim)
        out, given = output_array(query, shape, out, dtype, self.query.dtype)
        fill_view(self.args.output, given, "out", self.axes)
        self.keep.append(given.owner)
        return out


def attention(
    query: Any,
    key: Any = None,
    value: Any = None,
    *,
    out: Any = None,
    dtype: FloatDtype | None = None,
    causal: bool = False,
    scale: float | None = None,
    arithmetic: Arithmetic = "f32",
    layout: Layout = "bthd",
    cache: Cache | None = None,
    pages: Pages | None = None,
    context: Context | None = None,
    **options: Unpack[Options],
) -> Any:
    """Scaled dot-product attention: output[b, i, h] = sum_j softmax_j(scale * <query[b, i, h], key[b, j, g]>) value[b, j, g].

    query: [B, Tq, H, D] float32, float16 or bfloat16; with layout "bhtd" [B, H, Tq, D], as torch's; packed items
        (query_offsets) have no B. Any strides, except that the last dimension is dense.
    key, value: [B, Tk, Hkv, D], [B, Tk, Hkv, Dv], of these types or `Codes`; query head h uses head h // (H / Hkv).
        Instead of them: cache, a `Cache`; or with `pages` the caller's own pages.
    out: the array to write, [B, Tq, H, Dv]; may be query. None: a new one, of query's kind and type (or `dtype`).
    scale: None: 1 / sqrt(D).
    arithmetic: "f32" (the same bits on every FMA target), "bf16", "int8" (over int8 codes); see mha.h.
    options: masks, positions, lengths and score changes: see `Options`.

    Returns the output. Rows with no visible key are zeros. Same bits for any threads, batch, strides or cache.
    Raises ArgumentError, UnsupportedError, OutOfMemoryError; TypeError and ValueError for arrays that cannot be taken.
    """
    own = {"causal": causal, "scale": scale, "arithmetic": arithmetic, "layout": layout, "cache": cache, "pages": pages}
    made = _Call(query, key, value, own | options)
    output = made.output(query, out, dtype)
    call(library.mha_attention, context_of(context), byref(made.args))
    return finished(output, query) if out is None else out


def attention_results(
    query: Any,
    key: Any = None,
    value: Any = None,
    *,
    weights: WeightsMode = "none",
    weights_rows: Any = None,
    log_sum_exp: bool = False,
    out: Any = None,
    dtype: FloatDtype | None = None,
    context: Context | None = None,
    **options: Unpack[AttentionOptions],
) -> Results:
    """As `attention`, with more results: attention weights, and the logarithm of the sum of exp(score).

    weights_rows: int64, ascending: the queries whose weights are returned or summed.
    """
    made = _Call(query, key, value, options)
    output = made.output(query, out, dtype)
    found, lse = fill_results(made.groups, query, made.sizes, weights, weights_rows, log_sum_exp, made.keep)
    call(library.mha_attention, context_of(context), byref(made.args))
    return Results(finished(output, query) if out is None else out, finished(found, query), finished(lse, query))


def attention_explain(
    query: Any,
    key: Any = None,
    value: Any = None,
    *,
    context: Context | None = None,
    **options: Unpack[AttentionOptions],
) -> str:
    """How `attention` would run with these arguments, and why: lines of "key: value"."""
    made = _Call(query, key, value, options)
    made.output(query, None, None)
    return text_of(library.mha_attention_explain, context_of(context), byref(made.args))


def attention_partial(
    query: Any,
    key: Any = None,
    value: Any = None,
    *,
    context: Context | None = None,
    **options: Unpack[AttentionOptions],
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Attention over a part of the keys: float32 [chunks of 256 keys, B * H * Tq * (Dv + 2)], for `merge_partials`.

    Where anything depends on positions, use align "offset" with Tk of the whole - Tq - the number of keys before the part.
    Every part except the last has a multiple of 256 keys.
    """
    made = _Call(query, key, value, options)
    needed = c_size_t()
    chosen = context_of(context)
    call(library.mha_attention_partial_bytes, chosen, byref(made.args), byref(needed))
    args = made.args
    width = args.batch * args.num_heads * args.query_len * (args.value_head_dim + 2)
    partials = np.empty((needed.value // (4 * width) if width else 0, width), np.float32)
    call(library.mha_attention_partial, chosen, byref(made.args), partials.ctypes.data, partials.nbytes)
    return partials


def merge_partials(
    partials: Any,
    query: Any,
    value_head_dim: int,
    *,
    layout: Layout = "bthd",
    dtype: FloatDtype | None = None,
    sink_logits: Any = None,
    arithmetic: Arithmetic = "f32",
    hadamard: bool = False,
    log_sum_exp: bool = False,
    context: Context | None = None,
) -> Results:
    """Merges partial results in ascending order to the bits of one call over all keys.

    partials: float32 [chunks, B * H * Tq * (Dv + 2)]: those of all parts, one after the other. query: as in the parts.
    """
    axes = axes_of(layout, False)
    given = tensor(query, "query")
    args = abi.mha_merge_partials_args()
    args.batch, args.query_len, args.num_heads, _ = shaped(given, axes, "query", "[B, T, H, D]")
    args.value_head_dim = value_head_dim
    width = args.batch * args.num_heads * args.query_len * (value_head_dim + 2)
    chunks = tensor(partials, "partials")
    args.num_chunks = chunks.shape[0] if chunks.shape else 0
    chunks = numbers(partials, "partials", abi.MHA_F32, (args.num_chunks, width))
    args.partials = chunks.data
    if sink_logits is not None:
        sinks = numbers(sink_logits, "sink_logits", abi.MHA_F32, (args.num_heads,))
        args.sink_logits = sinks.data
    args.arithmetic = number_of(ARITHMETIC, arithmetic, "arithmetic")
    args.hadamard = int(hadamard)
    output, made = output_array(query, (*given.shape[:-1], value_head_dim), None, dtype, given.dtype)
    fill_view(args.output, made, "output", axes)
    lse = None
    if log_sum_exp:
        lse = empty_like(query, (args.batch, args.num_heads, args.query_len), abi.MHA_F32)
        args.log_sum_exp = tensor(lse, "log_sum_exp", True).data
    call(library.mha_attention_merge_partials, context_of(context), byref(args))
    return Results(finished(output, query), None, finished(lse, query))


def merge(outputs: Sequence[Any], log_sum_exps: Sequence[Any], *, context: Context | None = None) -> Results:
    """Merges finished results over disjoint sets of keys by their log-sum-exp (cascade, ring attention).

    outputs: float32 [..., Dv] each; log_sum_exps: float32 [...] each, rows in the same order.
    """
    if len(outputs) != len(log_sum_exps) or not outputs:
        raise ValueError(f"{len(outputs)} outputs and {len(log_sum_exps)} log_sum_exps: give as many, at least one")
    shape = tensor(outputs[0], "outputs[0]").shape
    given = [numbers(output, f"outputs[{n}]", abi.MHA_F32, shape) for n, output in enumerate(outputs)]
    sums = [numbers(lse, f"log_sum_exps[{n}]", abi.MHA_F32, shape[:-1]) for n, lse in enumerate(log_sum_exps)]
    output_pointers = np.array([part.data for part in given], np.uintp)
    sum_pointers = np.array([part.data for part in sums], np.uintp)
    output, lse = empty_like(outputs[0], shape, abi.MHA_F32), empty_like(outputs[0], shape[:-1], abi.MHA_F32)
    args = abi.mha_merge_args()
    args.num_parts, args.value_head_dim = len(given), shape[-1]
    args.rows = int(np.prod(shape[:-1], dtype=np.int64))
    args.outputs, args.log_sum_exps = output_pointers.ctypes.data, sum_pointers.ctypes.data
    args.output, args.log_sum_exp = tensor(output, "output", True).data, tensor(lse, "log_sum_exp", True).data
    call(library.mha_attention_merge, context_of(context), byref(args))
    return Results(finished(output, outputs[0]), None, finished(lse, outputs[0]))
