# SPDX-License-Identifier: Apache-2.0
"""Forward passes with attn_implementation="mha" against transformers' own attention, family by family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
import transformers
from small_models import DECODERS, Family, made, padded, tokens

import mha.transformers

TOLERANCE = 5e-6  # of results of the order of 1
LENGTHS = [40, 23, 7]
Tensor = torch.Tensor


def outputs(family: Family, call: Any) -> tuple[Tensor, Tensor]:
    """What the call gives with transformers' attention and with mha."""
    model = made(family)
    results = []
    for implementation in (family.reference, "mha"):
        model.set_attn_implementation(implementation)
        assert model.config._attn_implementation == implementation
        results.append(call(model))
    return results[0], results[1]


def assert_close(wanted: Tensor, result: Tensor, rows: Tensor | None = None) -> None:
    assert result.shape == wanted.shape
    if rows is not None:
        wanted, result = wanted[rows], result[rows]
    assert 0.1 < wanted.abs().max() < 100
    assert (wanted - result).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_decoder(name: str, side: str) -> None:
    inputs = tokens(3, 40)
    mask = None if side == "none" else padded(LENGTHS, 40, side)
    wanted, result = outputs(DECODERS[name], lambda model: model.model(inputs, attention_mask=mask).last_hidden_state)
    assert_close(wanted, result, None if mask is None else mask.bool())


@pytest.mark.parametrize("name", DECODERS)
def test_masks_matter(name: str) -> None:
    """The results of the tests above change by much more than the tolerance where a mask changes."""
    model = made(DECODERS[name])
    model.set_attn_implementation("mha")
    inputs, mask = tokens(3, 40), padded(LENGTHS, 40, "left")
    masked = model.model(inputs, attention_mask=mask).last_hidden_state
    free = model.model(inputs).last_hidden_state
    assert (masked - free)[mask.bool()].abs().max() > 1e-2


@pytest.mark.parametrize("name", DECODERS)
def test_packed_sequences(name: str) -> None:
    """Several sequences in a row, told apart by their positions (without a cache), give what each gives alone."""
    inputs = tokens(1, 40)
    lengths = [17, 3, 20]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]

    def call(model: Any) -> Tensor:
        found: Tensor = model.model(inputs, position_ids=positions, use_cache=False).last_hidden_state
        return found

    wanted, result = outputs(DECODERS[name], call)
    assert_close(wanted, result)
    if name == "gpt_oss":
        return  # transformers' model gives its masks no positions, so with any attention it has no packed sequences
    model = made(DECODERS[name])
    model.set_attn_implementation("mha")
    alone = [model.model(part).last_hidden_state for part in torch.split(inputs, lengths, 1)]
    assert_close(torch.cat(alone, 1), result)


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_bert(side: str) -> None:
    inputs = tokens(3, 40)
    mask = None if side == "none" else padded(LENGTHS, 40, side)
    wanted, result = outputs(Family(small_models.bert), lambda model: model(inputs, attention_mask=mask).last_hidden_state)
    assert_close(wanted, result, None if mask is None else mask.bool())


def test_bert_mask_with_holes() -> None:
    inputs = tokens(3, 40)
    mask = (torch.rand(3, 40) < 0.7).long()
    wanted, result = outputs(Family(small_models.bert), lambda model: model(inputs, attention_mask=mask).last_hidden_state)
    assert_close(wanted, result)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_mask_of_four_dimensions(dtype: torch.dtype) -> None:
    inputs = tokens(3, 40)
    visible = (torch.rand(3, 1, 40, 40) < 0.5) | torch.eye(40, dtype=torch.bool)
    mask = visible if dtype == torch.bool else torch.where(visible, 0.0, torch.finfo(dtype).min)
    wanted, result = outputs(DECODERS["llama"], lambda model: model.model(inputs, attention_mask=mask).last_hidden_state)
    assert_close(wanted, result)


def test_vit() -> None:
    pixels = torch.randn(3, 3, 32, 32)
    wanted, result = outputs(Family(small_models.vit), lambda model: model(pixels).last_hidden_state)
    assert_close(wanted, result)


