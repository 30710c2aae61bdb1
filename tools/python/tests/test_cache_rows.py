# SPDX-License-Identifier: Apache-2.0
"""Caches of every kind and format, rows, tables; threads; the self-test."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import mha
from mha import _attention
from reference import attend, close


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


K, V = random(1, 2, 20, 2, 32), random(2, 2, 20, 2, 16)
FORMATS: list[Any] = [
    "f32",
    "f16",
    "bf16",
    "i8",
    "u8",
    mha.Storage("i4", "f16", 32),
    mha.Storage("u4", group=16, zero_points=True),
    mha.Storage("i8", hadamard=True),
]


@pytest.mark.parametrize("kind", ["contiguous", "ring", "paged"])
@pytest.mark.parametrize("key", FORMATS)
@pytest.mark.parametrize("value", ["f32", "i8", mha.Storage("i4", "f16", 16)])
def test_every_kind_and_format(kind: Any, key: Any, value: Any) -> None:
    cache = mha.Cache(2, 32, 256, kind=kind, value_head_dim=16, max_sequences=2, key=key, value=value)
    cache.append(K[:, :12], V[:, :12])
    cache.append(K[1:, 12:], V[1:, 12:], sequences=[1])
    assert (cache.length(0), cache.length(1)) == (12, 20)
    q = random(3, 2, 1, 4, 32)
    got = mha.attention(q, cache=cache, causal=True)
    for b in range(2):
        keys, values = cache.export(b)
        assert keys.shape == (cache.length(b), 2, 32) and values.shape == (cache.length(b), 2, 16)
        if key == "f32":
            assert np.array_equal(keys, K[b, : cache.length(b)])
        limit = {"f32": 0.0, "f16": 2e-3, "bf16": 2e-2}.get(key, 0.5)
        assert np.abs(keys - K[b, : cache.length(b)]).max() <= limit
        assert close(got[b], attend(q[b], keys, values, cache.length(b) - 1, causal=True).output, 1e-5)
    copy = mha.Cache(2, 32, 256, kind=kind, value_head_dim=16, max_sequences=2, key=key, value=value)
    copy.load(1, cache.save(1))
    assert np.array_equal(mha.attention(q[1:], cache=copy, sequences=[1], causal=True), got[1:])


def test_codes_come_out_as_they_are_kept() -> None:
    cache = mha.Cache(2, 32, 32, value_head_dim=16, key="i8", value=mha.Storage("u4", "f16", 16, zero_points=True))
    cache.append(K[:1], V[:1])
    keys, values = cache.export_codes()
    assert keys.codes.dtype == np.int8 and keys.zeros is None and values.zeros.dtype == np.uint8
    floats = cache.export()
    assert np.array_equal(keys.scales * keys.codes, floats[0])
    nibbles = np.stack([values.codes & 15, values.codes >> 4], axis=-1).reshape(20, 2, 16).astype(np.float32)
    assert np.array_equal(values.scales.astype(np.float32) * (nibbles - values.zeros), floats[1])
    q = random(4, 1, 3, 2, 32)
    as_tensors = (
        mha.Codes(part.codes[None], part.scales[None], zeros, dtype)
        for part, zeros, dtype in ((keys, None, "i8"), (values, values.zeros[None], "u4"))
    )
    assert np.array_equal(mha.attention(q, *as_tensors, causal=True), mha.attention(q, cache=cache, causal=True))
    with pytest.raises(ValueError, match="stores its keys as f32"):
        mha.Cache(2, 32, 32, value="i8").export_codes()


def decoded(codes: Any, scales: Any, zeros: Any, dtype: str, width: int, group: int) -> np.ndarray:
    """The floats that codes with zeros stand for."""
    numbers = codes
    if dtype in ("i4", "u4"):
        numbers = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], -1)[..., :width]
    numbers = numbers.astype(np.float32) - (8 if dtype == "i4" else 0)
    spread = [np.repeat(part.astype(np.float32), group or width, axis=-1)[..., :width] for part in (scales, zeros)]
    return np.asarray(spread[0] * (numbers - spread[1]))


@pytest.mark.parametrize(
    ("dtype", "width", "group", "groups", "row"),
    [("i8", 40, 16, 3, 40), ("u8", 32, 64, 1, 32), ("u4", 40, 16, 3, 20), ("i4", 5, 0, 1, 3), ("u4", 21, 16, 2, 11)],
)
def test_groups_and_bytes_that_rows_do_not_fill(dtype: Any, width: int, group: int, groups: int, row: int) -> None:
    storage = mha.Storage(dtype, "f16", group, zero_points=True)
    rows = random(13, 1, 20, 2, width)
    cache = mha.Cache(2, width, 32, key=storage, value=storage)
    cache.append(rows, rows)
    made = mha.rows_quantise(rows, storage).codes
    assert made.codes.shape == (1, 20, 2, row) and made.scales.shape == made.zeros.shape == (1, 20, 2, groups)
    for part, floats in zip(cache.export_codes(), cache.export()):
        assert part.codes.shape == (20, 2, row) and part.scales.shape == part.zeros.shape == (20, 2, groups)
        assert np.array_equal(decoded(*part, dtype, width, group), floats)
        assert np.array_equal(decoded(made.codes[0], made.scales[0], made.zeros[0], dtype, width, group), floats)
    if width % 2 == 0:
        q = random(14, 1, 3, 2, width)
        assert np.array_equal(mha.attention(q, made, rows, causal=True), mha.attention(q, cache.export()[0][None], rows, causal=True))
    for wrong in (replace(made, codes=made.codes[..., :-1].copy()), replace(made, scales=np.zeros((1, 20, 2, groups + 1), np.float16))):
        with pytest.raises(ValueError, match="but must be dense"):
            mha.rows_quantise(rows, storage, out=wrong)


def test_fixed_scales_of_groups() -> None:
    scales = np.array([[0.02, 0.03, 0.04], [0.05, 0.06, 0.07]], np.float32)
    rows = random(15, 1, 20, 2, 40)
    cache = mha.Cache(2, 40, 32, key="i8", key_fixed=mha.Codes(None, scales, group=16))
    cache.append(rows, rows)
    wide = np.repeat(scales, 16, axis=1)[:, :40]
    want = (np.clip(np.rint(rows[0] / wide), -128, 127) * wide).astype(np.float32)
    assert np.abs(cache.export()[0] - want).max() < 1e-6
    with pytest.raises(ValueError, match="key_fixed.scales has the shape"):
        mha.Cache(2, 40, 32, key="i8", key_fixed=mha.Codes(None, scales[:, :2].copy(), group=16))


def test_fixed_scales() -> None:
    scales = np.array([[0.02], [0.03]], np.float32)
    cache = mha.Cache(
        2, 32, 32, value_head_dim=16, key="i8", key_fixed=mha.Codes(None, scales), value="i8", value_fixed=mha.Codes(None, 0.025)
    )
    cache.append(K[:1], V[:1])
    want = (np.clip(np.rint(K[0] / scales), -128, 127) * scales).astype(np.float32)
    assert np.abs(cache.export()[0] - want).max() < 1e-6


def test_sequences_fork_truncate_remove() -> None:
    cache = mha.Cache(2, 32, 64, kind="paged", value_head_dim=16, max_sequences=3, page_size=16)
    cache.append(K[:1], V[:1])
    cache.fork(0, 2, 18)
    assert (cache.length(2), cache.room(1)) == (18, 32)
    cache.append(K[1:, :1], V[1:, :1], sequences=[2])
    assert np.array_equal(cache.export(0)[0], K[0]) and np.array_equal(cache.export(2)[0][18], K[1, 0])
    cache.truncate(0, 3)
    cache.remove(2)
    assert (cache.length(0), cache.length(2), cache.first_kept(0)) == (3, 0, 0)
    mha.reserve([cache], [40], sequences=[1])
    with pytest.raises(mha.CacheFullError):
        mha.reserve([cache], [100], sequences=[2])
    cache.reset()
    assert cache.used_bytes == 0
    with pytest.raises(IndexError, match="sequence is 3, but the cache has 3"):
        cache.length(3)


def test_append_packed_normed_and_rotated() -> None:
    norm, rope = mha.Norm(1e-5, random(5, 32)), mha.Rope(style="interleaved", base=500.0)
    cache = mha.Cache(2, 32, 64, value_head_dim=16, max_sequences=2)
    cache.append(K[0], V[0], offsets=[0, 7, 20], key_norm=norm, rope=rope)
    assert (cache.length(0), cache.length(1)) == (7, 13)
    want = mha.rows_prepare(K[:1, 7:], norm=norm, rope=rope)
    assert np.array_equal(cache.export(1)[0], want[0])
    turned = mha.Cache(2, 32, 64, value_head_dim=16, max_sequences=2)
    turned.append(K.transpose(0, 2, 1, 3), V.transpose(0, 2, 1, 3), layout="bhtd")
    assert np.array_equal(turned.export(1)[0], K[1])
    for keys, values, text in ((K[..., :16], V, "but the cache has 2 heads of 32"), (K, V[:1], "does not fit key")):
        with pytest.raises(ValueError, match=text):
            cache.append(keys, values)


def test_rope_and_norm() -> None:
    x = random(6, 1, 5, 2, 8)
    angles = (np.arange(5)[:, None] + 3) * 100.0 ** (-np.arange(4) / 4.0)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    first, second = x[0, ..., :4].astype(np.float64), x[0, ..., 4:].astype(np.float64)
    want = np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    rope = mha.Rope(base=100.0)
    assert close(mha.rows_prepare(x, rope=rope, first_position=3)[0], want, 1e-6)
    assert np.array_equal(mha.rows_prepare(x, rope=rope, positions=np.arange(3, 8)[None]), mha.rows_prepare(x, rope=rope, first_position=3))
    table = mha.rope_table(rope, 8, 16)
    assert table[0].shape == (16, 4)
    assert np.array_equal(
        mha.rows_prepare(x, rope=mha.Rope(cos=table[0], sin=table[1]), first_position=3), mha.rows_prepare(x, rope=rope, first_position=3)
    )
    weight = random(7, 8)
    normed = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=-1, keepdims=True) + 1e-6) * weight
    assert close(mha.rows_prepare(x, norm=mha.Norm(1e-6, weight)), normed, 1e-6)
    keys = mha.rows_prepare(x, rope=rope)
    got = mha.attention(x, keys, x, rope=rope, causal=True)
    assert np.array_equal(got, mha.attention(keys, keys, x, causal=True))


def test_rows_as_codes_into_pages() -> None:
    storage = mha.Storage("i8", group=16)
    pages = mha.empty_codes((4, 8, 2, 32), storage)
    table = np.array([[2, 0, 3]], np.int32)
    slots = np.array([[table[0, t // 8] * 8 + t % 8 for t in range(20)]], np.int64)
    mha.rows_quantise(K[:1], storage, out=pages, slots=slots)
    values = np.zeros((4, 8, 2, 16), np.float32)
    mha.rows_prepare(V[:1], out=values, slots=slots)
    q = random(8, 1, 2, 4, 32)
    got = mha.attention(q, pages, values, pages=mha.Pages(table), key_lengths=[20], align="end", causal=True)
    flat = mha.rows_quantise(K[:1], storage)
    assert flat.error.elements == K[:1].size and 0 < flat.error.rms < 0.02
    assert np.array_equal(got, mha.attention(q, flat.codes, V[:1], causal=True))


def test_codes_say_how_they_were_made() -> None:
    storage = mha.Storage("i8", group=16, hadamard=True)
    plain = mha.empty_codes(K[:1].shape, mha.Storage("i8", group=16))
    found = mha.rows_quantise(K[:1], storage, out=plain).codes
    assert (found.dtype, found.group, found.hadamard) == ("i8", 16, True)
    assert found.codes is plain.codes and found.scales is plain.scales
    q, want = random(16, 1, 3, 2, 32), mha.rows_quantise(K[:1], storage).codes
    assert np.array_equal(mha.attention(q, found, V[:1]), mha.attention(q, want, V[:1]))
    with_zeros = mha.empty_codes(K[:1].shape, mha.Storage("i8", zero_points=True))
    with pytest.raises(ValueError, match="out.zeros is given, but storage has no zero points"):
        mha.rows_quantise(K[:1], mha.Storage("i8"), out=with_zeros)


def test_t5_bias() -> None:
    table = random(9, 32, 4)
    bias = mha.t5_bias(table, 128, bidirectional=True)
    assert bias.shape == (4, 257)
    assert np.array_equal(bias[:, 128], table[0])
    assert np.array_equal(bias[:, 129], table[17]) and np.array_equal(bias[:, 127], table[1])


def longest_wait() -> float:
    """The longest time that this thread stands still while another is inside a long call, as a part of the call's time."""
    q, context = random(10, 1, 2000, 8, 64), mha.Context(1)
    seconds: list[float] = []

    def work() -> None:
        begin = time.perf_counter()
        mha.attention(q, q, q, context=context)
        seconds.append(time.perf_counter() - begin)

    thread = threading.Thread(target=work)
    longest, last, ended = 0.0, time.perf_counter(), False
    thread.start()
    while not ended:
        ended = bool(seconds)  # the wait before the call is seen to have ended counts, too
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    thread.join()
    return longest / seconds[0]


