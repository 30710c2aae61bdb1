# SPDX-License-Identifier: Apache-2.0
"""Cache: the keys and values of generate() in the library's pages."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import transformers
from transformers.cache_utils import CacheLayerMixin

import mha
from mha._context import of_parents

from ._masks import SHAPE_READS

Tensor = torch.Tensor
_DTYPES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
_REFUSAL = (
    "mha: mha.transformers.Cache keeps keys and values in pages, where torch's operations do not reach them. Choose "
    'attn_implementation="mha" for the model; a model that computes with cached tensors itself (DeepSeek, which caches '
    "latents) needs a DynamicCache"
)
_contexts: dict[int, mha.Context] = {}


def context() -> mha.Context:
    """The context with as many threads as torch has."""
    threads = torch.get_num_threads()
    found = _contexts.get(threads)
    if found is None:
        found = _contexts.setdefault(threads, mha.Context(num_threads=threads))
    return found


def _make_new_in_child() -> None:
    """As for the default context of mha."""
    of_parents.extend(_contexts.values())
    _contexts.clear()


os.register_at_fork(after_in_child=_make_new_in_child)


@cache
def _zero(dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # a tensor of inference mode could not be used outside it
        return torch.zeros((), dtype=dtype)


class CachedRows(torch.Tensor):
    """Stands for the keys, or the values, of a layer [B, Hkv, T, D], and has only their shape and dtype."""

    layer: PagedLayer

    @staticmethod
    def of(layer: PagedLayer, sizes: tuple[int, int, int, int], dtype: torch.dtype) -> CachedRows:
        rows = _zero(dtype).expand(sizes).as_subclass(CachedRows)
        rows.layer = layer
        return rows

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in SHAPE_READS:
            raise RuntimeError(_REFUSAL)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Settings:
    """How the layers of a cache keep their tokens."""

    key: mha.Storage | str | None
    value: mha.Storage | str | None
    page_size: int
    capacity: int
    arithmetic: str | None


class PagedLayer(CacheLayerMixin):
    """The keys and values of one layer. Row b of the batch is the sequence self.sequences[b] of the paged cache."""

    is_compileable = False
    is_croppable = True
    is_sliding = False  # a layer with a window keeps all tokens, too; the mask hides the older ones
    supports_early_init = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.is_initialized = False
        self.length = 0
        self.sequences: list[int] = []
        self.pages: mha.Cache

    @property
    def batch_size(self) -> int:
        return len(self.sequences)

    @property
    def keys(self) -> CachedRows:  # type: ignore[override]
        return self._rows(self.pages.head_dim)

    @property
    def values(self) -> CachedRows:  # type: ignore[override]
        return self._rows(self.pages.value_head_dim)

    def _rows(self, width: int) -> CachedRows:
        return CachedRows.of(self, (len(self.sequences), self.pages.num_kv_heads, self.length, width), self.dtype)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, self.heads, tokens, self.head_dim = key_states.shape
        self.value_head_dim, self.dtype = value_states.shape[-1], key_states.dtype
        self.pages = self._new_pages(batch, max(self.settings.capacity, batch * (tokens + 256)))
        self._choose(list(range(batch)))
        self.is_initialized = True

    def _new_pages(self, sequences: int, capacity: int) -> mha.Cache:
        as_given: Any = _DTYPES[self.dtype]
        key: Any = self.settings.key or as_given
        value: Any = self.settings.value or as_given
        return mha.Cache(
            self.heads,
            self.head_dim,
            capacity,
            kind="paged",
            value_head_dim=self.value_head_dim,
            max_sequences=sequences,
            page_size=self.settings.page_size,
            key=key,
            value=value,
            context=context(),
        )

    def _choose(self, sequences: list[int]) -> None:
        self.sequences = sequences
        in_order = sequences == list(range(len(sequences)))
        self._chosen = None if in_order else np.array(sequences, np.int64)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends tokens [B, Hkv, T, D]. Returns what stands for all keys and all values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        try:
            self._append(key_states, value_states)
        except mha.CacheFullError:
            self._move(len(self.sequences), 2 * (self.length + key_states.shape[2]))
            self._append(key_states, value_states)
        self.length += int(key_states.shape[2])
        keys = self.keys
        return keys, keys if self.head_dim == self.value_head_dim else self.values

    def _append(self, key: Tensor, value: Tensor) -> None:
        self.pages.append(key, value, sequences=self._chosen, layout="bhtd", context=context())

    def _move(self, sequences: int, tokens: int) -> None:
        """Moves the rows into new pages with room for this many sequences and tokens of each, or changes nothing."""
        page = self.settings.page_size or 64
        pages = self._new_pages(sequences, sequences * (tokens + page))
        for row, sequence in enumerate(self.sequences):
            pages.load(row, self.pages.save(sequence))
        self.pages = pages
        self._choose(list(range(len(self.sequences))))

    def __deepcopy__(self, memo: dict[int, Any]) -> PagedLayer:
        twin = copy.copy(self)
        if self.is_initialized:
            twin._move(self.pages.max_sequences, self.length)
        return twin

    def attend(self, query: Tensor, options: dict[str, Any]) -> Tensor:
        """Attention [B, Tq, H, Dv] of a query [B, H, Tq, D]; options as those of the attention op."""
        found: Tensor = mha.attention(
            query.transpose(1, 2),
            cache=self.pages,
            context=context(),
            **self._arguments(options),
        )
        return found

    def _arguments(self, options: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the attention op as those of mha.attention over a cache."""
        options = dict(options)
        given: dict[str, Any] = {"scale": options.pop("scale", None), "causal": options.pop("is_causal", False)}
        if "offset" in options:
            given["align"] = "offset"
        lengths = options.pop("key_lengths", None)
        if lengths is not None:  # not available over a cache, whose sequences have lengths of their own
            given["mask"] = (torch.arange(self.length) < lengths[:, None])[:, None, None, :]
            options.pop("align", None)
        for name, renamed in (("attn_mask", "mask"), ("attn_bias", "mask2")):
            if name in options:
                given[renamed] = options.pop(name)
        if "sink_logits" in options:
            options["sink_logits"] = options["sink_logits"].float()
        if self._chosen is not None:
            given["sequences"] = self._chosen
        if self.settings.arithmetic is not None:
            options["arithmetic"] = self.settings.arithmetic
        return {**given, **options}

    def select(self, rows: Sequence[int]) -> None:
        """Row i becomes what row rows[i] was. Rows that come more than once share pages until they grow."""
        if not self.is_initialized:
            return
        if len(rows) > self.pages.max_sequences:
            self._move(len(rows), max(self.length, self.settings.capacity // len(rows)))
        kept = {self.sequences[row] for row in rows}
        for sequence in self.sequences:
            if sequence not in kept:
                self.pages.remove(sequence)
        free = [sequence for sequence in range(self.pages.max_sequences) if sequence not in kept]
        chosen = []
        for row in rows:
            sequence = self.sequences[row]
            if sequence in kept:
                kept.remove(sequence)
                chosen.append(sequence)
            else:
                chosen.append(free.pop())
                self.pages.fork(sequence, chosen[-1])
        self._choose(chosen)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.select(beam_idx.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.select([row for row in range(len(self.sequences)) for _ in range(repeats)])

    def batch_select_indices(self, indices: Tensor) -> None:
        self.select(torch.arange(len(self.sequences))[indices].tolist())

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove > 0:
            raise ValueError(f"mha: crop({tokens_to_remove}) must be given a negative number: how many tokens to remove")
        if tokens_to_remove == 0 or not self.is_initialized:
            return
        length = self.length + tokens_to_remove
        if length < 0:
            raise ValueError(f"mha: crop({tokens_to_remove}) removes more than the {self.length} tokens that there are")
        for sequence in self.sequences:
            self.pages.truncate(sequence, length)
        self.length = length

    def reset(self) -> None:
        if self.is_initialized:
            self.pages.reset()
        self.is_initialized, self.length, self.sequences = False, 0, []

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1

    def offload(self) -> None:
        raise NotImplementedError("mha: pages are in the CPU's memory, from where nothing is offloaded")


class Cache(transformers.Cache):
    """Keys and values in pages of the library, for models with attn_implementation="mha".

    key, value: how they are stored: "f32", "f16", "bf16", "i8", "u8", "i4", "u4", or an mha.Storage; None: as the model
        computes them. value None: as key.
    page_size: tokens in a page; 0: 64.
    capacity: tokens of all rows of the batch together for which each layer has room at first; it doubles when full.
    arithmetic: None: that of attn_implementation. Else "f32", "bf16", or "int8", which needs keys and values "i8".

    A step copies nothing but the new tokens. Beam search shares pages between beams. crop() and copy.deepcopy() work, too.
    """

    def __init__(
        self,
        key: mha.Storage | str | None = None,
        value: mha.Storage | str | None = None,
        *,
        page_size: int = 0,
        capacity: int = 0,
        arithmetic: str | None = None,
    ) -> None:
        settings = Settings(key, value or key, page_size, capacity, arithmetic)
        super().__init__(layer_class_to_replicate=partial(PagedLayer, settings))  # type: ignore[arg-type]

    @property
    def used_bytes(self) -> int:
        """Bytes of the pages that hold tokens, of all layers."""
        return sum(layer.pages.used_bytes for layer in self.layers if isinstance(layer, PagedLayer) and layer.is_initialized)
