# SPDX-License-Identifier: Apache-2.0
"""Skips these tests where torch with gloo is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # launch, cases

pytest.importorskip("torch")
pytest.importorskip("torch.distributed")