def test_calls_release_the_interpreter() -> None:
    """With the interpreter held, this thread would stand still for the whole call. A busy machine may stop it for a while, too."""
    assert any(longest_wait() < 0.5 for _ in range(5))


def test_a_call_keeps_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may set another default context while a call runs."""
    context = mha.Context(1)
    alive = weakref.ref(context)
    mha.set_default_context(context)
    del context
    call = _attention.call

    def after_a_change(function: Any, *arguments: Any) -> None:
        mha.set_default_context(None)
        gc.collect()
        assert alive() is not None
        call(function, *arguments)

    monkeypatch.setattr(_attention, "call", after_a_change)
    q = random(17, 1, 4, 2, 8)
    assert mha.attention(q, q, q).shape == q.shape
    gc.collect()
    assert alive() is None


def test_threads_share_a_context_and_get_their_own_errors() -> None:
    q = random(11, 1, 4, 2, 8)
    want, wrong = mha.attention(q, q, q), []

    def work(n: int) -> None:
        for _ in range(50):
            if not np.array_equal(mha.attention(q, q, q), want):
                wrong.append("bits")
            try:
                mha.attention(q, q, q, window_left=-1 - n)
            except mha.ArgumentError as error:
                if str(-1 - n) not in str(error):
                    wrong.append(str(error))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


FORKED = """
import os, sys
import numpy as np
import mha

