// SPDX-License-Identifier: Apache-2.0
// Every status of mha_attention: which arguments give it, a message that names the argument and its value, and nothing
// written. (Layer and linear: test_status_layer.cpp. Rows, merges, reserve: test_status_calls.cpp. Contexts:
// test_context.cpp. Sizes that overflow: test_overflow.cpp. Results that overlap: test_overlap.cpp. Masks and score
// changes: test_status_masks.cpp.)
#include <functional>

#include "tests/support/caches.h"
#include "tests/support/layers.h"
#include "tests/support/watched_call.h"

using namespace mha::test;

namespace {

#define MISTAKE(...) [](WatchedCall& call) { __VA_ARGS__; }

const AttentionMistake kSizes[] = {
    {MHA_ERR_ARGUMENT, {"batch is -1: "}, MISTAKE(call.args.batch = -1)},
    {MHA_ERR_ARGUMENT, {"num_heads is -2: "}, MISTAKE(call.args.num_heads = -2)},
    {MHA_ERR_ARGUMENT, {"num_heads is 0: "}, MISTAKE(call.args.num_heads = 0)},
    {MHA_ERR_ARGUMENT, {"num_kv_heads is -3: "}, MISTAKE(call.args.num_kv_heads = -3)},
    {MHA_ERR_ARGUMENT, {"query_len is -4: "}, MISTAKE(call.args.query_len = -4)},
    {MHA_ERR_ARGUMENT, {"key_len is -5: "}, MISTAKE(call.args.key_len = -5)},
    {MHA_ERR_ARGUMENT, {"head_dim is 0: "}, MISTAKE(call.args.head_dim = 0)},
    {MHA_ERR_ARGUMENT, {"head_dim is -6: "}, MISTAKE(call.args.head_dim = -6)},
    {MHA_ERR_ARGUMENT, {"value_head_dim is -7: "}, MISTAKE(call.args.value_head_dim = -7)},
    {MHA_ERR_OVERFLOW, {"batch is 4611686018427387905: must be at most 2^62"}, MISTAKE(call.args.batch = kFar)},
    {MHA_ERR_OVERFLOW, {"num_heads is 4611686018427387905: must be at most 2^62"}, MISTAKE(call.args.num_heads = kFar)},
    {MHA_ERR_OVERFLOW, {"query_len is 4611686018427387905: must be at most 2^62"}, MISTAKE(call.args.query_len = kFar)},
    {MHA_ERR_OVERFLOW, {"key_len is 4611686018427387905: must be at most 2^62"}, MISTAKE(call.args.key_len = kFar)},
    {MHA_ERR_OVERFLOW, {"head_dim is 4611686018427387905: must be at most 2^62"}, MISTAKE(call.args.head_dim = kFar)},
    {MHA_ERR_OVERFLOW,
     {"value_head_dim is 4611686018427387905: must be at most 2^62"},
     MISTAKE(call.args.value_head_dim = kFar)},
    {MHA_ERR_SHAPE, {"num_heads is 4", "num_kv_heads (3)"}, MISTAKE(call.args.num_kv_heads = 3)},
    {MHA_ERR_SHAPE, {"num_heads is 4", "num_kv_heads (8)"}, MISTAKE(call.args.num_kv_heads = 8)},
    {MHA_ERR_ARGUMENT, {"scale is nan"}, MISTAKE(call.args.scale = kNan)},
    {MHA_ERR_ARGUMENT, {"scale is inf"}, MISTAKE(call.args.scale = kInf)},
    {MHA_ERR_ARGUMENT, {"scale is -0.5", "scale_is_exact"}, MISTAKE(call.args.scale = -0.5f)},
    {MHA_ERR_ARGUMENT, {"scale is -0", "scale_is_exact"}, MISTAKE(call.args.scale = -0.0f)},
    {MHA_ERR_ARGUMENT, {"scale is 1.4013e-45: a denormal"}, MISTAKE(call.args.scale = float_of_bits(1))},
    {MHA_ERR_ARGUMENT,
     {"scale is -1.17549e-38: a denormal"},
     MISTAKE(call.args.scale = float_of_bits(0x807fffff); call.args.scale_is_exact = 1)},
    {MHA_ERR_ARGUMENT, {"scale is nan"}, MISTAKE(call.args.scale = kNan; call.args.scale_is_exact = 1)},
    {MHA_ERR_UNSUPPORTED,
     {"keys are MHA_F32: MHA_ARITHMETIC_INT8"},
     MISTAKE(call.args.arithmetic = MHA_ARITHMETIC_INT8)},
    {MHA_ERR_ARGUMENT, {"arithmetic is 3: not a value"}, MISTAKE(call.args.arithmetic = no_value<mha_arithmetic>(3))},
};

const AttentionMistake kViews[] = {
    {MHA_ERR_NULL, {"query.data is NULL"}, MISTAKE(call.args.query.data = nullptr), By::kTheCallAlone},
    {MHA_ERR_NULL, {"key.data is NULL"}, MISTAKE(call.args.key.data = nullptr), By::kTheCallAlone},
    {MHA_ERR_NULL, {"value.data is NULL"}, MISTAKE(call.args.value.data = nullptr), By::kTheCallAlone},
    {MHA_ERR_NULL, {"output.data is NULL"}, MISTAKE(call.args.output.data = nullptr), By::kTheCallAlone},
    {MHA_ERR_NULL,
     {"results.weights.data is NULL"},
     MISTAKE(call.args.results.weights.data = nullptr),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT,
     {"query is at 0x", "aligned to 4 bytes"},
     MISTAKE(call.args.query.data = call.open.data() + 1 + (4 - reinterpret_cast<size_t>(call.open.data()) % 4) % 4),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT,
     {"key is at 0x", "aligned to 4 bytes"},
     MISTAKE(call.args.key.data = call.open.data() + 1 + (4 - reinterpret_cast<size_t>(call.open.data()) % 4) % 4),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT,
     {"value is at 0x", "aligned to 4 bytes"},
     MISTAKE(call.args.value.data = call.open.data() + 1 + (4 - reinterpret_cast<size_t>(call.open.data()) % 4) % 4),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT,
     {"output is at 0x", "aligned to 4 bytes"},
     MISTAKE(call.args.output.data = call.open.data() + 1 + (4 - reinterpret_cast<size_t>(call.open.data()) % 4) % 4),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT,
     {"query is at 0x", "aligned to 2 bytes"},
     MISTAKE(call.args.query.dtype = MHA_F16; call.args.query.data = call.odd()),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT,
     {"key is at 0x", "aligned to 2 bytes"},
     MISTAKE(call.args.key.dtype = MHA_BF16; call.args.key.data = call.odd()),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT,
     {"value is at 0x", "aligned to 2 bytes"},
     MISTAKE(call.args.value.dtype = MHA_F16; call.args.value.data = call.odd()),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT,
     {"output is at 0x", "aligned to 2 bytes"},
     MISTAKE(call.args.output.dtype = MHA_BF16; call.args.output.data = call.odd()),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT,
     {"results.weights is at 0x", "aligned to 4 bytes"},
     MISTAKE(call.args.results.weights.data =
                 call.open.data() + 1 + (4 - reinterpret_cast<size_t>(call.open.data()) % 4) % 4),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT,
     {"results.log_sum_exp is at 0x", "aligned to 4 bytes"},
     MISTAKE(call.args.results.log_sum_exp = reinterpret_cast<float*>(reinterpret_cast<char*>(call.lse.data()) + 2)),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT, {"query.reserved is not 0", "newer mha"}, MISTAKE(call.args.query.reserved = 1)},
    {MHA_ERR_ARGUMENT, {"query.dtype is 99: not a value"}, MISTAKE(call.args.query.dtype = no_value<mha_dtype>(99))},
    {MHA_ERR_ARGUMENT, {"key.reserved is not 0", "newer mha"}, MISTAKE(call.args.key.reserved = 1)},
    {MHA_ERR_ARGUMENT, {"key.dtype is 99: not a value"}, MISTAKE(call.args.key.dtype = no_value<mha_dtype>(99))},
    {MHA_ERR_ARGUMENT, {"value.reserved is not 0", "newer mha"}, MISTAKE(call.args.value.reserved = 1)},
    {MHA_ERR_ARGUMENT, {"value.dtype is 99: not a value"}, MISTAKE(call.args.value.dtype = no_value<mha_dtype>(99))},
    {MHA_ERR_ARGUMENT, {"output.reserved is not 0", "newer mha"}, MISTAKE(call.args.output.reserved = 1)},
    {MHA_ERR_ARGUMENT, {"output.dtype is 99: not a value"}, MISTAKE(call.args.output.dtype = no_value<mha_dtype>(99))},
    {MHA_ERR_ARGUMENT,
     {"results.weights.reserved is not 0", "newer mha"},
     MISTAKE(call.args.results.weights.reserved = 1)},
    {MHA_ERR_ARGUMENT,
     {"results.weights.dtype is 99: not a value"},
     MISTAKE(call.args.results.weights.dtype = no_value<mha_dtype>(99))},
    {MHA_ERR_UNSUPPORTED,
     {"query.dtype is MHA_I8: must be MHA_F32, MHA_F16 or MHA_BF16"},
     MISTAKE(call.args.query.dtype = MHA_I8)},
    {MHA_ERR_UNSUPPORTED,
     {"output.dtype is MHA_I8: must be MHA_F32, MHA_F16 or MHA_BF16"},
     MISTAKE(call.args.output.dtype = MHA_I8)},
    {MHA_ERR_UNSUPPORTED,
     {"results.weights.dtype is MHA_U8: must be MHA_F32, MHA_F16 or MHA_BF16"},
     MISTAKE(call.args.results.weights.dtype = MHA_U8)},
    {MHA_ERR_UNSUPPORTED,
     {"results.weights.dtype is MHA_F16: must be MHA_F32"},
     MISTAKE(call.args.results.weights.dtype = MHA_F16)},
    {MHA_ERR_UNSUPPORTED,
     {"results.weights.dtype is MHA_BF16: must be MHA_F32"},
     MISTAKE(call.args.results.weights.dtype = MHA_BF16)},
    {MHA_ERR_ARGUMENT, {"query.quant is given"}, MISTAKE(call.args.query.quant = &call.quant)},
    {MHA_ERR_ARGUMENT, {"key.quant is given"}, MISTAKE(call.args.key.quant = &call.quant)},
    {MHA_ERR_ARGUMENT, {"value.quant is given"}, MISTAKE(call.args.value.quant = &call.quant)},
    {MHA_ERR_STRIDE, {"query.stride_b is -96", "MHA_BROADCAST"}, MISTAKE(call.args.query.stride_b = -96)},
    {MHA_ERR_STRIDE, {"key.stride_h is -8"}, MISTAKE(call.args.key.stride_h = -8)},
    {MHA_ERR_STRIDE,
     {"key.stride_t is 0 beside other strides", "MHA_BROADCAST"},
     MISTAKE(call.args.key.stride_b = 960)},
    {MHA_ERR_STRIDE, {"value.stride_t is -2"}, MISTAKE(call.args.value.stride_t = -2)},
    {MHA_ERR_STRIDE, {"output.stride_b is -1: must be >= 0"}, MISTAKE(call.args.output.stride_b = MHA_BROADCAST)},
    {MHA_ERR_STRIDE, {"output.stride_t is -1: must be >= 0"}, MISTAKE(call.args.output.stride_t = MHA_BROADCAST)},
    {MHA_ERR_STRIDE, {"output.stride_h is -1: must be >= 0"}, MISTAKE(call.args.output.stride_h = MHA_BROADCAST)},
    {MHA_ERR_STRIDE,
     {"results.weights.stride_b is -1: must be >= 0"},
     MISTAKE(call.args.results.weights.stride_b = MHA_BROADCAST)},
    {MHA_ERR_STRIDE,
     {"results.weights.stride_t is -1: must be >= 0"},
     MISTAKE(call.args.results.weights.stride_t = MHA_BROADCAST)},
    {MHA_ERR_STRIDE,
     {"results.weights.stride_h is -1: must be >= 0"},
     MISTAKE(call.args.results.weights.stride_h = MHA_BROADCAST)},
    {MHA_ERR_STRIDE,
     {"output.stride_b, _t, _h are 72, 0, 6", "overlap"},
     MISTAKE(call.args.output = mut_view(call.output.data(), {72, 0, 6}))},
    {MHA_ERR_STRIDE,
     {"output.stride_b, _t, _h are 72, 24, 5"},
     MISTAKE(call.args.output = mut_view(call.output.data(), {72, 24, 5}))},
    {MHA_ERR_STRIDE,
     {"output.stride_b, _t, _h are 71, 24, 6"},
     MISTAKE(call.args.output = mut_view(call.output.data(), {71, 24, 6}))},
    {MHA_ERR_STRIDE,
     {"results.weights.stride_b, _t, _h are 60, 15, 4"},
     MISTAKE(call.args.results.weights = mut_view(call.weights.data(), {60, 15, 4}))},
    {MHA_ERR_STRIDE,
     {"results.weights.stride_b, _t, _h are 9, 0, 0"},
     MISTAKE(call.args.results.weights = mut_view(call.weights.data(), {9, 0, 0}))},
};

const AttentionMistake kItems[] = {
    {MHA_ERR_ARGUMENT,
     {"items.key_lengths[1] is -1: must be 0 to key_len (5)"},
     MISTAKE(call.args.items.key_lengths = call.list({5, -1}))},
    {MHA_ERR_ARGUMENT,
     {"items.key_lengths[0] is 6: must be 0 to key_len (5)"},
     MISTAKE(call.args.items.key_lengths = call.list({6, 4}))},
    {MHA_ERR_ARGUMENT,
     {"items.query_offsets[0] is 1: must be 0"},
     MISTAKE(call.args.items.query_offsets = call.list({1, 2, 3}))},
    {MHA_ERR_ARGUMENT,
     {"items.query_offsets[1] is -1, less than"},
     MISTAKE(call.args.items.query_offsets = call.list({0, -1, 3}))},
    {MHA_ERR_ARGUMENT,
     {"items.query_offsets[2] is 1, less than the one before it (2)"},
     MISTAKE(call.args.items.query_offsets = call.list({0, 2, 1}))},
    {MHA_ERR_ARGUMENT,
     {"items.query_offsets[2] is 4: must be query_len (3)"},
     MISTAKE(call.args.items.query_offsets = call.list({0, 1, 4}))},
    {MHA_ERR_ARGUMENT,
     {"items.key_offsets[0] is 1: must be 0"},
     MISTAKE(call.args.items.key_offsets = call.list({1, 2, 5}))},
    {MHA_ERR_ARGUMENT,
     {"items.key_offsets[1] is -1, less than"},
     MISTAKE(call.args.items.key_offsets = call.list({0, -1, 5}))},
    {MHA_ERR_ARGUMENT,
     {"items.key_offsets[2] is 1, less than the one before it (2)"},
     MISTAKE(call.args.items.key_offsets = call.list({0, 2, 1}))},
    {MHA_ERR_ARGUMENT,
     {"items.key_offsets[2] is 6: must be key_len (5)"},
     MISTAKE(call.args.items.key_offsets = call.list({0, 1, 6}))},
    {MHA_ERR_ARGUMENT,
     {"items.key_lengths is given", "items.key_offsets"},
     MISTAKE(call.args.items.key_lengths = call.list({1, 1});
             call.args.items.key_offsets = call.other_list({0, 1, 5}))},
    {MHA_ERR_ARGUMENT,
     {"items.sequences is given", "no cache"},
     MISTAKE(call.args.items.sequences = call.list({0, 1}))},
    {MHA_ERR_ARGUMENT, {"key_len is 5", "cache"}, MISTAKE(call.use_cache(); call.args.key_len = 5)},
    {MHA_ERR_ARGUMENT,
     {"key.data is given", "cache"},
     MISTAKE(call.use_cache(); call.args.key = view(call.problem.key.data()))},
    {MHA_ERR_ARGUMENT,
     {"value.data is given", "cache"},
     MISTAKE(call.use_cache(); call.args.value = view(call.problem.value.data()))},
    {MHA_ERR_ARGUMENT, {"key.reserved is not 0"}, MISTAKE(call.use_cache(); call.args.key.reserved = 1)},
    {MHA_ERR_ARGUMENT, {"value.stride_t is given", "cache"}, MISTAKE(call.use_cache(); call.args.value.stride_t = 8)},
    {MHA_ERR_ARGUMENT,
     {"key.quant is given", "cache"},
     MISTAKE(call.use_cache(); static const mha_quant quant = {}; call.args.key.quant = &quant)},
    {MHA_ERR_ARGUMENT,
     {"items.key_lengths is given", "cache"},
     MISTAKE(call.use_cache(); call.args.items.key_lengths = call.list({1, 1}))},
    {MHA_ERR_ARGUMENT,
     {"items.key_offsets is given", "cache"},
     MISTAKE(call.use_cache(); call.args.items.key_offsets = call.list({0, 1, 2}))},
    {MHA_ERR_ARGUMENT, {"pages is given", "cache"}, MISTAKE(call.use_cache(); call.args.pages = &call.pages)},
    {MHA_ERR_SHAPE, {"num_kv_heads is 2, but the cache's is 4"}, MISTAKE(call.use_cache([](mha_cache_config& c) {
       c.num_kv_heads = 4;
     }))},
    {MHA_ERR_SHAPE, {"head_dim is 8, but the cache's is 7"}, MISTAKE(call.use_cache([](mha_cache_config& c) {
       c.head_dim = 7;
     }))},
    {MHA_ERR_SHAPE, {"value_head_dim is 6, but the cache's is 9"}, MISTAKE(call.use_cache([](mha_cache_config& c) {
       c.value_head_dim = 9;
     }))},
    {MHA_ERR_ARGUMENT, {"batch is 3, but the cache has 2 sequences"}, MISTAKE(call.use_cache(); call.args.batch = 3)},
    {MHA_ERR_ARGUMENT,
     {"items.sequences[1] is 2: must be 0 to 1"},
     MISTAKE(call.use_cache(); call.args.items.sequences = call.list({0, 2}))},
    {MHA_ERR_ARGUMENT,
     {"items.sequences[0] is -1: must be 0 to 1"},
     MISTAKE(call.use_cache(); call.args.items.sequences = call.list({-1, 0}))},
    {MHA_ERR_ARGUMENT,
     {"masks.window_left is 0: query 0 of item 0 sees keys from 0 on", "from 16 on"},
     MISTAKE(call.use_ring())},
    {MHA_ERR_ARGUMENT,
     {"masks.window_left is 20: query 0 of item 0 sees keys from 15 on", "from 16 on"},
     MISTAKE(call.use_ring(); call.args.masks.window_left = 20)},
    {MHA_ERR_ARGUMENT,
     {"masks.sink_tokens is 1, but the ring keeps the first 0"},
     MISTAKE(call.use_ring(); call.args.masks.window_left = 19; call.args.masks.sink_tokens = 1)},
    {MHA_ERR_ARGUMENT,
     {"items.key_offsets is given", "pages"},
     MISTAKE(call.use_pages(); call.args.items.key_lengths = nullptr;
             call.args.items.key_offsets = call.list({0, 1, 5}))},
    {MHA_ERR_NULL,
     {"items.key_lengths is NULL", "pages"},
     MISTAKE(call.use_pages(); call.args.items.key_lengths = nullptr)},
    {MHA_ERR_ARGUMENT, {"pages.stride is -1"}, MISTAKE(call.use_pages(); call.pages.stride = -1)},
    {MHA_ERR_ARGUMENT, {"pages.page_size is 0"}, MISTAKE(call.use_pages(); call.pages.page_size = 0)},
    {MHA_ERR_ARGUMENT, {"pages.num_pages is -2"}, MISTAKE(call.use_pages(); call.pages.num_pages = -2)},
    {MHA_ERR_OVERFLOW,
     {"pages.stride is 4611686018427387904 for 2 items"},
     MISTAKE(call.use_pages(); call.pages.stride = kFar - 1)},
    {MHA_ERR_NULL, {"pages.table is NULL"}, MISTAKE(call.use_pages(); call.pages.table = nullptr), By::kTheCallAlone},
    {MHA_ERR_ARGUMENT,
     {"pages.num_pages is 0, but item 0 has 5 keys"},
     MISTAKE(call.use_pages(); call.pages.num_pages = 0),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT,
     {"pages.table[4] (page 1 of item 1) is 3: must be 0 to 2"},
     MISTAKE(call.use_pages(); call.table[4] = 3),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT,
     {"pages.table[2] (page 2 of item 0) is -1: must be 0 to 2"},
     MISTAKE(call.use_pages(); call.table[2] = -1),
     By::kTheCallAlone},
};

const AttentionMistake kPositions[] = {
    {MHA_ERR_ARGUMENT,
     {"positions.align is 4: not a value"},
     MISTAKE(call.args.positions.align = no_value<mha_align>(4))},
    {MHA_ERR_ARGUMENT,
     {"positions.align is -1: not a value"},
     MISTAKE(call.args.positions.align = no_value<mha_align>(-1))},
    {MHA_ERR_ARGUMENT,
     {"positions.align is MHA_ALIGN_DEFAULT beside items.key_lengths", "MHA_ALIGN_START", "MHA_ALIGN_END"},
     MISTAKE(call.args.items.key_lengths = call.list({5, 4}); call.args.causal = 1)},
    {MHA_ERR_ARGUMENT,
     {"positions.align is MHA_ALIGN_DEFAULT beside items.key_lengths", "MHA_ALIGN_START", "MHA_ALIGN_END"},
     MISTAKE(call.args.items.key_lengths = call.list({5, 4}); call.args.masks.window_left = 2)},
    {MHA_ERR_ARGUMENT,
     {"positions.align is MHA_ALIGN_DEFAULT beside items.key_lengths", "MHA_ALIGN_START", "MHA_ALIGN_END"},
     MISTAKE(call.args.items.key_lengths = call.list({5, 4}); call.args.masks.window_right = 2)},
    {MHA_ERR_ARGUMENT,
     {"positions.align is MHA_ALIGN_DEFAULT beside items.key_lengths", "MHA_ALIGN_START", "MHA_ALIGN_END"},
     MISTAKE(call.args.items.key_lengths = call.list({5, 4}); call.args.score_mods.alibi_slopes = call.floats.data())},
    {MHA_ERR_ARGUMENT,
     {"positions.align is MHA_ALIGN_DEFAULT beside items.key_lengths", "MHA_ALIGN_START", "MHA_ALIGN_END"},
     MISTAKE(call.args.items.key_lengths = call.list({5, 4}); call.args.score_mods.relative_bias = call.floats.data())},
    {MHA_ERR_ARGUMENT,
     {"positions.align is MHA_ALIGN_DEFAULT beside items.key_lengths", "MHA_ALIGN_START", "MHA_ALIGN_END"},
     MISTAKE(call.args.items.key_lengths = call.list({5, 4}); call.args.rope = &call.rope)},
    {MHA_ERR_ARGUMENT,
     {"positions.offset is 2, but positions.align is not MHA_ALIGN_OFFSET"},
     MISTAKE(call.args.positions.offset = 2)},
    {MHA_ERR_ARGUMENT,
     {"positions.offset is -1, but"},
     MISTAKE(call.args.positions.offset = -1; call.args.positions.align = MHA_ALIGN_START)},
    {MHA_ERR_ARGUMENT,
     {"positions.offsets is given, but positions.align is not MHA_ALIGN_OFFSET"},
     MISTAKE(call.args.positions.offsets = call.list({1, 2}); call.args.positions.align = MHA_ALIGN_END)},
    {MHA_ERR_ARGUMENT,
     {"positions.offset is 2 beside positions.offsets"},
     MISTAKE(call.args.positions.align = MHA_ALIGN_OFFSET; call.args.positions.offset = 2;
             call.args.positions.offsets = call.list({1, 2}))},
    {MHA_ERR_OVERFLOW,
     {"positions.offset is 4611686018427387905: must be within 2^62"},
     MISTAKE(call.args.positions.align = MHA_ALIGN_OFFSET; call.args.positions.offset = kFar)},
    {MHA_ERR_OVERFLOW,
     {"positions.offset is -4611686018427387905"},
     MISTAKE(call.args.positions.align = MHA_ALIGN_OFFSET; call.args.positions.offset = -kFar)},
    {MHA_ERR_OVERFLOW,
     {"positions.offsets[1] is -4611686018427387905"},
     MISTAKE(call.args.positions.align = MHA_ALIGN_OFFSET; call.args.positions.offsets = call.list({0, -kFar}))},
    {MHA_ERR_OVERFLOW,
     {"positions.offsets[0] is 4611686018427387905"},
     MISTAKE(call.args.positions.align = MHA_ALIGN_OFFSET; call.args.positions.offsets = call.list({kFar, 0}))},
    {MHA_ERR_ARGUMENT,
     {"positions.query is given", "rope"},
     MISTAKE(call.args.positions.query = call.list({0, 1, 2, 0, 1, 2}))},
    {MHA_ERR_ARGUMENT,
     {"positions.key is given", "rope"},
     MISTAKE(call.args.positions.key = call.list({0, 1, 2, 3, 4, 0, 1, 2, 3, 4}))},
    {MHA_ERR_ARGUMENT,
     {"positions.key is given", "keys are given rotated"},
     MISTAKE(call.args.rope = &call.rope; call.args.positions.key = call.list({0, 1, 2, 3, 4, 0, 1, 2, 3, 4}))},
    {MHA_ERR_ARGUMENT,
     {"positions.query[3] is -1"},
     MISTAKE(call.args.rope = &call.rope; call.args.positions.query = call.list({0, 1, 2, -1, 1, 2})),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT,
     {"positions.query[5] is 2147483648"},
     MISTAKE(call.args.rope = &call.rope; call.args.positions.query = call.list({0, 1, 2, 0, 1, int64_t{1} << 31})),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT,
     {"position of the first query", "is -1"},
     MISTAKE(call.args.rope = &call.rope; call.args.positions.align = MHA_ALIGN_OFFSET;
             call.args.positions.offset = -1),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT,
     {"the last position", "is 2147483649"},
     MISTAKE(call.args.rope = &call.rope; call.args.positions.align = MHA_ALIGN_OFFSET;
             call.args.positions.offset = (int64_t{1} << 31) - 1),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT, {"query_norm.epsilon is 0"}, MISTAKE(call.norm.epsilon = 0; call.args.query_norm = &call.norm)},
    {MHA_ERR_ARGUMENT,
     {"query_norm.epsilon is -1"},
     MISTAKE(call.norm.epsilon = -1; call.args.query_norm = &call.norm)},
    {MHA_ERR_ARGUMENT,
     {"query_norm.epsilon is nan"},
     MISTAKE(call.norm.epsilon = kNan; call.args.query_norm = &call.norm)},
    {MHA_ERR_ARGUMENT,
     {"query_norm.epsilon is inf"},
     MISTAKE(call.norm.epsilon = kInf; call.args.query_norm = &call.norm)},
    {MHA_ERR_ARGUMENT,
     {"query_norm.epsilon is "},
     MISTAKE(call.norm.epsilon = float_of_bits(0x7fffff); call.args.query_norm = &call.norm)},
};

const AttentionMistake kResults[] = {
    {MHA_ERR_ARGUMENT,
     {"results.weights_mode is 8: not a value"},
     MISTAKE(call.args.results.weights_mode = no_value<mha_weights_mode>(8))},
    {MHA_ERR_ARGUMENT,
     {"results.weights_mode is -1: not a value"},
     MISTAKE(call.args.results.weights_mode = no_value<mha_weights_mode>(-1))},
    {MHA_ERR_ARGUMENT,
     {"results.weights.", " is given, but results.weights_mode is MHA_WEIGHTS_NONE"},
     MISTAKE(call.args.results.weights_mode = MHA_WEIGHTS_NONE)},
    {MHA_ERR_ARGUMENT,
     {"results.weights.", " is given, but results.weights_mode is MHA_WEIGHTS_NONE"},
     MISTAKE(call.args.results.weights_mode = MHA_WEIGHTS_NONE; call.args.results.weights = {};
             call.args.results.weights.stride_b = 5)},
    {MHA_ERR_ARGUMENT,
     {"results.weights.", " is given, but results.weights_mode is MHA_WEIGHTS_NONE"},
     MISTAKE(call.args.results.weights_mode = MHA_WEIGHTS_NONE; call.args.results.weights = {};
             call.args.results.weights.stride_t = 5)},
    {MHA_ERR_ARGUMENT,
     {"results.weights.", " is given, but results.weights_mode is MHA_WEIGHTS_NONE"},
     MISTAKE(call.args.results.weights_mode = MHA_WEIGHTS_NONE; call.args.results.weights = {};
             call.args.results.weights.stride_h = 5)},
    {MHA_ERR_ARGUMENT,
     {"results.weights_rows is given, but results.weights_mode is MHA_WEIGHTS_NONE"},
     MISTAKE(call.args.results.weights_mode = MHA_WEIGHTS_NONE; call.args.results.weights = {}; call.choose({0}))},
    {MHA_ERR_ARGUMENT,
     {"results.num_weights_rows is given, but results.weights_mode is MHA_WEIGHTS_NONE"},
     MISTAKE(call.args.results = {}; call.args.results.num_weights_rows = 3)},
    {MHA_ERR_ARGUMENT,
     {"results.num_weights_rows is 2, but results.weights_rows is NULL"},
     MISTAKE(call.args.results.num_weights_rows = 2)},
    {MHA_ERR_ARGUMENT,
     {"results.num_weights_rows is -1"},
     MISTAKE(call.choose({0}); call.args.results.num_weights_rows = -1)},
    {MHA_ERR_ARGUMENT, {"results.weights_rows[1] is 3: must be 0 to 2"}, MISTAKE(call.choose({0, 3}))},
    {MHA_ERR_ARGUMENT, {"results.weights_rows[0] is -1: must be 0 to 2"}, MISTAKE(call.choose({-1, 1}))},
    {MHA_ERR_ARGUMENT,
     {"results.weights_rows[1] is 1, not more than the one before it (1)"},
     MISTAKE(call.choose({1, 1}))},
    {MHA_ERR_ARGUMENT,
     {"results.weights_rows[1] is 0, not more than the one before it (2)"},
     MISTAKE(call.choose({2, 0}))},
    {MHA_ERR_ARGUMENT,
     {"results.weights_rows[0] is 1: must be 0 to 0"},
     MISTAKE(call.choose({1}); call.args.items.query_offsets = call.other_list({0, 1, 3}))},
    {MHA_ERR_ARGUMENT,
     {"resources.workspace_bytes is 400000, but resources.workspace is NULL"},
     MISTAKE(call.args.resources.workspace = nullptr)},
    {MHA_ERR_ARGUMENT, {"resources.max_threads is -1"}, MISTAKE(call.args.resources.max_threads = -1)},
    {MHA_ERR_ARGUMENT,
     {"resources.parallel_user is given, but the context has no parallel_for"},
     MISTAKE(call.args.resources.parallel_user = &call)},
};

#undef MISTAKE

}  // namespace

