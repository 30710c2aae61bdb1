// SPDX-License-Identifier: Apache-2.0
// The C++ wrapper: each of its calls gives what the C call gives, handles move and free themselves, errors arrive.
#include <cstddef>
#include <type_traits>

#include "core/mha.hpp"
#include "support/caches.h"
#include "support/counting.h"
#include "support/layers.h"

using namespace mha::test;

static_assert(!std::is_copy_constructible_v<mha::Context> && std::is_nothrow_move_constructible_v<mha::Context>);
static_assert(!std::is_copy_constructible_v<mha::Linear> && std::is_nothrow_move_constructible_v<mha::Linear>);
static_assert(!std::is_copy_constructible_v<mha::Layer> && std::is_nothrow_move_constructible_v<mha::Layer>);
static_assert(!std::is_copy_constructible_v<mha::Cache> && std::is_nothrow_move_constructible_v<mha::Cache>);

namespace {

mha_context_options options_for(const std::string& target) {
  mha_context_options options = {};
  options.num_threads = 1;
  options.target = target.c_str();
  return options;
}

}  // namespace

TEST_CASE("hpp: context and attention", "[hpp]") {
  const AttentionProblem problem({1, 2, 2, 3, 20, 8, 8}, MaskKind::kNone, 180000);
  for (const std::string& target : supported_targets()) {
    auto context = mha::Context::create(options_for(target));
    REQUIRE(context);
    CHECK(context->target() == target);
    CHECK(context->num_threads() == 1);
    AttentionCall args = problem.args();
    std::vector<float> output = poisoned(problem.shape.output().count());
    args.output = mut_view(output.data());
    CHECK(context->attention(args));
    check_same_bits("output", output, run_attention(shared_context(target, 1), problem.args()).output);

    auto bytes = context->attention_workspace(args);
    REQUIRE(bytes);
    size_t want = 0;
    REQUIRE(attention_workspace_bytes(shared_context(target, 1), args, &want, nullptr) == MHA_OK);
    CHECK(*bytes == want);

    args.head_dim = -8;
    const mha::Status status = context->attention(args);
    CHECK_FALSE(status);
    CHECK(status.code() == MHA_ERR_ARGUMENT);
    CHECK(std::string(status.message()).find("head_dim is -8") != std::string::npos);
    const auto no_bytes = context->attention_workspace(args);
    CHECK_FALSE(no_bytes);
    CHECK(no_bytes.status().code() == MHA_ERR_ARGUMENT);
  }
  const auto none = mha::Context::create(options_for("avx1024"));
  CHECK_FALSE(none);
  CHECK(none.status().code() == MHA_ERR_TARGET);
  CHECK(mha::Context::create());
}

TEST_CASE("hpp: linear", "[hpp]") {
  const std::vector<float> weight = random_floats(5 * 7, 181000), bias = random_floats(5, 181001);
  const std::vector<float> input = random_floats(3 * 7, 181002);
  auto context = mha::Context::create();
  REQUIRE(context);
  auto linear = mha::Linear::create(*context, 7, 5, weight, bias);
  REQUIRE(linear);
  std::vector<float> output = poisoned(15);
  CHECK(linear->forward(*context, 3, input, output));
  check_same_bits("output", output, run_linear(context->get(), linear->get(), input, 3));
  auto without_bias = mha::Linear::create(*context, 7, 5, weight);
  REQUIRE(without_bias);
  CHECK(without_bias->forward(*context, 3, input, output));
  check_same_bits("no bias", output, run_linear(context->get(), without_bias->get(), input, 3));

  // Spans of another size than the sizes say.
  const std::vector<float> short_weight(34);
  for (const auto& refused : {mha::Linear::create(*context, 7, 5, short_weight).status(),
                              mha::Linear::create(*context, 7, 5, weight, short_weight).status()}) {
    CHECK(refused.code() == MHA_ERR_SHAPE);
    CHECK(refused.message()[0] != 0);
  }
  output = poisoned(15);
  CHECK(linear->forward(*context, 2, input, output).code() == MHA_ERR_SHAPE);
  CHECK(linear->forward(*context, -3, input, output).code() == MHA_ERR_ARGUMENT);
  CHECK(linear->forward(*context, INT64_MAX, input, output).code() == MHA_ERR_OVERFLOW);
  CHECK(mha::Linear::create(*context, 0, 5, weight).status().code() != MHA_OK);
  CHECK(std::all_of(output.begin(), output.end(), is_poison));
}

