# SPDX-License-Identifier: Apache-2.0
"""Formats of keys and values: 16 bits, codes with scales, ggml's blocks; arithmetic."""

from __future__ import annotations

import pytest
import torch
from formula import assert_close, qkv, reference

import mha.torch  # noqa: F401  # registers the ops

attention = torch.ops.mha.scaled_dot_product_attention.default


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_follow_the_widening_law(dtype: torch.dtype) -> None:
    query, key, value = (x.to(dtype) for x in qkv())
    result = attention(query, key, value, None, True)
    assert result.dtype == dtype
    widened = attention(query.float(), key.float(), value.float(), None, True)
    assert torch.equal(result, widened.to(dtype))
    assert torch.equal(attention(query, key, value, None, True, out_dtype=torch.float32), widened)


@pytest.mark.parametrize("dtype,zero", [(torch.int8, 0), (torch.uint8, 128)])
def test_codes_of_8_bits_follow_the_widening_law(dtype: torch.dtype, zero: int) -> None:
    query, key, value = qkv()
    info = torch.iinfo(dtype)
    codes = [torch.randint(info.min, info.max, x.shape, dtype=dtype) for x in (key, value)]
    scales = [torch.rand(2, 2, 47, 1) / 100, torch.rand(2, 1, 1, 4).half() / 100]
    widened = [(c.float() - zero) * s.float().repeat_interleave(c.shape[-1] // s.shape[-1], -1) for c, s in zip(codes, scales, strict=True)]
    result = attention(query, *codes, key_scales=scales[0], value_scales=scales[1])
    assert torch.equal(result, attention(query, *widened))


def test_codes_with_zeros_and_token_groups() -> None:
    query, key, value = qkv()
    codes = torch.randint(0, 255, key.shape, dtype=torch.uint8)
    scales, zeros = torch.rand(2, 2, 12, 3) / 100, torch.randint(0, 255, (2, 2, 12, 3), dtype=torch.uint8)
    wide = [x.float().repeat_interleave(4, 2)[:, :, :47].repeat_interleave(8, 3) for x in (scales, zeros)]
    result = attention(query, codes, value, key_scales=scales, key_zeros=zeros, scale_tokens=4)
    assert torch.equal(result, attention(query, (codes.float() - wide[1]) * wide[0], value))


@pytest.mark.parametrize("code_format,zero", [("int4", 8), ("uint4", 8)])
def test_codes_of_4_bits(code_format: str, zero: int) -> None:
    query, key, value = qkv()
    stored = torch.randint(0, 16, key.shape, dtype=torch.uint8)
    packed = stored[..., 0::2] | (stored[..., 1::2] << 4)
    scales = torch.rand(2, 2, 47, 1)
    result = attention(query, packed, value, key_format=code_format, key_scales=scales)
    assert torch.equal(result, attention(query, (stored.float() - zero) * scales, value))


def test_blocks_of_ggml() -> None:
    query, _, value = qkv(d=64)
    codes, scales = torch.randint(-127, 127, (2, 2, 47, 2, 32), dtype=torch.int8), torch.rand(2, 2, 47, 2, 1).half()
    blocks = torch.cat([scales.view(torch.uint8), codes.view(torch.uint8)], -1).flatten(-2)
    result = attention(query, blocks, value, key_format="q8_0")
    assert torch.equal(result, attention(query, (codes.float() * scales.float()).flatten(-2), value))


def test_arithmetic_of_int8_and_bf16() -> None:
    query, key, value = qkv()
    scales = [x.abs().amax(-1, keepdim=True) / 127 for x in (key, value)]
    codes = [(x / s).round().to(torch.int8) for x, s in zip((key, value), scales, strict=True)]
    result = attention(query, *codes, key_scales=scales[0], value_scales=scales[1], arithmetic="int8")
    wanted = reference(query, codes[0] * scales[0], codes[1] * scales[1])
    assert_close(result, wanted, 1e-3)
    assert_close(attention(query, key, value, arithmetic="bf16"), reference(query, key, value), 3e-2)
