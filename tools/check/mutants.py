# SPDX-License-Identifier: Apache-2.0
"""Tries the mutants of mutants.txt: small changes of the library, each of which must turn tests red.

    mutants.py copy <checkout> <folder>                    copies the sources to <folder>/tree
    mutants.py try <folder> <target> <jobs> <part>/<parts> [name]...   after <folder>/build has been built of that tree

A mutant is compiled in a tree of its worker's: the objects that include the changed file, by the commands of the build.
They are linked before the library, so that the linker takes nothing else for them from it.

Most of the time goes into the kernels. Without those of codes and of BF16 they compile in a quarter of it, so a mutant of
a kernel is first tried with these few, if its tests are green with them; if it survives there, with all of them.
"""

import json
import os
import queue
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

COPIED = ["CMakeLists.txt", "LICENSE", "core", "simd", "tests", "tools"]
# A mutant may make a loop endless. Tests that take this many seconds, and this many times as long as before, hang.
LEAST_SECONDS, TIMES = 60, 10
FEW_KERNELS = ["-DMHA_NO_CODES=1", "-DMHA_NO_BF16=1"]
KEYS = ("name", "file", "old", "new", "test")


class Problem(Exception):
    pass


def sync(source, destination):
    """Makes `destination` a copy of a folder; what is the same already keeps its time, so that nothing is rebuilt."""
    destination.mkdir(parents=True, exist_ok=True)
    names = {entry.name for entry in source.iterdir() if entry.name != "__pycache__"}
    for entry in destination.iterdir():
        if entry.name not in names:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for name in names:
        copy(source / name, destination / name)


def copy(source, destination):
    if source.is_dir():
        sync(source, destination)
    elif not destination.exists() or source.read_bytes() != destination.read_bytes():
        shutil.copy(source, destination)


def copy_tree(source, destination):
    destination.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        copy(source / name, destination / name)


def read_mutants(path):
    """Entries are apart by empty lines; each is some lines `key: value`, values as they are after the first space."""
    mutants, entry = [], {}
    for number, line in enumerate([*path.read_text().split("\n"), ""], 1):
        if line.startswith("#"):
            continue
        if line.strip():
            key, colon, value = line.partition(":")
            if colon != ":" or key in entry or key not in (*KEYS, "target"):
                raise Problem(f"{path.name}:{number}: not `key: value`, or a key twice: {line}")
            entry[key] = value.strip()
        elif entry:
            missing = [key for key in KEYS if key not in entry]
            if missing:
                raise Problem(f"{path.name}:{number}: an entry without {', '.join(missing)}")
            mutants.append(entry)
            entry = {}
    names = [mutant["name"] for mutant in mutants]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise Problem(f"{path.name}: names that are there twice: {', '.join(sorted(twice))}")
    return mutants


class Build:
    """What the build of the unchanged tree says: commands, which objects include which file, how tests are linked."""

    def __init__(self, folder, target):
        self.folder, self.tree = folder / "build", folder / "tree"
        commands = json.loads((self.folder / "compile_commands.json").read_text())
        self.compile = {}
        for c in commands:
            words = shlex.split(c["command"])
            obj = os.path.relpath(self.folder / words[words.index("-o") + 1], self.folder)
            self.compile[obj] = words
            if c["file"].endswith(f"/{target}.cpp"):
                self.kernels = obj
        self.users = {}
        obj = None
        for line in self.ninja("-t", "deps").splitlines():
            if line and not line.startswith(" "):
                obj = line.split(": #deps")[0]
            elif line.strip():
                file = os.path.relpath(os.path.join(self.folder, line.strip()), self.tree)
                self.users.setdefault(file, []).append(obj)
        link = shlex.split(self.ninja("-t", "commands", "-s", "tests/mha_tests").strip().splitlines()[-1])
        self.link = [word for word in link if word not in (":", "&&")]

    def ninja(self, *arguments):
        return subprocess.run(["ninja", "-C", str(self.folder), "--quiet", *arguments], check=True, text=True,
                              stdout=subprocess.PIPE).stdout

    def objects_of(self, file):
        """The objects that go into the tests and include a file, the library's and the tests'."""
        linked = [o for o in self.users.get(file, []) if o in self.link]
        return [o for o in self.users.get(file, []) if o.startswith("CMakeFiles/mha.dir/")], linked


