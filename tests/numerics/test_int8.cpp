// SPDX-License-Identifier: Apache-2.0
// INT8 attention: every target, those without FMA too, computes what the rules of core/README.md say, bit by bit.
#include <cstdio>
#include <cstdlib>
#include "tests/support/int8_order.h"

#include "tests/support/caches.h"
#include "tests/support/guard.h"
#include "tests/support/numbers.h"
#include "tests/support/partials.h"
#include "tests/support/random_typed.h"
#include "tests/support/row_codes.h"

using namespace mha::test;

namespace {

/// Codes of keys or values such as INT8 multiplies: signed bytes with a scale for each row, no zeros.
std::unique_ptr<CodeTensor> row_codes(Random& random, const Extent& extent) {
  const CodeType* type =
      std::find_if(std::begin(kCodeTypes), std::end(kCodeTypes), [](const CodeType& t) { return t.dtype == MHA_I8; });
  for (;;) {
    auto codes = std::make_unique<CodeTensor>(random, *type, extent);
    if (codes->view().quant->zeros == nullptr && (codes->group() == 0 || codes->group() >= extent.d)) return codes;
  }
}

AttentionShape random_shape(Random& random) {
  AttentionShape s = {};
  s.B = between(random, 1, 2), s.Hkv = between(random, 1, 3), s.H = s.Hkv * one_of<int64_t>(random, {1, 1, 2, 4, 7});
  s.Tq = one_of<int64_t>(random, {1, 1, 2, 3, 7, 24, 25, 49}),
  s.Tk = one_of<int64_t>(random, {1, 15, 16, 17, 31, 33, 255, 257, 300, 530});
  s.D = one_of<int64_t>(random, {1, 2, 5, 15, 31, 32, 33, 40, 64, 65, 80, 96, 128});
  s.Dv = one_in(random, 2) ? s.D : between(random, 1, 130);
  return s;
}

void vary(Random& random, AttentionProblem* p) {
  if (one_in(random, 6)) scale_all(&p->query, 30);
  if (one_in(random, 6)) scale_rows(random, &p->query, p->shape.D);
  if (one_in(random, 6)) scale_all(&p->query, one_of(random, {0x1p-99f, 0x1p-101f, 0x1p-127f, 0x1p60f}));
  if (!one_in(random, 8)) return;
  for (float& q : p->query)
    if (one_in(random, 300)) q = one_of(random, {kInf, -kInf, kNan});
}

}  // namespace

TEST_CASE("int8: attention, every element in the order of the rules", "[int8][bits]") {
  for (const uint64_t seed : seeds(630000, 300)) {
    Random random(seed);
    const AttentionShape s = random_shape(random);
    const auto kind = static_cast<MaskKind>(random.below(kMaskKinds));
    AttentionProblem p(s, kind, seed);
    vary(random, &p);
    const auto key = row_codes(random, {s.B, s.Tk, s.Hkv, s.D}), value = row_codes(random, {s.B, s.Tk, s.Hkv, s.Dv});
    INFO("seed " << seed << ", " << describe(s, kind) << ", " << key->describe() << ", " << value->describe());
    const std::vector<float> want = int8::attention(p, key->parts(), value->parts());
    AttentionCall args = p.args();
    args.arithmetic = MHA_ARITHMETIC_INT8, args.key = key->view(), args.value = value->view();
    for (const std::string& target : targets_of(MHA_ARITHMETIC_INT8)) {
      for (const int64_t threads : {1, 3}) {
        INFO("target " << target << ", " << threads << " threads");
        check_same_bits("output", run_attention(shared_context(target, threads), args).output, want);
      }
    }
  }
}

namespace {

/// A problem whose keys and values are RowCodes.
struct Coded {
  AttentionProblem p;
  RowCodes key, value;

  Coded(const AttentionShape& s, MaskKind kind, uint64_t seed)
      : p(s, kind, seed), key(p.key, s.key()), value(p.value, s.value()) {}
  AttentionCall args() const {
    AttentionCall args = p.args();
    args.arithmetic = MHA_ARITHMETIC_INT8, args.key = key.view(), args.value = value.view();
    return args;
  }
};

bool none_has_int8() { return targets_of(MHA_ARITHMETIC_INT8).empty(); }

mha_cache_config int8_cache(mha_cache_kind kind, int64_t heads, int64_t D, int64_t Dv) {
  mha_cache_config config = cache_config(kind, 700, 3, 24, 5);
  if (kind == MHA_CACHE_PAGED) config.capacity = 3 * 720;
  config.num_kv_heads = heads, config.head_dim = D, config.value_head_dim = Dv;
  config.key.dtype = config.value.dtype = MHA_I8;
  return config;
}

}  // namespace

