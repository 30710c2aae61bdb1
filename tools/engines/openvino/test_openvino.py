# SPDX-License-Identifier: Apache-2.0
"""Models with ScaledDotProductAttention, with and without the extension: results, the operation that runs, what it leaves."""

import os
import sys

import cpu_time
import numpy as np
import openvino as ov
import oracle
import pytest
from openvino import opset13 as op
from openvino.properties import hint, inference_num_threads, num_streams

sys.path.insert(0, os.environ["MHA_ENGINE_BUILD"])

import mha_openvino

F32 = np.float32
QKV = {  # of query, key and value, as the operation broadcasts them
    "self": ((2, 4, 33, 64), (2, 4, 33, 64), (2, 4, 33, 64)),
    "cross, width of its own": ((1, 3, 10, 40), (1, 3, 300, 40), (1, 3, 300, 24)),
    "more queries than keys": ((1, 2, 30, 7), (1, 2, 9, 7), (1, 2, 9, 7)),
    "one head of keys": ((2, 8, 5, 32), (2, 1, 70, 32), (2, 1, 70, 32)),
    "one head of keys, many of values": ((1, 4, 5, 8), (1, 1, 7, 8), (1, 4, 7, 8)),
    "one head of queries": ((1, 1, 5, 8), (1, 4, 7, 8), (1, 4, 7, 8)),
    "one item of keys": ((3, 4, 5, 8), (1, 4, 7, 8), (1, 4, 7, 8)),
    "one item of queries": ((1, 4, 5, 8), (3, 4, 7, 8), (3, 4, 7, 8)),
    "three dimensions": ((4, 5, 8), (4, 7, 8), (4, 7, 8)),
}


@pytest.fixture(scope="module")
def cores():
    """OpenVINO alone, and with the extension. Both in f32: where the CPU multiplies bf16, the plugin's default is bf16."""
    alone, extended = ov.Core(), ov.Core()
    extended.add_extension(mha_openvino.LIBRARY)
    for core in (alone, extended):
        core.set_property("CPU", {hint.inference_precision(): ov.Type.f32})
    return alone, extended


def draw(shapes, dtype=F32):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def sdpa_model(arrays, *, causal=False, mask=None, scale=None, shapes=None):
    """A model whose inputs are query, key, value, and the mask if there is one."""
    given = [*arrays] if mask is None else [*arrays, mask]
    shapes = [x.shape for x in given] if shapes is None else shapes
    inputs = [op.parameter(shape, x.dtype.type) for shape, x in zip(shapes, given)]
    options = {} if mask is None else {"attention_mask": inputs[3]}
    if scale is not None:
        options["scale"] = op.constant(arrays[0].dtype.type(scale))
    return ov.Model([op.scaled_dot_product_attention(*inputs[:3], causal=causal, **options).output(0)], inputs, "sdpa")


def read(core, model, path):
    ov.save_model(model, path / "model.xml", compress_to_fp16=False)
    return core.read_model(path / "model.xml")


def types(model):
    return [node.get_type_name() for node in model.get_ops()]


def layers(compiled):
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    return [info["layerType"].astype(str) for info in infos if "layerType" in info]


def both(cores, model, inputs, path, config=None):
    """Results without and with the extension, of the same file."""
    alone = cores[0].compile_model(read(cores[0], model, path), "CPU", config)
    changed = read(cores[1], model, path)
    assert "MhaAttention" in types(changed) and "ScaledDotProductAttention" not in types(changed)
    compiled = cores[1].compile_model(changed, "CPU", config)
    assert "Reference" in layers(compiled) and "ScaledDotProductAttention" not in layers(compiled)
    return alone(inputs)[0], compiled(inputs)[0]


def in_double(arrays, *, mask=None, **options):
    arrays = [x if x.ndim == 4 else x[None] for x in arrays]
    heads = max(x.shape[1] for x in arrays)
    arrays = [np.broadcast_to(x, (x.shape[0], heads, *x.shape[2:])) for x in arrays]
    if mask is not None:
        options["mask" if mask.dtype == bool else "bias"] = mask
    return oracle.attention(*arrays, **options)


