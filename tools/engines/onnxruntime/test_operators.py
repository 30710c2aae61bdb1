# SPDX-License-Identifier: Apache-2.0
"""What is refused, with the text that the user of ONNX Runtime gets; masks, MatMul and Gemm, threads."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import oracle
import pytest
from onnx import helper, numpy_helper

from sessions import FLOAT, MICROSOFT, MICROSOFT_OPERATORS, ONNX_OPERATORS, one_node, session


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)


def refused(kind: str, domain: str, inputs: dict, outputs: list[str], **attributes: object) -> str:
    model = one_node(kind, domain, inputs, outputs, **attributes)
    library = MICROSOFT_OPERATORS if domain else ONNX_OPERATORS
    with pytest.raises(Exception, match="mha: ") as failure:
        session(model, (library,)).run(None, {name: array for name, array in inputs.items() if array is not None})
    return str(failure.value)


def test_attention() -> None:
    query = numbers(2, 5, 30)
    text = refused("Attention", "", {"Q": query, "K": query, "V": query}, ["Y"], q_num_heads=4, kv_num_heads=4)
    assert "q_num_heads 4 does not divide the width of Q, [2, 5, 30]" in text
    four = {"Q": numbers(1, 4, 5, 8), "K": numbers(1, 3, 5, 8), "V": numbers(1, 3, 5, 8)}
    text = refused("Attention", "", four, ["Y"])
    assert "num_heads is 4: not a multiple of num_kv_heads (3)" in text  # the library's own
    three = {name: numbers(1, 4, 5, 8) for name in "QKV"} | {"attn_mask": numbers(3, 1, 5, 5)}
    assert "attn_mask is [3, 1, 5, 5]: its dimension 0 is neither 1 nor 1" in refused("Attention", "", three, ["Y"])


def test_lengths() -> None:
    inputs = {name: numbers(1, 4, 5, 8) for name in "QKV"}
    inputs |= dict.fromkeys(["attn_mask", "past_key", "past_value"]) | {"nonpad_kv_seqlen": np.array([9], np.int64)}
    assert "nonpad_kv_seqlen[0] is 9 of 5 keys" in refused("Attention", "", inputs, ["Y"])


def test_multi_head() -> None:
    query = numbers(2, 5, 32)
    inputs = {"query": query, "key": query, "value": query, "bias": numbers(7)}
    assert "bias is [7], not [96]" in refused("MultiHeadAttention", MICROSOFT, inputs, ["output"], num_heads=4)
    plain = inputs | dict.fromkeys(["bias", "key_padding_mask"])
    short = plain | {"attention_bias": numbers(1, 1, 5, 4)}
    text = refused("MultiHeadAttention", MICROSOFT, short, ["output"], num_heads=4)
    assert "attention_bias is [1, 1, 5, 4]: its dimension 3 is neither 1 nor 5" in text


@pytest.mark.parametrize("value", [None, (2, 4, 2, 8)], ids=str)
@pytest.mark.parametrize("kind", ["Attention", "MultiHeadAttention"])
def test_past(kind: str, value: tuple[int, ...] | None) -> None:
    """Earlier values that are absent, or fewer than the earlier keys."""
    query = numbers(2, 5, 32)
    names = ["attn_mask"] if kind == "Attention" else ["bias", "key_padding_mask", "attention_bias"]
    inputs = {"query": query, "key": query, "value": query} | dict.fromkeys(names)
    inputs |= {"past_key": numbers(2, 4, 3, 8), "past_value": numbers(*value) if value else None}
    domain = "" if kind == "Attention" else MICROSOFT
    heads = {"q_num_heads": 4, "kv_num_heads": 4} if kind == "Attention" else {"num_heads": 4}
    shape = "[2, 4, 2, 8]" if value else "(absent)"
    text = refused(kind, domain, inputs, ["output", "present_key", "present_value"], **heads)
    assert f"{kind}: past_key [2, 4, 3, 8] and past_value {shape} do not fit the keys and values of this call" in text


def test_grouped() -> None:
    inputs = {"query": numbers(1, 1, 32), "key": numbers(1, 1, 16), "value": numbers(1, 1, 16), "past_key": None,
              "past_value": None, "seqlens_k": np.array([4], np.int32), "total_sequence_length": np.array(5, np.int32)}  # fmt: skip
    text = refused("GroupQueryAttention", MICROSOFT, inputs, ["output"], num_heads=4, kv_num_heads=2)
    assert "an item has 4 earlier and 1 new tokens, past_key is absent" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": numbers(1, 1, 1, 4)}, "attention_bias is [1, 1, 1, 4]: its dimension 3 is neither 1 nor 5"),
        ({"attention_bias": numbers(1, 1, 1, 5), "seqlens_k": np.array([5], np.int32)}, "attention_bias has 5 keys, but an item has 6"),
        ({"cos_cache": numbers(4, 4), "sin_cache": numbers(4, 4)}, "positions from 4 to 4 with cos_cache [4, 4]"),
        ({"cos_cache": numbers(9, 4), "sin_cache": numbers(9, 4), "position_ids": np.array([[-1]])}, "positions from -1 to -1"),
        ({"q_norm_weight": numbers(4), "k_norm_weight": numbers(8)}, "q_norm_weight [4] and k_norm_weight [8] are not [8]"),
    ],
)  # fmt: skip
def test_grouped_optional_inputs(changes: dict, message: str) -> None:
    inputs = {"query": numbers(1, 1, 32), "key": numbers(1, 1, 16), "value": numbers(1, 1, 16)}
    inputs |= {"past_key": numbers(1, 2, 8, 8), "past_value": numbers(1, 2, 8, 8)}
    inputs |= {"seqlens_k": np.array([4], np.int32), "total_sequence_length": np.array(5, np.int32)}
    inputs |= dict.fromkeys(["cos_cache", "sin_cache", "position_ids", "attention_bias", "head_sink", "k_scale", "v_scale"])
    text = refused(
        "GroupQueryAttention", MICROSOFT, inputs | changes, ["output"], num_heads=4, kv_num_heads=2, do_rotary=int("cos_cache" in changes)
    )
    assert message in text


def test_threads() -> None:
    model = one_node("Attention", "", {name: numbers(1, 4, 5, 8) for name in "QKV"}, ["Y"])
    with pytest.raises(Exception, match="mha.num_threads is no number from 0 to 1024: many"):
        session(model, (ONNX_OPERATORS,), **{"mha.num_threads": "many"})


def test_old_runtime() -> None:
    """An ONNX Runtime whose C API has no version 25: the library says so by the status that it returns."""
    messages = []
    create = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    make_status = create(lambda code, text: messages.append((code, text.decode())) or 1)
    table = (ctypes.c_void_p * 1)(ctypes.cast(make_status, ctypes.c_void_p))
    get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(
        lambda version: ctypes.addressof(table) if version == 1 else None)  # fmt: skip
    version_text = ctypes.create_string_buffer(b"1.20.0")
    get_version = ctypes.CFUNCTYPE(ctypes.c_void_p)(lambda: ctypes.addressof(version_text))
    base = (ctypes.c_void_p * 2)(ctypes.cast(get_api, ctypes.c_void_p), ctypes.cast(get_version, ctypes.c_void_p))
    register = ctypes.CDLL(str(ONNX_OPERATORS)).RegisterCustomOps
    register.restype = ctypes.c_void_p
    assert register(None, base) == 1
    assert messages == [(1, "mha's operators need version 25 of ONNX Runtime's C API; this is ONNX Runtime 1.20.0")]


PRODUCTS = {
    "rows": ((3, 8), (8, 5)),
    "batches": ((2, 3, 8), (8, 5)),
    "vector": ((8,), (8, 5)),
    "to_vector": ((3, 8), (8,)),
    "broadcast": ((4, 1, 3, 8), (2, 8, 5)),
}


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("name", PRODUCTS)
def test_matmul(name: str, constant: bool) -> None:
    left, right = PRODUCTS[name]
    inputs = {"A": numbers(*left), "B": numbers(*right, seed=1)}
    feed = {"A": inputs["A"]} if constant else inputs
    model = one_node("MatMul", "", inputs, ["Y"], ("B",) if constant else ())
    result = session(model, (ONNX_OPERATORS,), 2).run(None, feed)[0]
    expected = np.matmul(inputs["A"].astype(np.float64), inputs["B"].astype(np.float64))
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= 2e-6


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"transA": 1}, {"alpha": 0.5, "beta": 2.0}], ids=str)
@pytest.mark.parametrize("constants", [("B", "C"), ("B",), ()], ids=str)
def test_gemm(constants: tuple[str, ...], attributes: dict) -> None:
    left, right = numbers(3, 8), numbers(8, 5, seed=1)
    bias = numbers(5)
    expected = attributes.get("alpha", 1) * (left.astype(np.float64) @ right) + attributes.get("beta", 1) * bias
    inputs = {"A": np.ascontiguousarray(left.T) if "transA" in attributes else left,
              "B": np.ascontiguousarray(right.T) if "transB" in attributes else right, "C": bias}  # fmt: skip
    model = one_node("Gemm", "", inputs, ["Y"], constants, **attributes)
    feed = {name: array for name, array in inputs.items() if name not in constants}
    result = session(model, (ONNX_OPERATORS,), 2).run(None, feed)[0]
    assert np.abs(result - expected).max() <= 2e-6


@pytest.mark.parametrize("shape", [(5,), (1, 5), (5, 1), (1, 1), (5, 5)], ids=str)
def test_gemm_bias(shape: tuple[int, ...]) -> None:
    """A bias that is no row: a column has as many elements as a row of this square result."""
    inputs = {"A": numbers(5, 8), "B": numbers(8, 5, seed=1), "C": numbers(*shape)}
    model = one_node("Gemm", "", inputs, ["Y"], ("B", "C"))
    result = session(model, (ONNX_OPERATORS,)).run(None, {"A": inputs["A"]})[0]
    assert np.abs(result - (inputs["A"].astype(np.float64) @ inputs["B"] + inputs["C"])).max() <= 2e-6


def test_gemm_with_a_vector() -> None:
    inputs = {"A": numbers(3, 8), "B": numbers(8)}
    assert "a tensor of shape [8] has too few dimensions" in refused("Gemm", "", inputs, ["Y"])


@pytest.mark.parametrize("kind", [np.float64, np.int32, np.int64])
def test_matmul_of_other_types(kind: type) -> None:
    """Left to ONNX Runtime. The model would not load if mha's operator did not name these types."""
    inputs = {"A": (4 * numbers(3, 8)).astype(kind), "B": (4 * numbers(8, 5)).astype(kind)}
    model = one_node("MatMul", "", inputs, ["Y"])
    assert np.array_equal(session(model, (ONNX_OPERATORS,)).run(None, inputs)[0], session(model).run(None, inputs)[0])


