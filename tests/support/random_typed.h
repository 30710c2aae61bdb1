// SPDX-License-Identifier: Apache-2.0
// Random attention calls over tensors of any types, and the same calls over those tensors widened to floats.
#ifndef MHA_TESTS_SUPPORT_RANDOM_TYPED_H
#define MHA_TESTS_SUPPORT_RANDOM_TYPED_H

#include <memory>

#include "tests/support/dtypes.h"
#include "tests/support/random_decode.h"

namespace mha::test {

/// A call's results, the output in a type of its own.
struct TypedResult {
  Elements output;
  std::vector<float> weights, log_sum_exp;
};

/// `got` is `want`, a result in floats, but for its output, which is rounded once.
inline void check_widened(const std::string& what, const TypedResult& got, const TypedResult& want) {
  check_rounded(what + ": output", got.output, want.output.widened());
  check_same_bits(what + ": weights", got.weights, want.weights);
  check_same_bits(what + ": log-sum-exp", got.log_sum_exp, want.log_sum_exp);
}

/// A workspace with no room behind it, NaN before the call.
template <class Call, class SizeOf>
GuardedBuffer& guarded_workspace(std::unique_ptr<GuardedBuffer>* workspace, Call* args, SizeOf size_of) {
  mha_error error = {};
  size_t bytes = 0;
  require_ok(size_of(&bytes, &error), error);
  *workspace = std::make_unique<GuardedBuffer>(bytes, Guard::kAfter);
  std::memset((*workspace)->data(), 0xff, bytes);
  args->resources.workspace = (*workspace)->data(), args->resources.workspace_bytes = bytes;
  return **workspace;
}

/// Calls mha_attention into `output`, whose gaps must stay as they are; `longest_key` as in ResultSizes.
inline TypedResult run_typed(const mha_context* context, AttentionCall args, Typed output, int64_t longest_key) {
  const ResultSizes sizes(args, longest_key);
  TypedResult result = {Elements(), poisoned(sizes.weights), poisoned(sizes.log_sum_exp)};
  args.output = output.mut_view();
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) args.results.weights = mut_view(result.weights.data());
  args.results.log_sum_exp = result.log_sum_exp.data();
  std::unique_ptr<GuardedBuffer> workspace;
  guarded_workspace(&workspace, &args, [&](size_t* bytes, mha_error* error) {
    return attention_workspace_bytes(context, args, bytes, error);
  });
  mha_error error = {};
  require_ok(attention(context, args, &error), error);
  CHECK(workspace->slack_intact());
  CHECK(output.gaps_intact());
  result.output = output.dense();
  return result;
}

/// An additive mask in a type of its own, and the same mask widened.
class TypedMask {
 public:
  /// `items`, `heads`, `queries`, `keys`: how far its indices go.
  void place(Random& random, int64_t items, int64_t heads, int64_t queries, int64_t keys, mha_add_mask* stored,
             mha_add_mask* wide) {
    if (wide->data == nullptr) return;
    const int64_t step = wide->stride_k == MHA_BROADCAST ? 0 : std::max<int64_t>(wide->stride_k, 1);
    const auto last = [](int64_t size, int64_t stride) { return std::max<int64_t>(size - 1, 0) * stride; };
    const int64_t count = 1 + last(items, wide->stride_b) + last(heads, wide->stride_h) +
                          last(queries, wide->stride_q) + last(keys, step);
    const float* given = static_cast<const float*>(wide->data);
    stored_ = Elements(random_dtype(random), std::vector<float>(given, given + count));
    wide_ = stored_.widened();
    stored->data = stored_.data(), stored->dtype = stored_.dtype();
    wide->data = wide_.data();
  }

 private:
  Elements stored_;
  std::vector<float> wide_;
};