def check(cores, arrays, path, **options):
    theirs, ours = both(cores, sdpa_model(arrays, **options), [*arrays, *(m for m in [options.get("mask")] if m is not None)], path)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= oracle.bound("float32")
    assert np.abs(ours - in_double(arrays, **options).reshape(ours.shape)).max() <= oracle.bound("float32")


@pytest.mark.parametrize("causal", (False, True))
@pytest.mark.parametrize("shapes", QKV.values(), ids=QKV)
def test_results(cores, shapes, causal, tmp_path):
    check(cores, draw(shapes), tmp_path, causal=causal)


@pytest.mark.parametrize("mask_shape", [(2, 4, 33, 33), (2, 1, 1, 33), (1, 4, 33, 33), (33, 33)])
@pytest.mark.parametrize("scale", (None, 0.3))
def test_masks_and_scale(cores, mask_shape, scale, tmp_path):
    rng = np.random.default_rng(1)
    visible = rng.random(mask_shape) < 0.7
    visible[..., 0] = True
    for mask in (visible, rng.standard_normal(mask_shape).astype(F32)):
        check(cores, draw(QKV["self"]), tmp_path, mask=mask, scale=scale)


def test_dynamic_shapes(cores, tmp_path):
    model = sdpa_model(draw(QKV["self"]), causal=True, shapes=[(-1, 4, -1, 64)] * 3)
    compiled = cores[1].compile_model(read(cores[1], model, tmp_path), "CPU")
    for batch, queries, keys in ((1, 1, 1), (2, 17, 40), (3, 1, 300), (1, 64, 64)):
        arrays = draw([(batch, 4, queries, 64), *[(batch, 4, keys, 64)] * 2])
        result = compiled(arrays)[0]
        assert np.abs(result - in_double(arrays, causal=True)).max() <= oracle.bound("float32")


def test_mask_of_another_length(cores, tmp_path):
    arrays = draw(QKV["self"])
    shapes = [(-1, 4, -1, 64)] * 3
    for wrong in (np.ones((33, 31), bool), np.zeros((33, 31), F32)):
        model = sdpa_model(arrays, mask=np.ones((33, 33), wrong.dtype), shapes=[*shapes, (-1, -1)])
        compiled = cores[1].compile_model(read(cores[1], model, tmp_path), "CPU")
        with pytest.raises(RuntimeError):
            compiled([*arrays, wrong])


