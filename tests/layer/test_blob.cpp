// SPDX-License-Identifier: Apache-2.0
// mha_layer_save and mha_layer_map: the round trip gives the same bits on every target; what is damaged is refused.
#include <algorithm>

#include "tests/support/layers.h"

using namespace mha::test;

namespace {

const mha_layer_config kConfigs[] = {
    {20, 4, 0, 0, 0, 0, 0, 0, 0}, {33, 6, 3, 9, 19, 12, 65, 71, 0, 0.3f}, {1, 1, 0, 0, 0, 0, 0, 0, 0}};

/// Bytes with 64-byte alignment, or shifted from it.
class Blob {
 public:
  explicit Blob(size_t bytes, size_t shift = 0) : storage_(bytes + 64 + shift), bytes_(bytes) {
    const size_t address = reinterpret_cast<size_t>(storage_.data());
    data_ = storage_.data() + (64 - address % 64) % 64 + shift;
  }
  Blob(const Blob&) = delete;
  Blob& operator=(const Blob&) = delete;
  unsigned char* data() { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::vector<unsigned char> storage_;
  unsigned char* data_;
  size_t bytes_;
};

std::unique_ptr<Blob> save(const mha_layer* layer, size_t shift = 0) {
  mha_error error = {};
  size_t bytes = 0;
  require_ok(mha_layer_save_bytes(layer, &bytes, &error), error);
  auto blob = std::make_unique<Blob>(bytes, shift);
  require_ok(mha_layer_save(layer, blob->data(), blob->bytes(), &error), error);
  return blob;
}

/// Maps, and on failure checks the promises of a failed call.
LayerPtr map(const mha_context* context, const void* data, size_t bytes, mha_status want) {
  mha_layer* layer = reinterpret_cast<mha_layer*>(&bytes);  // must become NULL on failure
  mha_error error = {};
  const mha_status status = mha_layer_map(context, data, bytes, &layer, &error);
  CHECK(status == want);
  if (status == MHA_OK) return LayerPtr(layer);
  CHECK(layer == nullptr);
  CHECK(error.status == status);
  CHECK(error.message[0] != 0);
  return LayerPtr();
}

size_t save_bytes(const mha_layer* layer) {
  mha_error error = {};
  size_t bytes = 0;
  require_ok(mha_layer_save_bytes(layer, &bytes, &error), error);
  return bytes;
}

}  // namespace

TEST_CASE("blob: a mapped layer gives the bits of the one it was saved from, on every target", "[blob]") {
  for (const mha_layer_config& config : kConfigs) {
    for (Biases biases : {Biases::kNone, Biases::kAll, Biases::kOutputOnly, Biases::kInOnly}) {
      const LayerProblem problem(config, 2, 5, 9, biases, 120000);
      LayerCall args = problem.args();
      args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
      std::unique_ptr<Blob> first;
      for_each_target([&](const std::string&, const mha_context* context) {
        const LayerPtr layer = problem.make(context);
        const LayerResult want = run_layer(context, layer.get(), args);
        const std::unique_ptr<Blob> blob = save(layer.get());
        if (!first) first = save(layer.get());
        // One packing for all targets: the same bytes, whoever packed them.
        REQUIRE(blob->bytes() == first->bytes());
        CHECK(std::equal(blob->data(), blob->data() + blob->bytes(), first->data()));
        for (Blob* source : {blob.get(), first.get()}) {
          const LayerPtr mapped = map(context, source->data(), source->bytes(), MHA_OK);
          REQUIRE(mapped);
          const LayerResult got = run_layer(context, mapped.get(), args);
          check_same_bits("output", got.output, want.output);
          check_same_bits("weights", got.weights, want.weights);
          mha_layer_config a = {}, b = {};
          mha_layer_get_config(layer.get(), &a);
          mha_layer_get_config(mapped.get(), &b);
          CHECK(a.embed_dim == b.embed_dim);
          CHECK(a.num_kv_heads == b.num_kv_heads);
          CHECK(a.value_head_dim == b.value_head_dim);
          CHECK(a.out_dim == b.out_dim);
          CHECK(a.scale == b.scale);
          // A mapped layer can be saved again.
          const std::unique_ptr<Blob> again = save(mapped.get());
          REQUIRE(again->bytes() == blob->bytes());
          CHECK(std::equal(again->data(), again->data() + again->bytes(), blob->data()));
        }
      });
    }
  }
}

TEST_CASE("blob: aligned to 4 bytes only", "[blob][alignment]") {
  const LayerProblem problem(kConfigs[1], 2, 5, 9, Biases::kAll, 121000);
  for_each_target([&](const std::string&, const mha_context* context) {
    const LayerPtr layer = problem.make(context);
    const LayerResult want = run_layer(context, layer.get(), problem.args());
    for (size_t shift : {4, 8, 12, 20, 32, 60}) {
      const std::unique_ptr<Blob> blob = save(layer.get(), shift);
      const LayerPtr mapped = map(context, blob->data(), blob->bytes(), MHA_OK);
      REQUIRE(mapped);
      check_same_bits("output", run_layer(context, mapped.get(), problem.args()).output, want.output);
    }
    for (size_t shift : {1, 2, 3}) {
      const std::unique_ptr<Blob> good = save(layer.get());
      Blob blob(good->bytes(), shift);
      std::copy_n(good->data(), good->bytes(), blob.data());
      map(context, blob.data(), blob.bytes(), MHA_ERR_ARGUMENT);  // the pointer is wrong, not the blob
    }
  });
}

TEST_CASE("blob: a damaged header is refused, at every byte and bit of it", "[blob]") {
  const LayerProblem problem(kConfigs[0], 1, 2, 3, Biases::kAll, 122000);
  const mha_context* context = shared_context(supported_targets()[0], 1);
  const LayerPtr layer = problem.make(context);
  const std::unique_ptr<Blob> blob = save(layer.get());
  // The header ends where changed bytes are no longer noticed: those are weights.
  const uint32_t first_weight = bits_of(problem.query_weight[0]);
  size_t header = 0;
  while (header + 4 <= blob->bytes() && std::memcmp(blob->data() + header, &first_weight, 4) != 0) header += 4;
  REQUIRE(header >= 64);
  REQUIRE(header < blob->bytes());
  size_t refused = 0;
  for (size_t at = 0; at < header; ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      INFO("byte " << at << " bit " << bit);
      blob->data()[at] ^= static_cast<unsigned char>(1 << bit);
      map(context, blob->data(), blob->bytes(), MHA_ERR_BLOB);
      blob->data()[at] ^= static_cast<unsigned char>(1 << bit);
      ++refused;
    }
  }
  CHECK(refused == header * 8);
  CHECK(map(context, blob->data(), blob->bytes(), MHA_OK));
}

