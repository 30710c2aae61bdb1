# SPDX-License-Identifier: Apache-2.0
"""Programs (.pte) made here from torch modules, run by ExecuTorch's runtime with mha's kernel: results, what is refused."""

import os
import subprocess
import sys

import cpu_time
import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from executorch.exir import to_edge
from executorch.runtime import Runtime

sys.path.insert(0, os.environ["MHA_ENGINE_BUILD"])

import mha_executorch

mha_executorch.load_kernel()

QKV = {
    "self": ((2, 4, 33, 64), (2, 4, 33, 64), (2, 4, 33, 64)),
    "cross, width of its own": ((1, 3, 10, 40), (1, 3, 300, 40), (1, 3, 300, 24)),
    "more queries than keys": ((1, 2, 30, 7), (1, 2, 9, 7), (1, 2, 9, 7)),
    "grouped": ((2, 8, 5, 32), (2, 2, 70, 32), (2, 2, 70, 32)),
    "three dimensions": ((4, 5, 8), (4, 7, 8), (4, 7, 8)),
}


class Attention(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, query, key, value, *mask):
        return F.scaled_dot_product_attention(query, key, value, *mask, **self.options)


class Layers(torch.nn.Module):
    """Layers of projections and attention with random weights."""

    def __init__(self, width, heads, count):
        super().__init__()
        self.heads = heads
        self.projections = torch.nn.ModuleList(torch.nn.Linear(width, 3 * width) for _ in range(count))
        self.outputs = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(count))

    def forward(self, x):
        for projection, output in zip(self.projections, self.outputs):
            parts = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in projection(x).chunk(3, -1))
            x = x + output(F.scaled_dot_product_attention(*parts, is_causal=True).transpose(1, 2).flatten(2))
        return x


