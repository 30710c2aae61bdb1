# SPDX-License-Identifier: Apache-2.0
"""Errors are exceptions with the library's text, and wrong options are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mha

Q = np.random.default_rng(0).standard_normal((2, 3, 4, 8)).astype(np.float32)

OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"window_left": -1}, mha.ArgumentError, "masks.window_left is -1"),
    ({"window_left": 1.5}, TypeError, "window_left is a float"),
    ({"windw_left": 1}, TypeError, "'windw_left' is no argument of this call; there are arithmetic, cache, .* window_left"),
    ({"softcap": -2.0}, mha.ArgumentError, "softcap is -2"),
    ({"arithmetic": "f64"}, ValueError, "arithmetic is 'f64', but must be one of 'f32', 'bf16', 'int8'"),
    ({"arithmetic": "int8"}, mha.UnsupportedError, "INT8"),
    ({"layout": "tbhd"}, ValueError, "layout is 'tbhd'"),
    ({"scale": float("nan")}, mha.ArgumentError, "scale is nan"),
    ({"align": "middle"}, ValueError, "align is 'middle'"),
    ({"offset": 3}, mha.ArgumentError, "offset is 3"),
    ({"key_lengths": [3]}, ValueError, r"key_lengths has the shape \(1,\), but must have \(2,\)"),
    ({"key_lengths": [3, 4]}, mha.ArgumentError, "key_lengths.1. is 4"),
    ({"key_lengths": [2.9, 3.1]}, TypeError, "key_lengths has floats, but must have integers"),
    ({"key_lengths": [3, 3], "causal": True}, mha.ArgumentError, "MHA_ALIGN_DEFAULT beside items.key_lengths"),
    ({"key_lengths": np.array([3, 3], np.int32)}, TypeError, "key_lengths is int32, but must be int64"),
    ({"query_segments": np.zeros((2, 3), np.int32)}, mha.Error, "segments"),
    ({"mask": np.ones((3, 4), bool)}, ValueError, r"mask has the shape \(3, 4\), which does not broadcast to \(2, 4, 3, 3\)"),
    ({"mask": np.ones((3, 3), np.int32)}, TypeError, "mask is int32"),
    ({"mask2": np.ones((3, 3), bool)}, TypeError, "mask2 is bool"),
    ({"alibi_slopes": [0.5]}, ValueError, "alibi_slopes has the shape"),
    ({"sink_logits": np.zeros(4)}, TypeError, "sink_logits is float64"),
    ({"rope": 10000}, TypeError, "rope is a int"),
    ({"rope": mha.Rope(dims=3)}, mha.ArgumentError, "dims is 3"),
    ({"rope": mha.Rope(cos=np.zeros((4, 4), np.float32))}, ValueError, "rope.cos and rope.sin"),
    ({"query_norm": mha.Norm(0.0)}, mha.ArgumentError, "epsilon is 0"),
    ({"query_norm": mha.Norm(1e-5, np.zeros(4, np.float32))}, ValueError, "query_norm.weight has the shape"),
    ({"max_threads": -1}, mha.ArgumentError, "max_threads is -1"),
    ({"block_mask": mha.BlockMask(2, 2, np.zeros((3, 3), np.int64))}, ValueError, "block_mask.pairs has the shape"),
    ({"pages": mha.Pages(np.zeros((2, 1), np.int32))}, ValueError, "key_lengths must be given with pages"),
]


@pytest.mark.parametrize(("options", "kind", "text"), OPTIONS)
def test_options(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    out = np.full_like(Q, 7)
    with pytest.raises(kind, match=text):
        mha.attention(Q, Q, Q, out=out, **options)
    assert (out == 7).all()


def test_a_library_error_has_its_status() -> None:
    with pytest.raises(mha.ArgumentError) as caught:
        mha.attention(Q, Q, Q, window_left=-1)
    assert (caught.value.status, caught.value.name) == (2, "MHA_ERR_ARGUMENT")
    assert isinstance(caught.value, ValueError)


def test_every_status_has_an_exception_of_a_builtin_kind() -> None:
    for kind, builtin in (
        (mha.ArgumentError, ValueError),
        (mha.UnsupportedError, NotImplementedError),
        (mha.OutOfMemoryError, MemoryError),
        (mha.TargetError, RuntimeError),
        (mha.ThreadError, RuntimeError),
        (mha.BlobError, ValueError),
        (mha.CacheFullError, RuntimeError),
    ):
        assert issubclass(kind, mha.Error) and issubclass(kind, builtin)


def test_shapes_that_do_not_fit() -> None:
    for key, value, text in (
        (Q[..., :4], Q, "query, key and value do not fit"),
        (Q, Q[:, :2], "query, key and value do not fit"),
        (Q[:1], Q[:1], "key has 1 items, but query has 2"),
        (Q[:, :, :3], Q[:, :, :3], "num_kv_heads"),
    ):
        with pytest.raises(ValueError, match=text):
            mha.attention(Q, key, value)


def test_results_are_floats() -> None:
    layer = mha.Layer(8, 2, in_proj_weight=np.zeros((24, 8), np.float32), output_weight=np.zeros((8, 8), np.float32))
    calls: list[Any] = [
        lambda dtype: mha.attention(Q, Q, Q, dtype=dtype),
        lambda dtype: mha.attention_results(Q, Q, Q, dtype=dtype),
        lambda dtype: mha.merge_partials(mha.attention_partial(Q, Q, Q), Q, 8, dtype=dtype),
        lambda dtype: layer(Q[:, :, 0], dtype=dtype),
        lambda dtype: mha.Linear(Q[0, 0])(Q, dtype=dtype),
        lambda dtype: mha.rows_prepare(Q, dtype=dtype),
    ]
    for call in calls:
        for dtype in ("i4", "i8", "q8_0", "float32"):
            with pytest.raises(ValueError, match=f"dtype is '{dtype}', but must be one of 'f32', 'f16', 'bf16'"):
                call(dtype)


def test_contexts() -> None:
    with pytest.raises(mha.TargetError, match="avx1024"):
        mha.Context(target="avx1024")
    with pytest.raises(mha.ArgumentError, match="num_threads is -1"):
        mha.Context(num_threads=-1)
    with pytest.raises(ValueError, match="threading is 'tbb'"):
        mha.Context(threading="tbb")  # type: ignore[arg-type]
    context = mha.Context(num_threads=3, target=mha.targets()[-1], process_permissions=False)
    assert (context.num_threads, context.target) == (3, mha.targets()[-1])
    assert repr(context) == f"mha.Context(num_threads=3, target='{mha.targets()[-1]}')"
    mha.set_default_context(context)
    try:
        assert mha.default_context() is context
        assert f"target: {context.target}" in mha.attention_explain(Q, Q, Q)
    finally:
        mha.set_default_context(None)
    assert mha.default_context() is not context


def test_handles_of_failed_constructors_are_not_freed() -> None:
    for make in (
        lambda: mha.Context(num_threads=-1),
        lambda: mha.Linear(np.zeros((0, 0), np.float32)),
        lambda: mha.Cache(0, 1, 1),
        lambda: mha.Layer(4, 2, output_weight=np.zeros((4, 4), np.float32)),
    ):
        with pytest.raises(mha.Error):
            make()
