# SPDX-License-Identifier: Apache-2.0
"""`mha bench` at small sizes: every combination is timed or listed with the library's message, figures follow from times, runs are
compared, and files of other programs are refused. Nothing is asserted about speed."""

import json
import os
import pty
import subprocess
import unittest

from command import MHA, CommandTest

SMALL = ["--num-heads", "4", "--num-kv-heads", "2", "--head-dim", "32", "--length", "20", "--keys", "40", "--layer-length", "9",
         "--rows", "1,20", "--in-features", "64", "--out-features", "48", "--min-time", "0", "--repetitions", "3"]  # fmt: skip
FORMATS = ["f32", "f16", "bf16", "i8", "i4:group=32:scales=f16", "q8_0", "q4_0"]


def small_without(given):
    """SMALL except for the options that are given again: an option is taken once."""
    pairs = zip(SMALL[::2], SMALL[1::2], strict=True)
    return [word for name, value in pairs if name not in given for word in (name, value)]


class Bench(CommandTest):
    def bench(self, *arguments):
        return self.ok_json("bench", *small_without(arguments), "--output", "json", *arguments)

    def test_every_combination(self):
        report = self.bench("--threads", "1,2")
        self.assertEqual(report["schema"], "mha-bench-1")
        seen = {(r["case"], r["format"], r["arithmetic"], r["threads"]) for r in report["results"]}
        missing = {(u["case"], u["format"], u["arithmetic"]) for u in report["unsupported"]}
        cases = ["prefill B 1 H 4/2 D 32 T 20", "decode B 1 H 4/2 D 32 Tk 40", "linear M 1 K 64 N 48", "linear M 20 K 64 N 48",
                 "layer B 1 H 4/2 D 32 T 9"]  # fmt: skip
        for case in cases:
            for kind in FORMATS:
                for arithmetic in ("f32", "bf16", "int8"):
                    timed = {threads for threads in (1, 2) if (case, kind, arithmetic, threads) in seen}
                    listed = (case, kind, arithmetic) in missing
                    self.assertTrue(timed == {1, 2} and not listed or not timed and listed, (case, kind, arithmetic))
                self.assertIn((case, kind, "f32", 1), seen)
        for unsupported in report["unsupported"]:
            self.assertGreater(len(unsupported["message"]), 10)
        self.assertIn((cases[0], "i8", "int8", 1), seen)
        self.assertIn((cases[0], "f32", "int8"), missing)

    def test_figures(self):
        # Decode: 40 keys and 40 values of 32 elements in each of 2 heads.
        operations = {"prefill": 4 * 4 * 32 * 20 * 21 / 2, "decode": 4 * 4 * 32 * 40,
                      "layer": 4 * 4 * 32 * 9 * 10 / 2 + 2 * 9 * 128 * 2 * (128 + 64)}  # fmt: skip
        tokens = {"prefill": 20, "decode": 1, "layer": 9}
        for result in self.bench("--threads", "1", "--arithmetic", "f32")["results"]:
            seconds, kind = result["seconds"], result["kind"]
            self.assertGreater(seconds, 0)
            self.assertGreaterEqual(result["spread"], 0)
            self.assertEqual(result["repetitions"], 3)
            rows = int(result["case"].split()[2]) if kind == "linear" else 0
            count = operations.get(kind, 2 * rows * 64 * 48)
            self.assertAlmostEqual(result["gflops"] * seconds * 1e9, count, delta=1e-3 * count)
            self.assertAlmostEqual(result["tokens_per_second"] * seconds, tokens.get(kind, rows), delta=1e-3 * tokens.get(kind, rows))
            size = {"f32": 32 * 4, "f16": 64, "bf16": 64, "i8": 32 + 4, FORMATS[4]: 16 + 2, "q8_0": 34, "q4_0": 18}[result["format"]]
            if kind == "decode":
                self.assertAlmostEqual(result["gbytes_per_second"] * seconds * 1e9, 2 * 40 * 2 * size, delta=1)
            else:
                self.assertEqual(result["gbytes_per_second"] is None, kind != "linear" or rows != 1)

    def test_table(self):
        text = self.ok("bench", *SMALL, "--threads", "1", "--kinds", "decode", "--formats", "f32,i8", "--arithmetic", "f32,int8")
        self.assertIn("| case | format | arithmetic | threads | time | spread | tokens/s | GFLOP/s | GB/s |", text)
        self.assertEqual(sum(line.startswith("| decode B 1 H 4/2 D 32 Tk 40 | ") for line in text.splitlines()), 4)
        self.assertIn("Not supported:", text)

    def test_lists_of_sizes(self):
        report = self.bench("--threads", "1", "--kinds", "decode,prefill", "--formats", "f32", "--arithmetic", "f32", "--keys", "8,16",
                            "--batch", "1,2", "--num-heads", "2,4")  # fmt: skip
        self.assertEqual(len(report["results"]), 2 * 2 * 2 + 2 * 2)

    def test_compare(self):
        few = ["--threads", "1", "--kinds", "linear", "--formats", "f32", "--arithmetic", "f32", "--rows", "1,20"]
        old = self.bench(*few)
        # The first case a hundred times as fast before, the second a hundred times as slow, with no spread to hide it.
        for result, factor in zip(old["results"], (0.01, 100), strict=True):
            result["seconds"] *= factor
            result["spread"] = 0
        old["results"].append(dict(old["results"][0], case="linear M 3 K 64 N 48"))
        self.write("old.json", json.dumps(old).encode())
        comparison = self.bench(*few, "--compare", "old.json", "--repetitions", "1")["comparison"]
        self.assertEqual([c["verdict"] for c in comparison["changes"]], ["slower", "faster"])
        self.assertEqual((comparison["only_before"], comparison["only_after"], comparison["warnings"]), (1, 0, []))
        for change in comparison["changes"]:
            self.assertAlmostEqual(change["ratio"], change["seconds"] / change["seconds_before"], delta=1e-9 * change["ratio"])
        # A spread that is as great as the change hides it.
        for result in old["results"]:
            result["spread"] = 1e6
        old["target"] = "another"
        self.write("old.json", json.dumps(old).encode())
        text = self.ok("bench", *small_without(few), *few, "--compare", "old.json")
        self.assertIn("2 cases compared, 0 changed; 1 only in the earlier run, 0 only in this one", text)
        self.assertIn("- target: another before, ", text)
        self.assertNotIn("**", text)

    def test_progress_on_a_terminal(self):
        """What takes over a second says how far it is on stderr, if that is a terminal, and takes the line back."""
        one = ["--min-time", "0.3", "--rows", "1,2", "--threads", "1", "--kinds", "linear", "--formats", "f32", "--arithmetic", "f32"]
        arguments = ["bench", *small_without(one), *one]
        main, terminal = pty.openpty()
        done = subprocess.run([MHA, *arguments], cwd=self.folder, stdout=subprocess.PIPE, stderr=terminal, check=True)
        os.close(terminal)
        shown = os.read(main, 1 << 16).decode()
        os.close(main)
        self.assertRegex(shown, r"bench: [01] of 2, \d+ s")
        self.assertTrue(shown.endswith("\r\x1b[K"), repr(shown))
        self.assertNotIn(b"bench: ", done.stdout)

    def test_refused_files(self):
        good = self.bench("--threads", "1", "--kinds", "linear", "--formats", "f32", "--arithmetic", "f32")

        def refused(part, document):
            self.write("old.json", document if isinstance(document, bytes) else json.dumps(document).encode())
            self.refused("old.json: " + part, "bench", *SMALL, "--compare", "old.json")

        refused("is not JSON", b"{")
        refused("the file is no object", [])
        refused("the file has no 'schema'", {})
        refused("its schema is 'mha-bench-0', must be 'mha-bench-1'", {**good, "schema": "mha-bench-0"})
        refused("the file 'schema' is not a text", {**good, "schema": 1})
        refused("the file 'results' is not a list", {**good, "results": {}})
        refused("result 0 has no 'seconds'", {**good, "results": [{k: v for k, v in good["results"][0].items() if k != "seconds"}]})
        refused("result 0 'spread' is not a number", {**good, "results": [{**good["results"][0], "spread": "x"}]})
        refused("result 0 'seconds' is not a finite number of at least 0", {**good, "results": [{**good["results"][0], "seconds": -1}]})
        refused("result 0 took no time", {**good, "results": [{**good["results"][0], "seconds": 0}]})
        self.refused("missing.json: ", "bench", *SMALL, "--compare", "missing.json")

    def test_refused_options(self):
        for part, *arguments in (
            ("--kinds: 'x' is none of", "--kinds", "x"),
            ("--formats: 'f8' is no element type", "--formats", "f32,f8"),
            ("'group=2' belongs to codes", "--formats", "f16:group=2"),
            ("scales are computed here", "--formats", "i8:fixed"),
            ("--arithmetic is 'f16'", "--arithmetic", "f16"),
            ("--threads '0': 0 must be in [1, 1024]", "--threads", "0"),
            ("--keys '1,': '' is no integer", "--keys", "1,"),
            ("--rows '-1': -1 must be in", "--rows", "-1"),
            ("--output is 'xml'", "--output", "xml"),
            ("--repetitions is 0", "--repetitions", "0"),
            ("--min-time is -1", "--min-time", "-1"),
            ("no case could run: prefill B 1 H 3/2 D 32 T 20, f32: num_heads", "--kinds", "prefill", "--num-heads", "3"),
            ("beyond the limit of bench", "--kinds", "prefill", "--length", "16777216", "--num-heads", "4096", "--num-kv-heads", "4096"),
            ("no case could run: prefill", "--kinds", "prefill", "--formats", "f32", "--arithmetic", "int8"),
            ("nonsense", "--target", "nonsense"),
        ):
            self.refused(part, "bench", *small_without(arguments), *arguments)


if __name__ == "__main__":
    unittest.main()
