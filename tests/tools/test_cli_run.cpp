// SPDX-License-Identifier: Apache-2.0
// `mha run` as a process: what it computes from files, and that whatever is wrong with shapes, weights or files gives
// exit status 2 and exactly one line on stderr that says so.
#include <algorithm>
#include <map>
#include <vector>

#include "core/reference/reference.h"
#include "tests/support/calls.h"
#include "tests/support/cli.h"
#include "tests/support/compare.h"
#include "tests/support/tensors.h"
#include "tools/io/npy.h"
#include "tools/io/safetensors.h"

using namespace mha::test;

namespace {

using mha::io::Tensor;
using Shape = std::vector<int64_t>;

// A layer with its files, to run and to compute by the reference.
struct Layer {
  mha_layer_config config = {};
  bool fused = true;
  std::string prefix;
  std::map<std::string, Tensor<float>> tensors;

  static Tensor<float> random(Shape shape, uint64_t seed) {
    const int64_t count = mha::io::shape_elements(shape);
    return {std::move(shape), random_floats(count, seed, 0.5F)};
  }

  void make_weights() {
    const mha_layer_config& c = config;
    const int64_t q = c.num_heads * c.head_dim, k = c.num_kv_heads * c.head_dim, v = c.num_kv_heads * c.value_head_dim;
    if (fused) {
      tensors["in_proj_weight"] = random({q + k + v, c.embed_dim}, 1);
    } else {
      tensors["q_proj_weight"] = random({q, c.embed_dim}, 2);
      tensors["k_proj_weight"] = random({k, c.kdim}, 3);
      tensors["v_proj_weight"] = random({v, c.vdim}, 4);
    }
    tensors["in_proj_bias"] = random({q + k + v}, 5);
    tensors["out_proj.weight"] = random({c.out_dim, c.num_heads * c.value_head_dim}, 6);
    tensors["out_proj.bias"] = random({c.out_dim}, 7);
  }

  void write(const std::string& path) const {
    std::map<std::string, Tensor<float>> named;
    for (const auto& [name, tensor] : tensors) named[prefix + name] = tensor;
    REQUIRE(mha::io::write_safetensors(path, named));
  }

  mha_layer_weights weights() const {
    mha_layer_weights w = {};
    const auto data = [&](const char* name) {
      return tensors.count(name) != 0 ? tensors.at(name).values.data() : nullptr;
    };
    w.in_proj_weight = view(data("in_proj_weight"));
    w.query_weight = view(data("q_proj_weight"));
    w.key_weight = view(data("k_proj_weight"));
    w.value_weight = view(data("v_proj_weight"));
    w.in_proj_bias = data("in_proj_bias");
    w.output_weight = view(data("out_proj.weight"));
    w.output_bias = data("out_proj.bias");
    return w;
  }
};

void write_npy(const std::string& path, const Shape& shape, const std::vector<float>& values) {
  REQUIRE(mha::io::write_npy(path, shape, values.data()));
}

// A layer of width 4 with two heads, in the folder's w.safetensors.
Layer write_small_layer(const Folder& folder) {
  Layer layer;
  layer.config = {4, 2, 2, 2, 2, 4, 4, 4, 0};
  layer.make_weights();
  layer.write(folder.file("w.safetensors"));
  return layer;
}

// Reads back both results and compares them with the reference on the same arguments.
void check_results(const Folder& folder, const Layer& layer, LayerCall args, const Shape& output_shape,
                   const Shape& weights_shape) {
  const auto output = mha::io::read_npy<float>(folder.file("out.npy"));
  REQUIRE(output);
  CHECK(output->shape == output_shape);
  const auto weights = mha::io::read_npy<float>(folder.file("attention.npy"));
  REQUIRE(weights);
  CHECK(weights->shape == weights_shape);
  std::vector<double> want_output(output->values.size());
  std::vector<double> want_weights(weights->values.size());
  mha::reference::forward<double>(layer.config, layer.weights(), args.raw(), want_output.data(), want_weights.data());
  mha::test::check_close("output", output->values, want_output, {4e-6, 1e-6});
  mha::test::check_close("weights", weights->values, want_weights, {1e-6, 2e-7});
}

// Queries and keys of width 8, and how many keys of each item count: q.npy, k.npy, l.npy, and the call over them.
struct PaddedKeys {
  std::vector<float> query, key;
  std::vector<int64_t> lengths;
  LayerCall args;

