// SPDX-License-Identifier: Apache-2.0
// mha_layer_map on damaged blobs: a valid blob with edits, cut or extended, is refused with a status or is a layer
// whose forward call stays inside the blob (an exact heap block, so that the address sanitizer sees any step outside)
// and gives the same bits, rounded, for inputs and outputs of any element types.
#include <fuzzer/FuzzedDataProvider.h>
#include <mha/mha.hpp>

#include <algorithm>
#include <cstring>
#include <memory>

#include "tools/fuzz/elements.h"

namespace {

using mha::fuzz::check_ok;
using mha::fuzz::Elements;
using mha::fuzz::take;

constexpr std::size_t kHeaderBytes = 256;  // the last 8 are an FNV-1a checksum of the rest (core/cache/blob.cpp)

const mha::Context& context() {
  static const mha::Context made = [] {
    mha_context_options options{};
    options.num_threads = 1;
    return take(mha::Context::create(options));
  }();
  return made;
}

std::vector<std::uint8_t> valid_blob(bool bias, mha_dtype dtype, mha_arithmetic arithmetic) {
  mha_layer_config config{};
  config.embed_dim = 5;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 3;
  config.kdim = 4;
  mha_storage packed{};
  packed.dtype = dtype;
  packed.zero_points = dtype == MHA_U4 ? 1 : 0;
  config.packed = &packed;
  config.arithmetic = arithmetic;
  const std::vector<float> zeros(64, 0.25F);
  mha_layer_weights weights{};
  weights.query_weight = weights.key_weight = weights.value_weight = weights.output_weight = mha::view(zeros.data());
  if (bias) weights.query_bias = weights.key_bias = weights.value_bias = weights.output_bias = zeros.data();
  const auto layer = take(mha::Layer::create(context(), config, weights));
  std::vector<std::uint8_t> blob(take(layer.save_bytes()));
  check_ok(layer.save({reinterpret_cast<std::byte*>(blob.data()), blob.size()}));
  return blob;
}

// So that what lies behind the checksum is reached as well.
void sign(std::vector<std::uint8_t>& blob) {
  if (blob.size() < kHeaderBytes) return;
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (std::size_t i = 0; i < kHeaderBytes - 8; ++i) hash = (hash ^ blob[i]) * 0x100000001b3U;
  std::memcpy(blob.data() + kHeaderBytes - 8, &hash, sizeof hash);
}

void forward(const mha::Layer& layer, std::size_t blob_bytes, FuzzedDataProvider& input) {
  const mha_layer_config config = layer.config();
  // Packed weights are as large as the sizes say, so that the blob bounds them.
  for (const std::int64_t size : {config.embed_dim, config.kdim, config.vdim, config.out_dim}) {
    MHA_FUZZ_CHECK(size >= 1 && static_cast<std::size_t>(size) <= blob_bytes, "size %lld",
                   static_cast<long long>(size));
  }
  constexpr std::int64_t kLength = 3;
  const std::vector<float> tokens(
      static_cast<std::size_t>(kLength * std::max({config.embed_dim, config.kdim, config.vdim})), 0.5F);
  const auto call = [&](mha_dtype query, mha_dtype key, mha_dtype value, mha_dtype output) {
    const auto elements = [&](mha_dtype dtype, std::int64_t width) {
      return Elements(dtype, tokens.data(), static_cast<std::size_t>(kLength * width));
    };
    const Elements queries = elements(query, config.embed_dim), keys = elements(key, config.kdim);
    const Elements values = elements(value, config.vdim);
    Elements made(output, kLength * config.out_dim, 0);
    mha::LayerCall args;
    args.batch = 1;
    args.query_len = args.key_len = kLength;
    queries.read_by(args.query), keys.read_by(args.key), values.read_by(args.value), made.written_by(args.output);
    check_ok(layer.forward(context(), args));
    return made;
  };
  const Elements floats = call(MHA_F32, MHA_F32, MHA_F32, MHA_F32);
  mha_dtype dtypes[4];
  for (mha_dtype& dtype : dtypes) dtype = mha::fuzz::choose_dtype(input);
  MHA_FUZZ_CHECK(call(dtypes[0], dtypes[1], dtypes[2], dtypes[3]).are(floats.floats().data()),
                 "other element types: other bits");
}

mha::Layer own(mha_layer* handle) {
  mha::Layer layer;
  static_cast<mha::Owned<mha_layer>&>(layer) = mha::Owned<mha_layer>(handle);
  return layer;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider input(data, size);
  static const std::vector<std::vector<std::uint8_t>> blobs = [] {
    std::vector<std::vector<std::uint8_t>> made;
    for (const bool bias : {false, true}) {
      for (const mha_dtype dtype : mha::fuzz::kDtypes) made.push_back(valid_blob(bias, dtype, MHA_ARITHMETIC_F32));
      const auto has = [](mha_arithmetic arithmetic) { return mha::fuzz::has_arithmetic(context(), arithmetic); };
      if (has(MHA_ARITHMETIC_BF16)) made.push_back(valid_blob(bias, MHA_BF16, MHA_ARITHMETIC_BF16));
      for (const mha_dtype dtype : {MHA_I8, MHA_U4}) {
        made.push_back(valid_blob(bias, dtype, MHA_ARITHMETIC_F32));
        if (has(MHA_ARITHMETIC_INT8)) made.push_back(valid_blob(bias, dtype, MHA_ARITHMETIC_INT8));
      }
    }
    return made;
  }();
  std::vector<std::uint8_t> blob = blobs[input.ConsumeIntegralInRange<std::size_t>(0, blobs.size() - 1)];
  const bool repair = input.ConsumeBool();
  if (input.ConsumeBool()) blob.resize(input.ConsumeIntegralInRange<std::size_t>(0, blob.size() + 64));
  const int edits = input.ConsumeIntegralInRange<int>(0, 8);
  for (int i = 0; i < edits && !blob.empty(); ++i) {
    // Mostly the header; whole words as well as single bytes.
    const std::size_t range = input.ConsumeBool() ? std::min(kHeaderBytes, blob.size()) : blob.size();
    const std::size_t at = input.ConsumeIntegralInRange<std::size_t>(0, range - 1);
    if (input.ConsumeBool() && at / 8 * 8 + 8 <= blob.size()) {
      const auto word = input.ConsumeIntegral<std::uint64_t>();
      std::memcpy(blob.data() + at / 8 * 8, &word, sizeof word);
    } else {
      blob[at] = input.ConsumeIntegral<std::uint8_t>();
    }
  }
  if (repair) sign(blob);

  // An exact heap block; one byte further is not aligned to a float and must be refused.
  const bool misaligned = input.ConsumeProbability<float>() < 0.02F;
  const std::size_t offset = misaligned ? 1 : 0;
  const std::unique_ptr<std::uint8_t[]> block(new std::uint8_t[blob.size() + offset]);
  if (!blob.empty()) std::memcpy(block.get() + offset, blob.data(), blob.size());
  // The C call, which must leave no handle where it fails.
  mha_layer* handle = nullptr;
  mha_error error{};
  const mha_status status = mha_layer_map(context().get(), block.get() + offset, blob.size(), &handle, &error);
  if (status != MHA_OK) {
    MHA_FUZZ_CHECK(handle == nullptr && error.status == status && error.message[0] != '\0', "status %d", status);
    return 0;
  }
  MHA_FUZZ_CHECK(handle != nullptr && !misaligned, "a layer from a misaligned blob");
  forward(own(handle), blob.size(), input);
  return 0;
}
