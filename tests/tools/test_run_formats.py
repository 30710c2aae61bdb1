# SPDX-License-Identifier: Apache-2.0
"""`mha run` with weights in every type that it reads, from .safetensors and GGUF: the output has the bits of the run over the
same weights widened to F32. Damaged and hostile GGUF files are refused in one line."""

import struct
import unittest

from command import (
    CommandTest,
    bf16_bytes,
    f16_bytes,
    f32_bytes,
    floats,
    gguf,
    gguf_text,
    npy,
    q4_0,
    q8_0,
    read_npy,
    round_f32,
    safetensors,
    widened_bf16,
    widened_f16,
)

# A layer of width 64 with 4 query heads on 2 key/value heads of 16.
E, H, KV, D = 64, 4, 2, 16
SHAPES = {"q": (H * D, E), "k": (KV * D, E), "v": (KV * D, E), "o": (E, H * D)}
GGUF_NAMES = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"}
HEADS = ["--num-heads", str(H), "--num-kv-heads", str(KV)]
LLAMA = {"general.architecture": "llama", "llama.attention.head_count": H, "llama.attention.head_count_kv": KV}


def stored(kind, values):
    """The bytes of a type and the floats that they stand for."""
    if kind in ("Q8_0", "Q4_0"):
        return (q8_0 if kind == "Q8_0" else q4_0)(values)
    data = {"F32": f32_bytes, "F16": f16_bytes, "BF16": bf16_bytes}[kind](values)
    return data, {"F32": lambda _: values, "F16": widened_f16, "BF16": widened_bf16}[kind](data)


