# SPDX-License-Identifier: Apache-2.0
"""attention(): jax.nn.dot_product_attention for inference on CPUs, computed by mha. README.md says what it serves."""

from __future__ import annotations

import ctypes
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_TARGET = "mha_attention"
_FLOATS = (jnp.float32, jnp.float16, jnp.bfloat16)
_library = ctypes.CDLL(str(pathlib.Path(__file__).with_name("libmha_jax.so")))
jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(_library.mha_jax_attention), platform="cpu")

# Operands: query, key, value, then a bias, a mask, both or none; each has four dimensions, the first of them 1 or B.
_attention_p = Primitive(_TARGET)


def attention(
    query: Any,
    key: Any,
    value: Any,
    bias: Any = None,
    mask: Any = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    local_window_size: int | tuple[int, int] | None = None,
) -> jax.Array:
    """As jax.nn.dot_product_attention: query [B, T, N, H], key and value [B, S, K, H], or all of them without B; bias and
    mask broadcast to [B, N, T, S]. Value may have a head dimension of its own. A row that sees no key is zeros."""
    query, key, value = jnp.asarray(query), jnp.asarray(key), jnp.asarray(value)
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.dtype not in _FLOATS:
            raise TypeError(f"mha: {name} has dtype {x.dtype}: it must be float32, float16 or bfloat16")
        if x.ndim not in (3, 4) or x.ndim != query.ndim:
            raise ValueError(f"mha: {name} has shape {x.shape}: query, key and value must all be [B, T, N, H] or [T, N, H]")
    without_batch = query.ndim == 3
    if without_batch:
        query, key, value = query[None], key[None], value[None]
    _check_shapes(query.shape, key.shape, value.shape)
    scores = (query.shape[0], query.shape[2], query.shape[1], key.shape[1])
    masks = [_score_operand(*given, scores) for given in (("bias", bias), ("mask", mask)) if given[1] is not None]
    if isinstance(local_window_size, int):
        local_window_size = (local_window_size, local_window_size)
    if local_window_size is not None and min(local_window_size) < 0:
        raise ValueError(f"mha: local_window_size is {local_window_size}: it must not be negative")
    left, right = (n + 1 for n in local_window_size) if local_window_size is not None else (0, 0)
    scale = float(query.shape[-1] ** -0.5 if scale is None else scale)
    output = _attention_p.bind(query, key, value, *masks, scale=scale, causal=bool(is_causal), left=left, right=right)
    return output[0] if without_batch else output


def _check_shapes(query: Sequence[int], key: Sequence[int], value: Sequence[int]) -> None:
    if query[0] != key[0] or key[:3] != value[:3] or query[3] != key[3]:
        raise ValueError(f"mha: query {query}, key {key} and value {value} do not fit each other")
    if key[2] == 0 or query[2] % key[2] != 0:
        raise ValueError(f"mha: the {query[2]} heads of query must be a multiple of the {key[2]} heads of key and value")


def _score_operand(name: str, x: Any, scores: tuple[int, ...]) -> jax.Array:
    x = jnp.asarray(x)
    if x.dtype != jnp.bool_ if name == "mask" else x.dtype not in _FLOATS:
        wanted = "bool" if name == "mask" else "float32, float16 or bfloat16"
        raise TypeError(f"mha: {name} has dtype {x.dtype}: it must be {wanted}")
    if x.ndim > 4 or any(given not in (1, size) for given, size in zip(x.shape[::-1], scores[::-1])):
        raise ValueError(f"mha: {name} has shape {x.shape}: it must broadcast to [B, N, T, S] = {scores}")
    return x.reshape((1,) * (4 - x.ndim) + x.shape)


def _refuse_devices(devices: int) -> None:
    if devices > 1:
        raise NotImplementedError(
            f"mha: attention() is part of a computation over {devices} devices (sharded arrays, a mesh, shard_map). It has "
            "no rule for partitions, and XLA would gather its operands; give it arrays of one device (jax.device_put)"
        )


@_attention_p.def_abstract_eval
def _abstract(query: Any, key: Any, value: Any, *masks: Any, **_: Any) -> Any:
    mesh = jax.sharding.get_abstract_mesh()
    _refuse_devices(1 if mesh.empty else mesh.size)
    batch = np.broadcast_shapes(*(x.shape[:1] for x in (query, key, value, *masks)))
    return jax.core.ShapedArray((*batch, *query.shape[1:3], value.shape[3]), query.dtype)


def _lower(ctx: Any, *operands: Any, scale: float, causal: bool, left: int, right: int) -> Any:
    context = ctx.module_context.axis_context
    _refuse_devices(context.mesh.size if hasattr(context, "mesh") else context.num_devices)
    attributes = {"scale": np.float32(scale), "causal": causal, "left": np.int64(left), "right": np.int64(right)}
    return jax.ffi.ffi_lowering(_TARGET)(ctx, *operands, **attributes)


def _batch(operands: Sequence[Any], axes: Sequence[int | None], **attributes: Any) -> tuple[Any, int]:
    """vmap: the new axis and the batch become one. An operand that has neither is not copied; the handler repeats it."""
    count = next(x.shape[axis] for x, axis in zip(operands, axes) if axis is not None)
    operands = [x[None] if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes)]
    (batch,) = np.broadcast_shapes(*(x.shape[1:2] for x in operands))
    merged = [
        x[0] if x.shape[:2] == (1, 1) else jnp.broadcast_to(x, (count, batch, *x.shape[2:])).reshape(-1, *x.shape[2:])
        for x in operands
    ]
    output = _attention_p.bind(*merged, **attributes)
    return output.reshape(count, batch, *output.shape[1:]), 0


def _no_gradient(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("mha: attention() has no gradient: use jax.nn.dot_product_attention where one is needed")


_attention_p.def_impl(jax.jit(_attention_p.bind, static_argnames=("scale", "causal", "left", "right")))
mlir.register_lowering(_attention_p, _lower, platform="cpu")
batching.primitive_batchers[_attention_p] = _batch
ad.primitive_jvps[_attention_p] = _no_gradient
