# SPDX-License-Identifier: Apache-2.0
"""Layer: projections, attention, output projection (torch's nn.MultiheadAttention, with grouped heads)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from ctypes import addressof, byref, c_void_p
from typing import TYPE_CHECKING, Any, Literal

from . import _abi as abi
from ._attention import Results, fill_results
from ._context import Context, context_of, number_of
from ._library import call, library, text_of
from ._linear import WEIGHT_LAYOUTS, Packed, WeightLayout, fill_packed, fill_weight
from ._options import ARITHMETIC, Arithmetic, Options, Sizes, WeightsMode, batch_of, cache_lengths, fill_options, groups_of, longest
from ._storage import Dtype, Storage, StorageError, storage_error_of
from ._tensors import FloatDtype, Tensor, fill_view, finished, numbers, output_array, tensor

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._cache import Cache

CacheUse = Literal["append", "read"]
_CACHE_USE = {"append": abi.MHA_CACHE_APPEND, "read": abi.MHA_CACHE_READ}
_NAMES = {number: name for name, number in ARITHMETIC.items()}
_BATCHED, _PACKED = (0, 1, -1), (-1, 0, -1)


class LayerOptions(Options, total=False):
    """What `Layer.forward` and its like take: see there."""

    causal: bool
    arithmetic: Arithmetic
    cache: Cache | None
    cache_use: CacheUse


_OWN = frozenset(("causal", "arithmetic", "cache", "cache_use"))


class Layer(Packed):
    """output = concat_h(attention(q_h, k_g, v_g)) Wo^T + bo, with q = query Wq^T + bq, and k and v alike, over packed
    weights. Immutable; threads may share it.

    embed_dim E, num_heads H; num_kv_heads Hkv, default H; head_dim D, default E / H; value_head_dim Dv, default D; kdim, vdim,
        out_dim: widths of key, value and output, default E.
    in_proj_weight: [H*D + Hkv*D + Hkv*Dv, E], or query_weight [H*D, E], key_weight [Hkv*D, kdim], value_weight [Hkv*Dv, vdim];
        output_weight: [out_dim, H*Dv]; float32, float16, bfloat16, `Codes` or `PackedWeight`. Not kept.
    in_proj_bias, query_bias, key_bias, value_bias, output_bias: float32; bias_key [Hkv*D] and bias_value [Hkv*Dv]: one more
        key that every query sees. add_zero_attn: one more key of zeros.
    scale: None: 1 / sqrt(D).
    arithmetic: of the projections; packed: how packed weights are stored: see `Linear`.

    Raises ArgumentError, UnsupportedError, OutOfMemoryError.
    """

    _kind = "layer"
    packed_errors: tuple[StorageError, StorageError, StorageError, StorageError]
    """The errors that packing the weights of query, key, value and output made."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        output_weight: Any,
        in_proj_weight: Any = None,
        query_weight: Any = None,
        key_weight: Any = None,
        value_weight: Any = None,
        in_proj_bias: Any = None,
        query_bias: Any = None,
        key_bias: Any = None,
        value_bias: Any = None,
        output_bias: Any = None,
        bias_key: Any = None,
        bias_value: Any = None,
        add_zero_attn: bool = False,
        num_kv_heads: int = 0,
        head_dim: int = 0,
        value_head_dim: int = 0,
        kdim: int = 0,
        vdim: int = 0,
        out_dim: int = 0,
        scale: float | None = None,
        arithmetic: Arithmetic = "f32",
        layout: WeightLayout = "rows",
        packed: Storage | Dtype | None = None,
        context: Context | None = None,
    ) -> None:
        keep: list[Any] = []
        config = abi.mha_layer_config()
        config.embed_dim, config.num_heads, config.num_kv_heads = embed_dim, num_heads, num_kv_heads
        config.head_dim, config.value_head_dim = head_dim, value_head_dim
        config.kdim, config.vdim, config.out_dim = kdim, vdim, out_dim
        if scale is not None:
            config.scale, config.scale_is_exact = scale, 1
        config.add_zero_attn = int(add_zero_attn)
        config.arithmetic = number_of(ARITHMETIC, arithmetic, "arithmetic")
        config.layout = number_of(WEIGHT_LAYOUTS, layout, "layout")
        fill_packed(config, packed, keep)
        widths = _Widths(config)
        weights = abi.mha_layer_weights()
        given = {
            "in_proj_weight": in_proj_weight,
            "query_weight": query_weight,
            "key_weight": key_weight,
            "value_weight": value_weight,
            "output_weight": output_weight,
        }
        for name, weight in given.items():
            if weight is not None:
                fill_weight(getattr(weights, name), weight, name, config.layout, widths.weights[name], keep)
        biases = {
            "in_proj_bias": in_proj_bias,
            "query_bias": query_bias,
            "key_bias": key_bias,
            "value_bias": value_bias,
            "output_bias": output_bias,
            "bias_key": bias_key,
            "bias_value": bias_value,
        }
        for name, bias in biases.items():
            if bias is not None:
                found = numbers(bias, name, abi.MHA_F32, (widths.biases[name],))
                keep.append(found)
                setattr(weights, name, found.data)
        errors = (abi.mha_storage_error * 4)()
        config.packed_error = addressof(errors)
        handle = c_void_p()
        call(library.mha_layer_create, context_of(context), byref(config), byref(weights), byref(handle))
        self._take(handle.value)
        query, key, value, output = map(storage_error_of, errors)
        self.packed_errors = (query, key, value, output)

    def _take(self, handle: int | None) -> None:
        self._handle = handle
        config = abi.mha_layer_config()
        library.mha_layer_get_config(handle, byref(config))
        self.embed_dim, self.num_heads, self.num_kv_heads = config.embed_dim, config.num_heads, config.num_kv_heads
        self.head_dim, self.value_head_dim = config.head_dim, config.value_head_dim
        self.kdim, self.vdim, self.out_dim = config.kdim, config.vdim, config.out_dim
        self.arithmetic = _NAMES[config.arithmetic]
        self._added_keys = int(library.mha_layer_added_keys(handle))

    def __repr__(self) -> str:
        return f"mha.Layer(embed_dim={self.embed_dim}, num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads})"

    def forward(
        self,
        query: Any,
        key: Any = None,
        value: Any = None,
        *,
        out: Any = None,
        dtype: FloatDtype | None = None,
        causal: bool = False,
        arithmetic: Arithmetic = "f32",
        cache: Cache | None = None,
        cache_use: CacheUse = "append",
        context: Context | None = None,
        **options: Unpack[Options],
    ) -> Any:
        """query: [B, Tq, E] (packed items: [Tq, E]); key: [B, Tk, kdim], None: self-attention; value: [B, Tk, vdim], None: key.

        cache: the new tokens are projected, normed, rotated and appended to its sequences, and see all of them; with
            cache_use "read" they see its tokens, and nothing is appended. If the call fails, the cache is as it was.
        arithmetic: of attention. options: see `Options`.

        Returns [B, Tq, out_dim], of query's kind and type (or `dtype`).
        Raises ArgumentError, UnsupportedError, OutOfMemoryError, CacheFullError.
        """
        own = {"causal": causal, "arithmetic": arithmetic, "cache": cache, "cache_use": cache_use}
        made = _Call(self, query, key, value, own | options)
        output = made.output(query, out, dtype)
        call(library.mha_layer_forward, context_of(context), self._handle, byref(made.args))
        return finished(output, query) if out is None else out

    __call__ = forward

    def forward_results(
        self,
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
        **options: Unpack[LayerOptions],
    ) -> Results:
        """As `forward`, with attention weights and log-sum-exp: see `attention_results`. bias_key and add_zero_attn give the
        weights a column each."""
        made = _Call(self, query, key, value, options)
        output = made.output(query, out, dtype)
        sizes = made.sizes._replace(item_keys=made.sizes.item_keys + self._added_keys)
        found, lse = fill_results(made.groups, query, sizes, weights, weights_rows, log_sum_exp, made.keep)
        call(library.mha_layer_forward, context_of(context), self._handle, byref(made.args))
        return Results(finished(output, query) if out is None else out, finished(found, query), finished(lse, query))

    def explain(
        self,
        query: Any,
        key: Any = None,
        value: Any = None,
        *,
        context: Context | None = None,
        **options: Unpack[LayerOptions],
    ) -> str:
        """How `forward` would run with these arguments, and why: lines of "key: value"."""
        made = _Call(self, query, key, value, options)
        made.output(query, None, None)
        return text_of(library.mha_layer_explain, context_of(context), self._handle, byref(made.args))


