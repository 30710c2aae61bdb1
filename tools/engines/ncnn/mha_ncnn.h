// SPDX-License-Identifier: Apache-2.0
// Layers of ncnn computed by mha: SDPA and MultiHeadAttention. README.md says what they serve.
#ifndef MHA_ENGINES_NCNN_MHA_NCNN_H
#define MHA_ENGINES_NCNN_MHA_NCNN_H

#include <c_api.h>
#include <net.h>

namespace mha_ncnn {

/// Call it before net.load_param. 0: done.
__attribute__((visibility("default"))) int register_layers(ncnn::Net& net);

}  // namespace mha_ncnn

/// The same for a net of ncnn's C interface.
extern "C" __attribute__((visibility("default"))) int mha_ncnn_register_layers(ncnn_net_t net);

#endif  // MHA_ENGINES_NCNN_MHA_NCNN_H
