# SPDX-License-Identifier: Apache-2.0
"""Hypothesis without deadlines: the machine of the tests may be busy."""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(tempfile.gettempdir()) / "mha-hypothesis"))  # not the source tree
import hypothesis

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parent))  # reference, direct

hypothesis.settings.register_profile(
    "tests", deadline=None, database=None, max_examples=int(os.environ.get("MHA_EXAMPLES", "60")), derandomize=True
)
hypothesis.settings.load_profile("tests")
