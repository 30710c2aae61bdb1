// SPDX-License-Identifier: Apache-2.0
// mha_rows_prepare: values against the double reference, layouts, in place, threads and targets in bits, every error.
#include <cmath>

#include "core/math/elementary.h"
#include "core/reference/reference.h"
#include "tests/support/calls.h"
#include "tests/support/compare.h"
#include "tests/support/targets.h"

using namespace mha::test;

namespace {

struct Sizes {
  int64_t B, T, H, D;
  int64_t count() const { return B * T * H * D; }
};

mha_rope make_rope(mha_rope_style style, int64_t dims, mha_rope_scaling scaling = MHA_ROPE_SCALING_NONE) {
  mha_rope rope = {};
  rope.style = style;
  rope.dims = dims;
  rope.scaling = scaling;
  if (scaling != MHA_ROPE_SCALING_NONE) rope.factor = 8;
  if (scaling == MHA_ROPE_SCALING_LLAMA3 || scaling == MHA_ROPE_SCALING_YARN) rope.original_positions = 4096;
  return rope;
}

mha_rows_args make_args(const Sizes& s, const mha_rope* rope) {
  mha_rows_args args = {};
  args.batch = s.B, args.length = s.T, args.num_heads = s.H, args.head_dim = s.D;
  args.rope = rope;
  return args;
}

/// Dense in, dense out.
std::vector<float> run_rope(const mha_context* context, mha_rows_args args, const std::vector<float>& input) {
  std::vector<float> output = poisoned(static_cast<int64_t>(input.size()));
  args.input = view(input.data());
  args.output = mut_view(output.data());
  mha_error error = {};
  require_ok(mha_rows_prepare(context, &args, &error), error);
  return output;
}

std::vector<double> reference_rope(mha_rows_args args, const std::vector<float>& input) {
  std::vector<double> output(input.size());
  args.input = view(input.data());
  mha::reference::norm_rope_rows<double>(args, output.data());
  return output;
}

void check_refused(mha_rows_args args, mha_status want, const std::string& text) {
  std::vector<float> input(4096, 1), output = poisoned(4096);
  if (args.input.data == nullptr) args.input.data = input.data();
  if (args.output.data == nullptr) args.output.data = output.data();
  for_each_target([&](const std::string&, const mha_context* context) {
    mha_error error = {};
    const mha_status status = mha_rows_prepare(context, &args, &error);
    INFO(error.message << ", wanted: " << text);
    CHECK(status == want);
    CHECK(error.status == want);
    CHECK(mentions(error, text));
    for (float value : output) REQUIRE(is_poison(value));
  });
}

constexpr mha_rope_style kStyles[] = {MHA_ROPE_HALF, MHA_ROPE_INTERLEAVED};
constexpr mha_rope_scaling kScalings[] = {MHA_ROPE_SCALING_NONE, MHA_ROPE_SCALING_LINEAR, MHA_ROPE_SCALING_LLAMA3,
                                          MHA_ROPE_SCALING_YARN};

}  // namespace

TEST_CASE("elementary: log, exp, sine and cosine agree with libm", "[rope]") {
  namespace own = mha::elementary;
  Random random(1);
  for (int n = 0; n < 20000; ++n) {
    const double u = static_cast<double>(random.bits() >> 11) * 0x1p-53;
    const double x = std::exp(60 * u - 30);
    CHECK(std::fabs(own::log(x) - std::log(x)) <= 4e-16 * std::max(1.0, std::fabs(std::log(x))));
    const double y = -700 * u * u;
    CHECK(std::fabs(own::exp(y) / std::exp(y) - 1) <= 6e-16);
    for (const double limit : {1.0, 100.0, 1e6, 2147483647.0}) {
      const own::SinCos got = own::sin_cos(u * limit);
      REQUIRE(std::fabs(got.sin - std::sin(u * limit)) <= 3e-16);
      REQUIRE(std::fabs(got.cos - std::cos(u * limit)) <= 3e-16);
    }
  }
  CHECK(own::log(1) == 0);
  CHECK(own::exp(0) == 1);
  CHECK(own::exp(-709) == 0);
  CHECK(own::exp(-HUGE_VAL) == 0);
  CHECK(std::isnan(own::exp(std::nan(""))));
  CHECK(own::sin_cos(0).sin == 0);
  CHECK(own::sin_cos(0).cos == 1);
}

