# SPDX-License-Identifier: Apache-2.0
"""Attention over a context that is split over ranks: partial results of the own keys, rows exchanged, merged, gathered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import Cache, Context, Results, attention_partial, merge_partials
from .. import _abi as abi
from .._attention import axes_of, shaped
from .._tensors import dtype_name, empty_like, fill_view, finished, output_array, tensor
from . import _arguments as arguments
from ._placement import Placement
from ._ranks import Call, Ranks, message
from ._rows import Floats, copy_rows, joined_items
from ._traffic import HEADER_BYTES, row_range


class Keys(NamedTuple):
    """What a rank knows of the context: where all tokens are, and the caches of its own segments by their first token."""

    ranks: Ranks
    number: int
    placement: Placement
    stores: Mapping[int, Cache]
    batch: int
    head_dim: int
    value_head_dim: int
    hadamard: bool
    partial_bytes: int
    context: Context | None


class Attention:
    """One call over all keys, which runs over blocks of queries, so that partial results stay within partial_bytes."""

    def __init__(
        self,
        keys: Keys,
        query: Any,
        causal: bool,
        scale: float | None,
        arithmetic: str,
        layout: str,
        dtype: str | None,
        log_sum_exp: bool,
        options: Mapping[str, Any],
    ) -> None:
        self.keys, self.query, self.causal, self.options = keys, query, causal, options
        axes = axes_of(layout, False)
        self.axis = axes[1]
        given = tensor(query, "query")
        fill_view(abi.mha_view(), given, "query", axes)  # a rank without keys refuses what the others do
        batch, self.queries, self.heads, width = shaped(given, axes, "query", "[B, T, H, D]")
        if (batch, width) != (keys.batch, keys.head_dim):
            raise ValueError(f"query has the shape {given.shape}, but the context has {keys.batch} items and heads of {keys.head_dim}")
        arguments.refuse_options(options)
        self.total = keys.placement.length
        arguments.check_sizes(options, batch, self.queries, self.total)
        self.position = arguments.first_position(options, self.total, self.queries)
        self.shared: dict[str, Any] = {
            "causal": causal,
            "scale": scale,
            "arithmetic": arithmetic,
            "layout": layout,
            "context": keys.context,
        }
        self.sinks = self._sinks(options.get("sink_logits"))
        self.output, output = output_array(query, (*given.shape[:-1], keys.value_head_dim), None, dtype, given.dtype)
        self.dtype = output.dtype
        self.log_sum_exp = empty_like(query, (batch, self.heads, self.queries), abi.MHA_F32) if log_sum_exp else None
        stated = ", ".join(f"{name}={arguments.described(value)}" for name, value in sorted(options.items()))
        self.text = (
            f"attention of query {dtype_name(given.dtype)}{list(given.shape)} ({layout}, {arithmetic}, causal={causal}, scale={scale}, "
            f"output {dtype_name(self.dtype)}, log_sum_exp={log_sum_exp}, {stated}) over cache {keys.number} of {self.total} tokens: "
            f"{keys.placement}; queries"
        )

    def _sinks(self, given: Any) -> Floats | None:
        if given is None:
            return None
        sinks = np.asarray(given, np.float32)
        if sinks.shape != (self.heads,):
            raise ValueError(f"sink_logits has the shape {sinks.shape}, but must have {(self.heads,)}")
        return sinks

    def block_end(self, begin: int) -> int:
        """The end of the block of queries that begins at `begin`: the same on every rank."""
        chunks = self.keys.placement.chunks(self.total)
        held = max(chunks) + -(-sum(chunks) // len(chunks))  # partial results of all rows, and all chunks of a share of the rows
        query_bytes = 4 * self.keys.batch * self.heads * (self.keys.value_head_dim + 2) * max(1, held)
        return min(self.queries, begin + max(1, self.keys.partial_bytes // query_bytes))

    def visible_end(self, end: int) -> int:
        """The first key that no query before `end` sees: its chunk and those after it are left out."""
        if not self.causal or self.options.get("prefix_lengths") is not None:
            return self.total
        return max(0, min(self.total, self.position + end))

    def run(self, call: Call, begin: int, end: int) -> None:
        """Computes the outputs of the queries [begin, end) in one call of all ranks."""
        ranks = self.keys.ranks
        rows = self.keys.batch * self.heads * (end - begin)
        visible = self.visible_end(end)
        query = self.query[(slice(None),) * self.axis + (slice(begin, end),)]
        text = f"{self.text} {begin} to {end} #{arguments.checksum(query):08x}"
        parts = self._partials(query, begin, end, visible) if rows else []
        messages = self._messages(parts, rows)
        own = row_range(rows, ranks.size, ranks.rank)
        row_bytes = 4 * (self.keys.value_head_dim + 2)
        numbers = self.keys.placement.chunk_numbers(visible)
        sizes = [len(chunks) * (own[1] - own[0]) * row_bytes for chunks in numbers]
        received = call.agree(arguments.digest(text), text, 0, messages, sizes)
        chunks = np.empty((sum(map(len, numbers)), (own[1] - own[0]) * row_bytes // 4), np.float32)
        for rank, data in enumerate(received.data):
            if sizes[rank]:
                chunks[numbers[rank]] = data.numpy().view(np.float32).reshape(len(numbers[rank]), -1)
        shares = [row_range(rows, ranks.size, rank) for rank in range(ranks.size)]
        element = empty_like(np.empty(0), (0,), self.dtype).itemsize if self.dtype != abi.MHA_BF16 else 2
        out_bytes = self.keys.value_head_dim * element + (4 if self.log_sum_exp is not None else 0)
        outputs = call.share(self._merged(chunks, own, end - begin), [(last - first) * out_bytes for first, last in shares])
        self._write(outputs, begin, end, element)
        call.finish()

    def _partials(self, query: Any, begin: int, end: int, visible: int) -> list[Floats]:
        """Partial results of the chunks of this rank that a query may see, one array for each segment."""
        keys = self.keys
        options = arguments.options_of_queries(self.options, begin, end)
        items = [arguments.options_of_item(options, item) for item in range(keys.batch)]
        parts = []
        for segment in keys.placement.segments:
            chunks = segment.visible(visible)
            if segment.rank != keys.ranks.rank or not chunks:
                continue
            of_items = []
            for item, chosen in enumerate(items):
                here = arguments.options_of_segment(chosen, segment, self.position + begin, end - begin)
                given: dict[str, Any] = {**self.shared, **here, "cache": keys.stores[segment.start], "sequences": [item]}
                of_items.append(attention_partial(query[item : item + 1], **given)[:chunks])
            parts.append(joined_items(of_items, keys.value_head_dim))
        return parts

    def _messages(self, parts: list[Floats], rows: int) -> list[torch.Tensor]:
        """For each rank a frame with room for the header, then all own chunks of its share of the rows."""
        ranks, width = self.keys.ranks, self.keys.value_head_dim
        count = sum(len(part) for part in parts)
        messages = []
        for rank in range(ranks.size):
            share = row_range(rows, ranks.size, rank)
            floats = (share[1] - share[0]) * (width + 2)
            made = message(4 * count * floats)
            into = made[HEADER_BYTES:].numpy().view(np.float32).reshape(count, floats)
            first = 0
            for part in parts:
                copy_rows(part, share, width, into[first : first + len(part)])
                first += len(part)
            messages.append(made)
        return messages

    def _merged(self, chunks: Floats, rows: tuple[int, int], queries: int) -> torch.Tensor:
        """Merges a share of the rows: bytes of the outputs, then of their log-sum-exp if wanted."""
        count = rows[1] - rows[0]
        if not count:
            return torch.empty(0, dtype=torch.uint8)
        # Each row is given as a head of its own, so that it has its own sink.
        sinks = None if self.sinks is None else self.sinks[np.arange(*rows) // queries % self.heads]
        results = merge_partials(
            chunks,
            torch.empty((1, 1, count, 1), dtype=getattr(torch, dtype_name(self.dtype))),
            self.keys.value_head_dim,
            sink_logits=sinks,
            arithmetic=self.shared["arithmetic"],
            hadamard=self.keys.hadamard,
            log_sum_exp=self.log_sum_exp is not None,
            context=self.keys.context,
        )
        parts = [results.output.view(torch.uint8).reshape(-1)]
        if self.log_sum_exp is not None:
            parts.append(results.log_sum_exp.view(torch.uint8).reshape(-1))
        return torch.cat(parts)

    def _write(self, outputs: list[torch.Tensor], begin: int, end: int, element: int) -> None:
        """Writes gathered outputs, whose rows are in the order [B, H, Tq], to their places."""
        shape = (self.keys.batch, self.heads, end - begin)
        width = self.keys.value_head_dim * element
        extra = 4 if self.log_sum_exp is not None else 0
        counts = [part.numel() // (width + extra) for part in outputs]
        gathered = np.concatenate([part.numpy()[: count * width] for part, count in zip(outputs, counts)]).reshape(*shape, width)
        place = (slice(None),) * self.axis + (slice(begin, end),)
        _bytes(self.output)[place] = gathered if self.axis == 2 else gathered.transpose(0, 2, 1, 3)
        if self.log_sum_exp is not None:
            sums = np.concatenate([part.numpy()[count * width :] for part, count in zip(outputs, counts)])
            _bytes(self.log_sum_exp)[:, :, 4 * begin : 4 * end] = sums.reshape(*shape[:2], -1)

    def results(self) -> Results:
        return Results(finished(self.output, self.query), None, finished(self.log_sum_exp, self.query))


def _bytes(array: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A view of the bytes of a new, dense array of numpy or torch."""
    made: np.ndarray[Any, np.dtype[np.uint8]]
    made = array.view(np.uint8) if isinstance(array, np.ndarray) else array.view(torch.uint8).numpy()
    return made
