// SPDX-License-Identifier: Apache-2.0
// Every status of the rows, partial, merge and reserve calls, of what the host lends to any call, and of words that
// later versions may use: a message that names the argument and its value, and nothing written. (More of caches:
// test_cache_status.cpp.)
#include <functional>

#include "tests/support/caches.h"
#include "tests/support/layers.h"
#include "tests/support/status.h"

using namespace mha::test;

namespace {}  // namespace

TEST_CASE("status: what the host lends, in every call that takes it", "[status]") {
  const mha_context* context = any_context();
  const std::vector<float> zeros(64);
  const LinearPtr linear = make_linear(context, 4, 3, zeros.data(), nullptr);
  CachePtr cache = make_cache(context, cache_config(MHA_CACHE_CONTIGUOUS, 16, 2));
  std::vector<float> output = poisoned(64);
  const auto check = [&](const std::string& name, auto args, auto&& call) {
    using Args = decltype(args);
    mha_resources resources = {};
    float block = 0;
    const auto lend = [&](const std::string& text, auto change) {
      return Mistake<Args>{MHA_ERR_ARGUMENT, {text}, [&resources, change](Args& a) {
                             resources = {};
                             change(resources);
                             a.resources = &resources;
                           }};
    };
    INFO(name);
    check_mistakes<Args>(args,
                         {lend("resources.max_threads is -1", [](mha_resources& r) { r.max_threads = -1; }),
                          lend("resources.workspace_bytes is 8, but resources.workspace is NULL",
                               [](mha_resources& r) { r.workspace_bytes = 8; }),
                          lend("resources.parallel_user is given, but the context has no parallel_for",
                               [&](mha_resources& r) { r.parallel_user = &block; }),
                          lend("resources.reserved[0] is not 0", [](mha_resources& r) { r.reserved[0] = 1; }),
                          lend("resources.reserved[3] is not 0", [](mha_resources& r) { r.reserved[3] = 1; })},
                         call, [&] { return all_poison({&output}) && mha_cache_length(cache.get(), 0) == 0; });
  };
  check("linear", linear_args(2, zeros.data(), output.data()),
        [&](const mha_linear_args& a, mha_error* e) { return mha_linear_forward(context, linear.get(), &a, e); });
  mha_rows_args rows = {};
  rows.batch = rows.length = rows.num_heads = 1, rows.head_dim = 4;
  rows.input = view(zeros.data()), rows.output = mut_view(output.data());
  check("rows", rows, [&](const mha_rows_args& a, mha_error* e) { return mha_rows_prepare(context, &a, e); });
  const float* parts[] = {zeros.data()};
  mha_merge_args merge = {};
  merge.num_parts = merge.rows = 1, merge.value_head_dim = 4;
  merge.outputs = merge.log_sum_exps = parts, merge.output = output.data();
  check("merge", merge, [&](const mha_merge_args& a, mha_error* e) { return mha_attention_merge(context, &a, e); });
  mha_merge_partials_args partials = {};
  partials.batch = partials.num_heads = partials.query_len = partials.num_chunks = 1, partials.value_head_dim = 4;
  partials.partials = zeros.data(), partials.output = mut_view(output.data());
  check("merge partials", partials,
        [&](const mha_merge_partials_args& a, mha_error* e) { return mha_attention_merge_partials(context, &a, e); });
  mha_append_args append = {};
  append.batch = append.length = 1, append.key = append.value = view(zeros.data());
  check("append", append,
        [&](const mha_append_args& a, mha_error* e) { return mha_cache_append(context, cache.get(), &a, e); });
}

