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

_FLOATS = (jnp.float32, jnp.float16, jnp.bfloat16)
_library = ctypes.CDLL(str(pathlib.Path(__file__).with_name("libmha_jax.so")))
jax.ffi.register_ffi_target("mha_attention", jax.ffi.pycapsule(_library.mha_jax_attention), platform="cpu")

# Operands: query, key, value, then a bias, a mask, both or none; each has four dimensions, the first of them 1 or B.
_attention_p = Primitive("mha_attention")


def attention(
    query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None, *, scale: float | None = None, is_causal: bool = False
) -> jax.Array:
    """As jax.nn.dot_product_attention: query [B, T, N, H], key and value [B, S, K, H], or all of them without B; bias and
    mask broadcast to [B, N, T, S]. Value may have a head dimension of its own. A row that sees no key is zeros."""
    q, k, v = (_operand(name, x, _FLOATS, (3, 4)) for name, x in (("query", query), ("key", key), ("value", value)))
    if q.shape[0] != k.shape[0] or k.shape[:3] != v.shape[:3] or q.shape[3] != k.shape[3]:
        raise ValueError(f"mha: query {q.shape}, key {k.shape} and value {v.shape} do not fit each other")
    if k.shape[2] == 0 or q.shape[2] % k.shape[2] != 0:
        raise ValueError(f"mha: query has {q.shape[2]} heads: it must be a multiple of the {k.shape[2]} of key and value")
    masks = [_operand("bias", x, _FLOATS, range(5)) for x in [bias] if x is not None]
    masks += [_operand("mask", x, (jnp.bool_,), range(5)) for x in [mask] if x is not None]
    scores = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    for x in masks:
        if any(given not in (1, size) for given, size in zip(x.shape, scores)):
            raise ValueError(f"mha: a mask or bias has shape {x.shape}: it must broadcast to [B, N, T, S] = {scores}")
    scale = float(q.shape[3] ** -0.5 if scale is None else scale)
    output = _attention_p.bind(q, k, v, *masks, scale=scale, causal=bool(is_causal))
    return output[0] if jnp.ndim(query) == 3 else output


def _operand(name: str, x: Any, dtypes: Sequence[Any], ranks: Sequence[int]) -> jax.Array:
    """As an array of four dimensions; those that are missing are 1."""
    x = jnp.asarray(x)
    if x.dtype not in dtypes or x.ndim not in ranks:
        wanted = ", ".join(np.dtype(dtype).name for dtype in dtypes)
        raise TypeError(f"mha: {name} is {x.dtype} of shape {x.shape}: it must be {wanted} of {ranks[0]} to {ranks[-1]} dimensions")
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


def _lower(ctx: Any, *operands: Any, scale: float, causal: bool) -> Any:
    context = ctx.module_context.axis_context
    _refuse_devices(context.mesh.size if hasattr(context, "mesh") else context.num_devices)
    return jax.ffi.ffi_lowering("mha_attention")(ctx, *operands, scale=np.float32(scale), causal=causal)


def _batch(operands: Sequence[Any], axes: Sequence[int | None], **attributes: Any) -> tuple[Any, int]:
    """vmap: the new axis and the batch become one. An operand that has neither is not copied; the handler repeats it."""
    count = next(x.shape[axis] for x, axis in zip(operands, axes) if axis is not None)
    operands = [x[None] if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes)]
    (batch,) = np.broadcast_shapes(*(x.shape[1:2] for x in operands))
    merged = [
        x[0] if x.shape[:2] == (1, 1) else jnp.broadcast_to(x, (count, batch, *x.shape[2:])).reshape(-1, *x.shape[2:]) for x in operands
    ]
    output = _attention_p.bind(*merged, **attributes)
    return output.reshape(count, batch, *output.shape[1:]), 0


def _no_gradient(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("mha: attention() has no gradient: use jax.nn.dot_product_attention where one is needed")


_attention_p.def_impl(jax.jit(_attention_p.bind, static_argnames=("scale", "causal")))
mlir.register_lowering(_attention_p, _lower, platform="cpu")
batching.primitive_batchers[_attention_p] = _batch
ad.primitive_jvps[_attention_p] = _no_gradient
