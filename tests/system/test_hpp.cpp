// SPDX-License-Identifier: Apache-2.0
// The C++ wrapper: each of its calls gives what the C call gives, handles move and free themselves, errors arrive, and
// what would point to a temporary does not compile.
#include <cstddef>
#include <type_traits>
#include <utility>

#include "core/mha.hpp"
#include "tests/support/caches.h"
#include "tests/support/counting.h"
#include "tests/support/layers.h"

using namespace mha::test;

template <class Handle>
inline constexpr bool kMovesOnly =
    !std::is_copy_constructible_v<Handle> && !std::is_copy_assignable_v<Handle> &&
    std::is_nothrow_move_constructible_v<Handle> && std::is_nothrow_move_assignable_v<Handle>;
static_assert(kMovesOnly<mha::Context> && kMovesOnly<mha::Linear> && kMovesOnly<mha::Layer> && kMovesOnly<mha::Cache>);

// --- What does not compile -----------------------------------------------------------------------------------------

/// Whether raw() may be called on a T: only where it outlives what raw() gives, which points into it.
template <class T, class = void>
inline constexpr bool kHasRaw = false;
template <class T>
inline constexpr bool kHasRaw<T, std::void_t<decltype(std::declval<T>().raw())>> = true;
static_assert(kHasRaw<mha::AttentionCall&> && kHasRaw<const mha::AttentionCall&>);
static_assert(!kHasRaw<mha::AttentionCall> && !kHasRaw<const mha::AttentionCall>);
static_assert(kHasRaw<mha::LayerCall&> && kHasRaw<const mha::LayerCall&>);
static_assert(!kHasRaw<mha::LayerCall> && !kHasRaw<const mha::LayerCall>);
// Nor can the struct be had past raw(), without its groups.
static_assert(!std::is_convertible_v<mha::AttentionCall&, const mha_attention_args&>);
static_assert(!std::is_convertible_v<mha::LayerCall&, const mha_layer_args&>);

/// A view points to the scales in its Codes: a temporary's would be gone.
using Int8Codes = mha::Codes<std::int8_t, float>;
static_assert(std::is_convertible_v<Int8Codes&, mha_view> && std::is_convertible_v<const Int8Codes&, mha_view>);
static_assert(!std::is_convertible_v<Int8Codes, mha_view> && !std::is_convertible_v<const Int8Codes, mha_view>);
static_assert(!std::is_constructible_v<mha_view, Int8Codes>);

/// Element types that have a dtype, and others.
template <class T, class = void>
inline constexpr bool kHasDtype = false;
template <class T>
inline constexpr bool kHasDtype<T, std::void_t<decltype(mha::Dtype<T>::value)>> = true;
static_assert(kHasDtype<float> && kHasDtype<mha_f16> && kHasDtype<mha_bf16>);
static_assert(kHasDtype<std::int8_t> && kHasDtype<std::uint8_t>);
static_assert(!kHasDtype<double> && !kHasDtype<int> && !kHasDtype<std::uint16_t> && !kHasDtype<char> &&
              !kHasDtype<void>);

// An error may not be overlooked.
static_assert(!std::is_convertible_v<mha::Status, bool> && std::is_constructible_v<bool, mha::Status>);

namespace {

mha_context_options options_for(const std::string& target) {
  mha_context_options options = {};
  options.num_threads = 1;
  options.target = target.c_str();
  return options;
}

mha::Context make_own_context() {
  auto context = mha::Context::create();
  REQUIRE(context);
  return std::move(*context);
}

/// A wrapped call gives the bytes of the C call.
// What a temporary Result holds must not be left behind as a reference into it.
static_assert(std::is_same_v<decltype(*std::declval<mha::Result<mha::Context>>()), mha::Context>);
static_assert(std::is_same_v<decltype(*std::declval<mha::Result<mha::Context>&>()), mha::Context&>);

void check_bytes(mha::Result<std::size_t> got, mha_status status, size_t want) {
  REQUIRE(status == MHA_OK);
  REQUIRE(got);
  CHECK(*got == want);
}

/// A wrapped explain call, asked for the size and then for the text.
template <class Wrapped>
std::string text_of(Wrapped&& wrapped) {
  auto needed = wrapped(mha::Span<char>());
  REQUIRE(needed);
  std::vector<char> text(*needed);
  REQUIRE(wrapped(mha::Span<char>(text)));
  return text.data();
}

}  // namespace

