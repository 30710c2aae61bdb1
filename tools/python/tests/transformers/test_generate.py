# SPDX-License-Identifier: Apache-2.0
"""generate() with attn_implementation="mha" gives the tokens that it gives with transformers' own attention."""

from __future__ import annotations

from typing import Any

import pytest
import small_models
import torch
from small_models import DECODERS, Family, made, padded, tokens

LENGTHS = [20, 13, 6]
NEW = 16
Tensor = torch.Tensor


def generated(model: Any, implementation: str, *inputs: Tensor, **options: Any) -> Tensor:
    model.set_attn_implementation(implementation)
    # Models with random weights would repeat one token; here a pair of tokens comes but once.
    model.generation_config.update(do_sample=False, min_new_tokens=NEW, max_new_tokens=NEW, no_repeat_ngram_size=2)
    found: Tensor = model.generate(*inputs, **options)
    return found


def assert_same(family: Family, *inputs: Tensor, **options: Any) -> None:
    model = made(family)
    wanted = generated(model, family.reference, *inputs, **options)
    result = generated(model, "mha", *inputs, **options)
    assert len(set(wanted[0, -NEW:].tolist())) >= 6
    assert torch.equal(wanted, result)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_left_padding(name: str, cache: str) -> None:
    """The prompts and what follows are longer than the sliding windows."""
    assert_same(DECODERS[name], tokens(3, 20), attention_mask=padded(LENGTHS, 20, "left"), cache_implementation=cache)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_no_padding(name: str, cache: str) -> None:
    assert_same(DECODERS[name], tokens(2, 20), attention_mask=torch.ones(2, 20), cache_implementation=cache)


@pytest.mark.parametrize("name", DECODERS)
def test_without_cache(name: str) -> None:
    assert_same(DECODERS[name], tokens(2, 5), attention_mask=torch.ones(2, 5), use_cache=False)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_right_padding(name: str) -> None:
    """transformers warns about it, but it is defined: the new tokens follow the padding, which they do not see."""
    assert_same(DECODERS[name], tokens(3, 20), attention_mask=padded(LENGTHS, 20, "right"))


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_beam_search(name: str, cache: str) -> None:
    options = {"attention_mask": padded(LENGTHS, 20, "left"), "num_beams": 3, "cache_implementation": cache}
    assert_same(DECODERS[name], tokens(3, 20), **options)


def test_prompt_in_chunks() -> None:
    options = {"attention_mask": padded(LENGTHS, 20, "left"), "prefill_chunk_size": 6}
    assert_same(DECODERS["llama"], tokens(3, 20), **options)


def test_assisted() -> None:
    """A small model drafts tokens; rejected ones are cropped from the caches."""
    assistant = made(DECODERS["llama"])
    assistant.set_attn_implementation("mha")
    assert_same(DECODERS["mistral"], tokens(1, 20), attention_mask=torch.ones(1, 20), assistant_model=assistant)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_t5(beams: int, cache: str) -> None:
    options = {"attention_mask": padded(LENGTHS, 20, "right"), "num_beams": beams, "cache_implementation": cache}
    assert_same(Family(small_models.t5), tokens(3, 20), **options)


@pytest.mark.parametrize("beams", [1, 3])
def test_whisper(beams: int) -> None:
    assert_same(Family(small_models.whisper), torch.randn(2, 16, 100), num_beams=beams)
