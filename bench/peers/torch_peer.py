# SPDX-License-Identifier: Apache-2.0
"""PyTorch: scaled_dot_product_attention, nn.MultiheadAttention, linear; in inference mode, in the ways a user has."""

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend

import codes
import decode_inputs
from arrays import attention_inputs, bfloat16, by_head, coded_linear_inputs, forward_input, layer_weights
from arrays import linear_inputs, notebook_inputs, widened
from cases import Case
from peer import Peer, Way


def as_numpy(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [tensor.detach().float().numpy() for tensor in tensors]


def as_bfloat16(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).view(torch.bfloat16)


def packed_for_mkl(weight: torch.Tensor, bias: torch.Tensor, rows: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """What torch.compile with freezing makes of a linear for inputs of `rows` rows where torch is built with MKL."""
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
    return lambda source: torch.ops.mkl._mkl_linear(source, packed, weight, bias, rows)


def packed_for_onednn(weight: torch.Tensor, bias: torch.Tensor, rows: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The same by oneDNN, with the weight in the blocked format that it asks for."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    return lambda source: torch.ops.mkldnn._linear_pointwise(source, packed, bias, "none", [], "")


class TorchPeer(Peer):
    name = "torch"
    settle_seconds = 0  # libmha finds torch's libgomp loaded and uses it: one set of threads for both

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        self.mode = torch.inference_mode()  # for the life of the process
        self.mode.__enter__()
        self.version = torch.__version__

    def linear_f32(self, case: Case) -> list[Callable[[], Way]]:
        arrays = linear_inputs(case.sizes)
        source, weight, bias = (torch.from_numpy(array) for array in arrays)
        makers = self.linear(list(arrays), source, weight, bias)
        mkl = partial(packed_for_mkl, weight, bias, case["M"])
        return [*makers, partial(self.linear_way, "mkl._mkl_linear, packed", list(arrays), lambda: partial(mkl(), source))]

    def linear_bf16(self, case: Case) -> list[Callable[[], Way]]:
        source, weight, bias = (bfloat16(array) for array in linear_inputs(case.sizes))
        return self.linear([source, weight, widened(bias)], *map(as_bfloat16, (source, weight, bias)))

    @staticmethod
    def linear_way(how: str, arrays: list[np.ndarray], make: Callable[[], Callable[[], torch.Tensor]]) -> Way:
        run = make()
        return Way(how, run, lambda: as_numpy(run()), arrays)

    def linear(
        self, arrays: list[np.ndarray], source: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> list[Callable[[], Way]]:
        rows = source.shape[0]
        output = torch.empty(rows, weight.shape[0], dtype=source.dtype)

        def way(how: str, make: Callable[[], Callable[[], torch.Tensor]]) -> Callable[[], Way]:
            return partial(self.linear_way, how, arrays, make)

        return [
            way("F.linear", lambda: partial(F.linear, source, weight, bias)),
            way("addmm(out=)", lambda: partial(torch.addmm, bias, source, weight.t(), out=output)),
            way("mkldnn._linear_pointwise, packed", lambda: partial(packed_for_onednn(weight, bias, rows), source)),
        ]

    def linear_int8(self, case: Case) -> list[Callable[[], Way]]:
        if case.sizes.get("group"):
            return []
        arrays = list(coded_linear_inputs(case.sizes))
        source, weight, bias = map(torch.from_numpy, arrays)

        def module(engine: str) -> Callable[[], torch.Tensor]:
            """Inputs become uint8 with one scale for all rows (of 7 bits for FBGEMM)."""
            torch.backends.quantized.engine = engine
            with torch.inference_mode(False), torch.no_grad():
                layer = torch.nn.Sequential(torch.nn.Linear(case["K"], case["N"]))
                layer[0].weight.copy_(weight)
                layer[0].bias.copy_(bias)
                quantised = torch.ao.quantization.quantize_dynamic(
                    layer, {torch.nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}, torch.qint8
                )[0]
            return partial(quantised, source)

        made, of_outputs = map(torch.from_numpy, codes.per_output(arrays[1]))

        def int_mm() -> Callable[[], torch.Tensor]:
            """Inputs become int8 with a scale for each row, by torch's operators."""
            transposed = made.t()

            def run() -> torch.Tensor:
                scales = source.abs().amax(1, keepdim=True).div_(127)
                rounded = (source / scales).round_().to(torch.int8)
                return torch._int_mm(rounded, transposed).float().mul_(scales).mul_(of_outputs).add_(bias)

            return run

        engines = [name for name in torch.backends.quantized.supported_engines if name in ("fbgemm", "onednn")]
        makers = [partial(self.linear_way, f"quantized.dynamic.Linear, {engine}", arrays, partial(module, engine))
                  for engine in engines]  # fmt: skip
        if torch.cpu._is_vnni_supported():  # elsewhere a plain loop, some hundred times slower
            makers.append(partial(self.linear_way, "_int_mm, rows rounded", arrays, int_mm))
        return makers

    def linear_int4(self, case: Case) -> list[Callable[[], Way]]:
        arrays = list(coded_linear_inputs(case.sizes))
        source, _, bias = map(torch.from_numpy, arrays)

        def weight_only() -> Callable[[], torch.Tensor]:
            """In bfloat16: in floats it is a plain loop without AVX-512."""
            made, scales = codes.in_groups(arrays[1], 4)
            flat = torch.from_numpy((made.reshape(made.shape[0], -1) + 8).astype(np.int32))
            packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(flat, 1)
            pairs = torch.from_numpy(np.stack([scales.T, np.zeros_like(scales.T)], axis=2).copy()).bfloat16()
            given, added = source.bfloat16(), bias.bfloat16()
            return lambda: torch.ops.aten._weight_int4pack_mm_for_cpu(given, packed, codes.GROUP, pairs).add_(added)

        return [partial(self.linear_way, "_weight_int4pack_mm_for_cpu, in bfloat16", arrays, weight_only)]

    def attention_f32(self, case: Case) -> list[Callable[[], Way]]:
        arrays = [by_head(array) for array in attention_inputs(case.sizes)]
        tensors = [torch.from_numpy(array.transpose(0, 2, 1, 3)) for array in arrays]
        return self.attention(arrays, tensors, bool(case["causal"]))

    def attention_bf16(self, case: Case) -> list[Callable[[], Way]]:
        arrays = [bfloat16(by_head(array)) for array in attention_inputs(case.sizes)]
        tensors = [as_bfloat16(array.transpose(0, 2, 1, 3)) for array in arrays]
        return self.attention(arrays, tensors, bool(case["causal"]))

    def decode(self, case: Case) -> list[Callable[[], Way]]:
        """Its SDPA wants query, keys and values of one type, so all are of 16 bits, and the result is."""
        arrays = [decode_inputs.rounded(array, case.family) for array in decode_inputs.floats(case.sizes)]
        dtype = torch.float16 if case.family == "decode_f16" else torch.bfloat16
        tensors = [torch.from_numpy(decode_inputs.heads_first(array)).view(dtype) for array in arrays]
        return self.attention(arrays, tensors, False)

    decode_bf16 = decode_f16 = decode

    def attention(self, arrays: list[np.ndarray], tensors: list[torch.Tensor], causal: bool) -> list[Callable[[], Way]]:
        """The ways for `tensors`, by head, which are `arrays` in the library's shapes."""
        query, key, value = tensors
        _, heads, queries, dim = shape = query.shape
        kv_heads = key.shape[1]
        sdpa = partial(F.scaled_dot_product_attention, is_causal=causal)

        def way(how: str, run: Callable[[], torch.Tensor]) -> Way:
            return Way(how, run, lambda: as_numpy(run().reshape(shape).transpose(1, 2)), arrays)

        def flash(how: str, q: torch.Tensor, **options: bool) -> Way:
            chosen = torch._fused_sdp_choice(q, key, value, is_causal=causal, **options)
            if chosen != SDPBackend.FLASH_ATTENTION.value:
                raise RuntimeError(f"torch would not take its flash kernel but backend {chosen}")
            return way(how, partial(sdpa, q, key, value, **options))

        if heads != kv_heads:
            makers = [partial(flash, "SDPA flash, enable_gqa", query, enable_gqa=True)]
            if queries == 1:  # the queries of a group share their keys: they may as well be rows of one head
                rows = query.view(1, kv_heads, heads // kv_heads, dim)
                makers.append(partial(flash, "SDPA flash, group as rows", rows))
                makers.append(lambda: way("SDPA math, group as rows", self.math(rows, key, value)))
            return makers
        makers = [partial(flash, "SDPA flash", query)]
        if queries == 1:
            makers.append(lambda: way("SDPA math", self.math(query, key, value)))
        return makers

    @staticmethod
    def math(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Callable[[], torch.Tensor]:
        return lambda: torch.ops.aten._scaled_dot_product_attention_math(query, key, value)[0]

    def attention_weights_f32(self, case: Case) -> list[Callable[[], Way]]:
        arrays = [by_head(array) for array in attention_inputs(case.sizes)]
        query, key, value = (torch.from_numpy(array.transpose(0, 2, 1, 3)) for array in arrays)
        scale = case["D"] ** -0.5

        def plain() -> tuple[torch.Tensor, torch.Tensor]:
            weights = torch.softmax((query * scale) @ key.transpose(-2, -1), dim=-1)
            return weights @ value, weights

        def in_place() -> tuple[torch.Tensor, torch.Tensor]:
            scores = (query * scale) @ key.transpose(-2, -1)
            weights = torch._softmax(scores, -1, False, out=scores)
            return weights @ value, weights

        def math() -> tuple[torch.Tensor, torch.Tensor]:
            return torch.ops.aten._scaled_dot_product_attention_math(query, key, value)

        def way(how: str, run: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> Way:
            def results() -> list[np.ndarray]:
                output, weights = run()
                return as_numpy(output.transpose(1, 2), weights)

            return Way(how, run, results, arrays)

        return [partial(way, "softmax(QK^T)V", plain), partial(way, "softmax(QK^T)V, softmax in place", in_place),
                partial(way, "SDPA math", math)]  # fmt: skip

    def forward_f32(self, case: Case) -> list[Callable[[], Way]]:
        source = forward_input(case.sizes)
        return self.forward(case, source, torch.from_numpy(source))

    def forward_bf16(self, case: Case) -> list[Callable[[], Way]]:
        source = bfloat16(forward_input(case.sizes))
        return self.forward(case, source, as_bfloat16(source))

    def forward(self, case: Case, source: np.ndarray, x: torch.Tensor) -> list[Callable[[], Way]]:
        """Weights and biases have the type of `x`, which is `source`."""
        batch, length, width, heads = (case[key] for key in ("B", "T", "E", "H"))
        layer = torch.nn.MultiheadAttention(width, heads, batch_first=True).eval().requires_grad_(False)
        parameters = {name.replace("_weight", ".weight").replace("_bias", ".bias") if name.startswith("out") else name:
                      torch.from_numpy(array) for name, array in layer_weights(width).items()}  # fmt: skip
        layer.load_state_dict(parameters)
        layer.to(x.dtype)
        w_in, b_in, w_out, b_out = layer.in_proj_weight, layer.in_proj_bias, layer.out_proj.weight, layer.out_proj.bias

        def module(fast_path: bool) -> torch.Tensor:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            return layer(x, x, x, need_weights=False)[0]

        def attend(projected: torch.Tensor) -> torch.Tensor:
            query, key, value = projected.view(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4).unbind(0)
            return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch * length, width)

        def composed() -> torch.Tensor:
            return F.linear(attend(F.linear(x, w_in, b_in)), w_out, b_out)

        def packed(pack: Callable) -> Callable[[], torch.Tensor]:
            rows = x.view(-1, width)
            linear_in, linear_out = (pack(*each, rows.shape[0]) for each in ((w_in, b_in), (w_out, b_out)))
            return lambda: linear_out(attend(linear_in(rows)))

        def way(how: str, make: Callable[[], Callable[[], torch.Tensor]]) -> Way:
            run = make()
            return Way(how, run, lambda: as_numpy(run().view(batch, length, width)), [source])

        makers = [
            partial(way, "nn.MultiheadAttention, fast path", lambda: partial(module, True)),
            partial(way, "nn.MultiheadAttention", lambda: partial(module, False)),
            partial(way, "linear, SDPA, linear", lambda: composed),
            partial(way, "linear, SDPA, linear; packed by oneDNN", partial(packed, packed_for_onednn)),
        ]
        if x.dtype == torch.float32:
            makers.append(partial(way, "linear, SDPA, linear; packed by MKL", partial(packed, packed_for_mkl)))
        return makers

    def notebook_f32(self, case: Case) -> list[Callable[[], Way]]:
        arrays = notebook_inputs(case.sizes)
        query, key, value = (torch.from_numpy(array) for array in arrays)
        path = Path(__file__).resolve().parents[2] / "tools/oracles/notebook.py"
        spec = importlib.util.spec_from_file_location("notebook", path)
        notebook = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(notebook)
        module = notebook.StandardMultiHeadAttention(case["E"], case["H"]).eval().requires_grad_(False)
        parameters = {name: torch.from_numpy(array) for name, array in layer_weights(case["E"]).items()}
        for n, linear in enumerate((module.query_layer, module.key_layer, module.value_layer)):
            linear.weight.copy_(parameters["in_proj_weight"].chunk(3)[n])
            linear.bias.copy_(parameters["in_proj_bias"].chunk(3)[n])
        module.output_layer.weight.copy_(parameters["out_proj_weight"])
        module.output_layer.bias.copy_(parameters["out_proj_bias"])

        def frozen() -> Callable[[], object]:
            with torch.no_grad():
                traced = torch.jit.freeze(torch.jit.trace(module, (query, key, value)))
            for _ in range(5):  # its optimiser looks at the first calls
                traced(query, key, value)
            return partial(traced, query, key, value)

        def torch_layer() -> Callable[[], object]:
            layer = notebook.as_torch_layer(module)
            return partial(layer, query[None], key[None], value[None], need_weights=True, average_attn_weights=False)

        def way(how: str, make: Callable[[], Callable[[], object]]) -> Way:
            run = make()
            return Way(how, run, lambda: as_numpy(*run()), [array[None] for array in arrays])

        return [
            partial(way, "the notebook's module", lambda: partial(module, query, key, value)),
            partial(way, "the notebook's module, traced and frozen", frozen),
            partial(way, "nn.MultiheadAttention", torch_layer),
        ]
