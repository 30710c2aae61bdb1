# SPDX-License-Identifier: Apache-2.0
"""Skips these tests where torch, transformers or the ops' library is missing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("mha.transformers")


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # these models are too small for more
    with torch.no_grad():
        yield