def block(width, heads, count):
    """Layers of projections, attention and a sum, as exported models have them; batch and length are open."""
    rng = np.random.default_rng(3)

    def linear(x):
        return op.matmul(x, op.constant((rng.standard_normal((width, width)) * width**-0.5).astype(F32)), False, True)

    def by_head(x):
        split = op.reshape(x, op.constant(np.array([0, -1, heads, width // heads])), True)
        return op.transpose(split, op.constant(np.array([0, 2, 1, 3])))

    start = x = op.parameter((-1, -1, width), F32)
    for _ in range(count):
        attended = op.scaled_dot_product_attention(by_head(linear(x)), by_head(linear(x)), by_head(linear(x)), causal=True)
        joined = op.reshape(op.transpose(attended, op.constant(np.array([0, 2, 1, 3]))), op.constant(np.array([0, -1, width])), True)
        x = op.add(x, linear(joined))
    return ov.Model([x.output(0)], [start], "layers")


def test_layers_of_a_model(cores, tmp_path):
    given = draw([(2, 50, 96)])
    theirs, ours = both(cores, block(96, 6, 3), given, tmp_path)
    assert np.abs(ours - theirs).max() <= 10 * oracle.bound("float32")  # three layers of other sums
    results = [both(cores, block(96, 6, 3), given, tmp_path, {inference_num_threads(): n})[1] for n in (1, 2)]
    assert all(result.tobytes() == ours.tobytes() for result in results)


@pytest.mark.parametrize("threads", (1, 2))
def test_threads_are_those_of_the_request(cores, threads):
    if threads > cpu_time.cpus():
        pytest.skip(f"{threads} threads need as many CPUs; this process may use {cpu_time.cpus()}")
    arrays = draw([(4, 8, 256, 64)] * 3)
    model = sdpa_model(arrays)
    assert mha_openvino.replace(model) == 1
    compiled = cores[0].compile_model(model, "CPU", {inference_num_threads(): threads, num_streams(): 1})
    shares = cpu_time.shares(lambda: compiled(arrays))
    assert sum(share > 0.2 for share in shares) == threads


def test_model_in_memory(cores):
    arrays = draw(QKV["self"])
    expected = cores[0].compile_model(sdpa_model(arrays, causal=True), "CPU")(arrays)[0]
    model = sdpa_model(arrays, causal=True)
    assert mha_openvino.replace(model) == 1 and mha_openvino.replace(model) == 0
    result = cores[0].compile_model(model, "CPU")(arrays)[0]
    assert "MhaAttention" in types(model)
    assert np.abs(result - expected).max() <= oracle.bound("float32")


def test_changed_model_is_saved_and_read(cores, tmp_path):
    arrays = draw(QKV["self"])
    changed = read(cores[1], sdpa_model(arrays, causal=True), tmp_path)
    ov.save_model(changed, tmp_path / "changed.xml", compress_to_fp16=False)
    again = cores[1].compile_model(cores[1].read_model(tmp_path / "changed.xml"), "CPU")
    assert again(arrays)[0].tobytes() == cores[1].compile_model(changed, "CPU")(arrays)[0].tobytes()
    with pytest.raises(RuntimeError, match="MhaAttention"):
        cores[0].read_model(tmp_path / "changed.xml")


@pytest.mark.parametrize("name", ("f16", "bf16"))
def test_16_bits(cores, name, tmp_path):
    """Models in 16 bits and hints. Which type the plugin gives to the operation depends on the machine."""
    arrays = draw(QKV["self"], np.float16)
    close = oracle.bound("float16" if name == "f16" else "bfloat16")
    theirs, ours = both(cores, sdpa_model(arrays), arrays, tmp_path, {hint.inference_precision(): name})
    assert ours.dtype == np.float16
    assert np.abs(ours.astype(F32) - theirs.astype(F32)).max() <= close
    # The operation itself, over tensors of this type.
    kind = ov.Type.f16 if name == "f16" else ov.Type.bf16
    model = ov.Model([op.scaled_dot_product_attention(*(inputs := [op.parameter(x.shape, kind) for x in arrays])).output(0)], inputs, "x")
    assert mha_openvino.replace(model) == 1
    tensors = [ov.Tensor(kind, x.shape) for x in (*arrays, arrays[0])]
    for tensor, x in zip(tensors, arrays):
        bits = x.view(np.uint16) if name == "f16" else (x.astype(F32).view(np.uint32) >> 16).astype(np.uint16)
        tensor.data.view(np.uint16)[:] = bits
    node = next(node for node in model.get_ops() if node.get_type_name() == "MhaAttention")
    assert node.evaluate([tensors[3]], tensors[:3])
    widened = [wide(tensor.data.view(np.uint16), name) for tensor in tensors]
    assert np.abs(widened[3] - in_double(widened[:3])).max() <= close


def wide(bits, name):
    return bits.view(np.float16).astype(F32) if name == "f16" else (bits.astype(np.uint32) << 16).view(F32)


def test_left_to_the_plugin(cores, tmp_path):
    arrays = draw([(2, 3, 4, 5, 8), (2, 3, 4, 7, 8), (2, 3, 4, 7, 8)])
    model = sdpa_model(arrays)
    assert mha_openvino.replace(model) == 0
    changed = read(cores[1], model, tmp_path)
    assert "MhaAttention" not in types(changed)
    double = sdpa_model([x[0].astype(np.float64) for x in arrays])
    assert mha_openvino.replace(double) == 0


def test_message(cores, tmp_path):
    arrays = draw(QKV["self"])
    compiled = cores[1].compile_model(read(cores[1], sdpa_model(arrays, scale=np.inf), tmp_path), "CPU")
    with pytest.raises(RuntimeError, match="mha: scale is inf"):
        compiled(arrays)
