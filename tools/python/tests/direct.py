# SPDX-License-Identifier: Apache-2.0
"""The C interface called by hand, over dense arrays of floats: what the package must agree with, bit by bit."""

from __future__ import annotations

from ctypes import addressof, byref
from typing import Any

import numpy as np

import mha
from mha import _abi as abi
from mha._library import library


def view(array: np.ndarray, kind: Any = abi.mha_view) -> Any:
    assert array.dtype == np.float32 and array.flags.c_contiguous
    return kind(data=array.ctypes.data)


def ok(status: int) -> None:
    assert status == 0, library.mha_status_string(status)


def attention(context: mha.Context, q: np.ndarray, k: np.ndarray, v: np.ndarray, **fields: Any) -> np.ndarray:
    """[B, Tq, H, Dv] of dense [B, T, H, D]. fields: causal, scale, softcap, window_left, bool_mask [B, H, Tq, Tk]."""
    output = np.full((*q.shape[:3], v.shape[3]), np.nan, np.float32)
    args = abi.mha_attention_args(batch=q.shape[0], query_len=q.shape[1], num_heads=q.shape[2], head_dim=q.shape[3])
    args.key_len, args.num_kv_heads, args.value_head_dim = k.shape[1], k.shape[2], v.shape[3]
    args.query, args.key, args.value, args.output = view(q), view(k), view(v), view(output, abi.mha_mut_view)
    args.causal = fields.get("causal", 0)
    if "scale" in fields:
        args.scale, args.scale_is_exact = fields["scale"], 1
    masks, mods = abi.mha_masks(), abi.mha_score_mods()
    masks.window_left = fields.get("window_left", 0)
    mods.softcap = fields.get("softcap", 0.0)
    if "bool_mask" in fields:
        mask = np.ascontiguousarray(fields["bool_mask"])
        masks.bool_mask.data = mask.ctypes.data
        masks.bool_mask.stride_b, masks.bool_mask.stride_h, masks.bool_mask.stride_q, masks.bool_mask.stride_k = mask.strides
    args.masks, args.score_mods = addressof(masks), addressof(mods)
    ok(library.mha_attention(context, byref(args), None))
    return output