@pytest.mark.parametrize("side", ["none", "right"])
def test_clip(side: str) -> None:
    inputs, pixels = tokens(3, 40), torch.randn(3, 3, 32, 32)
    mask = None if side == "none" else padded(LENGTHS, 40, side)
    inputs[torch.arange(3), torch.tensor(LENGTHS) - 1] = 2

    def call(model: Any) -> Tensor:
        found = model(input_ids=inputs, pixel_values=pixels, attention_mask=mask)
        return torch.cat([found.text_embeds, found.image_embeds])

    wanted, result = outputs(Family(small_models.clip), call)
    assert_close(wanted, result)


def test_whisper() -> None:
    features, inputs = torch.randn(3, 16, 100), tokens(3, 30)
    wanted, result = outputs(Family(small_models.whisper), lambda model: model.model(features, decoder_input_ids=inputs).last_hidden_state)
    assert_close(wanted, result)


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_t5(side: str) -> None:
    inputs, decoder_inputs = tokens(3, 40), tokens(3, 20, 2)
    mask = None if side == "none" else padded(LENGTHS, 40, side)

    def call(model: Any) -> Tensor:
        found = model(inputs, attention_mask=mask, decoder_input_ids=decoder_inputs, output_hidden_states=True)
        hidden: Tensor = found.decoder_hidden_states[-1]
        return hidden

    wanted, result = outputs(Family(small_models.t5), call)
    assert_close(wanted, result)


def test_attention_weights() -> None:
    model = made(DECODERS["llama"])
    inputs, mask = tokens(3, 40), padded(LENGTHS, 40, "right")
    found = {}
    for implementation in ("eager", "mha"):
        model.set_attn_implementation(implementation)
        found[implementation] = model(inputs, attention_mask=mask, output_attentions=True).attentions
    assert len(found["mha"]) == 3
    for wanted, result in zip(found["eager"], found["mha"]):
        assert_close(wanted.transpose(1, 2), result.transpose(1, 2), mask.bool())


def test_dropout_is_refused() -> None:
    model = made(Family(small_models.bert)).train()
    model.set_attn_implementation("mha")
    with pytest.raises(ValueError, match="call model.eval"):
        model(tokens(1, 5))


def test_from_pretrained(tmp_path: Path) -> None:
    """The name is taken where a model is loaded, also by the parts of a composite model."""
    made(Family(small_models.clip)).save_pretrained(tmp_path)
    model = transformers.AutoModel.from_pretrained(tmp_path, attn_implementation="mha")
    assert model.config.text_config._attn_implementation == model.config.vision_config._attn_implementation == "mha"
    assert model.vision_model.config._attn_implementation == "mha"


@pytest.mark.parametrize("arithmetic", ["auto", "f32", "bf16"])
def test_bf16(arithmetic: str) -> None:
    """A model in bf16: attention differs from that in f32 by roundings to bf16 alone."""
    mha.transformers.register("mha_for_test", arithmetic=arithmetic)
    inputs, mask = tokens(3, 40), padded(LENGTHS, 40, "left")
    model = made(DECODERS["llama"])
    wanted = model.model(inputs, attention_mask=mask).last_hidden_state[mask.bool()]
    model.bfloat16().set_attn_implementation("mha_for_test")
    result = model.model(inputs, attention_mask=mask).last_hidden_state[mask.bool()]
    assert result.dtype == torch.bfloat16
    assert (wanted - result).norm() <= 0.02 * wanted.norm()


def test_bad_arithmetic() -> None:
    with pytest.raises(ValueError, match="none of auto, f32, bf16"):
        mha.transformers.register("mha_for_test", arithmetic="int4")


@pytest.mark.parametrize("cache", [None, mha.transformers.Cache])
def test_threads(cache: Any) -> None:
    """Attention runs on as many threads as torch has. What differs is of torch's linear layers."""
    model = made(DECODERS["llama"])
    model.set_attn_implementation("mha")
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(model.model(tokens(2, 150), cache=cache() if cache else None).last_hidden_state)
    assert (results[0] - results[1]).abs().max() <= TOLERANCE
