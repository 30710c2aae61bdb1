// SPDX-License-Identifier: Apache-2.0
// The conversions of 16-bit elements, through the kernel table and through mha_rows_prepare: every value widened and
// back, and rounding, have on every target the bits of conversions one at a time (half_floats.h), in any number of
// columns and in any floating-point mode of the caller.
#include <cmath>

#include "core/reference/elements.h"
#include "simd/float_mode.h"
#include "tests/numerics/tables.h"
#include "tests/support/float_environment.h"
#include "tests/support/half_floats.h"
#include "tests/support/targets.h"

using namespace mha::test;

namespace {

/// Where a value of `from` goes when it is stored as `to`: widened, then rounded once.
uint32_t convert_one(mha_dtype from, mha_dtype to, uint32_t bits) {
  if (from == to) return bits;
  const uint32_t wide = from == MHA_F32 ? bits : widen_one(from, static_cast<uint16_t>(bits));
  return to == MHA_F32 ? wide : round_one(to, wide);
}

std::vector<uint32_t> convert_all(mha_dtype from, mha_dtype to, const std::vector<uint32_t>& bits) {
  std::vector<uint32_t> converted;
  converted.reserve(bits.size());
  for (uint32_t b : bits) converted.push_back(convert_one(from, to, b));
  return converted;
}

ElementRows rows_of(mha_dtype dtype, const std::vector<uint32_t>& bits) {
  ElementRows rows(dtype, 1, static_cast<int64_t>(bits.size()));
  for (size_t n = 0; n < bits.size(); ++n) rows.set(0, static_cast<int64_t>(n), bits[n]);
  return rows;
}

/// Equal in every bit, NaNs too.
void check_bits(const std::vector<uint32_t>& source, const std::vector<uint32_t>& got,
                const std::vector<uint32_t>& want) {
  REQUIRE(got.size() == want.size());
  for (size_t n = 0; n < got.size(); ++n) {
    if (got[n] == want[n]) continue;
    FAIL_CHECK("element " << n << " of " << got.size() << ", bits " << std::hex << source[n] << ", became " << got[n]
                          << ", not " << want[n]);
    return;
  }
  SUCCEED();
}

/// By the kernel, which runs in the library's own mode.
ElementRows by_kernel(const std::string& target, const ElementRows& src, mha_dtype to, int64_t rows, int64_t columns,
                      int64_t pad = 0, int64_t offset = 0) {
  ElementRows dst(to, rows, columns, pad, offset);
  mha::ConvertArgs args = {};
  args.src = src.data(), args.src_stride = src.pitch() * bytes_of(src.dtype());
  args.src_element = static_cast<mha::Element>(src.dtype());
  args.dst = dst.data(), args.dst_stride = dst.pitch() * bytes_of(to);
  args.dst_element = static_cast<mha::Element>(to);
  args.rows = rows, args.columns = columns;
  const mha::FloatMode mode;
  row_kernels_of(target).convert(&args);
  return dst;
}

/// By mha_rows_prepare without norm and rope, in a mode of the caller's. Rows are tokens of one head.
ElementRows by_call(const mha_context* context, const CallerMode& mode, const ElementRows& src, mha_dtype to,
                    int64_t rows, int64_t columns, int64_t pad = 0, int64_t offset = 0) {
  ElementRows dst(to, rows, columns, pad, offset);
  mha_rows_args args = {};
  args.batch = 1, args.length = rows, args.num_heads = 1, args.head_dim = columns;
  args.input = src.view(), args.output = dst.mut_view();
  // Strides of dimensions of one element do not count, but beside others they must be given.
  for (int64_t* stride : {&args.input.stride_b, &args.input.stride_h})
    *stride = args.input.stride_t ? MHA_BROADCAST : 0;
  mha_error error = {};
  mha_status status = MHA_OK;
  in_mode(mode, [&] { status = mha_rows_prepare(context, &args, &error); });
  require_ok(status, error);
  return dst;
}

std::vector<uint32_t> every_half() {
  std::vector<uint32_t> bits(65536);
  for (size_t n = 0; n < bits.size(); ++n) bits[n] = static_cast<uint32_t>(n);
  return bits;
}

/// Floats on both sides of every place where rounding turns, and what has an exception of its own.
std::vector<uint32_t> floats_to_round(mha_dtype to) {
  std::vector<uint32_t> bits;
  const uint16_t infinity = to == MHA_F16 ? 0x7c00 : 0x7f80;
  for (uint16_t h = 0; h < infinity; ++h) {
    const double low = static_cast<double>(float_of_bits(widen_one(to, h)));
    const double next = static_cast<double>(float_of_bits(widen_one(to, static_cast<uint16_t>(h + 1))));
    // Beyond the greatest value a step counts as wide as the one before it.
    const double before = h > 0 ? static_cast<double>(float_of_bits(widen_one(to, static_cast<uint16_t>(h - 1)))) : 0;
    const double middle = h + 1 < infinity ? (low + next) / 2 : low + (low - before) / 2;
    const uint32_t at = bits_of(static_cast<float>(middle));
    for (uint32_t b : {at - 1, at, at + 1, widen_one(to, h)}) bits.push_back(b), bits.push_back(b | 0x80000000u);
  }
  for (uint32_t b : {0u,          1u,          2u,          0x7fffffu,   0x800000u,
                     0x800001u,   0x7f7fffffu, 0x7f800000u,                            // denormals, FLT_MAX, Inf
                     0x477fe000u, 0x477fefffu, 0x477ff000u, 0x477ff001u,               // 65504 .. 65520
                     0x33000000u, 0x33000001u, 0x32ffffffu, 0x387fe000u, 0x387ff000u,  // 2^-25, 2^-14
                     0x7f800001u, 0x7fbfffffu, 0x7fc00000u, 0x7fc01fffu, 0x7fc02000u,
                     0x7fffffffu, 0x7fa0a000u, 0x7f802000u, 0x7f810000u, 0x7f80ffffu}) {
    bits.push_back(b), bits.push_back(b | 0x80000000u);
  }
  Random random(420000);
  for (int n = 0; n < 200000; ++n) bits.push_back(static_cast<uint32_t>(random.bits() >> 32));
  for (int n = 0; n < 100000; ++n) {  // within F16's range, and floats that are denormal
    bits.push_back(static_cast<uint32_t>(0x30000000 + random.below(0x18000000)));
    if (n % 10 == 0) bits.push_back(static_cast<uint32_t>(random.below(0x800000)));
  }
  return bits;
}

}  // namespace