TEST_CASE("status: attention, sizes, scale and arithmetic", "[status]") { check_mistakes(kSizes); }
TEST_CASE("status: attention, views", "[status]") { check_mistakes(kViews); }
TEST_CASE("status: attention, items, caches and pages", "[status]") { check_mistakes(kItems); }
TEST_CASE("status: attention, positions and norm", "[status]") { check_mistakes(kPositions); }
TEST_CASE("status: attention, results and resources", "[status]") { check_mistakes(kResults); }

TEST_CASE("status: attention, fields of later versions", "[status]") {
  const auto refused = [](const std::string& text, const std::function<void(mha_attention_args&)>& change) {
    WatchedCall call;
    mha_attention_args args = call.args.raw();
    change(args);
    mha_error error = fresh_error();
    size_t bytes = 12345;
    INFO(text);
    check_error(mha_attention(any_context(), &args, &error), MHA_ERR_ARGUMENT, error, {text, mha_version()});
    CHECK(call.untouched());
    CHECK(mha_attention_workspace_bytes(any_context(), &args, &bytes, nullptr) == MHA_ERR_ARGUMENT);
    CHECK(mha_attention_explain(any_context(), &args, nullptr, 0, &bytes, nullptr) == MHA_ERR_ARGUMENT);
    CHECK(bytes == 12345);
  };
  /// Each word of one group in turn.
  const auto words = [&](const char* name, auto mha_attention_args::*member, const auto& valid) {
    for (size_t n = 0; n < std::size(valid.reserved); ++n) {
      auto changed = valid;
      changed.reserved[n] = uint64_t{1} << (7 * n % 64);
      refused(std::string(name) + ".reserved[" + std::to_string(n) + "] is not 0",
              [&](mha_attention_args& args) { args.*member = &changed; });
    }
  };
  const WatchedCall call;
  const mha_attention_args good = call.args.raw();
  words("items", &mha_attention_args::items, *good.items);
  words("positions", &mha_attention_args::positions, *good.positions);
  words("masks", &mha_attention_args::masks, *good.masks);
  words("score_mods", &mha_attention_args::score_mods, *good.score_mods);
  words("results", &mha_attention_args::results, mha_results{});
  words("resources", &mha_attention_args::resources, mha_resources{});
  words("query_norm", &mha_attention_args::query_norm, call.norm);
  words("rope", &mha_attention_args::rope, mha_rope{});
  words("pages", &mha_attention_args::pages, mha_pages{});
  for (int n = 0; n < 6; ++n)
    refused("args.reserved[" + std::to_string(n) + "] is not 0", [n](mha_attention_args& a) { a.reserved[n] = 1; });

  mha_positions positions = *good.positions;
  mha_score_mods mods = *good.score_mods;
  mha_results results = *good.results;
  mha_norm norm = call.norm;
  positions.reserved_int = mods.reserved_int = results.reserved_int = norm.reserved_int = -1;
  refused("positions.reserved_int is not 0", [&](mha_attention_args& a) { a.positions = &positions; });
  refused("score_mods.reserved_int is not 0", [&](mha_attention_args& a) { a.score_mods = &mods; });
  refused("results.reserved_int is not 0", [&](mha_attention_args& a) { a.results = &results; });
  refused("query_norm.reserved_int is not 0", [&](mha_attention_args& a) { a.query_norm = &norm; });
}

