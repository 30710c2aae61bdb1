// SPDX-License-Identifier: Apache-2.0
// decode_f32, decode_bf16, decode_f16, decode_int8, decode_int4: one call of attention for the newest token, or the
// newest few, of each sequence in a cache that stores keys and values as the name says.
// /arithmetic:bf16, /arithmetic:int8: timed in turn with F32 arithmetic over the same cache.
#include <algorithm>
#include <cmath>

#include "bench/cache_case.h"
#include "bench/naive.h"
#include "bench/twin.h"

namespace mha::bench {
namespace {

// Sequences take their tokens from one list, each this many further on.
constexpr int64_t kShift = 64;
// Tokens that a ring has dropped, so that what it keeps begins in the middle.
constexpr int64_t kDropped = 100;
// Tokens appended at once to each sequence in turn, so that the pages of sequences are interleaved.
constexpr int64_t kTurn = 256;

class DecodeCase : public Case {
 public:
  DecodeCase(const Context& context, const DecodeShape& shape)
      : context_(context),
        shape_(shape),
        dropped_(shape.kind == MHA_CACHE_RING ? kDropped : 0),
        query_(shape.batch * query_floats(), kUnitVariance, 1),
        key_(context, shape.dtype, shape.key_len + dropped_ + kShift * shape.batch, shape.num_kv_heads, shape.head_dim,
             2),
        value_(context, shape.dtype, shape.key_len + dropped_ + kShift * shape.batch, shape.num_kv_heads,
               shape.head_dim, 3),
        output_(query_.size()),
        cache_(context, config_of(shape)) {
    output_.fill(std::nanf(""));
    fill();
    args_.batch = shape.batch;
    args_.num_heads = shape.num_heads;
    args_.num_kv_heads = shape.num_kv_heads;
    args_.query_len = shape.query_len;
    args_.head_dim = shape.head_dim;
    args_.query = view(query_.data());
    args_.output = mut_view(output_.data());
    args_.cache = cache_->get();
    args_.causal = 1;
    args_.arithmetic = shape.arithmetic;
    if (shape.kind == MHA_CACHE_RING) args_.masks.window_left = shape.key_len - shape.query_len + 1;
    workspace_.resize(require(context.attention_workspace_bytes(args_)));
    args_.resources.workspace = workspace_.data();
    args_.resources.workspace_bytes = workspace_.size();
    ready_ = args_.raw();

    const int64_t kept = shape.batch * shape.key_len * token_floats() * 2;  // of keys and values
    const int64_t group = shape.num_heads / shape.num_kv_heads;
    flops = 2.0 * static_cast<double>(kept * group * shape.query_len);
    const int64_t kept_bytes = kept / shape.head_dim * row_bytes(shape.dtype, shape.head_dim);
    bytes = static_cast<double>(kept_bytes) + 4.0 * static_cast<double>(query_.size() + output_.size());
    is_integer = shape.arithmetic == MHA_ARITHMETIC_INT8;
    streamed = {cache_.region(static_cast<size_t>(kept_bytes))};
  }
  mha_status run() override { return mha_attention(context_.get(), &ready_, nullptr); }
  /// The first and the last sequence, against what was appended.
  std::string check() override {
    std::string verdict;
    for (int64_t b : {int64_t{0}, shape_.batch - 1}) {
      if (verdict.empty()) verdict = check_attention(plain_args(b), output_.data() + b * query_floats(), nullptr);
    }
    return verdict;
  }
  double naive_seconds(int threads) override {
    return naive_attention_seconds(plain_args(0), threads, false) * static_cast<double>(shape_.batch);
  }

 private:
  static mha_cache_config config_of(const DecodeShape& shape) {
    mha_cache_config config = {};
    config.kind = shape.kind;
    config.num_kv_heads = shape.num_kv_heads;
    config.head_dim = shape.head_dim;
    config.max_sequences = shape.batch;
    config.key = config.value = storage_of(shape.dtype);
    config.page_size = shape.page_size;
    config.capacity = shape.kind == MHA_CACHE_PAGED ? shape.batch * shape.key_len : shape.key_len;
    return config;
  }
  int64_t token_floats() const { return shape_.num_kv_heads * shape_.head_dim; }
  int64_t query_floats() const { return shape_.query_len * shape_.num_heads * shape_.head_dim; }

