# SPDX-License-Identifier: Apache-2.0
"""The same encoder in plain PyTorch: what the library's embeddings and times are compared with."""

import torch
import torch.nn.functional as F


class TorchBert:
    """BERT with mean pooling and normalised embeddings; `weights` by Hugging Face's names, `config` of config.json."""

    def __init__(self, weights, config, dtype=torch.float32):
        self.weights = {name: tensor.to(dtype) for name, tensor in weights.items() if tensor.is_floating_point()}
        self.heads = config["num_attention_heads"]
        self.layers = config["num_hidden_layers"]
        self.epsilon = config["layer_norm_eps"]

    def linear(self, x, name):
        return F.linear(x, self.weights[name + ".weight"], self.weights[name + ".bias"])

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.weights[name + ".weight"], self.weights[name + ".bias"], self.epsilon)

    def attention(self, x, name, mask):
        def heads(part):
            return self.linear(x, f"{name}.self.{part}").unflatten(-1, (self.heads, -1)).transpose(1, 2)

        output = F.scaled_dot_product_attention(heads("query"), heads("key"), heads("value"), attn_mask=mask)
        return self.linear(output.transpose(1, 2).flatten(2), f"{name}.output.dense")

    @torch.inference_mode()
    def encode(self, ids, lengths):
        """ids [B, W], lengths [B] -> [B, hidden]"""
        width = ids.shape[1]
        there = torch.arange(width)[None, :] < lengths[:, None]
        mask = None if there.all() else there[:, None, None, :]
        x = F.embedding(ids, self.weights["embeddings.word_embeddings.weight"])
        x = x + self.weights["embeddings.position_embeddings.weight"][:width]
        x = x + self.weights["embeddings.token_type_embeddings.weight"][0]
        x = self.norm(x, "embeddings.LayerNorm")
        for layer in range(self.layers):
            name = f"encoder.layer.{layer}"
            x = self.norm(x + self.attention(x, f"{name}.attention", mask), f"{name}.attention.output.LayerNorm")
            inner = F.gelu(self.linear(x, f"{name}.intermediate.dense"))
            x = self.norm(x + self.linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
        pooled = (x * there[..., None]).sum(dim=1) / lengths[:, None]
        return F.normalize(pooled, dim=-1).to(torch.promote_types(pooled.dtype, torch.float32))

    def encode_one_by_one(self, ids, lengths):
        return torch.cat([self.encode(ids[b : b + 1, : lengths[b]], lengths[b : b + 1]) for b in range(len(lengths))])