@pytest.mark.parametrize("constants", [("B",), ()], ids=["constant", "variable"])
def test_matmul_float16(constants: tuple[str, ...]) -> None:
    inputs = {"A": numbers(3, 64).astype(np.float16), "B": numbers(64, 5).astype(np.float16)}
    model = one_node("MatMul", "", inputs, ["Y"], constants)
    feed = {name: array for name, array in inputs.items() if name not in constants}
    result = session(model, (ONNX_OPERATORS,)).run(None, feed)[0]
    expected = inputs["A"].astype(np.float64) @ inputs["B"].astype(np.float64)
    assert result.dtype == np.float16
    assert np.abs(result - expected).max() <= 2.0**-11 * np.abs(expected).max()


def test_double_attention() -> None:
    """ONNX Runtime has no kernel for it, but computes the operator's definition; a custom operator cannot have one."""
    inputs = {name: numbers(1, 4, 5, 8).astype(np.float64) for name in "QKV"}
    model = one_node("Attention", "", inputs, ["Y"])
    with pytest.raises(Exception, match="its type is none of float, float16, bfloat16. It has no kernel for it, either"):
        session(model, (ONNX_OPERATORS,))


def test_products_of_float16(capfd: pytest.CaptureFixture) -> None:
    """Left to ONNX Runtime's float32 kernel."""
    inputs = {name: numbers(1, 4, 5, 8).astype(np.float16) for name in "QKV"}
    model = one_node("Attention", "", inputs, ["Y", "", "", "products"], qk_matmul_output_mode=0)
    products = session(model, (ONNX_OPERATORS,)).run(None, inputs)[1]
    assert "mha leaves Attention 'the_node' to ONNX Runtime: qk_matmul_output_mode 0" in capfd.readouterr().err
    expected = inputs["Q"].astype(np.float64) @ inputs["K"].astype(np.float64).swapaxes(2, 3) / 8**0.5
    assert products.dtype == np.float16
    assert np.abs(products - expected).max() <= 2.0**-11 * np.abs(expected).max()