TEST_CASE("blob: truncated at every length", "[blob]") {
  const LayerProblem problem(kConfigs[0], 1, 2, 3, Biases::kAll, 123000);
  const mha_context* context = shared_context(supported_targets()[0], 1);
  const LayerPtr layer = problem.make(context);
  const std::unique_ptr<Blob> blob = save(layer.get());
  for (size_t bytes = 0; bytes < blob->bytes(); ++bytes) map(context, blob->data(), bytes, MHA_ERR_BLOB);
  // A copy that ends where it was cut, so that a sanitizer sees a read beyond.
  for (size_t bytes : {size_t{1}, size_t{8}, size_t{63}, size_t{64}, size_t{128}, blob->bytes() - 4}) {
    Blob cut(bytes);
    std::copy_n(blob->data(), bytes, cut.data());
    map(context, cut.data(), bytes, MHA_ERR_BLOB);
  }
}

TEST_CASE("blob: another format version is refused by name", "[blob]") {
  const LayerProblem problem(kConfigs[0], 1, 2, 3, Biases::kAll, 123500);
  const mha_context* context = shared_context(supported_targets()[0], 1);
  const std::unique_ptr<Blob> blob = save(problem.make(context).get());
  blob->data()[8] = 99;
  mha_layer* layer = nullptr;
  mha_error error = {};
  CHECK(mha_layer_map(context, blob->data(), blob->bytes(), &layer, &error) == MHA_ERR_BLOB);
  CHECK(mentions(error, "version 99"));
}

TEST_CASE("blob: a hostile header with a right checksum is refused", "[blob]") {
  // Magic 8 bytes, version 4, byte order 4, bytes 8, parts 4, arithmetic 4, eight sizes of 8 from offset 32, scale 4 and
  // a word that is 0, four times how a weight is stored (16 bytes from 104 on), ten words that are 0; the FNV-1a of all
  // that at offset 248.
  constexpr size_t kScale = 96, kStorage = 104, kChecksum = 248;
  const LayerProblem problem(kConfigs[0], 1, 2, 3, Biases::kAll, 123600);
  const mha_context* context = shared_context(supported_targets()[0], 1);
  const std::unique_ptr<Blob> good = save(problem.make(context).get());
  const auto sign = [](Blob& blob) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t n = 0; n < kChecksum; ++n) hash = (hash ^ blob.data()[n]) * 0x100000001b3u;
    std::memcpy(blob.data() + kChecksum, &hash, 8);
  };
  Blob blob(good->bytes());
  std::copy_n(good->data(), good->bytes(), blob.data());
  sign(blob);
  REQUIRE(std::equal(blob.data(), blob.data() + kChecksum + 8, good->data()));  // this is how headers are signed
  for (size_t field = 16; field < kChecksum; field += 8) {
    for (uint64_t value : {uint64_t{0}, uint64_t{1}, uint64_t{7}, uint64_t{1} << 31, uint64_t{1} << 33,
                           uint64_t{1} << 62, uint64_t{1} << 63, ~uint64_t{0}, uint64_t{0x7fc000000000000f}}) {
      std::copy_n(good->data(), good->bytes(), blob.data());
      if (std::memcmp(blob.data() + field, &value, 8) == 0) continue;
      std::memcpy(blob.data() + field, &value, 8);
      sign(blob);
      // One head instead of four, or one key/value head, may make the same sizes; never more bytes than there are.
      mha_layer* layer = nullptr;
      mha_error error = {};
      const mha_status status = mha_layer_map(context, blob.data(), blob.bytes(), &layer, &error);
      const LayerPtr owner(layer);
      INFO("field at " << field << " value " << value << ": " << error.message);
      CHECK((status == MHA_ERR_BLOB || (status == MHA_OK && save_bytes(layer) <= blob.bytes())));
      if (status == MHA_ERR_BLOB) CHECK(layer == nullptr);
      // What this version does not know may mean anything: it is refused.
      if (field >= kStorage || (field == kScale && value >> 32 != 0)) CHECK(status == MHA_ERR_BLOB);
    }
  }
}