  PaddedKeys(const Folder& folder, int64_t query_len, int64_t key_len, const std::vector<int64_t>& key_lengths)
      : lengths(key_lengths) {
    const int64_t batch = static_cast<int64_t>(lengths.size());
    query = random_floats(batch * query_len * 8, 10), key = random_floats(batch * key_len * 8, 11);
    write_npy(folder.file("q.npy"), {batch, query_len, 8}, query);
    write_npy(folder.file("k.npy"), {batch, key_len, 8}, key);
    REQUIRE(mha::io::write_npy(folder.file("l.npy"), {batch}, lengths.data()));
    args.batch = batch, args.query_len = query_len, args.key_len = key_len;
    args.query = view(query.data()), args.key = view(key.data());
    args.items.key_lengths = lengths.data();
  }
};

}  // namespace

TEST_CASE("cli: run, self-attention with fused weights, causal") {
  const Folder folder;
  Layer layer;
  layer.config = {12, 3, 3, 4, 4, 12, 12, 12, 0};
  layer.make_weights();
  layer.write(folder.file("w.safetensors"));
  const std::vector<float> query = random_floats(2 * 5 * 12, 10);
  write_npy(folder.file("q.npy"), {2, 5, 12}, query);
  const Json report =
      Json::parse(run_ok(folder,
                         "run --weights w.safetensors --query q.npy --num-heads 3 --causal --output out.npy "
                         "--attention-weights attention.npy --repeat 2 --json"));
  CHECK(report["output"] == Json({2, 5, 12}));
  CHECK(report["head_dim"] == 4);
  CHECK(report["seconds"].get<double>() > 0);
  LayerCall args;
  args.batch = 2;
  args.query_len = args.key_len = 5;
  args.query = view(query.data());
  args.causal = 1;
  args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
  check_results(folder, layer, args, {2, 5, 12}, {2, 3, 5, 5});
}

TEST_CASE("cli: run, cross-attention with separate weights, kdim, vdim, no batch, prefix") {
  const Folder folder;
  Layer layer;
  layer.fused = false;
  layer.prefix = "encoder.0.self_attn.";
  layer.config = {10, 2, 2, 5, 5, 7, 9, 10, 0};
  layer.make_weights();
  layer.write(folder.file("w.safetensors"));
  const std::vector<float> query = random_floats(3 * 10, 10), key = random_floats(6 * 7, 11),
                           value = random_floats(6 * 9, 12);
  write_npy(folder.file("q.npy"), {3, 10}, query);
  write_npy(folder.file("k.npy"), {6, 7}, key);
  write_npy(folder.file("v.npy"), {6, 9}, value);
  const std::string text = run_ok(
      folder,
      "run --weights w.safetensors --prefix encoder.0.self_attn. --query q.npy --key k.npy --value v.npy --num-heads 2 "
      "--scale 0.7 --causal offset -1 --output out.npy --attention-weights attention.npy");
  CHECK(text.find("B 1, Tq 3, Tk 6, E 10 (kdim 7, vdim 9, out 10), H 2 (Hkv 2), D 5 (Dv 5)") != std::string::npos);
  CHECK(text.find("out.npy [3, 10]") != std::string::npos);
  layer.config.scale = 0.7F;
  LayerCall args;
  args.batch = 1;
  args.query_len = 3;
  args.key_len = 6;
  args.query = view(query.data());
  args.key = view(key.data());
  args.value = view(value.data());
  args.causal = 1;
  args.positions.align = MHA_ALIGN_OFFSET;
  args.positions.offset = -1;
  args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
  check_results(folder, layer, args, {3, 10}, {2, 3, 6});
}