/// Both kinds of call: over the stored tensors, and over the widened ones.
class TypedCall {
 public:
  explicit TypedCall(Random& random) {
    draw_sizes(random);
    query = draw_tensor(random, ragged() ? Extent{1, shape.Tq, shape.H, shape.D} : shape.query(), 3);
    key = draw_tensor(random, ragged() ? Extent{1, shape.Tk, shape.Hkv, shape.D} : shape.key(), 1);
    const float magnitude = one_of(random, {1.0f, 1.0f, 1e5f, 1e-6f, 1e-38f});
    value = draw_tensor(random, ragged() ? Extent{1, shape.Tk, shape.Hkv, shape.Dv} : shape.value(), magnitude);
    output_dtype = random_dtype(random);
    output_strides = random_strides(random, output_extent());
    wide.batch = shape.B, wide.num_heads = shape.H, wide.num_kv_heads = shape.Hkv;
    wide.query_len = shape.Tq, wide.key_len = shape.Tk, wide.head_dim = shape.D, wide.value_head_dim = shape.Dv;
    if (one_in(random, 4)) wide.scale = 0.3f;
    if (!one_in(random, 4)) draw_masks(random);
    if (ragged()) wide.items.query_offsets = query_offsets_.data(), wide.items.key_offsets = key_offsets_.data();
    draw_results(random);
    if (one_in(random, 4)) draw_preparation(random);
    stored = wide;
    stored.query = query->view(), stored.key = key->view(), stored.value = value->view();
    wide.query = query->wide_view(), wide.key = key->wide_view(), wide.value = value->wide_view();
    mask_.place(random, shape.B, shape.H, longest_query, longest_key, &stored.masks.add_mask, &wide.masks.add_mask);
    mask2_.place(random, shape.B, shape.H, longest_query, longest_key, &stored.masks.add_mask2, &wide.masks.add_mask2);
  }
  TypedCall(const TypedCall&) = delete;
  TypedCall& operator=(const TypedCall&) = delete;

  AttentionShape shape = {};  // of ragged calls: the totals
  int64_t longest_query, longest_key;
  std::unique_ptr<Typed> query, key, value;
  mha_dtype output_dtype;
  Strides output_strides;
  AttentionCall wide, stored;

  void set_arithmetic(mha_arithmetic arithmetic) { wide.arithmetic = stored.arithmetic = arithmetic; }
  bool ragged() const { return !query_offsets_.empty(); }
  Extent output_extent() const { return ragged() ? Extent{1, shape.Tq, shape.H, shape.Dv} : shape.output(); }
  /// Where the stored call's output goes, and the widened call's.
  Typed output() const { return Typed(output_dtype, output_extent(), output_strides, 1); }
  Typed wide_output() const { return Typed(MHA_F32, output_extent(), dense_bthd(output_extent())); }
  /// Items that differ in length or position have no partial results together.
  bool alike() const { return !ragged() && (shape.B <= 1 || (!wide.items.key_lengths && !wide.positions.offsets)); }

  std::string describe() const {
    std::ostringstream text;
    text << mha::test::describe(shape) << (ragged() ? " ragged" : "") << ", query " << dtype_name(query->dtype())
         << " key " << dtype_name(key->dtype()) << " value " << dtype_name(value->dtype()) << " output "
         << dtype_name(output_dtype) << ":";
    if (masks_) text << masks_->describe();
    for (const mha_add_mask* m : {&stored.masks.add_mask, &stored.masks.add_mask2})
      if (m->data) text << ", mask " << dtype_name(m->dtype);
    text << ", weights " << wide.results.weights_mode << (wide.rope ? " rope" : "") << (wide.query_norm ? " norm" : "");
    return text.str();
  }

 private:
  // Enough for three threads, small enough for hundreds of cases.
  static constexpr int64_t kMostMultiplyAdds = 1500000;