TEST_CASE("elements: conversions one at a time agree with known values", "[elements]") {
  CHECK(widen_one(MHA_F16, 0x3c00) == bits_of(1.0f));
  CHECK(widen_one(MHA_F16, 0x0001) == bits_of(0x1p-24f));
  CHECK(widen_one(MHA_F16, 0x83ff) == bits_of(-0x1.ff8p-15f));
  CHECK(widen_one(MHA_F16, 0x7bff) == bits_of(65504.0f));
  CHECK(widen_one(MHA_F16, 0xfc00) == 0xff800000u);
  CHECK(widen_one(MHA_F16, 0x7c01) == 0x7fc02000u);
  CHECK(widen_one(MHA_BF16, 0x8001) == 0x80010000u);
  CHECK(round_one(MHA_F16, bits_of(65519.996f)) == 0x7bff);
  CHECK(round_one(MHA_F16, bits_of(65520.0f)) == 0x7c00);
  CHECK(round_one(MHA_F16, bits_of(-0x1p-25f)) == 0x8000);
  CHECK(round_one(MHA_F16, bits_of(0x1.000002p-25f)) == 0x0001);
  CHECK(round_one(MHA_F16, bits_of(0x1.8p-24f)) == 0x0002);
  CHECK(round_one(MHA_F16, bits_of(0x1.ffcp-15f)) == 0x0400);
  CHECK(round_one(MHA_F16, bits_of(1.0f / 3)) == 0x3555);
  CHECK(round_one(MHA_F16, 0xff802000u) == 0xfe01);
  CHECK(round_one(MHA_BF16, bits_of(1.0f / 3)) == 0x3eab);
  CHECK(round_one(MHA_BF16, 0x7f7fffffu) == 0x7f80);
  CHECK(round_one(MHA_BF16, 0x00008001u) == 0x0001);
  CHECK(round_one(MHA_BF16, 0x7f800001u) == 0x7fc0);
}

TEST_CASE("elements: every value of 16 bits, as the reference reads it", "[elements][reference]") {
  for (const mha_dtype dtype : kHalfDtypes) {
    for (uint32_t bits = 0; bits < 65536; ++bits) {
      const uint16_t element = static_cast<uint16_t>(bits);
      const float want = float_of_bits(widen_one(dtype, element)), got = mha::reference::element_at(dtype, &element, 0);
      if (bits_of(want) == bits_of(got) || (std::isnan(want) && std::isnan(got))) continue;
      INFO(name_of(dtype) << " " << bits);
      CHECK(bits_of(got) == bits_of(want));
    }
  }
}

