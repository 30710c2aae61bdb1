// SPDX-License-Identifier: Apache-2.0
// Where queries stand among the keys of an item that is shorter than its tensor: START, END, OFFSET (one, or per item);
// what looks at positions follows p(i), and where lengths make the default ambiguous it is refused.
#include "tests/support/catch.h"
#include "tests/support/layers.h"
#include "tests/support/random_cases.h"
#include "tests/support/seeds.h"

using namespace mha::test;

namespace {

/// The report that began this: a cache padded to 8 slots with the values 1, 2, 3, then rubbish; queries and keys of 0,
/// so that a row's output is the mean of the values it sees.
struct PaddedCache {
  std::vector<float> zeros = std::vector<float>(8, 0.0f), value{1, 2, 3, 90, 91, 92, 93, 94}, output;
  std::vector<int64_t> lengths{3};

  AttentionCall call(int64_t Tq, mha_align align) {
    output = poisoned(Tq);
    AttentionCall call;
    call.batch = call.num_heads = call.head_dim = 1;
    call.query_len = Tq, call.key_len = 8;
    call.query = view(zeros.data()), call.key = view(zeros.data()), call.value = view(value.data());
    call.output = mut_view(output.data());
    call.items.key_lengths = lengths.data();
    call.positions.align = align;
    return call;
  }
};

void check_output(const mha_context* context, const AttentionCall& call, const std::vector<float>& output,
                  const std::vector<float>& want) {
  mha_error error = {};
  require_ok(attention(context, call, &error), error);
  for (size_t n = 0; n < want.size(); ++n) CHECK(output[n] == Approx(want[n]));
}

}  // namespace

TEST_CASE("alignment: new tokens stand at the end of a padded cache", "[alignment]") {
  for_each_target([](const std::string&, const mha_context* context) {
    PaddedCache cache;
    AttentionCall two = cache.call(2, MHA_ALIGN_END);
    two.causal = 1;
    check_output(context, two, cache.output, {1.5f, 2});
    two.masks.window_left = 2;
    check_output(context, two, cache.output, {1.5f, 2.5f});
    AttentionCall one = cache.call(1, MHA_ALIGN_END);
    one.masks.window_left = 2;
    check_output(context, one, cache.output, {2.5f});
  });
}

TEST_CASE("alignment: padded prompts begin at the start", "[alignment]") {
  for_each_target([](const std::string&, const mha_context* context) {
    PaddedCache cache;
    AttentionCall prompt = cache.call(4, MHA_ALIGN_START);  // of which the last query is padding
    prompt.causal = 1;
    check_output(context, prompt, cache.output, {1, 1.5f, 2, 2});
    prompt.masks.window_left = 2;
    check_output(context, prompt, cache.output, {1, 1.5f, 2.5f, 3});
  });
}

TEST_CASE("alignment: lengths make the default ambiguous for whatever looks at positions", "[alignment]") {
  const mha_context* context = shared_context(supported_targets()[0], 1);
  PaddedCache cache;
  const float slope = 0.5f, bias = 1;
  const mha_rope rope = {};
  const std::vector<float> wide(16, 0.0f);
  using Change = std::function<void(AttentionCall&)>;
  const Change looks[] = {[](AttentionCall& c) { c.causal = 1; },
                          [](AttentionCall& c) { c.masks.window_left = 2; },
                          [](AttentionCall& c) { c.masks.window_right = 2; },
                          [&](AttentionCall& c) { c.score_mods.alibi_slopes = &slope; },
                          [&](AttentionCall& c) { c.score_mods.relative_bias = &bias; },
                          [&](AttentionCall& c) {
                            c.head_dim = 2, c.value_head_dim = 1, c.rope = &rope;
                            c.query = c.key = view(wide.data());
                          }};
  for (const Change& change : looks) {
    AttentionCall call = cache.call(2, MHA_ALIGN_DEFAULT);
    change(call);
    mha_error error = {};
    CHECK(attention(context, call, &error) == MHA_ERR_ARGUMENT);
    CHECK(mentions(error, "MHA_ALIGN_START"));
    CHECK(mentions(error, "MHA_ALIGN_END"));
    CHECK(is_poison(cache.output[0]));
    size_t bytes = 0;
    CHECK(attention_workspace_bytes(context, call, &bytes) == MHA_ERR_ARGUMENT);
    call.positions.align = MHA_ALIGN_END;
    require_ok(attention(context, call, &error), error);
  }
  // Where nothing looks at positions there is nothing to say; rope with positions of its own does not.
  AttentionCall plain = cache.call(2, MHA_ALIGN_DEFAULT);
  check_output(context, plain, cache.output, {2, 2});
  looks[5](plain);
  const int64_t positions[] = {1, 2};
  plain.positions.query = positions;
  mha_error error = {};
  require_ok(attention(context, plain, &error), error);
}

