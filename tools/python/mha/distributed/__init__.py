# SPDX-License-Identifier: Apache-2.0
"""A context split over ranks of torch.distributed (gloo), with the bits of one process. README.md beside this file says how."""

from __future__ import annotations

from ._cache import SplitCache
from ._errors import MismatchError, RankError
from ._ranks import Ranks
from ._traffic import Traffic, attention_traffic

__all__ = ["MismatchError", "RankError", "Ranks", "SplitCache", "Traffic", "attention_traffic"]
