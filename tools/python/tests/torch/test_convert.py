# SPDX-License-Identifier: Apache-2.0
"""torch.ops.mha.layer, mha.torch.MultiheadAttention and mha.torch.convert against torch's own modules."""

from __future__ import annotations

import copy
import io
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.library import opcheck

import mha.torch

Tensor = torch.Tensor
TOLERANCE = 2e-6  # of the largest result, as torch's own tests of float32


def assert_close(result: Tensor | None, wanted: Tensor | None, tolerance: float = TOLERANCE) -> None:
    if result is None or wanted is None:
        assert result is None and wanted is None
        return
    assert result.shape == wanted.shape
    difference = (result.double() - wanted.double()).abs().max().item()
    assert difference <= tolerance * max(1.0, wanted.abs().max().item())


def attention_with_biases(embed_dim: int, heads: int, **options: Any) -> nn.MultiheadAttention:
    module = nn.MultiheadAttention(embed_dim, heads, **options).eval()
    for name, parameter in module.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter)  # torch begins with zeros, which would hide a bias that is forgotten
    return module


def both(module: nn.MultiheadAttention, *args: Any, **kwargs: Any) -> None:
    """Compares with the module in float64."""
    ours = mha.torch.MultiheadAttention(module)
    wide = copy.deepcopy(module).double()
    exact = [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in args]
    if args[1] is args[0]:
        exact[1] = exact[0]
    if args[2] is args[1]:
        exact[2] = exact[1]
    masks = {k: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for k, x in kwargs.items()}
    for result, wanted in zip(ours(*args, **kwargs), wide(*exact, **masks), strict=True):
        assert_close(result, wanted)


CONFIGS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"kdim": 20, "vdim": 28},
    {"kdim": 20, "vdim": 28, "add_bias_kv": True, "add_zero_attn": True, "bias": False},
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_multihead_attention(config: dict[str, Any], batch_first: bool, batched: bool) -> None:
    batch, tq, tk, heads = (3 if batched else 1), 9, 13, 4
    module = attention_with_biases(32, heads, batch_first=batch_first, **config)

    def tokens(count: int, width: int) -> Tensor:
        if not batched:
            return torch.randn(count, width)
        return torch.randn(batch, count, width) if batch_first else torch.randn(count, batch, width)

    query, key, value = tokens(tq, 32), tokens(tk, module.kdim), tokens(tk, module.vdim)
    hidden = torch.rand(tq, tk) < 0.3
    each = torch.rand(batch * heads, tq, tk) < 0.3
    padding = torch.arange(tk)[None] >= torch.tensor([[13], [7], [10]])[:batch]
    hidden[:, 0] = each[:, :, 0] = False  # every query sees a key
    padding = padding if batched else padding[0]
    masks: list[Tensor | None] = [None, hidden, torch.randn(tq, tk), each, torch.randn(batch * heads, tq, tk)]
    paddings: list[Tensor | None] = [None, padding, torch.zeros(padding.shape).masked_fill(padding, -3.0)]
    count = 0
    for mask, pad, results in itertools.product(masks, paddings, ("averaged", "per_head", None)):
        both(module, query, key, value, attn_mask=mask, key_padding_mask=pad, need_weights=results is not None,
             average_attn_weights=results == "averaged")  # fmt: skip
        count += 1
    assert count == 45


@pytest.mark.parametrize("batch_first", [True, False])
def test_self_attention_causal_hint_and_memory_layout(batch_first: bool) -> None:
    module = attention_with_biases(32, 4, batch_first=batch_first)
    x = torch.randn(5, 5, 32)
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    for need_weights in (False, True):
        both(module, x, x, x, attn_mask=causal, is_causal=True, need_weights=need_weights)
        both(module, x, torch.randn(5, 5, 32), x, need_weights=need_weights)
        memory = torch.randn(5, 5, 32)
        both(module, x, memory, memory, need_weights=need_weights)
    ours = mha.torch.MultiheadAttention(module)
    assert ours(x, x, x)[0].is_contiguous()
    assert torch.equal(ours(x, x, x)[0], ours(x, x.clone(), x.clone())[0])
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        ours(x, x, x, is_causal=True)
    if not batch_first:  # torch's fused kernel, which needs batch_first, ignores the hint
        with pytest.raises(RuntimeError, match="Need attn_mask"):
            module(x, x, x, is_causal=True)


def test_a_query_that_sees_no_key_gives_the_output_bias() -> None:
    module = attention_with_biases(32, 4, batch_first=True)
    padding = torch.tensor([[False] * 5, [True] * 5])
    x = torch.randn(2, 5, 32)
    output, weights = mha.torch.MultiheadAttention(module)(x, x, x, key_padding_mask=padding)
    assert torch.equal(output[1], module.out_proj.bias.expand(5, 32)) and not weights[1].any()
    assert module(x, x, x, key_padding_mask=padding)[0][1].isnan().all()  # the README says what torch gives


