// SPDX-License-Identifier: Apache-2.0
#ifndef MHA_ENGINES_NCNN_REPLACEMENT_H
#define MHA_ENGINES_NCNN_REPLACEMENT_H

#include <layer.h>
#include <platform.h>

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
    if (!serves_) return with_flags_of_own(failed);
    support_batch = own_->support_batch;  // with a cache: such blobs are then seen here, and refused
    return failed;
  }
  int load_model(const ncnn::ModelBin& weights) override { return serves_ ? pack(weights) : own_->load_model(weights); }
  int create_pipeline(const ncnn::Option& option) override {
    return serves_ ? 0 : with_flags_of_own(own_->create_pipeline(option));
  }
  int destroy_pipeline(const ncnn::Option& option) override { return serves_ ? 0 : own_->destroy_pipeline(option); }
  int forward(const Mats& bottom, Mats& top, const ncnn::Option& option) const override {
    if (!serves_) return own_->forward(bottom, top, option);
    if (support_batch && bottom[0].n > 1) {
      NCNN_LOGE("mha: %s: a cache is of one item, but there are %d", type.c_str(), bottom[0].n);
      return -1;
    }
    return compute(bottom, top, option);
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
