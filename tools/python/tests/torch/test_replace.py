# SPDX-License-Identifier: Apache-2.0
"""mha.torch.replace_sdpa: what it takes, what it passes on, and that it ends."""

from __future__ import annotations

import itertools
import threading
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.nn import functional

import mha.torch

Tensor = torch.Tensor
attention: Any = functional.scaled_dot_product_attention  # a name taken before the block is replaced, too


def relative(result: Tensor, wanted: Tensor) -> float:
    assert result.shape == wanted.shape
    return ((result.double() - wanted.double()).abs().max() / wanted.abs().max().clamp(min=1)).item()


def exact(*args: Any, **kwargs: Any) -> Tensor:
    """torch's attention in float64."""
    wide: list[Any] = [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in args]
    return functional.scaled_dot_product_attention(*wide, **kwargs)


DTYPES = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [1, 8, 48, 64, 129])
def test_the_grid_of_torch(dtype: torch.dtype, head_dim: int) -> None:
    """The parameters of torch's own tests of attention on the CPU: batch, lengths, heads, mask, causality, layout."""
    count = 0
    grid = itertools.product((2, 12), (1, 17, 103), (17, 100), (1, 3), (False, True), (None, torch.bool, dtype), (0, 1))
    with mha.torch.replace_sdpa() as replaced:
        for batch, tq, tk, heads, causal, mask_dtype, joined in grid:
            if causal and mask_dtype is not None:
                continue
            shapes = [(batch, n, heads, head_dim) if joined else (batch, heads, n, head_dim) for n in (tq, tk, tk)]
            query, key, value = (torch.randn(s).to(dtype) for s in shapes)
            if joined:
                query, key, value = (x.transpose(1, 2) for x in (query, key, value))
            mask = None
            if mask_dtype is not None:
                mask = torch.randn(batch if joined else 1, 1, tq, tk)
                mask = mask > 0 if mask_dtype == torch.bool else mask.to(dtype)
            wanted = exact(query, key, value, mask, 0.0, causal)
            result = attention(query, key, value, mask, 0.0, causal)
            assert result.dtype == dtype and relative(result, wanted) <= DTYPES[dtype]
            count += 1
    assert count == 192
    # The oracle is passed on: mha has no float64.
    assert replaced.taken == count and replaced.passed == {"dtype float64": count}


def test_shapes_that_broadcast() -> None:
    def tensors(*shapes: tuple[int, ...]) -> list[Any]:
        return [torch.randn(s) for s in shapes]

    cases: list[tuple[list[Any], dict[str, Any]]] = [
        (tensors((5, 8), (7, 8), (7, 4)), {}),
        (tensors((3, 5, 8), (3, 7, 8), (3, 7, 4)), {}),
        (tensors((3, 5, 8), (1, 7, 8), (1, 7, 4), (3, 5, 7)), {}),
        (tensors((1, 5, 8), (3, 7, 8), (3, 7, 4), (5, 7)), {}),
        (tensors((2, 6, 5, 8), (2, 1, 7, 8), (2, 1, 7, 4)), {}),
        (tensors((2, 1, 5, 8), (2, 6, 7, 8), (2, 6, 7, 4), (7,)), {}),
        (tensors((1, 6, 5, 8), (2, 6, 7, 8), (2, 6, 7, 4)), {}),
        (tensors((2, 6, 5, 8), (1, 6, 7, 8), (2, 6, 7, 4), (2, 1, 5, 7)), {}),
        (tensors((6, 5, 8), (2, 6, 7, 8), (6, 7, 4)), {}),
        (tensors((6, 6, 5, 8), (6, 7, 8), (6, 7, 4)), {}),
        (tensors((2, 3, 6, 5, 8), (1, 3, 6, 7, 8), (2, 1, 6, 7, 4), (3, 1, 5, 7)), {}),
        (tensors((2, 3, 6, 5, 8), (2, 3, 6, 7, 8), (2, 3, 6, 7, 4), (2, 1, 1, 5, 7)), {}),
        (tensors((2, 8, 5, 8), (2, 2, 7, 8), (2, 2, 7, 4)), {"enable_gqa": True}),
        (tensors((8, 5, 8), (2, 7, 8), (2, 7, 4)), {"enable_gqa": True}),
        (tensors((2, 6, 5, 8), (2, 6, 7, 8), (2, 6, 7, 4)), {"scale": -0.3, "is_causal": True}),
        (tensors((2, 6, 5, 8), (2, 6, 7, 8), (2, 6, 7, 4)), {"scale": 0.0}),
        (tensors((2, 6, 5, 8), (2, 6, 0, 8), (2, 6, 0, 4)), {}),
        (tensors((0, 6, 5, 8), (0, 6, 7, 8), (0, 6, 7, 4)), {}),
        ([x.mT for x in tensors((2, 6, 8, 5), (2, 6, 8, 7), (2, 6, 4, 7))], {}),
    ]
    for args, kwargs in cases:
        wanted = exact(*args, **kwargs)
        with mha.torch.replace_sdpa() as replaced:
            result = attention(*args, **kwargs)
        assert (replaced.taken, replaced.passed) == (1, {})
        assert result.shape == wanted.shape
        assert result.numel() == 0 or relative(result, wanted) <= 2e-6
        assert torch.equal(mha.torch.scaled_dot_product_attention(*args, **kwargs), result)
    # A mask and is_causal: both apply, as in torch's fused kernel; torch's other path refuses them.
    args, mask = tensors((2, 6, 5, 8), (2, 6, 7, 8), (2, 6, 7, 4)), torch.rand(5, 7) < 0.8
    with mha.torch.replace_sdpa():
        result = attention(*args, mask, is_causal=True)
    assert relative(result, exact(*args, mask.tril())) <= 2e-6


