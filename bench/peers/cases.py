# SPDX-License-Identifier: Apache-2.0
"""The cases: names and sizes are those of mha_bench (bench/main.cpp), so that the tables can be read side by side."""

import re
from dataclasses import dataclass, field

import decode_inputs


@dataclass(frozen=True)
class Case:
    """One call: a family (which operation), its sizes by name, and the threads that both sides may use."""

    name: str  # which tells one from another
    family: str = field(compare=False)
    threads: int = field(compare=False)
    sizes: dict[str, int] = field(compare=False)
    quick: bool = field(compare=False)

    def __getitem__(self, key: str) -> int:
        return self.sizes[key]


def make(family: str, threads: int, quick: bool, **sizes: int) -> Case:
    parts = [family] + [f"{key}:{value}" for key, value in sizes.items()]
    if family in decode_inputs.FAMILIES:
        parts.append("cache:contiguous")
    if family == "notebook_f32":  # its sizes are not in its name: the notebook has one call
        return Case(family, family, threads, sizes, quick)
    return Case("/".join([*parts, f"threads:{threads}"]), family, threads, sizes, quick)


def linear_cases(threads: int) -> list[Case]:
    cases = [make("linear_f32", threads, m in (1, 8, 128, 512), M=m, N=1024, K=1024)
             for m in (1, 4, 8, 32, 128, 512, 1024)]  # fmt: skip
    if threads == 1:
        cases += [make("linear_f32", threads, False, M=m, N=4096, K=4096) for m in (1, 128)]
    return cases


def attention(threads: int, quick: bool, Tq: int, Tk: int, H: int, Hkv: int, D: int, causal: int) -> Case:
    return make("attention_f32", threads, quick, Tq=Tq, Tk=Tk, H=H, Hkv=Hkv, D=D, causal=causal)


def attention_cases(threads: int) -> list[Case]:
    cases = [attention(threads, t in (128, 1024), t, t, 8, 8, 64, causal)
             for t in (128, 512, 1024, 2048, 4096) for causal in (0, 1)]  # fmt: skip
    cases += [attention(threads, not causal, 1024, 1024, 8, 8, 128, causal) for causal in (0, 1)]
    if threads == 1:
        cases += [attention(threads, d in (80, 256), 512, 512, 8, 8, d, 0) for d in (40, 72, 80, 96, 256)]
    cases += [attention(threads, t < 16384, 1, t, 32, hkv, 128, 0) for t in (1024, 4096, 16384) for hkv in (8, 32)]
    if threads == 1:
        cases.append(make("attention_weights_f32", threads, True, Tq=512, Tk=512, H=8, Hkv=8, D=64, causal=0))
    return cases


def forward_cases(threads: int) -> list[Case]:
    cases = [make("forward_f32", threads, t in (1, 128), B=1, T=t, E=768, H=12) for t in (1, 16, 128, 512)]
    if threads == 2:
        cases.append(make("forward_f32", threads, True, B=8, T=128, E=384, H=12))
    if threads == 1:
        cases.append(make("notebook_f32", threads, True, Tq=1, Tk=10, E=20, H=4))
    return cases


def decode_cases(threads: int) -> list[Case]:
    return [make(family, threads, (keys, hkv) == (4096, 8), B=1, Tk=keys, H=32, Hkv=hkv, D=128)
            for family in decode_inputs.FAMILIES for hkv in (8, 32) for keys in (1024, 4096, 16384)
            if hkv == 8 or family != "decode_int4"]  # fmt: skip


def bf16_cases(threads: int) -> list[Case]:
    cases = [make("attention_bf16", threads, (t, causal) == (512, 0), Tq=t, Tk=t, H=8, Hkv=8, D=64, causal=causal)
             for t in (128, 512, 2048) for causal in (0, 1)]  # fmt: skip
    cases += [make("attention_bf16", threads, False, Tq=1024, Tk=1024, H=8, Hkv=8, D=128, causal=c) for c in (0, 1)]
    cases += [make("linear_bf16", threads, (m, width) == (128, 1024), M=m, N=width, K=width)
              for width in (1024, 4096) for m in (1, 8, 32, 128, 512)]  # fmt: skip
    return cases + [make("forward_bf16", threads, t == 128, B=1, T=t, E=768, H=12) for t in (128, 512)]


def codes_cases(threads: int) -> list[Case]:
    """Weights of 8 bits with a scale for each output (group: for 32 inputs), or of 4 bits with one for 32 inputs."""
    cases = []
    for family, group in (("linear_int8", {}), ("linear_int8", {"group": 32}), ("linear_int4", {})):
        sizes = [(m, width, {}) for width in (1024, 4096) for m in (1, 8, 32, 128, 512)]
        sizes.append((128, 1024, {"outliers": 1}))
        cases += [make(family, threads, (m, width) == (128, 1024), M=m, N=width, K=width, **group, **more)
                  for m, width, more in sizes]  # fmt: skip
    return cases


def select(threads: list[int], quick: bool, pattern: str) -> list[Case]:
    """The cases on these numbers of threads whose name matches the regular expression `pattern` somewhere."""
    lists = (linear_cases, attention_cases, decode_cases, forward_cases, bf16_cases, codes_cases)
    found = [case for n in threads for add in lists for case in add(n)]
    return [case for case in found if (case.quick or not quick) and re.search(pattern, case.name)]
