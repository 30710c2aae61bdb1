# SPDX-License-Identifier: Apache-2.0
"""Masks of transformers taken apart into parameters: what a query sees is what transformers' boolean mask shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from small_models import DECODERS, made, padded, tokens
from transformers import masking_utils as hf

from mha.transformers import Mask, attention_mask
from mha.transformers._attention import mask_options

Tensor = torch.Tensor
attention = torch.ops.mha.scaled_dot_product_attention.default
POSITIONS = torch.cat([torch.arange(9), torch.arange(4), torch.arange(7)])[None].expand(3, -1)
PACKED = hf.find_packed_sequence_indices(POSITIONS)
FUNCTIONS: dict[str, Any] = {
    "causal": hf.causal_mask_function,
    "bidirectional": hf.bidirectional_mask_function,
    "window": hf.sliding_window_causal_mask_function(5),
    "wide window": hf.sliding_window_causal_mask_function(50),
    "window on both sides": hf.sliding_window_bidirectional_mask_function(3),
}
PADDING = {
    "none": None,
    "all tokens": torch.ones(3, 20),
    "left": padded([20, 11, 1], 20, "left"),
    "right": padded([20, 11, 1], 20, "right"),
    "holes": torch.tensor([1, 1, 0, 1, 0] * 4).expand(3, -1),
    "one row of padding": padded([20, 0, 5], 20, "right"),
}


def assert_same_attention(queries: int, keys: int, **description: Any) -> Tensor | None:
    """Compares with the boolean mask that transformers makes for torch. Returns the mask of mha."""
    arguments = {"batch_size": 3, "q_length": queries, "kv_length": keys, **description}
    visible = hf.sdpa_mask(**{**arguments, "allow_is_causal_skip": False})
    assert visible is not None
    mask = attention_mask(**arguments)
    query, key = torch.randn(3, 2, queries, 8), torch.randn(3, 2, keys, 8)
    value = torch.eye(keys).expand(3, 2, -1, -1)  # the output is the attention weights
    module = torch.nn.Module()
    wanted = attention(query, key, value, visible)
    result = attention(query, key, value, **mask_options(module, mask, None, queries, keys))
    assert torch.equal(wanted, result)
    assert torch.equal((result != 0).any(1, keepdim=True), visible.expand(3, 1, queries, keys))
    if isinstance(mask, Mask):
        assert mask.shape == visible.shape and mask.dtype == torch.bool
        assert torch.equal(mask & True, visible)
    return mask


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize(
    ("queries", "keys", "query_offset", "key_offset"), [(20, 20, 0, 0), (4, 20, 16, 0), (1, 20, 19, 0), (6, 11, 14, 9)]
)
def test_patterns(name: str, padding: str, queries: int, keys: int, query_offset: int, key_offset: int) -> None:
    """Prompts, later tokens, and a cache that has dropped its first keys."""
    given = PADDING[padding]
    mask = assert_same_attention(
        queries, keys, q_offset=query_offset, kv_offset=key_offset, mask_function=FUNCTIONS[name],
        attention_mask=None if given is None else given.bool(),
        # A bidirectional mask is never asked for with this, because None would be causal.
        allow_is_causal_skip=name in ("causal", "window", "wide window"),
    )  # fmt: skip
    assert mask is None or isinstance(mask, Mask)


@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_static_cache(padding: str) -> None:
    """Keys of a static cache beyond the tokens so far; its offset is a tensor."""
    given = PADDING[padding]
    for queries, offset in ((20, 0), (2, 18), (1, 19)):
        mask = assert_same_attention(queries, 64, q_offset=torch.tensor(offset), attention_mask=None if given is None else given.bool())
        assert mask is None or isinstance(mask, Mask)


@pytest.mark.parametrize("function", [hf.causal_mask_function, hf.sliding_window_causal_mask_function(4)])
def test_packed(function: Any) -> None:
    assert PACKED is not None
    function = hf.and_masks(hf.remap_positions_for_packed_sequence(function, POSITIONS), hf.packed_sequence_mask_function(PACKED))
    mask = assert_same_attention(20, 20, mask_function=function, allow_is_causal_skip=False)
    assert isinstance(mask, Mask) and mask.pattern.segments is not None


def test_other_patterns() -> None:
    """What is no parameter becomes the boolean tensor: chunks, blocks, functions of the caller."""
    blocks = torch.tensor([-1, 0, 0, 0, -1] * 4).expand(3, -1)
    functions = [
        hf.chunked_causal_mask_function(6, torch.zeros(3, dtype=torch.long)),
        hf.or_masks(hf.causal_mask_function, hf.blockwise_overlay(blocks)),
        lambda batch, head, query, key: (query - key) % 3 == 0,
        hf.and_masks(hf.causal_mask_function, lambda batch, head, query, key: key % 2 == query % 2),
    ]
    for function in functions:
        mask = assert_same_attention(20, 20, mask_function=function, allow_is_causal_skip=False)
        assert mask is not None and not isinstance(mask, Mask)


def test_no_mask_in_memory() -> None:
    mask = attention_mask(2, 5000, 5000, attention_mask=padded([5000, 3000], 5000, "left").bool())
    assert isinstance(mask, Mask)
    with torch._C.DisableTorchFunctionSubclass():
        assert mask.untyped_storage().nbytes() == 1


def test_operations_get_the_boolean_mask() -> None:
    padding = padded([20, 11, 1], 20, "left").bool()
    mask = attention_mask(3, 20, 20, attention_mask=padding)
    wanted = hf.sdpa_mask(3, 20, 20, attention_mask=padding)
    assert isinstance(mask, Mask) and wanted is not None
    assert torch.equal(mask[:, :, 3:, :7], wanted[:, :, 3:, :7])
    assert torch.equal(~mask, ~wanted)
    assert torch.equal(torch.where(mask, 0.0, 1.0), torch.where(wanted, 0.0, 1.0))
    assert torch.equal(torch.cat([mask, mask], -1), torch.cat([wanted, wanted], -1))
    assert torch.equal(mask.to(torch.float32), wanted.float())
    # A part of a mask reaches the attention as the tensor that it is.
    options = mask_options(torch.nn.Module(), mask, None, 20, 15)
    assert torch.equal(options["attn_mask"], wanted[..., :15])


def test_compiled() -> None:
    """torch.compile gets the boolean mask, because a pattern depends on the mask's values."""
    model = made(DECODERS["llama"])
    model.set_attn_implementation("mha")
    inputs, mask = tokens(3, 20), padded([20, 13, 6], 20, "left")
    wanted = model.model(inputs, attention_mask=mask, use_cache=False).last_hidden_state
    compiled: Any = torch.compile(model.model, backend="aot_eager")
    result = compiled(inputs, attention_mask=mask, use_cache=False).last_hidden_state
    assert (result - wanted)[mask.bool()].abs().max() <= 5e-6


def test_compiled_generate() -> None:
    """generate() with a static cache compiles the steps after the prompt."""
    model = made(DECODERS["llama"])
    model.set_attn_implementation("mha")
    inputs, options = tokens(3, 20), {"attention_mask": padded([20, 13, 6], 20, "left"), "max_new_tokens": 6}
    wanted = model.generate(inputs, do_sample=False, **options)
    options_of_compiler: dict[str, Any] = {"backend": "aot_eager", "mode": None}
    config: Any = transformers.CompileConfig(**options_of_compiler)
    config._compile_all_devices = True  # not only on GPUs
    result = model.generate(inputs, do_sample=False, cache_implementation="static", compile_config=config, **options)
    assert torch.equal(wanted, result)
