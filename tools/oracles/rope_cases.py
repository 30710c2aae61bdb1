# SPDX-License-Identifier: Apache-2.0
"""Golden cases of rotary positions and RMS norm, as Hugging Face transformers computes them, but in float64.

Where transformers can be imported, each case's frequencies and rotation are compared with its own code (float32), which
is how these formulas are known to be its. It is not needed to make the numbers.
"""

import math
import zlib

import torch

try:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as rotate_gptj
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as rotate_llama
except ImportError:
    ROPE_INIT_FUNCTIONS = None


def case(name, batch, length, heads, head_dim, **options):
    """One case. options: style ("half" as Llama and GPT-NeoX, "interleaved" as GPT-J), dims (of a partial rotation),
    base, scaling (transformers' rope_type and its parameters), epsilon (> 0: RMS norm first), weight (of the norm),
    last_position (positions are random up to it)."""
    return {
        "name": name,
        "batch": batch,
        "length": length,
        "num_heads": heads,
        "head_dim": head_dim,
        "style": options.get("style", "half"),
        "dims": options.get("dims", head_dim),
        "base": options.get("base", 10000.0),
        "scaling": options.get("scaling", {"rope_type": "default"}),
        "epsilon": options.get("epsilon", 0.0),
        "weight": options.get("weight", False),
        "last_position": options.get("last_position", 4095),
    }


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}

CASES = [
    case("llama", 2, 4, 2, 64),
    case("llama_far", 1, 6, 1, 128, last_position=1000000),
    case("gptj", 2, 4, 2, 32, style="interleaved"),
    case("gptj_partial", 1, 5, 2, 48, style="interleaved", dims=20),
    case("neox_partial", 1, 5, 2, 80, dims=20),
    case("linear", 1, 4, 2, 64, scaling={"rope_type": "linear", "factor": 2.5}),
    case("llama3", 1, 5, 2, 128, base=500000.0, scaling=LLAMA3, last_position=131071),
    case("llama32", 1, 5, 1, 64, base=500000.0, scaling={**LLAMA3, "factor": 32.0}, last_position=131071),
    case("yarn", 1, 5, 2, 128, base=1000000.0, scaling=YARN, last_position=131071),
    case(
        "yarn_own_factor", 1, 5, 1, 64,
        scaling={**YARN, "attention_factor": 0.875, "beta_fast": 24.0, "beta_slow": 2.0},
    ),
    case("yarn_interleaved", 1, 5, 1, 64, style="interleaved", scaling={**YARN, "factor": 40.0}),
    case("yarn_short", 1, 4, 1, 16, scaling={**YARN, "original_max_position_embeddings": 64}),
    case("norm", 1, 4, 2, 64, epsilon=1e-6),
    case("norm_weight", 2, 3, 2, 72, epsilon=1e-5, weight=True, base=1000000.0),
    case("norm_weight_interleaved", 1, 3, 2, 40, style="interleaved", epsilon=1e-6, weight=True),
]


