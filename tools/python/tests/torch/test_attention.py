# SPDX-License-Identifier: Apache-2.0
"""torch.ops.mha.scaled_dot_product_attention against formulas in float64."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
import torch
from formula import assert_close, qkv, reference
from torch.library import opcheck

import mha.torch  # noqa: F401  # registers the ops

Tensor = torch.Tensor
attention = torch.ops.mha.scaled_dot_product_attention.default
attention_with_weights = torch.ops.mha.scaled_dot_product_attention_with_weights.default


def distance(tq: int, tk: int, offset: int = 0) -> Tensor:
    """j - p(i)"""
    return torch.arange(tk)[None, :] - torch.arange(tq)[:, None] - offset


def test_plain_and_grouped_heads() -> None:
    query, key, value = qkv()
    assert_close(attention(query, key, value), reference(query, key, value))


@pytest.mark.parametrize("align,offset", [(None, 0), ("start", 0), ("end", 47 - 33)])
def test_causal(align: str | None, offset: int) -> None:
    query, key, value = qkv()
    result = attention(query, key, value, None, True, align=align)
    assert_close(result, reference(query, key, value, visible=distance(33, 47, offset) <= 0))


def test_windows_and_sink_tokens() -> None:
    query, key, value = qkv()
    away = distance(33, 47, 14)
    visible = (away <= 0) & ((away > -9) | (torch.arange(47) < 3))
    result = attention(query, key, value, None, True, align="end", window_left=9, sink_tokens=3)
    assert_close(result, reference(query, key, value, visible=visible))
    visible = (away < 4) & (away > -9)
    result = attention(query, key, value, align="end", window_left=9, window_right=4)
    assert_close(result, reference(query, key, value, visible=visible))


def test_score_changes() -> None:
    query, key, value = qkv()
    slopes, sinks, table = torch.rand(8), torch.randn(8), torch.randn(8, 11)
    away = distance(33, 47)
    bias = -slopes.view(8, 1, 1) * away.abs() + table[:, (away + 4).clamp(0, 10)]
    result = attention(
        query,
        key,
        value,
        softcap=3.0,
        scale=0.4,
        alibi_slopes=slopes,
        relative_bias=table,
        relative_left=4,
        sink_logits=sinks,
    )
    assert_close(result, reference(query, key, value, bias=bias, scale=0.4, softcap=3.0, sinks=sinks), 4e-6)


@pytest.mark.parametrize("shape", [(47,), (33, 47), (33, 1), (1, 47), (2, 1, 1, 47), (1, 8, 33, 47), (2, 8, 33, 47), (2, 1, 33, 1)])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.bfloat16, torch.float16])
def test_masks_broadcast(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    query, key, value = qkv()
    mask = torch.rand(shape) < 0.7 if dtype == torch.bool else torch.randn(shape).to(dtype)
    wanted = reference(query, key, value, visible=mask) if dtype == torch.bool else reference(query, key, value, bias=mask)
    assert_close(attention(query, key, value, mask), wanted)


def test_two_masks_and_strides() -> None:
    query, key, value = qkv()
    visible = (torch.rand(47, 33) < 0.7).mT  # keys are not the dense dimension
    bias = torch.randn(8, 1, 47).expand(8, 33, 47)
    wanted = reference(query, key, value, visible=visible, bias=bias)
    assert_close(attention(query, key, value, visible, attn_bias=bias), wanted)
    other = torch.randn(2, 1, 1, 47)
    assert_close(attention(query, key, value, other, attn_bias=bias), reference(query, key, value, bias=other + bias))


def test_factors_of_an_additive_mask() -> None:
    query, key, value = qkv()
    bias, factors = torch.randn(2, 1, 33, 47), torch.linspace(0.25, 2.0, 8)
    wanted = reference(query, key, value, bias=bias * factors[:, None, None])
    assert_close(attention(query, key, value, bias, add_mask_factors=factors), wanted)
    visible = torch.rand(33, 47) < 0.7
    result = attention(query, key, value, visible, attn_bias=bias, add_mask_factors=factors)
    assert_close(result, reference(query, key, value, visible=visible, bias=bias * factors[:, None, None]))
    other = torch.randn(33, 47)
    result = attention(query, key, value, bias, attn_bias=other, add_mask_factors=factors)
    assert_close(result, reference(query, key, value, bias=bias * factors[:, None, None] + other))
    with pytest.raises(RuntimeError, match="add_mask_factors"):
        attention(query, key, value, bias, add_mask_factors=factors[:7])
    for masks in ({}, {"attn_mask": visible}):
        with pytest.raises(RuntimeError, match="add_mask_factors"):
            attention(query, key, value, add_mask_factors=factors, **masks)


@pytest.mark.parametrize("shape", [(33,), (1, 8, 33), (2, 1, 33), (2, 8, 1)])
def test_bit_mask(shape: tuple[int, ...]) -> None:
    query, key, value = qkv()
    visible = torch.rand(*shape, 56) < 0.7  # whole bytes; the bits beyond the 47 keys are not looked at
    bits = (visible.view(*shape, 7, 8) * 2 ** torch.arange(8)).sum(-1).to(torch.uint8)
    wanted = reference(query, key, value, visible=visible[..., :47])
    assert_close(attention(query, key, value, bit_mask=bits[..., :6]), wanted)
    assert_close(attention(query, key, value, bit_mask=bits), wanted)
    with pytest.raises(RuntimeError, match="bit_mask must be a uint8 tensor"):
        attention(query, key, value, bit_mask=visible)
    with pytest.raises(RuntimeError, match=r"at least \(keys \+ 7\) / 8 bytes"):
        attention(query, key, value, bit_mask=bits[..., :5])


def test_bit_mask_of_packed_items() -> None:
    """One mask for all items: it may be larger than each of them."""
    query, key, value = qkv(batch=1, tq=33, tk=47)
    starts, key_starts = [0, 5, 33], [0, 20, 47]
    visible = torch.rand(2, 1, 30, 32) < 0.7
    bits = (visible.view(2, 1, 30, 4, 8) * 2 ** torch.arange(8)).sum(-1).to(torch.uint8)
    offsets = {"query_offsets": torch.tensor(starts), "key_offsets": torch.tensor(key_starts)}
    result = attention(query, key, value, bit_mask=bits, **offsets)
    for i in range(2):
        rows, keys = slice(starts[i], starts[i + 1]), slice(key_starts[i], key_starts[i + 1])
        seen = visible[i, :, : rows.stop - rows.start, : keys.stop - keys.start]
        assert torch.equal(result[:, :, rows], attention(query[:, :, rows], key[:, :, keys], value[:, :, keys], seen))
    with pytest.raises(RuntimeError, match="bit_mask .* does not broadcast"):
        attention(query, key, value, bit_mask=bits[:, :, :27], **offsets)


def test_fully_masked_rows_are_zeros() -> None:
    query, key, value = qkv()
    visible = torch.rand(33, 47) < 0.5
    visible[5] = False
    result = attention(query, key, value, visible)
    assert torch.equal(result[:, :, 5], torch.zeros_like(result[:, :, 5]))
    assert_close(result, reference(query, key, value, visible=visible))


def test_segments_prefixes_blocks() -> None:
    query, key, value = qkv(tq=40, tk=40)
    segments = torch.randint(0, 3, (2, 40))
    visible = (segments[:, :, None] == segments[:, None, :])[:, None]
    result = attention(query, key, value, query_segments=segments, key_segments=segments)
    assert_close(result, reference(query, key, value, visible=visible))
    prefixes = torch.tensor([7, 12], dtype=torch.int32)
    visible = (distance(40, 40) <= 0) | (torch.arange(40) < prefixes[:, None])[:, None, None]
    result = attention(query, key, value, None, True, prefix_lengths=prefixes)
    assert_close(result, reference(query, key, value, visible=visible))
    pairs = torch.tensor([[0, 0], [1, 0], [1, 2], [2, 1], [3, 3], [4, 4]])
    visible = torch.zeros(5, 5, dtype=torch.bool)
    visible[pairs[:, 0], pairs[:, 1]] = True
    visible = visible.repeat_interleave(8, 0).repeat_interleave(8, 1)
    result = attention(query, key, value, block_pairs=pairs, query_block=8, key_block=8)
    assert_close(result, reference(query, key, value, visible=visible))


@pytest.mark.parametrize("integer", [torch.int64, torch.int32])
def test_key_lengths(integer: torch.dtype) -> None:
    query, key, value = qkv()
    lengths = torch.tensor([47, 20], dtype=integer)
    visible = (torch.arange(47) < lengths[:, None])[:, None, None]
    value[1, :, 20:] = math.nan  # is not read
    result = attention(query, key, value, key_lengths=lengths)
    assert_close(result, reference(query, key, value.nan_to_num(), visible=visible))


def test_packed_items_have_the_bits_of_each_alone() -> None:
    query, key, value = qkv(batch=1, tq=33, tk=47)
    starts, key_starts = [0, 5, 5, 33], [0, 20, 31, 47]
    result = attention(
        query,
        key,
        value,
        None,
        True,
        align="end",
        query_offsets=torch.tensor(starts),
        key_offsets=torch.tensor(key_starts),
    )
    for i in range(3):
        rows, keys = slice(starts[i], starts[i + 1]), slice(key_starts[i], key_starts[i + 1])
        alone = attention(query[:, :, rows], key[:, :, keys], value[:, :, keys], None, True, align="end")
        assert torch.equal(result[:, :, rows], alone)


def test_pages_have_the_bits_of_dense_keys() -> None:
    query, key, value = qkv(tk=48)
    lengths, page = torch.tensor([48, 21]), 16
    table = torch.tensor([[4, 1, 0], [2, 5, 7]])
    pages_k, pages_v = torch.full((8, 2, page, 24), math.nan), torch.full((8, 2, page, 16), math.nan)
    for b in range(2):
        for n in range(3):
            tokens = slice(n * page, min((n + 1) * page, int(lengths[b])))
            count = max(0, tokens.stop - tokens.start)
            pages_k[table[b, n], :, :count] = key[b, :, tokens.start : tokens.start + count]
            pages_v[table[b, n], :, :count] = value[b, :, tokens.start : tokens.start + count]
    for kwargs in ({}, {"is_causal": True, "align": "end", "window_left": 10}):
        wanted = attention(query, key, value, key_lengths=lengths, **kwargs)
        assert torch.equal(attention(query, pages_k, pages_v, page_table=table, key_lengths=lengths, **kwargs), wanted)


def test_rope_and_norm_of_queries() -> None:
    query, key, value = qkv()
    angles = torch.outer(torch.arange(60.0), 10000 ** (-torch.arange(0, 24, 2) / 24))
    cos, sin, positions = angles.cos(), angles.sin(), torch.randint(0, 60, (2, 33))
    weight = torch.rand(24)
    normed = query.double() * (query.double().pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * weight
    c, s = cos[positions][:, None], sin[positions][:, None]
    first, second = normed[..., :12], normed[..., 12:]
    rotated = torch.cat([first * c - second * s, second * c + first * s], -1)
    result = attention(query, key, value, query_norm=weight, norm_epsilon=1e-5, rope_cos=cos, rope_sin=sin, positions=positions)
    assert_close(result, reference(rotated, key, value))


@pytest.mark.parametrize("mode", ["per_head", "averaged", "key_sums"])
def test_weights_and_log_sum_exp(mode: str) -> None:
    query, key, value = qkv()
    output, weights, log_sum_exp = attention_with_weights(query, key, value, weights=mode, log_sum_exp=True)
    scores = query.double() @ key.double().repeat_interleave(4, 1).mT / math.sqrt(24)
    exact = scores.softmax(-1)
    wanted = {"per_head": exact, "averaged": exact.mean(1), "key_sums": exact.sum(2)}[mode]
    assert_close(weights, wanted)
    assert_close(log_sum_exp, scores.logsumexp(-1))
    assert torch.equal(output, attention(query, key, value))


def test_sums_over_no_query_are_zeros() -> None:
    query, key, value = qkv()
    rows = torch.empty(0, dtype=torch.int64)
    for queries, chosen in ((query[:, :, :0], None), (query, rows)):
        used = [torch.full((2, 8, 47), 7.0) for _ in range(8)]
        del used  # the allocator may give this memory to the next tensors of the size
        weights = attention_with_weights(queries, key, value, weights="key_sums", weights_rows=chosen)[1]
        assert torch.equal(weights, torch.zeros(2, 8, 47))


def test_views_are_not_copied_and_give_the_same_bits() -> None:
    joined = torch.randn(2, 33, 3, 4, 24)  # [B, T, 3, H, D], as a fused projection gives
    query, key, value = (x.transpose(1, 2) for x in joined.unbind(2))
    wanted = attention(query.contiguous(), key.contiguous(), value.contiguous())
    assert torch.equal(attention(query, key, value), wanted)
    shared = key[:1].expand(2, -1, -1, -1)
    assert torch.equal(attention(query, shared, value), attention(query, shared.contiguous(), value))
    assert torch.equal(attention(query, key[:1], value), attention(query, shared.contiguous(), value))


@pytest.mark.parametrize("batch,tq,tk", [(0, 3, 3), (2, 0, 5), (2, 3, 0)])
def test_empty(batch: int, tq: int, tk: int) -> None:
    query, key, value = qkv(batch=batch, tq=tq, tk=tk)
    result = attention(query, key, value)
    assert torch.equal(result, torch.zeros(batch, 8, tq, 16))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_bits_on_any_number_of_threads(threads: int) -> None:
    query, key, value = qkv(tq=300, tk=700)
    before = torch.get_num_threads()
    wanted = attention(query, key, value, None, True)
    try:
        torch.set_num_threads(threads)
        assert torch.equal(attention(query, key, value, None, True), wanted)
    finally:
        torch.set_num_threads(before)


def test_an_item_has_the_same_bits_alone() -> None:
    query, key, value = qkv(batch=3, tq=70, tk=300)
    wanted = attention(query, key, value, None, True, align="end")
    for i in range(3):
        alone = attention(query[i : i + 1], key[i : i + 1], value[i : i + 1], None, True, align="end")
        assert torch.equal(alone, wanted[i : i + 1])
    for i in (0, 13, 69):  # one query, as in decoding
        row = attention(query[:, :, i : i + 1], key, value, None, True, offset=300 - 70 + i)
        assert torch.equal(row, wanted[:, :, i : i + 1])


def test_many_threads_call_at_once() -> None:
    """The first calls make the context of their number of threads together."""
    query, key, value = qkv(tq=40, tk=300)
    wanted = attention(query, key, value)
    start, before = threading.Barrier(8), torch.get_num_threads()
    failed: list[int] = []

    def work(number: int) -> None:
        start.wait()
        with torch.no_grad():
            for _ in range(20):
                if not torch.equal(attention(query, key, value), wanted):
                    failed.append(number)

    try:
        torch.set_num_threads(4)
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        torch.set_num_threads(before)
    assert not failed


def wrong_calls() -> list[tuple[str, Any]]:
    query, key, value = qkv()
    return [
        ("call .contiguous", lambda: attention(query.mT.contiguous().mT, key, value)),
        ("4 dimensions", lambda: attention(query[0], key, value)),
        ("same head dimension", lambda: attention(query, key[..., :8], value)),
        ("same number of tokens", lambda: attention(query, key, value[:, :, :5])),
        ("multiple", lambda: attention(query[:, :7], key, value)),
        ("does not broadcast", lambda: attention(query, key, value, torch.ones(33, 46))),
        ("does not broadcast", lambda: attention(query, key, value, torch.ones(3, 1, 33, 47))),
        ("key_lengths", lambda: attention(query, key, value, key_lengths=torch.tensor([3]))),
        ("MHA_ERR", lambda: attention(query, key, value, key_lengths=torch.tensor([3, 48]))),
        ("float32, float16 or bfloat16", lambda: attention(query.double(), key, value)),
        ("key_scales", lambda: attention(query, key.to(torch.int8), value)),
        ("alibi_slopes", lambda: attention(query, key, value, alibi_slopes=torch.ones(7))),
        ("query_offsets", lambda: attention(query[:1], key[:1], value[:1], query_offsets=torch.tensor([0, 34]))),
        ("neither start nor end", lambda: attention(query, key, value, align="middle")),
        ("none of f32, bf16, int8", lambda: attention(query, key, value, arithmetic="f64")),
        ("exclude", lambda: attention(query, key, value, None, True, align="end", offset=3)),
        ("same batch size", lambda: attention(query, key[:0], value[:0])),
        ("_hadamard are for codes, but key holds floats", lambda: attention(query, key, value, key_hadamard=True)),
        ("_hadamard are for codes, but value holds floats", lambda: attention(query, key, value, value_hadamard=True)),
        ("scale_tokens needs key_scales or value_scales", lambda: attention(query, key, value, scale_tokens=4)),
        ("relative_left needs relative_bias", lambda: attention(query, key, value, relative_left=2)),
        ("key_lengths must be int32 or int64", lambda: attention(query, key, value, key_lengths=torch.tensor([3.0, 4.0]))),
        ("query_segments has the value 4294967296, which int32", lambda: attention(
            query, key, value, query_segments=torch.arange(66).view(2, 33) << 32, key_segments=torch.zeros(2, 47, dtype=torch.int32))),
        ("page_table has the value -4294967296, which int32", lambda: attention(
            query, key, value, page_table=torch.tensor([[0], [-1 << 32]]), key_lengths=torch.tensor([3, 4]))),
        ("MHA_ERR_ARGUMENT", lambda: attention(query, key, value, softcap=-1.0)),
    ]  # fmt: skip


@pytest.mark.parametrize("index", range(len(wrong_calls())))
def test_wrong_calls_say_what_is_wrong(index: int) -> None:
    text, call = wrong_calls()[index]
    with pytest.raises(RuntimeError, match=text):
        call()


def test_gradients_are_refused() -> None:
    for which in range(3):
        inputs = list(qkv())
        inputs[which].requires_grad_()
        attention(*inputs)  # grad mode is off
        with torch.enable_grad(), pytest.raises(RuntimeError, match=r"torch.no_grad\(\)"):
            attention(*inputs)
    options = {"attn_mask": torch.zeros(33, 47), "sink_logits": torch.ones(8), "add_mask_factors": torch.ones(8)}
    for name, tensor in options.items():
        given = {"attn_mask": options["attn_mask"], name: tensor.clone().requires_grad_()}
        attention(*qkv(), **given)
        with torch.enable_grad(), pytest.raises(RuntimeError, match=r"torch.no_grad\(\)"):
            attention(*qkv(), **given)
    with torch.enable_grad():
        attention(*qkv())


CHECKED: list[dict[str, Any]] = [
    {},
    {"is_causal": True},
    {"attn_mask": torch.ones(33, 47, dtype=torch.bool)},
    {"key_lengths": torch.tensor([40, 7])},
    {"attn_bias": torch.ones(33, 47), "add_mask_factors": torch.ones(8)},
    {"bit_mask": torch.full((2, 1, 33, 6), 0x55, dtype=torch.uint8)},
    {"out_dtype": torch.bfloat16},
    {"sink_logits": torch.ones(8), "window_left": 5, "offset": 3},
]


@pytest.mark.parametrize("kwargs", CHECKED)
def test_opcheck(kwargs: dict[str, Any]) -> None:
    with torch.enable_grad():
        assert set(opcheck(attention, qkv(), kwargs).values()) == {"SUCCESS"}
        for weights in ("per_head", "averaged", "key_sums", None):
            results = opcheck(attention_with_weights, qkv(), kwargs | {"weights": weights, "log_sum_exp": weights is None})
            assert set(results.values()) == {"SUCCESS"}
