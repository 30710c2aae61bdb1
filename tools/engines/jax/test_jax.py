# SPDX-License-Identifier: Apache-2.0
"""mha_jax.attention against double precision and jax.nn.dot_product_attention, under jit, vmap and loops; what it refuses."""

import os
import sys

import cpu_time
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

sys.path.insert(0, os.environ["MHA_ENGINE_BUILD"])
jax.config.update("jax_num_cpu_devices", 2)  # before the first use: sharding needs two devices

import mha_jax

DTYPES = ("float32", "float16", "bfloat16")
SHAPES = {  # B, T, S, N, K, H
    "self": (2, 33, 33, 4, 4, 64),
    "grouped": (2, 17, 40, 8, 2, 32),
    "one head of keys": (1, 5, 300, 6, 1, 40),
    "more queries than keys": (1, 30, 9, 3, 3, 7),
    "decode": (3, 1, 700, 8, 4, 128),
}


def draw(shape, dtype="float32", seed=0):
    batch, queries, keys, heads, kv_heads, width = shape
    rng = np.random.default_rng(seed)
    sizes = ((batch, queries, heads, width), (batch, keys, kv_heads, width), (batch, keys, kv_heads, width))
    return [jnp.asarray(rng.standard_normal(size), dtype) for size in sizes]


def expected(query, key, value, **options):
    by_head = [np.asarray(x, np.float64).swapaxes(1, 2) for x in (query, key, value)]
    return oracle.attention(*by_head, **options).swapaxes(1, 2)


def error(result, reference):
    return np.abs(np.asarray(result, np.float64) - np.asarray(reference, np.float64)).max()


def same_bits(left, right):
    return left.dtype == right.dtype and np.asarray(left).tobytes() == np.asarray(right).tobytes()


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_results(shape, dtype, causal):
    arrays = draw(shape, dtype)
    result = mha_jax.attention(*arrays, is_causal=causal)
    assert result.dtype == dtype and result.shape == arrays[0].shape
    assert error(result, expected(*arrays, causal=causal)) <= oracle.bound(dtype)
    theirs = jax.nn.dot_product_attention(*arrays, is_causal=causal)
    rounded_between = 1 if dtype == "float32" else 8  # jax.nn rounds the softmax's weights to the inputs' type
    assert error(result, theirs) <= rounded_between * oracle.bound(dtype)
    assert same_bits(jax.jit(mha_jax.attention, static_argnames="is_causal")(*arrays, is_causal=causal), result)


@pytest.mark.parametrize("mask_shape", [(2, 4, 33, 33), (2, 1, 1, 33), (1, 4, 33, 1), (33, 33), (4, 1, 33)])
def test_masks(mask_shape):
    arrays = draw(SHAPES["self"])
    rng = np.random.default_rng(1)
    mask = rng.random(mask_shape) < 0.7
    bias = rng.standard_normal(mask_shape).astype(np.float32)
    for options in ({"mask": mask}, {"bias": bias}, {"mask": mask, "bias": bias.astype(np.float16)}):
        for causal in (False, True):
            result = mha_jax.attention(*arrays, **options, is_causal=causal)
            assert error(result, expected(*arrays, causal=causal, **options)) <= oracle.bound("float32")


@pytest.mark.parametrize("scale", (0.0, -0.3, 1.5))
def test_scale(scale):
    arrays = draw(SHAPES["grouped"])
    result = mha_jax.attention(*arrays, scale=scale)
    assert error(result, expected(*arrays, scale=scale)) <= oracle.bound("float32")
    assert error(result, jax.nn.dot_product_attention(*arrays, scale=scale)) <= oracle.bound("float32")


def test_shapes_of_their_own():
    query, key, value = draw(SHAPES["grouped"])
    assert same_bits(mha_jax.attention(query[0], key[0], value[0]), mha_jax.attention(query, key, value)[0])
    wide = jnp.concatenate([value, value], -1)
    assert same_bits(mha_jax.attention(query, key, wide)[..., :32], mha_jax.attention(query, key, value))
    mixed = mha_jax.attention(query, key.astype("float16"), value.astype("bfloat16"))
    assert mixed.dtype == query.dtype
    assert same_bits(mha_jax.attention(query[:0], key[:0], value[:0]), query[:0])
    hidden = mha_jax.attention(query, key, value, mask=jnp.zeros((1, 1), bool))
    assert not hidden.any()  # jax.nn gives such a row the mean of all values


@pytest.mark.parametrize("axes", [(0, 0, 0), (1, None, None), (None, 2, 4), (3, 0, None)])
def test_vmap_is_the_loop(axes):
    def function(query, key, value):
        return mha_jax.attention(query, key, value, is_causal=True)

    base = draw(SHAPES["grouped"])
    arrays = [x if axis is None else jnp.stack([x, 2 * x, -x], axis) for x, axis in zip(base, axes)]
    result = jax.jit(jax.vmap(function, axes))(*arrays)
    for item in range(3):
        picked = [x if axis is None else jnp.take(x, item, axis) for x, axis in zip(arrays, axes)]
        assert same_bits(result[item], function(*picked))


