// SPDX-License-Identifier: Apache-2.0
// Reads and checks the inputs of `mha run`; see run_inputs.h.
#include "tools/cli/run_inputs.h"

namespace mha::cli {
namespace {

using Shape = std::vector<std::int64_t>;

Input read_input(const std::string& path, const std::string& role, std::int64_t width) {
  Input input{path, take(io::read_npy<float>(path))};
  const Shape& shape = input.tensor.shape;
  const std::string what = path + ": " + role + " of shape " + io::shape_text(shape);
  if (shape.size() != 2 && shape.size() != 3) throw Failure(what + " must be [T, width] or [B, T, width]");
  if (shape.back() != width) {
    throw Failure(what + " has width " + std::to_string(shape.back()) + ", the weights take " + std::to_string(width));
  }
  input.tensor.values.reserve(1);  // an empty key is not a missing one: its pointer must not be null
  input.batched = shape.size() == 3;
  input.batch = input.batched ? shape[0] : 1;
  input.length = shape[shape.size() - 2];
  return input;
}

void require_same(const Input& input, const std::string& role, const std::string& what, std::int64_t got,
                  std::int64_t wanted) {
  if (got == wanted) return;
  throw Failure(input.path + ": " + role + " of shape " + io::shape_text(input.tensor.shape) + " has " + what + " " +
                std::to_string(got) + ", expected " + std::to_string(wanted));
}

// The strides over which a mask of 2 to 4 dimensions is broadcast to [B, H, Tq, Tk]; a dimension of 1 is broadcast.
struct MaskStrides {
  std::int64_t b = 0, h = 0, q = 0;
};
MaskStrides mask_strides(const std::string& path, const Shape& shape, const LayerCall& args, std::int64_t heads) {
  const std::size_t rank = shape.size();
  const auto fits = [&](std::size_t from_last, std::int64_t full) {
    return rank < from_last || shape[rank - from_last] == full || shape[rank - from_last] == 1;
  };
  const bool batch_fits = rank == 3 ? fits(3, args.batch) : fits(3, heads) && fits(4, args.batch);
  if (rank < 2 || rank > 4 || shape.back() != args.key_len || !fits(2, args.query_len) || !batch_fits) {
    throw Failure(path + ": mask of shape " + io::shape_text(shape) +
                  " must be [Tq, Tk], [B, Tq, Tk] or [B, H, Tq, Tk] with B = " + std::to_string(args.batch) +
                  ", H = " + std::to_string(heads) + ", Tq = " + std::to_string(args.query_len) +
                  ", Tk = " + std::to_string(args.key_len) + " (B, H and Tq may be 1)");
  }
  const auto stride = [&](std::size_t from_last) -> std::int64_t {
    if (rank < from_last || shape[rank - from_last] == 1) return 0;
    std::int64_t product = 1;
    for (std::size_t i = rank - from_last + 1; i < rank; ++i) product *= shape[i];
    return product;
  };
  if (rank == 3) return {stride(3), 0, stride(2)};
  return {stride(4), stride(3), stride(2)};
}

void read_masks(const InputFiles& files, const Causal& causal, std::int64_t heads, Inputs& inputs, LayerCall& args) {
  args.causal = causal.causal;
  args.positions = causal.positions;
  if (!files.mask.empty()) {
    const io::Source source = take(io::Source::file(files.mask));
    const io::Scalar scalar = take(io::read_npy_header(source)).scalar;
    if (scalar == io::Scalar::kBool || scalar == io::Scalar::kU8) {
      inputs.bool_mask = take(io::read_npy<std::uint8_t>(source));
      inputs.bool_mask.values.reserve(1);  // as above
      const auto strides = mask_strides(files.mask, inputs.bool_mask.shape, args, heads);
      args.masks.bool_mask = {inputs.bool_mask.values.data(), strides.b, strides.h, strides.q, 1};
    } else {
      inputs.add_mask = take(io::read_npy<float>(source));
      inputs.add_mask.values.reserve(1);
      const auto strides = mask_strides(files.mask, inputs.add_mask.shape, args, heads);
      args.masks.add_mask = {inputs.add_mask.values.data(), MHA_F32, 0, strides.b, strides.h, strides.q, 1};
    }
  }
  if (!files.key_lengths.empty()) {
    inputs.key_lengths = take(io::read_npy<std::int64_t>(files.key_lengths));
    if (inputs.key_lengths.shape != Shape{args.batch}) {
      throw Failure(files.key_lengths + ": key lengths of shape " + io::shape_text(inputs.key_lengths.shape) +
                    " must be " + io::shape_text({args.batch}) + ", one for each batch item");
    }
    if (args.causal != 0 && args.positions.align == MHA_ALIGN_DEFAULT) {
      throw Failure(
          "--causal beside --key-lengths must say where queries stand: top-left (padded prompts), bottom-right (at the "
          "end of each item's keys) or offset N");
    }
    args.items.key_lengths = inputs.key_lengths.values.data();
  }
}

}  // namespace

LayerCall read_inputs(const InputFiles& files, const Causal& causal, const mha_layer_config& config, Inputs& inputs) {
  inputs.query = read_input(files.query, "query", config.embed_dim);
  LayerCall args;
  args.batch = inputs.query.batch;
  args.query_len = args.key_len = inputs.query.length;
  args.query = view(inputs.query.tensor.values.data());
  if (files.key.empty() && config.kdim != config.embed_dim) {
    throw Failure("--key is needed: the weights take keys of width " + std::to_string(config.kdim) +
                  ", queries of width " + std::to_string(config.embed_dim));
  }
  if (files.value.empty() && config.vdim != config.kdim) {
    throw Failure("--value is needed: the weights take values of width " + std::to_string(config.vdim) +
                  ", keys of width " + std::to_string(config.kdim));
  }
  if (!files.key.empty()) {
    inputs.key = read_input(files.key, "key", config.kdim);
    require_same(inputs.key, "key", "batch", inputs.key.batch, args.batch);
    args.key_len = inputs.key.length;
    args.key = view(inputs.key.tensor.values.data());
  }
  if (!files.value.empty()) {
    inputs.value = read_input(files.value, "value", config.vdim);
    require_same(inputs.value, "value", "batch", inputs.value.batch, args.batch);
    require_same(inputs.value, "value", "length", inputs.value.length, args.key_len);
    args.value = view(inputs.value.tensor.values.data());
  }
  read_masks(files, causal, config.num_heads, inputs, args);
  return args;
}

}  // namespace mha::cli