TEST_CASE("hpp: views take the dtype from the pointer and leave the rest dense", "[hpp]") {
  const float in = 0;
  float out = 0;
  const mha_f16 half = {};
  mha_bf16 brain = {};
  const mha_view dense = view(&in);
  CHECK(dense.data == &in);
  CHECK(dense.dtype == MHA_F32);
  CHECK((dense.reserved == 0 && dense.stride_b == 0 && dense.stride_t == 0 && dense.stride_h == 0));
  CHECK(dense.quant == nullptr);
  const mha_view strided = view(&half, {30, 20, 10});
  CHECK(strided.dtype == MHA_F16);
  CHECK((strided.stride_b == 30 && strided.stride_t == 20 && strided.stride_h == 10));
  CHECK(view(&out).dtype == MHA_F32);  // what may be written may be read
  const mha_mut_view result = mut_view(&out, {3, 2, 1});
  CHECK(result.data == &out);
  CHECK(result.dtype == MHA_F32);
  CHECK((result.reserved == 0 && result.stride_b == 3 && result.stride_t == 2 && result.stride_h == 1));
  CHECK(mut_view(&brain).dtype == MHA_BF16);
}

TEST_CASE("hpp: codes carry their scales", "[hpp][codes]") {
  const std::int8_t codes[4] = {};
  const std::uint8_t more_codes[4] = {};
  const float scales[2] = {1, 2};
  const mha_f16 half_scales[1] = {};
  mha_quant layout = {};
  layout.group = 2, layout.stride_d = 1;
  const mha::Codes<std::int8_t, float> with_groups(codes, scales, layout, {4, 4, 4});
  const mha_view v = with_groups;
  CHECK(v.data == codes);
  CHECK(v.dtype == MHA_I8);
  CHECK(v.stride_h == 4);
  REQUIRE(v.quant != nullptr);
  CHECK(v.quant->scales == scales);
  CHECK(v.quant->scale_dtype == MHA_F32);
  CHECK((v.quant->group == 2 && v.quant->stride_d == 1));
  const mha::Codes<std::int8_t, float> copy = with_groups;  // which points to its own
  CHECK(mha_view(copy).quant != v.quant);
  const mha::Codes half(more_codes, half_scales);
  const mha_view h = half;
  CHECK(h.dtype == MHA_U8);
  CHECK(h.quant->scale_dtype == MHA_F16);
  // A single value is the result, whatever its weight.
  const std::int8_t value[4] = {1, 2, -3, 4};
  const mha::Codes<std::int8_t, float> values(value, scales, layout, {4, 4, 4});
  const AttentionProblem problem({1, 1, 1, 1, 1, 4, 4}, MaskKind::kNone, 179000);
  AttentionCall args = problem.args();
  float output[4] = {};
  args.output = mut_view(output);
  args.key = with_groups;
  args.value = values;
  CHECK(make_own_context().attention(args).code() == MHA_OK);
  CHECK((output[0] == 1 && output[1] == 2 && output[2] == -6 && output[3] == 8));
}