TEST_CASE("cli: run, grouped heads of other sizes, every mask shape, key lengths, averaged weights") {
  const Folder folder;
  Layer layer;
  layer.config = {8, 4, 2, 3, 6, 8, 8, 11, 0};
  layer.make_weights();
  layer.write(folder.file("w.safetensors"));
  constexpr int64_t B = 2, H = 4, Tq = 3, Tk = 5;
  PaddedKeys padded(folder, Tq, Tk, {5, 4});
  LayerCall& args = padded.args;
  const std::vector<float> added = random_floats(B * H * Tq * Tk, 13);
  std::vector<uint8_t> booleans(added.size());
  for (std::size_t i = 0; i < added.size(); ++i) booleans[i] = added[i] < 0.5F ? 1 : 0;

  args.results.weights_mode = MHA_WEIGHTS_AVERAGED;
  struct MaskShape {
    Shape shape;
    int64_t b, h, q;
  };
  for (const MaskShape& mask : std::vector<MaskShape>{{{Tq, Tk}, 0, 0, Tk},
                                                      {{1, Tk}, 0, 0, 0},
                                                      {{B, Tq, Tk}, Tq * Tk, 0, Tk},
                                                      {{1, Tq, Tk}, 0, 0, Tk},
                                                      {{B, 1, Tk}, Tk, 0, 0},
                                                      {{B, H, Tq, Tk}, H * Tq * Tk, Tq * Tk, Tk},
                                                      {{B, 1, 1, Tk}, Tk, 0, 0},
                                                      {{1, H, 1, Tk}, 0, Tk, 0},
                                                      {{B, 1, Tq, Tk}, Tq * Tk, 0, Tk}}) {
    for (const bool boolean : {false, true}) {
      INFO(mha::io::shape_text(mask.shape) << (boolean ? " bool" : " float"));
      args.masks.add_mask = {};
      args.masks.bool_mask = {};
      if (boolean) {
        REQUIRE(mha::io::write_npy(folder.file("m.npy"), mask.shape, booleans.data()));
        args.masks.bool_mask = {booleans.data(), mask.b, mask.h, mask.q, 1};
      } else {
        write_npy(folder.file("m.npy"), mask.shape, added);
        args.masks.add_mask = {added.data(), MHA_F32, 0, mask.b, mask.h, mask.q, 1};
      }
      run_ok(
          folder,
          "run --weights w.safetensors --query q.npy --key k.npy --num-heads 4 --num-kv-heads 2 --mask m.npy "
          "--key-lengths l.npy --weights-mode averaged --output out.npy --attention-weights attention.npy --threads 2");
      check_results(folder, layer, args, {B, Tq, 11}, {B, Tq, Tk});
    }
  }
}

TEST_CASE("cli: run, causal over padded keys, the queries at the start, at the end or at an offset") {
  const Folder folder;
  Layer layer;
  layer.config = {8, 2, 2, 4, 4, 8, 8, 8, 0};
  layer.make_weights();
  layer.write(folder.file("w.safetensors"));
  constexpr int64_t B = 3, Tq = 2, Tk = 6;
  PaddedKeys padded(folder, Tq, Tk, {6, 3, 4});
  LayerCall& args = padded.args;
  args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
  args.causal = 1;
  const std::string base =
      "run --weights w.safetensors --query q.npy --key k.npy --num-heads 2 --key-lengths l.npy --output out.npy "
      "--attention-weights attention.npy --causal";
  for (const auto& [word, align] : {std::pair<const char*, mha_align>{" top-left", MHA_ALIGN_START},
                                    {" bottom-right", MHA_ALIGN_END},
                                    {" offset 1", MHA_ALIGN_OFFSET}}) {
    INFO(word);
    args.positions.align = align;
    args.positions.offset = align == MHA_ALIGN_OFFSET ? 1 : 0;
    run_ok(folder, base + word);
    check_results(folder, layer, args, {B, Tq, 8}, {B, 2, Tq, Tk});
  }
  check_refused(folder, base, "--causal beside --key-lengths must say where queries stand: top-left");
}

