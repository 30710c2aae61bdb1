# SPDX-License-Identifier: Apache-2.0
"""A BERT and a Llama exported from torch, unchanged, with mha's operators: against torch, and ONNX Runtime alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

import models
from sessions import ONNX_OPERATORS, session

BOUND = 2e-5  # of results of magnitude 4
WIDTH, LAYERS = 256, 2


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, models.Bert]:
    path = tmp_path_factory.mktemp("models") / "bert.onnx"
    return str(path), models.export_bert(path, WIDTH, LAYERS)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, models.Decoder]:
    path = tmp_path_factory.mktemp("models") / "decoder.onnx"
    return str(path), models.export_decoder(path, WIDTH, LAYERS)


def kinds(path: str) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("batch", "tokens"), [(1, 40), (3, 17)])
def test_bert(bert: tuple, batch: int, tokens: int, threads: int) -> None:
    path, model = bert
    assert "Attention" in kinds(path)
    ids = torch.randint(0, models.VOCABULARY, (batch, tokens), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(batch, tokens, dtype=torch.int64)
    for item in range(1, batch):
        mask[item, tokens - 4 * item :] = 0
    with torch.no_grad():
        expected = model(ids, mask).numpy()
    feed = {"ids": ids.numpy(), "mask": mask.numpy()}
    result = session(path, (ONNX_OPERATORS,), threads).run(None, feed)[0]
    alone = session(path, (), threads).run(None, feed)[0]
    visible = mask.numpy() != 0
    assert np.abs(result - expected)[visible].max() <= BOUND
    assert np.abs(result - alone)[visible].max() <= BOUND
    assert not np.array_equal(result, alone)  # these are mha's operators


def feed_decoder(model: models.Decoder, ids: np.ndarray, past: list[np.ndarray]) -> dict[str, np.ndarray]:
    before = past[0].shape[2]
    feed = {"ids": ids, "positions": np.arange(before, before + ids.shape[1])[None]}
    names = [f"past_{name}_{layer}" for layer in range(LAYERS) for name in ("key", "value")]
    return feed | dict(zip(names, past, strict=True))


@pytest.mark.parametrize("threads", [1, 2])
def test_decoder(decoder: tuple, threads: int) -> None:
    """A prompt of 20 tokens and 4 single ones: as torch's over all 24, and as ONNX Runtime's alone."""
    path, model = decoder
    assert "Attention" in kinds(path)
    ids = torch.randint(0, models.VOCABULARY, (1, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids, torch.arange(24)[None], *model.empty_past(1, 0))[0].numpy()
    logits = {}
    for libraries in ((), (ONNX_OPERATORS,)):
        runner = session(path, libraries, threads)
        past = [array.numpy() for array in model.empty_past(1, 0)]
        rows = []
        for begin, end in ((0, 20), (20, 21), (21, 22), (22, 23), (23, 24)):
            result, *past = runner.run(None, feed_decoder(model, ids.numpy()[:, begin:end], past))
            rows.append(result)
        logits[libraries] = np.concatenate(rows, 1)
    with_mha, alone = logits[(ONNX_OPERATORS,)], logits[()]
    assert np.abs(with_mha - expected).max() <= BOUND
    assert np.abs(with_mha - alone).max() <= BOUND
    assert not np.array_equal(with_mha, alone)


def test_threads_give_the_same_bits(decoder: tuple) -> None:
    path, model = decoder
    feed = feed_decoder(model, np.arange(50, dtype=np.int64)[None], [array.numpy() for array in model.empty_past(1, 30)])
    results = [session(path, (ONNX_OPERATORS,), threads).run(None, feed) for threads in (1, 2, 3)]
    for other in results[1:]:
        for result, reference in zip(other, results[0], strict=True):
            assert np.array_equal(result, reference)