TEST_CASE("alignment: offsets of items, and offsets that are refused", "[alignment]") {
  for_each_target([](const std::string&, const mha_context* context) {
    AttentionProblem p({3, 2, 1, 4, 40, 16, 16}, MaskKind::kNone, 7);
    const int64_t offsets[] = {-2, 10, 60};
    AttentionCall call = p.args();
    call.causal = 1;
    call.positions.align = MHA_ALIGN_OFFSET, call.positions.offsets = offsets;
    const AttentionResult got = run_attention(context, call);
    for (int64_t b = 0; b < 3; ++b) {  // each item alone, at one offset
      AttentionCall one = p.args();
      one.batch = 1, one.causal = 1;
      one.query = view(p.query.data() + b * 4 * 2 * 16);
      one.key = view(p.key.data() + b * 40 * 16), one.value = view(p.value.data() + b * 40 * 16);
      one.positions.align = MHA_ALIGN_OFFSET, one.positions.offset = offsets[b];
      const AttentionResult want = run_attention(context, one);
      const auto first = got.output.begin() + b * 4 * 2 * 16;
      check_same_bits("item " + std::to_string(b), std::vector<float>(first, first + 4 * 2 * 16), want.output);
    }
    const auto refused = [&](mha_status status, const char* text) {
      mha_error error = {};
      std::vector<float> output = poisoned(3 * 4 * 2 * 16);
      call.output = mut_view(output.data());
      CHECK(attention(context, call, &error) == status);
      CHECK(mentions(error, text));
      CHECK(std::all_of(output.begin(), output.end(), is_poison));
    };
    call.positions.offset = 1;
    refused(MHA_ERR_ARGUMENT, "positions.offset is 1 beside positions.offsets");
    call.positions.align = MHA_ALIGN_END, call.positions.offset = 0;
    refused(MHA_ERR_ARGUMENT, "positions.offsets is given, but positions.align is not MHA_ALIGN_OFFSET");
    call.positions.offsets = nullptr, call.positions.offset = 5;
    refused(MHA_ERR_ARGUMENT, "positions.offset is 5, but positions.align is not MHA_ALIGN_OFFSET");
    call.positions.align = static_cast<mha_align>(4), call.positions.offset = 0;
    refused(MHA_ERR_ARGUMENT, "positions.align is 4");
    const int64_t far[] = {0, 0, (int64_t{1} << 62) + 1};
    call.positions.align = MHA_ALIGN_OFFSET, call.positions.offsets = far;
    refused(MHA_ERR_OVERFLOW, "positions.offsets[2]");
  });
}

TEST_CASE("alignment: rope's own positions follow the lengths of items", "[alignment]") {
  for_each_target([](const std::string&, const mha_context* context) {
    AttentionProblem p({2, 2, 2, 3, 64, 16, 16}, MaskKind::kNone, 8);
    const int64_t lengths[] = {10, 64}, positions[] = {7, 8, 9, 61, 62, 63};
    const mha_rope rope = {};
    AttentionCall call = p.args();
    call.items.key_lengths = lengths, call.rope = &rope;
    call.positions.align = MHA_ALIGN_END;
    const AttentionResult got = run_attention(context, call);
    call.positions.query = positions;
    check_same_results("END", got, run_attention(context, call));
    call.positions.query = nullptr, call.positions.align = MHA_ALIGN_START;
    const int64_t from_start[] = {0, 1, 2, 0, 1, 2};
    const AttentionResult start = run_attention(context, call);
    call.positions.query = from_start;
    check_same_results("START", start, run_attention(context, call));
  });
}