TEST_CASE("hpp: calls own their groups, copies too", "[hpp]") {
  mha::AttentionCall attention_call;
  attention_call.batch = 3, attention_call.masks.window_left = 5,
  attention_call.results.weights_mode = MHA_WEIGHTS_AVERAGED;
  mha::AttentionCall copy = attention_call;
  copy.masks.window_left = 6;
  const mha_attention_args raw = attention_call.raw(), of_copy = copy.raw();
  CHECK(raw.batch == 3);
  CHECK(raw.items == &attention_call.items);
  CHECK(raw.positions == &attention_call.positions);
  CHECK(raw.masks == &attention_call.masks);
  CHECK(raw.score_mods == &attention_call.score_mods);
  CHECK(raw.results == &attention_call.results);
  CHECK(raw.resources == &attention_call.resources);
  CHECK((raw.query_norm == nullptr && raw.rope == nullptr && raw.cache == nullptr && raw.pages == nullptr));
  CHECK(of_copy.masks == &copy.masks);
  CHECK((raw.masks->window_left == 5 && of_copy.masks->window_left == 6));
  CHECK(of_copy.results->weights_mode == MHA_WEIGHTS_AVERAGED);

  mha::LayerCall layer_call;
  layer_call.query_len = 7, layer_call.positions.align = MHA_ALIGN_START;
  const mha::LayerCall layer_copy = layer_call;
  const mha_layer_args layer_raw = layer_call.raw();
  CHECK(layer_raw.query_len == 7);
  CHECK(layer_raw.items == &layer_call.items);
  CHECK(layer_raw.positions == &layer_call.positions);
  CHECK(layer_raw.masks == &layer_call.masks);
  CHECK(layer_raw.score_mods == &layer_call.score_mods);
  CHECK(layer_raw.results == &layer_call.results);
  CHECK(layer_raw.resources == &layer_call.resources);
  CHECK(layer_copy.raw().positions == &layer_copy.positions);
  CHECK(layer_copy.raw().positions->align == MHA_ALIGN_START);
}

TEST_CASE("hpp: context and attention", "[hpp]") {
  const AttentionProblem problem({1, 2, 2, 3, 20, 8, 8}, MaskKind::kNone, 180000);
  for (const std::string& target : supported_targets()) {
    auto context = mha::Context::create(options_for(target));
    REQUIRE(context);
    CHECK(context->target() == target);
    CHECK(context->num_threads() == 1);
    AttentionCall args = problem.args();
    std::vector<float> output = poisoned(problem.shape.output().count()), again = output;
    args.output = mut_view(output.data());
    CHECK(context->attention(args));
    check_same_bits("output", output, run_attention(shared_context(target, 1), problem.args()).output);
    args.output = mut_view(again.data());
    CHECK(context->attention(args.raw()));
    check_same_bits("raw", again, output);

    size_t want = 0;
    mha_status status = attention_workspace_bytes(context->get(), args, &want);
    check_bytes(context->attention_workspace_bytes(args), status, want);
    check_bytes(context->attention_workspace_bytes(args.raw()), status, want);
    std::vector<char> text(8192);
    REQUIRE(attention_explain(context->get(), args, text.data(), text.size(), nullptr) == MHA_OK);
    CHECK(text_of([&](mha::Span<char> to) { return context->attention_explain(args, to); }) == text.data());
    CHECK(text_of([&](mha::Span<char> to) { return context->attention_explain(args.raw(), to); }) == text.data());

    args.head_dim = -8;
    const mha::Status failed = context->attention(args);
    CHECK_FALSE(failed);
    CHECK(failed.code() == MHA_ERR_ARGUMENT);
    CHECK(std::string(failed.message()).find("head_dim is -8") != std::string::npos);
    for (const auto& no_bytes :
         {context->attention_workspace_bytes(args), context->attention_workspace_bytes(args.raw()),
          context->attention_explain(args, {})}) {
      CHECK_FALSE(no_bytes);
      CHECK(no_bytes.status().code() == MHA_ERR_ARGUMENT);
    }
  }
  const auto none = mha::Context::create(options_for("avx1024"));
  CHECK_FALSE(none);
  CHECK(none.status().code() == MHA_ERR_TARGET);
  CHECK(mha::Context::create());
}

TEST_CASE("hpp: bounds of workspaces", "[hpp]") {
  const mha::Context context = make_own_context();
  const AttentionProblem problem({1, 2, 2, 3, 20, 8, 8}, MaskKind::kNone, 180500);
  const AttentionCall args = problem.args();
  size_t want = 0;
  mha_status status = attention_workspace_bound(context.get(), args, &want);
  check_bytes(context.attention_workspace_bound(args), status, want);
  check_bytes(context.attention_workspace_bound(args.raw()), status, want);

  const LayerProblem layer_problem({20, 4, 2, 0, 0, 0, 0, 0, 0}, 1, 3, 5, Biases::kAll, 180600);
  auto layer = mha::Layer::create(context, layer_problem.config, layer_problem.separate_weights());
  REQUIRE(layer);
  const LayerCall layer_args = layer_problem.args();
  status = layer_workspace_bound(context.get(), layer->get(), layer_args, &want);
  check_bytes(layer->workspace_bound(context, layer_args), status, want);
  check_bytes(layer->workspace_bound(context, layer_args.raw()), status, want);
}