def test_dropout_and_gradients_are_refused() -> None:
    ours = mha.torch.MultiheadAttention(nn.MultiheadAttention(32, 4, dropout=0.1).train())
    x = torch.randn(5, 2, 32)
    with pytest.raises(RuntimeError, match="eval"):
        ours(x, x, x)
    ours.eval()(x, x, x)
    with torch.enable_grad(), pytest.raises(RuntimeError, match=r"torch.no_grad\(\)"):
        ours(x, x, x.clone().requires_grad_())


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(32, 32)
        self.again = self.first
        self.wide = nn.Linear(32, 32, dtype=torch.float64)
        self.odd = nn.Linear(20, 32)
        self.hooked = nn.Linear(32, 32)
        self.hooked.register_forward_hook(lambda *_: None)
        self.attention = nn.MultiheadAttention(32, 4)
        self.special = nn.modules.linear.NonDynamicallyQuantizableLinear(32, 32)
        self.norm = nn.LayerNorm(32)


def test_convert_says_what_it_did() -> None:
    model = Shared()
    result = mha.torch.convert(model, "int4")
    assert result.module is model
    assert result.converted == ["first", "attention"]
    assert model.first is model.again and isinstance(model.first, mha.torch.Linear)
    assert isinstance(model.attention, mha.torch.MultiheadAttention)
    reasons = {"wide": "float64", "odd": "multiple of 32", "hooked": "hooks", "special": "subclass"}
    assert result.left.keys() == reasons.keys()
    assert all(text in result.left[name] for name, text in reasons.items())
    assert mha.torch.convert(model, "int8").converted == ["odd"]  # what is packed stays as it is
    single = nn.Linear(32, 32)
    assert isinstance(mha.torch.convert(single).module, mha.torch.Linear)
    with pytest.raises(ValueError, match="weights must be one of"):
        mha.torch.convert(nn.Linear(2, 2), "int3")


def encoder(norm_first: bool = False) -> nn.Module:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()


@pytest.mark.parametrize("weights,error", [(None, 5e-6), ("f16", 5e-3), ("bf16", 3e-2), ("int8", 8e-2), ("int4", 0.6)])
def test_convert_a_transformer(weights: str | None, error: float) -> None:
    model, x = encoder(), torch.randn(3, 17, 64)
    padding = torch.arange(17)[None] >= torch.tensor([[17], [9], [4]])
    causal = nn.Transformer.generate_square_subsequent_mask(17)
    calls: list[dict[str, Any]] = [{}, {"src_key_padding_mask": padding}, {"mask": causal, "is_causal": True}]
    wide = copy.deepcopy(model).double()
    ours = mha.torch.convert(copy.deepcopy(model), weights)
    assert len(ours.converted) == 6 and not ours.left
    for kwargs in calls:
        exact = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in kwargs.items()}
        result, wanted = ours.module(x, **kwargs), wide(x.double(), **exact)
        if "src_key_padding_mask" in kwargs:
            result, wanted = result[~padding], wanted[~padding]
        assert_close(result, wanted, error)


def test_convert_a_decoder() -> None:
    model = nn.Transformer(32, 4, 1, 1, 64, batch_first=True).eval()
    source, target = torch.randn(2, 7, 32), torch.randn(2, 5, 32)
    wanted = copy.deepcopy(model).double()(source.double(), target.double())
    result = mha.torch.convert(model)
    assert len(result.converted) == 7
    assert_close(result.module(source, target), wanted, 5e-6)


