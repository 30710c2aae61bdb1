# SPDX-License-Identifier: Apache-2.0
"""The cases that ggml publishes for FLASH_ATTN_EXT in its tests/test-backend-ops.cpp (0.25.3): those of the grid, and
single ones. Cases over the same tensors are one Shape with several Variants. The precision that ggml's cases also vary
changes nothing on its CPU backend, and n_kv_max only says what the mask hides."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

PLAIN, PERMUTED = (0, 1, 2, 3), (0, 2, 1, 3)


@dataclass(frozen=True)
class Shape:
    hsk: int  # head sizes of key and value
    hsv: int
    nh: int  # key/value heads
    nr2: int  # query heads for each
    nr3: int  # items
    kv: int  # keys
    nb: int  # queries
    key: str = "f16"
    value: str = "f16"
    permute: tuple[int, ...] = PLAIN  # the order of ggml's dimensions in memory
    kv_view: bool = True  # keys and values are views of a cache of twice the length
    v_of_k: bool = False  # the values are the first elements of the keys (MLA)


@dataclass(frozen=True)
class Variant:
    mask: bool = True
    sinks: bool = False
    max_bias: float = 0
    softcap: float = 0
    n_kv_max: int = 0  # the most keys that a row of the mask shows; 0: any number


@dataclass
class Group:
    shape: Shape
    variants: dict[Variant, int]  # and how many of ggml's cases each stands for (precisions)


HEAD_SIZES = [(40, 40), (64, 64), (72, 72), (80, 80), (96, 64), (96, 96), (128, 128), (192, 128), (192, 192),
              (256, 256), (320, 256), (512, 512), (576, 512)]  # fmt: skip
TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
RATIOS = {128: (1, 4, 12), 192: (1, 4, 8, 16)}  # query heads for one of keys, by head size; others: 1, 4


def ratios(hsk: int, nh: int) -> tuple[int, ...]:
    return RATIOS.get(hsk, (1, 4)) + {(576, 1): (20,), (320, 1): (32,)}.get((hsk, nh), ())


def variants(hsk: int, permuted: bool) -> dict[Variant, int]:
    count = 2 if hsk == 128 else 1  # precisions
    found = {}
    for mask, sinks, max_bias, softcap in product((True, False), (True, False), (0, 8), (0, 10)):
        if (not mask and max_bias) or (softcap and hsk != 128):
            continue
        if permuted and not (mask and not max_bias and not softcap):
            continue
        found[Variant(mask, sinks, max_bias, softcap)] = count
    return found


def grid() -> Iterator[Group]:
    for hsk, hsv in HEAD_SIZES:
        for nh in (1, 4) if hsk in (320, 576) else (4,):
            for nr3, nr2 in product((1, 3) if hsk <= 64 else (1,), ratios(hsk, nh)):
                for kv, nb in product((113, 512, 1024) if nr2 == 1 else (512,), (1, 3, 32, 75)):
                    for kind in TYPES if hsk in (64, 72) else ("f16",):
                        for permute in (PLAIN, PERMUTED) if kv == 512 else (PLAIN,):
                            shape = Shape(hsk, hsv, nh, nr2, nr3, kv, nb, kind, kind, permute, v_of_k=hsk == 576)
                            yield Group(shape, variants(hsk, permute != PLAIN))


def prefills() -> Iterator[Group]:
    for kv, size, nb, kind in product((1024, 2048), (64, 128, 256), (32, 64), ("f16", "q8_0", "q4_0")):
        yield Group(Shape(size, size, 8, 4, 1, kv, nb, kind, kind), {Variant(): 1})


def one(*sizes: object, variant: Variant | None = None, **more: object) -> Group:
    return Group(Shape(*sizes, **more), {variant or Variant(): 1})


def bare(softcap: float = 0) -> Variant:
    return Variant(mask=False, softcap=softcap)


def sparse(n_kv_max: int, **more: object) -> Variant:
    return Variant(n_kv_max=n_kv_max, **more)


def mixed_types() -> Iterator[Group]:
    yield one(72, 64, 4, 1, 1, 256, 2)
    yield one(64, 72, 4, 1, 1, 256, 2)
    yield one(65, 67, 4, 1, 1, 113, 75, variant=Variant(sinks=True, max_bias=8))
    yield one(65, 67, 4, 1, 1, 17, 75, variant=bare(1))
    yield one(65, 67, 4, 1, 1, 113, 75, variant=bare(1))
    yield one(64, 64, 4, 1, 1, 128, 2, "q8_0", "q4_0")
    yield one(64, 64, 4, 1, 1, 128, 2, "q4_0", "f16")
    yield one(72, 72, 4, 1, 1, 96, 2, "q4_0", "q8_0")
    yield one(64, 64, 4, 1, 1, 96, 2, "f16", "f32")
    yield one(128, 128, 4, 1, 1, 256, 1, "f16", "q4_0", variant=bare())
    for kind in ("q1_0", "q2_0"):
        yield one(128, 128, 4, 1, 1, 96, 2, kind, kind)
        yield one(128, 64, 4, 1, 1, 128, 2, kind, "q4_0")
        yield one(64, 128, 4, 1, 1, 128, 2, "q4_0", kind)
        yield one(128, 64, 4, 1, 1, 64, 2, kind, "f16")


def long_contexts() -> Iterator[Group]:
    q8 = ("q8_0", "q8_0")
    yield one(256, 256, 2, 16, 1, 113, 1, *q8)
    yield one(256, 256, 2, 16, 1, 1024, 1, *q8)
    yield one(256, 256, 2, 16, 1, 1024, 1, *q8, PERMUTED)
    yield one(256, 256, 2, 16, 2, 1025, 1, *q8, variant=Variant(sinks=True, max_bias=8, softcap=30))
    yield one(256, 256, 2, 16, 1, 1025, 64, *q8, PERMUTED)
    yield one(256, 256, 2, 16, 1, 16384, 1, *q8)
    for kv, nb in ((113, 1), (1024, 1), (1024, 64)):
        yield one(576, 512, 1, 8, 1, kv, nb, *q8, v_of_k=True)
    yield one(320, 256, 1, 32, 1, 512, 1, v_of_k=True)
    yield one(192, 128, 4, 8, 1, 512, 1, v_of_k=True)
    yield one(128, 128, 8, 4, 1, 512, 8, v_of_k=True)
    yield one(64, 64, 4, 1, 1, 512, 1, *q8, v_of_k=True)
    for kv in (4096, 16384):
        yield one(256, 256, 4, 6, 1, kv, 512)
        yield one(128, 128, 8, 4, 1, kv, 512)
    for nr2, kv, nb, nh in ((6, 512, 512, 4), (6, 4096, 64, 4), (6, 4096, 16, 4), (2, 4096, 512, 4), (4, 4096, 512, 4), (12, 4096, 512, 2)):
        yield one(256, 256, nh, nr2, 1, kv, nb)
    for nr2, kv, permute in ((1, 512, PERMUTED), (4, 512, PERMUTED), (1, 1024, PERMUTED), (1, 512, PLAIN)):
        yield one(64, 64, 4, nr2, 1, kv, 75, *q8, permute, kv_view=False)
    yield one(192, 128, 8, 8, 1, 4096, 1)
    yield one(576, 512, 1, 20, 1, 512, 1, v_of_k=True)
    yield one(64, 64, 8, 8, 1, 4096, 4)
    yield one(128, 128, 8, 4, 1, 4096, 8, variant=Variant(sinks=True))
    yield one(256, 256, 4, 2, 1, 1024, 32)
    yield one(512, 512, 4, 2, 1, 1024, 4)


def sparse_masks() -> Iterator[Group]:
    """(head sizes, key heads, ratio, items, keys, queries, visible keys, values in the keys)"""
    for hsk, hsv, nh, nr2, nr3, kv, nb, limit in (
        (512, 512, 1, 8, 1, 4096, 1, 512), (512, 512, 1, 8, 2, 4096, 3, 768), (576, 512, 1, 16, 1, 4096, 1, 512),
        (576, 512, 1, 16, 2, 4096, 2, 768), (512, 512, 1, 8, 1, 4096, 1, 2304), (256, 256, 1, 8, 1, 4096, 1, 512),
        (128, 128, 1, 8, 1, 4096, 1, 512), (512, 512, 1, 8, 1, 4096, 64, 512), (512, 512, 1, 8, 1, 4096, 64, 2048),
        (576, 512, 1, 16, 1, 4096, 64, 512), (576, 512, 1, 16, 1, 4096, 64, 2048), (256, 256, 1, 8, 1, 4096, 64, 512),
        (128, 128, 1, 8, 1, 4096, 64, 512), (128, 128, 1, 8, 1, 4096, 64, 2048), (256, 256, 2, 12, 1, 4096, 1, 512),
        (256, 256, 2, 12, 1, 8192, 64, 512), (256, 256, 1, 12, 2, 8192, 67, 512), (256, 256, 2, 12, 1, 8192, 1, 2048),
    ):  # fmt: skip
        yield one(hsk, hsv, nh, nr2, nr3, kv, nb, v_of_k=hsk == 576, variant=sparse(limit))
    yield one(128, 128, 1, 8, 1, 4096, 4, variant=sparse(512, max_bias=8))
    for nb in (1, 64):
        yield one(128, 128, 1, 8, 1, 4096, nb, "q8_0", "q8_0", variant=sparse(512))


SETS = {"grid": grid, "prefills": prefills, "mixed_types": mixed_types, "long_contexts": long_contexts, "sparse_masks": sparse_masks}
