# SPDX-License-Identifier: Apache-2.0
"""A Llama-style decoder in plain PyTorch, with its own key/value cache, and the random weights that both sides read."""

import torch
import torch.nn.functional as F

CONFIG = {
    "vocabulary": 2048,
    "hidden": 512,
    "intermediate": 1408,
    "layers": 4,
    "heads": 8,
    "kv_heads": 2,
    "head_dim": 64,
    "epsilon": 1e-5,
    "rope_base": 500000.0,
}


def make_weights(config, seed):
    """Random weights by Llama's names. The gains are such that attention is peaked and weighs as much as the token
    itself: with small ones the next token would follow from the last alone, and generation soon run in a circle."""
    generator = torch.Generator().manual_seed(seed)
    hidden, inner, head_dim = config["hidden"], config["intermediate"], config["head_dim"]

    def matrix(rows, columns, gain):
        return torch.randn(rows, columns, generator=generator) * (gain / columns**0.5)

    def norm():
        return 1 + 0.1 * torch.randn(hidden, generator=generator)

    weights = {"embed_tokens.weight": torch.randn(config["vocabulary"], hidden, generator=generator)}
    for n in range(config["layers"]):
        name = f"layers.{n}."
        weights[name + "input_layernorm.weight"] = norm()
        weights[name + "self_attn.q_proj.weight"] = matrix(config["heads"] * head_dim, hidden, 1.5)
        weights[name + "self_attn.k_proj.weight"] = matrix(config["kv_heads"] * head_dim, hidden, 1.5)
        weights[name + "self_attn.v_proj.weight"] = matrix(config["kv_heads"] * head_dim, hidden, 1.5)
        weights[name + "self_attn.o_proj.weight"] = matrix(hidden, config["heads"] * head_dim, 1.5)
        weights[name + "post_attention_layernorm.weight"] = norm()
        weights[name + "mlp.gate_proj.weight"] = matrix(inner, hidden, 1.0)
        weights[name + "mlp.up_proj.weight"] = matrix(inner, hidden, 1.0)
        weights[name + "mlp.down_proj.weight"] = matrix(hidden, inner, 1.0)
    weights["norm.weight"] = norm()
    weights["lm_head.weight"] = matrix(config["vocabulary"], hidden, 1.0)
    return weights


class Cache:
    """Keys and values [B, Hkv, capacity, D] of each layer, and how many tokens each of the B sequences has."""

    def __init__(self, config, batch, capacity, dtype=torch.float32):
        shape = (batch, config["kv_heads"], capacity, config["head_dim"])
        self.keys = [torch.zeros(shape, dtype=dtype) for _ in range(config["layers"])]
        self.values = [torch.zeros(shape, dtype=dtype) for _ in range(config["layers"])]
        self.lengths = [0] * batch

    def append(self, layer, key, value):
        """key, value [B, Hkv, T, D] behind the lengths (which `TorchDecoder.forward` moves on); returns all there is,
        as far as the longest sequence reaches."""
        length = key.shape[2]
        if len(set(self.lengths)) == 1:
            begin = self.lengths[0]
            self.keys[layer][:, :, begin : begin + length] = key
            self.values[layer][:, :, begin : begin + length] = value
        else:
            for b, begin in enumerate(self.lengths):
                self.keys[layer][b, :, begin : begin + length] = key[b]
                self.values[layer][b, :, begin : begin + length] = value[b]
        longest = max(self.lengths) + length
        return self.keys[layer][:, :, :longest], self.values[layer][:, :, :longest]


class TorchDecoder:
    def __init__(self, weights, config, positions, dtype=torch.float32):
        self.weights = {name: tensor.to(dtype) for name, tensor in weights.items()}
        self.config = config
        half = config["head_dim"] // 2
        frequencies = config["rope_base"] ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.arange(positions, dtype=torch.float64)[:, None] * frequencies
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)  # [positions, D/2]

    def linear(self, x, name):
        return F.linear(x, self.weights[name + ".weight"])

    def norm(self, x, name):
        return F.rms_norm(x, x.shape[-1:], self.weights[name + ".weight"], self.config["epsilon"])

    def heads(self, x, name, count):
        """[B, T, E] -> [B, heads, T, D]"""
        return self.linear(x, name).unflatten(-1, (count, -1)).transpose(1, 2)

    @staticmethod
    def rotate(x, cos, sin):
        """Pairs (d, d + D/2) of [B, heads, T, D]; cos and sin [B, 1, T, D/2]."""
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    @torch.inference_mode()
    def forward(self, ids, cache):
        """ids [B, T] behind what `cache` has of each sequence -> logits [B, vocabulary] of the last token."""
        config, length = self.config, ids.shape[1]
        positions = torch.tensor(cache.lengths)[:, None] + torch.arange(length)  # [B, T]
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        equal = len(set(cache.lengths)) == 1
        causal = equal and cache.lengths[0] == 0 and length > 1
        mask = None
        if not causal and not (equal and length == 1):
            longest = max(cache.lengths) + length
            mask = torch.arange(longest) <= positions[:, None, :, None]  # [B, 1, T, longest]
        x = F.embedding(ids, self.weights["embed_tokens.weight"])
        for n in range(config["layers"]):
            name = f"layers.{n}."
            inner = self.norm(x, name + "input_layernorm")
            query = self.rotate(self.heads(inner, name + "self_attn.q_proj", config["heads"]), cos, sin)
            key = self.rotate(self.heads(inner, name + "self_attn.k_proj", config["kv_heads"]), cos, sin)
            value = self.heads(inner, name + "self_attn.v_proj", config["kv_heads"])
            keys, values = cache.append(n, key, value)
            output = F.scaled_dot_product_attention(
                query, keys, values, attn_mask=mask, is_causal=causal, enable_gqa=True
            )
            x = x + self.linear(output.transpose(1, 2).flatten(2), name + "self_attn.o_proj")
            inner = self.norm(x, name + "post_attention_layernorm")
            gate = F.silu(self.linear(inner, name + "mlp.gate_proj"))
            x = x + self.linear(gate * self.linear(inner, name + "mlp.up_proj"), name + "mlp.down_proj")
        cache.lengths = [n + length for n in cache.lengths]
        return self.linear(self.norm(x[:, -1], "norm"), "lm_head")

    def feed(self, prompt, tokens):
        """The logits [count, vocabulary] of a prompt [T] and each of `tokens` [count] but the last, fed one by one."""
        cache = Cache(self.config, 1, len(prompt) + len(tokens), self.cos.dtype)
        logits = [self.forward(prompt[None], cache)[0]]
        for token in tokens[:-1]:
            logits.append(self.forward(token[None, None], cache)[0])
        return torch.stack(logits)

    def generate(self, prompt, count):
        """The greedy continuation of one prompt [T]: tokens [count], and the logits [count, vocabulary] each was chosen
        from."""
        cache = Cache(self.config, 1, len(prompt) + count, self.cos.dtype)
        logits = [self.forward(prompt[None], cache)[0]]
        while len(logits) < count:
            logits.append(self.forward(logits[-1].argmax()[None, None], cache)[0])
        logits = torch.stack(logits)
        return logits.argmax(dim=-1), logits
