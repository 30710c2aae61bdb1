# SPDX-License-Identifier: Apache-2.0
"""The man page and the completion scripts, which `mha man` and `mha completion` make from the options of the command: they name
every command and option of --help, roff and the shells read them without a complaint, and bash completes what it should."""

import re
import shutil
import subprocess
import unittest

from command import CommandTest, f32_bytes, floats, npy, safetensors

COMMANDS = ["info", "run", "quantize", "bench", "verify", "notebook", "explain"]
CALLS = ["attention", "linear", "layer"]
# Small sizes, so that it takes little time.
BENCH = ["--num-heads", "2", "--num-kv-heads", "2", "--head-dim", "32", "--length", "8", "--keys", "8", "--layer-length", "8",
         "--rows", "1", "--in-features", "64", "--out-features", "32", "--repetitions", "1", "--min-time", "0"]  # fmt: skip


def options_of(text):
    return set(re.findall(r"^  (?:-h,)?(--[a-z0-9-]+)", text, re.MULTILINE))


class Shell(CommandTest):
    def all_options(self):
        """What --help of every command lists."""
        paths = [[c] for c in COMMANDS if c != "explain"] + [["explain", c] for c in CALLS]
        return {" ".join(path): options_of(self.ok(*path, "--help")) for path in paths}

    def test_man_page(self):
        page = self.ok("man")
        version = self.ok("--version").strip()
        self.assertIn(f'.TH MHA 1 "" "mha {version}"', page)
        for path, options in self.all_options().items():
            start = page.index(f".SS mha {path}\n")
            section = page[start : page.find("\n.SS ", start)].replace("\\-", "-")
            for option in options - {"--help"}:
                self.assertIn(f"\\fB{option}\\fR", section, path)
        for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "EXIT STATUS", "ENVIRONMENT", "FILES"):
            self.assertIn(f".SH {heading}\n", page)

    def test_roff_reads_it(self):
        if shutil.which("groff") is None:
            self.skipTest("groff is not installed")
        page = self.ok("man")
        done = subprocess.run(["groff", "-man", "-ww", "-Tascii"], input=page, capture_output=True, text=True, check=True)
        self.assertEqual(done.stderr, "")
        text = re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout)
        self.assertIn("--attention-weights", text)
        self.assertIn("mha explain layer", text)

    def complete(self, *words):
        """What bash offers for the last word."""
        self.write("mha.bash", self.ok("completion", "bash").encode())
        quoted = " ".join(f"'{word}'" for word in ("mha", *words))
        script = f'source ./mha.bash; COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _mha; printf "%s\\n" "${{COMPREPLY[@]}}"'
        done = subprocess.run(["bash", "-u", "-c", script], cwd=self.folder, capture_output=True, text=True, check=True)
        self.assertEqual(done.stderr, "")
        return set(done.stdout.split())

    def test_bash(self):
        self.assertEqual(self.complete(""), {*COMMANDS, "--help", "--version"})
        self.assertEqual(self.complete("ve"), {"verify"})
        self.assertEqual(self.complete("explain", ""), {*CALLS, "--help"})
        self.assertEqual(self.complete("explain", "layer", "--kd"), {"--kdim"})
        for path, options in self.all_options().items():
            self.assertEqual(self.complete(*path.split(), "--"), options, path)
        self.assertEqual(self.complete("run", "--arithmetic", ""), {"f32", "bf16", "int8"})
        self.assertEqual(self.complete("bench", "--output", "j"), {"json"})
        self.assertEqual(self.complete("run", "--repeat", ""), set())
        self.write("weights.gguf", b"")
        self.assertEqual(self.complete("run", "--weights", "wei"), {"weights.gguf"})
        self.assertEqual(self.complete("run", "--output", "wei"), {"weights.gguf"})
        # The command of an option's value is not taken for a subcommand of another.
        self.assertIn("--rows", self.complete("explain", "linear", "--"))
        self.assertNotIn("--rows", self.complete("run", "--prefix", "linear", "--"))

    def calls_with_words(self):
        """For each command: arguments with which it runs, and what an option, or a word of one, needs beside them."""
        self.write("w.safetensors", safetensors({f"{n}_proj.weight": ("F32", (32, 32), f32_bytes(floats(1024, 1))) for n in "qkvo"}))
        self.write("x.npy", npy((3, 32), floats(96, 2)))
        weights = ["--weights", "w.safetensors", "--num-heads", "2", "--output", "y"]
        sizes = ["--query-len", "3", "--key-len", "64"]
        needs = {"--align offset": ["--offset", "1"], "--causal offset": ["1"], "--weights-dtype": ["--weights-mode", "per-head"],
                 "--rope-scaling": ["--rope"], "--rope-scaling linear": ["--rope-factor", "2"], "--add-mask2": ["--add-mask"],
                 "--rope-scaling llama3": ["--rope-factor", "2", "--rope-original-positions", "99"], "--cache ring": ["--window-left", "9"],
                 "--rope-scaling yarn": ["--rope-factor", "2", "--rope-original-positions", "99"], "--cache-key": ["--cache", "paged"],
                 "--cache-value": ["--cache", "paged"], "--cache-use": ["--cache", "paged"]}  # fmt: skip
        codes = {f"--weight-layout {word}": ["--weight-dtype", "u4:group=16"] for word in ("gptq", "gptq-v2", "awq")}
        int8 = {"--arithmetic int8": ["--key-dtype", "i8", "--value-dtype", "i8"]}
        of_cache = {"--attention-arithmetic int8": ["--cache", "paged", "--cache-key", "i8", "--cache-value", "i8"]}
        written = {f"--weights-mode {word}": ["--attention-weights", "z"] for word in ("per-head", "averaged", "key-sums")}
        run = ["--query", "x.npy", *weights]
        packed = {"--scale-dtype": ["--dtype", "i8"], "--arithmetic f32": ["--dtype", "i8"], "--arithmetic bf16": ["--dtype", "bf16"],
                  "--arithmetic int8": ["--dtype", "i8"]}  # fmt: skip
        return {
            "run": (run, {**needs, **written}),
            "quantize": (weights, packed),
            "bench": (BENCH, {}),
            "explain attention": (["--num-heads", "2", "--head-dim", "32", *sizes], {**needs, **int8}),
            "explain layer": (["--num-heads", "2", "--embed-dim", "64", *sizes], {**needs, **codes, **of_cache}),
            "explain linear": (["--rows", "2", "--in-features", "64", "--out-features", "32"], codes),
        }

    def test_words_are_values(self):
        """What is offered as a value is taken as one, for every option that offers words."""
        script, tried = self.ok("completion", "bash"), 0
        for path, (base, needs) in self.calls_with_words().items():
            section = re.search(rf"^    '{path}'\) case \"\$prev\" in\n(.*?)^    esac", script, re.MULTILINE | re.DOTALL).group(1)
            for option, words in re.findall(r"^ +(--[a-z0-9-]+)\) COMPREPLY=\(\$\(compgen -W '([^']*)'", section, re.MULTILINE):
                if option == "--target":  # below: this CPU does not run every one
                    continue
                for word in words.split():
                    beside = [*needs.get(option, []), *needs.get(f"{option} {word}", [])]
                    if path == "run" and word == "int8" and option == "--attention-arithmetic":
                        continue  # its keys are floats: refused by the library
                    self.ok(*path.split(), *base, option, word, *beside)
                    tried += 1
        self.assertGreater(tried, 100)
        targets = self.complete("info", "--target", "")
        self.assertEqual(targets, {target["name"] for target in self.ok_json("info", "--json")["targets"]})

    def parses(self, shell, *check):
        script = self.ok("completion", shell)
        for options in self.all_options().values():
            for option in options:
                self.assertIn(option if shell != "fish" else f"-l {option[2:]} ", script)
        if shutil.which(shell) is None:
            self.skipTest(f"{shell} is not installed: its syntax is not checked")
        self.write("script", script.encode())
        done = subprocess.run([shell, *check, "script"], cwd=self.folder, capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_bash_syntax(self):
        self.parses("bash", "-n")

    def test_zsh_syntax(self):
        self.parses("zsh", "-n")

    def test_fish_syntax(self):
        self.parses("fish", "-n")

    def test_refused(self):
        self.refused("'tcsh' must be bash, zsh or fish", "completion", "tcsh")
        self.refused("shell is required", "completion")


if __name__ == "__main__":
    unittest.main(verbosity=2)  # so that what is skipped says why
