# SPDX-License-Identifier: Apache-2.0
"""mha inside torch: the ops torch.ops.mha.*, replace_sdpa() and convert(). README.md beside this file says how."""

from __future__ import annotations

from .._library import library_folder
from . import _fakes as _fakes
from ._attention import scaled_dot_product_attention
from ._convert import Conversion, convert
from ._library import target
from ._linear import Linear
from ._multihead import MultiheadAttention
from ._replace import replace_sdpa

__all__ = [
    "Conversion",
    "Linear",
    "MultiheadAttention",
    "convert",
    "library_folder",
    "replace_sdpa",
    "scaled_dot_product_attention",
    "target",
]