  void fill() {
    const int64_t tokens = shape_.key_len + dropped_;
    for (int64_t t = 0; t < tokens; t += kTurn) {
      for (int64_t b = 0; b < shape_.batch; ++b) {
        mha_append_args append = {};
        append.batch = 1;
        append.sequences = &b;
        append.length = std::min(kTurn, tokens - t);
        append.key = key_.given.view(), append.value = value_.given.view();
        for (mha_view* from : {&append.key, &append.value}) {
          from->data = static_cast<const char*>(from->data) + (kShift * b + t) * token_floats() * bytes_of(from->dtype);
        }
        require(cache_->append(context_, append));
      }
    }
  }
  /// One sequence as a call without a cache.
  AttentionCall plain_args(int64_t b) const {
    AttentionCall args = args_;
    args.batch = 1;
    args.key_len = shape_.key_len;
    args.query = view(query_.data() + b * query_floats());
    args.key = view(key_.wide.data() + (kShift * b + dropped_) * token_floats());
    args.value = view(value_.wide.data() + (kShift * b + dropped_) * token_floats());
    args.cache = nullptr;
    args.masks = {};
    return args;
  }

  const Context& context_;
  DecodeShape shape_;
  int64_t dropped_;
  Floats query_;
  CachedTokens key_, value_;
  Floats output_;
  CacheInMemory cache_;
  std::vector<unsigned char> workspace_;
  AttentionCall args_;
  mha_attention_args ready_ = {};  // points into args_
};

}  // namespace

namespace {

// The twin of a case, and the counter that gets the ratio of their times; null: it has none.
const char* twin_of(DecodeShape& shape) {
  const DecodeShape given = shape;
  if (given.arithmetic != MHA_ARITHMETIC_F32) return shape.arithmetic = MHA_ARITHMETIC_F32, "f32_ratio";
  if (given.query_len > 1) return shape.query_len = 1, "one_query_ratio";
  if (given.kind == MHA_CACHE_PAGED) return shape.kind = MHA_CACHE_CONTIGUOUS, "contiguous_ratio";
  if (given.dtype != MHA_F32) return shape.dtype = MHA_F32, "f32_ratio";
  return nullptr;
}

}  // namespace

CaseSpec decode_case(const DecodeShape& shape, int threads) {
  std::string name = std::string("decode_") + name_of(shape.dtype) + "/B:" + std::to_string(shape.batch) +
                     "/Tk:" + std::to_string(shape.key_len) + "/H:" + std::to_string(shape.num_heads) +
                     "/Hkv:" + std::to_string(shape.num_kv_heads) + "/D:" + std::to_string(shape.head_dim);
  if (shape.query_len > 1) name += "/Tq:" + std::to_string(shape.query_len);
  name += std::string("/cache:") + name_of(shape.kind);
  if (shape.page_size > 0) name += "/page:" + std::to_string(shape.page_size);
  if (shape.arithmetic == MHA_ARITHMETIC_BF16) name += "/arithmetic:bf16";
  if (shape.arithmetic == MHA_ARITHMETIC_INT8) name += "/arithmetic:int8";
  name += "/threads:" + std::to_string(threads);
  return {name, "", threads, [=](const Context& context) -> std::unique_ptr<Case> {
            auto work = std::make_unique<DecodeCase>(context, shape);
            DecodeShape like = shape;
            const char* counter = twin_of(like);
            if (counter == nullptr) return work;
            if (like.kind != MHA_CACHE_PAGED) like.page_size = 0;
            return std::make_unique<TwinCase>(std::move(work), std::make_unique<DecodeCase>(context, like), counter);
          }};
}

}  // namespace mha::bench
