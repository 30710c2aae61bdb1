# SPDX-License-Identifier: Apache-2.0
"""ncnn's layers SDPA and MultiHeadAttention computed by mha: against double precision and ncnn's own layers, with caches;
what is left to ncnn, what is refused."""

import cpu_time
import numpy as np
import oracle
import pytest
from ncnn_nets import Blob, Net

BOUND = oracle.bound("float32")
SHAPES = {  # heads, heads of keys, queries, keys, width, width of values
    "self": (4, 4, 33, 33, 64, 64),
    "cross, widths": (3, 3, 10, 300, 40, 24),
    "grouped": (8, 2, 5, 70, 32, 32),
    "one of all": (1, 1, 1, 1, 1, 1),
    "decode": (8, 4, 1, 700, 128, 128),
    "odd": (2, 1, 7, 9, 7, 5),
}


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def draw_qkv(shape):
    heads, kv_heads, queries, keys, width, value_width = shape
    return draw((heads, queries, width), (kv_heads, keys, width), (kv_heads, keys, value_width))


def expected(query, key, value, **options):
    return oracle.attention(query[None], key[None], value[None], **options)[0]


def error(result, reference):
    assert result.shape == reference.shape
    return np.abs(np.asarray(result, np.float64) - reference).max(initial=0)


@pytest.mark.parametrize("scale", (None, 0.3))
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_sdpa(shape, scale):
    arrays = draw_qkv(shape)
    parameters = {} if scale is None else {6: scale}
    own, ours = (Net("SDPA", parameters, 3, mha=mha)(*arrays)[0] for mha in (False, True))
    assert error(ours, expected(*arrays, scale=scale)) <= BOUND
    assert error(ours, own) <= 2 * BOUND


@pytest.mark.parametrize("mask_shape", [(33, 33), (1, 33, 33), (4, 33, 33)])
def test_sdpa_mask(mask_shape):
    arrays = draw_qkv(SHAPES["self"])
    mask = np.random.default_rng(1).standard_normal(mask_shape).astype(np.float32)
    mask[..., 5:] = np.where(mask[..., 5:] > 1, -np.inf, mask[..., 5:])
    own, ours = (Net("SDPA", {5: 1}, 4, mha=mha)(*arrays, mask)[0] for mha in (False, True))
    assert error(ours, expected(*arrays, bias=mask)) <= BOUND
    assert error(ours, own) <= 2 * BOUND


def test_row_without_keys_is_zeros():
    arrays = draw_qkv(SHAPES["self"])
    mask = np.zeros((33, 33), np.float32)
    mask[3] = -np.inf
    ours = Net("SDPA", {5: 1}, 4, mha=True)(*arrays, mask)[0]
    assert not ours[:, 3].any() and ours[:, 4].all()


def test_hidden_nan_stays_hidden():
    query, key, value = draw_qkv(SHAPES["self"])
    mask = np.zeros((33, 33), np.float32)
    mask[:, 7] = -np.inf
    clean = Net("SDPA", {5: 1}, 4, mha=True)(query, key, value, mask)[0]
    value[:, 7] = np.nan
    own, ours = (Net("SDPA", {5: 1}, 4, mha=mha)(query, key, value, mask)[0] for mha in (False, True))
    assert np.array_equal(ours, clean)
    assert np.isnan(own).all()  # 0 * NaN: so it is mha that computes the other


@pytest.mark.parametrize("masked", (False, True))
@pytest.mark.parametrize("hint", (0, 64))
def test_sdpa_cache(masked, hint):
    query, key, value = draw((8, 40, 32), (2, 40, 32), (2, 40, 24))
    net = Net("SDPA", {7: 1} | ({5: 1} if masked else {}), 6 if masked else 5, 3, mha=True, kvcache_max_seqlen_hint=hint)
    past, begin = [Blob.of(None)] * 2, 0
    for count in (11, 1, 1, 20, 1, 6):
        end = begin + count
        given = [query[:, begin:end], key[:, begin:end], value[:, begin:end]]
        bias = np.where(np.tri(count, end, begin, dtype=bool), 0, -np.inf).astype(np.float32) if masked else None
        given += [bias] if masked else []
        output, *past = net.run(*map(Blob.of, given), *past)
        reference = expected(query[:, begin:end], key[:, :end], value[:, :end], bias=bias)
        assert error(output.view(), reference) <= BOUND
        for cache, tokens in zip(past, (key, value)):
            assert np.array_equal(cache.view(), tokens[:, :end])
        begin = end


def draw_projections(width, widths):
    """Weights and biases of query, key, value, output, as ncnn's layer loads them."""
    rng = np.random.default_rng(2)
    sizes = [(width, widths[0]), (width, widths[1]), (width, widths[2]), (widths[0], width)]
    arrays = ((rng.standard_normal(size) / size[1] ** 0.5, rng.standard_normal(size[0])) for size in sizes)
    return [x.astype(np.float32) for pair in arrays for x in pair]


def layer_in_double(weights, heads, query, key, value, **options):
    doubles = [x.astype(np.float64) for x in weights]
    q, k, v = (x @ doubles[2 * n].T + doubles[2 * n + 1] for n, x in enumerate((query, key, value)))
    split = (x.reshape(len(x), heads, -1).swapaxes(0, 1) for x in (q, k, v))
    return expected(*split, **options).swapaxes(0, 1).reshape(len(query), -1) @ doubles[6].T + doubles[7]