def run_tests(executable, test, seconds):
    """(whether they passed, how long they took, the last line)."""
    begin = time.monotonic()
    try:
        done = subprocess.run([str(executable), "--abort", *shlex.split(test)], timeout=seconds, text=True,
                              errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except subprocess.TimeoutExpired:
        return False, seconds, "hangs"
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    passed = done.returncode == 0 and any(line.startswith("All tests passed") for line in lines)
    return passed, time.monotonic() - begin, lines[-1] if lines else f"ends with {done.returncode}"


class Worker:
    def __init__(self, build, folder):
        self.build, self.folder, self.tree = build, folder, folder / "tree"
        copy_tree(build.tree, self.tree)

    def moved(self, words, output):
        """A command of the build, in this worker's tree, with another output."""
        words = [word.replace(str(self.build.tree), str(self.tree)) for word in words]
        words[words.index("-o") + 1] = str(output)
        return words

    def run(self, words):
        return subprocess.run(words, cwd=self.build.folder, text=True, errors="replace", stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)

    def make(self, own, linked, few):
        """The tests with these objects compiled anew; None: one does not compile. few: with FEW_KERNELS."""
        made = {}
        for number, obj in enumerate(own + linked):
            made[obj] = str(self.folder / f"{number}.o")
            words = self.moved(self.build.compile[obj], made[obj])
            if few and obj == self.build.kernels:
                words += FEW_KERNELS
            if self.run(words).returncode != 0:
                return None
        executable = self.folder / "mha_tests"
        words = self.moved(self.build.link, executable)
        words = [made.get(word, word) for word in words]
        words[words.index("libmha.a"):words.index("libmha.a")] = [made[obj] for obj in own]
        done = self.run(words)
        if done.returncode != 0:
            raise Problem(f"cannot link: {done.stdout.strip().splitlines()[-1]}")
        return executable

    def attempt(self, mutant, few, seconds):
        """(how it ended, what was seen) of a mutant."""
        file = self.tree / mutant["file"]
        text = file.read_text() if file.is_file() else ""
        if text.count(mutant["old"]) != 1:
            return "pattern not found", f"{text.count(mutant['old'])} times in {mutant['file']}"
        own, linked = self.build.objects_of(mutant["file"])
        if not own and not linked:
            raise Problem(f"{mutant['file']} is in no object of the tests")
        file.write_text(text.replace(mutant["old"], mutant["new"]))
        try:
            executable = self.make(own, linked, few)
        finally:
            file.write_text(text)
        if executable is None:
            return "does not compile", ""
        passed, _, seen = run_tests(executable, mutant["test"], seconds)
        return ("SURVIVED" if passed else "killed"), seen


class Unchanged:
    """The tests without a change, built with all kernels and with few: which filters are green, each run when asked for."""

    def __init__(self, build, few):
        self.executables = {False: build.folder / "tests/mha_tests", True: few}
        self.limits, self.locks, self.lock = {}, {}, threading.Lock()

    def limit(self, test, few):
        """Seconds that the tests may take of a mutant; None: they are red without one."""
        with self.lock:
            own = self.locks.setdefault((test, few), threading.Lock())
        with own:
            if (test, few) not in self.limits:
                passed, seconds, seen = run_tests(self.executables[few], test, 600)
                self.limits[test, few] = max(LEAST_SECONDS, TIMES * seconds) if passed else None
                if not passed and not few:
                    raise Problem(f"red without any change: {test}: {seen}")
            return self.limits[test, few]


def run_parallel(jobs, work, items):
    """Calls work(worker number, item) for all items on so many threads."""
    waiting = queue.Queue()
    for item in items:
        waiting.put(item)
    failures = []

    def loop(number):
        while not failures:
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                work(number, item)
            except Exception as failure:  # pylint: disable=broad-except
                failures.append(failure)

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def try_all(folder, target, jobs, part, names):
    """Of the whole list every n-th where `part` is k/n, but all where names are given."""
    mutants = read_mutants(Path(__file__).with_name("mutants.txt"))
    others = [m for m in mutants if m.get("target", target) != target]
    mutants = [m for m in mutants if m.get("target", target) == target]
    listed = len(mutants)
    if names:
        mutants = [m for m in mutants if any(m["name"].startswith(name) for name in names)]
    else:
        number, parts = (int(word) for word in part.split("/"))
        mutants = mutants[number::parts]
    if not mutants:
        raise Problem("no mutant has such a name")
    build = Build(folder, target)
    workers = [Worker(build, folder / f"worker{number}") for number in range(jobs)]
    few_kernels = workers[0].make([build.kernels], [], few=True)
    if few_kernels is None:
        raise Problem("kernels without those of codes and BF16 do not compile")
    unchanged = Unchanged(build, few_kernels.rename(folder / "few_kernels"))
    ends, lock = {}, threading.Lock()

    def try_one(number, mutant):
        start = time.monotonic()
        end, seen, kinds = None, None, [False]
        if build.kernels in build.users.get(mutant["file"], []):
            kinds.insert(0, True)
        for few in kinds:
            limit = unchanged.limit(mutant["test"], few)
            if limit is not None:
                end, seen = workers[number].attempt(mutant, few, limit)
            if end == "killed":
                break
        with lock:
            ends[mutant["name"]] = end
            print(f"{end:17} {time.monotonic() - start:5.0f} s  {mutant['name']}  [{mutant['test']}]"
                  + (", few kernels" if few else "") + ("" if end == "killed" else f"  {seen}"), flush=True)

    run_parallel(jobs, try_one, mutants)
    if others:
        print(f"{len(others)} mutants are for other targets")
    left = [name for name, end in ends.items() if end != "killed"]
    if left:
        print(f"{len(ends)} mutants, {len(left)} not killed: " + "; ".join(sorted(left)))
        return 1
    print(f"{len(ends)} of {listed} mutants, all killed")
    return 0


def main():
    arguments = sys.argv[1:]
    try:
        if len(arguments) == 3 and arguments[0] == "copy":
            copy_tree(Path(arguments[1]), Path(arguments[2]).resolve() / "tree")
            return 0
        if len(arguments) >= 5 and arguments[0] == "try":
            return try_all(Path(arguments[1]).resolve(), arguments[2], int(arguments[3]), arguments[4], arguments[5:])
        raise Problem("mutants.py copy <checkout> <folder> | try <folder> <target> <jobs> <part>/<parts> [name]...")
    except Problem as problem:
        print(f"mutants: {problem}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
