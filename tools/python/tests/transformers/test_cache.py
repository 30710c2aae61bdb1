# SPDX-License-Identifier: Apache-2.0
"""mha.transformers.Cache: generate() with the keys and values in the library's pages."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import small_models
import torch
import transformers
from small_models import DECODERS, Family, made, padded, tokens

import mha
from mha.transformers import Cache
from mha.transformers._attention import attention_forward

Tensor = torch.Tensor
NEW = 16
PAGED = {name: family for name, family in DECODERS.items() if not name.startswith("deepseek")}  # which caches latents


def ready(family: Family) -> Any:
    model = made(family)
    model.set_attn_implementation("mha")
    model.generation_config.update(do_sample=False, min_new_tokens=NEW, max_new_tokens=NEW, no_repeat_ngram_size=2)
    return model


@pytest.mark.parametrize("name", PAGED)
@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("beams", [1, 3])
def test_same_tokens(name: str, side: str, beams: int) -> None:
    """Pages of 16 tokens, of which there are too few at first, so that the cache grows."""
    model = ready(PAGED[name])
    inputs = tokens(3, 20)
    mask = torch.ones(3, 20) if side == "none" else padded([20, 13, 6], 20, side)
    wanted = model.generate(inputs, attention_mask=mask, num_beams=beams)
    cache = Cache(page_size=16)
    result = model.generate(inputs, attention_mask=mask, num_beams=beams, cache=cache)
    assert torch.equal(wanted, result)
    assert cache.get_seq_length() == 20 + NEW - 1


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss"])
def test_same_bits(name: str) -> None:
    """A prompt at once has the bits of transformers' own cache, in parts nearly so: torch's own linear layers give other bits for
    other numbers of rows."""
    model = ready(PAGED[name]).model
    inputs = tokens(2, 90)
    mask = padded([90, 71], 90, "left")
    wanted = model(inputs, attention_mask=mask).last_hidden_state
    cache = Cache(page_size=16)
    parts = []
    for begin, end in ((0, 40), (40, 41), (41, 90)):
        parts.append(model(inputs[:, begin:end], attention_mask=mask[:, :end], cache=cache).last_hidden_state)
    result = torch.cat(parts, 1)
    assert (result - wanted)[mask.bool()].abs().max() <= 5e-6
    again = model(inputs, attention_mask=mask, cache=Cache()).last_hidden_state
    assert torch.equal(again[mask.bool()], wanted[mask.bool()])


@pytest.mark.parametrize("name", PAGED)
@pytest.mark.parametrize(("storage", "fewest"), [("bf16", 0.97), ("i8", 0.95)])
def test_stored_in_fewer_bits(name: str, storage: str, fewest: float, record_property: Any) -> None:
    """Counts the tokens that are those of f32, each predicted after the same, correct tokens."""
    model = ready(PAGED[name])
    inputs = tokens(3, 60)
    wanted = model(inputs).logits
    arithmetic = "int8" if storage == "i8" else "f32"
    for cache in (Cache(storage), Cache(storage, arithmetic=arithmetic)):
        parts = [model(inputs[:, begin : begin + 20], cache=cache).logits for begin in (0, 20, 40)]
        result = torch.cat(parts, 1)
        same = (result.argmax(-1) == wanted.argmax(-1)).float().mean().item()
        record_property("same_tokens", same)
        assert not torch.equal(result, wanted)
        assert same >= fewest
    f32 = Cache()
    model(inputs, cache=f32)
    assert cache.used_bytes < f32.used_bytes * (0.51 if storage == "bf16" else 0.32)  # codes of rows of 16 have a scale each


def test_bf16_model() -> None:
    """A model in bf16 has a cache of bf16, which loses nothing, and the same tokens."""
    model = ready(DECODERS["llama"]).bfloat16()
    inputs, mask = tokens(3, 20), padded([20, 13, 6], 20, "left")
    cache: Any = Cache()
    wanted = model.generate(inputs, attention_mask=mask)
    assert torch.equal(model.generate(inputs, attention_mask=mask, cache=cache), wanted)
    assert "key='bf16'" in repr(cache.layers[0].pages)


@pytest.mark.parametrize("name", ["whisper", "t5"])
@pytest.mark.parametrize("beams", [1, 3])
def test_encoder_decoder(name: str, beams: int) -> None:
    model = ready(Family(getattr(small_models, name)))
    if name == "t5":
        inputs, options = tokens(3, 20), {"attention_mask": padded([20, 13, 6], 20, "right")}
    else:
        inputs, options = torch.randn(3, 16, 100), {}
    wanted = model.generate(inputs, num_beams=beams, **options)
    cache: Any = transformers.EncoderDecoderCache(Cache(), Cache())
    assert torch.equal(model.generate(inputs, num_beams=beams, cache=cache, **options), wanted)
    assert cache.self_attention_cache.used_bytes > 0 and cache.cross_attention_cache.used_bytes > 0


def test_assisted() -> None:
    """Rejected tokens of the draft are cropped from the pages."""
    model, assistant = ready(DECODERS["mistral"]), ready(DECODERS["llama"])
    inputs, mask = tokens(1, 20), torch.ones(1, 20)
    wanted = model.generate(inputs, attention_mask=mask)
    assert torch.equal(model.generate(inputs, attention_mask=mask, assistant_model=assistant, cache=Cache()), wanted)


def test_crop_and_select() -> None:
    model = ready(DECODERS["llama"])
    inputs = tokens(2, 30)
    cache: Any = Cache(page_size=16)
    model(inputs, cache=cache)
    cache.crop(-12)
    assert cache.get_seq_length() == 18
    cache.batch_repeat_interleave(3)
    assert cache.batch_size == 6
    cache.batch_select_indices(torch.tensor([5, 0, 4, 5]))
    rows = inputs[[1, 0, 1, 1]]
    following = torch.cat([rows[:, 18:], tokens(4, 3)], 1)
    result = model(following, cache=cache).logits
    wanted = model(torch.cat([rows, following[:, 12:]], 1)).logits[:, 18:]
    assert (result - wanted).abs().max() <= 1e-5
    cache.reset()
    assert cache.get_seq_length() == 0 and cache.used_bytes == 0
    assert torch.equal(model(inputs, cache=cache).logits, model(inputs).logits)


def test_crop_of_more_than_there_is_changes_nothing() -> None:
    model, cache = ready(DECODERS["llama"]), Cache()
    inputs = tokens(1, 8)
    wanted = model(inputs).logits
    model(inputs[:, :5], cache=cache)
    with pytest.raises(ValueError, match="removes more than the 5 tokens"):
        cache.crop(-6)
    assert cache.get_seq_length() == 5
    assert (model(inputs[:, 5:], cache=cache).logits - wanted[:, 5:]).abs().max() <= 1e-5


@pytest.mark.parametrize("step", ["__init__", "load"])
def test_pages_that_cannot_be_moved_stay(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, cache = ready(DECODERS["llama"]), Cache(page_size=16)
    inputs = tokens(2, 30)
    model(inputs[:, :20], cache=cache)
    cache.batch_select_indices(torch.tensor([1, 0]))

    def fail(*_: Any, **__: Any) -> None:
        raise mha.OutOfMemoryError("no memory")

    with monkeypatch.context() as patch, pytest.raises(mha.OutOfMemoryError):
        patch.setattr(mha.Cache, step, fail)
        cache.batch_repeat_interleave(2)
    assert cache.batch_size == 2 and cache.get_seq_length() == 20
    cache.batch_select_indices(torch.tensor([1]))
    assert (model(inputs[:1, 20:], cache=cache).logits - model(inputs[:1]).logits[:, 20:]).abs().max() <= 1e-5


def test_threads_change_no_bit() -> None:
    query, key, value = torch.randn(2, 8, 150, 16), torch.randn(2, 2, 150, 16), torch.randn(2, 2, 150, 16)
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        for keys, values in ((key, value), Cache().update(key, value, 0)):
            results.append(attention_forward(torch.nn.Module(), query, keys, values, is_causal=True)[0])
    assert all(torch.equal(result, results[0]) for result in results)


FORKED = """
import os, signal, sys
import torch
from mha._context import of_parents
from mha.transformers import _cache

