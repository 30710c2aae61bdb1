# SPDX-License-Identifier: Apache-2.0
"""mha inside Hugging Face transformers: attn_implementation="mha" and Cache. README.md beside this file says how.

Importing this module registers the attention and its masks, as register() does.
"""

from __future__ import annotations

from ._attention import attention_forward, register
from ._cache import Cache
from ._masks import Mask, attention_mask

register()

__all__ = ["Cache", "Mask", "attention_forward", "attention_mask", "register"]
