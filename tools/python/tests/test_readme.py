# SPDX-License-Identifier: Apache-2.0
"""The example of README.md runs as it is printed."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    names: dict[str, object] = {}
    exec(compile(blocks[0], "README.md", "exec"), names)  # noqa: S102
    assert getattr(names["output"], "shape", None) == (1, 10, 8, 64)
