# SPDX-License-Identifier: Apache-2.0
"""Compiles the ```c, ```cpp and ```cmake blocks of every page (*.md) of the project against an installed mha.

    readme_snippets.py <source tree> <install prefix> <work folder>

A block with `int main` is built as a program and run. Another c or cpp block is put into a function, its #include lines
above it, and compiled. A cmake block becomes the CMakeLists.txt of a project around tests/consumers/main.c, with what it
leaves out (project, add_executable) added; add_subdirectory and FetchContent get this source tree. A block whose info
string says `fragment` ("```c fragment") is left alone. The `export` and `cc` lines of an sh block are run beside a main.c
which is the first C program of the page, with the installed prefix in place of /opt/mha; the targets of all `make`
commands of a page must be in the Makefile.
"""

import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "docs"))
from pages import markdown_files

FENCE = re.compile(r"^```(c|cpp|cmake|sh)( fragment)?[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
MAKE = re.compile(r"(?:^|`)make ([a-z-]+)", re.MULTILINE)
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
    baseline = "sse2" if platform.machine() in ("x86_64", "AMD64") else "neon"  # all targets would take minutes
    places = [f"-DCMAKE_PREFIX_PATH={env['MHA_PREFIX']}", f"-DFETCHCONTENT_SOURCE_DIR_MHA={root}"]
    run(["cmake", "-S", ".", "-B", "build", *places, f"-DMHA_TARGETS={baseline}"], folder, env)
    run(["cmake", "--build", "build", "-j", str(os.cpu_count())], folder, env)


def shell_block(text, program, folder, env):
    (folder / "main.c").write_text(program)
    lines = [line for line in text.splitlines() if line.startswith(("cc ", "export "))]
    script = "\n".join(["set -e", *lines]).replace("/opt/mha", env["MHA_PREFIX"])
    if lines:
        run(["sh", "-c", script], folder, env)
    return bool(lines)


def first_program(content):
    programs = [text for language, _, text in FENCE.findall(content) if language == "c" and "int main" in text]
    return programs[0] if programs else ""


def main():
    root, prefix, work = (pathlib.Path(argument).resolve() for argument in sys.argv[1:4])
    pkg_config = next(prefix.glob("**/mha.pc")).parent
    env = dict(os.environ, PKG_CONFIG_PATH=str(pkg_config), MHA_PREFIX=str(prefix))
    shutil.rmtree(work, ignore_errors=True)
    counts = {"compiled": 0, "fragments": 0}
    make_targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    for page in markdown_files(root):
        content = (root / page).read_text()
        for target in MAKE.findall(content):
            if target not in make_targets:
                sys.exit(f"{page}: 'make {target}' is not a target of the Makefile")
        for match in FENCE.finditer(content):
            language, fragment, text = match.groups()
            where = f"{page}:{content.count(chr(10), 0, match.start()) + 1}"
            if fragment:
                counts["fragments"] += 1
                continue
            folder = work / f"{len(list(work.glob('*'))) if work.exists() else 0}"
            folder.mkdir(parents=True)
            try:
                if language == "cmake":
                    cmake_block(text, folder, env, root)
                elif language == "sh":
                    if not shell_block(text, first_program(content), folder, env):
                        continue  # only its make targets were looked at
                else:
                    code_block(language, text, folder, env)
            except subprocess.CalledProcessError as error:
                sys.exit(f"{where}: the {language} block failed: {' '.join(map(str, error.cmd))}")
            print(f"{where}: {language} block is good")
            counts["compiled"] += 1
    if counts["compiled"] == 0:
        sys.exit("no code block found in any page")
    print(f"{counts['compiled']} blocks compiled, {counts['fragments']} left alone")


if __name__ == "__main__":
    main()
