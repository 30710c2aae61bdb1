// SPDX-License-Identifier: Apache-2.0
// Linears over 16-bit inputs, weights and outputs: the widening law in every bit, workspace, blobs, the error of packing,
// explain. (Their values against PyTorch: numerics/test_golden_half.cpp.)
#include "tests/support/counting.h"
#include "tests/support/element_linears.h"
#include "tests/support/float_environment.h"
#include "tests/support/seeds.h"

using namespace mha::test;

namespace {

constexpr int kAsGiven = -1;
const int kPacked[] = {kAsGiven, MHA_F32, MHA_F16, MHA_BF16};

void check_law(const ElementLinear& p, int64_t threads, bool gives_workspace, int64_t pad) {
  INFO(p.describe() << ", " << threads << " threads");
  for_each_target(
      [&](const std::string& target, const mha_context* context) {
        const LinearPtr linear = p.make(context);
        check_rounded("linear " + target, run_rows(context, linear.get(), p, 0, p.M, gives_workspace, pad),
                      p.oracle(context));
      },
      threads);
}

std::vector<unsigned char> saved(const mha_linear* linear) {
  mha_error error = {};
  size_t bytes = 0;
  require_ok(mha_linear_save_bytes(linear, &bytes, &error), error);
  std::vector<unsigned char> blob(bytes);
  require_ok(mha_linear_save(linear, blob.data(), blob.size(), &error), error);
  return blob;
}

/// The header of a linear's blob: dtype of the weights at 48, the FNV-1a of all before at 120.
constexpr size_t kDtype = 48, kChecksum = 120;

void sign(std::vector<unsigned char>* blob) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t n = 0; n < kChecksum; ++n) hash = (hash ^ (*blob)[n]) * 0x100000001b3u;
  std::memcpy(blob->data() + kChecksum, &hash, 8);
}

}  // namespace

TEST_CASE("linear elements: every mix of types is the float call over widened numbers, rounded once",
          "[linear][elements]") {
  uint64_t seed = 430000;
  for (mha_dtype input : kDtypes)
    for (mha_dtype weight : kDtypes)
      for (mha_dtype output : kDtypes)
        for (int packed : kPacked)
          check_law(ElementLinear(9, 37, 70, {input, weight, output, packed}, true, ++seed), 1, true, 0);
}

TEST_CASE("linear elements: sizes around tiles, panels and blocks of k, rows apart, threads, workspace",
          "[linear][elements]") {
  const int64_t rows[] = {0, 1, 7, 8, 9, 33, 200};
  const int64_t widths[] = {1, 15, 16, 17, 63, 64, 65, 130};
  const int64_t depths[] = {1, 16, 17, 63, 64, 65, 127, 511, 512, 513, 1023, 1024, 1025, 2100};
  uint64_t seed = 431000;
  for (const std::vector<int>& at : pairwise({7, 8, 14, 3, 3, 3, 4, 2, 2, 2, 3}, 5)) {
    const LinearTypes types = {kDtypes[at[3]], kDtypes[at[4]], kDtypes[at[5]], kPacked[at[6]]};
    const ElementLinear p(rows[at[0]], widths[at[1]], depths[at[2]], types, at[7] != 0, ++seed, at[10]);
    check_law(p, at[8] ? 3 : 1, at[9] != 0, at[10]);
  }
}

TEST_CASE("linear elements: a product of work for several threads, and many rows in blocks", "[linear][elements]") {
  for (const LinearTypes& types :
       {LinearTypes{MHA_BF16, MHA_BF16, MHA_BF16, kAsGiven}, LinearTypes{MHA_F32, MHA_F16, MHA_F32, kAsGiven},
        LinearTypes{MHA_F16, MHA_F32, MHA_F16, MHA_BF16}}) {
    const ElementLinear p(530, 200, 1030, types, true, 432000);
    const std::string first = fma_targets().empty() ? supported_targets()[0] : fma_targets()[0];
    for (int64_t threads : {1, 4}) check_law(p, threads, threads == 1, 1);
    const mha_context* context = shared_context(first, 4);
    const LinearPtr linear = p.make(context);
    ElementRows output(types.output, p.M, p.N);
    mha_linear_args args = p.args(0, p.M, &output);
    size_t bytes = 0;
    REQUIRE(mha_linear_workspace_bytes(context, linear.get(), &args, &bytes, nullptr) == MHA_OK);
    for (int64_t fewer : {0, 1, 8, 96, 97, 200, 500, 529}) {  // the bytes are enough for fewer rows
      args.rows = fewer;
      size_t less = 0;
      REQUIRE(mha_linear_workspace_bytes(context, linear.get(), &args, &less, nullptr) == MHA_OK);
      INFO(fewer << " rows need " << less << " bytes, 530 " << bytes);
      CHECK(less <= bytes);
    }
  }
}