q = np.random.default_rng(12).standard_normal((2, 64, 8, 32)).astype(np.float32)
want = mha.attention(q, q, q)
child = os.fork()
if child == 0:
    same = np.array_equal(mha.attention(q, q, q), want)
    threads = mha.attention_explain(q, q, q).split("threads: ")[1].split("\\n")[0]
    os._exit(0 if same and ("calling thread" not in threads or mha.default_context().num_threads == 1) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


FORKED_WITH_A_DEFAULT = """
import os, signal, sys
import mha
from mha import _context

chosen = mha.Context(3, mha.targets()[-1])
mha.set_default_context(chosen)
with _context._lock:  # as another thread of the parent may have it
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        made = mha.default_context()
        os._exit(0 if made is not chosen and (made.num_threads, made.target) == (3, chosen.target) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("script", [FORKED, FORKED_WITH_A_DEFAULT])
def test_the_child_of_a_fork_has_threads_of_its_own(script: str) -> None:
    """In a process of its own: other libraries of this one may not like to be forked."""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_verify() -> None:
    found = mha.verify()
    assert found.ok, found.text
    assert set(found.codes) == {"F32", "BF16", "INT8"}
    assert all(len(code) == 9 for code in found.codes.values())
    assert mha.version() == mha.__version__
    with pytest.raises(RuntimeError, match="avx1024"):
        mha.verify(target="avx1024")