TEST_CASE("hpp: partial results", "[hpp]") {
  const mha::Context context = make_own_context();
  const AttentionProblem problem({1, 2, 2, 3, 300, 8, 8}, MaskKind::kNone, 180700);
  const std::vector<float> want = run_attention(context.get(), problem.args()).output;
  const AttentionCall args = problem.args();
  const mha_attention_args raw = args.raw();
  auto bytes = context.attention_partial_bytes(raw);
  REQUIRE(bytes);
  std::vector<std::byte> partials(*bytes);
  CHECK(context.attention_partial(raw, partials));
  std::vector<float> output = poisoned(3 * 2 * 8);
  mha_merge_partials_args merge = {};
  merge.batch = 1, merge.num_heads = 2, merge.query_len = 3, merge.value_head_dim = 8, merge.num_chunks = 2;
  merge.partials = partials.data(), merge.output = mut_view(output.data());
  CHECK(context.attention_merge_partials(merge));
  check_same_bits("merged", output, want);
  merge.num_chunks = -1;
  CHECK(context.attention_merge_partials(merge).code() == MHA_ERR_ARGUMENT);
  CHECK(context.attention_partial(raw, {partials.data(), 8}).code() == MHA_ERR_BUFFER);

  // A call that owns its groups wants no results: they are all zeros.
  auto same = context.attention_partial_bytes(args);
  REQUIRE(same);
  CHECK(*same == *bytes);
  std::vector<std::byte> again(*same);
  CHECK(context.attention_partial(args, again));
  CHECK(again == partials);
}

TEST_CASE("hpp: linear, saved and mapped", "[hpp]") {
  const std::vector<float> weight = random_floats(5 * 7, 181000), bias = random_floats(5, 181001);
  const std::vector<float> input = random_floats(3 * 7, 181002);
  const mha::Context context = make_own_context();
  mha_linear_config config = {};
  config.in_features = 7, config.out_features = 5, config.weight = view(weight.data()), config.bias = bias.data();
  auto linear = mha::Linear::create(context, config);
  REQUIRE(linear);
  CHECK(linear->config().in_features == 7);
  CHECK(linear->config().out_features == 5);
  std::vector<float> output = poisoned(15), mapped_output = poisoned(15);
  mha_linear_args args = linear_args(3, input.data(), output.data());
  CHECK(linear->forward(context, args));
  check_same_bits("output", output, run_linear(context.get(), linear->get(), input, 3));
  size_t want = 1;
  const mha_status status = mha_linear_workspace_bytes(context.get(), linear->get(), &args, &want, nullptr);
  check_bytes(linear->workspace_bytes(context, args), status, want);
  CHECK(text_of([&](mha::Span<char> to) { return linear->explain(context, args, to); }).find("packed GEMM") !=
        std::string::npos);

  auto bytes = linear->save_bytes();
  REQUIRE(bytes);
  std::vector<std::byte> blob(*bytes);
  CHECK(linear->save(blob));
  CHECK(linear->save({blob.data(), 10}).code() == MHA_ERR_BUFFER);
  auto mapped = mha::Linear::map(context, blob);
  REQUIRE(mapped);
  args.output = mut_view(mapped_output.data());
  CHECK(mapped->forward(context, args));
  check_same_bits("mapped", mapped_output, output);
  CHECK(mha::Linear::map(context, {blob.data(), 10}).status().code() == MHA_ERR_BLOB);

  output = poisoned(15);
  args.output = mut_view(output.data());
  args.rows = -3;
  CHECK(linear->forward(context, args).code() == MHA_ERR_ARGUMENT);
  CHECK(linear->workspace_bytes(context, args).status().code() == MHA_ERR_ARGUMENT);
  CHECK(linear->explain(context, args, {}).status().code() == MHA_ERR_ARGUMENT);
  config.in_features = 0;
  CHECK(mha::Linear::create(context, config).status().code() == MHA_ERR_ARGUMENT);
  CHECK(mha::Linear().forward(context, args).code() == MHA_ERR_NULL);
  CHECK(mha::Linear().save_bytes().status().code() == MHA_ERR_NULL);
  CHECK(std::all_of(output.begin(), output.end(), is_poison));
}

