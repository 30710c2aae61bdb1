# SPDX-License-Identifier: Apache-2.0
"""A linear layer over packed weights, in place of torch.nn.Linear."""

from __future__ import annotations

from typing import Any

import torch

from ._library import target

WEIGHTS = (None, "f16", "bf16", "int8", "int4")
GROUP = 32  # inputs that share a scale of int4, as in ggml's Q4_0


def storage_options(weights: str | None, arithmetic: str | None) -> dict[str, Any]:
    """The arguments of the pack ops for a choice of weights. None: as they are given."""
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {WEIGHTS}, not {weights!r}")
    options: dict[str, Any] = {} if weights is None else {"dtype": weights}
    if weights == "int4":
        options |= {"group": GROUP, "scale_dtype": "f16"}
    if arithmetic is None:
        # bf16 products are fast where the CPU has them and slow where they are emulated.
        has_bf16 = weights == "bf16" and target() in ("amx", "avx512_bf16")
        arithmetic = "int8" if weights in ("int8", "int4") else "bf16" if has_bf16 else "f32"
    return options | {"arithmetic": arithmetic}


class Linear(torch.nn.Module):
    """As torch.nn.Linear, for inference. The state dict has one uint8 tensor, `packed`: weight and bias as mha stores
    them, which also the C library can map. A new Linear has weights of zero, to be loaded from a state dict."""

    packed: torch.Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        weights: str | None = None,
        arithmetic: str | None = None,
        packed: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weights, self.has_bias = weights, bias
        if packed is None:
            zeros = torch.zeros(out_features, in_features)
            packed = pack_linear(zeros, zeros[:, 0] if bias else None, weights, arithmetic)
        self.register_buffer("packed", packed)

    @classmethod
    def from_linear(cls, linear: torch.nn.Linear, weights: str | None = None, arithmetic: str | None = None) -> Linear:
        packed = pack_linear(linear.weight, linear.bias, weights, arithmetic)
        result = cls(linear.in_features, linear.out_features, linear.bias is not None, weights=weights, packed=packed)
        return result.train(linear.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mha.linear.default(input, self.packed, self.out_features)
        return result

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.has_bias}, weights={self.weights}"


def pack_linear(weight: torch.Tensor, bias: torch.Tensor | None, weights: str | None, arithmetic: str | None) -> torch.Tensor:
    """Weight and bias of a linear layer as one uint8 tensor."""
    with torch.no_grad():
        packed: torch.Tensor = torch.ops.mha.linear_pack(weight, bias, **storage_options(weights, arithmetic))
    return packed
