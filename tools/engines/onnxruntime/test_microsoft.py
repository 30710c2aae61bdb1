# SPDX-License-Identifier: Apache-2.0
"""MultiHeadAttention and GroupQueryAttention of com.microsoft against ONNX Runtime's own float32 kernels."""

from __future__ import annotations

import numpy as np
import pytest

from sessions import MICROSOFT, MICROSOFT_OPERATORS, one_node, session

B, H, HKV, D = 2, 4, 2, 16
BOUND = 5e-6  # of float32 results of magnitude 1
HALF_BOUND = 2e-3  # inputs and results of float16


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def compare(kind: str, inputs: dict, outputs: list[str], bound: float = BOUND, valid=None, threads: int = 1,
            constants: tuple[str, ...] = (), **attributes) -> None:  # fmt: skip
    model = one_node(kind, MICROSOFT, inputs, outputs, constants, **attributes)
    feed = {name: array for name, array in inputs.items() if array is not None and name not in constants}
    expected = session(model).run(None, feed)
    results = session(model, (MICROSOFT_OPERATORS,), threads).run(None, feed)
    assert len(results) == len(expected)
    for name, result, wanted in zip([name for name in outputs if name], results, expected, strict=True):
        assert result.shape == wanted.shape
        assert result.dtype == wanted.dtype
        if valid is not None:
            result, wanted = valid(name, result), valid(name, wanted)
        if result.dtype == np.int8 or result.dtype == np.uint8:
            # Both round the same floats: at most one step apart, where a rotation differs in its last bit.
            different = np.abs(codes(result) - codes(wanted))
            assert different.max() <= 1
            assert (different > 0).mean() < 0.01
        else:
            assert np.abs(result - wanted).max() <= bound