TEST_CASE("status: attention, what is given is what is used", "[status]") {
  // What stands next to the refusals above and is allowed.
  const std::function<void(WatchedCall&)> allowed[] = {
      [](WatchedCall& c) { c.args.scale = -0.5f, c.args.scale_is_exact = 1; },
      [](WatchedCall& c) { c.args.scale_is_exact = 1; },
      [](WatchedCall& c) { c.args.scale = 0x1p-126f; },
      [](WatchedCall& c) {
        c.args.items.key_lengths = c.list({5, 4});
      },
      [](WatchedCall& c) {
        c.args.items.key_lengths = c.list({5, 4});
        c.args.rope = &c.rope, c.args.positions.query = c.other_list({0, 1, 2, 0, 1, 2});
      },
      [](WatchedCall& c) {
        c.args.items.key_lengths = c.list({0, 5});
        c.args.causal = 1, c.args.positions.align = MHA_ALIGN_END;
      },
      [](WatchedCall& c) { c.args.positions.align = MHA_ALIGN_OFFSET, c.args.positions.offset = kFar - 1; },
      [](WatchedCall& c) { c.args.positions.align = MHA_ALIGN_OFFSET, c.args.positions.offset = -(kFar - 1); },
      [](WatchedCall& c) {
        c.use_ring();
        c.args.masks.window_left = 19;
        c.args.results.weights_mode = MHA_WEIGHTS_NONE, c.args.results.weights = {};
      },
      [](WatchedCall& c) { c.use_cache(); },
      [](WatchedCall& c) {
        c.use_cache(), c.args.items.sequences = c.list({1, 1});
      },
      [](WatchedCall& c) { c.use_pages(); },
      [](WatchedCall& c) { c.use_pages(), c.table[5] = 99; },  // beyond item 1's length
      [](WatchedCall& c) { c.args.query.stride_b = c.args.query.stride_t = c.args.query.stride_h = MHA_BROADCAST; },
      [](WatchedCall& c) {
        c.args.masks.bool_mask = {c.open.data(), MHA_BROADCAST, -1, -1, -1};
      },
      [](WatchedCall& c) { c.args.query_norm = &c.norm, c.norm.epsilon = 0x1p-126f; },
  };
  int number = 0;
  for (const auto& change : allowed) {
    INFO("call " << number++);
    WatchedCall call;
    change(call);
    mha_error error = fresh_error();
    const mha_status status = attention(any_context(), call.args, &error);
    INFO(error.message);
    CHECK(status == MHA_OK);
    CHECK(none_poison(call.output));
  }
}

