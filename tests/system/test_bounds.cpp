// SPDX-License-Identifier: Apache-2.0
// Workspaces for servers: one bound for every call of at most some sizes. A bound is never less than what any such call
// needs, and a workspace of its size lasts from the first token to the last.
#include "tests/support/cache_layouts.h"
#include "tests/support/caches.h"
#include "tests/support/catch.h"
#include "tests/support/dtypes.h"
#include "tests/support/layers.h"
#include "tests/support/random_cases.h"
#include "tests/support/seeds.h"

using namespace mha::test;

namespace {

size_t bound_of(const mha_context* context, const AttentionCall& call) {
  size_t bytes = 0;
  mha_error error = {};
  require_ok(attention_workspace_bound(context, call, &bytes, &error), error);
  return bytes;
}

size_t bytes_of(const mha_context* context, const AttentionCall& call) {
  size_t bytes = 0;
  mha_error error = {};
  require_ok(attention_workspace_bytes(context, call, &bytes, &error), error);
  return bytes;
}

/// Lengths in [0, most] whose sum is at most `total`, as offsets.
std::vector<int64_t> random_offsets(Random& random, int64_t count, int64_t most, int64_t total) {
  std::vector<int64_t> offsets{0};
  for (int64_t b = 0; b < count; ++b) {
    const int64_t room = std::min(most, total - offsets.back());
    offsets.push_back(offsets.back() + random.below(room + 1));
  }
  return offsets;
}

const float kSome[64] = {};

}  // namespace

TEST_CASE("bounds: no call of smaller sizes needs more", "[bounds]") {
  for (const uint64_t seed : seeds(0, 3000)) {
    Random random(seed * 13 + 1);
    AttentionCall greatest;
    if (one_in(random, 4) && !targets_of(MHA_ARITHMETIC_BF16).empty()) greatest.arithmetic = MHA_ARITHMETIC_BF16;
    const RandomContext context = random_context(random, greatest.arithmetic);
    greatest.num_kv_heads = one_of<int64_t>(random, {1, 2, 8});
    greatest.num_heads = greatest.num_kv_heads * one_of<int64_t>(random, {1, 3, 4});
    greatest.batch = between(random, 1, 12);
    greatest.query_len = one_in(random, 2) ? between(random, 1, 4) : between(random, 1, 3000);
    greatest.key_len = one_in(random, 4) ? between(random, 1, 20000) : between(random, 1, 3000);
    greatest.head_dim = between(random, 1, 200), greatest.value_head_dim = between(random, 1, 200);
    greatest.query = view(kSome), greatest.key = view(kSome), greatest.value = view(kSome);
    greatest.query.dtype = random_dtype(random), greatest.key.dtype = random_dtype(random);
    greatest.value.dtype = random_dtype(random), greatest.output.dtype = random_dtype(random);
    if (one_in(random, 3)) greatest.causal = 1;
    if (one_in(random, 4)) greatest.score_mods.alibi_slopes = kSome;
    mha_norm norm = {};
    norm.epsilon = 1e-5f;
    if (one_in(random, 4)) greatest.query_norm = &norm;
    greatest.results.weights_mode = one_of(
        random, {MHA_WEIGHTS_NONE, MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED, MHA_WEIGHTS_KEY_SUMS});
    const int64_t kind = random.below(4);  // dense, packed queries and keys, padded, pages
    const int64_t none[1] = {0};
    mha_pages pages = {};
    pages.page_size = one_of<int64_t>(random, {16, 64, 256});
    if (kind == 1) greatest.items.query_offsets = greatest.items.key_offsets = none;
    if (kind >= 2) greatest.items.key_lengths = none, greatest.positions.align = MHA_ALIGN_END;
    if (kind == 3) greatest.pages = &pages;
    const size_t bound = bound_of(context.get(), greatest);
    for (int n = 0; n < 6; ++n) {
      AttentionCall call = greatest;
      call.batch = between(random, 1, greatest.batch);
      std::vector<int64_t> queries, keys, lengths;
      std::vector<int32_t> table;
      call.query_len = between(random, 1, greatest.query_len), call.key_len = between(random, 1, greatest.key_len);
      if (kind == 1) {
        queries = random_offsets(random, call.batch, call.query_len, call.query_len);
        keys = random_offsets(random, call.batch, call.key_len, call.key_len);
        call.query_len = queries.back(), call.key_len = keys.back();
        call.items.query_offsets = queries.data(), call.items.key_offsets = keys.data();
      }
      for (int64_t b = 0; b < call.batch; ++b) lengths.push_back(random.below(call.key_len + 1));
      if (kind >= 2) call.items.key_lengths = lengths.data();
      if (kind == 3) {  // many items share their first pages
        const int64_t stride = (call.key_len + pages.page_size - 1) / pages.page_size;
        for (int64_t b = 0; b < call.batch; ++b)
          for (int64_t page = 0; page < stride; ++page)
            table.push_back(static_cast<int32_t>(page < stride / 2 ? page : b * stride + page));
        pages.table = table.data(), pages.num_pages = call.batch * stride;
      }
      if (one_in(random, 4)) call.causal = 0, call.results.weights_mode = MHA_WEIGHTS_NONE;
      INFO(context.describe() << ", seed " << seed << " kind " << kind << ": B " << call.batch << " Tq "
                              << call.query_len << " of " << greatest.query_len << " Tk " << call.key_len << " of "
                              << greatest.key_len << " H " << call.num_heads << "/" << call.num_kv_heads << " D "
                              << call.head_dim << "/" << call.value_head_dim << " weights "
                              << call.results.weights_mode);
      CHECK(bytes_of(context.get(), call) <= bound);
    }
  }
}