TEST_CASE("hpp: layer, saved and mapped", "[hpp]") {
  const LayerProblem problem({20, 4, 2, 0, 0, 0, 0, 0, 0}, 1, 3, 5, Biases::kAll, 182000);
  const mha::Context context = make_own_context();
  auto layer = mha::Layer::create(context, problem.config, problem.separate_weights());
  REQUIRE(layer);
  CHECK(layer->config().head_dim == 5);
  std::vector<float> output = poisoned(60), mapped_output = poisoned(60);
  LayerCall args = problem.args();
  args.output = mut_view(output.data());
  size_t want = 0;
  const mha_status status = layer_workspace_bytes(context.get(), layer->get(), args, &want);
  check_bytes(layer->workspace_bytes(context, args), status, want);
  check_bytes(layer->workspace_bytes(context, args.raw()), status, want);
  CHECK(layer->forward(context, args));
  check_same_bits("output", output, run_layer(context.get(), layer->get(), problem.args()).output);
  const std::string text = text_of([&](mha::Span<char> to) { return layer->explain(context, args, to); });
  CHECK(text.find("query projection") != std::string::npos);
  CHECK(text_of([&](mha::Span<char> to) { return layer->explain(context, args.raw(), to); }) == text);

  auto bytes = layer->save_bytes();
  REQUIRE(bytes);
  std::vector<std::byte> blob(*bytes);
  CHECK(layer->save(blob));
  CHECK(layer->save(mha::Span<std::byte>(blob.data(), 10)).code() == MHA_ERR_BUFFER);
  auto mapped = mha::Layer::map(context, blob);
  REQUIRE(mapped);
  args.output = mut_view(mapped_output.data());
  CHECK(mapped->forward(context, args.raw()));
  check_same_bits("mapped", mapped_output, output);
  CHECK(mha::Layer::map(context, mha::Span<const std::byte>(blob.data(), 10)).status().code() == MHA_ERR_BLOB);

  mha_layer_config config = problem.config;
  config.num_kv_heads = 3;
  CHECK(mha::Layer::create(context, config, problem.separate_weights()).status().code() == MHA_ERR_SHAPE);
  CHECK(mha::Layer().forward(context, args).code() == MHA_ERR_NULL);
  CHECK(mha::Layer().save_bytes().status().code() == MHA_ERR_NULL);
  CHECK(mha::Layer().workspace_bytes(context, args).status().code() == MHA_ERR_NULL);
}