TEST_CASE("blob: parts that this version does not know are refused", "[blob]") {
  // Bits 0 to 3: biases of the projections; 4: bias_key and bias_value; 5: zero attention.
  const LayerProblem problem(kConfigs[0], 1, 2, 3, Biases::kAll, 123700);
  const mha_context* context = shared_context(supported_targets()[0], 1);
  const std::unique_ptr<Blob> blob = save(problem.make(context).get());
  constexpr size_t kParts = 24, kChecksum = 248;
  uint32_t parts = 0;
  std::memcpy(&parts, blob->data() + kParts, 4);
  REQUIRE(parts == 15);
  for (int bit = 5; bit < 32; ++bit) {
    const uint32_t more = parts | 1u << bit;
    std::memcpy(blob->data() + kParts, &more, 4);
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t n = 0; n < kChecksum; ++n) hash = (hash ^ blob->data()[n]) * 0x100000001b3u;
    std::memcpy(blob->data() + kChecksum, &hash, 8);
    INFO("bit " << bit);
    map(context, blob->data(), blob->bytes(), bit == 5 ? MHA_OK : MHA_ERR_BLOB);
  }
}

TEST_CASE("blob: noise is refused", "[blob]") {
  const mha_context* context = shared_context(supported_targets()[0], 1);
  Random random(124000);
  for (int round = 0; round < 200; ++round) {
    Blob noise(static_cast<size_t>(random.below(5000)));
    for (size_t n = 0; n < noise.bytes(); ++n) noise.data()[n] = static_cast<unsigned char>(random.bits());
    map(context, noise.data(), noise.bytes(), MHA_ERR_BLOB);
  }
  Blob zeros(4096);
  map(context, zeros.data(), zeros.bytes(), MHA_ERR_BLOB);
}

TEST_CASE("blob: NULL arguments and a buffer that is too small", "[blob][status]") {
  const LayerProblem problem(kConfigs[0], 1, 2, 3, Biases::kAll, 125000);
  const mha_context* context = shared_context(supported_targets()[0], 1);
  const LayerPtr layer = problem.make(context);
  const size_t bytes = save_bytes(layer.get());
  Blob blob(bytes);
  std::fill_n(blob.data(), bytes, static_cast<unsigned char>(0x5a));
  CHECK(mha_layer_save(nullptr, blob.data(), bytes, nullptr) == MHA_ERR_NULL);
  CHECK(mha_layer_save(layer.get(), nullptr, bytes, nullptr) == MHA_ERR_NULL);
  for (size_t small : {size_t{0}, size_t{1}, bytes - 1}) {
    mha_error error = {};
    CHECK(mha_layer_save(layer.get(), blob.data(), small, &error) == MHA_ERR_BUFFER);
    CHECK(mentions(error, std::to_string(small)));
    CHECK(mentions(error, std::to_string(bytes)));
  }
  CHECK(std::all_of(blob.data(), blob.data() + bytes, [](unsigned char byte) { return byte == 0x5a; }));
  REQUIRE(mha_layer_save(layer.get(), blob.data(), bytes, nullptr) == MHA_OK);
  mha_layer* mapped = nullptr;
  CHECK(mha_layer_map(nullptr, blob.data(), bytes, &mapped, nullptr) == MHA_ERR_NULL);
  CHECK(mha_layer_map(context, nullptr, bytes, &mapped, nullptr) == MHA_ERR_NULL);
  CHECK(mha_layer_map(context, blob.data(), bytes, nullptr, nullptr) == MHA_ERR_NULL);
  mha_error error = {};
  size_t unset = 77;
  CHECK(mha_layer_save_bytes(nullptr, &unset, &error) == MHA_ERR_NULL);
  CHECK(mentions(error, "layer is NULL"));
  CHECK(unset == 77);
  CHECK(mha_layer_save_bytes(layer.get(), nullptr, &error) == MHA_ERR_NULL);
  CHECK(mentions(error, "bytes is NULL"));
}
