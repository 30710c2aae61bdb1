# SPDX-License-Identifier: Apache-2.0
"""`mha quantize`: the packed layer runs as the layer that it was made from, the errors are those of the roundings, and whatever
is wrong is refused in one line."""

import struct
import unittest

from command import CommandTest, f16_bytes, f32_bytes, floats, npy, read_npy, round_f32, safetensors, widened_f16

E, H, KV, D = 64, 4, 2, 16
SHAPES = {"q": (H * D, E), "k": (KV * D, E), "v": (KV * D, E), "o": (E, H * D)}
HEADS = ["--num-heads", str(H), "--num-kv-heads", str(KV)]
NAMES = {"q": "query", "k": "key", "v": "value", "o": "output"}


def int8_rows(values, columns):
    """Rows rounded to codes of 8 bits with a float scale for each, as the floats that they stand for."""
    wide = []
    for at in range(0, len(values), columns):
        row = values[at : at + columns]
        scale = round_f32(max(abs(x) for x in row) / 127)
        inverse = round_f32(1 / scale)
        wide += [round_f32(scale * max(-128, min(127, round(round_f32(x * inverse))))) for x in row]
    return wide


class Quantize(CommandTest):
    def setUp(self):
        super().setUp()
        self.weights = {name: floats(rows * columns, seed) for seed, (name, (rows, columns)) in enumerate(SHAPES.items(), 1)}
        self.write("w.safetensors", self.layer_file(self.weights))
        self.write("x.npy", npy((7, E), floats(7 * E, 9)))

    def layer_file(self, weights):
        return safetensors({f"{name}_proj.weight": ("F32", SHAPES[name], f32_bytes(values)) for name, values in weights.items()})

    def quantize(self, *arguments):
        return self.ok_json("quantize", "--weights", "w.safetensors", *HEADS, "--output", "layer.mha", "--json", *arguments)

    def run_blob(self, *arguments):
        report = self.ok_json("run", "--layer", "layer.mha", "--query", "x.npy", "--causal", "--output", "y.npy", "--json", *arguments)
        return read_npy(self.path("y.npy")), report

    def run_weights(self, weights, *arguments):
        self.write("other.safetensors", self.layer_file(weights))
        self.ok("run", "--weights", "other.safetensors", *HEADS, "--query", "x.npy", "--causal", "--output", "z.npy", *arguments)
        return read_npy(self.path("z.npy"))

    def test_round_trip(self):
        report = self.quantize("--dtype", "f32")
        self.assertEqual([p["max_error"] for p in report["projections"]], [0, 0, 0, 0])
        output, run = self.run_blob()
        self.assertEqual(output, self.run_weights(self.weights))
        self.assertEqual((run["embed_dim"], run["num_heads"], run["num_kv_heads"], run["head_dim"]), (E, H, KV, D))
        self.assertEqual(run["weights_stored"], "packed")

    def test_16_bits(self):
        report = self.quantize("--dtype", "f16")
        wide = {name: widened_f16(f16_bytes(values)) for name, values in self.weights.items()}
        self.assertEqual(self.run_blob()[0], self.run_weights(wide))
        for name, entry in zip(SHAPES, report["projections"], strict=True):
            self.check_errors(name, wide[name], entry)
        self.assertLess(report["bits_per_weight"], 18)

    def check_errors(self, name, wide, entry):
        given = self.weights[name]
        errors = [abs(a - b) for a, b in zip(wide, given, strict=True)]
        self.assertEqual((entry["name"], entry["elements"]), (NAMES[name], len(given)))
        self.assertAlmostEqual(entry["max_error"], max(errors), delta=1e-6)
        rms = (sum(e * e for e in errors) / len(errors)) ** 0.5
        rms_weight = (sum(x * x for x in given) / len(given)) ** 0.5
        self.assertAlmostEqual(entry["rms_error"], rms, delta=1e-6)
        self.assertAlmostEqual(entry["relative_error"], rms / rms_weight, delta=1e-5)

    def test_codes(self):
        report = self.quantize("--dtype", "i8")
        wide = {name: int8_rows(values, SHAPES[name][1]) for name, values in self.weights.items()}
        self.assertEqual(self.run_blob()[0], self.run_weights(wide))
        for name, entry in zip(SHAPES, report["projections"], strict=True):
            self.check_errors(name, wide[name], entry)
        # Fewer bits cost more, groups and zero points less.
        errors = {}
        for key, arguments in {
            "i8": ["--dtype", "i8"],
            "u8 zeros": ["--dtype", "u8", "--zero-points", "--group", "16", "--scale-dtype", "bf16"],
            "i4": ["--dtype", "i4"],
            "i4 groups": ["--dtype", "i4", "--group", "16", "--scale-dtype", "f16"],
            "u4 zeros": ["--dtype", "u4", "--group", "16", "--zero-points"],
        }.items():
            entry = self.quantize(*arguments)
            errors[key] = entry["projections"][0]["relative_error"]
            self.assertGreater(errors[key], 0)
            self.run_blob()
        self.assertLess(errors["i8"], errors["i4 groups"])
        self.assertLess(errors["i4 groups"], errors["i4"])
        self.assertLess(errors["u8 zeros"], errors["u4 zeros"])

    def test_arithmetic_and_scale(self):
        self.quantize("--dtype", "i8", "--arithmetic", "int8", "--scale", "0.5")
        output, run = self.run_blob()
        self.assertEqual((run["arithmetic"], run["attention_arithmetic"]), ("int8", "f32"))
        wide = {name: int8_rows(values, SHAPES[name][1]) for name, values in self.weights.items()}
        close = struct.unpack(f"<{7 * E}f", self.run_weights(wide, "--scale", "0.5"))
        got = struct.unpack(f"<{7 * E}f", output)
        self.assertLess(max(abs(a - b) for a, b in zip(got, close, strict=True)), 0.05 * max(map(abs, close)))
        self.assertNotEqual(got, close)

    def test_text(self):
        text = self.ok("quantize", "--weights", "w.safetensors", *HEADS, "--output", "l.mha", "--dtype", "i4", "--group", "32",
                       "--scale-dtype", "f16")  # fmt: skip
        self.assertIn("F32 -> i4, f16 scales of 32 inputs, arithmetic f32", text)
        for name in NAMES.values():
            self.assertIn(f"| {name} | ", text)
        self.assertIn("l.mha: ", text)

    def test_refused(self):
        base = ["quantize", "--weights", "w.safetensors", *HEADS, "--output", "layer.mha"]
        self.refused("--dtype is required", *base)
        self.refused("--dtype: 'i5' is no element type", *base, "--dtype", "i5")
        self.refused("--dtype is 'q8_0'", *base, "--dtype", "q8_0")
        self.refused("--scale-dtype: 'f8'", *base, "--dtype", "i8", "--scale-dtype", "f8")
        self.refused("group", *base, "--dtype", "i8", "--group", "24")
        self.refused("group", *base, "--dtype", "i8", "--group", "-16")
        self.refused("--arithmetic is 'i8'", *base, "--dtype", "i8", "--arithmetic", "i8")
        self.refused("--weights is required", "quantize", "--dtype", "i8", "--output", "o")
        self.refused("missing.safetensors: ", "quantize", "--weights", "missing.safetensors", "--dtype", "i8", "--output", "o", *HEADS)
        self.refused("/nonexistent/o: cannot write", *base[:-1], "/nonexistent/o", "--dtype", "i8")

    def test_refused_blobs(self):
        self.quantize("--dtype", "i8")
        with open(self.path("layer.mha"), "rb") as file:
            good = file.read()
        base = ["run", "--query", "x.npy", "--output", "y.npy", "--layer"]
        for bad in (b"", good[:10], good[:-1], b"x" + good[1:], bytes(len(good))):
            self.write("bad.mha", bad)
            self.refused("bad.mha: ", *base, "bad.mha")
        self.refused("w.safetensors: ", *base, "w.safetensors")
        self.refused("missing: ", *base, "missing")
        for other in (["--weights", "w.safetensors"], ["--num-heads", "4"], ["--scale", "1"], ["--arithmetic", "f32"], ["--prefix", "a."]):
            self.refused(" excludes ", *base, "layer.mha", *other)


if __name__ == "__main__":
    unittest.main()