TEST_CASE("hpp: layer, saved and mapped", "[hpp]") {
  const LayerProblem problem({20, 4, 2, 0, 0, 0, 0, 0, 0}, 1, 3, 5, Biases::kAll, 182000);
  auto context = mha::Context::create();
  REQUIRE(context);
  auto layer = mha::Layer::create(*context, problem.config, problem.separate_weights());
  REQUIRE(layer);
  CHECK(layer->config().head_dim == 5);
  std::vector<float> output = poisoned(60), mapped_output = poisoned(60);
  LayerCall args = problem.args();
  args.output = mut_view(output.data());
  const auto bytes = layer->forward_workspace(*context, args);
  REQUIRE(bytes);
  CHECK(layer->forward(*context, args));
  check_same_bits("output", output, run_layer(context->get(), layer->get(), problem.args()).output);

  std::vector<std::byte> blob(layer->blob_bytes());
  CHECK(layer->save(blob));
  CHECK(layer->save(mha::Span<std::byte>(blob.data(), 10)).code() == MHA_ERR_BUFFER);
  auto mapped = mha::Layer::map(*context, blob);
  REQUIRE(mapped);
  args.output = mut_view(mapped_output.data());
  CHECK(mapped->forward(*context, args));
  check_same_bits("mapped", mapped_output, output);
  CHECK(mha::Layer::map(*context, mha::Span<const std::byte>(blob.data(), 10)).status().code() == MHA_ERR_BLOB);

  mha_layer_config config = problem.config;
  config.num_kv_heads = 3;
  CHECK(mha::Layer::create(*context, config, problem.separate_weights()).status().code() == MHA_ERR_SHAPE);
  CHECK(mha::Layer().forward(*context, args).code() == MHA_ERR_NULL);
}

TEST_CASE("hpp: cache", "[hpp]") {
  mha_cache_config config = cache_config(MHA_CACHE_PAGED, 64, 3, 16);
  auto context = mha::Context::create();
  REQUIRE(context);
  auto cache = mha::Cache::create(*context, config);
  REQUIRE(cache);
  CHECK(cache->config().page_size == 16);
  auto bytes = mha::Cache::bytes(config);
  REQUIRE(bytes);

  const Tokens tokens = random_tokens(config, 20, 184000);
  mha_append_args args = {};
  args.batch = 1;
  args.length = 20;
  args.key = view(tokens.key.data());
  args.value = view(tokens.value.data());
  CHECK(cache->append(*context, args));
  CHECK(cache->length(0) == 20);
  CHECK(cache->fork(0, 1));
  CHECK(cache->fork(0, 2, 7));
  CHECK(cache->length(1) == 20);
  CHECK(cache->length(2) == 7);
  CHECK(cache->truncate(1, 16));
  CHECK(cache->length(1) == 16);
  CHECK(cache->used_bytes() > 0);
  CHECK(cache->used_bytes() <= *bytes);
  CHECK(cache->remove(2));
  CHECK(cache->length(2) == 0);
  CHECK(cache->first_kept(0) == 0);

  Tokens out = {poisoned(20 * 10), poisoned(20 * 6)};
  CHECK(cache->export_to(0, 0, 20, {out.key.data(), 0, 0, 0, 0}, {out.value.data(), 0, 0, 0, 0}));
  check_same_tokens("exported", out, tokens);
  std::vector<std::byte> blob(cache->save_bytes(0));
  CHECK(cache->save(0, blob));
  CHECK(cache->load(2, blob));
  check_same_tokens("loaded", exported(cache->get(), 2, 0, 20), tokens);
  blob[100] ^= std::byte{1};
  cache->reset();
  CHECK(cache->used_bytes() == 0);
  CHECK(cache->load(2, blob).code() == MHA_ERR_BLOB);
  CHECK(cache->save(2, mha::Span<std::byte>(blob.data(), 10)).code() == MHA_ERR_BUFFER);

  args.length = 65;
  args.key.stride_d = args.value.stride_d = 1;
  CHECK(cache->append(*context, args).code() == MHA_ERR_FULL);
  CHECK(cache->truncate(3, 0).code() == MHA_ERR_ARGUMENT);
  CHECK(cache->fork(0, 0).code() == MHA_ERR_ARGUMENT);
  CHECK(cache->remove(-1).code() == MHA_ERR_ARGUMENT);
  config.capacity = 0;
  CHECK(mha::Cache::bytes(config).status().code() == MHA_ERR_ARGUMENT);
  CHECK(mha::Cache::create(*context, config).status().code() == MHA_ERR_ARGUMENT);
  CHECK(mha::Cache().length(0) == -1);
  CHECK(mha::Cache().append(*context, args).code() == MHA_ERR_NULL);
}

