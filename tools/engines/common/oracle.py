# SPDX-License-Identifier: Apache-2.0
"""Attention in double precision, which results of engines and of mha are compared with."""

import numpy as np


def attention(query, key, value, *, causal=False, scale=None, bias=None, mask=None):
    """Arrays [B, H, T, D]; key and value may have fewer heads. Query 0 stands at key 0. A row that sees no key is zeros."""
    query, key, value = (np.asarray(x).astype(np.float64) for x in (query, key, value))
    key, value = (np.repeat(x, query.shape[1] // x.shape[1], axis=1) for x in (key, value))
    scores = query @ key.swapaxes(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + np.asarray(bias).astype(np.float64)
    visible = np.ones(scores.shape, bool) if mask is None else np.broadcast_to(np.asarray(mask), scores.shape)
    if causal:
        visible = visible & np.tri(*scores.shape[-2:], dtype=bool)
    scores = np.where(visible, scores, -np.inf)
    greatest = scores.max(-1, keepdims=True, initial=-np.inf)
    weights = np.where(visible, np.exp(scores - np.where(np.isfinite(greatest), greatest, 0)), 0)
    total = weights.sum(-1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0) @ value


def bound(dtype):
    """The greatest error of a result of the dtype (its name) for inputs of a standard normal distribution: some units in the
    last place of float32; of a type of 16 bits half a unit of a result below 8, for the one rounding at the end."""
    return {"float32": 4e-6, "float16": 2.0**-9, "bfloat16": 2.0**-6}[str(dtype)] + 4e-6