TEST_CASE("rope: every style, scaling, width and norm against the reference", "[rope]") {
  uint64_t seed = 100;
  for (const mha_rope_style style : kStyles) {
    for (const mha_rope_scaling scaling : kScalings) {
      for (const int64_t D : {2, 6, 16, 30, 32, 34, 64, 80, 96, 128, 130, 256}) {
        for (const int64_t dims : {int64_t{0}, D / 4 * 2, int64_t{2}}) {
          const Sizes s = {2, 3, 3, D};
          mha_rope rope = make_rope(style, dims, scaling);
          if (++seed % 3 == 0) rope.base = 500000;
          if (seed % 2 == 0) {  // not the defaults
            if (scaling == MHA_ROPE_SCALING_LLAMA3) rope.low_freq_factor = 2, rope.high_freq_factor = 6.5;
            if (scaling == MHA_ROPE_SCALING_YARN) {
              rope.beta_fast = 20, rope.beta_slow = 1.5, rope.attention_factor = 0.75;
            }
          }
          const std::vector<float> weight = random_floats(D, seed + 1000);
          const std::vector<int64_t> positions = {0, 1, 17, 255, 4095, 131071};
          mha_rows_args args = make_args(s, &rope);
          args.positions = positions.data();
          mha_norm norm = {};
          norm.epsilon = 1e-5f;
          if (seed % 4 == 2) norm.weight = weight.data();
          if (seed % 4 != 0) args.norm = &norm;
          const std::vector<float> input = random_floats(s.count(), seed);
          const std::vector<double> want = reference_rope(args, input);
          for_each_target([&](const std::string& target, const mha_context* context) {
            std::ostringstream what;
            what << "rope " << target << " style " << style << " scaling " << scaling << " D " << D << " dims " << dims;
            check_close(what.str(), run_rope(context, args, input), want, {4e-7, 8e-8});
          });
        }
      }
    }
  }
}

TEST_CASE("rope: scalings whose ramp has no width, begins before the first pair or ends behind the last", "[rope]") {
  struct Ramp {
    const char* what;
    double base, beta_fast, beta_slow;
    int64_t original_positions, dims;
  };
  // The pair that turns r times over n positions is dims * log(n / (2 pi r)) / (2 log(base)).
  const Ramp ramps[] = {{"both ends at pair 0: 0 / 0 without care", 10000, 1, 1, 6, 64},
                        {"the end before pair 0", 10000, 32, 8, 6, 64},
                        {"the end just before pair 0", 10000, 4, 1, 5, 64},
                        {"both ends behind the last pair", 1.5, 1, 1, 100000, 16},
                        {"the beginning behind the last pair", 1.5, 4, 1, 100000, 4},
                        {"the end behind the last pair", 2, 30, 1, 230, 16},
                        {"a ramp over the last pairs", 10000, 32, 1, 1000000, 8},
                        {"one pair wide", 10000, 5, 5, 4096, 64},
                        {"one pair of two numbers", 10000, 32, 1, 4096, 2}};
  for (const Ramp& ramp : ramps) {
    for (const mha_rope_style style : kStyles) {
      INFO(ramp.what);
      const Sizes s = {1, 4, 1, 64};
      mha_rope rope = make_rope(style, ramp.dims, MHA_ROPE_SCALING_YARN);
      rope.base = ramp.base, rope.beta_fast = ramp.beta_fast, rope.beta_slow = ramp.beta_slow;
      rope.original_positions = ramp.original_positions;
      mha_rows_args args = make_args(s, &rope);
      const std::vector<int64_t> positions = {0, 1, 13, 999};
      args.positions = positions.data();
      const std::vector<float> input = random_floats(s.count(), 30);
      const std::vector<double> want = reference_rope(args, input);
      for (const double value : want) REQUIRE(std::isfinite(value));
      for_each_target([&](const std::string& target, const mha_context* context) {
        check_close("rope " + target, run_rope(context, args, input), want, {4e-7, 8e-8});
      });
    }
  }
}

