# SPDX-License-Identifier: Apache-2.0
"""Times mha_jax.attention beside jax.nn.dot_product_attention, both under jit, in f32: XLA's time / mha's time."""

import functools
import os
import sys

import jax
import jax.numpy as jnp
from in_turn import Case, Ways, main

sys.path.insert(0, os.environ["MHA_ENGINE_BUILD"])

import mha_jax


def ways(case: Case, _threads: int) -> Ways:
    arrays = [jnp.asarray(x.swapaxes(1, 2)) for x in case.arrays()]
    compiled = [
        jax.jit(functools.partial(function, is_causal=case.causal)).lower(*arrays).compile()
        for function in (jax.nn.dot_product_attention, mha_jax.attention)
    ]
    theirs, ours = (lambda program=program: program(*arrays).block_until_ready() for program in compiled)
    yield "jax.nn", theirs, ours


if __name__ == "__main__":
    main(__doc__, ways)
