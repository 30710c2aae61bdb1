# SPDX-License-Identifier: Apache-2.0
"""torch.ops.mha.linear_pack and linear, and mha.torch.Linear."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch.library import opcheck

import mha.torch

Tensor = torch.Tensor
pack = torch.ops.mha.linear_pack.default
linear = torch.ops.mha.linear.default


def relative(result: Tensor, wanted: Tensor) -> float:
    assert result.shape == wanted.shape
    return ((result.double() - wanted.double()).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("shape", [(96,), (1, 96), (5, 96), (2, 3, 96), (0, 96), (2, 0, 3, 96)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_of_any_leading_shape(shape: tuple[int, ...], bias: bool) -> None:
    source = torch.nn.Linear(96, 41, bias=bias)
    packed = mha.torch.Linear.from_linear(source)
    x = torch.randn(shape)
    result = packed(x)
    assert result.shape == source(x).shape and result.is_contiguous()
    if x.numel():
        assert relative(result, source.double()(x.double())) < 2e-6


def test_strided_inputs_have_the_bits_of_dense_ones() -> None:
    packed = mha.torch.Linear.from_linear(torch.nn.Linear(24, 10))
    x = torch.randn(4, 6, 5, 48)
    for view in (x[..., :24], x[:, ::2, :, :24], x[:, 0, :, 24:], x.transpose(0, 2)[..., :24], x[..., ::2],
                 x[:1, :1, :1, :24].expand(3, 4, 2, 24)):  # fmt: skip
        assert torch.equal(packed(view), packed(view.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits(dtype: torch.dtype) -> None:
    source = torch.nn.Linear(96, 41).to(dtype)
    packed = mha.torch.Linear.from_linear(source)
    assert packed.packed.numel() < 2 * 96 * 48 + 512  # 2 bytes each, as they are given; rows are padded to a tile
    x = torch.randn(7, 96).to(dtype)
    wide = mha.torch.Linear.from_linear(source.float())
    assert torch.equal(packed(x), wide(x.float()).to(dtype))
    assert torch.equal(linear(x, packed.packed, 41, out_dtype=torch.float32), wide(x.float()))


@pytest.mark.parametrize("weights,bits,error", [("f16", 16, 1e-3), ("bf16", 16, 8e-3), ("int8", 8, 2e-2), ("int4", 4, 0.2)])
def test_rounded_weights(weights: str, bits: int, error: float) -> None:
    source = torch.nn.Linear(256, 64)
    packed = mha.torch.Linear.from_linear(source, weights)
    x = torch.randn(33, 256)
    assert 0 < relative(packed(x), source(x)) < error
    assert packed.packed.numel() < 256 * 64 * bits / 8 * 1.2 + 512


def test_arithmetic_is_a_choice_of_its_own() -> None:
    source = torch.nn.Linear(256, 64)
    x = torch.randn(33, 256)
    results = [mha.torch.Linear.from_linear(source, "int8", a)(x) for a in ("f32", "int8", None)]
    assert torch.equal(results[1], results[2]) and not torch.equal(results[0], results[1])
    rounded = [mha.torch.Linear.from_linear(source, "bf16", a)(x) for a in ("f32", "bf16")]
    assert not torch.equal(*rounded) and relative(*rounded) < 1e-2
    with pytest.raises(RuntimeError, match="MHA_ERR_UNSUPPORTED"):
        mha.torch.Linear.from_linear(source, "int8", "bf16")
    scale = source.weight.abs().amax(1, keepdim=True) / 127
    stored = (source.weight / scale).round() * scale
    assert relative(results[0], x @ stored.mT + source.bias) < 2e-6  # f32 arithmetic: products are not rounded
    with pytest.raises(ValueError, match="weights must be one of"):
        mha.torch.Linear(3, 4, weights="int3")


def test_codes_in_rows() -> None:
    codes, scales = torch.randint(-127, 127, (40, 64), dtype=torch.int8), torch.rand(40, 2)
    x = torch.randn(3, 64)
    packed = pack(codes, None, scales=scales)
    wide = codes.float() * scales.repeat_interleave(32, 1)
    assert torch.equal(linear(x, packed, 40), linear(x, pack(wide), 40))
    stored, zeros = torch.randint(0, 16, (40, 64), dtype=torch.uint8), torch.randint(0, 16, (40, 2), dtype=torch.uint8)
    nibbles = stored[:, ::2] | (stored[:, 1::2] << 4)
    wide = (stored.float() - zeros.repeat_interleave(32, 1)) * scales.repeat_interleave(32, 1)
    for given in (zeros, zeros[:, ::2] | (zeros[:, 1::2] << 4)):
        packed = pack(nibbles, None, scales=scales, zeros=given, weight_format="uint4")
        assert torch.equal(linear(x, packed, 40), linear(x, pack(wide), 40))


def words(codes: Tensor, dim: int, order: tuple[int, ...] = tuple(range(8))) -> Tensor:
    """Packs eight codes of dimension `dim` into an int32."""
    parts = torch.unflatten(codes.long(), dim, (-1, 8)).movedim(dim + 1, 0)
    result = sum(parts[source] << (4 * place) for place, source in enumerate(order))
    assert isinstance(result, Tensor)
    return torch.where(result >= 2**31, result - 2**32, result).to(torch.int32)


@pytest.mark.parametrize("layout", ["gptq", "gptq_v2", "awq"])
def test_gptq_and_awq(layout: str) -> None:
    codes, zeros = torch.randint(0, 16, (64, 40)), torch.randint(1, 16, (2, 40))
    scales, x = torch.rand(2, 40).half(), torch.randn(3, 64)
    wide = ((codes - zeros.repeat_interleave(32, 0)).float() * scales.float().repeat_interleave(32, 0)).mT.contiguous()
    if layout == "awq":
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        weight, stored = words(codes, 1, order), words(zeros, 1, order)
    else:
        weight, stored = words(codes, 0), words(zeros - int(layout == "gptq"), 1)
    packed = pack(weight, None, scales=scales, zeros=stored, weight_format=layout)
    assert torch.equal(linear(x, packed, 40), linear(x, pack(wide), 40))


def test_state_dict_save_and_load(tmp_path: Path) -> None:
    source = mha.torch.Linear.from_linear(torch.nn.Linear(64, 48), "int4")
    assert [(name, x.dtype) for name, x in source.state_dict().items()] == [("packed", torch.uint8)]
    file = tmp_path / "linear.pt"
    torch.save(source.state_dict(), file)
    x = torch.randn(2, 64)
    for mmap in (False, True):
        fresh = mha.torch.Linear(64, 48, weights="int4")
        assert not torch.equal(fresh(x), source(x))
        fresh.load_state_dict(torch.load(file, mmap=mmap), assign=mmap)
        assert torch.equal(fresh(x), source(x))
    assert torch.equal(source.half()(x), fresh(x))  # .half() does not touch bytes


def test_packed_bytes_are_checked() -> None:
    packed, x = pack(torch.randn(8, 16)), torch.randn(2, 16)
    memory = torch.zeros(packed.numel() + 8, dtype=torch.uint8)
    for shift in (1, 2, 3):
        view = memory[shift : shift + packed.numel()].copy_(packed)
        with pytest.raises(RuntimeError, match=r"multiple of 4: call \.clone\(\)"):
            linear(x, view, 8)
        assert torch.equal(linear(x, view.clone(), 8), linear(x, packed, 8))
    view = memory[4 : 4 + packed.numel()].copy_(packed)
    assert torch.equal(linear(x, view, 8), linear(x, packed, 8))
    for wrong in (packed[:-8], packed[:0], torch.zeros_like(packed)):
        with pytest.raises(RuntimeError, match="MHA_ERR_BLOB"):
            linear(x, wrong, 8)
    with pytest.raises(RuntimeError, match="16 to 8 features, but the call is one of 16 to 9"):
        linear(x, packed, 9)
    with pytest.raises(RuntimeError, match="16 to 8 features, but the call is one of 15 to 8"):
        linear(x[:, 1:], packed, 8)
    with pytest.raises(RuntimeError, match="uint8"):
        linear(x, packed.float(), 8)


def test_gradients_are_refused() -> None:
    layer = mha.torch.Linear.from_linear(torch.nn.Linear(8, 8))
    with torch.enable_grad():
        layer(torch.randn(2, 8))
        with pytest.raises(RuntimeError, match=r"torch.no_grad\(\)"):
            layer(torch.randn(2, 8, requires_grad=True))


def test_opcheck() -> None:
    weight, packed = torch.randn(24, 32), pack(torch.randn(24, 32), None)
    with torch.enable_grad():
        for shape in ((32,), (3, 32), (2, 3, 32)):
            assert set(opcheck(linear, (torch.randn(shape), packed, 24)).values()) == {"SUCCESS"}
        assert set(opcheck(linear, (torch.randn(3, 32), packed, 24), {"out_dtype": torch.half}).values()) == {"SUCCESS"}
        utilities = ("test_schema", "test_autograd_registration", "test_faketensor")
        assert set(opcheck(pack, (weight, weight[:, 0]), {"dtype": "int8"}, test_utils=utilities).values()) == {"SUCCESS"}


def test_compile_export_save_and_load() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 32)).eval()
    assert mha.torch.convert(model, "int8").converted == ["0", "2"]
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    program = torch.export.export(model, (torch.randn(3, 32),), dynamic_shapes=({0: torch.export.Dim("rows", min=2)},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for rows in (3, 11, 64):
        x = torch.randn(rows, 32)
        for run in (compiled, loaded):
            torch.testing.assert_close(run(x), model(x), rtol=1e-2, atol=1e-3)  # int8 rounds what GELU gives