TEST_CASE("hpp: cache", "[hpp]") {
  mha_cache_config config = cache_config(MHA_CACHE_PAGED, 64, 3, 16);
  const mha::Context context = make_own_context();
  auto cache = mha::Cache::create(context, config);
  REQUIRE(cache);
  CHECK(cache->config().page_size == 16);
  auto bytes = mha::Cache::memory_bytes(config);
  REQUIRE(bytes);

  const Tokens tokens = random_tokens(config, 20, 184000);
  mha_append_args args = {};
  args.batch = 1;
  args.length = 20;
  args.key = view(tokens.key.data());
  args.value = view(tokens.value.data());
  size_t want = 1;
  const mha_status status = mha_cache_append_workspace_bytes(context.get(), cache->get(), &args, &want, nullptr);
  check_bytes(cache->append_workspace_bytes(context, args), status, want);
  CHECK(cache->append(context, args));
  CHECK(cache->length(0) == 20);
  CHECK(cache->room(0) == 44);
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
  mha_export_args to = {};
  to.count = 20, to.key = mut_view(out.key.data()), to.value = mut_view(out.value.data());
  CHECK(cache->export_to(to));
  check_same_tokens("exported", out, tokens);
  to.begin = 1;
  CHECK(cache->export_to(to).code() == MHA_ERR_ARGUMENT);
  auto blob_bytes = cache->save_bytes(0);
  REQUIRE(blob_bytes);
  std::vector<std::byte> blob(*blob_bytes);
  CHECK(cache->save(0, blob));
  CHECK(cache->load(2, blob));
  check_same_tokens("loaded", exported(cache->get(), 2, 0, 20), tokens);
  blob[100] ^= std::byte{1};
  cache->reset();
  CHECK(cache->used_bytes() == 0);
  CHECK(cache->load(2, blob).code() == MHA_ERR_BLOB);
  CHECK(cache->save(2, mha::Span<std::byte>(blob.data(), 10)).code() == MHA_ERR_BUFFER);
  CHECK(cache->save_bytes(3).status().code() == MHA_ERR_ARGUMENT);

  args.length = 65;
  args.key.stride_t = args.value.stride_t = args.key.stride_h = args.value.stride_h = MHA_BROADCAST;
  CHECK(cache->append(context, args).code() == MHA_ERR_FULL);
  CHECK(cache->truncate(3, 0).code() == MHA_ERR_ARGUMENT);
  CHECK(cache->fork(0, 0).code() == MHA_ERR_ARGUMENT);
  CHECK(cache->remove(-1).code() == MHA_ERR_ARGUMENT);
  config.capacity = 0;
  CHECK(mha::Cache::memory_bytes(config).status().code() == MHA_ERR_ARGUMENT);
  CHECK(mha::Cache::create(context, config).status().code() == MHA_ERR_ARGUMENT);
  CHECK(mha::Cache().length(0) == -1);
  CHECK(mha::Cache().room(0) == -1);
  CHECK(mha::Cache().append(context, args).code() == MHA_ERR_NULL);
}

TEST_CASE("hpp: room in caches", "[hpp]") {
  const mha::Context context = make_own_context();
  auto first = mha::Cache::create(context, cache_config(MHA_CACHE_PAGED, 64, 2, 16));
  auto second = mha::Cache::create(context, cache_config(MHA_CACHE_PAGED, 32, 2, 16));
  REQUIRE(first);
  REQUIRE(second);
  CHECK(first->reserve(0, 33));
  CHECK(first->room(1) == 16);
  CHECK(first->reserve(1, 17).code() == MHA_ERR_FULL);
  mha_cache* const caches[] = {first->get(), second->get()};
  const std::int64_t tokens[] = {33, 16};
  mha_reserve_args args = {};
  args.caches = caches, args.num_caches = 2, args.batch = 2, args.tokens = tokens;
  CHECK(mha::Cache::reserve(args).code() == MHA_ERR_FULL);
  CHECK(second->used_bytes() == 0);
  args.num_caches = 1;
  CHECK(mha::Cache::reserve(args));
  CHECK(first->room(1) == 16);
}

TEST_CASE("hpp: a call over a cache", "[hpp]") {
  const mha::Context context = make_own_context();
  const AttentionProblem problem({1, 2, 2, 3, 20, 5, 3}, MaskKind::kCausal, 185000);
  auto cache = mha::Cache::create(context, cache_config(MHA_CACHE_CONTIGUOUS, 32));
  REQUIRE(cache);
  mha_append_args append = {};
  append.batch = 1, append.length = 20;
  append.key = view(problem.key.data()), append.value = view(problem.value.data());
  REQUIRE(cache->append(context, append));
  AttentionCall args = problem.args();
  args.key = args.value = {};
  args.key_len = 0, args.cache = cache->get();
  std::vector<float> output = poisoned(3 * 2 * 3);
  args.output = mut_view(output.data());
  CHECK(context.attention(args));
  check_same_bits("cached", output, run_attention(context.get(), problem.args()).output);
}

