// SPDX-License-Identifier: Apache-2.0
#include "tools/demo_decode/formats.h"

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace mha::demo {
namespace {

mha_storage storage_of(mha_dtype dtype, int64_t group = 0, mha_dtype scale_dtype = MHA_F32, bool zero_points = false) {
  mha_storage storage = {};
  storage.dtype = dtype, storage.group = group, storage.scale_dtype = scale_dtype, storage.zero_points = zero_points;
  return storage;
}

mha_storage rotated(mha_storage storage) {
  storage.hadamard = 1;
  return storage;
}

struct Format {
  const char* name;
  mha_storage key, value;
  mha_arithmetic arithmetic = MHA_ARITHMETIC_F32;
};

std::vector<Format> formats() {
  const mha_storage int8 = storage_of(MHA_I8), int4 = storage_of(MHA_I4, 32, MHA_F16);
  const mha_storage uint8 = storage_of(MHA_U8, 0, MHA_F32, true), uint4 = storage_of(MHA_U4, 32, MHA_F16, true);
  const mha_storage grouped = storage_of(MHA_I8, 32, MHA_F16);
  return {{"f16", storage_of(MHA_F16), storage_of(MHA_F16)},
          {"bf16", storage_of(MHA_BF16), storage_of(MHA_BF16)},
          {"bf16_arithmetic", storage_of(MHA_BF16), storage_of(MHA_BF16), MHA_ARITHMETIC_BF16},
          {"int8", int8, int8},
          {"int8_arithmetic", int8, int8, MHA_ARITHMETIC_INT8},
          {"int8_groups", grouped, grouped},
          {"uint8_zeros", uint8, uint8},
          {"int4", int4, int4},
          {"uint4_zeros", uint4, uint4},
          {"int8_int4", int8, int4},
          {"int8_rotated", rotated(int8), rotated(int8)},
          {"int4_rotated", rotated(int4), rotated(int4)}};
}

const Format& format_of(const std::vector<Format>& all, const std::string& name) {
  for (const Format& format : all)
    if (name == format.name) return format;
  throw std::runtime_error("there is no format " + name);
}

mha_cache_config shape_of(const Expected& expected, const Format& format) {
  mha_cache_config shape = {};
  shape.kind = MHA_CACHE_PAGED;
  shape.max_sequences = static_cast<int64_t>(expected.prompts.size());
  shape.capacity = expected.total() + shape.max_sequences * 64;
  shape.key = format.key, shape.value = format.value;
  return shape;
}

/// Bytes of a key and a value of one head, with their scales and zeros.
double token_bytes(const Llama& model, const Format& format) {
  mha_cache_config shape = {};
  shape.num_kv_heads = model.config().kv_heads, shape.head_dim = model.config().head_dim;
  shape.capacity = 1 << 16;
  shape.key = format.key, shape.value = format.value;
  const auto bytes = static_cast<double>(require(Cache::memory_bytes(shape)));
  return std::floor(bytes / static_cast<double>(shape.capacity * shape.num_kv_heads));
}

bool same_bits(const std::vector<Generated>& a, const std::vector<Generated>& b) {
  for (size_t n = 0; n < a.size(); ++n) {
    if (a[n].logits.size() != b[n].logits.size()) return false;
    if (std::memcmp(a[n].logits.data(), b[n].logits.data(), a[n].logits.size() * sizeof(float)) != 0) return false;
  }
  return true;
}

/// Whether other schedules, and the other targets that share bits, give these logits.
bool holds_everywhere(Llama& model, const std::string& model_path, const Context& context, const Expected& expected,
                      const Format& format, const std::vector<Tokens>& fed, const std::vector<Generated>& got) {
  Schedule schedule;
  schedule.fed = &fed, schedule.together = true, schedule.piece = 7, schedule.stagger = 9;
  const mha_cache_config shape = shape_of(expected, format);
  const Caches caches = model.make_caches(shape);
  if (!same_bits(got, generate(model, caches, expected.prompts, expected.count(), schedule))) return false;
  for (int64_t n = 0; n < mha_target_count(); ++n) {
    const std::string target = mha_target_name(n);
    if (!mha_target_supported(n) || !mha_target_same_bits(n) || target == context.target()) continue;
    const Context other = make_context(target, 1);
    Llama same(other, model_path, format.arithmetic);
    const Caches others = same.make_caches(shape);
    if (!same_bits(got, generate(same, others, expected.prompts, expected.count(), schedule))) return false;
  }
  return true;
}

}  // namespace

std::vector<std::string> format_names() {
  std::vector<std::string> names;
  const std::vector<Format> all = formats();
  names.reserve(all.size());
  for (const Format& format : all) names.emplace_back(format.name);
  return names;
}

nlohmann::json compare_formats(const std::string& model_path, const Expected& expected,
                               const std::vector<std::string>& names, const std::string& target, int64_t threads) {
  const Context context = make_context(target, threads);
  const Format floats = {"f32", storage_of(MHA_F32), storage_of(MHA_F32)};
  const std::vector<Format> all = formats();
  Llama plain(context, model_path);
  const std::vector<Generated> want =
      generate(plain, plain.make_caches(shape_of(expected, floats)), expected.prompts, expected.count(), {});
  std::vector<Tokens> fed;
  fed.reserve(want.size());
  for (const Generated& one : want) fed.push_back(one.tokens);
  nlohmann::json list = nlohmann::json::array();
  std::map<mha_arithmetic, std::unique_ptr<Llama>> models;
  for (const std::string& name : names) {
    const Format& format = format_of(all, name);
    std::unique_ptr<Llama>& made = models[format.arithmetic];
    if (!made) made = std::make_unique<Llama>(context, model_path, format.arithmetic);
    Llama& model = *made;
    Schedule schedule;
    schedule.fed = &fed;
    const std::vector<Generated> got =
        generate(model, model.make_caches(shape_of(expected, format)), expected.prompts, expected.count(), schedule);
    int64_t same = 0, tokens = 0;
    double squares = 0;
    size_t logits = 0;
    for (size_t b = 0; b < want.size(); ++b) {
      for (size_t n = 0; n < want[b].tokens.size(); ++n, ++tokens) same += got[b].tokens[n] == want[b].tokens[n];
      for (size_t n = 0; n < want[b].logits.size(); ++n, ++logits) {
        const double apart = static_cast<double>(got[b].logits[n]) - static_cast<double>(want[b].logits[n]);
        squares += apart * apart;
      }
    }
    list.push_back({{"name", name},
                    {"bytes", token_bytes(model, format)},
                    {"same", same},
                    {"tokens", tokens},
                    {"rms", std::sqrt(squares / static_cast<double>(logits))},
                    {"same_bits", holds_everywhere(model, model_path, context, expected, format, fed, got)}});
  }
  return {{"target", context.target()}, {"formats", list}};
}

}  // namespace mha::demo
