# SPDX-License-Identifier: Apache-2.0
"""`mha explain` has an option for every field of core/mha.h that a plan may depend on: a table here says which, and fails where a
field of the header is not in it. Every option runs, and the plan has a line that it has not without the option."""

import re
import unittest
from pathlib import Path

from command import CommandTest

HEADER = Path(__file__).parents[2] / "core" / "mha.h"

DATA = "data, which explain does not read"
HOST = "memory that the host lends: the plan does not depend on it"
KIND = "settled by the others"
# Of every struct that describes a call: the options of each field, or why there is none.
FIELDS = {
    "mha_attention_args": {
        "batch": "--batch", "num_heads": "--num-heads", "num_kv_heads": "--num-kv-heads", "query_len": "--query-len",
        "key_len": "--key-len", "head_dim": "--head-dim", "value_head_dim": "--value-head-dim", "query": "--query-dtype --heads-first",
        "key": "--key-dtype --heads-first", "value": "--value-dtype --heads-first", "output": "--output-dtype --heads-first",
        "causal": "--causal", "scale_is_exact": "--scale-is-exact", "scale": "--scale", "arithmetic": "--arithmetic",
        "items": "--query-lengths", "positions": "--align", "masks": "--bool-mask", "score_mods": "--softcap", "query_norm": "--qk-norm",
        "rope": "--rope", "cache": "--cache", "pages": "--pages", "results": "--log-sum-exp", "resources": "--max-threads",
    },
    "mha_layer_args": {
        "batch": "--batch", "query_len": "--query-len", "key_len": "--key-len", "query": "--query-dtype",
        "key": "--key-dtype --self-attention", "value": "--value-dtype --self-attention", "output": "--output-dtype",
        "causal": "--causal", "arithmetic": "--attention-arithmetic", "items": "--query-lengths", "positions": "--key-positions",
        "masks": "--bool-mask", "score_mods": "--softcap", "query_norm": "--qk-norm", "key_norm": "--qk-norm", "rope": "--rope",
        "cache": "--cache", "cache_use": "--cache-use", "results": "--log-sum-exp", "resources": "--max-threads",
    },
    "mha_linear_args": {"rows": "--rows", "input": "--input-dtype", "output": "--output-dtype", "resources": "--max-threads"},
    "mha_linear_config": {
        "in_features": "--in-features", "out_features": "--out-features", "weight": "--weight-dtype", "bias": "--bias",
        "arithmetic": "--arithmetic", "layout": "--weight-layout", "packed": "--packed", "packed_error": "a result: mha quantize",
    },
    "mha_layer_config": {
        "embed_dim": "--embed-dim", "num_heads": "--num-heads", "num_kv_heads": "--num-kv-heads", "head_dim": "--head-dim",
        "value_head_dim": "--value-head-dim", "kdim": "--kdim", "vdim": "--vdim", "out_dim": "--out-dim",
        "scale_is_exact": "--scale-is-exact", "scale": "--scale", "add_zero_attn": "--add-zero-attn", "arithmetic": "--arithmetic",
        "layout": "--weight-layout", "packed": "--packed", "packed_error": "a result: mha quantize",
    },
    "mha_layer_weights": {
        "in_proj_weight": "packed as the separate ones", "query_weight": "--weight-dtype", "key_weight": "--weight-dtype",
        "value_weight": "--weight-dtype", "output_weight": "--weight-dtype", "in_proj_bias": "packed as the separate ones",
        "query_bias": "--bias", "key_bias": "--bias", "value_bias": "--bias", "output_bias": "--bias", "bias_key": "--bias-kv",
        "bias_value": "--bias-kv",
    },
    "mha_items": {"query_offsets": "--query-lengths", "key_offsets": "--packed-key-lengths", "key_lengths": "--key-lengths",
                  "sequences": "--sequences"},
    "mha_positions": {"align": "--align --causal", "offset": "--offset --causal", "offsets": "--offsets", "query": "--query-positions",
                      "key": "--key-positions"},
    "mha_bool_mask": {"data": "--bool-mask", "stride_b": DATA, "stride_h": DATA, "stride_q": DATA, "stride_k": DATA},
    "mha_add_mask": {"data": "--add-mask", "dtype": "--add-mask --add-mask2", "stride_b": DATA, "stride_h": DATA, "stride_q": DATA,
                     "stride_k": DATA},
    "mha_bit_mask": {"data": "--bit-mask", "stride_b": DATA, "stride_h": DATA, "stride_q": DATA},
    "mha_block_mask": {"query_block": "--block-mask", "key_block": "--block-mask", "pairs": DATA, "num_pairs": DATA, "pair_offsets": DATA},
    "mha_masks": {
        "window_left": "--window-left", "window_right": "--window-right", "sink_tokens": "--sink-tokens",
        "prefix_lengths": "--prefix-lengths", "query_segments": "--segments", "key_segments": "--segments", "bool_mask": "--bool-mask",
        "add_mask": "--add-mask", "add_mask2": "--add-mask2", "bit_mask": "--bit-mask", "block_mask": "--block-mask",
        "add_mask_factors": "--mask-factors",
    },
    "mha_score_mods": {"softcap": "--softcap", "alibi_slopes": "--alibi", "relative_bias": "--relative-bias",
                       "relative_left": "--relative-bias", "relative_right": "--relative-bias", "sink_logits": "--sink-logits"},
    "mha_norm": {"epsilon": "--norm-epsilon", "weight": "--norm-weight"},
    "mha_rope": {
        "style": "--rope", "scaling": "--rope-scaling", "dims": "--rope-dims", "base": "--rope-base", "factor": "--rope-factor",
        "low_freq_factor": "--rope-low-freq-factor", "high_freq_factor": "--rope-high-freq-factor", "beta_fast": "--rope-beta-fast",
        "beta_slow": "--rope-beta-slow", "attention_factor": "--rope-attention-factor",
        "original_positions": "--rope-original-positions", "cos": "--rope-table", "sin": "--rope-table", "table_positions": "--rope-table",
    },
    "mha_pages": {"table": "--pages --shared-tokens", "stride": KIND, "page_size": "--page-size", "num_pages": KIND},
    "mha_results": {"log_sum_exp": "--log-sum-exp", "weights_mode": "--weights-mode", "weights": "--weights-dtype",
                    "weights_rows": "--weights-rows", "num_weights_rows": "--weights-rows"},
    "mha_resources": {"workspace": HOST, "workspace_bytes": HOST, "max_threads": "--max-threads", "parallel_user": HOST},
    "mha_cache_config": {
        "kind": "--cache", "value_in_key": "--value-in-key", "num_kv_heads": "--num-kv-heads", "head_dim": "--head-dim",
        "value_head_dim": "--value-head-dim", "max_sequences": "--max-sequences", "capacity": "--capacity", "page_size": "--page-size",
        "sink_tokens": "--cache-sink-tokens", "key": "--cache-key", "value": "--cache-value", "memory": HOST, "memory_bytes": HOST,
    },
    # Parts of a format: i4:group=32:scales=f16:zeros:hadamard:fixed.
    "mha_storage": {"dtype": "--cache-key", "scale_dtype": "--cache-key", "group": "--cache-key", "zero_points": "--cache-key",
                    "hadamard": "--cache-key", "fixed": "--cache-key"},
    "mha_quant": {
        "scales": DATA, "zeros": "--key-dtype", "group_index": "MHA_ERR_UNSUPPORTED", "scale_dtype": "--key-dtype",
        "zero_dtype": "--key-dtype", "group": "--key-dtype", "group_tokens": "--key-dtype", "stride_b": DATA, "stride_t": DATA,
        "stride_h": DATA, "stride_d": DATA, "hadamard": "--key-dtype",
    },
}  # fmt: skip

