# SPDX-License-Identifier: Apache-2.0
"""Skips these tests where torch or the ops' library is missing."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("mha.torch")