TEST_CASE("elements: every value of 16 bits, widened and back, by the kernel", "[elements]") {
  const std::vector<uint32_t> all = every_half();
  for (mha_dtype from : kHalfDtypes) {
    const ElementRows source = rows_of(from, all);
    for_each_target([&](const std::string& target, const mha_context*) {
      INFO(name_of(from));
      const ElementRows wide = by_kernel(target, source, MHA_F32, 1, 65536);
      check_bits(all, wide.bits(), convert_all(from, MHA_F32, all));
      check_bits(all, by_kernel(target, wide, from, 1, 65536).bits(), convert_all(MHA_F32, from, wide.bits()));
      const mha_dtype other = from == MHA_F16 ? MHA_BF16 : MHA_F16;
      check_bits(all, by_kernel(target, source, other, 1, 65536).bits(), convert_all(from, other, all));
      check_bits(all, by_kernel(target, source, from, 1, 65536).bits(), all);
      CHECK(wide.gaps_intact());
    });
  }
}

TEST_CASE("elements: every value of 16 bits, widened and back, by mha_rows_prepare in any mode", "[elements]") {
  const std::vector<uint32_t> all = every_half();
  for (mha_dtype from : kHalfDtypes) {
    const ElementRows source = rows_of(from, all);
    for (const CallerMode& mode : kCallerModes) {
      for (int64_t threads : {1, 3}) {
        for_each_target(
            [&](const std::string&, const mha_context* context) {
              INFO(name_of(from) << ", " << mode.name << ", " << threads << " threads");
              const ElementRows wide = by_call(context, mode, source, MHA_F32, 2048, 32);
              check_bits(all, wide.bits(), convert_all(from, MHA_F32, all));
              const ElementRows back = by_call(context, mode, wide, from, 2048, 32);
              check_bits(all, back.bits(), convert_all(MHA_F32, from, wide.bits()));
              check_bits(all, by_call(context, mode, source, from, 2048, 32).bits(), all);
            },
            threads);
      }
    }
  }
}

TEST_CASE("elements: rounding to nearest even, by the kernel and by mha_rows_prepare in any mode", "[elements]") {
  for (mha_dtype to : kHalfDtypes) {
    std::vector<uint32_t> bits = floats_to_round(to);
    bits.resize(bits.size() / 64 * 64);
    const ElementRows source = rows_of(MHA_F32, bits);
    const std::vector<uint32_t> want = convert_all(MHA_F32, to, bits);
    const int64_t count = static_cast<int64_t>(bits.size());
    for_each_target([&](const std::string& target, const mha_context* context) {
      INFO(name_of(to));
      check_bits(bits, by_kernel(target, source, to, 1, count).bits(), want);
      for (const CallerMode& mode : kCallerModes) {
        INFO(mode.name);
        check_bits(bits, by_call(context, mode, source, to, count / 64, 64).bits(), want);
      }
    });
  }
}

TEST_CASE("elements: any number of columns, rows apart, and nothing behind them", "[elements]") {
  Random random(421000);
  std::vector<int64_t> counts;
  for (int64_t n = 0; n <= 33; ++n) counts.push_back(n);
  for (int64_t n = 254; n <= 274; ++n) counts.push_back(n);  // kernels convert 256 at a time between types of 16 bits
  for (mha_dtype from : kDtypes) {
    for (mha_dtype to : kDtypes) {
      for (int64_t columns : counts) {
        const int64_t rows = 1 + random.below(3), pad = random.below(4), offset = random.below(3);
        ElementRows source(from, rows, columns, pad, offset);
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < columns; ++c) source.set(r, c, static_cast<uint32_t>(random.bits() >> 32));
        const std::vector<uint32_t> bits = source.bits(), want = convert_all(from, to, bits);
        const int64_t out_pad = random.below(20), out_offset = random.below(3);
        for_each_target([&](const std::string& target, const mha_context* context) {
          INFO(name_of(from) << " to " << name_of(to) << ", " << rows << " rows of " << columns);
          const ElementRows got = by_kernel(target, source, to, rows, columns, out_pad, out_offset);
          check_bits(bits, got.bits(), want);
          CHECK(got.gaps_intact());
          if (columns == 0) return;
          const ElementRows called = by_call(context, kCallerModes[0], source, to, rows, columns, out_pad, out_offset);
          check_bits(bits, called.bits(), want);
          CHECK(called.gaps_intact());
        });
      }
    }
  }
}