def test_vmap_nested_over_masks():
    query, key, value = (x[0] for x in draw(SHAPES["grouped"]))
    masks = jnp.asarray(np.random.default_rng(2).random((2, 3, 1, 17, 40)) < 0.5)
    function = jax.vmap(jax.vmap(lambda q, m: mha_jax.attention(q, key, value, mask=m), (None, 0)), (0, 0))
    queries = jnp.stack([query, -query])
    result = function(queries, masks)
    for outer in range(2):
        for inner in range(3):
            single = mha_jax.attention(queries[outer], key, value, mask=masks[outer, inner])
            assert same_bits(result[outer, inner], single)


def test_loops_and_many_calls_in_one_program():
    """XLA may run independent calls at the same time, on threads of the pool that the calls themselves use."""
    arrays = draw((4, 200, 200, 8, 8, 64))

    def step(n, query):
        parts = [mha_jax.attention(query * scale, *arrays[1:]) for scale in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)]
        return sum(parts[1:], parts[0])

    program = jax.jit(lambda query: jax.lax.fori_loop(0, 3, step, query))
    alone = arrays[0]
    for n in range(3):
        alone = step(n, alone)
    results = [program(arrays[0]) for _ in range(20)]
    assert all(same_bits(result, results[0]) for result in results)
    assert error(results[0], alone) <= oracle.bound("float32")


def test_work_is_done_on_the_threads_of_xla():
    arrays = draw((8, 256, 256, 8, 8, 64))
    jax.nn.dot_product_attention(*arrays).block_until_ready()
    before = len(os.listdir("/proc/self/task"))
    mha_jax.attention(*arrays).block_until_ready()
    assert len(os.listdir("/proc/self/task")) == before
    shares = cpu_time.shares(lambda: mha_jax.attention(*arrays).block_until_ready())
    assert sum(share > 0.2 for share in shares) >= min(cpu_time.cpus(), 2)


def test_no_gradient():
    arrays = draw(SHAPES["self"])
    for call in (jax.grad(lambda q: mha_jax.attention(q, *arrays[1:]).sum()),
                 lambda q: jax.jvp(mha_jax.attention, (q, *arrays[1:]), tuple(arrays))):  # fmt: skip
        with pytest.raises(NotImplementedError, match="attention.. has no gradient"):
            call(arrays[0])


@pytest.mark.parametrize("kind", (AxisType.Auto, AxisType.Explicit))
@pytest.mark.parametrize("jitted", (False, True))
def test_sharded_operands_are_refused(kind, jitted):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(kind,))
    function = jax.jit(mha_jax.attention) if jitted else mha_jax.attention
    for spec in (P("x"), P(None, None, "x"), P(None, "x")):
        arrays = [jax.device_put(x, NamedSharding(mesh, spec)) for x in draw((2, 32, 32, 4, 4, 16))]
        with pytest.raises(NotImplementedError, match="2 devices .sharded arrays"):
            function(*arrays)


def test_shard_map_and_shardings_of_jit_are_refused():
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
    arrays = draw((2, 32, 32, 4, 4, 16))
    mapped = jax.shard_map(mha_jax.attention, mesh=mesh, in_specs=(P("x"),) * 3, out_specs=P("x"))
    sharded = jax.jit(mha_jax.attention, in_shardings=(NamedSharding(mesh, P("x")),) * 3)
    for function in (mapped, jax.jit(mapped), sharded):
        with pytest.raises(NotImplementedError, match="2 devices .sharded arrays"):
            function(*arrays)


def test_one_device_of_two_is_served():
    arrays = [jax.device_put(x, jax.devices()[1]) for x in draw(SHAPES["self"])]
    result = jax.jit(mha_jax.attention)(*arrays)
    assert result.devices() == {jax.devices()[1]}
    assert same_bits(result, mha_jax.attention(*draw(SHAPES["self"])))


def test_messages():
    query, key, value = draw(SHAPES["grouped"])
    for kind, text, call in (
        (TypeError, "query is int32", lambda: mha_jax.attention(query.astype("int32"), key, value)),
        (TypeError, "key is float32 of shape .2, 40.", lambda: mha_jax.attention(query, key[:, :, 0, 0], value)),
        (TypeError, "mask is float32", lambda: mha_jax.attention(query, key, value, mask=jnp.zeros((17, 40)))),
        (TypeError, "bias is bool", lambda: mha_jax.attention(query, key, value, jnp.zeros((17, 40), bool))),
        (ValueError, "shape .1, 1, 17, 39.: it must broadcast",
         lambda: mha_jax.attention(query, key, value, jnp.zeros((17, 39)))),
        (ValueError, "value .2, 39, 2, 32. do not fit", lambda: mha_jax.attention(query, key, value[:, 1:])),
        (ValueError, "query has 7 heads", lambda: mha_jax.attention(query[:, :, 1:], key, value)),
        (jax.errors.JaxRuntimeError, "scale is inf", lambda: mha_jax.attention(query, key, value, scale=float("inf"))),
    ):  # fmt: skip
        with pytest.raises(kind, match=text):
            call()
