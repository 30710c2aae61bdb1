# SPDX-License-Identifier: Apache-2.0
"""These tests need torch; without it they are left out."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # formula

_torch = importlib.util.find_spec("torch")
if _torch is None or _torch.origin is None:  # None: this folder, which has the same name
    collect_ignore_glob = ["*"]

TORCH_WARNS = (
    "ignore:.*torch.jit.*:DeprecationWarning",
    "ignore:.*LeafSpec.*:FutureWarning",
    "ignore:Support for mismatched key_padding_mask:UserWarning",
    "ignore:The PyTorch API of nested tensors:UserWarning",
    "ignore:The given buffer is not writable:UserWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What torch itself warns of is no error of ours."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            for text in TORCH_WARNS:
                item.add_marker(pytest.mark.filterwarnings(text))


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    """The same random numbers in every test, nothing compiled by another, and no gradients."""
    import torch

    torch.manual_seed(0)
    torch._dynamo.reset()
    with torch.no_grad():
        yield
