# SPDX-License-Identifier: Apache-2.0
"""torch's own samples (OpInfo) of attention go through mha's op."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any, cast

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db

import mha.torch

Tensor = torch.Tensor
# Error relative to the largest result, and its floor: rounding of the result to the dtype.
TOLERANCES = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float64: 0.0}


def samples(name: str, dtype: torch.dtype) -> list[Any]:
    (info,) = [cast(Any, op) for op in op_db if op.name == name]
    return [(info.op, sample) for sample in info.sample_inputs("cpu", dtype, requires_grad=False)]


def widened(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def run(op: Any, sample: Any, change: Any = lambda x: x) -> tuple[Tensor, ...]:
    torch.manual_seed(0)  # for dropout
    args, kwargs = [change(x) for x in (sample.input, *sample.args)], {k: change(x) for k, x in sample.kwargs.items()}
    result = op(*args, **kwargs)
    return tuple(x for x in result if x is not None) if isinstance(result, tuple) else (result,)


def error(results: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> float:
    """The greatest difference, relative to the largest element of each result."""
    errors = [0.0]
    for result, exact in zip(results, wanted, strict=True):
        assert result.shape == exact.shape and not result.isnan().any()
        if exact.numel():
            difference = (result.double() - exact).abs().max().item()
            errors.append(difference / max(1.0, exact.abs().max().item()))
    return max(errors)


def check(name: str, dtype: torch.dtype, dropout: Any) -> tuple[Counter[str], list[float], list[float]]:
    """Runs each sample. Returns what was passed on, and of what was taken the errors of mha and those of torch."""
    passed, ours, theirs = Counter[str](), list[float](), list[float]()
    for op, sample in samples(name, dtype):
        with mha.torch.replace_sdpa() as replaced:
            results = run(op, sample)
        reason = "dropout" if dropout(sample) else "dtype float64" if dtype == torch.float64 else None
        assert (replaced.taken, replaced.passed) == ((1, {}) if reason is None else (0, {reason: 1}))
        passed += replaced.passed
        if reason:
            assert all(torch.equal(a, b) for a, b in zip(results, run(op, sample), strict=True))  # torch computed it
        else:
            exact = run(op, sample, widened)
            ours.append(error(results, exact))
            theirs.append(error(run(op, sample), exact))
    return passed, ours, theirs


def counted(name: str, dtype: torch.dtype, passed: Counter[str], ours: list[float], least: int) -> None:
    total = len(samples(name, dtype))
    print(f"{name} {dtype}: {len(ours)} of {total} samples taken, {dict(passed)}")
    assert len(ours) + passed.total() == total >= least
    assert passed.keys() == ({"dropout", "dtype float64"} if dtype == torch.float64 else {"dropout"})
    assert bool(ours) == (dtype != torch.float64)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_scaled_dot_product_attention(dtype: torch.dtype) -> None:
    name = "nn.functional.scaled_dot_product_attention"
    passed, ours, _ = check(name, dtype, lambda s: s.kwargs.get("dropout_p", 0) > 0)
    assert all(x <= TOLERANCES[dtype] for x in ours)
    counted(name, dtype, passed, ours, 25)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_multi_head_attention_forward(dtype: torch.dtype) -> None:
    name = "nn.functional.multi_head_attention_forward"

    def dropout(sample: Any) -> bool:
        given = inspect.signature(torch.nn.functional.multi_head_attention_forward).bind(sample.input, *sample.args, **sample.kwargs)
        given.apply_defaults()
        return bool(given.arguments["training"] and given.arguments["dropout_p"] > 0)

    # These samples have scores of a thousand and more, whose rounding decides. So torch's own error is the measure.
    passed, ours, theirs = check(name, dtype, dropout)
    counted(name, dtype, passed, ours, 192)
    if ours:
        assert sum(ours) <= 2 * sum(theirs) and max(ours) <= 3 * max(theirs)