TEST_CASE("bounds: the call of just these sizes, with weights, needs no more", "[bounds]") {
  for (const int64_t threads : {1, 3}) {
    for_each_target(
        [&](const std::string&, const mha_context* context) {
          for (const int64_t Tq : {1, 30, 400, 1024, 3000}) {
            for (const int64_t Tk : {16, 200, 256, 257, 2000, 20000}) {
              for (const mha_weights_mode mode : {MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED, MHA_WEIGHTS_KEY_SUMS}) {
                INFO(threads << " threads, Tq " << Tq << " Tk " << Tk << " weights " << mode);
                AttentionCall call;
                call.batch = 1, call.num_heads = 2, call.query_len = Tq, call.key_len = Tk, call.head_dim = 64;
                call.query = view(kSome), call.key = view(kSome), call.value = view(kSome);
                call.results.weights_mode = mode;
                CHECK(bytes_of(context, call) <= bound_of(context, call));
              }
            }
          }
        },
        threads);
  }
}

TEST_CASE("bounds: allocated once, decoded to the end of the cache", "[bounds]") {
  for_each_target([](const std::string& target, const mha_context*) {
    for (const int64_t threads : {1, 3}) {
      const mha_context* context = shared_context(target, threads);
      for (const CacheLayout& layout :
           {CacheLayout{MHA_CACHE_CONTIGUOUS, 0}, {MHA_CACHE_PAGED, 16}, {MHA_CACHE_PAGED, 64}, {MHA_CACHE_RING, 0}}) {
        mha_layer_config config = {};
        config.embed_dim = 48, config.num_heads = 6, config.num_kv_heads = 2, config.head_dim = 8;
        const int64_t capacity = 700, prompt = 100;
        const LayerProblem p(config, 2, prompt, prompt, Biases::kAll, 3);
        const LayerPtr layer = p.make(context);
        mha_cache_config room = cache_config(layout, {2, 6, 2, 1, 1, 8, 8}, 2, capacity);
        const CachePtr cache = make_cache(context, room);
        mha_rope rope = {};
        LayerCall call;
        call.batch = 2, call.causal = 1, call.rope = &rope, call.cache = cache.get();
        if (layout.kind == MHA_CACHE_RING) call.masks.window_left = 300;
        std::vector<float> output(2 * prompt * 48);
        call.query = view(p.query.data()), call.output = mut_view(output.data());
        call.query_len = prompt;
        mha_error error = {};
        size_t bound = 0;
        require_ok(layer_workspace_bound(context, layer.get(), call, &bound, &error), error);
        std::vector<char> workspace(bound + 64, 0x5a);
        call.resources.workspace = workspace.data(), call.resources.workspace_bytes = bound;
        // A ring goes on as long as one likes.
        const int64_t end = layout.kind == MHA_CACHE_RING ? 3 * capacity : capacity;
        for (int64_t length = 0; length < end; length += call.query_len) {
          call.query_len = length == 0 ? prompt : (length % 7 == 0 ? std::min<int64_t>(3, end - length) : 1);
          INFO(layout.name() << ", " << threads << " threads, " << length << " tokens");
          require_ok(layer_forward(context, layer.get(), call, &error), error);
        }
        CHECK(mha_cache_length(cache.get(), 0) == end);
        for (size_t n = bound; n < workspace.size(); ++n) REQUIRE(workspace[n] == 0x5a);
      }
    }
  });
}