TEST_CASE("int8: over a cache of any kind the bits of the call over the codes that it stores", "[int8][cache]") {
  if (none_has_int8()) return;
  for (const uint64_t seed : seeds(640000, 40)) {
    Random random(seed);
    const int64_t heads = between(random, 1, 2), group = between(random, 1, 3);
    const int64_t D = one_of<int64_t>(random, {5, 16, 40, 64}), Dv = one_of<int64_t>(random, {3, 16, 33, 64});
    const int64_t length = one_of<int64_t>(random, {1, 30, 256, 400, 650});
    const int64_t queries = one_of<int64_t>(random, {1, 1, 3, 20, 60});
    const std::vector<float> query = random_floats(queries * heads * group * D, seed);
    const Tokens tokens = random_tokens(int8_cache(MHA_CACHE_CONTIGUOUS, heads, D, Dv), length, seed * 2);
    const RowCodes key(tokens.key, {1, length, heads, D}), value(tokens.value, {1, length, heads, Dv});
    AttentionCall args = {};
    args.batch = 1, args.num_heads = heads * group, args.num_kv_heads = heads, args.query_len = queries;
    args.head_dim = D, args.value_head_dim = Dv, args.causal = one_in(random, 2) ? 1 : 0;
    args.query = view(query.data()), args.arithmetic = MHA_ARITHMETIC_INT8;
    std::vector<float> want = poisoned(queries * heads * group * Dv);
    for (const mha_cache_kind kind : kCacheKinds) {
      const CachePtr cache = make_cache(cache_context(), int8_cache(kind, heads, D, Dv));
      const mha_cache_config config = config_of(cache.get());
      for (const auto& [first, count] : random_pieces(random, length)) {
        require_append(cache.get(), 1, slice(config, tokens, first, count));
      }
      mha_error error = {};
      require_ok(mha_cache_fork(cache.get(), 1, 2, -1, &error), error);
      for (const std::string& target : targets_of(MHA_ARITHMETIC_INT8)) {
        INFO("seed " << seed << " " << kind_name(kind) << ", target " << target);
        const mha_context* context = shared_context(target, one_of<int64_t>(random, {1, 3}));
        AttentionCall dense = args;
        dense.key_len = length, dense.key = key.view(), dense.value = value.view();
        dense.output = mut_view(want.data());
        require_ok(attention(context, dense, &error), error);
        for (const int64_t sequence : {1, 2}) {
          std::vector<float> got = poisoned(static_cast<int64_t>(want.size()));
          AttentionCall cached = args;
          cached.cache = cache.get(), cached.items.sequences = &sequence, cached.output = mut_view(got.data());
          require_ok(attention(context, cached, &error), error);
          check_same_bits("output", got, want);
        }
      }
    }
  }
}

TEST_CASE("int8: partial results, merged, are the call's", "[int8][partial]") {
  if (none_has_int8()) return;
  for (const MaskKind kind : {MaskKind::kNone, MaskKind::kCausal}) {
    const Coded c({2, 4, 2, 30, 700, 33, 20}, kind, 641000);
    for (const std::string& target : targets_of(MHA_ARITHMETIC_INT8)) {
      INFO("target " << target);
      const mha_context* context = shared_context(target, 2);
      AttentionCall args = c.args();
      const AttentionResult want = run_attention(context, args);
      if (kind == MaskKind::kCausal) {
        args.positions.align = MHA_ALIGN_OFFSET, args.positions.offset = c.p.shape.Tk - c.p.shape.Tq;
      }
      const std::vector<float> partials = partial(context, args);
      AttentionResult got;
      got.output = poisoned(c.p.shape.output().count());
      mha_merge_partials_args merge = {};
      merge.batch = 2, merge.num_heads = 4, merge.query_len = 30, merge.value_head_dim = 20, merge.num_chunks = 3;
      merge.partials = partials.data(), merge.output = mut_view(got.output.data());
      merge.arithmetic = MHA_ARITHMETIC_INT8;
      mha_error error = {};
      require_ok(mha_attention_merge_partials(context, &merge, &error), error);
      check_same_bits("output", got.output, want.output);
    }
  }
}

