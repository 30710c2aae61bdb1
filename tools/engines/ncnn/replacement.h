// SPDX-License-Identifier: Apache-2.0
#ifndef MHA_ENGINES_NCNN_REPLACEMENT_H
#define MHA_ENGINES_NCNN_REPLACEMENT_H

#include <layer.h>

#include <memory>
#include <vector>

namespace mha_ncnn {

using Mats = std::vector<ncnn::Mat>;

/// A layer in the place of ncnn's own, which it asks for what mha does not compute.
class Replacement : public ncnn::Layer {
 public:
  explicit Replacement(const char* type) : own_(ncnn::create_layer_cpu(ncnn::layer_to_index(type))) {}
  using Layer::forward;

  int load_param(const ncnn::ParamDict& params) override {
    if (own_ == nullptr) return -1;
    serves_ = read(params);
    const int failed = own_->load_param(params);
    return serves_ ? failed : with_flags_of_own(failed);
  }
  int load_model(const ncnn::ModelBin& weights) override { return serves_ ? pack(weights) : own_->load_model(weights); }
  int create_pipeline(const ncnn::Option& option) override {
    return serves_ ? 0 : with_flags_of_own(own_->create_pipeline(option));
  }
  int destroy_pipeline(const ncnn::Option& option) override { return serves_ ? 0 : own_->destroy_pipeline(option); }
  int forward(const Mats& bottom, Mats& top, const ncnn::Option& option) const override {
    return serves_ ? compute(bottom, top, option) : own_->forward(bottom, top, option);
  }

 private:
  virtual bool read(const ncnn::ParamDict& params) = 0;  // false: not served
  virtual int pack(const ncnn::ModelBin& /*weights*/) { return 0; }
  virtual int compute(const Mats& bottom, Mats& top, const ncnn::Option& option) const = 0;

  int with_flags_of_own(int result) {
    support_packing = own_->support_packing, support_any_packing = own_->support_any_packing;
    support_bf16_storage = own_->support_bf16_storage, support_fp16_storage = own_->support_fp16_storage;
    support_int8_storage = own_->support_int8_storage, support_batch = own_->support_batch;
    return result;
  }

  std::unique_ptr<ncnn::Layer> own_;
  bool serves_ = false;
};

}  // namespace mha_ncnn

#endif  // MHA_ENGINES_NCNN_REPLACEMENT_H
