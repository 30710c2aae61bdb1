# SPDX-License-Identifier: Apache-2.0
"""Cache: keys and values of generate() in the library's pages."""

from __future__ import annotations

from typing import Any

import torch
import transformers


class CachedRows(torch.Tensor):
    def attend(self, query: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        raise NotImplementedError


class Cache(transformers.Cache):  # type: ignore[misc]
    pass