TEST_CASE("cli: run, nothing to attend to and nothing to do") {
  const Folder folder;
  const Layer layer = write_small_layer(folder);
  write_npy(folder.file("q.npy"), {2, 4}, random_floats(8, 10));
  write_npy(folder.file("none.npy"), {0, 4}, {});
  run_ok(folder, "run --weights w.safetensors --query q.npy --key none.npy --num-heads 2 --output out.npy");
  const auto output = mha::io::read_npy<float>(folder.file("out.npy"));
  REQUIRE(output);
  const std::vector<float>& bias = layer.tensors.at("out_proj.bias").values;
  for (std::size_t i = 0; i < 8; ++i) CHECK(output->values[i] == bias[i % 4]);
  run_ok(folder, "run --weights w.safetensors --query none.npy --num-heads 2 --output out.npy");
  CHECK(mha::io::read_npy<float>(folder.file("out.npy"))->shape == Shape{0, 4});
}

TEST_CASE("cli: run says which shape does not fit") {
  const Folder folder;
  const Layer layer = write_small_layer(folder);
  const std::vector<float> values = random_floats(200, 10);
  write_npy(folder.file("q.npy"), {2, 3, 4}, values);
  write_npy(folder.file("wide.npy"), {2, 3, 5}, values);
  write_npy(folder.file("flat.npy"), {4}, values);
  write_npy(folder.file("batch3.npy"), {3, 3, 4}, values);
  write_npy(folder.file("long.npy"), {2, 7, 4}, values);
  write_npy(folder.file("mask.npy"), {3, 4}, values);
  write_npy(folder.file("float.npy"), {2}, values);
  const std::vector<int64_t> lengths = {1, 2, 9};
  REQUIRE(mha::io::write_npy(folder.file("three.npy"), {3}, lengths.data()));
  REQUIRE(mha::io::write_npy(folder.file("nine.npy"), {2}, lengths.data() + 1));

  const std::string base = "run --weights w.safetensors --output out.npy --num-heads 2 ";
  check_refused(folder, base + "--query wide.npy",
                "wide.npy: query of shape [2, 3, 5] has width 5, the weights take 4");
  check_refused(folder, base + "--query flat.npy", "flat.npy: query of shape [4] must be");
  check_refused(folder, base + "--query q.npy --key wide.npy", "wide.npy: key of shape [2, 3, 5] has width 5");
  check_refused(folder, base + "--query q.npy --key batch3.npy",
                "batch3.npy: key of shape [3, 3, 4] has batch 3, expected 2");
  check_refused(folder, base + "--query q.npy --value long.npy",
                "long.npy: value of shape [2, 7, 4] has length 7, expected 3");
  check_refused(folder, base + "--query q.npy --mask mask.npy", "mask.npy: mask of shape [3, 4] must be");
  check_refused(folder, base + "--query q.npy --key-lengths three.npy",
                "three.npy: key lengths of shape [3] must be [2]");
  check_refused(folder, base + "--query q.npy --key-lengths float.npy", "float.npy: holds float32");
  check_refused(folder, base + "--query q.npy --key-lengths nine.npy", "key_lengths");
  check_refused(folder, base + "--query q.npy --causal sideways", "--causal takes");
  check_refused(folder, base + "--query q.npy --causal offset x", "'x' is not an integer");
  check_refused(folder, base + "--query q.npy --scale nan", "scale");
  check_refused(folder, base + "--query q.npy --repeat 0", "--repeat is 0");
  check_refused(folder, base + "--query q.npy --weights-mode averaged", "--attention-weights");
  check_refused(folder, base + "--query q.npy --weights-mode most --attention-weights a.npy", "'most'");
  check_refused(folder, base + "--query q.npy --prefix layer.", "layer.in_proj_weight");
  check_refused(folder, base + "--query q.npy --target nonsense", "nonsense");
  const std::string heads = "run --weights w.safetensors --query q.npy --output out.npy ";
  check_refused(folder, heads + "--num-heads 3", "tensor 'out_proj.weight' of shape [4, 4]: 4 columns");
  check_refused(folder, heads + "--num-heads 4 --num-kv-heads 3", "not a multiple of --num-kv-heads 3");
  check_refused(folder, heads + "--num-heads 4 --num-kv-heads 2", "tensor 'in_proj_weight' of shape [12, 4]: 12 rows");
  check_refused(folder, heads + "--num-heads 0", "--num-heads is 0");
  check_refused(folder, heads + "--num-heads 2 --output /nonexistent/out.npy", "--output");
  check_refused(folder, "run --weights w.safetensors --query q.npy --num-heads 2 --output /nonexistent/out.npy",
                "/nonexistent/out.npy: cannot write");
  CHECK_FALSE(std::filesystem::exists(folder.file("out.npy")));
}