  void draw_sizes(Random& random) {
    AttentionShape& s = shape;
    s.Hkv = between(random, 1, 3), s.H = s.Hkv * one_of<int64_t>(random, {1, 1, 2, 4, 9});
    s.B = one_in(random, 30) ? 0 : between(random, 1, 3);
    s.Tq = one_in(random, 4) ? 1 : random_length(random, 400);
    s.Tk = one_in(random, 6) ? between(random, 1, 16) : random_length(random, 1300);
    if (s.Tq <= 40 && one_in(random, 8)) s.Tk = between(random, 2000, 5000);
    // Outputs of many rows that are kept as floats between chunks.
    const bool running = one_in(random, 8);
    if (running) s.B = s.H = s.Hkv = 1, s.Tq = between(random, 25, 33), s.Tk = between(random, 257, 300);
    longest_query = s.Tq, longest_key = s.Tk;
    if (s.B > 1 && one_in(random, 4)) draw_offsets(random);
    if (longest_query * longest_key > 100000) s.H /= s.Hkv, s.Hkv = 1;
    const int64_t scores = std::max<int64_t>(s.B * s.H * longest_query * longest_key, 1);
    const int64_t widest = std::max<int64_t>(kMostMultiplyAdds / scores / 2, 1);
    s.D = std::min(between(random, 1, 140), widest);
    s.Dv = one_in(random, 2) ? s.D : std::min(between(random, 1, 140), widest);
    if (running) s.D = between(random, 1, 70), s.Dv = between(random, 65, 140);
    if (!one_in(random, 3)) return;
    for (int64_t* width : {&s.D, &s.Dv}) *width = std::max<int64_t>(*width / 16 * 16, 16);
  }
  void draw_offsets(Random& random) {
    const auto draw = [&](int64_t most, std::vector<int64_t>* offsets, int64_t* longest) {
      *longest = 0;
      offsets->assign(1, 0);
      for (int64_t b = 0; b < shape.B; ++b) {
        const int64_t length = one_in(random, 3) ? most : random.below(most + 1);
        *longest = std::max(*longest, length);
        offsets->push_back(offsets->back() + length);
      }
      return offsets->back();
    };
    shape.Tq = draw(shape.Tq, &query_offsets_, &longest_query);
    shape.Tk = draw(shape.Tk, &key_offsets_, &longest_key);
  }
  /// Values of any size, now and then a special one or any bits.
  static std::unique_ptr<Typed> draw_tensor(Random& random, const Extent& extent, float magnitude) {
    auto tensor =
        std::make_unique<Typed>(random_dtype(random), extent, random_strides(random, extent), random.below(4));
    std::vector<float> values = random_floats(extent.count(), random.bits() >> 8, magnitude);
    if (one_in(random, 5)) spoil(random, &values);
    tensor->fill(values);
    if (tensor->dtype() == MHA_F32 || values.empty() || !one_in(random, 5)) return tensor;
    // Denormals, the greatest f16, signalling and quiet NaNs, infinities of either type, the first beyond an f16's infinity.
    const uint32_t bits =
        one_of<uint32_t>(random, {1, 0x83ff, 0x7bff, 0x7c01, 0xfe55, 0x7c00, 0xfc00, 0x7f80, 0x7f81, 0x007f, 0x8000});
    tensor->spoil(random.below(extent.b), random.below(extent.t), random.below(extent.h), random.below(extent.d), bits);
    return tensor;
  }
  void draw_masks(Random& random) {
    masks_ = std::make_unique<RandomMasks>(random, shape.B, shape.H, longest_query, longest_key,
                                           ragged() ? RandomMasks::Lengths::kKnown : RandomMasks::Lengths::kAny);
    masks_->get().put_into(&wide);
    wide.score_mods = masks_->mods();
  }
  void draw_results(Random& random) {
    wide.results.weights_mode = one_of(
        random, {MHA_WEIGHTS_NONE, MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED, MHA_WEIGHTS_KEY_SUMS});
    if (wide.results.weights_mode == MHA_WEIGHTS_NONE || ragged() || !one_in(random, 4)) return;
    for (int64_t i = 0; i < shape.Tq; i += between(random, 1, 9)) rows_.push_back(i);
    rows_.push_back(-1);  // never empty
    choose_weights_rows(&wide, rows_.data(), static_cast<int64_t>(rows_.size()) - 1);
  }
  void draw_preparation(Random& random) {
    if (shape.D > 1 && !one_in(random, 4)) {
      rope_.style = one_of(random, {MHA_ROPE_HALF, MHA_ROPE_INTERLEAVED});
      rope_.dims = 2 * between(random, 1, shape.D / 2);
      const int64_t queries = ragged() ? shape.Tq : shape.B * shape.Tq;
      for (int64_t n = 0; n <= queries; ++n) positions_.push_back(random.below(5000));
      wide.rope = &rope_, wide.positions.query = positions_.data();
    }
    if (!one_in(random, 2)) return;
    norm_.epsilon = 1e-5f, norm_weight_ = random_floats(shape.D, random.bits() >> 8);
    if (one_in(random, 2)) norm_.weight = norm_weight_.data();
    wide.query_norm = &norm_;
  }

  std::vector<int64_t> query_offsets_, key_offsets_, rows_, positions_;
  std::unique_ptr<RandomMasks> masks_;
  TypedMask mask_, mask2_;
  mha_rope rope_ = {};
  mha_norm norm_ = {};
  std::vector<float> norm_weight_;
};

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_RANDOM_TYPED_H
