# SPDX-License-Identifier: Apache-2.0
"""Which arrays are taken, as they are, and what is said of those that are not."""

from __future__ import annotations

import array
import gc
import weakref
from typing import Any

import numpy as np
import pytest

import mha
from mha import _abi as abi
from mha._tensors import fill_view, tensor

Q = np.random.default_rng(0).standard_normal((1, 3, 2, 4)).astype(np.float32)


class OnlyDLPack:
    """An array that has nothing but DLPack, of the version asked for or of the first."""

    def __init__(self, inner: np.ndarray, versioned: bool) -> None:
        self.inner, self.versioned = inner, versioned

    def __dlpack__(self, **options: Any) -> Any:
        if not self.versioned:
            if options:
                raise TypeError("made before DLPack 1.0")
            return self.inner.__dlpack__()
        return self.inner.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.inner.__dlpack_device__()


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_dlpack(versioned: bool, dtype: Any) -> None:
    given = Q.astype(dtype)
    want = mha.attention(given, given, given)
    foreign = OnlyDLPack(given.transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3), versioned)
    got = mha.attention(foreign, foreign, given)
    assert isinstance(got, np.ndarray) and got.dtype == dtype
    assert np.array_equal(got, want)


def test_dlpack_keeps_the_memory_until_the_call_is_done_and_no_longer() -> None:
    inner = np.ones(1000, np.float32)
    before = __import__("sys").getrefcount(inner)
    for versioned in (False, True):
        found = tensor(OnlyDLPack(inner, versioned), "x")
        assert found.data == inner.ctypes.data and found.shape == (1000,) and found.strides == (1,)
        del found
        gc.collect()
    assert __import__("sys").getrefcount(inner) == before


def test_tables_of_rope_are_kept_for_the_call() -> None:
    """The memory of an array that DLPack copies lives as long as what DLPack gave."""
    copies: list[Any] = []

    class Copied:
        def __init__(self, inner: np.ndarray) -> None:
            self.inner = inner

        def __dlpack__(self, **options: Any) -> Any:
            copy = self.inner.copy()
            copies.append(weakref.ref(copy))
            return copy.__dlpack__(**options)

    angles = np.random.default_rng(2).random((16, 4)).astype(np.float32)
    keep: list[Any] = []
    made = mha.Rope(cos=Copied(np.cos(angles)), sin=Copied(np.sin(angles))).make(8, keep)
    gc.collect()
    alive = [copy() for copy in copies]
    assert {made.cos, made.sin} == {copy.ctypes.data for copy in alive if copy is not None}


def test_buffers() -> None:
    floats = array.array("f", Q.reshape(-1).tolist())
    view: Any = memoryview(floats).cast("B").cast("f", Q.shape)
    got = mha.attention(view, Q, Q)
    assert np.array_equal(got, mha.attention(Q, Q, Q))
    weights = memoryview(bytes(Q[0, 0].tobytes())).cast("f", (2, 4))
    assert mha.Linear(weights)(Q).shape == (1, 3, 2, 2)  # read-only is enough for what is read


def test_bfloat16_of_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    given = Q.astype(ml_dtypes.bfloat16)
    got = mha.attention(given, given, given)
    assert got.dtype == given.dtype
    wide = given.astype(np.float32)
    assert np.array_equal(got, mha.attention(wide, wide, wide).astype(ml_dtypes.bfloat16))
    assert mha.attention(Q, Q, Q, dtype="bf16").dtype == given.dtype


def test_strides_are_passed_on() -> None:
    view = abi.mha_view()
    fill_view(view, tensor(Q[:, ::2], "q"), "q", (0, 1, 2))
    assert (view.stride_b, view.stride_t, view.stride_h) == (0, 16, 4)
    view = abi.mha_view()
    fill_view(view, tensor(np.broadcast_to(Q[:, :1], (5, 3, 2, 4)), "q"), "q", (0, 1, 2))
    assert (view.stride_b, view.stride_t, view.stride_h) == (abi.MHA_BROADCAST, abi.MHA_BROADCAST, 4)


def test_broadcast_inputs_give_the_results_of_copies() -> None:
    keys = np.broadcast_to(Q, (4, 3, 2, 4))
    queries = np.random.default_rng(1).standard_normal((4, 3, 2, 4)).astype(np.float32)
    assert np.array_equal(mha.attention(queries, keys, keys), mha.attention(queries, keys.copy(), keys.copy()))


REFUSED: list[tuple[Any, type[Exception], str]] = [
    (Q.astype(np.float64), TypeError, "query is float64; mha takes .* for example query.astype"),
    (Q.astype(np.int64), TypeError, "query is int64"),
    (Q.astype(">f4"), TypeError, "query is >f4"),
    (Q.astype(np.int8), TypeError, "query is int8"),
    (Q.tolist(), TypeError, "query is a list"),
    (None, TypeError, "query is a NoneType"),
    (Q[..., ::2], ValueError, "query has a stride of 2 along its last dimension"),
    (Q[:, ::-1], ValueError, "query has a negative stride"),
    (Q[0], ValueError, r"query has the shape \(3, 2, 4\)"),
    (np.frombuffer(bytes(4 * 24 + 1), np.uint8)[1:].view(np.float32).reshape(Q.shape), ValueError, "query is not aligned"),
]


@pytest.mark.parametrize(("given", "kind", "text"), REFUSED)
def test_what_is_not_taken(given: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        mha.attention(given, Q, Q)


def test_codes_need_scales() -> None:
    with pytest.raises(TypeError, match=r"key is int8: codes need scales, as mha.Codes\(key, scales\)"):
        mha.attention(Q, Q.astype(np.int8), Q)


def test_out_must_fit() -> None:
    for out, kind, text in (
        (np.zeros((1, 3, 2, 5), np.float32), ValueError, "out has the shape"),
        (np.zeros(Q.shape, np.float64), TypeError, "out is float64"),
        (np.broadcast_to(np.float32(0), Q.shape), ValueError, "out is read-only"),
        (np.zeros((1, 3, 2, 8), np.float32)[..., ::2], ValueError, "out has a stride of 2"),
    ):
        with pytest.raises(kind, match=text):
            mha.attention(Q, Q, Q, out=out)
    with pytest.raises(ValueError, match="dtype is given with out"):
        mha.attention(Q, Q, Q, out=np.zeros_like(Q), dtype="f32")
