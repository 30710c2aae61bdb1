# SPDX-License-Identifier: Apache-2.0
"""What a case is in double, and how far a result may be from that, for the families whose results are rounded.

Each side rounds in its own way: to codes of a cache, or inside its arithmetic. So both results are compared with the
same call in double, and not with each other."""

from functools import lru_cache

import numpy as np

import decode_inputs
from arrays import attention_inputs, bfloat16, coded_linear_inputs, forward_input, layer_weights, linear_inputs
from arrays import widened
from cases import Case

# The largest error, as a fraction of the largest value, that rounding explains. decode_: the exact call is over the
# floats before rounding; in float16 some sum the weighted values in it, too, which costs more and grows with their
# number. linear_int: over the floats before rounding, too. In bfloat16: over the rounded tensors.
BOUNDS = {
    "decode_bf16": 1e-2,
    "decode_f16": 5e-2,
    "decode_int8": 3e-2,
    "decode_int4": 3e-1,
    "attention_bf16": 2e-2,
    "linear_bf16": 2e-2,
    "forward_bf16": 3e-2,
    "linear_int8": 5e-2,  # with outliers four times as much
    "linear_int4": 1e-1,
}


def attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, causal: bool) -> np.ndarray:
    """softmax(Q K^T / sqrt(D)) V of [1, T, H, D] in double."""
    queries, heads, width = query.shape[1:]
    keys, group = key.shape[1], heads // key.shape[2]
    hidden = np.triu(np.ones((queries, keys), bool), 1) if causal else None
    result = np.empty(query.shape)
    for head in range(heads):
        scores = query[0, :, head].astype(np.float64) @ key[0, :, head // group].astype(np.float64).T / np.sqrt(width)
        if causal:
            scores[hidden] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        result[0, :, head] = weights @ value[0, :, head // group].astype(np.float64)
    return result


def linear(source: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return source.astype(np.float64) @ weight.astype(np.float64).T + bias


CODED = ("linear_int8", "linear_int4")


def in_bfloat16(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [widened(bfloat16(array)) for array in arrays]


def layer(source: np.ndarray, weights: dict[str, np.ndarray], heads: int) -> np.ndarray:
    """Self-attention over [B, T, E] with its projections."""
    batch, length, width = source.shape
    projected = linear(source, weights["in_proj_weight"], weights["in_proj_bias"])
    items = projected.reshape(batch, length, 3, heads, width // heads)
    attended = [attention(*(item[None, :, n] for n in range(3)), False).reshape(length, width) for item in items]
    return linear(np.stack(attended), weights["out_proj_weight"], weights["out_proj_bias"])


@lru_cache(maxsize=1)
def of(case: Case) -> np.ndarray:
    """The case's result in double, in the library's shape."""
    if case.family == "attention_bf16":
        return attention(*in_bfloat16(attention_inputs(case.sizes)), bool(case["causal"]))
    if case.family in CODED:
        return linear(*coded_linear_inputs(case.sizes))
    if case.family == "linear_bf16":
        return linear(*in_bfloat16(linear_inputs(case.sizes)))
    if case.family == "forward_bf16":
        weights = layer_weights(case["E"])
        rounded = dict(zip(weights, in_bfloat16(weights.values())))
        return layer(in_bfloat16([forward_input(case.sizes)])[0], rounded, case["H"])
    return attention(*decode_inputs.floats(case.sizes), False)


def bound(case: Case) -> float:
    return BOUNDS[case.family] * (4 if case.sizes.get("outliers") else 1)


def error(case: Case, result: np.ndarray, bias: bool = True) -> float:
    """The largest difference to the exact result / the largest value of that; a NaN counts as infinite. `bias`: whether
    a linear over codes has added it; the largest value has it, so that errors can be compared."""
    whole = of(case)
    wanted = whole if bias else whole - coded_linear_inputs(case.sizes)[2]
    gap = float(np.abs(result.reshape(wanted.shape) - wanted).max() / np.abs(whole).max())
    return gap if np.isfinite(gap) else float("inf")