def attended():
    layer = _cache.Cache().update(key, key, 0)[0].layer
    return layer.attend(key, {})

torch.set_num_threads(1)
key = torch.ones(1, 2, 40, 16)
want, before = attended(), _cache.context()
child = os.fork()
if child == 0:
    signal.alarm(60)
    same = torch.equal(attended(), want)
    os._exit(0 if same and _cache.context() is not before and before in of_parents else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_the_child_of_a_fork_has_contexts_of_its_own() -> None:
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], check=False).returncode == 0


def test_beams_share_pages() -> None:
    model = ready(DECODERS["llama"])
    inputs = tokens(1, 64)
    cache = Cache(page_size=16)
    model(inputs, cache=cache)
    before = cache.used_bytes
    cache.batch_repeat_interleave(8)
    assert cache.used_bytes == before
    model(tokens(8, 1), cache=cache)
    assert cache.used_bytes < 4 * before  # a page more for each row of eight, instead of four


def test_copy_of_a_prompt() -> None:
    """The cache of a prompt that several texts begin with is copied for each of them."""
    model = ready(DECODERS["llama"])
    prompt, cache = tokens(1, 30), Cache()
    model(prompt, cache=cache)
    for seed in (5, 6):
        inputs = torch.cat([prompt, tokens(1, 4, seed)], 1)
        mask = torch.ones_like(inputs)
        result = model.generate(inputs, attention_mask=mask, cache=copy.deepcopy(cache))
        assert torch.equal(result, model.generate(inputs, attention_mask=mask))
    assert cache.get_seq_length() == 30


def test_other_attention_is_refused() -> None:
    model = made(DECODERS["llama"])
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        with pytest.raises(RuntimeError, match='Choose attn_implementation="mha"'):
            model(tokens(2, 5), cache=Cache())


def test_deepseek_is_refused() -> None:
    model = ready(DECODERS["deepseek3"])
    with pytest.raises(RuntimeError, match="caches latents"):
        model(tokens(2, 5), cache=Cache())


def test_bad_arguments() -> None:
    model = ready(DECODERS["llama"])
    with pytest.raises(ValueError, match="storage.dtype"):
        model(tokens(2, 5), cache=Cache("f8"))
    with pytest.raises(mha.UnsupportedError):
        model(tokens(2, 5), cache=Cache("bf16", arithmetic="int8"))
    cache = Cache()
    with pytest.raises(NotImplementedError, match="DynamicCache"):
        model(tokens(2, 5), cache=cache, output_attentions=True)
    with pytest.raises(ValueError, match="negative"):
        cache.crop(3)
