# SPDX-License-Identifier: Apache-2.0
"""Times mha's kernel in ExecuTorch's runtime, in f32, beside the runtime's kernels for the operators that attention is
decomposed into, and beside the attention kernel of ExecuTorch's Llama: the time of these / mha's time."""

import os
import sys

import torch
import torch.nn.functional as F
from executorch.exir import ExecutorchBackendConfig, to_edge
from executorch.exir.passes import MemoryPlanningPass
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
    """Tensors [B, T, H, D]. The keys that it reads end with the position of the last query."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.first, self.causal = case.keys - case.queries, case.causal

    def forward(self, query, key, value):
        return torch.ops.llama.custom_sdpa(query, key, value, self.first, None, 0.0, self.causal)


def call(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], replaced: bool = False):
    program = torch.export.export(module, inputs)
    if replaced:
        mha_executorch.replace_sdpa(program)
    in_place = ExecutorchBackendConfig(memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False))  # inputs: no copy
    buffer = to_edge(program).to_executorch(in_place).buffer
    loaded = Runtime.get().load_program(buffer)
    method = loaded.load_method("forward")
    return lambda _kept=(buffer, loaded): method.execute(inputs)


def ways(case: Case, _threads: int) -> Ways:
    inputs = tuple(torch.from_numpy(x) for x in case.arrays())
    by_token = tuple(x.transpose(1, 2).contiguous() for x in inputs)
    ours = call(Attention(case), inputs, replaced=True)
    decomposed, llama = call(Attention(case), inputs), call(LlamaAttention(case), by_token)
    torch.testing.assert_close(ours()[0], decomposed()[0])
    torch.testing.assert_close(ours()[0], llama()[0].transpose(1, 2))
    yield "its kernels, decomposed", decomposed, ours
    yield "llama::custom_sdpa", llama, ours


if __name__ == "__main__":
    main(__doc__, ways)