def draw(shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


def export(module, inputs, calls=1, **options):
    """The bytes of a .pte in which mha::sdpa serves `calls` calls."""
    program = torch.export.export(module.eval(), inputs, **options)
    assert mha_executorch.replace_sdpa(program) == calls
    made = to_edge(program).to_executorch()
    assert str(made.exported_program().graph).count("torch.ops.mha.sdpa.out") == calls
    return made.buffer


def run(buffer, inputs):
    program = Runtime.get().load_program(buffer)  # a method does not keep it
    return program.load_method("forward").execute(list(inputs))[0]


def error(result, reference):
    assert result.shape == reference.shape
    return (result.double() - torch.as_tensor(reference).double()).abs().max().item()


def in_double(inputs, **options):
    return torch.from_numpy(oracle.attention(*(x.double().reshape((-1, *x.shape[-3:])).numpy() for x in inputs), **options))


def test_kernel_is_registered():
    assert "mha::sdpa.out" in {str(name) for name in Runtime.get().operator_registry.operator_names}


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("name, dtype", [*((name, "float32") for name in QKV), ("grouped", "float16"), ("grouped", "bfloat16")])
def test_results(name, dtype, causal):
    bound, dtype = oracle.bound(dtype), getattr(torch, dtype)
    inputs = draw(QKV[name], dtype)
    module = Attention(is_causal=causal, enable_gqa=name == "grouped")
    result = run(export(module, inputs), inputs)
    assert result.dtype == dtype
    assert error(result, module(*inputs)) <= (1 if dtype == torch.float32 else 2) * bound  # both are rounded to the type
    assert error(result, in_double(inputs, causal=causal).reshape(result.shape)) <= bound


@pytest.mark.parametrize("mask_shape, scale", [((2, 4, 33, 33), None), ((2, 1, 1, 33), 0.3), ((1, 4, 33, 1), None), ((33, 33), -0.3)])
def test_masks_and_scale(mask_shape, scale):
    inputs = draw(QKV["self"])
    generator = torch.Generator().manual_seed(1)
    visible = torch.rand(mask_shape, generator=generator) < 0.7
    visible[..., 0] = True
    for name, mask in (("mask", visible), ("bias", torch.randn(mask_shape, generator=generator))):
        module = Attention(scale=scale)
        result = run(export(module, (*inputs, mask)), (*inputs, mask))
        assert error(result, module(*inputs, mask)) <= oracle.bound("float32")
        assert error(result, in_double(inputs, scale=scale, **{name: mask.numpy()})) <= oracle.bound("float32")


def test_layers_with_open_length():
    torch.manual_seed(0)
    module = Layers(96, 6, 3).eval()
    length = torch.export.Dim("length", min=2, max=64)
    buffer = export(module, (torch.randn(2, 10, 96),), calls=3, dynamic_shapes=({1: length},))
    alone = to_edge(torch.export.export(module, (torch.randn(2, 10, 96),))).to_executorch().buffer
    for tokens in (2, 10, 33, 64):
        x = torch.randn(2, tokens, 96)
        assert error(run(buffer, [x]), module(x).detach()) <= oracle.bound("float32")
    x = torch.randn(2, 10, 96)
    assert error(run(buffer, [x]), run(alone, [x])) <= oracle.bound("float32")  # the runtime's own kernels


def test_row_without_keys_is_zeros():
    inputs = draw(QKV["self"])
    mask = torch.ones(33, 33, dtype=torch.bool)
    mask[5] = False
    result = run(export(Attention(), (*inputs, mask)), (*inputs, mask))
    assert not result[:, :, 5].any() and result[:, :, 6].all()


def test_eager_result_is_that_of_torch():
    query, key, value = draw(QKV["grouped"])
    wanted = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    assert torch.equal(torch.ops.mha.sdpa(query, key, value), wanted)
    torch.library.opcheck(torch.ops.mha.sdpa.default, (query, key, value))


def test_left_to_torch():
    inputs = draw(QKV["self"])
    for module, given in (
        (Attention(dropout_p=0.5), inputs),
        (Attention(), tuple(x.double() for x in inputs)),
        (Attention(), tuple(x[None] for x in inputs)),
        (Attention(), (inputs[0], inputs[1][:1], inputs[2][:1])),
        (Attention(), (inputs[0], inputs[1], inputs[2][:1])),
        (Attention(), (inputs[0], inputs[1], inputs[2][:, :1])),
        (Attention(), (inputs[0][:, :1], inputs[1], inputs[2])),
    ):
        assert mha_executorch.replace_sdpa(torch.export.export(module, given)) == 0


@pytest.mark.parametrize("wrong", ("shapes", "mask", "dtype"))
def test_refused_by_the_kernel(wrong, capfd):
    """Calls of the operator itself, which replace_sdpa does not make."""

    class Direct(torch.nn.Module):
        def forward(self, *given):
            return torch.ops.mha.sdpa(*given)

    query, key, value = draw(QKV["self"])
    inputs, text = {
        "shapes": ((query, key[:, 1:].contiguous(), value), "shapes of query, key, value and out do not fit"),
        "mask": ((query, key, value, torch.zeros(33, 32)), "attn_mask must be bool or float and broadcast"),
        "dtype": ((query.double(), key.double(), value.double()), "must be f32, f16 or bf16"),
    }[wrong]
    buffer = to_edge(torch.export.export(Direct(), inputs)).to_executorch().buffer
    with pytest.raises(RuntimeError, match="0x12"):  # Error::InvalidArgument
        run(buffer, inputs)
    assert text in capfd.readouterr().err


def test_program_needs_the_kernel(tmp_path):
    inputs = draw(QKV["self"])
    (tmp_path / "program.pte").write_bytes(export(Attention(), inputs))
    script = "import sys; from executorch.runtime import Runtime; p = Runtime.get().load_program(sys.argv[1]); p.load_method('forward')"
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "program.pte"], check=False, capture_output=True, text=True)
    assert done.returncode != 0 and "mha::sdpa.out" in done.stderr


def test_result_does_not_depend_on_threads():
    inputs = draw(((4, 8, 300, 64),) * 3)
    buffer = export(Attention(is_causal=True), inputs)
    alone = torch.cat([run(export(Attention(is_causal=True), one), one) for one in zip(*(x.split(1) for x in inputs))])
    assert np.array_equal(run(buffer, inputs).numpy(), alone.numpy())


def test_threads_are_those_of_the_runtime():
    if cpu_time.cpus() < 2:
        pytest.skip("two threads need two CPUs; this process may use one")
    inputs = draw(((4, 8, 256, 64),) * 3)
    program = Runtime.get().load_program(export(Attention(), inputs))
    method = program.load_method("forward")
    method.execute(inputs)
    before = len(os.listdir("/proc/self/task"))
    shares = cpu_time.shares(lambda: method.execute(inputs))
    assert shares[1] > 0.2
    assert len(os.listdir("/proc/self/task")) == before
