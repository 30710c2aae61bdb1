# SPDX-License-Identifier: Apache-2.0
"""The cases of end_to_end.py: models with random weights, and the variants that are compared on each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers as tf

import mha.torch
import mha.transformers

Step = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    title: str
    bars: dict[str, float]  # variant: the least ratio that is meant to be reached
    baseline: str  # the variant that ratios are relative to
    variants: Callable[[], dict[str, Step]]


def seeded(make: Callable[[], Any], implementation: str, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = make().eval().to(dtype)
    model.set_attn_implementation(implementation)
    return model


def bert_model() -> Any:
    return tf.BertModel(tf.BertConfig(num_hidden_layers=1))  # one layer of Bert base


def llama_model(layers: int = 2) -> Any:
    """The sizes of TinyLlama, except the number of layers."""
    config = tf.LlamaConfig(
        hidden_size=2048, intermediate_size=5632, num_hidden_layers=layers, num_attention_heads=32, num_key_value_heads=4, vocab_size=8000
    )
    return tf.LlamaForCausalLM(config)


def mistral_model() -> Any:
    config = tf.MistralConfig(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=1, num_attention_heads=16, num_key_value_heads=4, vocab_size=8000,
        sliding_window=512,
    )  # fmt: skip
    return tf.MistralForCausalLM(config)


def vit_model() -> Any:
    return tf.ViTModel(tf.ViTConfig(num_hidden_layers=1))


def whisper_model() -> Any:
    return tf.WhisperModel(
        tf.WhisperConfig(encoder_layers=1, decoder_layers=1, d_model=512, encoder_attention_heads=8, decoder_attention_heads=8)
    ).encoder


def ids(batch: int, length: int) -> torch.Tensor:
    return torch.randint(3, 8000, (batch, length), generator=torch.Generator().manual_seed(1))


def switched(model: Any, implementation: str, step: Step) -> Step:
    """The step after a switch of the model's attention, so that one model in memory serves all variants."""

    def run() -> Any:
        model.config._attn_implementation = implementation
        return step()

    return run


def converted(model: Any, weights: str | None) -> Any:
    result = mha.torch.convert(model, weights)
    assert result.converted
    return result.module


def forwards(make: Callable[[], Any], **inputs: Any) -> dict[str, Step]:
    """transformers' sdpa and mha in f32, also with packed linear layers."""
    model = seeded(make, "sdpa")
    packed = converted(seeded(make, "mha"), None)
    steps = {name: switched(model, name, lambda: model(**inputs)) for name in ("sdpa", "mha")}
    return {**steps, "mha, packed": lambda: packed(**inputs)}


