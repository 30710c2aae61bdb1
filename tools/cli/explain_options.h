// SPDX-License-Identifier: Apache-2.0
// The options of `mha explain attention` and `mha explain layer`: one for every group of arguments of mha.h, and the
// arrays that the arguments point to. The library looks at sizes, lengths and whether pointers are null, not at data.
#ifndef MHA_TOOLS_CLI_EXPLAIN_OPTIONS_H
#define MHA_TOOLS_CLI_EXPLAIN_OPTIONS_H

#include <mha/mha.hpp>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "tools/cli/formats.h"
#include "tools/cli/support.h"

namespace mha::cli {

// What lists of numbers point to; an empty one is a null pointer.
struct ItemOptions {
  std::int64_t batch = 1, query_len = 0, key_len = 0;
  std::string query_lengths, packed_key_lengths, key_lengths, sequences;
};

struct PositionOptions {
  std::vector<std::string> causal;
  std::string align, offsets;
  std::int64_t offset = 0;
  bool query = false, key = false;
};

struct MaskOptions {
  std::int64_t window_left = 0, window_right = 0, sink_tokens = 0;
  std::string prefix_lengths, block_mask;
  std::string add_mask, add_mask2;  // element types; empty: none
  bool factors = false;
  bool bool_mask = false, bit_mask = false, segments = false;
};

struct ScoreOptions {
  float softcap = 0, scale = 0;
  bool scale_is_exact = false, alibi = false, sinks = false;
  std::string relative_bias;  // "left,right"
};

struct RowOptions {
  bool qk_norm = false, norm_weight = false;
  float norm_epsilon = 1e-6F;
  std::string rope, rope_scaling = "none";
  mha_rope rotation{};
};

struct ResultOptions {
  bool log_sum_exp = false;
  std::string weights_mode = "none", weights_dtype = "f32", weights_rows;
};

struct CacheOptions {
  std::string kind;  // empty: none
  std::string lengths, key = "f32", value = "f32", use = "append";
  std::int64_t page_size = 0, capacity = 0, max_sequences = 0, sink_tokens = 0, shared_tokens = 0;
  bool pages = false, value_in_key = false;
};

struct CallOptions {
  ItemOptions items;
  PositionOptions positions;
  MaskOptions masks;
  ScoreOptions scores;
  RowOptions rows;
  ResultOptions results;
  std::int64_t max_threads = 0;
  CacheOptions cache;
  std::string query = "f32", key = "f32", value = "f32", output = "f32";
  mha_arithmetic arithmetic = MHA_ARITHMETIC_F32;
  bool heads_first = false;
  ContextFlags context;
};

enum class ExplainCall { kAttention, kLayer };

// All options that the call has; `app` is the subcommand.
void add_call_options(CLI::App& app, ExplainCall call, CallOptions& options);
void add_max_threads_option(CLI::App& app, std::int64_t& max_threads);

// The arrays and groups that a call's arguments point to; they live as long as this.
struct CallData {
  std::vector<std::int64_t> query_offsets, key_offsets, key_lengths, sequences, offsets, prefix_lengths, weights_rows;
  mha_rope rope{};
  mha_norm norm{};
};

// Fills in what attention and layers share. The sizes of the batch come from the lists where they are given.
void put_options(const CLI::App& app, const CallOptions& options, CallData& data, AttentionCall& call);
void put_options(const CLI::App& app, const CallOptions& options, CallData& data, LayerCall& call);

// What stands for data that is not read.
const float* some_floats();

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_EXPLAIN_OPTIONS_H
