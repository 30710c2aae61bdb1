# SPDX-License-Identifier: Apache-2.0
"""Tensors of torch in the calls of mha itself."""

from __future__ import annotations

import pytest
import torch

import mha


def test_tensors_without_elements_are_given() -> None:
    """Their address is 0, which the library takes as "not given"."""
    query, key, value = torch.randn(2, 3, 4, 8), torch.randn(2, 5, 4, 8), torch.randn(2, 5, 4, 8)
    weights = {"in_proj_weight": torch.randn(48, 16), "output_weight": torch.randn(16, 16), "output_bias": torch.randn(16)}
    layer, x = mha.Layer(16, 2, **weights), torch.randn(2, 3, 16)
    assert torch.equal(layer(x, torch.empty(2, 0, 16)), weights["output_bias"].expand(2, 3, 16))
    rows = torch.empty(0, dtype=torch.int64)
    found = mha.attention_results(query, key, value, weights="per_head", weights_rows=rows)
    assert found.weights.shape == (2, 4, 0, 5)
    assert torch.equal(found.output, mha.attention(query, key, value))
    for mask in (torch.empty(2, 1, 3, 0, dtype=torch.bool), torch.empty(3, 0)):
        assert not mha.attention(query, key[:, :0], value[:, :0], mask=mask).any()
    assert not mha.attention(query, key, value, block_mask=mha.BlockMask(2, 2, rows.view(0, 2))).any()


def test_lists_and_tensors_of_offsets() -> None:
    query = torch.randn(7, 4, 8)
    offsets = torch.tensor([0, 3, 7])
    wanted = mha.attention(query, query, query, query_offsets=[0, 3, 7], key_offsets=[0, 3, 7])
    assert torch.equal(mha.attention(query, query, query, query_offsets=offsets, key_offsets=offsets), wanted)
    with pytest.raises(ValueError, match="query_offsets has no entries"):
        mha.attention(query, query, query, query_offsets=offsets[:0], key_offsets=offsets)
