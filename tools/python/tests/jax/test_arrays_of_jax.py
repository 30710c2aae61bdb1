# SPDX-License-Identifier: Apache-2.0
"""Arrays of jax are taken through DLPack, and results are arrays of jax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mha

Q = np.random.default_rng(0).standard_normal((2, 3, 4, 8)).astype(np.float32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_attention(dtype: jnp.dtype) -> None:
    given = jnp.asarray(Q, dtype)
    wide = np.asarray(given.astype(jnp.float32))
    got = mha.attention(given, given, given, causal=True)
    assert isinstance(got, jax.Array) and got.dtype == dtype
    assert np.array_equal(np.asarray(got), np.asarray(jnp.asarray(mha.attention(wide, wide, wide, causal=True)).astype(dtype)))


def test_results_and_masks() -> None:
    given = jnp.asarray(Q)
    mask = jnp.asarray(np.random.default_rng(1).random((2, 1, 3, 3)) > 0.5)
    found = mha.attention_results(given, given, given, mask=mask, weights="per_head", log_sum_exp=True)
    want = mha.attention_results(Q, Q, Q, mask=np.asarray(mask), weights="per_head", log_sum_exp=True)
    for got, expected in zip(found, want):
        assert isinstance(got, jax.Array)
        assert np.array_equal(np.asarray(got), expected)


def test_layer_and_linear() -> None:
    weights = {"in_proj_weight": jnp.ones((24, 8)), "output_weight": jnp.ones((8, 8))}
    assert isinstance(mha.Layer(8, 2, **weights)(jnp.ones((1, 3, 8))), jax.Array)
    assert mha.Linear(jnp.ones((4, 8)))(jnp.ones((3, 8))).tolist() == [[8.0] * 4] * 3


def test_out_of_numpy_is_returned() -> None:
    given, out = jnp.asarray(Q), np.zeros_like(Q)
    assert mha.attention_results(given, given, given, out=out).output is out
    assert np.array_equal(out, mha.attention(Q, Q, Q))
    layer = mha.Layer(8, 2, in_proj_weight=jnp.ones((24, 8)), output_weight=jnp.ones((8, 8)))
    made = np.zeros((1, 3, 8), np.float32)
    assert layer.forward_results(jnp.ones((1, 3, 8)), out=made).output is made
    assert made.any()


def test_what_jax_cannot_do_is_said() -> None:
    given = jnp.asarray(Q)
    with pytest.raises(TypeError, match="out is an array of jax, which does not change"):
        mha.attention(given, given, given, out=given)
    with pytest.raises(TypeError, match="query is int32"):
        mha.attention(given.astype(jnp.int32), given, given)
