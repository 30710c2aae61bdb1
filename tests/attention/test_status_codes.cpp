// SPDX-License-Identifier: Apache-2.0
// Refusals of keys and values that are codes: their layout, their scales and zeros.
#include "tests/support/watched_call.h"

using namespace mha::test;

namespace {

/// Makes the keys codes, with a scale for the whole tensor; the view has room for them.
void use_codes(WatchedCall& call, mha_dtype dtype) {
  call.quant.scales = call.floats.data();
  call.args.key.data = call.open.data(), call.args.key.dtype = dtype, call.args.key.quant = &call.quant;
}

#define MISTAKE(...)           \
  [](WatchedCall& call) {      \
    use_codes(call, MHA_I8);   \
    mha_quant& q = call.quant; \
    (void)q;                   \
    __VA_ARGS__;               \
  }

const AttentionMistake kMistakes[] = {
    {MHA_ERR_NULL, {"key.quant is NULL, but key.dtype is MHA_I8"}, MISTAKE(call.args.key.quant = nullptr)},
    {MHA_ERR_NULL, {"value.quant is NULL, but value.dtype is MHA_U4"}, MISTAKE(call.args.value.dtype = MHA_U4)},
    {MHA_ERR_NULL, {"key.quant.scales is NULL"}, MISTAKE(q.scales = nullptr), By::kTheCallAlone},
    {MHA_ERR_NULL, {"key.data is NULL"}, MISTAKE(call.args.key.data = nullptr), By::kTheCallAlone},
    {MHA_ERR_ARGUMENT, {"key.reserved is not 0"}, MISTAKE(call.args.key.reserved = 1)},
    {MHA_ERR_ARGUMENT, {"key.quant.reserved_int is not 0", "newer mha"}, MISTAKE(q.reserved_int = 1)},
    {MHA_ERR_ARGUMENT, {"key.quant.reserved[1] is not 0", "newer mha"}, MISTAKE(q.reserved[1] = 1)},
    {MHA_ERR_UNSUPPORTED,
     {"key.quant.group_index is given"},
     MISTAKE(call.table = {0}; q.group_index = call.table.data())},
    {MHA_ERR_UNSUPPORTED,
     {"key.quant.hadamard is 1, but rows have 8 elements: must be a multiple of 16"},
     MISTAKE(q.hadamard = 1)},
    {MHA_ERR_ARGUMENT, {"key.quant.group is -1: must be >= 0"}, MISTAKE(q.group = -1)},
    {MHA_ERR_ARGUMENT, {"key.quant.group_tokens is -2: must be >= 0"}, MISTAKE(q.group_tokens = -2)},
    {MHA_ERR_ARGUMENT, {"key.quant.stride_b is -3: must be >= 0"}, MISTAKE(q.stride_b = -3)},
    {MHA_ERR_ARGUMENT, {"key.quant.stride_t is -4: must be >= 0"}, MISTAKE(q.stride_t = -4)},
    {MHA_ERR_ARGUMENT, {"key.quant.stride_h is -5: must be >= 0"}, MISTAKE(q.stride_h = -5)},
    {MHA_ERR_ARGUMENT, {"key.quant.stride_d is -6: must be >= 0"}, MISTAKE(q.stride_d = -6)},
    {MHA_ERR_ARGUMENT, {"key.quant.stride_d is 1, but group is 0"}, MISTAKE(q.stride_d = 1)},
    {MHA_ERR_ARGUMENT, {"key.quant.zero_dtype is MHA_F16, but zeros is NULL"}, MISTAKE(q.zero_dtype = MHA_F16)},
    {MHA_ERR_UNSUPPORTED,
     {"key.quant.zero_dtype is 6: must be"},
     MISTAKE(q.zeros = call.open.data(); q.zero_dtype = MHA_U4)},
    {MHA_ERR_ARGUMENT,
     {"key.quant.zero_dtype is 77: must be"},
     MISTAKE(q.zeros = call.open.data(); q.zero_dtype = no_value<mha_dtype>(77))},
    {MHA_ERR_ARGUMENT, {"key.quant.scale_dtype is 3: must be MHA_F32"}, MISTAKE(q.scale_dtype = MHA_I8)},
    {MHA_ERR_ARGUMENT, {"key.quant.scale_dtype is 78: must be"}, MISTAKE(q.scale_dtype = no_value<mha_dtype>(78))},
    {MHA_ERR_OVERFLOW, {"key.quant.scales with strides", "beyond 2^63"}, MISTAKE(q.stride_t = int64_t{1} << 62)},
    {MHA_ERR_ARGUMENT,
     {"key.quant.scales is at 0x", "aligned to 4 bytes"},
     MISTAKE(q.scales = call.odd()),
     By::kTheCallAlone},
    {MHA_ERR_ARGUMENT,
     {"key.quant.zeros is at 0x", "aligned to 2 bytes"},
     MISTAKE(q.zeros = call.odd(); q.zero_dtype = MHA_F16),
     By::kTheCallAlone},
    {MHA_ERR_STRIDE,
     {"key.stride_h is 9: must be a multiple of 2", "MHA_I4"},
     MISTAKE(call.args.key.dtype = MHA_I4; call.args.key.stride_b = 200; call.args.key.stride_t = 40;
             call.args.key.stride_h = 9)},
    {MHA_ERR_SHAPE,
     {"key.dtype is MHA_Q8_0, but its rows have 8 elements: must be a multiple of 32"},
     MISTAKE(call.args.key.dtype = MHA_Q8_0; call.args.key.quant = nullptr)},
    {MHA_ERR_ARGUMENT,
     {"key.quant is given, but MHA_Q4_0 has its scales inside"},
     MISTAKE(call.args.key.dtype = MHA_Q4_0; call.args.head_dim = 32)},
    {MHA_ERR_STRIDE, {"key.stride_t is -7: must be >= 0"}, MISTAKE(call.args.key.stride_t = -7)},
};

}  // namespace

