# SPDX-License-Identifier: Apache-2.0
"""Shapes of the ops' results, for torch.compile and torch.export. They read no data."""

from __future__ import annotations

from typing import Any

import torch

from ._library import refuse_gradient, register_fake

Size = Any  # int or torch.SymInt


def _width(size: Size, code_format: str | None) -> Size:
    """The width in elements of a row of `size` bytes."""
    if code_format in ("int4", "uint4"):
        return size * 2
    if code_format == "q8_0":
        return size // 34 * 32
    if code_format == "q4_0":
        return size // 18 * 32
    return size


def _check_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *others: Any) -> None:
    refuse_gradient(query, key, value, *others)
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != 4:
            raise RuntimeError(f"mha: {name} must have 4 dimensions [batch, heads, tokens, width]")


def _attention_output(query: torch.Tensor, value: torch.Tensor, value_format: str | None, out_dtype: torch.dtype | None) -> torch.Tensor:
    batch, heads, tokens = query.shape[:3]
    width = _width(value.shape[3], value_format)
    return query.new_empty((batch, tokens, heads, width), dtype=out_dtype or query.dtype).transpose(1, 2)


@register_fake("mha::scaled_dot_product_attention")
def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *others: Any,
    value_format: str | None = None,
    out_dtype: torch.dtype | None = None,
    **options: Any,
) -> torch.Tensor:
    _check_attention(query, key, value, *others, *options.values())
    return _attention_output(query, value, value_format, out_dtype)


def results(query: torch.Tensor, heads: Size, tokens: Size, columns: Size, options: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The attention weights and the log-sum-exp."""
    offsets, rows, mode = options.get("query_offsets"), options.get("weights_rows"), options.get("weights")
    batch = query.shape[0] if offsets is None else offsets.shape[0] - 1
    queries = tokens if rows is None else rows.shape[0]
    packed = offsets is not None and rows is None
    sizes: dict[str | None, tuple[Size, ...]] = {
        None: (0,),
        "per_head": (heads, queries, columns) if packed else (batch, heads, queries, columns),
        "averaged": (queries, columns) if packed else (batch, queries, columns),
        "key_sums": (batch, heads, columns),
    }
    if mode not in sizes:
        raise RuntimeError(f'mha: weights "{mode}" is none of per_head, averaged, key_sums')
    log_sum_exp: tuple[Size, ...] = (0,)
    if options.get("log_sum_exp"):
        log_sum_exp = (batch, heads, tokens) if offsets is None else (heads * tokens,)
    return query.new_empty(sizes[mode], dtype=torch.float32), query.new_empty(log_sum_exp, dtype=torch.float32)


@register_fake("mha::scaled_dot_product_attention_with_weights")
def _attention_with_weights(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *others: Any,
    value_format: str | None = None,
    out_dtype: torch.dtype | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _check_attention(query, key, value, *others, *options.values())
    output = _attention_output(query, value, value_format, out_dtype)
    columns: Size = key.shape[2]
    if options.get("page_table") is not None:
        columns = options["page_table"].shape[1] * key.shape[2]
    elif options.get("key_offsets") is not None and options.get("weights") is not None:
        columns = torch.library.get_ctx().new_dynamic_size()  # the longest item, which depends on the offsets' values
    return (output, *results(query, query.shape[1], query.shape[2], columns, options))


@register_fake("mha::linear_pack")
def _linear_pack(weight: torch.Tensor, *_: Any, **_options: Any) -> torch.Tensor:
    return weight.new_empty((torch.library.get_ctx().new_dynamic_size(),), dtype=torch.uint8)


@register_fake("mha::layer_pack")
def _layer_pack(_in_proj: Any, _query: Any, _key: Any, _value: Any, output_weight: torch.Tensor, *_: Any, **_options: Any) -> torch.Tensor:
    return output_weight.new_empty((torch.library.get_ctx().new_dynamic_size(),), dtype=torch.uint8)


@register_fake("mha::linear")
def _linear(input: torch.Tensor, packed: torch.Tensor, out_features: Size, *, out_dtype: torch.dtype | None = None) -> torch.Tensor:
    refuse_gradient(input)
    return input.new_empty((*input.shape[:-1], out_features), dtype=out_dtype or input.dtype)


def _layer_output(query: torch.Tensor, out_dim: Size, tokens_first: bool, out_dtype: torch.dtype | None) -> torch.Tensor:
    batch, tokens, _ = query.shape
    dtype = out_dtype or query.dtype
    if tokens_first:
        return query.new_empty((tokens, batch, out_dim), dtype=dtype).transpose(0, 1)
    return query.new_empty((batch, tokens, out_dim), dtype=dtype)


@register_fake("mha::layer")
def _layer(
    query: torch.Tensor,
    key: torch.Tensor | None,
    value: torch.Tensor | None,
    packed: torch.Tensor,
    out_dim: Size,
    num_heads: Size,
    *others: Any,
    tokens_first: bool = False,
    out_dtype: torch.dtype | None = None,
    **options: Any,
) -> torch.Tensor:
    refuse_gradient(query, key, value, *others, *options.values())
    return _layer_output(query, out_dim, tokens_first, out_dtype)


@register_fake("mha::layer_with_weights")
def _layer_with_weights(
    query: torch.Tensor,
    key: torch.Tensor | None,
    value: torch.Tensor | None,
    packed: torch.Tensor,
    out_dim: Size,
    num_heads: Size,
    *others: Any,
    added_keys: Size = 0,
    tokens_first: bool = False,
    out_dtype: torch.dtype | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    refuse_gradient(query, key, value, *others, *options.values())
    output = _layer_output(query, out_dim, tokens_first, out_dtype)
    columns: Size = (query if key is None else key).shape[1] + added_keys
    unequal = options.get("key_offsets" if key is not None else "query_offsets") is not None
    if unequal and options.get("weights") is not None:
        columns = torch.library.get_ctx().new_dynamic_size()  # the longest item, which depends on the offsets' values
    return (output, *results(query, num_heads, query.shape[1], columns, options))