ATTENTION = ["attention", "--num-heads", "4", "--num-kv-heads", "2", "--head-dim", "32", "--threads", "1"]
LAYER = ["layer", "--num-heads", "4", "--num-kv-heads", "2", "--embed-dim", "128", "--threads", "1"]
LINEAR = ["linear", "--rows", "3", "--in-features", "64", "--out-features", "48", "--threads", "1"]
SIZES = ["--batch", "2", "--query-len", "3", "--key-len", "600"]

# Options of attention and layers alike, and what the plan says for them.
SHARED = {
    "--key-lengths 100,600": "of 3 to 3 queries and 100 to 600 keys",
    "--key-lengths": "in a padded tensor, the first of each item",
    "--causal": "masks: causal;",
    "--causal offset 4": "masks: causal;",
    "--align start --window-left 9": "masks: window left;",
    "--align offset --offset 7 --window-right 9": "masks: window right;",
    "--align offset --offsets 7,8 --causal": "masks: causal;",
    "--rope --query-positions": "rotated by a phase of its own",
    "--bool-mask": "masks: bool;",
    "--add-mask": "masks: additive;",
    "--add-mask bf16 --add-mask2 f16": "masks: additive, second additive;",
    "--add-mask --mask-factors": "masks: additive, times a factor of each head;",
    "--bit-mask": "masks: bits;",
    "--block-mask 64,128": "masks: block list;",
    "--segments": "masks: segments;",
    "--causal --prefix-lengths 3,4": "masks: causal, prefix lengths;",
    "--window-left 50 --sink-tokens 3": "masks: window left, sink tokens;",
    "--softcap 30": "score changes: softcap;",
    "--alibi": "score changes: ALiBi;",
    "--relative-bias 3,4": "score changes: relative bias;",
    "--sink-logits": "score changes: sink logits;",
    "--qk-norm": "RMS-normed by a phase of its own",
    "--qk-norm --norm-epsilon 1e-5 --norm-weight --rope": "RMS-normed and rotated",
    "--rope interleaved --rope-dims 16 --rope-base 5e5": "rotated by a phase of its own",
    "--rope --rope-scaling linear --rope-factor 2": "rotated",
    "--rope --rope-scaling llama3 --rope-factor 8 --rope-low-freq-factor 1 --rope-high-freq-factor 4 --rope-original-positions 99": "rotated",
    "--rope --rope-scaling yarn --rope-factor 8 --rope-beta-fast 30 --rope-beta-slow 2 --rope-attention-factor 2 "
    "--rope-original-positions 99": "rotated",
    "--rope --rope-table 700": "rotated",
    "--cache contiguous": "in a contiguous cache",
    "--cache paged --page-size 48 --cache-lengths 10,590 --capacity 4000 --max-sequences 5": "in a paged cache, pages of 48 tokens",
    "--cache ring --window-left 50 --causal --cache-sink-tokens 3": "tokens and the first 3",
    "--cache paged --shared-tokens 512": "2 sequences in 1 groups begin with the same pages",
    "--cache paged --cache-key i4:group=16:scales=f16:zeros --cache-value bf16": "codes of keys: MHA_F16 scales of 16 elements of a row, "
                                                                                "zeros: MHA_I8",
    "--cache paged --cache-key f16 --cache-value u8:hadamard": "rotation of values: by a Walsh-Hadamard matrix",
    "--cache contiguous --cache-key i8:fixed": "codes of keys: MHA_F32 scales of whole rows",
    "--weights-mode per-head": "weights: per head",
    "--weights-mode averaged --weights-rows 0,2": "weights: averaged of the chosen queries",
    "--weights-mode key-sums --weights-dtype f32": "weights: summed over queries",
    "--query-dtype f16": "MHA_F16",
    "--output-dtype bf16": "MHA_BF16",
    "--key-dtype f16 --value-dtype bf16": "MHA_BF16",
}  # fmt: skip
OF_ATTENTION = {
    "--value-head-dim 16": "work of 0.691 million multiply-adds",
    "--key-dtype i8:group=16:scales=f16 --value-dtype u8:zeros": "codes of values: MHA_F32 scales of whole rows, zeros: MHA_U8",
    "--key-dtype i4:hadamard --value-dtype q4_0": "codes of values: in blocks of 32 with their scale",
    "--key-dtype i8:tokens=4 --value-dtype i8:fixed --arithmetic int8": "arithmetic in place: INT8",
    "--heads-first": "1 key/value heads together",
    "--pages --key-lengths --page-size 32": "in the caller's pages of 32 tokens",
    "--pages --key-lengths 600,500 --shared-tokens 256": "2 sequences in 1 groups begin with the same pages",
    "--cache contiguous --sequences 1,1": "sequences: 2, of 3 to 3 queries and 600 to 600 keys",
}
OF_LAYER = {
    "--head-dim 8 --value-head-dim 4 --kdim 30 --vdim 20 --out-dim 10": "output projection: 1 x 6 rows, 16 -> 10 features",
    "--bias-kv": "keys added by the layer: 1",
    "--bias-kv --add-zero-attn": "keys added by the layer: 2",
    "--weight-dtype i8:group=16:scales=f16": "query projection: a scale of MHA_F16 for each output and 16 inputs",
    "--weight-dtype u4:zeros:group=16 --weight-layout awq": "a scale of MHA_F32 and a zero for each output and 16 inputs",
    "--packed i4:group=32": "output projection: a scale of MHA_F32 for each output and 32 inputs",
    "--arithmetic int8": "linear arithmetic: INT8",
    "--cache paged --cache-key i8 --cache-value i8 --attention-arithmetic int8": "arithmetic in place: INT8",
    "--cache paged --cache-use read": "key projection: none, the cache is read as it is",
    "--cache paged --cache-use append": "those of this call are appended by a phase of their own",
    "--rope --key-positions --query-positions": "queries and keys rotated",
}
OF_LINEAR = {
    "--weight-dtype q8_0": "product: a scale of MHA_F16 for each output and 32 inputs",
    "--weight-dtype u4:group=16:scales=f16 --weight-layout gptq": "product: a scale of MHA_F16 for each output and 16 inputs",
    "--weight-dtype u4:group=16:zeros --weight-layout gptq-v2": "product: a scale of MHA_F32 and a zero for each output and 16 inputs",
    "--packed bf16": "weights MHA_BF16",
    "--input-dtype f16 --output-dtype bf16": "product: input MHA_F16, weights MHA_F32, output MHA_BF16",
    "--arithmetic int8": "linear arithmetic: INT8",
}
# Options that leave the plan as it is. Without --scale-is-exact, --scale -1 is refused.
UNSEEN = ("--log-sum-exp", "--scale 2", "--scale -1 --scale-is-exact", "--bias")


