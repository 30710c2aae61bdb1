# SPDX-License-Identifier: Apache-2.0
"""mha.Linear and mha.Layer: values, packed formats, saved bytes, shapes that are refused."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import mha
from reference import attend, close


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@given(st.integers(1, 70), st.integers(1, 40), st.lists(st.integers(0, 4), max_size=3), st.booleans(), st.integers(0, 1000))
def test_linear(inside: int, outside: int, leading: list[int], biased: bool, seed: int) -> None:
    weight, bias, x = random(seed, outside, inside), random(seed + 1, outside), random(seed + 2, *leading, inside)
    linear = mha.Linear(weight, bias if biased else None)
    want = x.astype(np.float64) @ weight.T + (bias if biased else 0)
    got = linear(x)
    assert got.shape == (*leading, outside)
    assert close(got, want, 1e-5)
    assert np.array_equal(linear.forward(x, context=mha.Context(2)), got)
    assert np.array_equal(mha.Linear.map(linear.save())(x), got)
    half = x.astype(np.float16)
    assert np.array_equal(linear(half, dtype="f32"), linear(half.astype(np.float32)))
    assert np.array_equal(linear(half), linear(half.astype(np.float32)).astype(np.float16))


def test_linear_over_every_packed_format() -> None:
    weight, x = random(1, 24, 64), random(2, 5, 64)
    want = x.astype(np.float64) @ weight.T
    for packed, limit in (
        ("f16", 1e-3),
        ("bf16", 1e-2),
        ("i8", 2e-2),
        (mha.Storage("i4", "f16", 32), 0.3),
        (mha.Storage("u8", group=16, zero_points=True), 2e-2),
    ):
        linear = mha.Linear(weight, packed=packed)
        assert 0 < linear.packed_error.rms < limit
        assert linear.packed_error.elements == weight.size
        assert np.abs(linear(x) - want).max() < 8 * limit * np.abs(want).max()
    int8 = mha.Linear(weight, arithmetic="int8")
    assert int8.arithmetic == "int8" and np.abs(int8(x) - want).max() < 0.03 * np.abs(want).max()


def test_linear_over_codes_has_the_bits_of_the_floats_that_they_stand_for() -> None:
    rng = np.random.default_rng(3)
    x = random(4, 3, 64)
    codes, scales = rng.integers(-128, 128, (8, 64), np.int8), rng.random((8, 2)).astype(np.float16)
    wide = (np.repeat(scales.astype(np.float32), 32, axis=1) * codes).astype(np.float32)
    assert np.array_equal(mha.Linear(mha.Codes(codes, scales, group=32))(x), mha.Linear(wide)(x))
    nibbles = rng.integers(0, 256, (8, 32), np.uint8)
    plain = np.stack([nibbles & 15, nibbles >> 4], axis=-1).reshape(8, 64).astype(np.float32)
    full = np.repeat(scales.astype(np.float32), 32, axis=1)
    assert np.array_equal(mha.Linear(mha.Codes(nibbles, scales, dtype="u4", group=32))(x), mha.Linear(full * (plain - 8))(x))
    # MatMulNBits: zeros of 4 bits, two in a byte, the lower first.
    zeros = rng.integers(0, 256, (8, 1), np.uint8)
    by_group = np.repeat(np.concatenate([zeros & 15, zeros >> 4], axis=1), 32, axis=1).astype(np.float32)
    got = mha.Linear(mha.Codes(nibbles, scales, zeros, "u4", 32))(x)
    assert np.array_equal(got, mha.Linear(full * (plain - by_group))(x))
    with pytest.raises(mha.UnsupportedError, match="hadamard"):
        mha.Linear(mha.Codes(nibbles, scales, zeros, "u4", 32, hadamard=True))


@pytest.mark.parametrize(("inside", "group", "groups"), [(64, 32, 2), (72, 16, 5), (64, 128, 1)])
def test_groups_that_inputs_do_not_fill(inside: int, group: int, groups: int) -> None:
    rng = np.random.default_rng(7)
    x, codes = random(8, 3, inside), rng.integers(-128, 128, (8, inside), np.int8)
    scales = rng.random((8, groups)).astype(np.float32)
    wide = (np.repeat(scales, group, axis=1)[:, :inside] * codes).astype(np.float32)
    assert np.array_equal(mha.Linear(mha.Codes(codes, scales, group=group))(x), mha.Linear(wide)(x))


@pytest.mark.parametrize(("inside", "group", "groups"), [(64, 32, 2), (72, 16, 5), (64, 128, 1)])
def test_gptq_and_awq(inside: int, group: int, groups: int) -> None:
    rng = np.random.default_rng(5)
    codes, zeros = rng.integers(0, 16, (16, inside), np.int64), rng.integers(1, 16, (groups, 16), np.int64)
    scales = rng.random((groups, 16)).astype(np.float16)
    spread_scales, spread_zeros = (np.repeat(part, group, axis=0)[:inside] for part in (scales, zeros))
    wide = (spread_scales.astype(np.float32) * (codes.T - spread_zeros).astype(np.float32)).T.copy()
    x = random(6, 3, inside)
    want = mha.Linear(wide)(x)

    def pack(rows: np.ndarray) -> np.ndarray:
        """Eight numbers of a row in a word, the first lowest."""
        nibbles = rows.reshape(rows.shape[0], -1, 8).astype(np.uint32)
        return (nibbles << (4 * np.arange(8, dtype=np.uint32))).sum(axis=2, dtype=np.uint32).view(np.int32)

    qweight = np.ascontiguousarray(pack(codes).T)
    for layout, stored in (("gptq", zeros - 1), ("gptq_v2", zeros)):
        got = mha.Linear(mha.PackedWeight(qweight, scales, pack(stored), group), layout=layout)  # type: ignore[arg-type]
        assert (got.in_features, got.out_features) == (inside, 16)
        assert np.array_equal(got(x), want)
    order = np.array([0, 2, 4, 6, 1, 3, 5, 7])
    turned = [pack(rows.reshape(-1, 2, 8)[:, :, order].reshape(-1, 16)) for rows in (codes.T, zeros)]
    awq = mha.Linear(mha.PackedWeight(turned[0], scales, turned[1], group), layout="awq")
    assert np.array_equal(awq(x), want)
    short = mha.PackedWeight(qweight, scales[: groups - 1], None, group)
    with pytest.raises(ValueError, match="weight.scales has the shape"):
        mha.Linear(short, layout="gptq")


def test_linear_refuses() -> None:
    linear = mha.Linear(random(1, 4, 8))
    for source, text in (
        (random(2, 3, 7), r"input has the shape \(3, 7\)"),
        (random(2, 4, 6, 8)[:, :5], "no matrix of evenly spaced rows"),
    ):
        with pytest.raises(ValueError, match=text):
            linear(source)
    with pytest.raises(ValueError, match="bias has the shape"):
        mha.Linear(random(1, 4, 8), random(1, 5))
    with pytest.raises(ValueError, match=r"weight has the shape \(4, 8, 1\)"):
        mha.Linear(random(1, 4, 8, 1))
    blob = linear.save()
    blob[3] ^= 1
    with pytest.raises(mha.BlobError):
        mha.Linear.map(blob)
    with pytest.raises(ValueError, match="dense bytes"):
        mha.Linear.map(random(1, 4))


def projected(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, heads: int) -> np.ndarray:
    made = x.astype(np.float64) @ weight.T + (0 if bias is None else bias)
    return np.asarray(made.reshape(*x.shape[:-1], heads, weight.shape[0] // heads))


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 12), st.booleans(), st.booleans(), st.integers(0, 1000))
def test_layer(kv_heads: int, group: int, tokens: int, causal: bool, fused: bool, seed: int) -> None:
    heads, dim, width = kv_heads * group, 6, 20
    sizes = (heads * dim, kv_heads * dim, kv_heads * dim)
    weights = [random(seed + n, size, width) for n, size in enumerate(sizes)]
    biases = [random(seed + 3 + n, size) for n, size in enumerate(sizes)]
    out_weight, out_bias, x = random(seed + 6, 7, heads * dim), random(seed + 7, 7), random(seed + 8, 2, tokens, width)
    parts: dict[str, Any] = {"output_weight": out_weight, "output_bias": out_bias}
    if fused:
        parts |= {"in_proj_weight": np.concatenate(weights), "in_proj_bias": np.concatenate(biases)}
    else:
        names = ("query", "key", "value")
        parts |= {f"{name}_weight": weight for name, weight in zip(names, weights)} | {
            f"{name}_bias": bias for name, bias in zip(names, biases)
        }
    layer = mha.Layer(width, heads, num_kv_heads=kv_heads, head_dim=dim, out_dim=7, **parts)
    got = layer.forward_results(x, causal=causal, weights="per_head", log_sum_exp=True)
    for b in range(2):
        q, k, v = (projected(x[b], w, bias, n) for w, bias, n in zip(weights, biases, (heads, kv_heads, kv_heads)))
        want = attend(q, k, v, 0, causal=causal)
        assert close(got.output[b], want.output.reshape(tokens, heads * dim) @ out_weight.T + out_bias, 2e-5)
        assert close(got.weights[b], want.weights, 2e-5)
    again = mha.Layer.map(layer.save())
    assert repr(again) == repr(layer)
    assert np.array_equal(again(x, causal=causal), got.output)
    assert np.array_equal(layer(x, causal=causal, context=mha.Context(2)), got.output)


def test_added_keys_have_columns() -> None:
    width, heads, x = 8, 2, random(1, 1, 3, 8)
    parts = {"in_proj_weight": random(2, 24, 8), "output_weight": random(3, 8, 8)}
    for extra, options in (
        (1, {"add_zero_attn": True}),
        (2, {"add_zero_attn": True, "bias_key": random(4, 8), "bias_value": random(5, 8)}),
    ):
        layer = mha.Layer(width, heads, **parts, **options)  # type: ignore[arg-type]
        for made in (layer, mha.Layer.map(layer.save())):
            weights = made.forward_results(x, weights="per_head").weights
            assert weights.shape == (1, 2, 3, 3 + extra)
            assert close(weights.sum(axis=-1), np.ones((1, 2, 3)), 1e-6)


def test_cross_attention_and_packed_items() -> None:
    layer = mha.Layer(
        8,
        2,
        kdim=5,
        vdim=6,
        query_weight=random(1, 8, 8),
        key_weight=random(2, 8, 5),
        value_weight=random(3, 8, 6),
        output_weight=random(4, 8, 8),
    )
    q, k, v = random(5, 2, 3, 8), random(6, 2, 4, 5), random(7, 2, 4, 6)
    got = layer(q, k, v)
    for b in range(2):
        assert np.array_equal(layer(q[b : b + 1], k[b : b + 1], v[b : b + 1])[0], got[b])
    with pytest.raises(ValueError, match="value must be given: its width is 6"):
        layer(q, k)
    with pytest.raises(ValueError, match=r"key has the shape \(2, 4, 6\)"):
        layer(q, v, v)
    own = mha.Layer(8, 2, in_proj_weight=random(8, 24, 8), output_weight=random(9, 8, 8))
    packed = random(10, 7, 8)
    got = own(packed, query_offsets=[0, 3, 7], causal=True)
    assert np.array_equal(got[:3], own(packed[None, :3], causal=True)[0])
    assert np.array_equal(got[3:], own(packed[None, 3:], causal=True)[0])


def test_layer_with_a_cache() -> None:
    layer = mha.Layer(16, 4, num_kv_heads=2, head_dim=8, in_proj_weight=random(1, 64, 16), output_weight=random(2, 16, 32))
    x, rope = random(3, 1, 9, 16), mha.Rope()
    want = layer(x, causal=True, rope=rope)
    for key in ("f32", "bf16", "i8"):
        cache = mha.Cache(2, 8, 16, kind="paged", page_size=16, key=key, value=key)  # type: ignore[arg-type]
        steps = [layer(x[:, :5], causal=True, rope=rope, cache=cache)]
        steps += [layer(x[:, t : t + 1], causal=True, rope=rope, cache=cache) for t in range(5, 9)]
        got = np.concatenate(steps, axis=1)
        assert cache.length() == 9
        if key == "f32":
            assert np.array_equal(got, want)
        else:
            assert close(got, want.astype(np.float64), 0.05)
    read = layer.forward_results(x[:, :2], cache=cache, cache_use="read", weights="averaged")
    assert read.weights.shape == (1, 2, 9) and cache.length() == 9
    with pytest.raises(ValueError, match="cache is given with key"):
        layer(x, x, cache=cache)
    with pytest.raises(ValueError, match="cache_use is given without a cache"):
        layer(x, cache_use="read")
    with pytest.raises(mha.CacheFullError):
        layer(random(4, 1, 9, 16), cache=cache)
    assert cache.length() == 9


def test_explain() -> None:
    layer = mha.Layer(8, 2, in_proj_weight=random(8, 24, 8), output_weight=random(9, 8, 8))
    assert "threads: " in layer.explain(random(1, 1, 3, 8))
    assert "threads: " in mha.Linear(random(1, 4, 8)).explain(random(2, 3, 8))