TEST_CASE("rope: parameters at the ends of what is accepted give no NaN", "[rope]") {
  const Sizes s = {1, 4, 2, 64};
  const std::vector<float> input = random_floats(s.count(), 31);
  const std::vector<int64_t> positions = {0, 1, 4096, 2147483647};
  const double ends[] = {1e-300, 1e-3, 1, 1e3, 1e300};
  for (const mha_rope_scaling scaling : {MHA_ROPE_SCALING_LLAMA3, MHA_ROPE_SCALING_YARN}) {
    for (const double base : {1.0000001, 2.0, 1e300}) {
      for (const double low : ends) {
        for (const double high : ends) {
          for (const int64_t length : {int64_t{1}, int64_t{6}, int64_t{2147483647}}) {
            for (const double factor : {1.0, 1e300}) {
              mha_rope rope = make_rope(MHA_ROPE_HALF, 0, scaling);
              rope.base = base, rope.factor = factor, rope.original_positions = length;
              if (scaling == MHA_ROPE_SCALING_LLAMA3) rope.low_freq_factor = low, rope.high_freq_factor = high;
              if (scaling == MHA_ROPE_SCALING_YARN) {
                rope.beta_slow = low, rope.beta_fast = high, rope.attention_factor = 1;
              }
              if (scaling == MHA_ROPE_SCALING_LLAMA3 ? high <= low : high < low) continue;
              mha_rows_args args = make_args(s, &rope);
              args.positions = positions.data();
              INFO("scaling " << scaling << " base " << base << " low " << low << " high " << high << " length "
                              << length << " factor " << factor);
              const std::vector<float> got = run_rope(shared_context(supported_targets()[0], 1), args, input);
              for (const float value : got) REQUIRE(std::isfinite(value));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("rope: positions up to a million and to 2^31 - 1", "[rope]") {
  const Sizes s = {1, 6, 2, 64};
  const std::vector<int64_t> positions = {1000, 32767, 100000, 999999, 1000000, 2147483647};
  const std::vector<float> input = random_floats(s.count(), 5);
  for (const mha_rope_style style : kStyles) {
    const mha_rope rope = make_rope(style, 0);
    mha_rows_args args = make_args(s, &rope);
    args.positions = positions.data();
    const std::vector<double> want = reference_rope(args, input);
    for_each_target([&](const std::string& target, const mha_context* context) {
      const std::vector<float> got = run_rope(context, args, input);
      const size_t row = static_cast<size_t>(s.H * s.D);
      const std::vector<float> near(got.begin(), got.end() - row), far(got.end() - row, got.end());
      check_close("rope " + target, near, std::vector<double>(want.begin(), want.end() - row), {3e-7, 6e-8});
      // The angle itself, 2e9 in double, is known to 2e-7 only.
      check_close("rope far " + target, far, std::vector<double>(want.end() - row, want.end()), {3e-6, 1e-6});
    });
  }
}

TEST_CASE("rope: first_position counts on; a table of the caller's gives the same bits", "[rope]") {
  const Sizes s = {2, 9, 2, 24};
  const std::vector<float> input = random_floats(s.count(), 6);
  for (const mha_rope_style style : kStyles) {
    const mha_rope rope = make_rope(style, 20);
    mha_rows_args args = make_args(s, &rope);
    args.first_position = 41;
    std::vector<int64_t> positions;
    for (int64_t i = 0; i < s.B * s.T; ++i) positions.push_back(41 + i % s.T);
    mha_rope table = make_rope(style, 20);
    std::vector<float> cos, sin;
    for (int64_t p = 0; p < 50; ++p) {
      for (int64_t d = 0; d < 10; ++d) {
        const double angle =
            static_cast<double>(p) * mha::elementary::exp(-(2.0 * d / 20) * mha::elementary::log(10000));
        cos.push_back(static_cast<float>(mha::elementary::sin_cos(angle).cos));
        sin.push_back(static_cast<float>(mha::elementary::sin_cos(angle).sin));
      }
    }
    table.cos = cos.data(), table.sin = sin.data(), table.table_positions = 50;
    for_each_target([&](const std::string&, const mha_context* context) {
      const std::vector<float> want = run_rope(context, args, input);
      mha_rows_args same = args;
      same.first_position = 0;
      same.positions = positions.data();
      check_same_bits("positions", run_rope(context, same, input), want);
      same.rope = &table;
      check_same_bits("table", run_rope(context, same, input), want);
    });
  }
}

TEST_CASE("rope: strides, in place, no rotation, nothing to do", "[rope]") {
  const Sizes s = {2, 5, 3, 40};
  const Extent extent = {s.B, s.T, s.H, s.D};
  const std::vector<float> input = random_floats(s.count(), 7), weight = random_floats(s.D, 8);
  for (const mha_rope_style style : kStyles) {
    const mha_rope rope = make_rope(style, 36);
    mha_rows_args args = make_args(s, &rope);
    const mha_norm norm = {1e-6f, 0, weight.data(), {}};
    args.norm = &norm;
    for_each_target([&](const std::string&, const mha_context* context) {
      const std::vector<float> want = run_rope(context, args, input);
      Placed from(extent, padded_bthd(extent, 3), 2), to(extent, dense_bhtd(extent), 1);
      from.fill(input);
      mha_rows_args placed = args;
      mha_error error = {};
      placed.input = from.view(), placed.output = to.mut_view();
      require_ok(mha_rows_prepare(context, &placed, &error), error);
      check_same_bits("strides", to.dense(), want);
      CHECK(to.gaps_intact());
      placed.output = from.mut_view();
      require_ok(mha_rows_prepare(context, &placed, &error), error);
      check_same_bits("in place", from.dense(), want);
      CHECK(from.gaps_intact());
    });
  }
  for_each_target([&](const std::string&, const mha_context* context) {
    check_same_bits("copy", run_rope(context, make_args(s, nullptr), input), input);
    for (int64_t mha_rows_args::*size : {&mha_rows_args::batch, &mha_rows_args::length, &mha_rows_args::num_heads}) {
      mha_rows_args args = make_args(s, nullptr);
      args.*size = 0;
      mha_error error = {};
      require_ok(mha_rows_prepare(context, &args, &error), error);
    }
  });
}

TEST_CASE("rope: the same bits on every FMA target, for any threads and split", "[rope]") {
  const Sizes s = {3, 211, 4, 72};
  const std::vector<float> input = random_floats(s.count(), 9, 30), weight = random_floats(s.D, 10);
  for (const mha_rope_style style : kStyles) {
    for (const mha_rope_scaling scaling : kScalings) {
      const mha_rope rope = make_rope(style, 66, scaling);
      mha_rows_args args = make_args(s, &rope);
      const mha_norm norm = {1e-5f, 0, weight.data(), {}};
      args.norm = &norm;
      args.first_position = 77;
      std::vector<float> want;
      for (const std::string& target : supported_targets()) {
        const std::vector<float> one = run_rope(shared_context(target, 1), args, input);
        check_same_bits(target + " threads", run_rope(shared_context(target, 3), args, input), one);
        if (!has_fma(target)) continue;
        if (want.empty()) want = one;
        check_same_bits(target, one, want);
        // Token by token.
        mha_rows_args token = args;
        token.batch = token.length = 1;
        token.first_position = 77 + 200;
        const auto begin = input.cbegin() + 200 * s.H * s.D, at = want.cbegin() + 200 * s.H * s.D;
        check_same_bits(target + " token",
                        run_rope(shared_context(target, 1), token, std::vector<float>(begin, begin + s.H * s.D)),
                        std::vector<float>(at, at + s.H * s.D));
      }
    }
  }
}

TEST_CASE("rope: every refusal names the argument, and nothing is written", "[rope]") {
  const Sizes s = {1, 2, 2, 8};
  mha_rope rope = make_rope(MHA_ROPE_HALF, 0);
  const mha_rows_args good = make_args(s, &rope);
  const auto with = [&](auto change) {
    mha_rows_args args = good;
    change(args);
    return args;
  };
  using A = mha_rows_args;
  check_refused(with([](A& a) { a.batch = -1; }), MHA_ERR_ARGUMENT, "batch is -1");
  check_refused(with([](A& a) { a.length = -2; }), MHA_ERR_ARGUMENT, "length is -2");
  check_refused(with([](A& a) { a.num_heads = -3; }), MHA_ERR_ARGUMENT, "num_heads is -3");
  check_refused(with([](A& a) { a.head_dim = 0; }), MHA_ERR_ARGUMENT, "head_dim is 0");
  check_refused(with([](A& a) { a.batch = a.length = int64_t{1} << 40; }), MHA_ERR_OVERFLOW, "length");
  check_refused(with([](A& a) { a.input.stride_t = -2; }), MHA_ERR_STRIDE, "input.stride_t is -2");
  check_refused(with([](A& a) { a.output.stride_b = MHA_BROADCAST; }), MHA_ERR_STRIDE, "output.stride_b is -1");
  check_refused(with([](A& a) { a.output.stride_b = 100; }), MHA_ERR_STRIDE, "output.stride_b, _t, _h are 100, 0, 0");
  check_refused(with([](A& a) { a.first_position = -1; }), MHA_ERR_ARGUMENT, "first_position is -1");
  check_refused(with([](A& a) { a.first_position = 2147483647; }), MHA_ERR_ARGUMENT, "position is 2147483648");
  const int64_t negative[] = {3, -5}, large[] = {3, int64_t{1} << 31};
  check_refused(with([&](A& a) { a.positions = negative; }), MHA_ERR_ARGUMENT, "positions[1] is -5");
  check_refused(with([&](A& a) { a.positions = large; }), MHA_ERR_ARGUMENT, "positions[1] is 2147483648");
  const int64_t sound[] = {3, 4};
  check_refused(with([&](A& a) { a.positions = sound, a.first_position = 1; }), MHA_ERR_ARGUMENT,
                "first_position is 1");
  check_refused(with([](A& a) { a.rope = nullptr, a.first_position = 1; }), MHA_ERR_ARGUMENT,
                "first_position is given");
  check_refused(with([&](A& a) { a.rope = nullptr, a.positions = sound; }), MHA_ERR_ARGUMENT, "positions is given");
  check_refused(with([](A& a) { a.reserved[3] = 1; }), MHA_ERR_ARGUMENT, "args.reserved[3] is not 0");
  mha_norm norm = {};
  for (const float epsilon : {-1.0f, 1e-40f, kNan, kInf}) {
    norm.epsilon = epsilon;
    check_refused(with([&](A& a) { a.norm = &norm; }), MHA_ERR_ARGUMENT, "norm.epsilon is ");
  }
  const float weight[8] = {};
  norm.epsilon = 0, norm.weight = weight;
  check_refused(with([&](A& a) { a.norm = &norm; }), MHA_ERR_ARGUMENT, "norm.epsilon is 0");
  std::vector<float> same(64, 1);
  check_refused(with([&](A& a) {
                  a.input = view(same.data());
                  a.output = mut_view(same.data(), {40, 20, 10});
                }),
                MHA_ERR_STRIDE, "with other strides");

  const auto with_rope = [&](auto change) {
    rope = make_rope(MHA_ROPE_HALF, 0);
    change(rope);
    return good;
  };
  using R = mha_rope;
  check_refused(with_rope([](R& r) { r.dims = 3; }), MHA_ERR_ARGUMENT, "rope.dims is 3");
  check_refused(with_rope([](R& r) { r.dims = 10; }), MHA_ERR_ARGUMENT, "rope.dims is 10");
  check_refused(with_rope([](R& r) { r.dims = -2; }), MHA_ERR_ARGUMENT, "rope.dims is -2");
  check_refused(with_rope([](R& r) { r.base = 1; }), MHA_ERR_ARGUMENT, "rope.base is 1");
  check_refused(with_rope([](R& r) { r.base = HUGE_VAL; }), MHA_ERR_ARGUMENT, "rope.base is inf");
  for (const mha_rope_scaling scaling : {MHA_ROPE_SCALING_LINEAR, MHA_ROPE_SCALING_LLAMA3, MHA_ROPE_SCALING_YARN}) {
    check_refused(with_rope([&](R& r) { r.scaling = scaling; }), MHA_ERR_ARGUMENT, "rope.factor is 0");
  }
  // What the scaling does not use: a port that forgets `scaling` is told.
  check_refused(with_rope([](R& r) { r.factor = 8; }), MHA_ERR_ARGUMENT, "rope.factor is given, but rope without");
  check_refused(with_rope([](R& r) { r.table_positions = 3; }), MHA_ERR_ARGUMENT, "rope.table_positions is given");
  const auto scaled = [&](mha_rope_scaling scaling, auto change) {
    return with_rope([&](R& r) {
      r = make_rope(MHA_ROPE_HALF, 0, scaling);
      change(r);
    });
  };
  for (const mha_rope_scaling scaling : {MHA_ROPE_SCALING_LLAMA3, MHA_ROPE_SCALING_YARN}) {
    check_refused(scaled(scaling, [](R& r) { r.original_positions = 0; }), MHA_ERR_ARGUMENT,
                  "rope.original_positions is 0");
  }
  check_refused(scaled(MHA_ROPE_SCALING_LLAMA3, [](R& r) { r.low_freq_factor = -1; }), MHA_ERR_ARGUMENT,
                "rope.low_freq_factor is -1");
  check_refused(scaled(MHA_ROPE_SCALING_LLAMA3, [](R& r) { r.low_freq_factor = 4; }), MHA_ERR_ARGUMENT,
                "rope.high_freq_factor is 4");
  check_refused(scaled(MHA_ROPE_SCALING_YARN, [](R& r) { r.beta_slow = -1; }), MHA_ERR_ARGUMENT,
                "rope.beta_slow is -1");
  check_refused(scaled(MHA_ROPE_SCALING_YARN, [](R& r) { r.beta_fast = 0.5; }), MHA_ERR_ARGUMENT,
                "rope.beta_fast is 0.5");
  check_refused(scaled(MHA_ROPE_SCALING_YARN, [](R& r) { r.attention_factor = -1; }), MHA_ERR_ARGUMENT,
                "rope.attention_factor is -1");
  check_refused(with_rope([](R& r) { std::memset(&r.style, 7, sizeof r.style); }), MHA_ERR_ARGUMENT, "rope.style is ");
  check_refused(with_rope([](R& r) { std::memset(&r.scaling, 7, sizeof r.scaling); }), MHA_ERR_ARGUMENT,
                "rope.scaling is ");

  const float table[8] = {};
  check_refused(with_rope([&](R& r) { r.cos = table; }), MHA_ERR_SHAPE, "rope.sin is NULL");
  check_refused(with_rope([&](R& r) { r.sin = table; }), MHA_ERR_SHAPE, "rope.cos is NULL");
  const auto tabled = [&](auto change) {
    return with_rope([&](R& r) {
      r.cos = r.sin = table;
      r.table_positions = 2;
      change(r);
    });
  };
  check_refused(tabled([](R& r) { r.base = 10000; }), MHA_ERR_SHAPE, "rope.base is 10000");
  check_refused(tabled([](R& r) { r.scaling = MHA_ROPE_SCALING_LINEAR; }), MHA_ERR_SHAPE, "rope.scaling 1");
  check_refused(tabled([](R& r) { r.table_positions = 0; }), MHA_ERR_ARGUMENT, "rope.table_positions is 0");
  check_refused(tabled([](R& r) { r.table_positions = 1; }), MHA_ERR_ARGUMENT, "the last position is 1");
  mha_rows_args wide = with_rope([](R&) {});
  wide.head_dim = 1026, wide.length = 1, wide.num_heads = 1;
  check_refused(wide, MHA_ERR_UNSUPPORTED, "rope.dims is 1026");

  mha_error error = {};
  CHECK(mha_rows_prepare(nullptr, &good, &error) == MHA_ERR_NULL);
  for_each_target([&](const std::string&, const mha_context* context) {
    CHECK(mha_rows_prepare(context, nullptr, &error) == MHA_ERR_NULL);
    std::vector<float> memory(32, 1);
    mha_rows_args args = with_rope([](R&) {});
    args.output = mut_view(memory.data());
    CHECK(mha_rows_prepare(context, &args, &error) == MHA_ERR_NULL);
    CHECK(mentions(error, "input.data is NULL"));
    args.input = view(memory.data()), args.output = {};
    CHECK(mha_rows_prepare(context, &args, &error) == MHA_ERR_NULL);
    CHECK(mentions(error, "output.data is NULL"));
  });
}