TEST_CASE("alignment: a padded item gives the bits of the item alone", "[alignment]") {
  for_each_target([](const std::string& target, const mha_context* one_thread) {
    for (const int64_t threads : {1, 3}) {
      const mha_context* context = threads == 1 ? one_thread : shared_context(target, threads);
      for (const int64_t Tq : {1, 2, 40}) {
        AttentionProblem p({4, 4, 2, Tq, 600, 24, 24}, MaskKind::kNone, 9 + Tq);
        const int64_t lengths[] = {600, 41, 257, 300};
        AttentionCall call = p.args();
        call.items.key_lengths = lengths;
        call.causal = 1, call.masks.window_left = 200;
        for (const mha_align align : {MHA_ALIGN_END, MHA_ALIGN_START}) {
          call.positions.align = align;
          const AttentionResult got = run_attention(context, call);
          const int64_t row = 4 * 24;
          for (int64_t b = 0; b < 4; ++b) {
            AttentionCall alone = call;
            alone.items = {}, alone.batch = 1, alone.key_len = lengths[b];
            alone.query = view(p.query.data() + b * Tq * row);
            alone.key = view(p.key.data() + b * 600 * 48), alone.value = view(p.value.data() + b * 600 * 48);
            const AttentionResult want = run_attention(one_thread, alone);
            const auto first = got.output.begin() + b * Tq * row;
            check_same_bits("item " + std::to_string(b) + " of Tq " + std::to_string(Tq),
                            std::vector<float>(first, first + Tq * row), want.output);
          }
        }
      }
    }
  });
}

TEST_CASE("alignment: every way agrees with double", "[alignment]") {
  for_each_target([](const std::string& target, const mha_context* context) {
    for (const uint64_t seed : seeds(0, 60)) {
      Random random(seed * 7 + 3);
      const AttentionShape shape = {between(random, 1, 3),
                                    4,
                                    one_of<int64_t>(random, {1, 2, 4}),
                                    random_length(random, 60),
                                    random_length(random, 600),
                                    between(random, 1, 40),
                                    between(random, 1, 40)};
      AttentionProblem p(shape, MaskKind::kNone, seed);
      const RandomMasks masks(random, shape.B, shape.H, shape.Tq, shape.Tk);
      AttentionCall call = p.args();
      masks.get().put_into(&call);
      call.score_mods = masks.mods();
      INFO(target << " seed " << seed << ": " << describe(shape) << masks.describe());
      const AttentionResult got = run_attention(context, call);
      const AttentionReference want = reference_attention(call);
      for (size_t n = 0; n < want.output.size(); ++n) {
        CHECK(std::abs(got.output[n] - want.output[n]) <= 2e-5 * std::max(1.0, std::abs(want.output[n])));
      }
    }
  });
}

TEST_CASE("alignment: layers over padded prompts", "[alignment]") {
  for_each_target([](const std::string&, const mha_context* context) {
    mha_layer_config config = {};
    config.embed_dim = 32, config.num_heads = 4;
    const LayerProblem p(config, 2, 9, 9, Biases::kAll, 11);
    const LayerPtr layer = p.make(context);
    const int64_t lengths[] = {9, 5};
    const mha_rope rope = {};
    LayerCall call = p.args();
    call.key = call.value = {}, call.key_len = 0;
    call.items.key_lengths = lengths, call.causal = 1, call.rope = &rope;
    call.positions.align = MHA_ALIGN_START;
    const LayerResult got = run_layer(context, layer.get(), call);
    for (int64_t b = 0; b < 2; ++b) {  // each prompt alone, without padding
      LayerCall alone = call;
      alone.items = {}, alone.batch = 1, alone.query_len = lengths[b];
      alone.query = view(p.query.data() + b * 9 * 32);
      const LayerResult want = run_layer(context, layer.get(), alone);
      const auto first = got.output.begin() + b * 9 * 32;
      check_same_bits("prompt " + std::to_string(b), std::vector<float>(first, first + lengths[b] * 32), want.output);
    }
  });
}
