# SPDX-License-Identifier: Apache-2.0
"""Models with random weights, exported from torch as they are: transformers' BERT and Llama, in operator set 23, where
scaled_dot_product_attention becomes ai.onnx Attention."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicCache

VOCABULARY = 1000


class Bert(torch.nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        config = BertConfig(vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers,
                            num_attention_heads=max(width // 64, 2), intermediate_size=4 * width,
                            attn_implementation="sdpa")  # fmt: skip
        self.model = BertModel(config, add_pooling_layer=False)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state


class Decoder(torch.nn.Module):
    """Llama with grouped heads and a cache that is given and returned."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        heads = max(width // 64, 4)
        self.config = LlamaConfig(vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers,
                                  num_attention_heads=heads, num_key_value_heads=heads // 4, intermediate_size=3 * width,
                                  max_position_embeddings=8192, attn_implementation="sdpa")  # fmt: skip
        self.model = LlamaForCausalLM(self.config)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, *past: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cache = DynamicCache(config=self.config)
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        result = self.model(input_ids=ids, position_ids=positions, cache=cache, use_cache=True)
        present = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        return (result.logits, *present)

    def empty_past(self, batch: int, tokens: int) -> list[torch.Tensor]:
        dim = self.config.hidden_size // self.config.num_attention_heads
        shape = (batch, self.config.num_key_value_heads, tokens, dim)
        return [torch.randn(shape) for _ in range(2 * self.config.num_hidden_layers)]


def export_bert(path: Path, width: int, layers: int) -> Bert:
    torch.manual_seed(0)
    model = Bert(width, layers).eval()
    ids, mask = torch.zeros(2, 10, dtype=torch.int64), torch.ones(2, 10, dtype=torch.int64)
    batch, tokens = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("tokens", min=2, max=512)
    shapes = {name: {0: batch, 1: tokens} for name in ("ids", "mask")}
    save(model, (ids, mask), shapes, ["ids", "mask"], ["output"], path)
    return model


def export_decoder(path: Path, width: int, layers: int) -> Decoder:
    torch.manual_seed(0)
    model = Decoder(width, layers).eval()
    ids, positions = torch.zeros(1, 3, dtype=torch.int64), torch.arange(4, 7)[None]
    tokens, past = torch.export.Dim("tokens", min=1, max=4096), torch.export.Dim("past", min=0, max=4096)
    shapes = {"ids": {1: tokens}, "positions": {1: tokens}, "past": tuple({2: past} for _ in range(2 * layers))}
    inputs, outputs = ["ids", "positions"], ["logits"]
    for layer in range(layers):
        for name in ("key", "value"):
            inputs.append(f"past_{name}_{layer}")
            outputs.append(f"present_{name}_{layer}")
    save(model, (ids, positions, *model.empty_past(1, 4)), shapes, inputs, outputs, path)
    return model


def save(model: torch.nn.Module, example: tuple, shapes: dict, inputs: list[str], outputs: list[str], path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, example, dynamo=True, opset_version=23, dynamic_shapes=shapes,
                                    input_names=inputs, output_names=outputs, verbose=False)  # fmt: skip
    program.save(str(path), external_data=False)
