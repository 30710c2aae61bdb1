# SPDX-License-Identifier: Apache-2.0
"""torch's own samples (OpInfo) of attention go through mha's op."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

import mha.torch

pytest.importorskip("expecttest")  # torch.testing._internal needs it
from torch.testing._internal.common_methods_invocations import op_db

Tensor = torch.Tensor
# Error relative to the largest result, and its floor: rounding of the result to the dtype.
TOLERANCES = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float64: 0.0}


def samples(name: str, dtype: torch.dtype) -> list[Any]:
    (info,) = [op for op in op_db if op.name == name]
    return [(info.op, sample) for sample in info.sample_inputs("cpu", dtype, requires_grad=False)]


def widened(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def run(op: Any, sample: Any, change: Any = lambda x: x) -> tuple[Tensor, ...]:
    torch.manual_seed(0)  # for dropout
    args, kwargs = [change(x) for x in (sample.input, *sample.args)], {k: change(x) for k, x in sample.kwargs.items()}
    result = op(*args, **kwargs)
    return tuple(x for x in result if x is not None) if isinstance(result, tuple) else (result,)


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def check(name: str, dtype: torch.dtype, dropout: Any, tolerance: float) -> tuple[int, Counter[str]]:
    """Compares each sample. Returns what was taken and passed on."""
    taken, passed = 0, Counter[str]()
    for op, sample in samples(name, dtype):
        with mha.torch.replace_sdpa() as replaced:
            results = run(op, sample)
        reason = "dropout" if dropout(sample) else "dtype float64" if dtype == torch.float64 else None
        assert (replaced.taken, replaced.passed) == ((1, {}) if reason is None else (0, {reason: 1}))
        taken += replaced.taken
        passed += replaced.passed
        wanted = run(op, sample) if reason else run(op, sample, widened)
        for result, exact in zip(results, wanted, strict=True):
            assert result.shape == exact.shape
            if reason:
                assert torch.equal(result, exact)  # torch computed it
            elif exact.numel():
                error = (result.double() - exact).abs().max().item()
                assert error <= tolerance * max(1.0, exact.abs().max().item())
    return taken, passed


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_scaled_dot_product_attention(dtype: torch.dtype) -> None:
    name = "nn.functional.scaled_dot_product_attention"
    taken, passed = check(name, dtype, lambda s: s.kwargs.get("dropout_p", 0) > 0, TOLERANCES[dtype])
    total = len(samples(name, dtype))
    print(f"{dtype}: {taken} of {total} samples taken, {dict(passed)}")
    assert taken + passed.total() == total >= 25
    assert passed.keys() == ({"dropout", "dtype float64"} if dtype == torch.float64 else {"dropout"})


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_multi_head_attention_forward(dtype: torch.dtype) -> None:
    name = "nn.functional.multi_head_attention_forward"

    def dropout(sample: Any) -> bool:
        return sample.kwargs.get("dropout_p", sample.args[10]) > 0 and sample.kwargs.get("training", True)

    # torch rounds the projections to the dtype before and after the attention, so 16 bits err by several roundings.
    tolerance = {torch.float16: 1e-2, torch.bfloat16: 1e-1}.get(dtype, 5e-6)
    taken, passed = check(name, dtype, dropout, tolerance)
    total = len(samples(name, dtype))
    print(f"{dtype}: {taken} of {total} samples taken, {dict(passed)}")
    assert taken + passed.total() == total >= 192
    assert passed.keys() == ({"dropout", "dtype float64"} if dtype == torch.float64 else {"dropout"})
