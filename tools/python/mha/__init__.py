# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention for CPUs: the library mha over arrays of numpy, torch, jax and whatever has DLPack or buffers.

Nothing is copied or converted in silence: strides are taken as they are, and what the library does not take is a TypeError
or ValueError that says what to do. Calls release the GIL. Names and words are those of <mha/mha.h>.
"""

from ._attention import Results, attention, attention_explain, attention_partial, attention_results, merge, merge_partials
from ._cache import Cache, ExportedCodes, reserve
from ._context import Context, default_context, set_default_context, targets
from ._layer import Layer
from ._library import (
    ArgumentError,
    BlobError,
    CacheFullError,
    Error,
    OutOfMemoryError,
    TargetError,
    ThreadError,
    UnsupportedError,
    version,
)
from ._linear import Linear, PackedWeight
from ._options import BlockMask, Norm, Options, Pages, Rope
from ._rows import PreparedCodes, empty_codes, rope_table, rows_prepare, rows_quantise, t5_bias
from ._storage import Codes, Storage, StorageError
from ._verify import Verified, include_folder, verify

__version__ = version()

__all__ = [
    "ArgumentError",
    "BlobError",
    "BlockMask",
    "Cache",
    "CacheFullError",
    "Codes",
    "Context",
    "Error",
    "ExportedCodes",
    "Layer",
    "Linear",
    "Norm",
    "Options",
    "OutOfMemoryError",
    "PackedWeight",
    "Pages",
    "PreparedCodes",
    "Results",
    "Rope",
    "Storage",
    "StorageError",
    "TargetError",
    "ThreadError",
    "UnsupportedError",
    "Verified",
    "attention",
    "attention_explain",
    "attention_partial",
    "attention_results",
    "default_context",
    "empty_codes",
    "include_folder",
    "merge",
    "merge_partials",
    "reserve",
    "rope_table",
    "rows_prepare",
    "rows_quantise",
    "set_default_context",
    "t5_bias",
    "targets",
    "verify",
    "version",
]