TEST_CASE("linear elements: a repeated row, and a workspace that is too small", "[linear][elements][status]") {
  const ElementLinear p(5, 33, 40, {MHA_F16, MHA_BF16, MHA_F16, kAsGiven}, true, 433000);
  for_each_target([&](const std::string&, const mha_context* context) {
    const LinearPtr linear = p.make(context);
    ElementRows output(MHA_F16, 5, 33);
    mha_linear_args args = p.args(2, 5, &output);
    args.input.stride_t = MHA_BROADCAST;
    mha_error error = {};
    require_ok(mha_linear_forward(context, linear.get(), &args, &error), error);
    const std::vector<float> all = p.oracle(context);
    std::vector<float> want;
    for (int row = 0; row < 5; ++row) want.insert(want.end(), all.begin() + 2 * 33, all.begin() + 3 * 33);
    check_rounded("repeated", output, want);

    size_t bytes = 0;
    REQUIRE(mha_linear_workspace_bytes(context, linear.get(), &args, &bytes, nullptr) == MHA_OK);
    REQUIRE(bytes > 0);
    std::vector<unsigned char> memory(bytes);
    mha_resources resources = {};
    resources.workspace = memory.data(), resources.workspace_bytes = bytes - 1;
    args.resources = &resources;
    ElementRows untouched(MHA_F16, 5, 33);
    args.output = untouched.mut_view();
    CHECK(mha_linear_forward(context, linear.get(), &args, &error) == MHA_ERR_BUFFER);
    CHECK(untouched.bits() == ElementRows(MHA_F16, 5, 33).bits());
  });
}

TEST_CASE("linear elements: packed weights are the same bytes on every target and in any mode of the caller",
          "[linear][elements][blob]") {
  for (mha_dtype given : kDtypes) {
    for (int packed : kPacked) {
      ElementLinear p(6, 35, 131, {MHA_F32, given, MHA_F32, packed}, true, 434000);
      for (int64_t c = 0; c < 131; ++c) {  // ties, denormals, zeros of both signs among the weights
        p.weight.set(3, c, given == MHA_F32 ? static_cast<uint32_t>(0x33000000 + c * 0x800) : static_cast<uint32_t>(c));
        p.weight.set(4, c, given == MHA_F32 ? 0x80000000u : 0x8000u);
      }
      const std::vector<unsigned char> want = saved(p.make(shared_context(supported_targets()[0], 1)).get());
      for (const CallerMode& mode : kCallerModes) {
        for_each_target([&](const std::string& target, const mha_context* context) {
          INFO(p.describe() << ", " << mode.name);
          CountingAllocator allocator;  // its memory is NaN, not zeros
          const ContextPtr owner = make_context(allocator.options(target, 1));
          LinearPtr linear;
          in_mode(mode, [&] { linear = p.make(owner.get()); });
          CHECK((saved(linear.get()) == want));
          ElementRows output(MHA_F32, p.M, p.N);
          const mha_linear_args args = p.args(0, p.M, &output);
          in_mode(mode, [&] { mha_linear_forward(context, linear.get(), &args, nullptr); });
          check_rounded("forward", output, p.oracle(context));
        });
      }
    }
  }
}

TEST_CASE("linear elements: a mapped blob gives the same bits; a damaged element type is refused",
          "[linear][elements][blob]") {
  for (mha_dtype kept : kDtypes) {
    const ElementLinear p(9, 50, 70, {MHA_BF16, kept, MHA_F32, kAsGiven}, true, 435000);
    for_each_target([&](const std::string&, const mha_context* context) {
      std::vector<unsigned char> blob = saved(p.make(context).get());
      CHECK(blob.size() == 128 + 4u * 70 * 16 * static_cast<size_t>(bytes_of(kept)) + 64u * 4);
      const auto map = [&](mha_status want) {
        mha_linear* linear = nullptr;
        mha_error error = {};
        const mha_status status = mha_linear_map(context, blob.data(), blob.size(), &linear, &error);
        INFO(error.message);
        CHECK(status == want);
        CHECK((linear != nullptr) == (status == MHA_OK));
        return LinearPtr(linear);
      };
      const LinearPtr mapped = map(MHA_OK);
      check_rounded("mapped", run_rows(context, mapped.get(), p, 0, p.M, true), p.oracle(context));
      CHECK((saved(mapped.get()) == blob));
      const std::vector<unsigned char> good = blob;
      for (int bit = 0; bit < 32; ++bit) {
        blob[kDtype + static_cast<size_t>(bit) / 8] ^= static_cast<unsigned char>(1 << bit % 8);
        map(MHA_ERR_BLOB);
        blob = good;
      }
      for (uint32_t dtype : {0u, 1u, 2u, 3u, 4u, 5u, 6u, 7u, 16u, 17u, 18u, 99u, 1u << 31}) {
        std::memcpy(blob.data() + kDtype, &dtype, 4);
        sign(&blob);
        // Another type of as many bytes is another linear; one of other bytes does not fit the sizes.
        const bool fits = dtype <= MHA_BF16 && bytes_of(static_cast<mha_dtype>(dtype)) == bytes_of(kept);
        map(fits ? MHA_OK : MHA_ERR_BLOB);
      }
    });
  }
}

