// SPDX-License-Identifier: Apache-2.0
// Everything one target compiles, and its kernel table. Included once, at the end of
// simd/targets/<family>/<target>.cpp. Without external symbols but `table`: each function is in an anonymous namespace,
// so the linker cannot hand one target's code to another.
#include "core/kernels/kernel_table.h"
#include "core/math/elementary_series.h"

#include "simd/vec-inl.h"

#include "simd/element-inl.h"

#include "simd/doubles-inl.h"

#include "core/kernels/tile-inl.h"

#include "core/kernels/pack-inl.h"

#include "core/kernels/tokens-inl.h"

#include "core/kernels/gemm-inl.h"

#include "core/kernels/masks-inl.h"

#include "core/kernels/softmax-inl.h"

#include "core/kernels/combine-inl.h"

#include "core/kernels/row_weights-inl.h"

#include "core/kernels/prefetch-inl.h"

#include "core/kernels/step-inl.h"

#include "core/kernels/packed-inl.h"

#include "core/kernels/in_place-inl.h"

#include "core/kernels/few_keys-inl.h"

#include "core/kernels/weights-inl.h"

#include "core/kernels/rope-inl.h"

#include "core/kernels/angles-inl.h"

namespace mha::MHA_TARGET_NS {

#define MHA_STRING_(x) #x
#define MHA_STRING(x) MHA_STRING_(x)

extern const KernelTable table;
const KernelTable table = {
    MHA_STRING(MHA_TARGET_NS),
    kHasFma,
    kTileRows,
    panels_for(kTileRows) * kLanes,
    kMostTileRows,
    panels_for(kMostTileRows) * kLanes,
    kMaxDepth,
    kAttentionRows,
    kInPlaceRows,
    kMaxInPlaceRows,
    convert,
    attention,
    attention_in_place,
    attention_few_keys,
    merge,
    finish_weights,
    weights,
    norm_rope_rows,
    rope_frequencies,
    rope_angles,
    exp2_array,
    tanh_array,
    attention_scratch,
    in_place_scratch,
};

extern const LinearKernels linear_kernels;
const LinearKernels linear_kernels = {pack_weights, gemm, gemm_scratch};

}  // namespace mha::MHA_TARGET_NS