def bert(batch: int, length: int, side: str | None = None) -> dict[str, Step]:
    inputs = {"input_ids": ids(batch, length)}
    if side:
        lengths = torch.linspace(length // 8, length, batch).long().flip(0)
        mask = (torch.arange(length) < lengths[:, None]).long()
        inputs["attention_mask"] = mask if side == "right" else mask.flip(1)
    return forwards(bert_model, **inputs)


def prefill(length: int) -> dict[str, Step]:
    return forwards(partial(llama_model, 1), input_ids=ids(1, length), use_cache=False, logits_to_keep=1)


def prefill_in_fewer_bits(length: int) -> dict[str, Step]:
    """torch in bf16, and in f32 where it has no instructions for bf16; mha with packed linear layers of bf16 and int8."""
    make = partial(llama_model, 1)
    inputs = {"input_ids": ids(1, length), "use_cache": False, "logits_to_keep": 1}
    models = {
        "torch bf16": seeded(make, "sdpa", torch.bfloat16),
        "torch f32": seeded(make, "sdpa"),
        "mha bf16": converted(seeded(make, "mha", torch.bfloat16), "bf16"),
        "mha int8": converted(seeded(make, "mha"), "int8"),
    }
    return {name: partial(model, **inputs) for name, model in models.items()}


def decode_step(model: Any, context: int, cache: Any) -> Step:
    """One new token after `context` others; the cache grows by one token in each call."""
    width = model.config.num_key_value_heads, model.config.hidden_size // model.config.num_attention_heads
    dtype = model.model.embed_tokens.weight.dtype
    for layer in range(model.config.num_hidden_layers):
        # What a prompt would have put there has no influence on the time.
        cache.update(
            torch.randn(1, width[0], context, width[1], dtype=dtype), torch.randn(1, width[0], context, width[1], dtype=dtype), layer
        )
    token = torch.tensor([[5]])
    return lambda: model(token, cache=cache)


def decode(context: int) -> dict[str, Step]:
    model = seeded(llama_model, "sdpa")
    return {
        "sdpa": switched(model, "sdpa", decode_step(model, context, tf.DynamicCache())),
        "mha": switched(model, "mha", decode_step(model, context, tf.DynamicCache())),
        "mha, pages": switched(model, "mha", decode_step(model, context, mha.transformers.Cache())),
    }


def decode_in_fewer_bits(context: int) -> dict[str, Step]:
    torch_bf16 = seeded(llama_model, "sdpa", torch.bfloat16)
    int8 = converted(seeded(llama_model, "mha"), "int8")
    bf16 = converted(seeded(llama_model, "mha", torch.bfloat16), "bf16")
    torch_f32 = seeded(llama_model, "sdpa")
    return {
        "torch bf16": decode_step(torch_bf16, context, tf.DynamicCache()),
        "torch f32": decode_step(torch_f32, context, tf.DynamicCache()),
        "mha bf16": decode_step(bf16, context, mha.transformers.Cache("bf16")),
        "mha int8": decode_step(int8, context, mha.transformers.Cache("i8", arithmetic="int8")),
    }


CASES = {
    "bert_512": Case("Bert base, B 1, T 512", {"mha": 1.0}, "sdpa", lambda: bert(1, 512)),
    "bert_right": Case("Bert base, B 8, T 256, padded on the right", {"mha": 1.0}, "sdpa", lambda: bert(8, 256, "right")),
    "bert_left": Case("Bert base, B 8, T 256, padded on the left", {"mha": 1.0}, "sdpa", lambda: bert(8, 256, "left")),
    "vit": Case("ViT base, B 4", {"mha": 1.0}, "sdpa", lambda: forwards(vit_model, pixel_values=torch.randn(4, 3, 224, 224))),
    "whisper": Case(
        "Whisper base's encoder, 30 s", {"mha": 1.0}, "sdpa", lambda: forwards(whisper_model, input_features=torch.randn(1, 80, 3000))
    ),
    "mistral": Case(
        "Mistral, window 512, prefill 2048", {"mha": 1.0}, "sdpa",
        lambda: forwards(mistral_model, input_ids=ids(1, 2048), use_cache=False, logits_to_keep=1),
    ),
    "llama_1024": Case("Llama, prefill 1024", {"mha": 1.0}, "sdpa", lambda: prefill(1024)),
    "llama_4096": Case("Llama, prefill 4096", {"mha": 1.08}, "sdpa", lambda: prefill(4096)),
    "decode_1024": Case("Llama, a token after 1024", {"mha": 1.0}, "sdpa", lambda: decode(1024)),
    "decode_4096": Case("Llama, a token after 4096", {"mha": 1.0}, "sdpa", lambda: decode(4096)),
    "bits_1024": Case("Llama, prefill 1024, packed", {"mha bf16": 1.0, "mha int8": 1.3}, "torch bf16", lambda: prefill_in_fewer_bits(1024)),
    "bits_decode_1024": Case("Llama, a token after 1024, packed", {"mha int8": 2.0}, "torch bf16", lambda: decode_in_fewer_bits(1024)),
    "bits_decode_4096": Case("Llama, a token after 4096, packed", {"mha int8": 2.0}, "torch bf16", lambda: decode_in_fewer_bits(4096)),
}  # fmt: skip
