# SPDX-License-Identifier: Apache-2.0
"""mha inside torch: the ops torch.ops.mha.*, replace_sdpa() and convert(). README.md beside this file says how."""

from __future__ import annotations

from . import _fakes as _fakes
from ._library import library_folder, target

__all__ = ["library_folder", "target"]