TEST_CASE("bounds: caches whose rows are rotated", "[bounds][codes]") {
  for (const mha_cache_kind kind : kCacheKinds) {
    mha_cache_config config = cache_config(kind, kind == MHA_CACHE_PAGED ? 8 * 300 : 300, 8, 16);
    config.num_kv_heads = 4, config.head_dim = 64, config.value_head_dim = 32;
    config.key.dtype = config.value.dtype = MHA_I8;
    for (const int which : {1, 2, 3}) {
      config.key.hadamard = which & 1, config.value.hadamard = which >> 1;
      for_each_target([&](const std::string& target, const mha_context* one) {
        const CachePtr cache = make_cache(one, config);
        for (int64_t s = 0; s < 8; ++s) require_append(cache.get(), s, random_tokens(config, 200 + s, 7));
        std::vector<float> query(8 * 16 * 64), output(8 * 16 * 32);
        for (const mha_dtype dtype : {MHA_F32, MHA_F16}) {
          AttentionCall call;
          call.batch = 8, call.num_heads = 16, call.num_kv_heads = 4, call.head_dim = 64, call.value_head_dim = 32;
          call.query_len = 1, call.cache = cache.get(), call.query = view(query.data());
          call.output = mut_view(output.data()), call.output.dtype = dtype;
          INFO(target << " " << kind_name(kind) << " rotated " << which << " output " << dtype_name(dtype));
          for (const int64_t threads : {1, 3}) {
            const mha_context* context = shared_context(target, threads);
            const size_t bound = bound_of(context, call), bytes = bytes_of(context, call);
            CHECK(bound >= bytes);
            if (bound < bytes) continue;
            std::vector<char> workspace(bound);
            AttentionCall lent = call;
            lent.resources.workspace = workspace.data(), lent.resources.workspace_bytes = bound;
            mha_error error = {};
            require_ok(attention(context, lent, &error), error);
          }
        }
      });
    }
  }
}

TEST_CASE("bounds: INT8 over caches of codes", "[bounds][int8]") {
  mha_cache_config config = cache_config(MHA_CACHE_PAGED, 8 * 300, 8, 16);
  config.num_kv_heads = 2, config.head_dim = 32, config.value_head_dim = 32;
  config.key.dtype = config.value.dtype = MHA_I8;
  for (const std::string& target : targets_of(MHA_ARITHMETIC_INT8)) {
    const mha_context* context = shared_context(target, 3);
    const CachePtr cache = make_cache(context, config);
    for (int64_t s = 0; s < 8; ++s) require_append(cache.get(), s, random_tokens(config, 250, 7));
    std::vector<float> query(8 * 4 * 4 * 32), output(query.size());
    AttentionCall call;
    call.batch = 8, call.num_heads = 4, call.num_kv_heads = 2, call.head_dim = 32, call.query_len = 4;
    call.arithmetic = MHA_ARITHMETIC_INT8, call.cache = cache.get(), call.query = view(query.data());
    INFO(target);
    CHECK(bound_of(context, call) >= bytes_of(context, call));

    mha_layer_config sizes = {};
    sizes.embed_dim = 64, sizes.num_heads = 4, sizes.num_kv_heads = 2, sizes.head_dim = 32;
    const LayerProblem p(sizes, 8, 4, 4, Biases::kAll, 5);
    const LayerPtr layer = p.make(context);
    LayerCall forward;
    forward.batch = 8, forward.query_len = 4, forward.cache = cache.get(), forward.arithmetic = MHA_ARITHMETIC_INT8;
    forward.query = view(p.query.data());
    for (const mha_cache_use use : {MHA_CACHE_APPEND, MHA_CACHE_READ}) {
      forward.cache_use = use;
      size_t bound = 0, bytes = 0;
      mha_error error = {};
      require_ok(layer_workspace_bound(context, layer.get(), forward, &bound, &error), error);
      require_ok(layer_workspace_bytes(context, layer.get(), forward, &bytes, &error), error);
      CHECK(bound >= bytes);
    }
  }
}