def passed_on() -> list[tuple[str, Any]]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return lambda: attention(*args, **kwargs)

    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8)
    nested = torch.nested.nested_tensor([torch.randn(3, 5, 8), torch.randn(3, 2, 8)], layout=torch.jagged)
    nested = nested.transpose(1, 2) if nested.shape[1] == 3 else nested

    def gradient() -> None:
        with torch.enable_grad():
            wide = query.clone().requires_grad_()
            torch.autograd.backward(attention(wide, query, query).sum())
            assert wide.grad is not None

    def autocast() -> None:
        with torch.autocast("cpu"):
            assert attention(query, query, query).dtype == torch.bfloat16

    return [
        ("dropout", call(query, query, query, dropout_p=0.5)),
        ("dtype float64", call(query.double(), query.double(), query.double())),
        ("gradient", gradient),
        ("autocast", autocast),
        ("device", call(*(query.to("meta"),) * 3)),
        ("mixed dtypes", call(query, query.half(), query)),
        ("dtype of attn_mask", call(query, query, query, torch.zeros(5, 5).double())),
        ("heads without enable_gqa", call(query, key, key)),
        ("shape", call(query, key[..., :4], key, enable_gqa=True)),
        ("shape", call(query, query, query, torch.ones(3, 5))),
        ("shape", call(torch.randn(3, 4, 5, 8), query, query)),
        ("shape", call(query[:1], query[:1], query[:1], torch.zeros(2, 1, 5, 5))),
        ("shape", call(torch.randn(8), query, query)),
        ("head dimension 0", call(query[..., :0], query[..., :0], query)),
        ("no heads", call(query[:, :0], query[:, :0], query[:, :0])),
        ("no heads", call(query[:, :1], query[:, :0], query[:, :0])),
        ("key and value have different numbers of heads", call(query, key, key[:, :1], enable_gqa=True)),
        ("scale", call(query, query, query, scale=float("nan"))),
        ("nested tensor", call(nested, nested, nested)),
    ]


@pytest.mark.parametrize("index", range(len(passed_on())))
def test_what_is_passed_on_is_counted_with_its_reason(index: int) -> None:
    reason, call = passed_on()[index]

    def outcome() -> str:
        try:
            call()
        except Exception as error:  # noqa: BLE001  # torch refuses some of these calls
            return type(error).__name__
        return "result"

    without = outcome()
    with mha.torch.replace_sdpa() as replaced:
        assert outcome() == without
    assert (replaced.taken, replaced.passed) == (0, {reason: 1})


def test_the_function_says_why_not() -> None:
    query = torch.randn(2, 4, 5, 8)
    with pytest.raises(RuntimeError, match="not computed by mha: dropout"):
        mha.torch.scaled_dot_product_attention(query, query, query, dropout_p=0.1)


def test_the_end_of_the_block_undoes_it() -> None:
    query = torch.randn(2, 4, 65, 8)
    torch_bits = attention(query, query, query)
    replaced = mha.torch.replace_sdpa()
    with pytest.raises(KeyError), replaced:
        attention(query, query, query)
        raise KeyError
    assert torch.equal(attention(query, query, query), torch_bits)
    assert replaced.taken == 1
    with replaced:  # a second time
        attention(query, query, query)
    assert replaced.taken == 2