class RunFormats(CommandTest):
    def setUp(self):
        super().setUp()
        self.weights = {name: floats(rows * columns, seed) for seed, (name, (rows, columns)) in enumerate(SHAPES.items(), 1)}
        self.write("x.npy", npy((2, 7, E), floats(2 * 7 * E, 9)))

    def run_layer(self, *arguments):
        report = self.ok_json("run", "--query", "x.npy", "--causal", "--output", "y.npy", "--json", *arguments)
        return read_npy(self.path("y.npy")), report

    def wanted(self, wide, scale=None):
        """The output over F32 weights, whose arithmetic test_cli_run.cpp holds against double precision."""
        tensors = {f"{name}_proj.weight": ("F32", SHAPES[name], f32_bytes(values)) for name, values in wide.items()}
        self.write("wide.safetensors", safetensors(tensors))
        extra = [] if scale is None else ["--scale", str(scale)]
        return self.run_layer("--weights", "wide.safetensors", *HEADS, *extra)[0]

    def test_safetensors_keep_their_type(self):
        for kind in ("F16", "BF16"):
            pairs = {name: stored(kind, values) for name, values in self.weights.items()}
            self.write("w.safetensors", safetensors({f"{n}_proj.weight": (kind, SHAPES[n], raw) for n, (raw, _) in pairs.items()}))
            output, report = self.run_layer("--weights", "w.safetensors", *HEADS)
            self.assertEqual(report["weights_stored"], kind)
            self.assertEqual(output, self.wanted({n: wide for n, (_, wide) in pairs.items()}), kind)

    def test_f64_is_rounded(self):
        tensors = {f"{n}_proj.weight": ("F64", SHAPES[n], struct.pack(f"<{len(v)}d", *v)) for n, v in self.weights.items()}
        self.write("w.safetensors", safetensors(tensors))
        self.assertEqual(self.run_layer("--weights", "w.safetensors", *HEADS)[0], self.wanted(self.weights))

    def int8_layer(self, groups, scale_type, zeros):
        """compressed-tensors' int-quantized format: codes, NAME_scale [out, groups], perhaps NAME_zero_point."""
        tensors, wide = {}, {}
        to_bytes = {"F32": f32_bytes, "F16": f16_bytes, "BF16": bf16_bytes}[scale_type]
        for name, (rows, columns) in SHAPES.items():
            codes = [int(x * 127) for x in self.weights[name]]
            raw = to_bytes([0.01 + 0.001 * n for n in range(rows * groups)])
            scales = {"F32": lambda b: list(struct.unpack(f"<{len(b) // 4}f", b)), "F16": widened_f16, "BF16": widened_bf16}[scale_type](
                raw
            )
            zero = [n % 11 - 5 if zeros else 0 for n in range(rows * groups)]
            tensors[f"{name}_proj.weight"] = ("I8", (rows, columns), struct.pack(f"<{rows * columns}b", *codes))
            tensors[f"{name}_proj.weight_scale"] = (scale_type, (rows, groups), raw)
            if zeros:
                tensors[f"{name}_proj.weight_zero_point"] = ("I8", (rows, groups), struct.pack(f"<{rows * groups}b", *zero))
            size = columns // groups
            wide[name] = [
                round_f32(scales[r * groups + c // size] * (codes[r * columns + c] - zero[r * groups + c // size]))
                for r in range(rows)
                for c in range(columns)
            ]
        return tensors, wide

    def test_int8_with_scales(self):
        for groups, scale_type, zeros in ((1, "F32", False), (1, "BF16", True), (4, "F16", False), (2, "F32", True)):
            tensors, wide = self.int8_layer(groups, scale_type, zeros)
            self.write("w.safetensors", safetensors(tensors))
            output, report = self.run_layer("--weights", "w.safetensors", *HEADS)
            self.assertEqual(report["weights_stored"], "I8")
            self.assertEqual(output, self.wanted(wide), (groups, scale_type, zeros))
            arithmetic = self.ok_json("run", "--query", "x.npy", "--output", "y.npy", "--json", "--weights", "w.safetensors", *HEADS,
                                      "--arithmetic", "int8")  # fmt: skip
            self.assertEqual((arithmetic["arithmetic"], arithmetic["attention_arithmetic"]), ("int8", "f32"))

    def test_shapes_of_scales(self):
        """One scale for the tensor, as [] or [1], and one for each output without a second dimension."""
        tensors, _ = self.int8_layer(1, "F32", True)
        for shape in ((), (1,), "rows"):
            changed, wide = {}, {}
            for name, (rows, columns) in SHAPES.items():
                of_scales = (rows,) if shape == "rows" else shape
                count = of_scales[0] if of_scales else 1
                scales, zero = [round_f32(0.01 + 0.001 * n) for n in range(count)], [n % 11 - 5 for n in range(count)]
                codes = struct.unpack(f"<{rows * columns}b", tensors[f"{name}_proj.weight"][2])
                changed[f"{name}_proj.weight_scale"] = ("F32", of_scales, f32_bytes(scales))
                changed[f"{name}_proj.weight_zero_point"] = ("I8", of_scales, struct.pack(f"<{count}b", *zero))
                wide[name] = [round_f32(scales[i // columns % count] * (code - zero[i // columns % count])) for i, code in enumerate(codes)]
            self.write("w.safetensors", safetensors({**tensors, **changed}))
            self.assertEqual(self.run_layer("--weights", "w.safetensors", *HEADS)[0], self.wanted(wide), shape)

    def test_fused_int8(self):
        """nn.MultiheadAttention's in_proj_weight as codes: each projection takes its rows of codes and scales."""
        tensors, wide = self.int8_layer(4, "F16", True)
        parts = {"": 0, "_scale": 4, "_zero_point": 4}
        fused = {}
        for suffix, columns in parts.items():
            of = [tensors[f"{name}_proj.weight{suffix}"] for name in "qkv"]
            rows = sum(shape[0] for _, shape, _ in of)
            fused[f"in_proj_weight{suffix}"] = (of[0][0], (rows, columns or E), b"".join(raw for _, _, raw in of))
            fused[f"out_proj.weight{suffix}"] = tensors[f"o_proj.weight{suffix}"]
        self.write("w.safetensors", safetensors(fused))
        self.assertEqual(self.run_layer("--weights", "w.safetensors", *HEADS)[0], self.wanted(wide))

    def test_int8_that_does_not_fit(self):
        base = ["run", "--query", "x.npy", "--output", "y.npy", "--weights", "w.safetensors", *HEADS]
        tensors, _ = self.int8_layer(1, "F32", True)

        def refused(part, **changed):
            changed = {name.replace("__", "."): value for name, value in changed.items()}
            kept = {name: value for name, value in {**tensors, **changed}.items() if value is not None}
            self.write("w.safetensors", safetensors(kept))
            self.refused(part, *base)

        rows, columns = SHAPES["q"]
        refused("tensor 'q_proj.weight' of shape [64, 64]: I8 needs a tensor 'q_proj.weight_scale' of scales", q_proj__weight_scale=None)
        refused("'q_proj.weight_scale' of shape [3]: must be", q_proj__weight_scale=("F32", (3,), bytes(12)))
        refused("'q_proj.weight_scale' of shape [64, 5]: must be", q_proj__weight_scale=("F32", (rows, 5), bytes(rows * 20)))
        refused("I8 is not F32, F16 or BF16", q_proj__weight_scale=("I8", (rows, 1), bytes(rows)))
        refused("'q_proj.weight_zero_point' of shape [1]: must be as", q_proj__weight_zero_point=("I8", (1,), bytes(1)))
        refused("U8 is not I8", q_proj__weight_zero_point=("U8", (rows, 1), bytes(rows)))
        refused("holds uint8, which is not converted", q_proj__weight=("U8", (rows, columns), bytes(rows * columns)))

    def gguf_layer(self, kinds, metadata=None, block=0, **options):
        tensors, wide = {}, {}
        for name, kind in zip(SHAPES, kinds, strict=True):
            raw, wide[name] = stored(kind, self.weights[name])
            tensors[f"blk.{block}.{GGUF_NAMES[name]}.weight"] = (kind, SHAPES[name], raw)
        return gguf({**LLAMA, **(metadata or {})}, tensors, **options), wide

    def test_gguf(self):
        tokens = {"tokenizer.ggml.tokens": ["a", "bc", ""], "general.quantized": True, "tokenizer.chat_template": "x" * 5000}
        for kinds in (["F32"] * 4, ["F16"] * 4, ["BF16"] * 4, ["Q8_0"] * 4, ["Q4_0"] * 4, ["Q8_0", "Q4_0", "F16", "F32"]):
            data, wide = self.gguf_layer(kinds, tokens)
            self.write("w.gguf", data)
            output, report = self.run_layer("--weights", "w.gguf", "--prefix", "blk.0.")
            self.assertEqual((report["num_heads"], report["num_kv_heads"]), (H, KV))
            self.assertEqual(set(report["weights_stored"].split(", ")), set(kinds))
            self.assertEqual(output, self.wanted(wide), kinds)

    def test_gguf_to_a_packed_layer(self):
        data, wide = self.gguf_layer(["Q8_0"] * 4)
        self.write("w.gguf", data)
        self.ok("quantize", "--weights", "w.gguf", "--prefix", "blk.0.", "--dtype", "f32", "--output", "layer.mha")
        self.assertEqual(self.run_layer("--layer", "layer.mha")[0], self.wanted(wide))

    def test_gguf_metadata(self):
        data, wide = self.gguf_layer(["F32"] * 4, {"general.alignment": 64, "llama.attention.scale": 0.5}, alignment=64, version=2)
        self.write("w.gguf", data)
        self.assertEqual(self.run_layer("--weights", "w.gguf", "--prefix", "blk.0.")[0], self.wanted(wide, scale=0.5))
        # A number of heads for each block.
        counts = {"llama.attention.head_count": [8, H], "llama.attention.head_count_kv": [8, KV]}
        data, wide = self.gguf_layer(["Q8_0"] * 4, counts, block=1)
        self.write("w.gguf", data)
        self.assertEqual(self.run_layer("--weights", "w.gguf", "--prefix", "blk.1.")[0], self.wanted(wide))
        base = ["run", "--query", "x.npy", "--output", "y.npy", "--weights", "w.gguf"]
        self.refused("the attention layer is at --prefix blk.1.", *base)
        self.refused("--num-heads is 2, but w.gguf says 4", *base, "--prefix", "blk.1.", "--num-heads", "2")
        self.write("w.gguf", self.gguf_layer(["F32"] * 4, counts, block=7)[0])
        self.refused("has 2 numbers, none for block 7", *base, "--prefix", "blk.7.")
        for key, part in (
            ("attn_logit_softcapping", "a cap of the scores is not supported"),
            ("attention.clamp_kqv", "a limit of queries, keys and values is not supported"),
            ("attention.max_alibi_bias", "ALiBi's bias of the scores is not supported"),
        ):
            self.write("w.gguf", self.gguf_layer(["F32"] * 4, {f"llama.{key}": 30.0})[0])
            self.refused(part, *base, "--prefix", "blk.0.")
            self.write("w.gguf", self.gguf_layer(["F32"] * 4, {f"llama.{key}": 0.0})[0])
            self.ok(*base, "--prefix", "blk.0.")
        self.write("w.gguf", self.gguf_layer(["F32"] * 4, {"llama.attention.head_count": 0})[0])
        self.refused("'llama.attention.head_count' is 0", *base, "--prefix", "blk.0.")

    def test_gguf_fused_with_bias(self):
        rows = sum(SHAPES[name][0] for name in "qkv")
        fused = [x for name in "qkv" for x in self.weights[name]]
        bias = floats(rows, 20)
        self.write("w.gguf", gguf(LLAMA, {
            "blk.0.attn_qkv.weight": ("F16", (rows, E), f16_bytes(fused)),
            "blk.0.attn_qkv.bias": ("F32", (rows,), f32_bytes(bias)),
            "blk.0.attn_output.weight": ("F16", SHAPES["o"], f16_bytes(self.weights["o"])),
        }))  # fmt: skip
        self.write("wide.safetensors", safetensors({
            "in_proj_weight": ("F32", (rows, E), f32_bytes(widened_f16(f16_bytes(fused)))),
            "in_proj_bias": ("F32", (rows,), f32_bytes(bias)),
            "out_proj.weight": ("F32", SHAPES["o"], f32_bytes(widened_f16(f16_bytes(self.weights["o"])))),
        }))  # fmt: skip
        output = self.run_layer("--weights", "w.gguf", "--prefix", "blk.0.")[0]
        self.assertEqual(output, self.run_layer("--weights", "wide.safetensors", *HEADS)[0])

    def test_permuted_rows_give_the_same_scores(self):
        """Llama's q and k in GGUF have their rows permuted for interleaved rotation: without rotation nothing changes but the order
        of sums."""
        data, _ = self.gguf_layer(["F32"] * 4)
        self.write("w.gguf", data)
        plain = struct.unpack(f"<{2 * 7 * E}f", self.run_layer("--weights", "w.gguf", "--prefix", "blk.0.")[0])
        for name in ("q", "k"):
            rows = [self.weights[name][r * E : (r + 1) * E] for r in range(SHAPES[name][0])]
            order = [head * D + half * (D // 2) + n for head in range(len(rows) // D) for n in range(D // 2) for half in range(2)]
            self.weights[name] = [x for r in order for x in rows[r]]
        self.write("w.gguf", self.gguf_layer(["F32"] * 4)[0])
        permuted = struct.unpack(f"<{2 * 7 * E}f", self.run_layer("--weights", "w.gguf", "--prefix", "blk.0.")[0])
        self.assertLess(max(abs(a - b) for a, b in zip(plain, permuted, strict=True)), 1e-4)

    def test_gguf_that_is_not_supported(self):
        base = ["run", "--query", "x.npy", "--output", "y.npy", "--weights", "w.gguf", "--prefix", "blk.0."]
        wide = {name: f32_bytes(values) for name, values in self.weights.items()}
        layer = {f"blk.0.{GGUF_NAMES[n]}.weight": ("F32", SHAPES[n], wide[n]) for n in SHAPES}
        self.write("w.gguf", gguf(LLAMA, {**layer, "blk.0.attn_q.weight": ("Q4_K", (64, 256), bytes(64 * 144))}))
        self.refused("tensor 'blk.0.attn_q.weight' of shape [64, 256]: Q4_K is not supported: F32, F16, BF16, Q8_0 and Q4_0 are", *base)
        self.write("w.gguf", gguf(LLAMA, {**layer, "blk.0.attn_q.weight": (99, (64, 64), b"")}))
        self.refused("type 99 is not supported", *base)
        self.write("w.gguf", gguf(LLAMA, {**layer, "blk.0.attn_q_norm.weight": ("F32", (D,), bytes(4 * D))}))
        self.refused("'blk.0.attn_q_norm.weight' of shape [16]: what changes queries", *base)
        self.write("w.gguf", gguf({"general.architecture": "llama"}, layer))
        self.refused("--num-heads is required: w.gguf does not say it", *base)
        self.write("w.gguf", gguf(LLAMA, {**layer, "blk.0.attn_q.bias": ("Q8_0", (64,), bytes(68))}))
        self.refused("Q8_0 is not converted to float32", *base)

    def test_hostile_gguf(self):
        good, _ = self.gguf_layer(["F32"] * 4)

        def refused(data, part=""):
            self.write("bad.gguf", data)
            self.refused("bad.gguf: " + part, "run", "--query", "x.npy", "--output", "y.npy", "--weights", "bad.gguf", "--prefix", "blk.0.")

        for keep in (4, 8, 23, 24, 30, 60, 120, 200, 300):
            refused(good[:keep])
        refused(good[:-1], "tensor 'blk.0.attn_output.weight': 16384 bytes at offset")
        refused(good[:4] + struct.pack("<I", 1) + good[8:], "GGUF version 1 is not supported")
        refused(good[:4] + struct.pack(">I", 3) + good[8:], "GGUF version 50331648 is not supported (2 and 3 are); the file's byte order")
        refused(good[:8] + struct.pack("<Q", 2**60) + good[16:], "1152921504606846976 tensors do not fit")
        refused(good[:16] + struct.pack("<Q", 2**60) + good[24:], "1152921504606846976 metadata pairs do not fit")
        refused(good[:24] + struct.pack("<Q", 2**63) + good[32:], "metadata at byte 32: a text of 9223372036854775808 bytes")

        def with_pair(raw):
            return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_text("k") + raw + bytes(64)

        refused(with_pair(struct.pack("<I", 13)), "metadata key 'k': unknown type 13")
        refused(with_pair(struct.pack("<IIQ", 9, 4, 2**61)), "metadata key 'k': an array of 2305843009213693952 values")
        refused(with_pair(struct.pack("<IIQ", 9, 9, 1)), "metadata key 'k': an array of type 9")
        refused(with_pair(struct.pack("<IIQQ", 9, 8, 1, 2**63)), "metadata key 'k': at byte")
        refused(with_pair(struct.pack("<IB", 7, 2)), "metadata key 'k': a boolean is 2")
        refused(with_pair(struct.pack("<IQ", 10, 2**63)), "metadata key 'k': at byte")
        twice = b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (gguf_text("k") + struct.pack("<II", 4, 1)) + bytes(64)
        refused(twice, "metadata key 'k' is given twice")
        refused(gguf({"general.alignment": 3}, {}), "metadata key 'general.alignment' is 3")
        refused(gguf({"general.alignment": 64.0}, {}), "metadata key 'general.alignment' is no integer")
        refused(gguf({}, {"a\x1b": ("F32", (2**40, 2**40), b"")}), "tensor 'a\\x1b': shape [1099511627776, 1099511627776] does not fit")
        refused(gguf({}, {"a": ("F32", (2**50,), b"")}), "tensor 'a': 4503599627370496 bytes at offset 0 are beyond the end")
        refused(gguf({}, {"a": ("F32", (1, 1, 1, 1, 1), bytes(4))}), "tensor 'a': 5 dimensions")
        refused(gguf({}, {"a": ("Q8_0", (2, 33), bytes(70))}), "tensor 'a': rows of 33 elements are no whole blocks of Q8_0 (32)")

        def with_tensors(*offsets):
            head = b"GGUF" + struct.pack("<IQQ", 3, len(offsets), 0)
            for name, offset in zip("abc", offsets, strict=False):
                head += gguf_text(name) + struct.pack("<IQIQ", 1, 16, 0, offset)
            return head + bytes(-len(head) % 32) + bytes(256)

        refused(with_tensors(0, 8), "tensor 'b': offset 8 is not a multiple of 32")
        refused(with_tensors(0, 32), "tensor 'b': overlaps the tensor before, which ends at 64")
        refused(with_tensors(0, 2**63), "tensor 'b': 64 bytes at offset 9223372036854775808 are beyond the end")
        refused(gguf(LLAMA, {}), "no 'blk.0.attn_q.weight' or 'blk.0.attn_qkv.weight', and no prefix")
        head = b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + 2 * (gguf_text("a") + struct.pack("<IQIQ", 1, 0, 0, 0)) + bytes(64)
        refused(head, "tensor 'a': is given twice")


if __name__ == "__main__":
    unittest.main()