TEST_CASE("cli: run says which weight does not fit") {
  const Folder folder;
  Layer layer;
  layer.fused = false;
  layer.config = {4, 2, 2, 2, 2, 4, 4, 4, 0};
  layer.make_weights();
  write_npy(folder.file("q.npy"), {3, 4}, random_floats(12, 10));
  const auto refused = [&](const std::string& name, const Shape& shape, const std::string& part) {
    Layer changed = layer;
    changed.tensors[name] = Layer::random(shape, 1);
    changed.write(folder.file("w.safetensors"));
    check_refused(folder, "run --weights w.safetensors --query q.npy --num-heads 2 --output out.npy", part);
  };
  refused("q_proj_weight", {3, 4}, "'q_proj_weight' of shape [3, 4]: 3 rows are not a multiple of 2 heads");
  refused("k_proj_weight", {6, 4}, "'k_proj_weight' of shape [6, 4]: must have Hkv*D = 4 rows");
  refused("v_proj_weight", {2, 4}, "'v_proj_weight' of shape [2, 4]: must have Hkv*Dv = 4 rows");
  refused("v_proj_weight", {4}, "'v_proj_weight' of shape [4]: must have 2 dimensions");
  refused("v_proj_weight", {4, 0}, "'v_proj_weight' of shape [4, 0]: is empty");
  refused("k_proj_weight", {4, 5}, "--key is needed: the weights take keys of width 5");
  refused("in_proj_bias", {11}, "'in_proj_bias' of shape [11]: {q,k,v}_proj_weight needs 12 elements");
  refused("out_proj.bias", {3}, "'out_proj.bias' of shape [3]: out_proj.weight needs 4 elements");
  refused("in_proj_weight", {12, 4}, "has both");
  refused("bias_k", {1, 1, 4}, "'bias_k' of shape [1, 1, 4]: a learned extra key");
  Layer without = layer;
  without.tensors.erase("k_proj_weight");
  without.write(folder.file("w.safetensors"));
  check_refused(folder, "run --weights w.safetensors --query q.npy --num-heads 2 --output out.npy",
                "no tensor 'k_proj_weight'");
}

