# SPDX-License-Identifier: Apache-2.0
"""What the scripts of this folder share: the `mha` command as a process (MHA_CLI is its path), and the files that it reads,
written byte by byte with the standard library alone."""

import json
import os
import struct
import subprocess
import tempfile
import unittest

MHA = os.environ.get("MHA_CLI", "build/tools/mha")

# The types of GGUF, by their number in a file.
GGUF_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "Q4_K": 12, "BF16": 30}


class CommandTest(unittest.TestCase):
    """A folder of its own for each test, which is the command's working directory."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="mha_test_")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, data):
        with open(self.path(name), "wb") as file:
            file.write(data)

    def run_mha(self, *arguments, **environment):
        env = dict(os.environ, **environment)
        return subprocess.run([MHA, *arguments], cwd=self.folder, env=env, capture_output=True, text=True, check=False)

    def ok(self, *arguments):
        done = self.run_mha(*arguments)
        self.assertEqual(done.returncode, 0, f"mha {' '.join(arguments)}: {done.stderr}")
        self.assertEqual(done.stderr, "", arguments)
        return done.stdout

    def ok_json(self, *arguments):
        return json.loads(self.ok(*arguments))

    def refused(self, part, *arguments):
        """Status 2, nothing on stdout, one line on stderr with `part` in it."""
        done = self.run_mha(*arguments)
        what = f"mha {' '.join(arguments)}: {done.stderr}"
        self.assertEqual(done.returncode, 2, what)
        self.assertEqual(done.stdout, "", what)
        self.assertTrue(done.stderr.startswith("mha: ") and done.stderr.endswith("\n"), what)
        self.assertEqual(done.stderr.count("\n"), 1, what)
        self.assertIn(part, done.stderr)


def floats(count, seed):
    """Numbers of [-1, 1) that are exact in f32."""
    state, made = seed * 2654435761 + 12345, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        made.append((state >> 40) / 2**23 - 1)
    return made


def f32_bytes(values):
    return struct.pack(f"<{len(values)}f", *values)


def f16_bytes(values):
    return struct.pack(f"<{len(values)}e", *values)


def bf16_bytes(values):
    """Cut, not rounded: any bits serve a test."""
    return b"".join(struct.pack("<f", value)[2:] for value in values)


def widened_f16(data):
    return list(struct.unpack(f"<{len(data) // 2}e", data))


def widened_bf16(data):
    return [struct.unpack("<f", b"\0\0" + data[at : at + 2])[0] for at in range(0, len(data), 2)]


def round_f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def q8_0(values):
    """ggml's blocks of 32 codes with an f16 scale, and the floats that they stand for."""
    data, wide = b"", []
    for at in range(0, len(values), 32):
        block = values[at : at + 32]
        scale = widened_f16(f16_bytes([max(abs(x) for x in block) / 127]))[0]
        codes = [max(-128, min(127, round(x / scale))) for x in block]
        data += f16_bytes([scale]) + struct.pack("<32b", *codes)
        wide += [round_f32(scale * code) for code in codes]
    return data, wide


def q4_0(values):
    """The same with codes of 4 bits: element n of the first half is the lower nibble of byte n."""
    data, wide = b"", []
    for at in range(0, len(values), 32):
        block = values[at : at + 32]
        scale = widened_f16(f16_bytes([max(block, key=abs) / -8]))[0]
        codes = [max(0, min(15, round(x / scale) + 8)) for x in block]
        data += f16_bytes([scale]) + bytes(codes[n] | codes[n + 16] << 4 for n in range(16))
        wide += [round_f32(scale * (code - 8)) for code in codes]
    return data, wide


def npy(shape, values):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({', '.join(map(str, shape))},), }}"
    header += " " * (-(10 + len(header) + 1) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + f32_bytes(values)


def read_npy(path):
    with open(path, "rb") as file:
        data = file.read()
    return data[10 + struct.unpack("<H", data[8:10])[0] :]


def safetensors(tensors):
    """{name: (dtype, shape, bytes)} as a file."""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def gguf_text(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf_value(value):
    """A metadata value with its type: integers are UINT32, lists of them arrays, floats FLOAT32, texts STRING."""
    if isinstance(value, list) and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(gguf_text(each) for each in value)
    if isinstance(value, list):
        return struct.pack("<IIQ", 9, 4, len(value)) + struct.pack(f"<{len(value)}I", *value)
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    return struct.pack("<I", 8) + gguf_text(value)


def gguf(metadata, tensors, alignment=32, version=3):
    """{name: (type, shape, bytes)} as a file; shapes are torch's, the file has them the other way round."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += gguf_text(key) + gguf_value(value)
    data = b""
    for name, (kind, shape, raw) in tensors.items():
        data += bytes(-len(data) % alignment)
        number = GGUF_TYPES.get(kind, kind)
        head += gguf_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += struct.pack("<IQ", number, len(data))
        data += raw
    return head + bytes(-len(head) % alignment) + data
