# SPDX-License-Identifier: Apache-2.0
"""mha in OpenVINO from Python: the extension for models that are read, and replace() for models that are in memory."""

from pathlib import Path

import openvino
from openvino.utils.node_factory import NodeFactory

LIBRARY = str(Path(__file__).with_name("libmha_openvino.so"))  # for Core.add_extension, before Core.read_model

_factory = NodeFactory()  # kept: it holds the library that the operations of a model need
_factory.add_extension(LIBRARY)


def replace(model: openvino.Model) -> int:
    """Puts MhaAttention in the place of each ScaledDotProductAttention that mha computes, and says how many there were."""
    count = 0
    for node in model.get_ops():
        if node.get_type_name() != "ScaledDotProductAttention":
            continue
        made = _factory.create("ScaledDotProductAttention", node.input_values(), node.get_attributes())
        if made.get_type_name() == "MhaAttention":
            made.set_friendly_name(node.get_friendly_name())
            node.output(0).replace(made.output(0))
            count += 1
    return count