def test_nested_blocks() -> None:
    query = torch.randn(2, 4, 5, 8)
    module = nn.MultiheadAttention(8, 2).eval()
    with mha.torch.replace_sdpa() as outer:
        attention(query, query, query)
        with mha.torch.replace_sdpa() as inner:
            attention(query, query, query)
            attention(query, query, query, dropout_p=0.5)
            module(*(query[0],) * 3)
        attention(query, query, query)
    assert (inner.taken, inner.passed) == (2, {"dropout": 1})
    assert (outer.taken, outer.passed) == (2, {"dropout": 1})  # what the inner block passed on, the outer one passes on


def test_threads_have_blocks_of_their_own() -> None:
    query = torch.randn(2, 4, 65, 8)
    counts: dict[int, int] = {}
    inside, outside = threading.Barrier(5), threading.Barrier(5)

    def work(number: int) -> None:
        with torch.no_grad(), mha.torch.replace_sdpa() as replaced:
            inside.wait()
            for _ in range(100 + number):
                attention(query, query, query)
            outside.wait()
        counts[number] = replaced.taken

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    inside.wait()
    assert torch._C._len_torch_function_stack() == 0  # this thread has none
    outside.wait()
    for thread in threads:
        thread.join()
    assert counts == {i: 100 + i for i in range(4)}


@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention_and_encoders(batch_first: bool) -> None:
    module = nn.MultiheadAttention(32, 4, batch_first=batch_first).eval()
    x = torch.randn(3, 3, 32)
    padding = torch.tensor([[False, False, True]] * 3)
    for kwargs in ({}, {"need_weights": False}, {"average_attn_weights": False}, {"key_padding_mask": padding}):
        wanted = module(x, x, x, **kwargs)
        with mha.torch.replace_sdpa() as replaced:
            result = module(x, x, x, **kwargs)
        assert (replaced.taken, replaced.passed) == (1, {})
        assert relative(result[0], wanted[0]) <= 2e-6
        if wanted[1] is None:
            assert result[1] is None
        else:
            assert relative(result[1], wanted[1]) <= 2e-6
    single = module(x[0], x[0], x[0])
    with mha.torch.replace_sdpa() as replaced:
        result = module(x[0], x[0], x[0])
    assert all(relative(a, b) <= 2e-6 for a, b in zip(result, single, strict=True)) and replaced.taken == 1
    encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=batch_first)
    model = nn.TransformerEncoder(encoder, 3, enable_nested_tensor=False).eval()
    wanted = model(x)
    with mha.torch.replace_sdpa() as replaced:
        assert relative(model(x), wanted) <= 5e-6
    assert (replaced.taken, replaced.passed) == (3, {})


def test_multihead_attention_that_is_passed_on() -> None:
    module, x = nn.MultiheadAttention(32, 4, dropout=0.5).train(), torch.randn(3, 2, 32)
    torch.manual_seed(1)
    wanted = module(x, x, x)
    torch.manual_seed(1)
    with mha.torch.replace_sdpa() as replaced:
        result = module(x, x, x)
    assert all(torch.equal(a, b) for a, b in zip(result, wanted, strict=True))
    assert (replaced.taken, replaced.passed) == (0, {"dropout": 1})
    with torch.enable_grad(), mha.torch.replace_sdpa() as replaced:
        module.eval()(x, x, x)[0].sum().backward()
    assert (replaced.taken, replaced.passed) == (0, {"gradient": 1})


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compile_inside_a_block(backend: str) -> None:
    module = nn.MultiheadAttention(32, 4, batch_first=True).eval()

    def run(x: Tensor) -> Tensor:
        heads = cast(Any, x).unflatten(-1, (4, 8)).transpose(1, 2)
        attended = functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        result: Tensor = module(x, x, x, need_weights=False)[0] + attended.transpose(1, 2).flatten(2)
        return result

    calls: list[int] = []  # of mha in each graph

    def recording(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
        calls.append(sum("mha" in str(node.target) for node in graph.graph.nodes))
        return torch._dynamo.lookup_backend(backend)(graph, example)

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=recording)
    for _ in range(12):  # more blocks than torch.compile has recompilations
        with mha.torch.replace_sdpa() as replaced:
            for tokens in (5, 9, 33):
                x = torch.randn(2, tokens, 32)
                assert relative(compiled(x), run(x)) <= 5e-6
    assert calls == [2] if backend == "eager" else set(calls) == {2}  # inductor may ask for the same graph twice
    assert (replaced.taken, replaced.passed) == (
        6,
        {},
    )  # run() three times: the compiled graph counts when it is traced
    compiled(x)
    assert calls[-1] == 0