namespace {

// How a checkpoint names the projections of a layer after its prefix.
struct CheckpointNames {
  const char* model;
  const char* prefix;
  const char *query, *key, *value, *output;
};

// Writes the layer under these names into w.safetensors, beside `others`. Which of the four projections have a bias is
// a bit each.
void write_checkpoint(const Folder& folder, const Layer& layer, const CheckpointNames& names, unsigned biases,
                      std::map<std::string, Tensor<float>> others = {}) {
  const std::string prefix = names.prefix;
  const mha_layer_config& c = layer.config;
  const int64_t rows[] = {c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.num_kv_heads * c.value_head_dim};
  const char* const inputs[] = {names.query, names.key, names.value};
  const char* const torch[] = {"q_proj_weight", "k_proj_weight", "v_proj_weight"};
  const std::vector<float>& bias = layer.tensors.at("in_proj_bias").values;
  int64_t row = 0;
  for (int n = 0; n < 3; ++n) {
    others[prefix + inputs[n] + ".weight"] = layer.tensors.at(torch[n]);
    if ((biases >> n & 1) != 0)
      others[prefix + inputs[n] + ".bias"] = {{rows[n]},
                                              std::vector<float>(bias.begin() + row, bias.begin() + row + rows[n])};
    row += rows[n];
  }
  others[prefix + names.output + ".weight"] = layer.tensors.at("out_proj.weight");
  if ((biases >> 3 & 1) != 0) others[prefix + names.output + ".bias"] = layer.tensors.at("out_proj.bias");
  REQUIRE(mha::io::write_safetensors(folder.file("w.safetensors"), others));
}

// The same with zeros for the biases that are left out.
Layer without_biases(Layer layer, unsigned biases) {
  const mha_layer_config& c = layer.config;
  const int64_t rows[] = {c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim, c.num_kv_heads * c.value_head_dim};
  float* bias = layer.tensors["in_proj_bias"].values.data();
  for (int n = 0; n < 3; bias += rows[n++]) {
    if ((biases >> n & 1) == 0) std::fill(bias, bias + rows[n], 0.0F);
  }
  std::vector<float>& last = layer.tensors["out_proj.bias"].values;
  if ((biases >> 3 & 1) == 0) std::fill(last.begin(), last.end(), 0.0F);
  return layer;
}

constexpr CheckpointNames kLlama = {"Llama", "model.layers.0.self_attn.", "q_proj", "k_proj", "v_proj", "o_proj"};

}  // namespace

TEST_CASE("cli: run, names of Hugging Face's models, any biases, grouped heads") {
  const Folder folder;
  const CheckpointNames all[] = {
      kLlama,
      {"Llama", "", "q_proj", "k_proj", "v_proj", "o_proj"},
      {"Whisper", "model.decoder.layers.3.encoder_attn.", "q_proj", "k_proj", "v_proj", "out_proj"},
      {"Phi", "model.layers.1.self_attn.", "q_proj", "k_proj", "v_proj", "dense"},
      {"BERT", "bert.encoder.layer.2.attention.", "self.query", "self.key", "self.value", "output.dense"},
      {"ViT", "vit.encoder.layer.2.attention.", "attention.query", "attention.key", "attention.value", "output.dense"},
      {"plain", "attn.", "query", "key", "value", "output.dense"},
      {"DistilBERT", "distilbert.transformer.layer.0.attention.", "q_lin", "k_lin", "v_lin", "out_lin"}};
  const std::vector<float> query = random_floats(2 * 5 * 12, 10);
  write_npy(folder.file("q.npy"), {2, 5, 12}, query);
  LayerCall args;
  args.batch = 2;
  args.query_len = args.key_len = 5;
  args.query = view(query.data());
  args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
  for (const CheckpointNames& names : all) {
    for (const unsigned biases : {0U, 15U, 13U, 7U, 10U}) {
      for (const int64_t kv_heads : {6, 2, 1}) {
        INFO(names.model << " biases " << biases << " Hkv " << kv_heads);
        Layer layer;
        layer.fused = false;
        layer.config = {12, 6, kv_heads, 4, 3, 12, 12, 10, 0};
        layer.make_weights();
        // What stands beside it in a checkpoint must not be taken for it.
        write_checkpoint(folder, layer, names, biases,
                         {{"embed.weight", Layer::random({3, 12}, 8)},
                          {std::string(names.prefix) + "output.LayerNorm.weight", Layer::random({12}, 9)}});
        run_ok(folder, std::string("run --weights w.safetensors --query q.npy --num-heads 6 --num-kv-heads ") +
                           std::to_string(kv_heads) + " --prefix '" + names.prefix +
                           "' --output out.npy --attention-weights attention.npy");
        check_results(folder, without_biases(layer, biases), args, {2, 5, 10}, {2, 6, 5, 5});
      }
    }
  }
}