class _Widths:
    """The shapes of weights and biases of a configuration. Sizes that make no sense are left to the library's message."""

    def __init__(self, config: abi.mha_layer_config) -> None:
        width, heads = config.embed_dim, config.num_heads
        kv_heads = config.num_kv_heads or heads
        if not config.head_dim and heads > 0 and width % heads:
            raise ValueError(f"embed_dim is {width}: not a multiple of num_heads ({heads}), so give head_dim")
        head_dim = config.head_dim or (width // heads if heads > 0 else 0)
        value_dim = config.value_head_dim or head_dim
        query, key, value = heads * head_dim, kv_heads * head_dim, kv_heads * value_dim
        out_dim = config.out_dim or width
        self.weights = {
            "in_proj_weight": (query + key + value, width),
            "query_weight": (query, width),
            "key_weight": (key, config.kdim or width),
            "value_weight": (value, config.vdim or width),
            "output_weight": (out_dim, heads * value_dim),
        }
        self.biases = {
            "in_proj_bias": query + key + value,
            "query_bias": query,
            "key_bias": key,
            "value_bias": value,
            "output_bias": out_dim,
            "bias_key": key,
            "bias_value": value,
        }


class _Call:
    """The arguments of a call of a layer, and what keeps their memory."""

    def __init__(self, layer: Layer, query: Any, key: Any, value: Any, options: Mapping[str, Any]) -> None:
        self.keep: list[Any] = []
        self.layer = layer
        self.args = args = abi.mha_layer_args()
        self.groups = groups_of(args, self.keep)
        self.packed = options.get("query_offsets") is not None
        self.query = self._fill(args.query, query, "query", layer.embed_dim, self.packed)
        args.query_len = self.query.shape[-2]
        batch = batch_of(options)
        args.batch = self.query.shape[0] if batch is None else batch
        args.causal = int(options.get("causal", False))
        args.arithmetic = number_of(ARITHMETIC, options.get("arithmetic", "f32"), "arithmetic")
        self.sizes = self._fill_keys(key, value, options)
        fill_options(options, _OWN, self.sizes, self.groups, self.keep)

    def _fill(self, view: abi.mha_view, given: Any, name: str, width: int, packed: bool) -> Tensor:
        found = tensor(given, name)
        if len(found.shape) != (2 if packed else 3) or found.shape[-1] != width:
            raise ValueError(f"{name} has the shape {found.shape}, but must be [{'' if packed else 'B, '}T, {width}]")
        fill_view(view, found, name, _PACKED if packed else _BATCHED)
        self.keep.append(found.owner)
        return found

    def _fill_keys(self, key: Any, value: Any, options: Mapping[str, Any]) -> Sizes:
        args, layer = self.args, self.layer
        cache, cache_use = options.get("cache"), options.get("cache_use", "append")
        packed_keys = options.get("key_offsets") is not None
        item_queries = longest(options["query_offsets"], "query_offsets") if self.packed else args.query_len
        key_len = item_keys = args.query_len
        if cache is not None:
            if key is not None or value is not None:
                raise ValueError("cache is given with key or value: give one of them")
            args.cache, args.cache_use = cache._handle, number_of(_CACHE_USE, cache_use, "cache_use")
            self.keep.append(cache)
            lengths = cache_lengths(cache, options.get("sequences"), args.batch)
            if args.cache_use == abi.MHA_CACHE_APPEND:
                lengths = [length + new for length, new in zip(lengths, self._new_tokens(options))]
            key_len, item_keys, packed_keys = sum(lengths), max(lengths, default=0), True
        elif cache_use != "append":
            raise ValueError("cache_use is given without a cache")
        elif key is not None:
            keys = self._fill(args.key, key, "key", layer.kdim, packed_keys)
            values = keys if value is None else self._fill(args.value, value, "value", layer.vdim, packed_keys)
            if values.shape[:-1] != keys.shape[:-1] or (not packed_keys and keys.shape[0] != args.batch):
                raise ValueError(f"query, key and value do not fit: {self.query.shape}, {keys.shape}, {values.shape}")
            if value is None and layer.vdim != layer.kdim:
                raise ValueError(f"value must be given: its width is {layer.vdim}, and that of key is {layer.kdim}")
            key_len = args.key_len = keys.shape[-2]
            item_keys = longest(options["key_offsets"], "key_offsets") if packed_keys else key_len
        elif value is not None:
            raise ValueError("value is given without key")
        elif self.packed:
            item_keys, packed_keys = item_queries, True
        return Sizes(
            args.batch, layer.num_heads, layer.head_dim, args.query_len, key_len, item_queries, item_keys, self.packed, packed_keys
        )

    def _new_tokens(self, options: Mapping[str, Any]) -> list[int]:
        if not self.packed:
            return [self.args.query_len] * self.args.batch
        offsets = options["query_offsets"]
        return [int(end) - int(begin) for begin, end in itertools.pairwise(offsets)]

    def output(self, query: Any, out: Any, dtype: str | None) -> Any:
        """The array for the output: `out`, or a new one."""
        shape = (*self.query.shape[:-1], self.layer.out_dim)
        out, given = output_array(query, shape, out, dtype, self.query.dtype)
        fill_view(self.args.output, given, "out", _PACKED if self.packed else _BATCHED)
        self.keep.append(given.owner)
        return out
