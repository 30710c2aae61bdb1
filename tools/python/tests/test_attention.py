# SPDX-License-Identifier: Apache-2.0
"""mha.attention against the double-precision formula, and bit by bit against the C interface."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import direct
import mha
from reference import attend, close

CONTEXTS = [mha.Context(1), mha.Context(2)]


def random(seed: int, *shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@st.composite
def problems(draw: Any) -> dict[str, Any]:
    kv_heads = draw(st.integers(1, 3))
    return {
        "batch": draw(st.integers(0, 3)),
        "kv_heads": kv_heads,
        "heads": kv_heads * draw(st.integers(1, 3)),
        "tq": draw(st.integers(0, 20)),
        "tk": draw(st.integers(0, 40)),
        "dim": draw(st.integers(1, 40)),
        "value_dim": draw(st.integers(1, 24)),
        "seed": draw(st.integers(0, 2**20)),
    }


def tensors(p: dict[str, Any], dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    q = random(p["seed"], p["batch"], p["tq"], p["heads"], p["dim"], dtype=dtype)
    k = random(p["seed"] + 1, p["batch"], p["tk"], p["kv_heads"], p["dim"], dtype=dtype)
    v = random(p["seed"] + 2, p["batch"], p["tk"], p["kv_heads"], p["value_dim"], dtype=dtype)
    return q, k, v


def check(p: dict[str, Any], dtype: Any = np.float32, scale: float | None = None, position: Any = None, **options: Any) -> None:
    """Output, weights and log-sum-exp of one call, item by item."""
    q, k, v = tensors(p, dtype)
    got = mha.attention_results(q, k, v, scale=scale, weights="per_head", log_sum_exp=True, dtype="f32", **options)
    assert got.output.shape == (p["batch"], p["tq"], p["heads"], p["value_dim"])
    for b in range(p["batch"]):
        at = p["tk"] - p["tq"] if position is None else position[b]
        want = attend(q[b], k[b], v[b], at, scale, b, **options)
        assert close(got.output[b], want.output)
        assert close(got.weights[b], want.weights)
        if p["tq"]:
            assert close(got.log_sum_exp[b], want.log_sum_exp)
    assert np.array_equal(mha.attention(q, k, v, scale=scale, dtype="f32", **options), got.output)


@given(problems(), st.booleans(), st.sampled_from([None, 0.3, -0.2, 0.0]))
def test_the_formula(p: dict[str, Any], causal: bool, scale: float | None) -> None:
    check(p, scale=scale, causal=causal)


@given(problems(), st.integers(1, 9), st.integers(1, 9), st.integers(0, 3), st.sampled_from(["start", "end", "offset", "offsets"]))
def test_windows_and_positions(p: dict[str, Any], left: int, right: int, sinks: int, align: str) -> None:
    options: dict[str, Any] = {"window_left": left, "window_right": right, "sink_tokens": sinks}
    if align == "offset":
        check(p, position=[3] * p["batch"], align="offset", offset=3, **options)
    elif align == "offsets":
        offsets = np.arange(p["batch"], dtype=np.int64) * 2 - 1
        check(p, position=offsets, align="offset", offsets=offsets, **options)
    elif align == "start":
        check(p, position=[0] * p["batch"], align="start", causal=True, **options)
    else:
        check(p, **options)


@given(problems(), st.tuples(st.booleans(), st.booleans(), st.booleans()), st.sampled_from([bool, np.float32, np.float16]))
def test_masks_broadcast(p: dict[str, Any], repeats: tuple[bool, bool, bool], dtype: Any) -> None:
    sizes = (p["batch"], p["heads"], p["tq"])
    shape = (*(1 if repeat else size for repeat, size in zip(repeats, sizes)), p["tk"])
    mask = random(p["seed"] + 5, *shape)
    options = {"mask": mask > -0.5 if dtype is bool else mask.astype(dtype)}
    if dtype is not bool:
        options["mask2"] = random(p["seed"] + 6, p["tq"], 1)
        options["mask_factors"] = [0.5 * (h + 1) for h in range(p["heads"])]
    check(p, **options)


@given(problems(), st.sampled_from([None, 2.5]), st.booleans(), st.booleans(), st.booleans())
def test_score_changes(p: dict[str, Any], softcap: float | None, alibi: bool, bias: bool, sinks: bool) -> None:
    options: dict[str, Any] = {"softcap": softcap}
    if alibi:
        options["alibi_slopes"] = [0.25 * (h + 1) for h in range(p["heads"])]
    if bias:
        options["relative_bias"], options["relative_left"] = random(p["seed"] + 7, p["heads"], 9), 6
    if sinks:
        options["sink_logits"] = random(p["seed"] + 8, p["heads"])
    check(p, **{name: value for name, value in options.items() if value is not None})


@given(problems(), st.integers(0, 10))
def test_prefixes_segments_blocks_bits(p: dict[str, Any], prefix: int) -> None:
    rng = np.random.default_rng(p["seed"])
    check(p, causal=True, prefix_lengths=[prefix] * p["batch"])
    segments = {
        "query_segments": rng.integers(0, 3, (p["batch"], p["tq"]), np.int32),
        "key_segments": rng.integers(0, 3, (p["batch"], p["tk"]), np.int32),
    }
    check(p, **segments)
    pairs = np.unique(rng.integers(0, 6, (8, 2)), axis=0)
    check(p, block_mask=mha.BlockMask(4, 8, pairs))
    check(p, bit_mask=rng.integers(0, 256, (p["batch"] or 1, 1, p["tq"] or 1, (p["tk"] + 7) // 8 or 1), np.uint8))


def test_a_block_mask_without_pairs_hides_all() -> None:
    q = random(1, 1, 3, 2, 4)
    assert not mha.attention(q, q, q, block_mask=mha.BlockMask(2, 2, np.empty((0, 2), np.int64))).any()


@given(problems(), st.booleans(), st.sampled_from([None, 0.3]), st.sampled_from([0, 3]), st.sampled_from([0.0, 3.0]), st.booleans())
def test_bits_of_the_c_interface(p: dict[str, Any], causal: bool, scale: float | None, window: int, softcap: float, masked: bool) -> None:
    """Strides, layouts, kinds and halves change no bit; the direct call gets dense floats."""
    q, k, v = tensors(p, np.float16)
    mask = random(p["seed"] + 9, p["batch"], p["heads"], p["tq"], p["tk"]) > -1 if masked else None
    fields: dict[str, Any] = {"causal": int(causal), "window_left": window, "softcap": softcap}
    if scale is not None:
        fields["scale"] = scale
    if mask is not None:
        fields["bool_mask"] = mask
    want = direct.attention(CONTEXTS[0], *(a.astype(np.float32) for a in (q, k, v)), **fields)
    options: dict[str, Any] = {"causal": causal, "scale": scale, "dtype": "f32"}
    options |= {name: value for name, value in (("window_left", window), ("softcap", softcap), ("mask", mask)) if value is not None}
    wide = [a.astype(np.float32) for a in (q, k, v)]
    turned = [np.ascontiguousarray(a.transpose(0, 2, 1, 3)) for a in wide]
    gaps = [np.zeros((a.shape[0], a.shape[1] + 1, a.shape[2], a.shape[3] + 3), np.float32) for a in wide]
    for hole, a in zip(gaps, wide):
        hole[:, : a.shape[1], :, : a.shape[3]] = a
    for context in CONTEXTS:
        assert np.array_equal(mha.attention(q, k, v, context=context, **options), want)
        assert np.array_equal(mha.attention(wide[0], k, wide[2], context=context, **options), want)
        got = mha.attention(*turned, layout="bhtd", context=context, **options)
        assert np.array_equal(got.transpose(0, 2, 1, 3), want)
        cut = [hole[:, : a.shape[1], :, : a.shape[3]] for hole, a in zip(gaps, wide)]
        assert np.array_equal(mha.attention(*cut, context=context, **options), want)


def test_packed_items_and_lengths() -> None:
    q, k, v = random(1, 9, 4, 8), random(2, 20, 2, 8), random(3, 20, 2, 6)
    queries, keys = [0, 4, 4, 9], np.array([0, 7, 8, 20])
    got = mha.attention_results(
        q,
        k,
        v,
        query_offsets=queries,
        key_offsets=keys,
        causal=True,
        weights="per_head",
        log_sum_exp=True,
        query_segments=[0] * 9,
        key_segments=[0] * 20,
    )
    assert got.weights.shape == (4, 9, 12) and got.log_sum_exp.shape == (36,)
    for b in range(3):
        rows = slice(queries[b], queries[b + 1])
        tq, tk = queries[b + 1] - queries[b], keys[b + 1] - keys[b]
        want = attend(q[rows], k[keys[b] : keys[b + 1]], v[keys[b] : keys[b + 1]], tk - tq, causal=True)
        assert close(got.output[rows], want.output)
        assert close(got.weights[:, rows, :tk], want.weights)
        assert not got.weights[:, rows, tk:].any()
        assert close(got.log_sum_exp[4 * queries[b] : 4 * queries[b + 1]].reshape(4, tq), want.log_sum_exp)
    padded, lengths = random(4, 2, 5, 4, 8), np.array([3, 0])
    keys_of, values_of = random(5, 2, 6, 4, 8), random(6, 2, 6, 4, 8)
    got_padded = mha.attention(padded, keys_of, values_of, key_lengths=lengths, align="start", causal=True)
    assert close(got_padded[0], attend(padded[0], keys_of[0, :3], values_of[0, :3], 0, causal=True).output)
    assert not got_padded[1].any()


def test_weights_modes_and_rows() -> None:
    q, k, v = random(1, 2, 5, 4, 8), random(2, 2, 7, 2, 8), random(3, 2, 7, 2, 8)
    whole = mha.attention_results(q, k, v, weights="per_head").weights
    assert whole.shape == (2, 4, 5, 7)
    averaged = mha.attention_results(q, k, v, weights="averaged").weights
    assert close(averaged, whole.astype(np.float64).mean(axis=1), 1e-6)
    sums = mha.attention_results(q, k, v, weights="key_sums").weights
    assert close(sums, whole.astype(np.float64).sum(axis=2), 1e-6)
    rows = mha.attention_results(q, k, v, weights="per_head", weights_rows=[1, 4]).weights
    assert np.array_equal(rows, whole[:, :, [1, 4]])


def test_sums_over_no_query_are_zeros() -> None:
    k = random(1, 2, 5, 2, 8)
    layer = mha.Layer(16, 2, in_proj_weight=random(2, 48, 16), output_weight=random(3, 16, 16))
    x = random(4, 2, 5, 16)
    calls: list[Any] = [
        lambda: mha.attention_results(k[:, :0], k, k, weights="key_sums"),
        lambda: mha.attention_results(k, k, k, weights="key_sums", weights_rows=[]),
        lambda: layer.forward_results(x[:, :0], x, weights="key_sums"),
    ]
    for call in calls:
        used = [np.full((2, 2, 5), 7, np.float32) for _ in range(8)]
        del used  # numpy gives this memory to the next arrays of the size
        weights = call().weights
        assert weights.shape == (2, 2, 5) and not weights.any()


def test_out_is_written_and_returned() -> None:
    q, k, v = random(1, 1, 3, 2, 4), random(2, 1, 5, 2, 4), random(3, 1, 5, 2, 4)
    want = mha.attention(q, k, v)
    out = np.zeros((1, 3, 2, 4), np.float32)
    assert mha.attention(q, k, v, out=out) is out
    assert np.array_equal(out, want)
    assert mha.attention(q, k, v, out=q) is q
    assert np.array_equal(q, want)


def test_pages() -> None:
    rng = np.random.default_rng(3)
    key, value = random(1, 6, 4, 2, 8), random(2, 6, 4, 2, 8)
    table = np.array([[3, 1, 5], [2, 0, 4]], np.int32)
    q, lengths = random(4, 2, 1, 4, 8), [9, 3]
    got = mha.attention(q, key, value, pages=mha.Pages(table), key_lengths=lengths, causal=True, align="end")
    for b in range(2):
        k = key[table[b]].reshape(12, 2, 8)[: lengths[b]]
        v = value[table[b]].reshape(12, 2, 8)[: lengths[b]]
        assert close(got[b], attend(q[b], k, v, lengths[b] - 1, causal=True).output)
    slots = np.array([[table[b, t // 4] * 4 + t % 4 for t in range(9)] for b in range(2)], np.int64)
    rows = rng.standard_normal((2, 9, 2, 8)).astype(np.float32)
    mha.rows_prepare(rows, out=key, slots=slots)
    for b in range(2):
        assert np.array_equal(key[table[b]].reshape(12, 2, 8)[:9], rows[b])


@pytest.mark.parametrize("arithmetic", ["f32", "bf16", "int8"])
def test_partial_results_merge_to_the_bits_of_one_call(arithmetic: Any) -> None:
    q, k, v = random(1, 1, 3, 4, 16), random(2, 1, 700, 2, 16), random(3, 1, 700, 2, 16)
    keys: Any = k
    values: Any = v
    if arithmetic == "int8":
        keys, values = (mha.rows_quantise(a, mha.Storage("i8")).codes for a in (k, v))
    elif arithmetic == "bf16" and not bf16_runs():
        pytest.skip("no target of this machine has BF16 arithmetic")
    whole = mha.attention_results(q, keys, values, causal=True, arithmetic=arithmetic, log_sum_exp=True)
    parts = []
    for begin, end in ((0, 256), (256, 700)):
        part = [cut(a, begin, end) for a in (keys, values)]
        offset = 700 - 3 - begin
        parts.append(mha.attention_partial(q, *part, causal=True, align="offset", offset=offset, arithmetic=arithmetic))
    merged = mha.merge_partials(np.concatenate(parts), q, 16, arithmetic=arithmetic, log_sum_exp=True)
    assert np.array_equal(merged.output, whole.output)
    assert np.array_equal(merged.log_sum_exp, whole.log_sum_exp)


def cut(part: Any, begin: int, end: int) -> Any:
    if isinstance(part, mha.Codes):
        return mha.Codes(part.codes[:, begin:end], part.scales[:, begin:end])
    return part[:, begin:end]


def bf16_runs() -> bool:
    q = random(1, 1, 1, 1, 4)
    try:
        mha.attention(q, q, q, arithmetic="bf16")
    except mha.UnsupportedError:
        return False
    return True


def test_finished_results_merge_by_their_log_sum_exp() -> None:
    q, k, v = random(1, 2, 1, 2, 8), random(2, 2, 9, 2, 8), random(3, 2, 9, 2, 8)
    parts = [mha.attention_results(q, k[:, a:b], v[:, a:b], log_sum_exp=True) for a, b in ((0, 4), (4, 9))]
    merged = mha.merge([part.output for part in parts], [part.log_sum_exp.transpose(0, 2, 1).copy() for part in parts])
    assert close(merged.output, mha.attention(q, k, v).astype(np.float64), 1e-6)


def test_explain_says_how() -> None:
    q = random(1, 1, 3, 2, 4)
    text = mha.attention_explain(q, q, q, causal=True)
    assert "target: " in text and "threads: " in text