TEST_CASE("status: rows", "[status][rows][codes]") {
  const mha_context* context = any_context();
  const std::vector<float> input(2 * 3 * 2 * 4);
  std::vector<float> output = poisoned(2 * 3 * 2 * 4 + 1);
  const mha_rope rope = {};
  mha_norm no_norm = {}, newer_norm = {};
  newer_norm.epsilon = 1e-5f, newer_norm.reserved_int = 1;
  const int64_t slots[] = {0, 1, 2, 3, 4, 6}, positions[] = {0, 1, 2, 3, -4, 5};
  float scale = 0;
  using Args = mha_rows_args;
  Args good = {};
  good.batch = 2, good.length = 3, good.num_heads = 2, good.head_dim = 4;
  good.input = view(input.data()), good.output = mut_view(output.data());
  const auto paged = [&](Args& a) { a.slots = slots, a.page_size = 3, a.num_pages = 2; };
  const std::vector<Mistake<Args>> mistakes = {
      {MHA_ERR_ARGUMENT, {"batch is -1"}, [](Args& a) { a.batch = -1; }},
      {MHA_ERR_ARGUMENT, {"length is -2"}, [](Args& a) { a.length = -2; }},
      {MHA_ERR_ARGUMENT, {"num_heads is -3"}, [](Args& a) { a.num_heads = -3; }},
      {MHA_ERR_ARGUMENT, {"head_dim is 0"}, [](Args& a) { a.head_dim = 0; }},
      {MHA_ERR_OVERFLOW, {"batch is 4611686018427387905"}, [](Args& a) { a.batch = kFar; }},
      {MHA_ERR_OVERFLOW, {"length 4611686018427387904", "too large"}, [](Args& a) { a.length = kFar - 1; }},
      {MHA_ERR_ARGUMENT,
       {"storage.dtype is MHA_I8, but output.dtype is MHA_F32"},
       [](Args& a) { a.storage = &kCodes; }},
      {MHA_ERR_ARGUMENT,
       {"storage.dtype is MHA_F16, but output.dtype is MHA_F32"},
       [](Args& a) { a.storage = &kHalf; }},
      {MHA_ERR_ARGUMENT, {"storage.scale_dtype, group"}, [](Args& a) { a.storage = &kGrouped; }},
      {MHA_ERR_ARGUMENT, {"storage.reserved[1] is not 0"}, [](Args& a) { a.storage = &kNewer; }},
      {MHA_ERR_ARGUMENT, {"scales is given"}, [&](Args& a) { a.scales = &scale; }},
      {MHA_ERR_ARGUMENT, {"zeros is given"}, [&](Args& a) { a.zeros = &scale; }},
      {MHA_ERR_ARGUMENT, {"page_size is 3 and num_pages 0, but slots is NULL"}, [](Args& a) { a.page_size = 3; }},
      {MHA_ERR_ARGUMENT, {"num_pages 4, but slots is NULL"}, [](Args& a) { a.num_pages = 4; }},
      {MHA_ERR_ARGUMENT, {"page_size is 0"}, [&](Args& a) { paged(a), a.page_size = 0; }},
      {MHA_ERR_ARGUMENT, {"num_pages is -1"}, [&](Args& a) { paged(a), a.num_pages = -1; }},
      {MHA_ERR_OVERFLOW,
       {"num_pages 4611686018427387904 x page_size 3"},
       [&](Args& a) { paged(a), a.num_pages = kFar - 1; }},
      {MHA_ERR_ARGUMENT, {"slots[5] is 6: must be < num_pages * page_size (6)"}, [&](Args& a) { paged(a); }},
      {MHA_ERR_NULL, {"input.data is NULL"}, [](Args& a) { a.input.data = nullptr; }},
      {MHA_ERR_NULL, {"output.data is NULL"}, [](Args& a) { a.output.data = nullptr; }},
      {MHA_ERR_STRIDE, {"input.stride_b is -2"}, [](Args& a) { a.input.stride_b = -2; }},
      {MHA_ERR_STRIDE,
       {"output.stride_b, _t, _h are 24, 8, 3"},
       [&](Args& a) {
         a.output = mut_view(output.data(), {24, 8, 3});
       }},
      {MHA_ERR_UNSUPPORTED, {"input.dtype is MHA_U8"}, [](Args& a) { a.input.dtype = MHA_U8; }},
      {MHA_ERR_NULL,
       {"storage is NULL, but output.dtype is MHA_I8: codes need scales"},
       [](Args& a) { a.output.dtype = MHA_I8; }},
      {MHA_ERR_UNSUPPORTED, {"output.dtype is MHA_Q8_0"}, [](Args& a) { a.output.dtype = MHA_Q8_0; }},
      {MHA_ERR_ARGUMENT,
       {"input is at 0x", "aligned to 2 bytes"},
       [](Args& a) { a.input.dtype = MHA_F16, a.input.data = static_cast<const char*>(a.input.data) + 1; }},
      {MHA_ERR_ARGUMENT,
       {"output is at 0x", "aligned to 2 bytes"},
       [](Args& a) { a.output.dtype = MHA_BF16, a.output.data = static_cast<char*>(a.output.data) + 1; }},
      {MHA_ERR_ARGUMENT, {"input.reserved is not 0"}, [](Args& a) { a.input.reserved = 1; }},
      {MHA_ERR_ARGUMENT, {"output.reserved is not 0"}, [](Args& a) { a.output.reserved = 1; }},
      {MHA_ERR_STRIDE, {"output overlaps input"}, [&](Args& a) { a.input = view(output.data() + 1); }},
      {MHA_ERR_STRIDE,
       {"output overlaps input, whose place it is, with other strides"},
       [&](Args& a) {
         a.input = view(output.data(), {4, 8, 4});
       }},
      {MHA_ERR_ARGUMENT, {"positions is given", "rope"}, [&](Args& a) { a.positions = positions; }},
      {MHA_ERR_ARGUMENT, {"first_position is given", "rope"}, [](Args& a) { a.first_position = 3; }},
      {MHA_ERR_ARGUMENT,
       {"first_position is 3 beside positions"},
       [&](Args& a) { a.rope = &rope, a.positions = positions, a.first_position = 3; }},
      {MHA_ERR_ARGUMENT, {"positions[4] is -4"}, [&](Args& a) { a.rope = &rope, a.positions = positions; }},
      {MHA_ERR_ARGUMENT, {"first_position is -1"}, [&](Args& a) { a.rope = &rope, a.first_position = -1; }},
      {MHA_ERR_ARGUMENT,
       {"the last position is 2147483648"},
       [&](Args& a) { a.rope = &rope, a.first_position = (int64_t{1} << 31) - 2; }},
      {MHA_ERR_ARGUMENT, {"norm.epsilon is 0"}, [&](Args& a) { a.norm = &no_norm; }},
      {MHA_ERR_ARGUMENT, {"norm.reserved_int is not 0"}, [&](Args& a) { a.norm = &newer_norm; }},
      {MHA_ERR_ARGUMENT, {"args.reserved[0] is not 0"}, [](Args& a) { a.reserved[0] = 1; }},
      {MHA_ERR_ARGUMENT, {"args.reserved[3] is not 0"}, [](Args& a) { a.reserved[3] = 1; }}};
  check_mistakes<Args>(
      good, mistakes, [&](const Args& a, mha_error* e) { return mha_rows_prepare(context, &a, e); },
      [&] { return all_poison({&output}); });
  mha_error error = fresh_error();
  size_t bytes = 0;
  check_error(mha_rows_prepare(nullptr, &good, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(mha_rows_prepare(context, nullptr, &error), MHA_ERR_NULL, error, {"args is NULL"});
  check_error(mha_rows_workspace_bytes(nullptr, &good, &bytes, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(mha_rows_workspace_bytes(context, nullptr, &bytes, &error), MHA_ERR_NULL, error, {"args is NULL"});
  check_error(mha_rows_workspace_bytes(context, &good, nullptr, &error), MHA_ERR_NULL, error, {"bytes is NULL"});
  // The size query checks all that it does not need tensors, slots and positions for.
  const std::vector<Mistake<Args>> sizes = {
      {MHA_ERR_ARGUMENT, {"batch is -1"}, [](Args& a) { a.batch = -1; }},
      {MHA_ERR_ARGUMENT, {"first_position is -1"}, [&](Args& a) { a.rope = &rope, a.first_position = -1; }},
      {MHA_ERR_ARGUMENT, {"norm.epsilon is 0"}, [&](Args& a) { a.norm = &no_norm; }},
      {MHA_ERR_ARGUMENT, {"args.reserved[0] is not 0"}, [](Args& a) { a.reserved[0] = 1; }}};
  bytes = 12345;
  check_mistakes<Args>(
      good, sizes, [&](const Args& a, mha_error* e) { return mha_rows_workspace_bytes(context, &a, &bytes, e); },
      [&] { return bytes == 12345; });
  Args query = good;
  query.input.data = nullptr, query.output.data = nullptr;
  CHECK(mha_rows_workspace_bytes(context, &query, &bytes, nullptr) == MHA_OK);
  CHECK(bytes == 0);
}

TEST_CASE("status: the size query of appends", "[status][cache]") {
  const CachePtr cache = make_cache(any_context(), cache_config(MHA_CACHE_CONTIGUOUS, 16, 2));
  mha_rope rope = {}, factor = {};
  rope.dims = factor.dims = 4, factor.factor = 8;
  mha_norm no_norm = {};
  mha_append_args good = {};
  good.batch = 2, good.length = 3, good.rope = &rope;
  size_t bytes = 12345;
  using Args = mha_append_args;
  const std::vector<Mistake<Args>> mistakes = {
      {MHA_ERR_ARGUMENT, {"batch is -1"}, [](Args& a) { a.batch = -1; }},
      {MHA_ERR_ARGUMENT, {"length is -2"}, [](Args& a) { a.length = -2; }},
      {MHA_ERR_ARGUMENT, {"rope.factor is given"}, [&](Args& a) { a.rope = &factor; }},
      {MHA_ERR_ARGUMENT, {"key_norm.epsilon is 0"}, [&](Args& a) { a.key_norm = &no_norm; }},
      {MHA_ERR_ARGUMENT, {"args.reserved[2] is not 0"}, [](Args& a) { a.reserved[2] = 1; }}};
  check_mistakes<Args>(
      good, mistakes,
      [&](const Args& a, mha_error* e) {
        return mha_cache_append_workspace_bytes(any_context(), cache.get(), &a, &bytes, e);
      },
      [&] { return bytes == 12345; });
  CHECK(mha_cache_append_workspace_bytes(any_context(), cache.get(), &good, &bytes, nullptr) == MHA_OK);
  CHECK(bytes == 0);
}

TEST_CASE("status: partial results and their merge", "[status][partial]") {
  const mha_context* context = any_context();
  const AttentionProblem problem({1, 2, 2, 3, 5, 4, 4}, MaskKind::kNone, 145000);
  const AttentionCall call = problem.args();
  std::vector<float> partials = poisoned(2 * 3 * 6), output = poisoned(2 * 3 * 4 + 1), lse = poisoned(2 * 3);
  mha_results results = {}, weights = {};
  results.log_sum_exp = lse.data(), weights.weights_mode = MHA_WEIGHTS_PER_HEAD;
  mha_score_mods mods = {};
  mods.sink_logits = problem.query.data();
  const int64_t lengths[] = {3, 5};
  mha_items items = {};
  items.key_lengths = lengths;
  const mha_attention_args good = call.raw();
  using Args = mha_attention_args;
  const std::vector<Mistake<Args>> mistakes = {
      {MHA_ERR_ARGUMENT, {"output.data is given"}, [&](Args& a) { a.output = mut_view(output.data()); }},
      {MHA_ERR_ARGUMENT, {"results.log_sum_exp is given"}, [&](Args& a) { a.results = &results; }},
      {MHA_ERR_ARGUMENT, {"results.weights is given"}, [&](Args& a) { a.results = &weights; }},
      {MHA_ERR_ARGUMENT, {"score_mods.sink_logits is given"}, [&](Args& a) { a.score_mods = &mods; }},
      {MHA_ERR_UNSUPPORTED, {"batch is 2: partial results of items"}, [&](Args& a) { a.batch = 2, a.items = &items; }},
      {MHA_ERR_ARGUMENT, {"positions.align is MHA_ALIGN_DEFAULT", "MHA_ALIGN_OFFSET"}, [](Args& a) { a.causal = 1; }},
      {MHA_ERR_ARGUMENT, {"args.reserved[1] is not 0"}, [](Args& a) { a.reserved[1] = 1; }}};
  const size_t bytes = partials.size() * sizeof(float);
  const auto untouched = [&] { return all_poison({&partials, &output, &lse}); };
  const auto run = [&](const Args& a, mha_error* e) {
    return mha_attention_partial(context, &a, partials.data(), bytes, e);
  };
  check_mistakes<Args>(good, mistakes, run, untouched);
  size_t needed = 12345;
  check_mistakes<Args>(
      good, mistakes, [&](const Args& a, mha_error* e) { return mha_attention_partial_bytes(context, &a, &needed, e); },
      [&] { return needed == 12345; });
  mha_error error = fresh_error();
  REQUIRE(mha_attention_partial_bytes(context, &good, &needed, nullptr) == MHA_OK);
  CHECK(needed == bytes);
  check_error(mha_attention_partial_bytes(context, &good, nullptr, &error), MHA_ERR_NULL, error, {"bytes is NULL"});
  check_error(mha_attention_partial(context, &good, nullptr, bytes, &error), MHA_ERR_NULL, error, {"partials is NULL"});
  check_error(mha_attention_partial(context, &good, reinterpret_cast<char*>(partials.data()) + 1, bytes, &error),
              MHA_ERR_ARGUMENT, error, {"partials is at 0x"});
  check_error(mha_attention_partial(context, &good, partials.data(), bytes - 1, &error), MHA_ERR_BUFFER, error,
              {"bytes is " + std::to_string(bytes - 1), std::to_string(bytes)});
  check_error(mha_attention_partial(nullptr, &good, partials.data(), bytes, &error), MHA_ERR_NULL, error, {"context"});
  check_error(mha_attention_partial(context, nullptr, partials.data(), bytes, &error), MHA_ERR_NULL, error, {"args"});
  CHECK(untouched());

  const std::vector<float> parts(2 * 3 * 6);
  using Merge = mha_merge_partials_args;
  Merge merge = {};
  merge.batch = 1, merge.num_heads = 2, merge.query_len = 3, merge.value_head_dim = 4, merge.num_chunks = 1;
  merge.partials = parts.data(), merge.output = mut_view(output.data()), merge.log_sum_exp = lse.data();
  check_mistakes<Merge>(
      merge,
      {{MHA_ERR_ARGUMENT, {"batch is -1"}, [](Merge& m) { m.batch = -1; }},
       {MHA_ERR_ARGUMENT, {"num_heads is -2"}, [](Merge& m) { m.num_heads = -2; }},
       {MHA_ERR_ARGUMENT, {"query_len is -3"}, [](Merge& m) { m.query_len = -3; }},
       {MHA_ERR_ARGUMENT, {"value_head_dim is 0"}, [](Merge& m) { m.value_head_dim = 0; }},
       {MHA_ERR_ARGUMENT, {"num_chunks is -4"}, [](Merge& m) { m.num_chunks = -4; }},
       {MHA_ERR_OVERFLOW, {"num_chunks 4611686018427387904", "too large"}, [](Merge& m) { m.num_chunks = kFar - 1; }},
       {MHA_ERR_NULL, {"partials is NULL"}, [](Merge& m) { m.partials = nullptr; }},
       {MHA_ERR_ARGUMENT,
        {"partials is at 0x"},
        [](Merge& m) { m.partials = static_cast<const char*>(m.partials) + 1; }},
       {MHA_ERR_NULL, {"output.data is NULL"}, [](Merge& m) { m.output.data = nullptr; }},
       {MHA_ERR_STRIDE, {"output.stride_h is -1"}, [](Merge& m) { m.output.stride_h = MHA_BROADCAST; }},
       {MHA_ERR_STRIDE, {"output overlaps partials"}, [&](Merge& m) { m.partials = output.data(); }},
       {MHA_ERR_STRIDE, {"log_sum_exp overlaps output"}, [&](Merge& m) { m.log_sum_exp = output.data() + 3; }},
       {MHA_ERR_ARGUMENT,
        {"output is at 0x", "aligned to 2 bytes"},
        [](Merge& m) { m.output.dtype = MHA_F16, m.output.data = static_cast<char*>(m.output.data) + 1; }},
       {MHA_ERR_UNSUPPORTED, {"output.dtype is MHA_I8"}, [](Merge& m) { m.output.dtype = MHA_I8; }},
       {MHA_ERR_ARGUMENT, {"arithmetic is 3"}, [](Merge& m) { m.arithmetic = no_value<mha_arithmetic>(3); }},
       {MHA_ERR_UNSUPPORTED, {"hadamard is 1"}, [](Merge& m) { m.hadamard = 1; }},
       {MHA_ERR_ARGUMENT, {"args.reserved[3] is not 0"}, [](Merge& m) { m.reserved[3] = 1; }}},
      [&](const Merge& m, mha_error* e) { return mha_attention_merge_partials(context, &m, e); }, untouched);
  check_error(mha_attention_merge_partials(nullptr, &merge, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(mha_attention_merge_partials(context, nullptr, &error), MHA_ERR_NULL, error, {"args is NULL"});
}

TEST_CASE("status: merge of finished results", "[status][merge]") {
  const mha_context* context = any_context();
  const std::vector<float> part(12);
  std::vector<float> output = poisoned(12), lse = poisoned(3);
  const float *outputs[] = {part.data(), part.data()}, *lses[] = {part.data(), part.data()};
  const float *no_outputs[] = {part.data(), nullptr}, *no_lses[] = {nullptr, part.data()};
  using Args = mha_merge_args;
  Args good = {};
  good.num_parts = 2, good.rows = 3, good.value_head_dim = 4, good.outputs = outputs, good.log_sum_exps = lses;
  good.output = output.data(), good.log_sum_exp = lse.data();
  check_mistakes<Args>(
      good,
      {{MHA_ERR_ARGUMENT, {"num_parts is -1"}, [](Args& a) { a.num_parts = -1; }},
       {MHA_ERR_ARGUMENT, {"rows is -2"}, [](Args& a) { a.rows = -2; }},
       {MHA_ERR_ARGUMENT, {"value_head_dim is 0"}, [](Args& a) { a.value_head_dim = 0; }},
       {MHA_ERR_OVERFLOW, {"rows 4611686018427387904 x value_head_dim 4"}, [](Args& a) { a.rows = kFar - 1; }},
       {MHA_ERR_OVERFLOW, {"num_parts is 4611686018427387905"}, [](Args& a) { a.num_parts = kFar; }},
       {MHA_ERR_NULL, {"output is NULL"}, [](Args& a) { a.output = nullptr; }},
       {MHA_ERR_NULL, {"outputs is NULL"}, [](Args& a) { a.outputs = nullptr; }},
       {MHA_ERR_NULL, {"log_sum_exps is NULL"}, [](Args& a) { a.log_sum_exps = nullptr; }},
       {MHA_ERR_NULL, {"outputs[1] is NULL"}, [&](Args& a) { a.outputs = no_outputs; }},
       {MHA_ERR_NULL, {"log_sum_exps[0] is NULL"}, [&](Args& a) { a.log_sum_exps = no_lses; }},
       {MHA_ERR_ARGUMENT, {"args.reserved[0] is not 0"}, [](Args& a) { a.reserved[0] = 1; }},
       {MHA_ERR_ARGUMENT, {"args.reserved[3] is not 0"}, [](Args& a) { a.reserved[3] = 1; }}},
      [&](const Args& a, mha_error* e) { return mha_attention_merge(context, &a, e); },
      [&] {
        return all_poison({&output, &lse});
      });
  mha_error error = fresh_error();
  check_error(mha_attention_merge(nullptr, &good, &error), MHA_ERR_NULL, error, {"context is NULL"});
  check_error(mha_attention_merge(context, nullptr, &error), MHA_ERR_NULL, error, {"args is NULL"});
}

TEST_CASE("status: reserve", "[status][cache]") {
  CachePtr first = make_cache(cache_context(), cache_config(MHA_CACHE_PAGED, 32, 3, 4));
  CachePtr second = make_cache(cache_context(), cache_config(MHA_CACHE_PAGED, 16, 2, 4));
  mha_cache *const caches[] = {first.get(), second.get()}, *const with_null[] = {first.get(), nullptr};
  mha_cache* const twice[] = {first.get(), second.get(), first.get()};
  const int64_t sequences[] = {1, 0}, same[] = {1, 1}, beyond[] = {0, 2}, tokens[] = {8, 8}, negative[] = {8, -1};
  const int64_t many[] = {8, 9}, too_many[] = {8, 17}, far[] = {kFar, 0};
  using Args = mha_reserve_args;
  Args good = {};
  good.caches = caches, good.num_caches = 2, good.batch = 2, good.sequences = sequences, good.tokens = tokens;
  check_mistakes<Args>(
      good,
      {{MHA_ERR_NULL, {"caches is NULL"}, [](Args& a) { a.caches = nullptr; }},
       {MHA_ERR_NULL, {"tokens is NULL"}, [](Args& a) { a.tokens = nullptr; }},
       {MHA_ERR_NULL, {"caches[1] is NULL"}, [&](Args& a) { a.caches = with_null; }},
       {MHA_ERR_ARGUMENT, {"caches[2] is caches[0]"}, [&](Args& a) { a.caches = twice, a.num_caches = 3; }},
       {MHA_ERR_ARGUMENT, {"num_caches is -1"}, [](Args& a) { a.num_caches = -1; }},
       {MHA_ERR_ARGUMENT, {"batch is -2"}, [](Args& a) { a.batch = -2; }},
       {MHA_ERR_ARGUMENT, {"tokens", "-1"}, [&](Args& a) { a.tokens = negative; }},
       {MHA_ERR_OVERFLOW, {"tokens", "4611686018427387905"}, [&](Args& a) { a.tokens = far; }},
       {MHA_ERR_ARGUMENT, {"sequences[1]", "1"}, [&](Args& a) { a.sequences = same; }},
       {MHA_ERR_ARGUMENT, {"sequences[1] is 2"}, [&](Args& a) { a.sequences = beyond; }},
       {MHA_ERR_FULL,
        {"caches[1]: 5 pages of 4 tokens are needed: 4 of 4 are free"},
        [&](Args& a) { a.tokens = many; }},
       {MHA_ERR_FULL, {"17 more do not fit"}, [&](Args& a) { a.tokens = too_many; }},
       {MHA_ERR_ARGUMENT, {"args.reserved[0] is not 0"}, [](Args& a) { a.reserved[0] = 1; }},
       {MHA_ERR_ARGUMENT, {"args.reserved[3] is not 0"}, [](Args& a) { a.reserved[3] = 1; }}},
      [&](const Args& a, mha_error* e) { return mha_cache_reserve(&a, e); },
      [&] { return mha_cache_used_bytes(first.get()) == 0 && mha_cache_used_bytes(second.get()) == 0; });
  mha_error error = fresh_error();
  check_error(mha_cache_reserve(nullptr, &error), MHA_ERR_NULL, error, {"args is NULL"});
  require_ok(mha_cache_reserve(&good, &error), error);
  CHECK(mha_cache_used_bytes(second.get()) > 0);
}

TEST_CASE("status: caches of later versions", "[status][cache]") {
  using Config = mha_cache_config;
  const auto create = [](const Config& config, mha_error* error) {
    mha_cache* cache = nullptr;
    const mha_status status = mha_cache_create(cache_context(), &config, &cache, error);
    CHECK(cache == nullptr);
    size_t bytes = 12345;
    CHECK(mha_cache_memory_bytes(&config, &bytes, nullptr) == status);
    CHECK(bytes == 12345);
    return status;
  };
  check_mistakes<Config>(
      cache_config(MHA_CACHE_CONTIGUOUS, 16),
      {{MHA_ERR_ARGUMENT, {"config.reserved[0] is not 0"}, [](Config& c) { c.reserved[0] = 1; }},
       {MHA_ERR_ARGUMENT, {"config.reserved[7] is not 0"}, [](Config& c) { c.reserved[7] = 1; }},
       {MHA_ERR_ARGUMENT, {"key.reserved[1] is not 0"}, [](Config& c) { c.key.reserved[1] = 1; }},
       {MHA_ERR_ARGUMENT, {"value.reserved[0] is not 0"}, [](Config& c) { c.value.reserved[0] = 1; }},
       {MHA_ERR_UNSUPPORTED, {"key.dtype is MHA_Q8_0"}, [](Config& c) { c.key.dtype = MHA_Q8_0; }},
       {MHA_ERR_UNSUPPORTED, {"value.dtype is MHA_Q4_0"}, [](Config& c) { c.value.dtype = MHA_Q4_0; }},
       {MHA_ERR_UNSUPPORTED, {"value_in_key is 1"}, [](Config& c) { c.value_in_key = 1; }}},
      create, [] { return true; });
  CachePtr cache = make_cache(cache_context(), cache_config(MHA_CACHE_CONTIGUOUS, 16));
  const Tokens tokens = random_tokens(config_of(cache.get()), 3, 146000);
  using Append = mha_append_args;
  Append append = {};
  append.batch = 1, append.length = 3, append.key = view(tokens.key.data()), append.value = view(tokens.value.data());
  mha_norm newer_norm = {};
  newer_norm.epsilon = 1, newer_norm.reserved[0] = 1;
  mha_rope newer_rope = {};
  newer_rope.reserved[7] = 1, newer_rope.dims = 2;
  check_mistakes<Append>(
      append,
      {{MHA_ERR_ARGUMENT, {"args.reserved[3] is not 0"}, [](Append& a) { a.reserved[3] = 1; }},
       {MHA_ERR_ARGUMENT, {"key_norm.reserved[0] is not 0"}, [&](Append& a) { a.key_norm = &newer_norm; }},
       {MHA_ERR_ARGUMENT, {"rope.reserved[7] is not 0"}, [&](Append& a) { a.rope = &newer_rope; }},
       {MHA_ERR_ARGUMENT, {"key.reserved is not 0"}, [](Append& a) { a.key.reserved = 1; }},
       {MHA_ERR_ARGUMENT, {"value.reserved is not 0"}, [](Append& a) { a.value.reserved = 1; }}},
      [&](const Append& a, mha_error* e) { return mha_cache_append(cache_context(), cache.get(), &a, e); },
      [&] { return mha_cache_length(cache.get(), 0) == 0; });
  require_append(cache.get(), 0, tokens);
  std::vector<float> key = poisoned(3 * 2 * 5), value = poisoned(3 * 2 * 3);
  using Export = mha_export_args;
  Export out = {};
  out.count = 3, out.key = mut_view(key.data()), out.value = mut_view(value.data());
  check_mistakes<Export>(
      out,
      {{MHA_ERR_ARGUMENT, {"args.reserved[0] is not 0"}, [](Export& a) { a.reserved[0] = 1; }},
       {MHA_ERR_ARGUMENT, {"key.reserved is not 0"}, [](Export& a) { a.key.reserved = 1; }},
       {MHA_ERR_ARGUMENT, {"value.reserved is not 0"}, [](Export& a) { a.value.reserved = 1; }}},
      [&](const Export& a, mha_error* e) { return mha_cache_export(cache.get(), &a, e); },
      [&] {
        return all_poison({&key, &value});
      });
}
