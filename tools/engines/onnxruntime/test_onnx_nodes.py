# SPDX-License-Identifier: Apache-2.0
"""ONNX's own node tests of Attention, through ONNX Runtime with mha's operators, within ONNX's tolerances."""

from __future__ import annotations

import importlib

import numpy as np
import onnx.backend.test.case.node as node_cases
import onnxruntime
import pytest
from onnx import helper

from sessions import ONNX_OPERATORS, session

importlib.import_module("onnx.backend.test.case.node.attention")
# The other half of the cases, *_expanded, are the operator's definition in simpler ones: no Attention is in them.
CASES = {case.name: case for case in node_cases._NodeTestCases
         if case.name.startswith("test_attention") and "Attention" in {node.op_type for node in case.model.graph.node}
         }  # fmt: skip
# What mha does not serve, and so leaves to ONNX Runtime's own kernel: products before the softmax.
LEFT = {
    "test_attention_4d_with_qk_matmul",
    "test_attention_4d_with_qk_matmul_bias",
    "test_attention_4d_with_qk_matmul_softcap",
    "test_attention_4d_with_past_and_present_qk_matmul",
    "test_attention_4d_with_past_and_present_qk_matmul_bias",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal",
    "test_attention_3d_with_past_and_present_qk_matmul",
    "test_attention_3d_with_past_and_present_qk_matmul_bias",
    "test_attention_3d_with_past_and_present_qk_matmul_softcap",
}
# Of these, ONNX Runtime's kernel itself gives the least float where ONNX wants -inf.
LEAST_FOR_INFINITY = {
    "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal",
}
BFLOAT16 = 2.0**-6  # the tolerance of onnx.backend.test for it


def number_of(array: np.ndarray) -> int:
    return helper.np_dtype_to_tensor_dtype(array.dtype)


def run(runner: onnxruntime.InferenceSession, inputs: list[np.ndarray], shapes: list[np.ndarray]) -> list[np.ndarray]:
    """Bound by address, because numpy has no bfloat16 that ONNX Runtime takes."""
    binding = runner.io_binding()
    results = [np.zeros_like(array) for array in shapes]
    for given, array in zip(runner.get_inputs(), inputs, strict=True):
        binding.bind_input(given.name, "cpu", 0, number_of(array), array.shape, array.ctypes.data)
    for given, array in zip(runner.get_outputs(), results, strict=True):
        binding.bind_output(given.name, "cpu", 0, number_of(array), array.shape, array.ctypes.data)
    runner.run_with_iobinding(binding)
    return results


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_node(name: str, threads: int, capfd: pytest.CaptureFixture) -> None:
    case = CASES[name]
    runner = session(case.model.SerializeToString(), (ONNX_OPERATORS,), threads)
    assert ("mha leaves Attention" in capfd.readouterr().err) == (name in LEFT)
    for inputs, expected in case.data_sets:
        arrays = [np.ascontiguousarray(array) for array in inputs]
        wanted = [np.ascontiguousarray(array) for array in expected]
        for result, reference in zip(run(runner, arrays, wanted), wanted, strict=True):
            result, reference = result.astype(np.float64), reference.astype(np.float64)
            if name in LEAST_FOR_INFINITY:
                reference = np.maximum(reference, np.finfo(np.float32).min)
            rtol = BFLOAT16 if name.endswith("_bf16") else case.rtol
            np.testing.assert_allclose(result, reference, rtol, case.atol)


def test_count() -> None:
    """So that a case that is new in a later onnx is not overlooked."""
    assert len(CASES) == 93
