// SPDX-License-Identifier: Apache-2.0
// Turns the options of `mha explain` into the arguments of a call; see explain_options.h.
#include "tools/cli/explain_options.h"

namespace mha::cli {
namespace {

// Data that is not read, but whose address says that it is there. Each its own, since results must not overlap.
struct NotRead {
  float add_mask = 0, add_mask2 = 0, factors = 1, slopes = 0, bias = 0, sinks = 0, log_sum_exp = 0, weights = 0,
        norm = 1;
  float cos = 1, sin = 0;
  std::int32_t query_segments = 0, key_segments = 0;
  std::int64_t query_positions = 0, key_positions = 0;
  std::uint8_t bool_mask = 1, bit_mask = 1;
  std::int64_t pairs[2] = {0, 0};
};
NotRead not_read;

const std::int64_t* data_of(const std::vector<std::int64_t>& list) { return list.empty() ? nullptr : list.data(); }

std::vector<std::int64_t> numbers(const std::string& option, const std::string& text) {
  return text.empty() ? std::vector<std::int64_t>{} : parse_numbers(option, text);
}

// A list with a number for each of the B items.
std::vector<std::int64_t> for_items(const std::string& option, const std::string& text, std::int64_t batch) {
  std::vector<std::int64_t> list = numbers(option, text);
  if (!list.empty() && static_cast<std::int64_t>(list.size()) != batch) {
    throw Failure(option + " has " + std::to_string(list.size()) + " numbers, the batch has " + std::to_string(batch));
  }
  return list;
}

template <class Call>
void put_items(const ItemOptions& o, CallData& data, Call& call) {
  call.batch = o.batch, call.query_len = o.query_len, call.key_len = o.key_len;
  if (!o.query_lengths.empty()) {
    data.query_offsets = offsets_of("--query-lengths", parse_numbers("--query-lengths", o.query_lengths));
    call.batch = static_cast<std::int64_t>(data.query_offsets.size()) - 1;
    call.query_len = data.query_offsets.back();
  }
  if (!o.packed_key_lengths.empty()) {
    const auto lengths = for_items("--packed-key-lengths", o.packed_key_lengths, call.batch);
    data.key_offsets = offsets_of("--packed-key-lengths", lengths);
    call.key_len = data.key_offsets.back();
  }
  if (o.key_lengths == "all") {
    constexpr std::int64_t kLimit = std::int64_t{1} << 27;
    if (call.batch < 0 || call.batch > kLimit) {
      throw Failure("--batch beside --key-lengths is " + std::to_string(call.batch) + ", must be in [0, " +
                    std::to_string(kLimit) + "]");
    }
    data.key_lengths.assign(static_cast<std::size_t>(call.batch) + 1, call.key_len);  // never empty
  } else {
    data.key_lengths = for_items("--key-lengths", o.key_lengths, call.batch);
  }
  data.sequences = for_items("--sequences", o.sequences, call.batch);
  call.items.query_offsets = data_of(data.query_offsets);
  call.items.key_offsets = data_of(data.key_offsets);
  call.items.key_lengths = data_of(data.key_lengths);
  call.items.sequences = data_of(data.sequences);
}

mha_align parse_align(const std::string& word) {
  if (word == "start") return MHA_ALIGN_START;
  if (word == "end") return MHA_ALIGN_END;
  if (word == "offset") return MHA_ALIGN_OFFSET;
  throw Failure("--align is '" + word + "', must be start, end or offset");
}

template <class Call>
void put_positions(const CLI::App& app, const PositionOptions& o, CallData& data, Call& call) {
  const Causal causal = parse_causal(app, o.causal);
  call.causal = causal.causal;
  call.positions = causal.positions;
  if (!o.align.empty()) {
    if (causal.positions.align != MHA_ALIGN_DEFAULT)
      throw Failure("--align and a word of --causal say the same: give one");
    call.positions.align = parse_align(o.align);
  }
  if (o.offset != 0) {
    if (causal.positions.align != MHA_ALIGN_DEFAULT) throw Failure("--offset beside a word of --causal: give one");
    call.positions.offset = o.offset;
  }
  data.offsets = for_items("--offsets", o.offsets, call.batch);
  call.positions.offsets = data_of(data.offsets);
  if (o.query) call.positions.query = &not_read.query_positions;
  if (o.key) call.positions.key = &not_read.key_positions;
  // No plan depends on whether queries stand at the start or at the end of padded keys.
  if (call.items.key_lengths != nullptr && call.positions.align == MHA_ALIGN_DEFAULT) {
    call.positions.align = MHA_ALIGN_END;
  }
}

template <class Call>
void put_masks(const MaskOptions& o, CallData& data, Call& call) {
  mha_masks& masks = call.masks;
  if (o.bool_mask) masks.bool_mask.data = &not_read.bool_mask;
  if (o.bit_mask) masks.bit_mask.data = &not_read.bit_mask;
  if (!o.add_mask.empty()) {
    masks.add_mask.data = &not_read.add_mask, masks.add_mask.dtype = parse_dtype("--add-mask", o.add_mask);
  }
  if (o.factors) masks.add_mask_factors = &not_read.factors;
  if (!o.add_mask2.empty()) {
    masks.add_mask2.data = &not_read.add_mask2, masks.add_mask2.dtype = parse_dtype("--add-mask2", o.add_mask2);
  }
  if (!o.block_mask.empty()) {
    const auto blocks = parse_numbers("--block-mask", o.block_mask);
    if (blocks.size() != 2) throw Failure("--block-mask '" + o.block_mask + "' must be QUERY,KEY");
    masks.block_mask.query_block = blocks[0], masks.block_mask.key_block = blocks[1];
    masks.block_mask.pairs = not_read.pairs, masks.block_mask.num_pairs = 1;
  }
  if (o.segments) {
    masks.query_segments = &not_read.query_segments, masks.key_segments = &not_read.key_segments;
  }
  data.prefix_lengths = for_items("--prefix-lengths", o.prefix_lengths, call.batch);
  masks.prefix_lengths = data_of(data.prefix_lengths);
  masks.window_left = o.window_left, masks.window_right = o.window_right, masks.sink_tokens = o.sink_tokens;
}

template <class Call>
void put_scores(const ScoreOptions& o, Call& call) {
  call.score_mods.softcap = o.softcap;
  if (o.alibi) call.score_mods.alibi_slopes = &not_read.slopes;
  if (o.sinks) call.score_mods.sink_logits = &not_read.sinks;
  if (!o.relative_bias.empty()) {
    const auto reach = parse_numbers("--relative-bias", o.relative_bias);
    if (reach.size() != 2) throw Failure("--relative-bias '" + o.relative_bias + "' must be LEFT,RIGHT");
    call.score_mods.relative_bias = &not_read.bias;
    call.score_mods.relative_left = reach[0], call.score_mods.relative_right = reach[1];
  }
}

mha_rope_scaling parse_scaling(const std::string& word) {
  if (word == "none") return MHA_ROPE_SCALING_NONE;
  if (word == "linear") return MHA_ROPE_SCALING_LINEAR;
  if (word == "llama3") return MHA_ROPE_SCALING_LLAMA3;
  if (word == "yarn") return MHA_ROPE_SCALING_YARN;
  throw Failure("--rope-scaling is '" + word + "', must be none, linear, llama3 or yarn");
}

template <class Call>
void put_rows(const RowOptions& o, CallData& data, Call& call) {
  if (!o.rope.empty()) {
    data.rope = o.rotation;
    if (o.rope != "half" && o.rope != "interleaved") {
      throw Failure("--rope is '" + o.rope + "', must be half or interleaved");
    }
    data.rope.style = o.rope == "half" ? MHA_ROPE_HALF : MHA_ROPE_INTERLEAVED;
    data.rope.scaling = parse_scaling(o.rope_scaling);
    if (data.rope.table_positions != 0) data.rope.cos = &not_read.cos, data.rope.sin = &not_read.sin;
    call.rope = &data.rope;
  }
  if (o.qk_norm) {
    data.norm.epsilon = o.norm_epsilon;
    if (o.norm_weight) data.norm.weight = &not_read.norm;
    call.query_norm = &data.norm;
  }
}

template <class Call>
void put_results(const ResultOptions& o, CallData& data, Call& call) {
  if (o.log_sum_exp) call.results.log_sum_exp = &not_read.log_sum_exp;
  call.results.weights_mode = parse_weights_mode(o.weights_mode);
  if (call.results.weights_mode != MHA_WEIGHTS_NONE) {
    call.results.weights.data = &not_read.weights;
    call.results.weights.dtype = parse_dtype("--weights-dtype", o.weights_dtype);
  }
  data.weights_rows = numbers("--weights-rows", o.weights_rows);
  call.results.weights_rows = data_of(data.weights_rows);
  call.results.num_weights_rows = static_cast<std::int64_t>(data.weights_rows.size());
}

bool given(const CLI::App& app, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const CLI::Option* option = app.get_option_no_throw(name);
    if (option != nullptr && option->count() > 0) return true;
  }
  return false;
}

template <class Call>
void put_shared(const CLI::App& app, const CallOptions& o, CallData& data, Call& call) {
  if (!given(app, {"--query-len", "--query-lengths"})) throw Failure("--query-len or --query-lengths is required");
  if (!given(app, {"--key-len", "--packed-key-lengths", "--cache-lengths", "--self-attention"})) {
    throw Failure("--key-len is required");
  }
  if (given(app, {"--page-size", "--shared-tokens"}) && !given(app, {"--cache", "--pages"})) {
    throw Failure("--page-size and --shared-tokens are of --cache or --pages");
  }
  put_items(o.items, data, call);
  put_positions(app, o.positions, data, call);
  put_masks(o.masks, data, call);
  put_scores(o.scores, call);
  put_rows(o.rows, data, call);
  put_results(o.results, data, call);
  call.resources.max_threads = o.max_threads;
  call.arithmetic = o.arithmetic;
  call.query.dtype = parse_dtype("--query-dtype", o.query);
  call.output.dtype = parse_dtype("--output-dtype", o.output);
}

}  // namespace

const float* some_floats() { return &not_read.add_mask; }

void put_options(const CLI::App& app, const CallOptions& options, CallData& data, AttentionCall& call) {
  put_shared(app, options, data, call);
  call.scale = options.scores.scale;
  call.scale_is_exact = options.scores.scale_is_exact ? 1 : 0;
}

void put_options(const CLI::App& app, const CallOptions& options, CallData& data, LayerCall& call) {
  put_shared(app, options, data, call);
  if (options.rows.qk_norm) call.key_norm = &data.norm;
}

}  // namespace mha::cli