TEST_CASE("bounds: views with the strides of packed items and of pages", "[bounds]") {
  const mha_context* context = shared_context(supported_targets()[0], 3);
  const int64_t offsets[] = {0, 3, 10, 17, 20}, lengths[] = {3, 7, 7, 3};
  AttentionCall call;
  call.batch = 4, call.num_heads = 4, call.num_kv_heads = 4, call.query_len = call.key_len = 20, call.head_dim = 32;
  call.items.query_offsets = call.items.key_offsets = offsets;
  const auto strided = [](mha_view v) {  // queries, keys and values of a token side by side
    v.stride_t = 3 * 4 * 32, v.stride_h = 32;
    return v;
  };
  call.query = strided(view(kSome)), call.key = strided(view(kSome)), call.value = strided(view(kSome));
  call.output.stride_t = 200, call.output.stride_h = 40;
  call.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
  call.results.weights.stride_t = 8, call.results.weights.stride_h = 200;
  CHECK(bound_of(context, call) >= bytes_of(context, call));

  call = {};
  call.batch = 4, call.num_heads = 4, call.num_kv_heads = 4, call.query_len = 1, call.key_len = 7, call.head_dim = 32;
  call.items.key_lengths = lengths;
  const std::vector<int32_t> table(4 * 7, 0);
  mha_pages pages = {};
  pages.page_size = 1, pages.num_pages = 1, pages.table = table.data();
  call.pages = &pages;
  call.query = view(kSome), call.key = view(kSome), call.value = view(kSome);
  call.key.stride_b = call.value.stride_b = 4 * 32, call.key.stride_h = call.value.stride_h = 32;
  CHECK(bound_of(context, call) >= bytes_of(context, call));
}

TEST_CASE("bounds: output in query's place, of another width", "[bounds][overlap]") {
  const mha_context* context = shared_context(supported_targets()[0], 1);
  std::vector<float> rows(512 * 8 * 128);
  for (const mha_weights_mode mode : {MHA_WEIGHTS_NONE, MHA_WEIGHTS_AVERAGED}) {
    AttentionCall call;
    call.batch = 1, call.num_heads = call.num_kv_heads = 8, call.query_len = call.key_len = 512;
    call.head_dim = 64, call.value_head_dim = 128;
    call.query = view(rows.data()), call.output = mut_view(rows.data());
    call.query.stride_h = call.output.stride_h = 128, call.query.stride_t = call.output.stride_t = 8 * 128;
    call.query.stride_b = call.output.stride_b = 512 * 8 * 128;
    call.key = view(kSome), call.value = view(kSome), call.results.weights_mode = mode;
    INFO("weights " << mode);
    CHECK(bound_of(context, call) >= bytes_of(context, call));
  }
}

TEST_CASE("bounds: what a call needs is not far below, where all is as said", "[bounds]") {
  const mha_context* context = shared_context(supported_targets()[0], 1);
  AttentionCall call;
  call.batch = 4, call.num_heads = 32, call.num_kv_heads = 8, call.head_dim = 128, call.query_len = 1,
  call.key_len = 4096;
  call.query = view(kSome), call.key = view(kSome), call.value = view(kSome);
  CHECK(bound_of(context, call) < 512 * 1024);  // one thread, one token: nothing is split
  call.query_len = 2048;
  CHECK(bound_of(context, call) <= 2 * bytes_of(context, call));
}

TEST_CASE("bounds: refusals", "[bounds]") {
  const mha_context* context = shared_context(supported_targets()[0], 1);
  size_t bytes = 7;
  mha_error error = {};
  AttentionCall call;
  call.batch = 1, call.query_len = call.key_len = 3, call.head_dim = 4;
  CHECK(attention_workspace_bound(context, call, &bytes, &error) == MHA_ERR_ARGUMENT);
  CHECK(mentions(error, "num_heads is 0"));
  CHECK(bytes == 7);
  CHECK(mha_attention_workspace_bound(context, nullptr, &bytes, &error) == MHA_ERR_NULL);
  call.num_heads = 1;
  CHECK(attention_workspace_bound(context, call, nullptr, &error) == MHA_ERR_NULL);
  CHECK(attention_workspace_bound(nullptr, call, &bytes, &error) == MHA_ERR_NULL);
  mha_cache_config config = cache_config(MHA_CACHE_RING, 64);
  const CachePtr ring = make_cache(context, config);
  call.cache = ring.get(), call.key_len = 0, call.num_heads = call.num_kv_heads = 2;
  call.head_dim = 5, call.value_head_dim = 3;
  CHECK(attention_workspace_bound(context, call, &bytes, &error) == MHA_OK);
  call.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
  CHECK(attention_workspace_bound(context, call, &bytes, &error) == MHA_ERR_UNSUPPORTED);
  CHECK(mentions(error, "weights over a ring"));
}
