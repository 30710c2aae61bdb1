# SPDX-License-Identifier: Apache-2.0
"""torch.compile, torch.export and AOTInductor over the attention op."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.export import Dim

import mha.torch  # noqa: F401  # registers the ops

Tensor = torch.Tensor


class Block(torch.nn.Module):
    """Projections around the op, so that it meets strided views and a following reshape."""

    def __init__(self, embed_dim: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.projection = torch.nn.Linear(embed_dim, 3 * embed_dim)
        self.output = torch.nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        joined = self.projection(x).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = (part.transpose(1, 2) for part in joined.unbind(2))
        attended = torch.ops.mha.scaled_dot_product_attention(
            query, key, value, None, True, key_lengths=lengths, softcap=20.0, window_left=16
        )
        return torch.relu(self.output(attended.transpose(1, 2).reshape(batch, tokens, width)))


def inputs(batch: int = 2, tokens: int = 12) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, tokens, 32), torch.randint(1, tokens + 1, (batch,))


def same(result: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(result, wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compile_with_several_lengths_and_one_graph(backend: str) -> None:
    block = Block().eval()
    graphs = 0

    def counting(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
        nonlocal graphs
        graphs += 1
        return torch._dynamo.lookup_backend(backend)(graph, example)

    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend=counting)
    for batch, tokens in ((2, 12), (3, 12), (2, 40), (5, 7), (2, 333)):
        x, lengths = inputs(batch, tokens)
        same(compiled(x, lengths), block(x, lengths))
    assert graphs == 1


def test_compile_refuses_gradients() -> None:
    def attend(query: Tensor) -> Tensor:
        return torch.ops.mha.scaled_dot_product_attention(query, query, query)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    with torch.enable_grad(), pytest.raises(RuntimeError, match=r"torch.no_grad\(\)"):
        compiled(torch.randn(1, 2, 3, 4, requires_grad=True))
    assert compiled(torch.randn(1, 2, 3, 4, requires_grad=True)).shape == (1, 2, 3, 4)


def test_compile_weights_and_offset_of_a_symbolic_length() -> None:
    def attend(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        offset = key.shape[2] - query.shape[2]
        result = torch.ops.mha.scaled_dot_product_attention_with_weights(
            query, key, key, None, True, offset=offset, weights="averaged", log_sum_exp=True
        )
        return result[0] + 1, result[1] * 2, result[2]

    compiled = torch.compile(attend, fullgraph=True, dynamic=True)
    for tq, tk in ((3, 9), (5, 20), (7, 7)):
        query, key = torch.randn(2, 4, tq, 8), torch.randn(2, 2, tk, 8)
        for result, wanted in zip(compiled(query, key), attend(query, key), strict=True):
            same(result, wanted)


def exported(block: Block) -> torch.export.ExportedProgram:
    batch, tokens = Dim("batch", min=1, max=64), Dim("tokens", min=2, max=4096)
    shapes = {"x": {0: batch, 1: tokens}, "lengths": {0: batch}}
    return torch.export.export(block, inputs(), dynamic_shapes=shapes, strict=False)


def test_export_save_and_load() -> None:
    block = Block().eval()
    program = exported(block)
    assert "mha.scaled_dot_product_attention" in str(program.graph)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    for run in (program.module(), loaded.module(), loaded.run_decompositions().module()):
        for batch, tokens in ((2, 12), (4, 77)):
            x, lengths = inputs(batch, tokens)
            same(run(x, lengths), block(x, lengths))


def test_aot_inductor(tmp_path: Path) -> None:
    block = Block().eval()
    package = torch._inductor.aoti_compile_and_package(exported(block), package_path=str(tmp_path / "block.pt2"))
    run = torch._inductor.aoti_load_package(package)
    for batch, tokens in ((2, 12), (4, 77), (1, 300)):
        x, lengths = inputs(batch, tokens)
        same(run(x, lengths), block(x, lengths))
