# SPDX-License-Identifier: Apache-2.0
"""Times mha's kernel in ExecuTorch's runtime, in f32, beside the runtime's kernels for the operators that attention is
decomposed into, and beside the attention kernel of ExecuTorch's Llama: the time of these / mha's time."""

import os
import sys

import torch
import torch.nn.functional as F
from executorch.exir import to_edge
from executorch.extension.llm.custom_ops import custom_ops as _llama_kernels  # noqa: F401  registers llama::custom_sdpa
from executorch.runtime import Runtime
from in_turn import Case, Ways, main

sys.path.insert(0, os.environ["MHA_ENGINE_BUILD"])

import mha_executorch

mha_executorch.load_kernel()


class Attention(torch.nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.options = {"is_causal": case.causal, "enable_gqa": case.heads != case.kv_heads}

    def forward(self, query, key, value):
        return F.scaled_dot_product_attention(query, key, value, **self.options)


class LlamaAttention(torch.nn.Module):
    """Tensors [B, T, H, D]; the last argument but three is the position of query 0."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.causal = case.causal

    def forward(self, query, key, value):
        return torch.ops.llama.custom_sdpa(query, key, value, 0, None, 0.0, self.causal)


def call(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], replaced: bool = False):
    program = torch.export.export(module, inputs)
    if replaced:
        mha_executorch.replace_sdpa(program)
    buffer = to_edge(program).to_executorch().buffer
    loaded = Runtime.get().load_program(buffer)
    method = loaded.load_method("forward")
    return lambda _kept=(buffer, loaded): method.execute(inputs)


def ways(case: Case, _threads: int) -> Ways:
    inputs = tuple(torch.from_numpy(x) for x in case.arrays())
    ours = call(Attention(case), inputs, replaced=True)
    yield "its kernels, decomposed", call(Attention(case), inputs), ours
    by_token = tuple(x.transpose(1, 2).contiguous() for x in inputs)
    yield "llama::custom_sdpa", call(LlamaAttention(case), by_token), ours


if __name__ == "__main__":
    main(__doc__, ways)