TEST_CASE("cli: run says where a checkpoint has attention layers") {
  const Folder folder;
  Layer layer;
  layer.fused = false;
  layer.config = {12, 6, 2, 2, 2, 12, 12, 12, 0};
  layer.make_weights();
  write_npy(folder.file("q.npy"), {3, 12}, random_floats(36, 10));
  const std::string base = "run --weights w.safetensors --query q.npy --output out.npy --num-heads 6 --num-kv-heads 2 ";
  write_checkpoint(folder, layer, kLlama, 0);
  check_refused(folder, base,
                "w.safetensors: no 'in_proj_weight', 'q_proj.weight' or 'query.weight', the attention layer is at "
                "--prefix model.layers.0.self_attn.\n");
  check_refused(folder, base + "--prefix model.layers.0.self_attn",  // without the dot
                "no 'model.layers.0.self_attnin_proj_weight', 'model.layers.0.self_attnq_proj.weight' or ");

  std::map<std::string, Tensor<float>> many;
  for (int n = 1; n < 9; ++n) {
    for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
      many["model.layers." + std::to_string(n) + ".self_attn." + name + ".weight"] = layer.tensors["q_proj_weight"];
    }
  }
  many["half.q_proj.weight"] = many["x.in_proj_weight"] = layer.tensors["q_proj_weight"];  // no layers
  write_checkpoint(folder, layer, kLlama, 0, many);
  check_refused(folder, base,
                "attention layers are at --prefix model.layers.0.self_attn., model.layers.1.self_attn., "
                "model.layers.2.self_attn., model.layers.3.self_attn., model.layers.4.self_attn., "
                "model.layers.5.self_attn. and 3 more\n");
  check_refused(folder, base + "--prefix half.",
                "no tensor 'half.o_proj.weight', attention layers are at --prefix model.layers.0.self_attn., ");

  // BERT's output projection is not beside the others.
  write_checkpoint(folder, layer, {"BERT", "bert.attention.", "self.query", "self.key", "self.value", "output.dense"},
                   15);
  check_refused(folder, base + "--prefix bert.attention.self.",
                "no tensor 'bert.attention.self.output.dense.weight', the attention layer is at --prefix "
                "bert.attention.\n");
  layer.prefix = "encoder.";
  layer.write(folder.file("w.safetensors"));
  check_refused(folder, base, "the attention layer is at --prefix encoder.\n");
  layer.prefix = "";
  layer.write(folder.file("w.safetensors"));
  check_refused(folder, base + "--prefix x.", "the attention layer is at --prefix ''\n");
  REQUIRE(mha::io::write_safetensors(folder.file("w.safetensors"), {{"a.weight", layer.tensors["q_proj_weight"]}}));
  check_refused(folder, base, "'query.weight', and no prefix of its tensors makes a whole attention layer\n");
}