def fields_of(struct):
    """The names of the fields, without reserved ones."""
    body = re.search(rf"typedef struct {struct} \{{(.*?)\n\}} {struct};", HEADER.read_text(), re.DOTALL).group(1)
    names = []
    for declaration in re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL).split(";"):
        for part in declaration.split(","):
            name = re.search(r"(\w+)(\[\d+\])?\s*$", part)
            if name and not name.group(1).startswith("reserved"):
                names.append(name.group(1))
    return names


class Explain(CommandTest):
    def explain(self, *arguments):
        return self.ok("explain", *arguments)

    def test_every_field_has_an_option(self):
        helps = {call: self.explain(call, "--help") for call in ("attention", "layer", "linear")}
        everywhere = "".join(helps.values())
        for struct, table in FIELDS.items():
            self.assertEqual(sorted(fields_of(struct)), sorted(table), struct)
            call = struct.split("_")[1]
            text = helps.get(call, everywhere)
            for field, options in table.items():
                for option in options.split() if options.startswith("--") else []:
                    self.assertRegex(text, rf"(?m)^  {option}\b", f"{struct}.{field}")

    def test_every_option_is_tried(self):
        tried = {word for table in (SHARED, OF_ATTENTION, OF_LAYER, OF_LINEAR, UNSEEN) for line in table for word in line.split()}
        tried |= {word for line in (ATTENTION, LAYER, LINEAR, SIZES) for word in line}
        tried |= {"--help", "--target", "--query-lengths", "--packed-key-lengths", "--self-attention"}  # below
        tried |= {"--value-in-key", "--max-threads"}
        for call in ("attention", "layer", "linear"):
            options = set(re.findall(r"(?m)^  (?:-h,)?(--[a-z0-9-]+)", self.explain(call, "--help")))
            self.assertEqual(options - tried, set(), call)

    def test_options(self):
        for base, tables in (
            ([*ATTENTION, *SIZES], (SHARED, OF_ATTENTION)),
            ([*LAYER, *SIZES], (SHARED, OF_LAYER)),
            (LINEAR, (OF_LINEAR,)),
        ):
            without = self.explain(*base)
            known = self.explain(base[0], "--help")
            for table in tables:
                for options, part in table.items():
                    self.assertNotIn(part, without, (base[0], options))
                    self.assertIn(part, self.explain(*base, *options.split()), (base[0], options))
            for options in UNSEEN:
                if re.search(rf"(?m)^  {options.split()[0]}\b", known):
                    self.assertEqual(self.explain(*base, *options.split()), without, (base[0], options))

    def test_max_threads(self):
        for base in (ATTENTION, LAYER):
            large = ["--query-len", "300", "--key-len", "600"]
            self.check_max_threads(*base[:-1], "2", *large)
        self.check_max_threads("linear", "--rows", "300", "--in-features", "640", "--out-features", "480", "--threads", "2")

    def check_max_threads(self, *arguments):
        self.assertIn("threads: 2 of 2", self.explain(*arguments))
        self.assertIn("threads: 1 of 1", self.explain(*arguments, "--max-threads", "1"))

    def test_packed_items(self):
        text = self.explain(*ATTENTION, "--query-lengths", "3,5,0", "--packed-key-lengths", "100,600,7")
        self.assertIn("sequences: 3, of 0 to 5 queries and 7 to 600 keys; 1 have no queries", text)
        text = self.explain(*LAYER, "--query-lengths", "3,9", "--self-attention", "--causal")
        self.assertIn("sequences: 2, of 3 to 9 queries and 3 to 9 keys", text)
        text = self.explain(*LAYER, "--query-lengths", "3,9", "--cache", "paged", "--cache-lengths", "30,90")
        self.assertIn("sequences: 2, of 3 to 9 queries and 33 to 99 keys", text)

    def test_refused(self):
        attention = ["explain", *ATTENTION, *SIZES]
        for part, *arguments in (
            ("--query-len or --query-lengths is required", "explain", *ATTENTION, "--key-len", "3"),
            ("--key-len is required", "explain", *ATTENTION, "--query-len", "3"),
            ("excludes", *attention, "--query-lengths", "3,4"),
            ("--key-lengths has 3 numbers, the batch has 2", *attention, "--key-lengths", "1,2,3"),
            ("--offsets '1,x': 'x' is no integer", *attention, "--causal", "--align", "offset", "--offsets", "1,x"),
            ("--query-lengths: a length is -1", "explain", *ATTENTION, "--query-lengths", "3,-1", "--key-len", "9"),
            ("--align is 'middle'", *attention, "--align", "middle"),
            ("--align and a word of --causal", *attention, "--align", "end", "--causal", "top-left"),
            ("--add-mask: 'i9' is no element type", *attention, "--add-mask", "i9"),
            ("masks.add_mask.dtype", *attention, "--add-mask", "i8"),
            ("--block-mask '64' must be QUERY,KEY", *attention, "--block-mask", "64"),
            ("--relative-bias '1,2,3' must be LEFT,RIGHT", *attention, "--relative-bias", "1,2,3"),
            ("relative_left is -1", *attention, "--relative-bias=-1,2"),
            ("--rope is 'quarter'", *attention, "--rope", "quarter"),
            ("--rope-scaling is 'ntk'", *attention, "--rope", "--rope-scaling", "ntk"),
            ("--rope-dims requires --rope", *attention, "--rope-dims", "16"),
            ("--norm-weight requires --qk-norm", *attention, "--norm-weight"),
            ("--cache-key requires --cache", *attention, "--cache-key", "f16"),
            ("--weights-rows requires --weights-mode", *attention, "--weights-rows", "1"),
            ("--weights-mode is 'all'", *attention, "--weights-mode", "all"),
            ("results.weights.dtype is MHA_F16", *attention, "--weights-mode", "per-head", "--weights-dtype", "f16"),
            ("value_in_key is 1", *attention, "--cache", "paged", "--value-in-key"),
            ("excludes", *attention, "--cache", "paged", "--key-dtype", "f16"),
            ("--page-size and --shared-tokens are of", *attention, "--page-size", "16"),
            ("--shared-tokens is 700, must be in [0, 600]", *attention, "--cache", "paged", "--shared-tokens", "700"),
            ("--cache-lengths has 1 numbers, the call has 2 sequences", *attention, "--cache", "paged", "--cache-lengths", "7"),
            ("sequences[0] is -1", *attention, "--cache", "paged", "--sequences=-1,0"),
            ("--cache-key: 'i5' is no element type", *attention, "--cache", "paged", "--cache-key", "i5"),
            ("'x' is none of group=N", *attention, "--cache", "paged", "--cache-key", "i4:x"),
            ("'group=9' belongs to codes", *attention, "--key-dtype", "f16:group=9"),
            ("'abc' is no number of elements", *attention, "--key-dtype", "i8:group=abc"),
            ("scale is -1: below 0", *attention, "--scale", "-1"),
            ("scale is -1: below 0", "explain", *LAYER, *SIZES, "--scale", "-1"),
            ("--offset beside a word of --causal", *attention, "--offset", "7", "--causal", "offset", "4"),
            ("--shared-tokens is -3, must be in [0, 600]", *attention, "--pages", "--key-lengths", "--shared-tokens", "-3"),
            ("--shared-tokens is 601, must be in [0, 600]", *attention, "--pages", "--key-lengths", "--shared-tokens", "601"),
            ("pages.page_size is 9223372036854775807", *attention, "--pages", "--key-lengths", "--page-size", str(2**63 - 1)),
            ("1048577 sequences are beyond its limit", *attention, "--cache", "paged", "--sequences", f"{2**63 - 1},0"),
            ("tokens are beyond 63 bits", "explain", *ATTENTION, "--query-len", "3", "--key-len", str(2**62), "--key-dtype", "i8"),
            ("scales of several tokens are for tensors", *attention, "--cache", "paged", "--cache-key", "i8:tokens=4"),
            ("--cache-use is 'write'", "explain", *LAYER, *SIZES, "--cache", "paged", "--cache-use", "write"),
            ("--attention-arithmetic is 'x'", "explain", *LAYER, *SIZES, "--attention-arithmetic", "x"),
            ("excludes", "explain", *LAYER, *SIZES, "--self-attention"),
            ("--weight-layout is 'columns'", "explain", *LINEAR, "--weight-layout", "columns"),
            ("packed.hadamard is 1", "explain", *LINEAR, "--packed", "i8:hadamard"),
            ("packed weights have no fixed scales", "explain", *LINEAR, "--packed", "i8:fixed"),
            ("max_threads is -1", "explain", *LINEAR, "--max-threads", "-1"),
        ):
            self.refused(part, *arguments)


if __name__ == "__main__":
    unittest.main()
