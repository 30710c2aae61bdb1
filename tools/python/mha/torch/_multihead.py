# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention over packed weights, in place of torch.nn.MultiheadAttention."""

from __future__ import annotations

from typing import Any

import torch

from ._linear import storage_options

Tensor = torch.Tensor


class MultiheadAttention(torch.nn.Module):
    """As torch.nn.MultiheadAttention, for inference. The state dict has one uint8 tensor, `packed`.

    A query without a visible key gives the output bias; torch gives NaN there, or the bias, which depends on the path.
    """

    packed: Tensor
    in_proj_bias = None  # torch's encoder layers read it: without it they call forward instead of their fused kernel
    _qkv_same_embed_dim = False

    def __init__(self, source: torch.nn.MultiheadAttention, weights: str | None = None, arithmetic: str | None = None):
        super().__init__()
        self.embed_dim, self.kdim, self.vdim = source.embed_dim, source.kdim, source.vdim
        self.num_heads, self.head_dim, self.dropout = source.num_heads, source.head_dim, source.dropout
        self.batch_first, self.add_zero_attn = source.batch_first, source.add_zero_attn
        self.weights = weights
        self.added_keys = int(source.bias_k is not None) + int(source.add_zero_attn)
        options = storage_options(weights, arithmetic)
        # Keys and values are floats, which attention takes in f32 and bf16 only.
        self.attention_arithmetic = "bf16" if options["arithmetic"] == "bf16" else None
        self.register_buffer("packed", _pack(source, options))
        self.train(source.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if self.training and self.dropout > 0:
            raise RuntimeError("mha: dropout is for training; call .eval() on the module first")
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.dim() == 3
        # The op projects what is not given from what is: the key from the query, the value from the key.
        inputs = [None if key is query and value is key else key, None if value is key else value]
        query = self._batch_first(query, batched)
        keys, values = (None if x is None else self._batch_first(x, batched) for x in inputs)
        options = self._masks(query.shape[0], key_padding_mask, attn_mask, is_causal and not need_weights)
        options |= {"added_keys": self.added_keys, "tokens_first": not self.batch_first}
        options["arithmetic"] = self.attention_arithmetic
        arguments = (query, keys, values, self.packed, self.embed_dim, self.num_heads)
        if not need_weights:
            return self._restore(torch.ops.mha.layer.default(*arguments, **options), batched), None
        options["weights"] = "averaged" if average_attn_weights else "per_head"
        output, weights, _ = torch.ops.mha.layer_with_weights.default(*arguments, **options)
        weights = weights.to(query.dtype)
        return self._restore(output, batched), weights if batched else weights.squeeze(0)

    def _batch_first(self, x: Tensor, batched: bool) -> Tensor:
        if not batched:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _restore(self, output: Tensor, batched: bool) -> Tensor:
        if not batched:
            return output.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1)

    def _masks(self, batch: int, padding: Tensor | None, mask: Tensor | None, causal: bool) -> dict[str, Any]:
        """nn.MultiheadAttention's masks as those of the op: there True hides a key, here it shows it."""
        options: dict[str, Any] = {}
        if causal and padding is None:
            return {"is_causal": True}
        if mask is not None:
            if mask.dim() == 3:
                mask = mask.view(batch, self.num_heads, *mask.shape[1:])
            options["attn_mask"] = mask.logical_not() if mask.dtype == torch.bool else mask
        if padding is not None:
            padding = padding.view(batch, 1, 1, padding.shape[-1])
            if padding.dtype != torch.bool:
                options["attn_bias"] = padding
            elif mask is None or mask.dtype != torch.bool:
                options["attn_bias"] = padding.logical_not()
            else:  # there is room for one boolean mask; this one is small
                options["attn_bias"] = torch.zeros_like(padding, dtype=torch.float32).masked_fill(padding, -torch.inf)
        return options

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}, batch_first={self.batch_first}, weights={self.weights}"


def _pack(source: torch.nn.MultiheadAttention, options: dict[str, Any]) -> Tensor:
    def flat(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.reshape(-1)

    with torch.no_grad():
        packed: Tensor = torch.ops.mha.layer_pack(
            source.in_proj_weight,
            source.q_proj_weight,
            source.k_proj_weight,
            source.v_proj_weight,
            source.out_proj.weight,
            source.in_proj_bias,
            output_bias=source.out_proj.bias,
            bias_key=flat(source.bias_k),
            bias_value=flat(source.bias_v),
            embed_dim=source.embed_dim,
            num_heads=source.num_heads,
            kdim=source.kdim,
            vdim=source.vdim,
            add_zero_attn=source.add_zero_attn,
            **options,
        )
    return packed
