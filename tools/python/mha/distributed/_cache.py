# SPDX-License-Identifier: Apache-2.0
"""A cache whose tokens are spread over ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import Cache, Codes, Context, Norm, Results, Rope, Storage, default_context, version
from .._attention import Layout, axes_of, shaped
from .._library import library
from .._options import Arithmetic, Options
from .._storage import Dtype, storage_of
from .._tensors import FloatDtype, tensor
from . import _arguments as arguments
from ._attention import Attention, Keys
from ._errors import RankError
from ._placement import Placement
from ._ranks import Ranks, message
from ._traffic import CHUNK

if TYPE_CHECKING:
    from typing_extensions import Unpack


def bits_of(context: Context | None) -> str:
    """The library, and the targets that have the bits of this context's target: the same on ranks that can be merged."""
    target = (context or default_context()).target
    for index in range(library.mha_target_count()):
        if library.mha_target_name(index).decode() == target and library.mha_target_same_bits(index):
            return f"mha {version()} with the bits of all FMA targets"
    return f"mha {version()} with the bits of {target}"


class SplitCache:
    """Keys and values of a context, each token on one of the ranks, and attention over all of them.

    All ranks make the same calls in the same order with the same arguments, except `append_shard`.

    num_kv_heads, head_dim, value_head_dim, key, value, key_fixed, value_fixed, context: as in `mha.Cache`.
    capacity: tokens of each item that a rank has room for, a multiple of 256.
    ranks: `Ranks`, which caches of several layers share.
    share: tokens that one rank takes by `append` before the next one's turn, a multiple of 256; None: capacity. The ranks
        take turns until all are full. A small share spreads short contexts, but a rank calls the library for each share.
    batch: items, which all have the same length.
    partial_bytes: about how many bytes of partial results a rank may hold; attention takes queries in blocks to keep to it.

    All ranks make it together. Raises MismatchError if they differ, ValueError.
    """

    def __init__(
        self,
        num_kv_heads: int,
        head_dim: int,
        capacity: int,
        *,
        ranks: Ranks,
        share: int | None = None,
        batch: int = 1,
        value_head_dim: int = 0,
        key: Storage | Dtype | None = None,
        value: Storage | Dtype | None = None,
        key_fixed: Codes | None = None,
        value_fixed: Codes | None = None,
        partial_bytes: int = 64 << 20,
        context: Context | None = None,
    ) -> None:
        self._ranks = ranks
        with ranks.call("SplitCache") as call:
            turn = capacity if share is None else share
            for name, size in (("capacity", capacity), ("share", turn)):
                if size < CHUNK or size % CHUNK:
                    raise ValueError(f"{name} is {size}, but must be a multiple of {CHUNK} tokens")
            if batch < 1:
                raise ValueError(f"batch is {batch}, but must be at least 1")
            self._made: dict[str, Any] = {
                "value_head_dim": value_head_dim,
                "max_sequences": batch,
                "key": key,
                "value": value,
                "key_fixed": key_fixed,
                "value_fixed": value_fixed,
            }
            sizes = (num_kv_heads, head_dim, capacity, turn, partial_bytes)
            text = f"SplitCache of {sizes}, {bits_of(context)}, {', '.join(f'{name}={arguments.described(part)}' for name, part in self._made.items())}"
            # Takes one token of each call on every rank, so that all ranks refuse what one would.
            self._probe = Cache(num_kv_heads, head_dim, 1, context=context, **self._made)
            call.agree(arguments.digest(text), text, 0, [message(0)] * ranks.size, [0] * ranks.size)
            call.finish()
        self.num_kv_heads, self.head_dim, self.value_head_dim = num_kv_heads, head_dim, self._probe.value_head_dim
        self.batch, self._context, self._partial_bytes = batch, context, partial_bytes
        self._hadamard = storage_of(value).hadamard
        self._number = ranks.next_cache()
        self._placement = Placement(ranks.size, capacity, turn)
        self._stores: dict[int, Cache] = {}

    @property
    def ranks(self) -> Ranks:
        return self._ranks

    @property
    def length(self) -> int:
        """Tokens of each item, on all ranks together."""
        return self._placement.length

    @property
    def lengths(self) -> list[int]:
        """How many of them each rank holds."""
        held = [0] * self._ranks.size
        for segment in self._placement.segments:
            held[segment.rank] += segment.length
        return held

    @property
    def chunks(self) -> list[int]:
        """How many chunks of 256 keys each rank holds, as `attention_traffic` takes them."""
        return self._placement.chunks(self.length)

    def __repr__(self) -> str:
        return f"mha.distributed.SplitCache({self._ranks!r}, tokens {self._placement!r})"

    def append(self, key: Any, value: Any, *, key_norm: Norm | None = None, rope: Rope | None = None, layout: Layout = "bthd") -> None:
        """Appends tokens, which every rank gives alike: key [B, T, Hkv, D], value [B, T, Hkv, Dv]. Each rank keeps its share.

        Nothing is exchanged, and the tokens of the ranks are not compared; the next attention compares lengths.
        Raises CacheFullError on all ranks, before anything is stored.
        """
        self._refuse_after_failure("append")
        length = self._taken(key, value, key_norm, rope, layout)
        self._store(self._placement.grown(length), key, value, self.length, key_norm, rope, layout)

    def append_shard(
        self, key: Any, value: Any, *, key_norm: Norm | None = None, rope: Rope | None = None, layout: Layout = "bthd"
    ) -> None:
        """Appends tokens of which each rank gives its own: those of rank 0 come first, then those of rank 1, and so on.

        There must be whole chunks of 256 tokens before them, and all ranks but the last that gives any give whole chunks;
        T may be 0. Later tokens go to the last rank that gave some, until its share is full. One exchange, of the lengths.
        Raises ValueError or CacheFullError on all ranks where lengths do not fit.
        """
        with self._ranks.call("append_shard") as call:
            length = self._taken(key, value, key_norm, rope, layout)
            given = f"{arguments.described(key_norm)}, {arguments.described(rope)}"
            text = f"append_shard to cache {self._number} of {self.length} tokens: {self._placement}, {given}"
            nothing = [0] * self._ranks.size
            counts = call.agree(arguments.digest(text), text, length, [message(0)] * self._ranks.size, nothing).values
            call.finish()
        placement = self._placement.with_shards(counts)
        # The places of a rank's tokens depend on the counts of all, so every rank looks at those of the last one.
        positions = rope.table_positions if rope is not None else None
        if positions is not None and placement.length > max(positions, self.length):
            raise ValueError(f"rope has a table of {positions} positions, but the context gets {placement.length} tokens")
        self._store(placement, key, value, self.length + sum(counts[: self._ranks.rank]), key_norm, rope, layout)

    def truncate(self, length: int) -> None:
        """Removes the tokens from `length` on, on every rank alike. Nothing is exchanged."""
        self._refuse_after_failure("truncate")
        if not 0 <= length <= self.length:
            raise ValueError(f"length is {length}, but must be in [0, {self.length}]")
        self._cut(self._placement.cut(length))

    def attention(
        self,
        query: Any,
        *,
        causal: bool = False,
        scale: float | None = None,
        arithmetic: Arithmetic = "f32",
        layout: Layout = "bthd",
        dtype: FloatDtype | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """Attention of the same queries on every rank over the tokens of all ranks: the bits of `mha.attention` in one process.

        Every rank gets the whole output. Options are those of the whole context: masks have a column for each of its tokens.
        Not taken (UnsupportedError): block_mask, packed items, and lengths or offsets of single items.
        Raises RankError, MismatchError, and what `mha.attention` raises.
        """
        return self.attention_results(
            query, causal=causal, scale=scale, arithmetic=arithmetic, layout=layout, dtype=dtype, **options
        ).output

    def attention_results(
        self,
        query: Any,
        *,
        log_sum_exp: bool = False,
        causal: bool = False,
        scale: float | None = None,
        arithmetic: Arithmetic = "f32",
        layout: Layout = "bthd",
        dtype: FloatDtype | None = None,
        **options: Unpack[Options],
    ) -> Results:
        """As `attention`, with the logarithm of the sum of exp(score), [B, H, Tq]. There are no attention weights."""
        made: Attention | None = None
        begin, end = 0, -1
        while end < 0 or begin < end:
            with self._ranks.call("attention") as call:
                if made is None:
                    made = Attention(self._keys(), query, causal, scale, arithmetic, layout, dtype, log_sum_exp, options)
                end = made.block_end(begin)
                made.run(call, begin, end)
            begin, end = end, made.queries
        assert made is not None
        return made.results()

    def _keys(self) -> Keys:
        return Keys(
            self._ranks, self._number, self._placement, self._stores, self.batch, self.head_dim, self.value_head_dim, self._hadamard,
            self._partial_bytes, self._context,
        )  # fmt: skip

    def _refuse_after_failure(self, step: str) -> None:
        failure = self._ranks.failure
        if failure is not None:
            raise RankError(
                self._ranks.rank, failure.peer, step, self._ranks.timeout, f"refused, because an earlier call failed ({failure})"
            )

    def _taken(self, key: Any, value: Any, key_norm: Norm | None, rope: Rope | None, layout: Layout) -> int:
        """How many tokens there are, which are arguments that a cache takes."""
        axes = axes_of(layout, False)
        batch, length, _, _ = shaped(tensor(key, "key"), axes, "key", "[B, T, Hkv, D]")
        values = shaped(tensor(value, "value"), axes, "value", "[B, T, Hkv, Dv]")
        if batch != self.batch or values[:2] != (batch, length):
            raise ValueError(f"key has {batch} items of {length} tokens, value {values[:2]}, but the context has {self.batch} items")
        last = (slice(None),) * axes[1] + (slice(max(0, length - 1), length),)
        position = self.length + length - 1
        try:
            self._append(self._probe, key[last], value[last], min(length, 1), position, key_norm, rope, layout)
        finally:
            self._probe.reset()
        return length

    def _append(
        self, cache: Cache, key: Any, value: Any, length: int, position: int, norm: Norm | None, rope: Rope | None, layout: Layout
    ) -> None:
        positions = None
        if rope is not None:
            positions = np.broadcast_to(np.arange(position, position + length), (self.batch, length)).copy()
        cache.append(key, value, key_norm=norm, rope=rope, positions=positions, layout=layout, context=self._context)

    def _store(self, placement: Placement, key: Any, value: Any, origin: int, norm: Norm | None, rope: Rope | None, layout: Layout) -> None:
        """Stores this rank's tokens of what is new in `placement`; key and value begin at token `origin` of the context."""
        axis = axes_of(layout, False)[1]
        old = self.length
        try:
            for segment in placement.segments:
                begin = max(segment.start, old)
                if segment.rank != self._ranks.rank or segment.end <= begin:
                    continue
                if segment.start not in self._stores:
                    self._stores[segment.start] = Cache(self.num_kv_heads, self.head_dim, segment.room, context=self._context, **self._made)
                part = (slice(None),) * axis + (slice(begin - origin, segment.end - origin),)
                self._append(self._stores[segment.start], key[part], value[part], segment.end - begin, begin, norm, rope, layout)
        except BaseException:
            self._cut(self._placement)
            raise
        self._placement = placement

    def _cut(self, placement: Placement) -> None:
        """Removes what is not in `placement`."""
        kept = {segment.start: segment.length for segment in placement.segments if segment.rank == self._ranks.rank}
        for start in list(self._stores):
            if start not in kept:
                del self._stores[start]
                continue
            for item in range(self.batch):
                if self._stores[start].length(item) > kept[start]:
                    self._stores[start].truncate(item, kept[start])
        self._placement = placement
