# SPDX-License-Identifier: Apache-2.0
"""Makes the golden numbers of tests/golden with PyTorch and onnxruntime: fixed seeds, float64 arithmetic, stored as float32.

    build/venv/bin/python tools/oracles/make_golden.py            write tests/golden/*.safetensors
    build/venv/bin/python tools/oracles/make_golden.py --check    make them again and compare with what is committed

Each file's metadata has one entry, "golden": a JSON object with the versions, the list of cases (what each is, in
its maker's terms) and how far the maker's own float32 result is from the stored one. README.md describes the tensors.
"""

import argparse
import json
import pathlib
import sys

import numpy
import onnxruntime
import safetensors
import safetensors.torch
import torch

import attention_cases
import decode_cases
import half_cases
import layer_cases
import notebook
import ragged_cases
import rope_cases
import score_cases

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
# Two machines may round the last bit of a float64 sum differently; a stored float32 then moves by one unit in the last
# place.
RELATIVE_TOLERANCE = 2.0**-22
# What torch computes in 16 bits depends on the machine's kernels by some units in the last place.
HALF_TOLERANCE = {torch.float16: 2.0**-8, torch.bfloat16: 2.0**-5}


def notebook_golden():
    """The notebook's shapes: the results of its code as written and of nn.MultiheadAttention with its parameters."""
    torch.manual_seed(0)
    query = torch.randn(1, 20)
    key = torch.randn(10, 20)
    value = torch.randn(10, 20)
    literal = notebook.MultiHeadAttention(input_dim=20, num_heads=4)
    standard = notebook.StandardMultiHeadAttention(input_dim=20, num_heads=4)
    standard.load_state_dict(literal.state_dict())
    tensors = {"query": query, "key": key, "value": value}
    tensors.update({name: parameter.detach().clone() for name, parameter in literal.state_dict().items()})

    results, difference = {}, 0.0
    for dtype in (torch.float64, torch.float32):
        inputs = [tensor.to(dtype) for tensor in (query, key, value)]
        literal_output, literal_weights = literal.to(dtype)(*inputs)
        layer = notebook.as_torch_layer(standard.to(dtype))
        output, weights = layer(*[tensor.unsqueeze(0) for tensor in inputs], average_attn_weights=False)
        repaired_output, repaired_weights = standard(*inputs)
        bound = 1e-14 if dtype == torch.float64 else 1e-6
        assert torch.allclose(output, repaired_output, rtol=0, atol=bound), "nn.MultiheadAttention is not standard form"
        assert torch.allclose(weights, repaired_weights, rtol=0, atol=bound)
        made = {
            "literal.output": literal_output,  # [1, 10, 20], as the notebook prints it
            "literal.weights": literal_weights,  # [1, 10, 4, 4]
            "standard.output": output.squeeze(0),  # [1, 20]
            "standard.weights": weights.squeeze(0),  # [4, 1, 10]
        }
        difference = max([difference] + [(made[name] - results[name]).abs().max().item() for name in results])
        results = results or made
    tensors.update({name: tensor.float() for name, tensor in results.items()})
    return tensors, [{"name": "notebook", "embed_dim": 20, "num_heads": 4, "torch_float32_difference": difference}]


FILES = {
    "notebook": notebook_golden,
    "multihead_attention": layer_cases.golden,
    "scaled_dot_product_attention": attention_cases.golden,
    "group_query_attention": decode_cases.golden,
    "ragged_attention": ragged_cases.golden,
    "rotary_embedding": rope_cases.golden,
    "masks_and_scores": score_cases.golden,
    "half_precision": half_cases.golden,
}


def metadata_of(cases):
    versions = {"torch": torch.__version__.split("+")[0], "numpy": numpy.__version__}
    if "onnxruntime_float32_difference" in cases[0]:
        versions["onnxruntime"] = onnxruntime.__version__
    # One entry only: safetensors keeps metadata in a hash map, and the file should be the same bytes every time.
    return {"golden": json.dumps({"made_by": "tools/oracles/make_golden.py", "versions": versions, "cases": cases})}


def write(name, tensors, cases):
    path = GOLDEN / f"{name}.safetensors"
    safetensors.torch.save_file(
        {key: value.detach().contiguous() for key, value in tensors.items()}, path, metadata_of(cases)
    )
    print(f"{path.name}: {len(cases)} cases, {len(tensors)} tensors, {path.stat().st_size} bytes")


def read(name):
    path = GOLDEN / f"{name}.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        return tensors, json.loads(file.metadata()["golden"])["cases"]


def without_measurement(cases):
    return [{key: value for key, value in case.items() if "float32_difference" not in key} for case in cases]


def check(name, tensors, cases):
    """Prints one line for the file; True if what is committed is what this script makes."""
    committed, committed_cases = read(name)
    faults = []
    if without_measurement(committed_cases) != without_measurement(json.loads(json.dumps(cases))):
        faults.append("the list of cases differs")
    if committed.keys() != tensors.keys():
        faults.append(f"tensors differ: {sorted(committed.keys() ^ tensors.keys())}")
    different = 0
    for key in sorted(committed.keys() & tensors.keys()):
        old, new = committed[key], tensors[key].detach()
        if old.shape != new.shape or old.dtype != new.dtype:
            faults.append(f"{key}: {tuple(old.shape)} {old.dtype} committed, {tuple(new.shape)} {new.dtype} made")
        elif not torch.equal(old, new):
            different += 1
            distance = torch.where(old == new, 0.0, (old.double() - new.double()).abs())
            tolerance = HALF_TOLERANCE.get(old.dtype, RELATIVE_TOLERANCE)
            close = (distance <= tolerance * old.double().abs().clamp(min=1)) & old.isfinite()
            if not ((old == new) | close).all():  # an infinity agrees with itself alone
                faults.append(f"{key}: differs by {distance.max().item():.3g}")
    state = "the same bits" if different == 0 else f"{different} tensors differ in the last bit"
    print(f"{name}.safetensors: {'; '.join(faults) if faults else f'ok, {len(committed)} tensors, {state}'}")
    return not faults


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed files, write nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    good = True
    with torch.no_grad():
        for name, make in FILES.items():
            tensors, cases = make()
            if arguments.check:
                good = check(name, tensors, cases) and good
            else:
                write(name, tensors, cases)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