TEST_CASE("hpp: handles free what they hold, moved or not", "[hpp]") {
  CountingAllocator allocator;
  const LayerProblem problem({20, 4, 2, 0, 0, 0, 0, 0, 0}, 1, 3, 5, Biases::kAll, 183000);
  {
    auto context = mha::Context::create(allocator.options(supported_targets()[0], 1));
    REQUIRE(context);
    auto layer = mha::Layer::create(*context, problem.config, problem.separate_weights());
    mha_linear_config config = {};
    config.in_features = config.out_features = 20, config.weight = view(problem.query_weight.data());
    auto linear = mha::Linear::create(*context, config);
    auto cache = mha::Cache::create(*context, cache_config(MHA_CACHE_RING, 8));
    REQUIRE(layer);
    REQUIRE(linear);
    REQUIRE(cache);
    CHECK(allocator.live.size() == 5);  // a cache is two: its tables and its tokens
    mha::Layer kept = std::move(*layer);
    CHECK(kept);
    CHECK(layer->get() == nullptr);
    *linear = mha::Linear();
    *cache = mha::Cache();
    CHECK_FALSE(*linear);
    CHECK(allocator.live.size() == 2);
    mha::Context outlived = std::move(*context);
    CHECK(kept.config().embed_dim == 20);
  }
  CHECK(allocator.live.empty());
  CHECK_FALSE(allocator.misuse);
}

TEST_CASE("hpp: rows, rope tables, T5's biases and merge", "[hpp]") {
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
  CHECK(context->rows_prepare(args));
  args.output = mut_view(want.data());
  REQUIRE(mha_rows_prepare(context->get(), &args, nullptr) == MHA_OK);
  check_same_bits("rope", output, want);
  size_t bytes = 1;
  const mha_status status = mha_rows_workspace_bytes(context->get(), &args, &bytes, nullptr);
  check_bytes(context->rows_workspace_bytes(args), status, bytes);
  args.first_position = -1;
  CHECK(context->rows_prepare(args).code() == MHA_ERR_ARGUMENT);

  std::vector<float> cos = poisoned(12), sin = poisoned(12), want_cos = poisoned(12), want_sin = poisoned(12);
  CHECK(context->rope_table(rope, 8, 5, 3, cos.data(), sin.data()));
  REQUIRE(mha_rope_table(context->get(), &rope, 8, 5, 3, want_cos.data(), want_sin.data(), nullptr) == MHA_OK);
  check_same_bits("cos", cos, want_cos);
  check_same_bits("sin", sin, want_sin);
  CHECK(context->rope_table(rope, 8, -5, 3, cos.data(), sin.data()).code() == MHA_ERR_ARGUMENT);

  const std::vector<float> table = random_floats(8 * 2, 184500);
  for (const bool bidirectional : {false, true}) {
    std::vector<float> bias = poisoned(2 * 41), want_bias = poisoned(2 * 41);
    CHECK(mha::t5_bias(table.data(), 2, 8, 20, bidirectional, bias.data()));
    REQUIRE(mha_t5_bias(table.data(), 2, 8, 20, bidirectional ? 1 : 0, want_bias.data(), nullptr) == MHA_OK);
    check_same_bits("t5", bias, want_bias);
  }
  CHECK(mha::t5_bias(table.data(), 0, 8, 20, false, cos.data()).code() == MHA_ERR_ARGUMENT);

  const std::vector<float> lse = {0.5f, -1};
  const float *const outputs[] = {input.data(), input.data() + 16}, *const lses[] = {lse.data(), lse.data()};
  std::vector<float> merged = poisoned(16), merged_want = poisoned(16), merged_lse = poisoned(2);
  mha_merge_args merge = {};
  merge.num_parts = 2, merge.rows = 2, merge.value_head_dim = 8, merge.outputs = outputs, merge.log_sum_exps = lses;
  merge.output = merged.data(), merge.log_sum_exp = merged_lse.data();
  CHECK(context->attention_merge(merge));
  merge.output = merged_want.data(), merge.log_sum_exp = nullptr;
  REQUIRE(mha_attention_merge(context->get(), &merge, nullptr) == MHA_OK);
  check_same_bits("merge", merged, merged_want);
  CHECK(none_poison(merged_lse));
  merge.rows = -1;
  CHECK(context->attention_merge(merge).code() == MHA_ERR_ARGUMENT);
}
