# SPDX-License-Identifier: Apache-2.0
"""Times mha in OpenVINO's CPU plugin beside the plugin's own ScaledDotProductAttention, in f32: its time / mha's time."""

import os
import sys

import numpy as np
import openvino as ov
from in_turn import Case, Ways, main
from openvino import opset13 as op
from openvino.properties import hint, inference_num_threads

sys.path.insert(0, os.environ["MHA_ENGINE_BUILD"])

import mha_openvino


def ways(case: Case, threads: int) -> Ways:
    if case.heads != case.kv_heads:
        return  # the operation has no grouped heads
    arrays = case.arrays()
    config = {
        inference_num_threads(): threads,
        hint.performance_mode(): hint.PerformanceMode.LATENCY,
        hint.inference_precision(): ov.Type.f32,
    }
    calls = []
    for replaced in (False, True):
        inputs = [op.parameter(x.shape, np.float32) for x in arrays]
        model = ov.Model([op.scaled_dot_product_attention(*inputs, causal=case.causal).output(0)], inputs, "sdpa")
        if replaced:
            mha_openvino.replace(model)
        request = ov.Core().compile_model(model, "CPU", config).create_infer_request()
        for n, x in enumerate(arrays):
            request.set_input_tensor(n, ov.Tensor(x, shared_memory=True))
        calls.append(request.infer)
    yield "CPU plugin", *calls


if __name__ == "__main__":
    main(__doc__, ways)
