# SPDX-License-Identifier: Apache-2.0
"""These tests need torch and transformers; without them they are left out."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # small_models

_found = [importlib.util.find_spec(name) for name in ("torch", "transformers")]
if any(spec is None or spec.origin is None for spec in _found):  # no origin: this folder, which has the same name
    collect_ignore_glob = ["*"]


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)  # these models are too small for more
    with torch.no_grad():
        yield