def frequencies_of(c):
    """(angle of each pair at position 1, factor of cosine and sine)"""
    dims, base, scaling = c["dims"], c["base"], c["scaling"]
    plain = 1.0 / base ** (torch.arange(0, dims, 2, dtype=torch.float64) / dims)
    kind = scaling["rope_type"]
    if kind == "default":
        return plain, 1.0
    factor = scaling["factor"]
    if kind == "linear":
        return plain / factor, 1.0
    length = scaling["original_max_position_embeddings"]
    if kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        wavelength = 2 * math.pi / plain
        smooth = (length / wavelength - low) / (high - low)
        between = (1 - smooth) * plain / factor + smooth * plain
        scaled = torch.where(wavelength > length / low, plain / factor, between)
        return torch.where(wavelength < length / high, plain, scaled), 1.0

    def pair_turning(rotations):
        return dims * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(base))

    first = max(math.floor(pair_turning(scaling.get("beta_fast", 32.0))), 0)
    last = min(math.ceil(pair_turning(scaling.get("beta_slow", 1.0))), dims - 1)
    last += 0.001 if first == last else 0
    ramp = ((torch.arange(dims // 2, dtype=torch.float64) - first) / (last - first)).clamp(0, 1)
    return plain / factor * ramp + plain * (1 - ramp), scaling.get("attention_factor", 0.1 * math.log(factor) + 1)


def normed(c, x, weight):
    if c["epsilon"] == 0:
        return x
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + c["epsilon"])
    return x if weight is None else x * weight.to(x.dtype)


def rotated(c, x, positions):
    """x [B, T, H, D]"""
    frequencies, factor = frequencies_of(c)
    angles = (positions.double()[..., None] * frequencies)[:, :, None, :]
    cos, sin = (angles.cos() * factor).to(x.dtype), (angles.sin() * factor).to(x.dtype)
    turning, rest = x[..., : c["dims"]], x[..., c["dims"] :]
    if c["style"] == "half":
        x1, x2 = turning.chunk(2, dim=-1)
        turned = torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)
    else:
        x1, x2 = turning[..., ::2], turning[..., 1::2]
        turned = torch.stack((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1).flatten(-2)
    return torch.cat((turned, rest), dim=-1)


def check_with_transformers(c, x, weight, positions, output):
    """transformers' own frequencies, rotation and norm."""
    frequencies, factor = frequencies_of(c)
    kind = c["scaling"]["rope_type"]
    if kind != "default":
        config = LlamaConfig(
            hidden_size=c["dims"] * c["num_heads"],
            num_attention_heads=c["num_heads"],
            head_dim=c["dims"],
            max_position_embeddings=c["last_position"] + 1,
            rope_parameters={"rope_theta": c["base"], **c["scaling"]},
        )
        theirs, their_factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
        assert torch.allclose(theirs.double(), frequencies, rtol=2e-6, atol=0), c["name"]
        assert abs(their_factor - factor) < 1e-12, c["name"]
    if c["epsilon"] > 0:
        norm = LlamaRMSNorm(c["head_dim"], c["epsilon"])
        if weight is not None:
            norm.weight.copy_(weight)
        assert torch.allclose(norm(x), normed(c, x, weight), atol=1e-6), c["name"]
    x = normed(c, x.double(), weight)
    turning = x[..., : c["dims"]]
    angles = positions.double()[..., None] * frequencies
    cos, sin = angles.cos() * factor, angles.sin() * factor
    if c["style"] == "half":
        cos, sin = torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
        theirs, _ = rotate_llama(turning, turning, cos, sin, unsqueeze_dim=2)
    else:
        theirs = rotate_gptj(turning, sin, cos)
    assert torch.allclose(theirs, output[..., : c["dims"]], rtol=0, atol=1e-12), c["name"]


def golden():
    """(tensors by "case/name", cases)"""
    tensors, cases = {}, []
    for c in CASES:
        generator = torch.Generator().manual_seed(zlib.crc32(c["name"].encode()))
        shape = (c["batch"], c["length"], c["num_heads"], c["head_dim"])
        x = torch.randn(shape, generator=generator, dtype=torch.float32)
        positions = torch.randint(0, c["last_position"] + 1, shape[:2], generator=generator)
        positions[0, 0], positions[-1, -1] = 0, c["last_position"]
        own = {"input": x, "positions": positions}
        if c["weight"]:
            own["weight"] = 1 + 0.3 * torch.randn(c["head_dim"], generator=generator, dtype=torch.float32)
        weight = own.get("weight")
        exact = rotated(c, normed(c, x.double(), weight), positions)
        single = rotated(c, normed(c, x, weight), positions)
        if ROPE_INIT_FUNCTIONS is not None:
            check_with_transformers(c, x, weight, positions, exact)
        own["output"] = exact.float()
        tensors.update({f"{c['name']}/{name}": tensor for name, tensor in own.items()})
        cases.append({**c, "torch_float32_difference": (exact - single).abs().max().item()})
    return tensors, cases