def test_state_dict_and_sizes(tmp_path: Path) -> None:
    model, x = encoder(), torch.randn(2, 5, 64)
    size = sum(p.numel() * 4 for p in model.parameters())
    packed = mha.torch.convert(copy.deepcopy(model), "int8").module
    torch.save(packed.state_dict(), tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size < 0.4 * size
    fresh = mha.torch.convert(encoder(), "int8").module
    fresh.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert torch.equal(fresh(x), packed(x))
    assert torch.equal(copy.deepcopy(packed)(x), packed(x))


def exported(model: nn.Module) -> torch.export.ExportedProgram:
    shapes = ({0: torch.export.Dim("batch", min=2, max=64), 1: torch.export.Dim("tokens", min=2, max=512)},)
    return torch.export.export(model, (torch.randn(3, 8, 64),), dynamic_shapes=shapes)


def test_converted_model_compiles_exports_and_loads(tmp_path: Path) -> None:
    model = mha.torch.convert(encoder()).module
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    file = io.BytesIO()
    program = exported(model)
    assert str(program.graph).count("torch.ops.mha.layer.default") == 2
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    package = torch._inductor.aoti_compile_and_package(loaded, package_path=str(tmp_path / "model.pt2"))
    for run in (compiled, loaded.module(), torch._inductor.aoti_load_package(package)):
        for batch, tokens in ((3, 8), (5, 21), (2, 100)):
            x = torch.randn(batch, tokens, 64)
            assert_close(run(x), model(x), 5e-6)


def layer_inputs() -> tuple[Tensor, Tensor]:
    module = attention_with_biases(32, 4, batch_first=True, add_bias_kv=True, add_zero_attn=True)
    return torch.randn(3, 9, 32), mha.torch.MultiheadAttention(module).packed


@pytest.mark.parametrize("mode", ["averaged", "per_head", "key_sums", None])
def test_opcheck(mode: str | None) -> None:
    x, packed = layer_inputs()
    key = torch.randn(3, 7, 32)
    with torch.enable_grad():
        for keys in (None, key):
            for tokens_first in (False, True):
                args = (x, keys, None, packed, 32, 4)
                kwargs: dict[str, Any] = {"added_keys": 2, "tokens_first": tokens_first}
                assert set(opcheck(torch.ops.mha.layer.default, args, kwargs).values()) == {"SUCCESS"}
                kwargs |= {"weights": mode, "log_sum_exp": mode is None}
                results = opcheck(torch.ops.mha.layer_with_weights.default, args, kwargs)
                assert set(results.values()) == {"SUCCESS"}


def test_packed_items_rope_and_norm_in_a_layer() -> None:
    packed = mha.torch.MultiheadAttention(attention_with_biases(32, 4)).packed
    layer = torch.ops.mha.layer.default
    x, starts = torch.randn(1, 20, 32), [0, 8, 11, 20]
    angles = torch.outer(torch.arange(32.0), 10000 ** (-torch.arange(0, 8, 2) / 8))
    options: dict[str, Any] = {"is_causal": True, "rope_cos": angles.cos(), "rope_sin": angles.sin()}
    options |= {"query_norm": torch.rand(8), "key_norm": torch.rand(8), "norm_epsilon": 1e-6}
    result = layer(x, None, None, packed, 32, 4, query_offsets=torch.tensor(starts), **options)
    for first, last in itertools.pairwise(starts):
        alone = layer(x[:, first:last], None, None, packed, 32, 4, **options)
        assert torch.equal(result[:, first:last], alone)
    plain = layer(x[:, :8], None, None, packed, 32, 4, is_causal=True)
    assert not torch.allclose(plain, result[:, :8])


def test_wrong_calls_of_a_layer() -> None:
    x, packed = layer_inputs()
    layer = torch.ops.mha.layer.default
    for text, call in (
        ("another out_dim", lambda: layer(x, None, None, packed, 33, 4)),
        ("another out_dim", lambda: layer(x, None, None, packed, 32, 8)),
        (r"\[batch, tokens, 32\]", lambda: layer(x[..., :31], None, None, packed, 32, 4)),
        ("3 dimensions", lambda: layer(x[0], None, None, packed, 32, 4)),
        ("value needs key", lambda: layer(x, None, x, packed, 32, 4)),
        ("same batch size", lambda: layer(x, x[:2], None, packed, 32, 4)),
        ("packed with it", lambda: layer(x, None, None, packed, 32, 4, scale=1.0)),
        ("stride 1", lambda: layer(x.mT.contiguous().mT, None, None, packed, 32, 4)),
        ("MHA_ERR_BLOB", lambda: layer(x, None, None, packed[:100].clone(), 32, 4)),
        ("MHA_ERR_UNSUPPORTED", lambda: layer(x, None, None, packed, 32, 4, softcap=3.0)),
    ):
        with pytest.raises(RuntimeError, match=text):
            call()  # type: ignore[no-untyped-call]


def test_a_wrong_number_of_added_keys_is_refused() -> None:
    module = nn.MultiheadAttention(16, 2, batch_first=True, add_zero_attn=True).eval()
    converted = mha.torch.MultiheadAttention(module)
    converted.added_keys = 0
    x = torch.randn(1, 3, 16)
    with torch.no_grad(), pytest.raises(RuntimeError, match="packed is a layer of other added_keys"):
        converted(x, x, x)


def test_expanded_weights_are_those_of_a_copy() -> None:
    """An expanded weight has a stride of 0 from row to row."""
    weights = [torch.randn(1, 16).expand(16, 16) for _ in range(4)]
    for layout in ([None, *weights], [torch.randn(1, 16).expand(48, 16), None, None, None, weights[3]]):
        copies = [None if x is None else x.contiguous() for x in layout]
        packed, wanted = (torch.ops.mha.layer_pack(*given, embed_dim=16, num_heads=2) for given in (layout, copies))
        assert torch.equal(packed, wanted)