TEST_CASE("status: codes that a call refuses", "[status][codes]") { check_mistakes(kMistakes); }

TEST_CASE("status: codes without tokens may have any strides", "[status][codes][sizes]") {
  const AttentionProblem p({2, 2, 2, 1, 1, 32, 32}, MaskKind::kNone, 556000);
  const float scale = 1;
  const char codes[64] = {};
  std::vector<float> output = poisoned(2 * 2 * 32);
  for (mha_dtype dtype : {MHA_F32, MHA_I8, MHA_Q8_0}) {
    mha_quant quant = {};
    quant.scales = &scale, quant.stride_b = int64_t{1} << 62, quant.stride_t = int64_t{1} << 62;
    AttentionCall args = p.args();
    args.key_len = 0, args.output = mut_view(output.data());
    for (mha_view* v : {&args.key, &args.value}) {
      *v = {};
      v->data = codes, v->dtype = dtype, v->stride_b = v->stride_t = v->stride_h = int64_t{1} << 62;
      if (dtype == MHA_I8) v->quant = &quant;
    }
    mha_error error = {};
    require_ok(attention(any_context(), args, &error), error);
    for (float x : output) CHECK(x == 0.0f);
  }
}

#if defined(MHA_NO_CODES)  // a build with MHA_CODES=OFF, such as tools/check/one_target.sh makes
TEST_CASE("status: a build without codes says so", "[no_codes]") {
  const AttentionShape s = {1, 1, 1, 1, 3, 8, 8};
  const AttentionProblem p(s, MaskKind::kNone, 1);
  AttentionCall args = p.args();
  const std::vector<int8_t> codes(24);
  const float scale = 1;
  mha_quant quant = {};
  quant.scales = &scale;
  args.key.data = codes.data(), args.key.dtype = MHA_I8, args.key.quant = &quant;
  std::vector<float> output = poisoned(8);
  args.output = mut_view(output.data());
  mha_error error = {};
  CHECK(attention(shared_context(supported_targets()[0], 1), args, &error) == MHA_ERR_UNSUPPORTED);
  CHECK(mentions(error, "key.dtype is MHA_I8: this library was built with -DMHA_CODES=OFF"));
  mha_cache_config config = {};
  config.max_sequences = config.num_kv_heads = 1, config.capacity = config.head_dim = 16, config.value.dtype = MHA_U4;
  mha_cache* cache = nullptr;
  CHECK(mha_cache_create(shared_context(supported_targets()[0], 1), &config, &cache, &error) == MHA_ERR_UNSUPPORTED);
  CHECK(mentions(error, "value.dtype is MHA_U4: this library was built with -DMHA_CODES=OFF"));
  const std::vector<float> partials(18);
  mha_merge_partials_args merge = {};
  merge.batch = merge.num_heads = merge.query_len = merge.num_chunks = 1, merge.value_head_dim = 16;
  merge.partials = partials.data(), merge.hadamard = 1;
  std::vector<float> merged(16);
  merge.output = mut_view(merged.data());
  CHECK(mha_attention_merge_partials(shared_context(supported_targets()[0], 1), &merge, &error) == MHA_ERR_UNSUPPORTED);
  CHECK(mentions(error, "hadamard is 1: this library was built with -DMHA_CODES=OFF"));
  mha_linear_config linear_config = {};
  linear_config.in_features = 8, linear_config.out_features = 3;
  linear_config.weight = args.key;
  mha_linear* linear = nullptr;
  const mha_context* context = shared_context(supported_targets()[0], 1);
  CHECK(mha_linear_create(context, &linear_config, &linear, &error) == MHA_ERR_UNSUPPORTED);
  CHECK(mentions(error, "weight.dtype is MHA_I8: this library was built with -DMHA_CODES=OFF"));
  mha_storage packed = {};
  packed.dtype = MHA_I4;
  linear_config.weight = view(partials.data()), linear_config.in_features = 6, linear_config.packed = &packed;
  CHECK(mha_linear_create(context, &linear_config, &linear, &error) == MHA_ERR_UNSUPPORTED);
  CHECK(mentions(error, "packed.dtype is MHA_I4: this library was built with -DMHA_CODES=OFF"));
}
#endif
