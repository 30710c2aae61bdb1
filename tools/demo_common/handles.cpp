// SPDX-License-Identifier: Apache-2.0
#include "tools/demo_common/handles.h"

#include <stdexcept>
#include <utility>

namespace mha::demo {

void fail(const std::string& message) { throw std::runtime_error(message); }

void require(const Status& status) {
  if (!status) fail(std::string(mha_status_string(status.code())) + ": " + status.message());
}

io::Safetensors open_weights(const std::string& path) {
  auto file = io::Safetensors::open(path);
  if (!file) fail(file.message());
  return std::move(*file);
}

std::vector<float> read_tensor(const io::Safetensors& file, const std::string& name,
                               const std::vector<int64_t>& shape) {
  auto tensor = file.read<float>(name);
  if (!tensor) fail(tensor.message());
  if (tensor->shape != shape)
    fail(file.label() + ": " + name + " has shape " + io::shape_text(tensor->shape) + ", the configuration says " +
         io::shape_text(shape));
  return std::move(tensor->values);
}

ProductFormat ProductFormat::named(const std::string& name) {
  ProductFormat format;
  if (name == "bf16") format.arithmetic = MHA_ARITHMETIC_BF16;
  if (name.rfind("int", 0) != 0) return format;
  format.arithmetic = MHA_ARITHMETIC_INT8;
  format.weights.dtype = MHA_I8;
  if (name == "int8") format.weights.group = 32;
  if (name == "int4") format.weights.dtype = MHA_I4, format.weights.group = 32, format.weights.scale_dtype = MHA_F16;
  return format;
}

Linear make_linear(const Context& context, int64_t in, int64_t out, const float* weight, const float* bias,
                   const ProductFormat& format) {
  mha_linear_config config = {};
  config.in_features = in, config.out_features = out;
  config.weight = view(weight), config.bias = bias;
  config.arithmetic = format.arithmetic, config.packed = format.packed();
  return require(Linear::create(context, config));
}

void apply(const Context& context, const Linear& linear, int64_t rows, const float* input, float* output) {
  mha_linear_args args = {};
  args.rows = rows, args.input = view(input), args.output = mut_view(output);
  require(linear.forward(context, args));
}

}  // namespace mha::demo
