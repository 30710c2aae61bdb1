# SPDX-License-Identifier: Apache-2.0
"""Small models with random weights, one for each family, built from configurations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as tf

VOCABULARY = 199
# 0.1 instead of the usual 0.02: so scores differ enough for attention to be far from uniform.
COMMON: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.1}
DECODER = {**COMMON, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
GROUPED = {**DECODER, "num_key_value_heads": 2}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]


def llama() -> Any:
    return tf.LlamaForCausalLM(tf.LlamaConfig(**GROUPED))


def mistral() -> Any:
    return tf.MistralForCausalLM(tf.MistralConfig(**GROUPED, sliding_window=12, head_dim=24))


def gemma2() -> Any:
    config = tf.Gemma2Config(
        **GROUPED, head_dim=24, sliding_window=12, query_pre_attn_scalar=24, attn_logit_softcapping=5.0, layer_types=SLIDING
    )
    return tf.Gemma2ForCausalLM(config)


def gemma3() -> Any:
    config = tf.Gemma3TextConfig(**GROUPED, head_dim=24, sliding_window=12, query_pre_attn_scalar=24, layer_types=SLIDING)
    return tf.Gemma3ForCausalLM(config)


def gpt_oss() -> Any:
    config = tf.GptOssConfig(**GROUPED, head_dim=16, sliding_window=12, layer_types=SLIDING, num_local_experts=4, num_experts_per_tok=2)
    return tf.GptOssForCausalLM(config)


def qwen2() -> Any:
    return tf.Qwen2ForCausalLM(tf.Qwen2Config(**GROUPED))


def qwen3() -> Any:
    return tf.Qwen3ForCausalLM(tf.Qwen3Config(**GROUPED, head_dim=24))


DEEPSEEK: dict[str, Any] = {
    **DECODER,
    "num_key_value_heads": 4,
    "kv_lora_rank": 24,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}


def deepseek2() -> Any:
    return tf.DeepseekV2ForCausalLM(tf.DeepseekV2Config(**DEEPSEEK))


def deepseek3() -> Any:
    return tf.DeepseekV3ForCausalLM(tf.DeepseekV3Config(**DEEPSEEK))


def bert() -> Any:
    return tf.BertModel(tf.BertConfig(**DECODER))


def vit() -> Any:
    sizes = {**DECODER, "image_size": 32, "patch_size": 4}
    del sizes["vocab_size"]
    return tf.ViTModel(tf.ViTConfig(**sizes))


def clip() -> Any:
    part = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = {**part, "vocab_size": VOCABULARY, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    vision = {**part, "image_size": 32, "patch_size": 4}
    return tf.CLIPModel(tf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))


def whisper() -> Any:
    config = tf.WhisperConfig(
        vocab_size=VOCABULARY, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=96, decoder_ffn_dim=96, num_mel_bins=16, max_source_positions=50, max_target_positions=60, init_std=0.1,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    return tf.WhisperForConditionalGeneration(config)


def t5() -> Any:
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4,
        "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0, "initializer_factor": 0.5,
    }  # fmt: skip
    return tf.T5ForConditionalGeneration(tf.T5Config(**sizes))


@dataclass(frozen=True)
class Family:
    make: Callable[[], Any]
    reference: str = "sdpa"  # eager where transformers' sdpa lacks the feature


DECODERS = {
    "llama": Family(llama),
    "mistral": Family(mistral),
    "gemma2": Family(gemma2, "eager"),
    "gemma3": Family(gemma3),
    "gpt_oss": Family(gpt_oss, "eager"),
    "qwen2": Family(qwen2),
    "qwen3": Family(qwen3),
    "deepseek2": Family(deepseek2),
    "deepseek3": Family(deepseek3),
}


def made(family: Family) -> Any:
    """The model, the same weights in every call."""
    torch.manual_seed(0)
    model = family.make().eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias", "sinks")):
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def tokens(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (batch, length), generator=generator)


def padded(lengths: list[int], width: int, side: str) -> torch.Tensor:
    """A padding mask [B, width]."""
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        if side == "right":
            mask[row, :length] = 1
        else:
            mask[row, width - length :] = 1
    return mask
