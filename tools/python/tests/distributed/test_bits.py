# SPDX-License-Identifier: Apache-2.0
"""Over any number of ranks attention has the bits of mha.attention over one cache."""

from __future__ import annotations

from typing import Any

import cases
import pytest
from launch import run

import mha

# Storage of the cache, arithmetic, items.
STORED: dict[str, tuple[dict[str, Any], str, int]] = {
    "f32": ({}, "f32", 2),
    "bf16": ({"key": "bf16", "value": "bf16"}, "f32", 1),
    "i8": ({"key": "i8", "value": "i8"}, "f32", 1),
    "bf16 arithmetic": ({"key": "bf16", "value": "bf16"}, "bf16", 1),
    "int8 arithmetic": ({"key": "i8", "value": "i8"}, "int8", 1),
    "hadamard": ({"key": mha.Storage("i4", "f16", 16, hadamard=True), "value": mha.Storage("i8", hadamard=True)}, "f32", 1),
    "fixed": ({"key": "i8", "key_fixed": mha.Codes(None, 0.02)}, "f32", 1),
}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_prefill_and_decode(size: int) -> None:
    for found in run(size, cases.prefill_and_decode, STORED):
        assert found.keys() == STORED.keys()
        for failed, length, lengths in found.values():
            assert not failed
            assert sum(lengths) == length and min(lengths) > 0


@pytest.mark.parametrize("size", [1, 2, 4])
def test_shards(size: int) -> None:
    for failed, lengths in run(size, cases.shards):
        assert not failed
        assert lengths == {1: [900], 2: [256, 400], 4: [512, 0, 256, 100]}[size]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_options(size: int) -> None:
    assert run(size, cases.options) == [[]] * size


@pytest.mark.parametrize("size", [1, 4])
def test_kinds_of_arrays_and_blocks_of_queries(size: int) -> None:
    for failed, calls in run(size, cases.kinds_of_arrays):
        assert not failed
        assert calls > 1