INPUTS = {  # number of blobs, widths of query, key, value; queries, keys
    "self": (1, (48, 48, 48), 20, 20),
    "cross": (2, (48, 40, 40), 9, 31),
    "three": (3, (56, 40, 24), 9, 31),
    "one query": (2, (48, 48, 48), 1, 300),
}


@pytest.mark.parametrize("option", ({}, {"use_bf16_storage": 1}, {"use_packing_layout": 0}), ids=str)
@pytest.mark.parametrize("scale", (None, 0.2))
@pytest.mark.parametrize("masked", (False, True))
@pytest.mark.parametrize("count, widths, queries, keys", INPUTS.values(), ids=INPUTS)
def test_multi_head_attention(count, widths, queries, keys, masked, scale, option):
    heads, width = 4, 48
    weights = draw_projections(width, widths)
    parameters = {0: width, 1: heads, 2: width * widths[0], 3: widths[1], 4: widths[2]}
    parameters |= ({5: 1} if masked else {}) | ({} if scale is None else {6: scale})
    blobs = draw((queries, widths[0]), (keys, widths[1]), (keys, widths[2]))[:count]
    bias = np.random.default_rng(3).standard_normal((heads, queries, keys)).astype(np.float32) if masked else None
    given = blobs + ([bias] if masked else [])
    own, ours = (
        Net("MultiHeadAttention", parameters, len(given), mha=mha, weights=weights, **option)(*given)[0] for mha in (False, True)
    )
    reference = layer_in_double(weights, heads, *(blobs * 3)[:3] if count == 1 else (*blobs, blobs[-1])[:3], bias=bias, scale=scale)
    if "use_bf16_storage" in option:  # the net rounds the blobs before and after the layer
        assert error(ours, reference) <= max(error(own, reference), 2.0**-6)
        return
    assert error(ours, reference) <= 4 * BOUND
    assert error(ours, own) <= 8 * BOUND


@pytest.mark.parametrize("cross", (False, True))
def test_multi_head_attention_cache(cross):
    heads, width = 3, 24
    weights = draw_projections(width, (width,) * 3)
    blobs = 2 if cross else 1
    nets = [
        Net("MultiHeadAttention", {0: width, 1: heads, 2: width * width, 7: 1}, blobs + 2, 3, mha=mha, weights=weights)
        for mha in (False, True)
    ]
    query, others = draw((40, width), (17, width))
    past, begin = [[Blob.of(None)] * 2 for _ in nets], 0
    for length in (11, 1, 1, 20, 7):
        end = begin + length
        given = [query[begin:end], others][:blobs]
        outputs = []
        for n, net in enumerate(nets):
            output, *past[n] = net.run(*map(Blob.of, given), *past[n])
            outputs.append(output.view().copy())
        keys = others if cross else query[:end]
        assert error(outputs[1], layer_in_double(weights, heads, query[begin:end], keys, keys)) <= 4 * BOUND
        assert error(outputs[1], outputs[0]) <= 8 * BOUND
        begin = end


def test_int8_is_left_to_ncnn():
    arrays = draw_qkv(SHAPES["grouped"])
    own, ours = (Net("SDPA", {18: 2}, 3, mha=mha)(*arrays)[0] for mha in (False, True))
    assert np.array_equal(own, ours)
    assert error(ours, expected(*arrays)) > BOUND  # its integers


def test_what_does_not_fit_is_refused():
    query, key, value = draw_qkv(SHAPES["grouped"])
    net = Net("SDPA", {}, 3, mha=True)
    for given in ((query[:, :, :31], key, value), (query, key[:, :69], value), (query[:7], key, value)):
        with pytest.raises(ValueError):
            net(*given)
    with pytest.raises(ValueError):
        Net("SDPA", {5: 1}, 4, mha=True)(query, key, value, np.zeros((5, 69), np.float32))
    with pytest.raises(ValueError):
        Net("SDPA", {7: 1}, 5, 3, mha=True)(query, key, value, key[:1], value[:1])
    cached = Net("SDPA", {7: 1}, 5, 3, mha=True)
    for past in ((key[:, :3], value[:, :2]), (key[:, :3], None), (None, value[:, :2])):
        with pytest.raises(ValueError):
            cached(query, key, value, *past)
    with pytest.raises(ValueError):
        cached.run(*(Blob.of_batch(2, *x.shape) for x in (query, key, value)), Blob.of(None), Blob.of(None))
    weights = draw_projections(48, (48, 48, 48))
    cross = Net("MultiHeadAttention", {0: 48, 1: 4, 2: 48 * 48, 7: 1}, 4, 3, mha=True, weights=weights)
    for widths in ((11, 12), (12, 11)):
        with pytest.raises(ValueError):
            cross(*draw((5, 48), (7, 48), *((4, 7, width) for width in widths)))
    layer = Net("MultiHeadAttention", {0: 48, 1: 4, 2: 48 * 48}, 1, mha=True, weights=weights)
    with pytest.raises(ValueError):
        layer(*draw((5, 47)))


def test_threads_are_those_of_the_net():
    arrays = draw((8, 512, 64), (8, 512, 64), (8, 512, 64))
    results = []
    for threads in (1, 2):
        net = Net("SDPA", {}, 3, mha=True, num_threads=threads)
        results.append(net(*arrays)[0])
        shares = cpu_time.shares(lambda net=net: net(*arrays))
        assert sum(share > 0.2 for share in shares) == min(threads, cpu_time.cpus())
    assert np.array_equal(*results)
