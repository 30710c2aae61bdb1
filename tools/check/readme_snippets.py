# SPDX-License-Identifier: Apache-2.0
"""Compiles the ```c, ```cpp and ```cmake blocks of every README.md against an installed mha.

    readme_snippets.py <source tree> <install prefix> <work folder>

A block with `int main` is built as a program and run. Another c or cpp block is put into a function, its #include lines
above it, and compiled. A cmake block becomes the CMakeLists.txt of a project around tests/consumers/main.c, with what it
leaves out (project, add_executable) added; add_subdirectory and FetchContent get this source tree. A block whose info
string says `fragment` ("```c fragment") is left alone.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

FENCE = re.compile(r"^```(c|cpp|cmake)( fragment)?[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
COMPILERS = {"c": ["cc", "-std=c11", "-x", "c"], "cpp": ["c++", "-std=c++17", "-x", "c++"]}
# Snippets may name variables that they leave unused.
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-variable", "-Wno-unused-but-set-variable"]


def run(command, cwd, env):
    subprocess.run(command, cwd=cwd, env=env, check=True, stdout=subprocess.DEVNULL)


def code_block(language, text, folder, env):
    source = folder / f"snippet.{language}"
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "mha"], env=env, check=True, capture_output=True, text=True)
    compiler = COMPILERS[language] + WARNINGS + [str(source), "-x", "none"]
    if re.search(r"\bint main\b", text):
        source.write_text(text)
        run(compiler + flags.stdout.split() + ["-o", "snippet"], folder, env)
        run(["./snippet"], folder, env)
        return
    lines = text.splitlines(keepends=True)
    includes = "".join(line for line in lines if line.startswith("#"))
    body = "".join(line for line in lines if not line.startswith("#"))
    header = "mha.hpp" if language == "cpp" else "mha.h"
    source.write_text(f"{includes}#include <mha/{header}>\nvoid snippet(void);\nvoid snippet(void) {{\n{body}}}\n")
    run(compiler + ["-c", "-o", "snippet.o"] + flags.stdout.split(), folder, env)


def cmake_block(text, folder, env, root):
    shutil.copy(root / "tests/consumers/main.c", folder / "main.c")
    for path in re.findall(r"add_subdirectory\(\s*([^\s)]+)", text):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(root)
    head = "" if "cmake_minimum_required(" in text else "cmake_minimum_required(VERSION 3.18)\n"
    head += "" if "project(" in text else "project(app LANGUAGES C)\n"
    if "add_executable(" not in text:
        name = re.search(r"target_link_libraries\(\s*(\S+)", text)
        head += f"add_executable({name.group(1) if name else 'app'} main.c)\n"
    (folder / "CMakeLists.txt").write_text(head + text)
    run(["cmake", "-S", ".", "-B", "build", f"-DCMAKE_PREFIX_PATH={env['MHA_PREFIX']}", f"-DFETCHCONTENT_SOURCE_DIR_MHA={root}"],
        folder, env)
    run(["cmake", "--build", "build"], folder, env)


def main():
    root, prefix, work = (pathlib.Path(argument).resolve() for argument in sys.argv[1:4])
    pkg_config = next(prefix.glob("**/mha.pc")).parent
    env = dict(os.environ, PKG_CONFIG_PATH=str(pkg_config), MHA_PREFIX=str(prefix))
    shutil.rmtree(work, ignore_errors=True)
    counts = {"compiled": 0, "fragments": 0}
    readmes = [root / "README.md", *sorted(root.glob("*/README.md"))]
    for readme in readmes:
        content = readme.read_text()
        for match in FENCE.finditer(content):
            language, fragment, text = match.groups()
            where = f"{readme.relative_to(root)}:{content.count(chr(10), 0, match.start()) + 1}"
            if fragment:
                counts["fragments"] += 1
                continue
            folder = work / f"{len(list(work.glob('*'))) if work.exists() else 0}"
            folder.mkdir(parents=True)
            try:
                if language == "cmake":
                    cmake_block(text, folder, env, root)
                else:
                    code_block(language, text, folder, env)
            except subprocess.CalledProcessError as error:
                sys.exit(f"{where}: the {language} block failed: {' '.join(map(str, error.cmd))}")
            print(f"{where}: {language} block is good")
            counts["compiled"] += 1
    if counts["compiled"] == 0:
        sys.exit("no code block found in any README.md")
    print(f"{counts['compiled']} README blocks compiled, {counts['fragments']} left alone")


if __name__ == "__main__":
    main()
