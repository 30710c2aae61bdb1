# SPDX-License-Identifier: Apache-2.0
"""Weights as codes: 8 bits with a scale for each output, or 8 or 4 bits with a scale for 32 inputs of an output; the
same codes as mha's own (mha_storage: symmetric), so that only the arithmetic of two sides differs."""

import numpy as np

GROUP = 32


def per_output(weight: np.ndarray, largest: int = 127) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes [N, K] and scales [N]."""
    scales = np.abs(weight).max(axis=1) / np.float32(largest)
    return np.rint(weight / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def in_groups(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 codes [N, K / 32, 32] and scales [N, K / 32], rounded to 16 bits."""
    parts = weight.reshape(weight.shape[0], -1, GROUP)
    if bits == 8:
        scales = np.abs(parts).max(axis=2) / np.float32(127)
    else:
        greatest = np.take_along_axis(parts, np.abs(parts).argmax(axis=2)[..., None], axis=2)[..., 0]
        scales = greatest / np.float32(-8)
    scales = scales.astype(np.float16).astype(np.float32)
    half = 1 << (bits - 1)
    return np.clip(np.rint(parts / scales[..., None]), -half, half - 1).astype(np.int8), scales


def nibbles(codes: np.ndarray) -> np.ndarray:
    """4-bit codes -8 .. 7 stored as 0 .. 15, two in a byte, the lower nibble first."""
    stored = (codes + 8).astype(np.uint8)
    return stored[..., ::2] | stored[..., 1::2] << 4