TEST_CASE("int8: no sum leaves 32 bits, whatever the codes", "[int8][extremes]") {
  if (none_has_int8()) return;
  for (const int code : {-128, 127}) {
    for (const int64_t Tq : {1, 40}) {
      const AttentionShape s = {1, 1, 1, Tq, 300, 1024, 48};
      AttentionProblem p(s, MaskKind::kNone, 642000);
      p.scale = 0x1p-20f;  // all keys weigh the same
      for (float& q : p.query) q = 3.0f;
      const std::vector<int8_t> key(static_cast<size_t>(s.Tk * s.D), static_cast<int8_t>(code));
      const std::vector<int8_t> value(static_cast<size_t>(s.Tk * s.Dv), static_cast<int8_t>(code));
      const float scale = 0.5f;
      mha_quant quant = {};
      quant.scales = &scale;
      AttentionCall args = p.args();
      args.arithmetic = MHA_ARITHMETIC_INT8;
      args.key.data = key.data(), args.key.dtype = MHA_I8, args.key.quant = &quant;
      args.value.data = value.data(), args.value.dtype = MHA_I8, args.value.quant = &quant;
      const CodeParts part = {static_cast<float>(code), scale};
      const std::vector<float> want =
          int8::attention(p, std::vector<CodeParts>(key.size(), part), std::vector<CodeParts>(value.size(), part));
      CHECK(want[0] == Approx(scale * static_cast<float>(code)));
      for (const std::string& target : targets_of(MHA_ARITHMETIC_INT8)) {
        INFO("target " << target << " code " << code << " Tq " << Tq);
        check_same_bits("output", run_attention(shared_context(target, 1), args).output, want);
      }
    }
  }
}

TEST_CASE("int8: nothing outside codes, scales and workspace is read or written", "[int8][guard]") {
  if (none_has_int8()) return;
  for (const uint64_t seed : seeds(643000, 60)) {
    Random random(seed);
    AttentionShape s = random_shape(random);
    s.Dv = one_in(random, 2) ? s.Dv : 16 * between(random, 1, 4);
    const Coded c(s, one_in(random, 2) ? MaskKind::kCausal : MaskKind::kNone, seed);
    const Guard guard = one_in(random, 2) ? Guard::kAfter : Guard::kBefore;
    const auto copy = [guard](const void* from, size_t bytes) {
      auto made = std::make_unique<GuardedBuffer>(bytes, guard);
      std::memcpy(made->data(), from, bytes);
      return made;
    };
    const auto key = copy(c.key.codes().data(), c.key.codes().size());
    const auto value = copy(c.value.codes().data(), c.value.codes().size());
    const auto key_scales = copy(c.key.scales().data(), c.key.scales().size() * sizeof(float));
    const auto value_scales = copy(c.value.scales().data(), c.value.scales().size() * sizeof(float));
    AttentionCall args = c.args();
    mha_quant quants[2] = {*args.key.quant, *args.value.quant};
    quants[0].scales = key_scales->data(), quants[1].scales = value_scales->data();
    args.key.data = key->data(), args.key.quant = &quants[0];
    args.value.data = value->data(), args.value.quant = &quants[1];
    for (const std::string& target : targets_of(MHA_ARITHMETIC_INT8)) {
      INFO("seed " << seed << " " << describe(s) << ", target " << target);
      const mha_context* context = shared_context(target, 1);
      const std::vector<float> want = run_attention(context, c.args()).output;
      const GuardedFloats output(poisoned(s.output().count()), guard);
      args.output = mut_view(output.floats());
      std::unique_ptr<GuardedBuffer> workspace;
      guarded_workspace(&workspace, &args, [&](size_t* bytes, mha_error* error) {
        return attention_workspace_bytes(context, args, bytes, error);
      });
      mha_error error = {};
      require_ok(attention(context, args, &error), error);
      CHECK(workspace->slack_intact());
      check_same_bits("output", output.values(), want);
    }
  }
}