TEST_CASE("status: attention, NULL context, args and results of queries", "[status]") {
  WatchedCall call;
  const mha_context* context = any_context();
  mha_error error = fresh_error();
  check_error(attention(nullptr, call.args, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(mha_attention(context, nullptr, &error), MHA_ERR_NULL, error, {"args is NULL"});
  size_t bytes = 0;
  check_error(attention_workspace_bytes(nullptr, call.args, &bytes, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(mha_attention_workspace_bytes(context, nullptr, &bytes, &error), MHA_ERR_NULL, error, {"args is NULL"});
  check_error(attention_workspace_bytes(context, call.args, nullptr, &error), MHA_ERR_NULL, error, {"bytes is NULL"});
  char text[100];
  check_error(attention_explain(nullptr, call.args, text, 100, nullptr, &error), MHA_ERR_NULL, error, {"context"});
  check_error(mha_attention_explain(context, nullptr, text, 100, nullptr, &error), MHA_ERR_NULL, error, {"args"});
  check_error(attention_explain(context, call.args, nullptr, 100, nullptr, &error), MHA_ERR_NULL, error, {"text"});
  CHECK(call.untouched());
}

TEST_CASE("status: success leaves the error untouched", "[status]") {
  WatchedCall call;
  mha_error error = fresh_error();
  std::strcpy(error.message, "untouched");
  CHECK(attention(any_context(), call.args, &error) == MHA_OK);
  CHECK(error.status == kNeverSet);
  CHECK(std::string(error.message) == "untouched");
  CHECK(none_poison(call.output));
}

TEST_CASE("status: a workspace one byte too small, and the pointers that a query may leave out", "[status]") {
  for_each_target([&](const std::string&, const mha_context* context) {
    WatchedCall call;
    size_t bytes = 0;
    REQUIRE(attention_workspace_bytes(context, call.args, &bytes, nullptr) == MHA_OK);
    REQUIRE(bytes > 0);
    AttentionCall without = call.args;
    without.query = without.key = without.value = {};
    without.output = without.results.weights = {};
    size_t bytes_without = 0;
    REQUIRE(attention_workspace_bytes(context, without, &bytes_without, nullptr) == MHA_OK);
    CHECK(bytes_without == bytes);

    std::vector<unsigned char> workspace(bytes);
    call.args.resources.workspace = workspace.data();
    for (size_t small : {bytes - 1, size_t{1}, size_t{0}}) {
      call.args.resources.workspace_bytes = small;
      mha_error error = fresh_error();
      check_error(attention(context, call.args, &error), MHA_ERR_BUFFER, error,
                  {"resources.workspace_bytes is " + std::to_string(small), std::to_string(bytes)});
      CHECK(call.untouched());
    }
    call.args.resources.workspace_bytes = bytes;
    CHECK(attention(context, call.args, nullptr) == MHA_OK);
  });
}

TEST_CASE("status: every value has its name, others have one too", "[status]") {
  const std::pair<mha_status, const char*> names[] = {{MHA_OK, "MHA_OK"},
                                                      {MHA_ERR_NULL, "MHA_ERR_NULL"},
                                                      {MHA_ERR_ARGUMENT, "MHA_ERR_ARGUMENT"},
                                                      {MHA_ERR_SHAPE, "MHA_ERR_SHAPE"},
                                                      {MHA_ERR_STRIDE, "MHA_ERR_STRIDE"},
                                                      {MHA_ERR_OVERFLOW, "MHA_ERR_OVERFLOW"},
                                                      {MHA_ERR_BUFFER, "MHA_ERR_BUFFER"},
                                                      {MHA_ERR_OUT_OF_MEMORY, "MHA_ERR_OUT_OF_MEMORY"},
                                                      {MHA_ERR_TARGET, "MHA_ERR_TARGET"},
                                                      {MHA_ERR_BLOB, "MHA_ERR_BLOB"},
                                                      {MHA_ERR_UNSUPPORTED, "MHA_ERR_UNSUPPORTED"},
                                                      {MHA_ERR_FULL, "MHA_ERR_FULL"},
                                                      {MHA_ERR_THREAD, "MHA_ERR_THREAD"}};
  for (const auto& [status, name] : names) CHECK(std::string(mha_status_string(status)) == name);
  for (int other : {-1, 13, 1000}) CHECK(std::string(mha_status_string(other)) == "unknown status");
}

TEST_CASE("status: the version is the header's", "[status]") {
  std::ostringstream version;
  version << MHA_VERSION_MAJOR << "." << MHA_VERSION_MINOR << "." << MHA_VERSION_PATCH;
  CHECK(version.str() == mha_version());
  CHECK(mha_version_number() == MHA_VERSION_MAJOR * 10000 + MHA_VERSION_MINOR * 100 + MHA_VERSION_PATCH);
}