def codes(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.int8:
        return array.astype(np.int32)
    return np.stack([array & 15, array >> 4], -1).astype(np.int32)


def multi_head(**changes) -> dict:
    inputs = dict.fromkeys(["query", "key", "value", "bias", "key_padding_mask", "attention_bias", "past_key", "past_value"])
    inputs.update(query=numbers(B, 5, H * D), key=numbers(B, 7, H * D, seed=1), value=numbers(B, 7, H * D, seed=2))
    inputs.update(changes)
    return inputs


PAST = {"past_key": numbers(B, H, 3, D), "past_value": numbers(B, H, 3, D, seed=1)}
ROWS = np.array([[1, 1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 1, 1, 1]], np.int32)
MULTI_HEAD = {
    "plain": multi_head(),
    "wide_values": multi_head(value=numbers(B, 7, H * 24)),
    "self_bias": multi_head(key=numbers(B, 5, H * D, seed=1), value=numbers(B, 5, H * D, seed=2), bias=numbers(3 * H * D)),
    "by_head": multi_head(key=numbers(B, H, 7, D), value=numbers(B, H, 7, D, seed=1)),
    "lengths": multi_head(key_padding_mask=np.array([3, 7], np.int32)),
    "nothing_visible": multi_head(key_padding_mask=np.array([0, 7], np.int32)),
    "padding_rows": multi_head(key_padding_mask=ROWS),
    "padding_full": multi_head(key_padding_mask=np.stack([np.tril(np.ones((5, 7), np.int32), 1)] * B)),
    "bias_scores": multi_head(attention_bias=numbers(B, H, 5, 7)),
    "bias_scores_broadcast": multi_head(attention_bias=numbers(1, 1, 5, 7), key_padding_mask=ROWS),
    "past": multi_head(key=numbers(B, 5, H * D), value=numbers(B, 5, H * D), **PAST),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", MULTI_HEAD)
def test_multi_head(name: str, threads: int) -> None:
    inputs = MULTI_HEAD[name]
    outputs = ["output", "present_key", "present_value"] if name == "past" else ["output"]
    # Where all keys are hidden, scores are mask_filter_value, -10000, plus what they were: steps of 2^-10.
    bound = 1e-3 if name == "nothing_visible" else BOUND
    compare("MultiHeadAttention", inputs, outputs, bound, num_heads=H, threads=threads)


@pytest.mark.parametrize("attributes", [{"unidirectional": 1}, {"scale": 0.3}], ids=str)
def test_multi_head_attributes(attributes: dict) -> None:
    inputs = multi_head(key=numbers(B, 5, H * D), value=numbers(B, 5, H * D), **PAST)
    compare("MultiHeadAttention", inputs, ["output", "present_key", "present_value"], num_heads=H, **attributes)


@pytest.mark.parametrize("parts", [2, 3])
def test_multi_head_packed(parts: int) -> None:
    """ONNX Runtime has no such kernel for CPUs: the reference is its kernel over the parts."""
    query, packed = numbers(B, 5, H * D), numbers(B, 5, H, parts, D, seed=1)
    separate = [np.ascontiguousarray(packed[:, :, :, part]).reshape(B, 5, H * D) for part in range(parts)]
    whole = dict(zip(["query", "key", "value"], [query, *separate][-3:], strict=True))
    inputs = {"query": packed} if parts == 3 else {"query": query, "key": packed}
    model = one_node("MultiHeadAttention", MICROSOFT, inputs, ["output"], num_heads=H)
    result = session(model, (MICROSOFT_OPERATORS,)).run(None, inputs)[0]
    model = one_node("MultiHeadAttention", MICROSOFT, whole, ["output"], num_heads=H)
    assert np.abs(result - session(model).run(None, whole)[0]).max() <= BOUND


def test_multi_head_float16() -> None:
    """ONNX Runtime has no such kernel for CPUs: the reference is its float32 kernel over the same numbers."""
    narrow = {name: array if array is None else array.astype(np.float16) for name, array in MULTI_HEAD["self_bias"].items()}
    wide = {name: array if array is None else array.astype(np.float32) for name, array in narrow.items()}
    model = one_node("MultiHeadAttention", MICROSOFT, narrow, ["output"], num_heads=H)
    result = session(model, (MICROSOFT_OPERATORS,)).run(None, {name: a for name, a in narrow.items() if a is not None})[0]
    model = one_node("MultiHeadAttention", MICROSOFT, wide, ["output"], num_heads=H)
    expected = session(model).run(None, {name: a for name, a in wide.items() if a is not None})[0]
    assert result.dtype == np.float16
    assert np.abs(result.astype(np.float32) - expected).max() <= HALF_BOUND


GROUPED = ["query", "key", "value", "past_key", "past_value", "seqlens_k", "total_sequence_length", "cos_cache", "sin_cache",
           "position_ids", "attention_bias", "head_sink", "k_scale", "v_scale", "q_norm_weight", "k_norm_weight",
           "query_seqlens"]  # fmt: skip
PRESENT = ["output", "present_key", "present_value"]


def grouped(new: int, past: int, after: list[int], room: int = 0, packed: bool = False, **changes) -> dict:
    """`new` tokens of each item behind its earlier ones; after: tokens of each item then; room: of the past tensors."""
    batch = len(after)
    inputs = dict.fromkeys(GROUPED)
    if packed:
        inputs["query"] = numbers(batch, new, (H + 2 * HKV) * D)
    else:
        inputs.update(query=numbers(batch, new, H * D), key=numbers(batch, new, HKV * D, seed=1),
                      value=numbers(batch, new, HKV * D, seed=2))  # fmt: skip
    if past or room:
        shape = (batch, HKV, max(past, room), D)
        inputs.update(past_key=numbers(*shape, seed=3), past_value=numbers(*shape, seed=4))
    inputs.update(seqlens_k=np.array(after, np.int32) - 1, total_sequence_length=np.array(max(after), np.int32))
    inputs.update(changes)
    return inputs


def angles(positions: int = 64, pairs: int = D // 2) -> dict:
    angle = np.outer(np.arange(positions), 10000.0 ** (-np.arange(pairs) / pairs)).astype(np.float32)
    return {"cos_cache": np.cos(angle), "sin_cache": np.sin(angle)}


def filled(after: list[int]):
    """Rows of the cache beyond an item's tokens are not specified."""

    def valid(name: str, array: np.ndarray) -> np.ndarray:
        if not name.startswith("present"):
            return array
        return np.concatenate([array[b, :, :count].reshape(-1) for b, count in enumerate(after)])

    return valid


CALLS = {
    "prompt": (6, 0, [6, 6]),
    "prompt_into_room": (6, 0, [6, 6], 12),
    "decode": (1, 6, [7, 7]),
    "decode_ragged": (1, 8, [7, 5], 8),
    "decode_into_room": (1, 6, [7, 7], 12),
    "chunk": (3, 6, [9]),
}


@pytest.mark.parametrize("rotary", [None, 0, 1], ids=["plain", "half", "interleaved"])
@pytest.mark.parametrize("packed", [False, True], ids=["separate", "packed"])
@pytest.mark.parametrize("name", CALLS)
def test_grouped(name: str, packed: bool, rotary: int | None) -> None:
    new, past, after, *room = CALLS[name]
    changes = {} if rotary is None else angles()
    inputs = grouped(new, past, after, *room, packed=packed, **changes)
    attributes = {} if rotary is None else {"do_rotary": 1, "rotary_interleaved": rotary}
    for threads in (1, 2):
        compare("GroupQueryAttention", inputs, PRESENT, valid=filled(after), num_heads=H, kv_num_heads=HKV, threads=threads,
                **attributes)  # fmt: skip


OPTIONS = {
    "scale": ({}, {"scale": 0.4}),
    "softcap": ({}, {"softcap": 2.0}),
    "window": ({}, {"local_window_size": 3}),
    "smooth": ({}, {"smooth_softmax": 1}),
    "sinks": ({"head_sink": numbers(H)}, {}),
    "bidirectional": ({}, {"causal": 0}),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("call", ["prompt", "decode", "chunk"])
def test_grouped_options(name: str, call: str) -> None:
    changes, attributes = OPTIONS[name]
    new, past, after = CALLS[call]
    compare("GroupQueryAttention", grouped(new, past, after, **changes), PRESENT, valid=filled(after), num_heads=H,
            kv_num_heads=HKV, **attributes)  # fmt: skip


@pytest.mark.parametrize("shape", [(2, H), (1, H), (2, 1), (1, 1)], ids=str)
def test_grouped_bias(shape: tuple[int, int]) -> None:
    inputs = grouped(1, 6, [7, 7], attention_bias=numbers(*shape, 1, 7))
    compare("GroupQueryAttention", inputs, PRESENT, num_heads=H, kv_num_heads=HKV)


def test_grouped_positions() -> None:
    inputs = grouped(1, 6, [7, 7], position_ids=np.array([[9], [4]], np.int64), **angles())
    compare("GroupQueryAttention", inputs, PRESENT, num_heads=H, kv_num_heads=HKV, do_rotary=1)


def test_grouped_query_lengths() -> None:
    new, after = [4, 0, 2], [9, 5, 6]
    inputs = grouped(4, 8, after, 12, query_seqlens=np.array(new, np.int32), **angles())
    inputs["total_sequence_length"] = np.array(12, np.int32)

    def valid(name: str, array: np.ndarray) -> np.ndarray:
        if name.startswith("present"):
            return filled(after)(name, array)
        return np.concatenate([array[b, :count].reshape(-1) for b, count in enumerate(new)])

    compare("GroupQueryAttention", inputs, PRESENT, valid=valid, num_heads=H, kv_num_heads=HKV, do_rotary=1)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("granularity", ["PER_TENSOR", "PER_CHANNEL"])
@pytest.mark.parametrize("call", ["decode", "chunk", "prompt_into_room"])
def test_grouped_codes(call: str, granularity: str, bits: int) -> None:
    new, past, after, *room = CALLS[call]
    shape = (len(after), HKV, max([past, *room]), D if bits == 8 else D // 2)
    generator = np.random.default_rng(1)
    low, high, kind = (-127, 128, np.int8) if bits == 8 else (0, 256, np.uint8)
    changes = {name: generator.integers(low, high, shape).astype(kind) for name in ("past_key", "past_value")}
    size = (1,) if granularity == "PER_TENSOR" else (1, HKV, 1, D)
    for name in ("k_scale", "v_scale"):
        changes[name] = (generator.uniform(0.5, 1.5, size) * (0.03 if bits == 8 else 0.4)).astype(np.float32)
    inputs = grouped(new, past, after, *room, **changes, **angles())
    compare("GroupQueryAttention", inputs, PRESENT, 2e-5, filled(after), num_heads=H, kv_num_heads=HKV, do_rotary=1,
            constants=("k_scale", "v_scale"), k_quant_type=granularity, v_quant_type=granularity,
            kv_cache_bit_width=bits)  # fmt: skip


def test_grouped_padded_prompt() -> None:
    after = [6, 4]

    def valid(name: str, array: np.ndarray) -> np.ndarray:
        if name.startswith("present"):
            return filled(after)(name, array)
        return np.concatenate([array[b, :count].reshape(-1) for b, count in enumerate(after)])

    compare("GroupQueryAttention", grouped(6, 0, after, **angles()), PRESENT, valid=valid, num_heads=H, kv_num_heads=HKV,
            do_rotary=1)  # fmt: skip


@pytest.mark.parametrize("constants", [(), ("cos_cache", "sin_cache")], ids=["variable", "constant"])
def test_grouped_float16(constants: tuple[str, ...]) -> None:
    """ONNX Runtime has no such kernel for CPUs: the reference is its float32 kernel over the same numbers."""
    inputs = grouped(3, 6, [9], **angles(), head_sink=numbers(H))
    narrow = {name: array if array is None or array.dtype != np.float32 else array.astype(np.float16)
              for name, array in inputs.items()}  # fmt: skip
    wide = {name: array if array is None or array.dtype != np.float16 else array.astype(np.float32)
            for name, array in narrow.items()}  # fmt: skip
    results = []
    for given, libraries in ((narrow, (MICROSOFT_OPERATORS,)), (wide, ())):
        model = one_node("GroupQueryAttention", MICROSOFT, given, PRESENT, constants, num_heads=H, kv_num_heads=HKV, do_rotary=1)
        feed = {name: array for name, array in given.items() if array is not None and name not in constants}
        results.append(session(model, libraries).run(None, feed))
    for result, expected in zip(*results, strict=True):
        assert result.dtype == np.float16
        assert np.abs(result.astype(np.float32) - expected).max() <= HALF_BOUND


def test_grouped_norms() -> None:
    """ONNX Runtime's kernel for CPUs refuses the weights of the norm: its reference has normed inputs."""
    inputs, epsilon = grouped(3, 6, [9], **angles()), 1e-5
    weights = {"q_norm_weight": numbers(D), "k_norm_weight": numbers(D, seed=1)}
    normed = dict(inputs)
    for name, weight in (("query", weights["q_norm_weight"]), ("key", weights["k_norm_weight"])):
        rows = inputs[name].reshape(1, 3, -1, D).astype(np.float64)
        rows = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + epsilon) * weight
        normed[name] = rows.astype(np.float32).reshape(inputs[name].shape)
    results = []
    for given, libraries in (({**inputs, **weights}, (MICROSOFT_OPERATORS,)), (normed, ())):
        model = one_node("GroupQueryAttention", MICROSOFT, given, PRESENT, num_heads=H, kv_num_heads=HKV, do_rotary=1,
                         qk_norm_epsilon=epsilon)  # fmt: skip
        results.append(session(model, libraries).run(None, {name: a for name, a in given.items() if a is not None}))
    for result, expected in zip(*results, strict=True):
        assert np.abs(result - expected).max() <= BOUND


@pytest.mark.parametrize("kind", [np.float32, np.int8])
def test_grouped_shared_buffer(kind: type) -> None:
    """Past and present are one buffer: steps add to it. The reference is a call that has all tokens at once."""
    steps, room = 5, 8
    scales = {"k_scale": np.array([0.03], np.float32), "v_scale": np.array([0.03], np.float32)} if kind == np.int8 else {}
    attributes = {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR"} if scales else {}
    query, key, value = numbers(1, steps, H * D), numbers(1, steps, HKV * D), numbers(1, steps, HKV * D, seed=1)
    cache = [np.zeros((1, HKV, room, D), kind) for _ in range(2)]
    changes = {"past_key": cache[0], "past_value": cache[1], **scales}
    model = one_node("GroupQueryAttention", MICROSOFT, grouped(1, 0, [1], room, **changes), PRESENT, tuple(scales),
                     num_heads=H, kv_num_heads=HKV, **attributes)  # fmt: skip
    binding_session = session(model, (MICROSOFT_OPERATORS,))
    binding = binding_session.io_binding()
    outputs = []
    for step in range(steps):
        feed = {"query": query, "key": key, "value": value}
        for name, array in feed.items():
            feed[name] = np.ascontiguousarray(array[:, step : step + 1])
        feed.update(seqlens_k=np.array([step], np.int32), total_sequence_length=np.array(step + 1, np.int32))
        outputs.append(np.full((1, 1, H * D), np.nan, np.float32))
        for name, array in (*feed.items(), ("past_key", cache[0]), ("past_value", cache[1])):
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in zip(PRESENT, (outputs[-1], *cache), strict=True):
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        binding_session.run_with_iobinding(binding)
    whole = grouped(steps, 0, [steps], room, query=query, key=key, value=value, **scales)
    whole.update(past_key=np.zeros_like(cache[0]), past_value=np.zeros_like(cache[1]))
    model = one_node("GroupQueryAttention", MICROSOFT, whole, PRESENT, tuple(scales), num_heads=H, kv_num_heads=HKV,
                     **attributes)  # fmt: skip
    feed = {name: array for name, array in whole.items() if array is not None and name not in scales}
    expected = session(model, (MICROSOFT_OPERATORS,)).run(None, feed)
    assert np.array_equal(np.concatenate(outputs, 1), expected[0])
    for result, wanted in zip(cache, expected[1:], strict=True):
        assert np.array_equal(result[:, :, :steps], wanted[:, :, :steps])


@pytest.mark.parametrize("mode", [1, 2])
def test_grouped_products_are_left(mode: int, capfd: pytest.CaptureFixture) -> None:
    inputs = grouped(3, 6, [9], **angles())
    outputs = [*PRESENT, "output_qk"]
    model = one_node("GroupQueryAttention", MICROSOFT, inputs, outputs, num_heads=H, kv_num_heads=HKV, do_rotary=1, qk_output=mode)
    feed = {name: array for name, array in inputs.items() if array is not None}
    expected = session(model).run(None, feed)
    results = session(model, (MICROSOFT_OPERATORS,)).run(None, feed)
    assert "mha leaves GroupQueryAttention 'the_node' to ONNX Runtime: the output output_qk" in capfd.readouterr().err
    for result, wanted in zip(results, expected, strict=True):
        assert np.array_equal(result, wanted)


def test_grouped_products_of_float16_over_codes(capfd: pytest.CaptureFixture) -> None:
    """Left to ONNX Runtime's float32 kernel; the cache stays int8."""
    scales = {name: np.array([0.03], np.float32) for name in ("k_scale", "v_scale")}
    cache = {name: np.arange(HKV * 8 * D).reshape(1, HKV, 8, D).astype(np.int8) for name in ("past_key", "past_value")}
    results = []
    for kind, libraries in ((np.float16, (MICROSOFT_OPERATORS,)), (np.float32, ())):
        inputs = {name: array if array is None or array.dtype != np.float32 else array.astype(np.float16).astype(kind)
                  for name, array in grouped(1, 5, [6], 8).items()} | cache | scales  # fmt: skip
        model = one_node("GroupQueryAttention", MICROSOFT, inputs, [*PRESENT, "output_qk"], tuple(scales), num_heads=H,
                         kv_num_heads=HKV, qk_output=1, kv_cache_bit_width=8, k_quant_type="PER_TENSOR",
                         v_quant_type="PER_TENSOR")  # fmt: skip
        feed = {name: array for name, array in inputs.items() if array is not None and name not in scales}
        results.append(session(model, libraries).run(None, feed))
    assert "to ONNX Runtime: the output output_qk" in capfd.readouterr().err
    for result, wanted in zip(*results, strict=True):
        if result.dtype == np.int8:
            assert np.array_equal(result[:, :, :6], wanted[:, :, :6])
        else:
            assert result.dtype == np.float16
            np.testing.assert_allclose(result.astype(np.float32), wanted, 2.0**-11, 1e-6)


def test_grouped_window_cache_is_left(capfd: pytest.CaptureFixture) -> None:
    """A cache of 8 tokens for a window of 4, after 12 tokens."""
    inputs = grouped(1, 8, [12], 8)
    model = one_node("GroupQueryAttention", MICROSOFT, inputs, PRESENT, num_heads=H, kv_num_heads=HKV, local_window_size=4,
                     sliding_window_cache=1)  # fmt: skip
    feed = {name: array for name, array in inputs.items() if array is not None}
    expected = session(model).run(None, feed)
    results = session(model, (MICROSOFT_OPERATORS,)).run(None, feed)
    assert "mha leaves GroupQueryAttention 'the_node' to ONNX Runtime: sliding_window_cache" in capfd.readouterr().err
    assert np.array_equal(results[0], expected[0])
    for result, wanted in zip(results[1:], expected[1:], strict=True):
        assert np.array_equal(result[:, :, :4], wanted[:, :, :4])