TEST_CASE("hpp: handles free what they hold, moved or not", "[hpp]") {
  CountingAllocator allocator;
  const LayerProblem problem({20, 4, 2, 0, 0, 0, 0, 0, 0}, 1, 3, 5, Biases::kAll, 183000);
  {
    auto context = mha::Context::create(allocator.options(supported_targets()[0], 1));
    REQUIRE(context);
    auto layer = mha::Layer::create(*context, problem.config, problem.separate_weights());
    auto linear = mha::Linear::create(*context, 20, 20, problem.query_weight);
    auto cache = mha::Cache::create(*context, cache_config(MHA_CACHE_RING, 8));
    REQUIRE(layer);
    REQUIRE(linear);
    REQUIRE(cache);
    CHECK(allocator.live.size() == 5);  // a cache is two: its tables and its tokens
    mha::Layer kept = std::move(*layer);
    *linear = mha::Linear();
    *cache = mha::Cache();
    CHECK(allocator.live.size() == 2);
    mha::Context outlived = std::move(*context);
    CHECK(kept.config().embed_dim == 20);
  }
  CHECK(allocator.live.empty());
  CHECK_FALSE(allocator.misuse);
}

TEST_CASE("hpp: rope and merge", "[hpp]") {
  auto context = mha::Context::create(options_for(supported_targets()[0]));
  REQUIRE(context);
  const std::vector<float> input = random_floats(2 * 3 * 8, 184000);
  std::vector<float> output = poisoned(2 * 3 * 8), want = poisoned(2 * 3 * 8);
  const mha_rope rope = {};
  mha_rows_args args = {};
  args.batch = 1, args.length = 2, args.num_heads = 3, args.head_dim = 8;
  args.input = view(input.data());
  args.output = mut_view(output.data());
  args.rope = &rope;
  CHECK(context->rope_apply(args));
  args.output = mut_view(want.data());
  REQUIRE(mha_rows_prepare(context->get(), &args, nullptr) == MHA_OK);
  check_same_bits("rope", output, want);
  args.first_position = -1;
  CHECK(context->rope_apply(args).code() == MHA_ERR_ARGUMENT);

  const std::vector<float> lse = {0.5f, -1};
  const std::vector<const float*> outputs = {input.data(), input.data() + 16}, lses = {lse.data(), lse.data()};
  std::vector<float> merged = poisoned(16), merged_want = poisoned(16), merged_lse = poisoned(2);
  CHECK(context->attention_merge(2, 8, outputs, lses, merged, merged_lse));
  REQUIRE(mha_attention_merge(context->get(), 2, 2, 8, outputs.data(), lses.data(), merged_want.data(), nullptr,
                              nullptr) == MHA_OK);
  check_same_bits("merge", merged, merged_want);
  CHECK(none_poison(merged_lse));
  CHECK(context->attention_merge(2, 8, outputs, {lses.data(), 1}, merged).code() == MHA_ERR_SHAPE);
  CHECK(context->attention_merge(3, 8, outputs, lses, merged).code() == MHA_ERR_SHAPE);
  CHECK(context->attention_merge(2, 8, outputs, lses, merged, {merged_lse.data(), 1}).code() == MHA_ERR_SHAPE);
}
