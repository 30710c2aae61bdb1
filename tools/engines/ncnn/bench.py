# SPDX-License-Identifier: Apache-2.0
"""Times ncnn's layer SDPA in f32 with mha beside ncnn's own: ncnn's time / mha's time. Items of a batch are heads."""

import numpy as np
from in_turn import Case, Ways, main
from ncnn_nets import Blob, Net


def ways(case: Case, threads: int) -> Ways:
    arrays = [x.reshape(-1, *x.shape[2:]) for x in case.arrays()]
    parameters, blobs = {}, [Blob.of(x) for x in arrays]
    if case.causal:
        hidden = ~np.tri(case.queries, case.keys, case.keys - case.queries, dtype=bool)
        blobs.append(Blob.of(np.where(hidden, -np.inf, 0).astype(np.float32)))
        parameters = {5: 1}
    own, ours = (Net("SDPA", parameters, len(blobs), mha=mha, num_threads=threads) for mha in (False, True))
    yield "ncnn's SDPA", lambda: own.run(*blobs), lambda: ours.run(*blobs)


if __name__ == "__main__":
    main(__doc__, ways)