TEST_CASE("cli: run says which tensor of a checkpoint does not fit") {
  const Folder folder;
  Layer layer;
  layer.fused = false;
  layer.config = {12, 6, 2, 2, 2, 12, 12, 12, 0};
  layer.make_weights();
  write_npy(folder.file("q.npy"), {3, 12}, random_floats(36, 10));
  const std::string base =
      "run --weights w.safetensors --query q.npy --output out.npy --prefix model.layers.0.self_attn. --num-heads ";
  const std::string at = "tensor 'model.layers.0.self_attn.";
  write_checkpoint(folder, layer, kLlama, 0);
  check_refused(folder, base + "6",
                at + "k_proj.weight' of shape [4, 12]: must have Hkv*D = 12 rows (D from q_proj.weight); "
                     "--num-kv-heads 2 would fit\n");
  check_refused(folder, base + "5", at + "o_proj.weight' of shape [12, 12]: 12 columns are not a multiple of");
  const auto refused = [&](const std::string& name, const Shape& shape, const std::string& part) {
    write_checkpoint(folder, layer, kLlama, 15);
    const auto file = mha::io::Safetensors::open(folder.file("w.safetensors"));
    REQUIRE(file);
    std::map<std::string, Tensor<float>> tensors;
    for (const auto& tensor : file->tensors()) tensors[tensor.name] = *file->read<float>(tensor.name);
    tensors[kLlama.prefix + name] = Layer::random(shape, 1);
    REQUIRE(mha::io::write_safetensors(folder.file("w.safetensors"), tensors));
    check_refused(folder, base + "6 --num-kv-heads 2", at + name + "' of shape " + part);
  };
  refused("k_proj.bias", {5}, "[5]: k_proj.weight needs 4 elements");
  refused("v_proj.bias", {4, 1}, "[4, 1]: must have 1 dimensions");
  refused("o_proj.bias", {13}, "[13]: o_proj.weight needs 12 elements");
  refused("v_proj.weight", {5, 12}, "[5, 12]: must have Hkv*Dv = 4 rows (Dv from o_proj.weight)\n");
  for (const char* name : {"q_norm.weight", "k_norm.weight", "q_layernorm.weight", "k_layernorm.weight"}) {
    refused(name, {2}, "[2]: what changes queries, keys or scores is not supported here");
  }
}

TEST_CASE("cli: wrong, truncated and hostile files") {
  const Folder folder;
  const Layer layer = write_small_layer(folder);
  write_npy(folder.file("q.npy"), {3, 4}, random_floats(12, 10));
  const std::string weights = read_text(folder.file("w.safetensors")), query = read_text(folder.file("q.npy"));
  const auto with_weights = [&](const std::string& bytes) {
    write_text(folder.file("bad"), bytes);
    check_refused(folder, "run --weights bad --query q.npy --num-heads 2 --output out.npy", "bad: ");
  };
  const auto with_query = [&](const std::string& bytes) {
    write_text(folder.file("bad"), bytes);
    check_refused(folder, "run --weights w.safetensors --query bad --num-heads 2 --output out.npy", "bad: ");
  };
  for (const std::size_t keep : {0, 7, 8, 60, 200}) with_weights(weights.substr(0, keep));
  with_weights(weights.substr(0, weights.size() - 1));
  with_weights(weights + "x");
  with_weights(query);
  with_weights(std::string(8, '\xff') + weights.substr(8));
  with_weights(std::string("\x02\0\0\0\0\0\0\0[]", 10));
  for (const std::size_t keep : {0, 5, 9, 40, 128}) with_query(query.substr(0, keep));
  with_query(query.substr(0, query.size() - 1));
  with_query(query + "x");
  with_query(weights);
  std::string huge = query;
  huge.replace(huge.find("(3, 4), }"), 9, "(99999999999, 99999999999), }");
  with_query(huge);
  for (const char* path : {"missing", ".", "/dev/zero", "/dev/null"}) {
    check_refused(folder, std::string("run --weights ") + path + " --query q.npy --num-heads 2 --output o",
                  std::string(path) + ": ");
    check_refused(folder, std::string("run --weights w.safetensors --num-heads 2 --output o --query ") + path,
                  std::string(path) + ": ");
  }
  check_refused(folder, "run --weights \"$(printf 'a\\nb\\033[2J')\" --query q.npy --num-heads 2 --output o",
                "a\\x0ab\\x1b[2J: ");
}
