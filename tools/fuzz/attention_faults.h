// SPDX-License-Identifier: Apache-2.0
// fuzz_attention's faults: one wrong argument of a call that is right otherwise, and the status that it must get.
#ifndef MHA_TOOLS_FUZZ_ATTENTION_FAULTS_H
#define MHA_TOOLS_FUZZ_ATTENTION_FAULTS_H

#include <mha/mha.hpp>

#include <cstdint>
#include <limits>

namespace mha::fuzz {

// A word of the caller's that this version does not know: set in one of the groups.
inline bool set_reserved(int which, AttentionCall& a) {
  switch (which) {
    case 0:
      a.reserved[5] = 1;
      return true;
    case 1:
      a.items.reserved[3] = 1;
      return true;
    case 2:
      a.positions.reserved_int = 1;
      return true;
    case 3:
      a.masks.reserved[6] = 1;
      return true;
    case 4:
      a.score_mods.reserved[15] = 1;
      return true;
    case 5:
      a.results.reserved[0] = 1;
      return true;
    case 6:
      a.resources.reserved[2] = 1;
      return true;
    case 7:
      a.query.reserved = 1;
      return true;
    case 8:
      a.output.reserved = 1;
      return true;
    case 9:
      a.key.reserved = 1;
      return true;
    case 10:
      a.value.reserved = 1;
      return true;
    case 11:
      a.masks.add_mask.reserved = 1;
      return true;
    case 12:
      a.results.weights.reserved = 1;
      return a.results.weights_mode != MHA_WEIGHTS_NONE;
    case 13: {
      static const mha_pages kPages = {nullptr, 0, 1, 0, {0, 1}};
      a.pages = &kPages;
      return true;
    }
    default:
      a.masks.add_mask2.reserved = 1;
      return true;
  }
}

// Scales, which floats have not.
inline constexpr mha_quant kNoScales{};

// Of an additive mask, refused with one and without.
inline constexpr float kNoFactor = 0;

// Breaks a value; false if that fault does not apply to this problem.
inline bool break_value(int fault, AttentionCall& a) {
  switch (fault) {
    case 0:
      a.batch = -1;
      return true;
    case 1:
      a.key_len = std::numeric_limits<std::int64_t>::min();
      return true;
    case 2:
      a.head_dim = 0;
      return true;
    case 3:
      a.num_heads = 0;
      return true;
    case 4:
      a.positions.align = static_cast<mha_align>(4);
      return true;
    case 5:
      a.results.weights_mode = static_cast<mha_weights_mode>(4);
      return true;
    case 6:
      a.scale = std::numeric_limits<float>::infinity();
      return true;
    case 7:
      a.scale = -1;
      return a.scale_is_exact == 0;
    case 8:
      a.arithmetic = static_cast<mha_arithmetic>(3);
      return true;
    case 9:
      a.positions.offset = 1;
      return a.positions.align != MHA_ALIGN_OFFSET;
    case 10:
      a.masks.bit_mask.stride_q = 1;
      return true;
    case 11:
      a.positions.align = MHA_ALIGN_DEFAULT;
      a.positions.offset = 0;
      a.positions.offsets = nullptr;
      return a.causal != 0 && a.items.key_lengths != nullptr;
    case 12:
      a.results.weights = a.output;
      return a.results.weights_mode == MHA_WEIGHTS_NONE;
    case 13:
      a.positions.query = &a.batch;  // which only rope looks at
      return true;
    case 14:
      a.value.dtype = static_cast<mha_dtype>(100);
      return true;
    case 15:
      a.masks.add_mask.dtype = static_cast<mha_dtype>(-1);
      return true;
    case 16:
      a.key.quant = &kNoScales;
      return a.key.dtype != MHA_I8;
    case 17:  // between two elements
      a.query.dtype = MHA_BF16;
      a.query.data = static_cast<const char*>(a.query.data) + 1;
      return true;
    case 18:
      a.masks.add_mask_factors = &kNoFactor;
      return true;
    default:
      a.resources.workspace = nullptr;
      return a.resources.workspace_bytes > 0;
  }
}
constexpr int kValueFaults = 20, kReservedFaults = 15;

// What INT8 does not multiply: zeros.
inline bool break_int8(AttentionCall& a) {
  static mha_quant quant;
  quant = *a.value.quant;
  quant.zeros = quant.scales, quant.zero_dtype = MHA_F32;
  a.value.quant = &quant;
  return quant.scale_dtype == MHA_F32;  // elsewhere scales are not aligned as zeros
}

// Breaks one argument; false if that fault does not apply to this problem.
inline bool break_argument(int fault, AttentionCall& a, mha_status& expected) {
  expected = MHA_ERR_ARGUMENT;
  if (fault < kValueFaults) return break_value(fault, a);
  fault -= kValueFaults;
  if (fault < kReservedFaults) return set_reserved(fault, a);
  switch (fault - kReservedFaults) {
    case 0:
      expected = MHA_ERR_NULL;
      a.query = {};
      return true;
    case 1:
      expected = MHA_ERR_NULL;
      a.value = {};
      return a.key_len > 0;
    case 2:
      expected = MHA_ERR_NULL;
      a.output = {};
      return true;
    case 3:
      expected = MHA_ERR_SHAPE;
      a.num_kv_heads = a.num_heads + 1;
      return true;
    case 4:
      expected = MHA_ERR_STRIDE;
      a.query.stride_t = -2;
      return true;
    case 5:
      expected = MHA_ERR_STRIDE;
      a.output.stride_b = MHA_BROADCAST;
      return true;
    case 6:
      expected = MHA_ERR_STRIDE;
      a.value.stride_t = -4;
      return true;
    case 7:
      expected = MHA_ERR_STRIDE;
      a.output.stride_b = 1, a.output.stride_t = a.output.stride_h = 0;
      return a.query_len > 1;
    case 8:
      expected = MHA_ERR_STRIDE;
      a.key.data = a.output.data;  // not looked at before it is refused
      return a.key_len > 0;
    case 9:
      expected = MHA_ERR_OVERFLOW;
      a.query.stride_b = std::numeric_limits<std::int64_t>::max();
      return a.batch > 2;
    case 10:
      expected = MHA_ERR_NULL;  // codes need scales
      a.key.dtype = MHA_I8, a.key.quant = nullptr;
      return true;
    case 11:
      expected = MHA_ERR_UNSUPPORTED;
      if (a.arithmetic == MHA_ARITHMETIC_INT8) return break_int8(a);
      a.arithmetic = MHA_ARITHMETIC_INT8;
      return true;
    case 12:
      expected = MHA_ERR_UNSUPPORTED;
      a.results.weights.dtype = MHA_F16;
      return a.results.weights_mode != MHA_WEIGHTS_NONE;
    case 13:
      expected = MHA_ERR_UNSUPPORTED;
      a.masks.add_mask2.dtype = MHA_Q8_0;
      return true;
    case 14:
      expected = MHA_ERR_UNSUPPORTED;
      a.output.dtype = MHA_U8;
      return true;
    default:
      expected = MHA_ERR_BUFFER;
      a.resources.workspace_bytes = 0;
      return true;
  }
}
constexpr int kFaults = kValueFaults + kReservedFaults + 16;

}  // namespace mha::fuzz

#endif  // MHA_TOOLS_FUZZ_ATTENTION_FAULTS_H