TEST_CASE("linear elements: a NaN among the weights is in the error of packing, wherever it is", "[linear][elements]") {
  for (const int64_t column : {0, 150, 299}) {
    ElementLinear p(1, 3, 300, {MHA_F32, MHA_F32, MHA_F32, MHA_BF16}, false, 436500);
    p.weight.set(1, column, bits_of(kNan));
    for_each_target([&](const std::string&, const mha_context* context) {
      mha_storage_error got = {};
      p.make(context, &got);
      CHECK(std::isnan(got.max));
      CHECK(std::isnan(got.rms));
      CHECK(std::isnan(got.rms_given));
    });
  }
}

TEST_CASE("linear elements: the error of packing", "[linear][elements]") {
  for (mha_dtype given : kDtypes) {
    for (int packed : kPacked) {
      const ElementLinear p(1, 13, 300, {MHA_F32, given, MHA_F32, packed}, false, 436000, 3);
      const std::vector<float> before = p.weight.floats(), after = p.kept_weights();
      double max = 0, squares = 0, given_squares = 0;
      for (size_t n = 0; n < before.size(); ++n) {
        const double value = static_cast<double>(before[n]), lost = static_cast<double>(after[n]) - value;
        max = std::max(max, std::fabs(lost)), squares += lost * lost, given_squares += value * value;
      }
      const double count = static_cast<double>(before.size());
      for_each_target([&](const std::string&, const mha_context* context) {
        INFO(p.describe());
        mha_storage_error got = {};
        p.make(context, &got);
        CHECK(got.elements == 13 * 300);
        CHECK(got.max == max);
        CHECK(std::fabs(got.rms - std::sqrt(squares / count)) <= 1e-12 * std::sqrt(squares / count));
        if (max > 0) CHECK(std::fabs(got.rms_given / std::sqrt(given_squares / count) - 1) < 1e-12);
      });
    }
  }
}

TEST_CASE("linear elements: explain says the workspace, and no fallback", "[linear][elements][explain]") {
  for (mha_dtype kept : kDtypes) {
    const ElementLinear p(40, 100, 200, {MHA_F32, kept, MHA_F32, kAsGiven}, true, 437000);
    for_each_target([&](const std::string& target, const mha_context* context) {
      const LinearPtr linear = p.make(context);
      ElementRows output(MHA_F32, p.M, p.N);
      const mha_linear_args args = p.args(0, p.M, &output);
      size_t bytes = 0, needed = 0;
      REQUIRE(mha_linear_workspace_bytes(context, linear.get(), &args, &bytes, nullptr) == MHA_OK);
      char buffer[4096] = "";
      REQUIRE(mha_linear_explain(context, linear.get(), &args, buffer, sizeof buffer, &needed, nullptr) == MHA_OK);
      const std::string text = buffer;
      INFO(text);
      CHECK(text.size() + 1 == needed);
      CHECK(text.find("target: " + target + "\n") == 0);
      CHECK(text.find("product: 1 x 40 rows, 200 -> 100 features; ") != std::string::npos);
      CHECK(text.find("fallback: none\n") != std::string::npos);
      CHECK((bytes == 0) == (kept == MHA_F32));
      CHECK(text.find(kept == MHA_F32
                          ? "workspace: 0 bytes: the weights were packed once"
                          : "workspace: " + std::to_string(bytes) +
                                " bytes: blocks of input, weights and output as floats") != std::string::npos);
    });
  }
}

TEST_CASE("properties: linears over 16-bit elements obey the widening law", "[properties][linear][elements]") {
  for (const uint64_t seed : seeds(440000, 200)) {
    Random random(seed);
    const int64_t M = random_length(random, 300), N = std::max<int64_t>(random_length(random, 300), 1);
    const int64_t K = std::min(std::max<int64_t>(random_length(random, 1300), 1),
                               std::max<int64_t>(3000000 / std::max<int64_t>(M * N, 1), 1));
    const LinearTypes types = {kDtypes[random.below(3)], kDtypes[random.below(3)], kDtypes[random.below(3)],
                               kPacked[random.below(4)]};
    std::vector<float> inputs = random_floats(M * K, random.bits()), weights = random_floats(N * K, random.bits());
    if (one_in(random, 4)) spoil(random, &inputs);
    if (one_in(random, 4)) spoil(random, &weights);
    const ElementLinear p(M, N, K, types, one_in(random, 2), inputs, weights, random_floats(N, random.bits()),
                          random.below(3));
    INFO("seed " << seed << ": " << p.describe());
    const LinearPtr linear = p.make(random_context(random).get());  // packed by one target, used by all
    for_each_target([&](const std::string& target, const mha_context* context) {
      const std::vector<float> want = p.oracle(context);
      check_rounded("whole", run_rows(context, linear.get(), p, 0, M, one_in(random, 2), random.below(3)), want);
      const mha_context* other = shared_context(target, one_of<int64_t>(random, {2, 3, 5}));
      for (const auto& [first, count] : random_pieces(random, M)) {
        INFO("rows " << first << " + " << count);
        const std::vector<float> part(want.begin() + first * N, want.begin() + (first + count) * N);
        check_rounded("rows", run_rows(other, linear.get(), p, first, count, one_in(random, 2)), part);
      }
    });
  }
}