def prefixes(*counts: int, queries: int = 6, keys: int = 9) -> np.ndarray:
    """Each item shows its first keys."""
    return np.stack([np.broadcast_to(np.arange(keys) < count, (1, queries, keys)) for count in counts])


def lower(*offsets: int, queries: int = 6, keys: int = 9) -> np.ndarray:
    """Row i of each item shows the first i + 1 + offset keys."""
    return np.stack([np.arange(keys)[None] <= np.arange(queries)[:, None] + offset for offset in offsets])[:, None]


RANDOM = np.random.default_rng(3).random((2, 4, 6, 9)) < 0.6
MASKS = {
    "everything": np.ones((2, 1, 6, 9), bool),
    "nothing": np.zeros((2, 1, 6, 9), bool),
    "padding": prefixes(4, 9),
    "padding_of_all": prefixes(4, 0),
    "padding_row": prefixes(4, 9)[:, :, :1],
    "causal": lower(0, 0),
    "causal_offsets": lower(3, 1),
    "causal_from_nothing": lower(-1, -3),
    "causal_beyond": lower(7, 20),
    "causal_and_padding": lower(0, 2) & prefixes(4, 9),
    "one_item_causal": np.concatenate([lower(3), prefixes(5)]),
    "gap": prefixes(7, 9) & (np.arange(9) != 3),
    "left_padding": ~prefixes(2, 0),
    "heads": RANDOM,
    "random": RANDOM[:, :1],
    "two_dimensions": lower(2)[0, 0],
    "one_key": np.array([[[[True]]], [[[False]]]]),
    "short": prefixes(5, 7, keys=7),
}


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str, causal: int) -> None:
    """Against double precision; a row without a key gives zeros. Keys behind the end of a mask are hidden."""
    query, key, value = numbers(2, 4, 6, 8), numbers(2, 4, 9, 8), numbers(2, 4, 9, 8, seed=1)
    mask = MASKS[name]
    width = mask.shape[-1] if mask.shape[-1] > 1 else 9  # a mask of one key is repeated
    visible = np.zeros((2, 4, 6, 9), bool)
    visible[..., :width] = mask
    expected = oracle.attention(query, key, value, mask=visible, causal=causal)
    inputs = {"Q": query, "K": key, "V": value, "attn_mask": mask}
    model = one_node("Attention", "", inputs, ["Y"], is_causal=causal)
    assert np.abs(session(model, (ONNX_OPERATORS,), 2).run(None, inputs)[0] - expected).max() <= 1e-6


