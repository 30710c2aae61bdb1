#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes two small checkpoints as Hugging Face's transformers saves them (config.json, model.safetensors), with random
weights, and beside each expected.safetensors: an input of the attention of layer 1 and what it gives in float64.

    make_checkpoints.py [<folder>]      default: the folder of this script; needs torch, transformers, safetensors
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModel, BertConfig, BertModel, LlamaConfig, LlamaModel

LAYER = 1
BATCH, TOKENS, WIDTH = 2, 11, 32


def make_llama():
    """Grouped heads, rotary positions scaled as in Llama 3.1, no biases."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    return LlamaModel(
        LlamaConfig(
            vocab_size=16,
            hidden_size=WIDTH,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            initializer_range=0.3,
            rope_parameters=rope,
        )
    )


def make_bert():
    """Biases, no positions in attention, every token sees every token."""
    model = BertModel(
        BertConfig(
            vocab_size=16,
            hidden_size=WIDTH,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=16,
            initializer_range=0.3,
        )
    )
    for name, parameter in model.named_parameters():  # transformers makes biases 0
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def llama_attention(model, hidden):
    positions = torch.arange(TOKENS).expand(BATCH, -1)
    mask = torch.full((TOKENS, TOKENS), float("-inf"), dtype=hidden.dtype).triu(1)[None, None]
    angles = model.rotary_emb(hidden, positions)
    return model.layers[LAYER].self_attn(hidden, position_embeddings=angles, attention_mask=mask)[0]


def bert_attention(model, hidden):
    attention = model.encoder.layer[LAYER].attention
    return attention.output.dense(attention.self(hidden)[0])  # without BERT's sum and norm


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent)
    for name, make, attention in (("llama", make_llama, llama_attention), ("bert", make_bert, bert_attention)):
        torch.manual_seed(1)
        folder = root / name
        make().to(torch.bfloat16).save_pretrained(folder)
        model = AutoModel.from_pretrained(folder, attn_implementation="eager").double().eval()  # what was stored
        hidden = torch.randn(BATCH, TOKENS, WIDTH, dtype=torch.float32)
        with torch.no_grad():
            output = attention(model, hidden.double())
        save_file({"input": hidden, "output": output.float()}, folder / "expected.safetensors")
        print(f"{folder}: {sum(p.numel() for p in model.parameters())} parameters, largest output {output.abs().max():.3f}")


if __name__ == "__main__":
    main()