TEST_CASE("int8: scales of keys that a row does not see have no effect on it", "[int8][masks]") {
  for (const int64_t queries : {3, 40}) {
    for (const int64_t keys : {21, 300}) {  // rows end among the keys of a vector
      const AttentionShape s = {1, 2, 1, queries, keys, 32, 48};
      const AttentionProblem p(s, MaskKind::kNone, 640000);
      RowCodes key(p.key, s.key()), value(p.value, s.value());
      const auto last = static_cast<size_t>(keys - 1), others = static_cast<size_t>((queries - 1) * s.H * s.Dv);
      for (const std::string& target : targets_of(MHA_ARITHMETIC_INT8)) {
        INFO("target " << target << " Tq " << queries << " Tk " << keys);
        std::vector<std::vector<float>> outputs;
        for (const float scale : {0.01f, kNan, kInf}) {
          key.set_scale(last, scale), value.set_scale(last, scale);
          AttentionCall args = p.args();
          args.arithmetic = MHA_ARITHMETIC_INT8, args.key = key.view(), args.value = value.view();
          args.causal = 1, args.positions.align = MHA_ALIGN_END;  // the last query alone sees the last key
          outputs.push_back(run_attention(shared_context(target, 1), args).output);
        }
        for (size_t n = 0; n < outputs[0].size(); ++n) {
          if (n >= others) {
            CHECK(!(std::isfinite(outputs[1][n]) || std::isfinite(outputs[2][n])));
          } else if (bits_of(outputs[1][n]) != bits_of(outputs[0][n]) ||
                     bits_of(outputs[2][n]) != bits_of(outputs[0][n])) {
            FAIL_CHECK("element " << n);
          }
        }
      }
    }
  }
}

TEST_CASE("int8: outputs are near those of the stored values", "[int8][accuracy]") {
  if (none_has_int8()) return;
  const mha_context* context = shared_context(targets_of(MHA_ARITHMETIC_INT8).front(), 2);
  for (const float magnitude : {1.0f, 3.0f, 10.0f}) {
    for (const AttentionShape& s : {AttentionShape{1, 2, 2, 512, 512, 64, 64}, {1, 4, 1, 200, 300, 128, 128}}) {
      Coded c(s, MaskKind::kNone, 644000);
      scale_all(&c.p.query, 1.7320508f * 1.7320508f * magnitude);
      AttentionCall wide = c.p.args();
      const std::vector<float> key = c.key.widened(), value = c.value.widened();
      wide.key = view(key.data()), wide.value = view(value.data());
      const std::vector<double> want = reference_attention(wide).output;
      const std::vector<float> got = run_attention(context, c.args()).output;
      double worst = 0, largest = 0;
      for (size_t n = 0; n < want.size(); ++n) {
        worst = std::max(worst, std::abs(static_cast<double>(got[n]) - want[n]));
        largest = std::max(largest, std::abs(want[n]));
      }
      INFO(describe(s) << ", magnitude " << magnitude);
      if (std::getenv("MHA_TEST_MEASURE")) {
        std::printf("measured int8 %s magnitude %g: %.2g\n", describe(s).c_str(), static_cast<double>(magnitude),
                    worst / largest);
      }
      CHECK(worst <= 4e-4 * static_cast<double>(magnitude) * largest);
    }
  }
}

TEST_CASE("int8: keys and values that are not multiplied are refused by name", "[int8][status]") {
  if (none_has_int8()) return;
  const mha_context* context = shared_context(targets_of(MHA_ARITHMETIC_INT8).front(), 1);
  const Coded c({1, 1, 1, 2, 3, 32, 32}, MaskKind::kNone, 645000);
  const auto refused = [&](const char* what, AttentionCall args) {
    INFO(what);
    std::vector<float> output = poisoned(64);
    args.output = mut_view(output.data());
    mha_error error = {};
    CHECK(attention(context, args, &error) == MHA_ERR_UNSUPPORTED);
    if (!mentions(error, what)) FAIL_CHECK(error.message);
    check_same_bits("output", output, poisoned(64));
  };
  mha_quant quant = *c.args().value.quant;
  AttentionCall args = c.args();
  args.key = c.p.args().key;
  refused("keys are MHA_F32", args);
  args = c.args(), args.value.dtype = MHA_U8;
  refused("values are MHA_U8", args);
  args = c.args(), quant.group = 16, args.value.quant = &quant;
  refused("value.quant.group is 16", args);
  quant.group = 32;  // the row
  const float zero = 0;
  quant.zeros = &zero, quant.stride_h = quant.stride_t = quant.stride_b = 0;
  refused("value.quant.zeros is given", args);
  args = c.args(), args.head_dim = 1025, args.value_head_dim = 32;
  refused("head_dim is 1025", args);
}