def test_threads_are_those_of_the_session() -> None:
    inputs = {name: numbers(1, 8, 300, 64) for name in "QKV"}
    model = one_node("Attention", "", inputs, ["Y"])

    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    for count in (1, 2, 3):
        before = threads()
        runner = session(model, (ONNX_OPERATORS,), count)
        runner.run(None, inputs)
        assert threads() == before + count - 1
        del runner


def test_both_libraries() -> None:
    """A projection of ai.onnx before an operator of com.microsoft."""
    inputs, weight = {"x": numbers(1, 5, 32)}, numbers(32, 32, seed=1)
    query = helper.make_node("MatMul", ["x", "weight"], ["query"])
    attended = helper.make_node("MultiHeadAttention", ["query", "x", "x"], ["y"], domain=MICROSOFT, num_heads=4)
    graph = helper.make_graph([query, attended], "both", [helper.make_tensor_value_info("x", FLOAT, (1, 5, 32))],
                              [helper.make_tensor_value_info("y", FLOAT, (1, 5, 32))],
                              [numpy_helper.from_array(weight, "weight")])  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    expected = session(model).run(None, inputs)[0]
    assert np.abs(session(model, (ONNX_OPERATORS, MICROSOFT_OPERATORS)).run(None, inputs)[0] - expected).max() <= 1e-5
