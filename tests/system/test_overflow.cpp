// SPDX-License-Identifier: Apache-2.0
// Sizes and offsets beyond 32 bits: products that leave 63 bits are refused by calls and by size queries, offsets
// beyond 2^31 elements are followed (in virtual memory, of which few pages are touched).
#include <sys/mman.h>

#include <functional>

#include "tests/support/layers.h"

using namespace mha::test;

namespace {

constexpr int64_t k31 = int64_t{1} << 31, k33 = int64_t{1} << 33, k40 = int64_t{1} << 40, k62 = int64_t{1} << 62;

/// Reserved address space; a page gets memory when it is touched.
class Reserved {
 public:
  explicit Reserved(int64_t floats) : bytes_(static_cast<size_t>(floats) * sizeof(float)) {
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(data_ != MAP_FAILED);
  }
  ~Reserved() { munmap(data_, bytes_); }
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;
  float* floats() const { return static_cast<float*>(data_); }

 private:
  size_t bytes_;
  void* data_;
};

/// Copies a dense tensor to its far-apart places, or back.
void copy(const Extent& e, const Strides& s, float* far_apart, float* dense, bool back) {
  for (int64_t b = 0; b < e.b; ++b)
    for (int64_t t = 0; t < e.t; ++t)
      for (int64_t h = 0; h < e.h; ++h)
        for (int64_t d = 0; d < e.d; ++d, ++dense) {
          float* place = far_apart + b * s.b + t * s.t + h * s.h + d;
          back ? * dense = *place : * place = *dense;
        }
}

}  // namespace

TEST_CASE("overflow: attention sizes whose products leave 63 bits", "[overflow][status]") {
  struct Sizes {
    int64_t B, H, Hkv, Tq, Tk, D, Dv;
  };
  const Sizes too_large[] = {
      {k31, k31, 1, k31, 1, 1, 1},   {k33, 1, 1, k33, 8, 64, 64},   {1, 1, 1, k31, k31, k31, 1},
      {1, 1, 1, 1, k33, k33, 1},     {1, 1, 1, 1, k33, 1, k33},     {k62, 4, 4, 4, 1, 1, 1},
      {1, 1, 1, 1, 1, k62, 1},       {1, 1, 1, k62, 1, 1, 1},       {1, k62, k62, 1, 1, 1, 1},
      {1, 1, 1, 1, k62, 1, 1},       {k40, k40, k40, 1, 1, 1, 1},   {2, 2, 2, 2, k62, k62, k62},
      {INT64_MAX, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, INT64_MAX, 1}, {1, 1, 1, 1, 1, 1, INT64_MAX},
      {1, 1, 1, INT64_MAX, 1, 1, 1}, {1, INT64_MAX, 1, 1, 1, 1, 1}, {1, 1, 1, 1, INT64_MAX, 1, 1},
      {k33, k31, 1, 1, 1, 1, 1},
  };
  for_each_target([&](const std::string&, const mha_context* context) {
    float unused = 0;
    for (const Sizes& z : too_large) {
      INFO("B " << z.B << " H " << z.H << " Tq " << z.Tq << " Tk " << z.Tk << " D " << z.D << " Dv " << z.Dv);
      AttentionCall args;
      args.batch = z.B, args.num_heads = z.H, args.num_kv_heads = z.Hkv, args.query_len = z.Tq, args.key_len = z.Tk;
      args.head_dim = z.D, args.value_head_dim = z.Dv;
      args.query = args.key = args.value = view(&unused);
      args.output = mut_view(&unused);
      mha_error error = {};
      size_t bytes = 1, needed = 1;
      CHECK(attention_workspace_bytes(context, args, &bytes, &error) == MHA_ERR_OVERFLOW);
      CHECK(error.status == MHA_ERR_OVERFLOW);
      CHECK(bytes == 1);
      CHECK(attention_explain(context, args, nullptr, 0, &needed, nullptr) == MHA_ERR_OVERFLOW);
      CHECK(attention(context, args, nullptr) == MHA_ERR_OVERFLOW);
    }
  });
}

TEST_CASE("overflow: sizes that fit give a workspace that can hold them", "[overflow]") {
  // Split over chunks on many threads the partial results dominate: the query must not wrap to a small number.
  for_each_target(
      [&](const std::string&, const mha_context* context) {
        AttentionCall args;
        args.batch = 1, args.num_heads = args.num_kv_heads = 1, args.query_len = 1;
        args.key_len = k33, args.head_dim = args.value_head_dim = 64;
        size_t bytes = 0;
        REQUIRE(attention_workspace_bytes(context, args, &bytes, nullptr) == MHA_OK);
        CHECK(bytes > static_cast<size_t>(k33 / 256 * 64 * 4));
        args.key_len = k31 * 16;
        size_t more = 0;
        REQUIRE(attention_workspace_bytes(context, args, &more, nullptr) == MHA_OK);
        CHECK(more > bytes);
      },
      16);
}

TEST_CASE("overflow: what is not cut in chunks has no partial results that could be too large", "[overflow]") {
  // A partial result of every row and chunk would take 2^40 * 2^32 * 12 bytes. There is none on one thread, and on
  // several the call is cut another way; what remains is the state of each row, 8 bytes.
  for (int64_t threads : {1, 2, 64}) {
    INFO("threads " << threads);
    for_each_target(
        [&](const std::string&, const mha_context* context) {
          AttentionCall args;
          args.batch = args.num_heads = 1, args.query_len = args.key_len = k40, args.head_dim = 1;
          size_t bytes = 0;
          mha_error error = {};
          require_ok(attention_workspace_bytes(context, args, &bytes, &error), error);
          CHECK(bytes >= static_cast<size_t>(k40) * 8);
          CHECK(bytes < static_cast<size_t>(k40) * 8 + (size_t{1} << 26));
          // Of 4096 rows 64 threads would make one block and share its chunks, but for 2^64 bytes of partial results.
          args.query_len = 4096, args.key_len = int64_t{1} << 38, args.head_dim = int64_t{1} << 20;
          require_ok(attention_workspace_bytes(context, args, &bytes, &error), error);
          CHECK(bytes < size_t{1} << 40);
          args.query_len = args.key_len = k40, args.head_dim = 1;
          // Of partial results that are asked for there is one of every row and chunk.
          CHECK(attention_partial_bytes(context, args, &bytes, &error) == MHA_ERR_OVERFLOW);
        },
        threads);
  }
}

TEST_CASE("overflow: calls of nothing, whose other sizes are the greatest", "[overflow]") {
  mha_rope rope = {};
  rope.base = 10000;
  float unused = 0;
  for_each_target([&](const std::string&, const mha_context* context) {
    for (const bool rotated : {false, true}) {
      AttentionCall args;  // no items of very many queries; then no queries of very many heads
      args.batch = 0, args.num_heads = 1, args.query_len = k62, args.key_len = 8, args.head_dim = 8;
      args.query = view(&unused), args.output = mut_view(&unused);
      args.query.stride_b = args.query.stride_t = args.query.stride_h = 1;
      args.output.stride_b = args.output.stride_t = args.output.stride_h = 1;
      args.key = args.value = view(&unused);
      if (rotated) args.rope = &rope;
      mha_error error = {};
      require_ok(attention(context, args, &error), error);
      args.batch = 1, args.query_len = 0, args.num_heads = k62, args.num_kv_heads = 1;
      require_ok(attention(context, args, &error), error);
    }
    mha_layer_config config = {};
    config.embed_dim = 8, config.num_heads = 2;
    const LayerProblem problem(config, 1, 1, 1, Biases::kAll, 0);
    const LayerPtr layer = problem.make(context);
    for (const bool queries : {true, false}) {
      LayerCall args;
      args.batch = 0, args.query_len = queries ? k62 : 1, args.key_len = queries ? 1 : k62;
      args.query = args.key = args.value = view(&unused), args.output = mut_view(&unused);
      for (mha_view* v : {&args.query, &args.key, &args.value}) v->stride_b = v->stride_t = 1;
      args.output.stride_b = args.output.stride_t = 1;
      mha_error error = {};
      require_ok(layer_forward(context, layer.get(), args, &error), error);
    }
  });
}

TEST_CASE("overflow: strides that lead beyond 2^63 bytes", "[overflow][status]") {
  AttentionProblem problem({2, 2, 2, 3, 4, 8, 8}, MaskKind::kNone, 160000);
  std::vector<float> output = poisoned(96), weights = poisoned(2 * 2 * 3 * 4);
  uint8_t open = 1;
  float add = 0;
  struct Mistake {
    const char* name;
    std::function<void(AttentionCall&)> make;
  };
  const Mistake mistakes[] = {
      {"query", [](AttentionCall& a) { a.query.stride_b = k62, a.query.stride_t = 16, a.query.stride_h = 8; }},
      {"query", [](AttentionCall& a) { a.query.stride_b = 48, a.query.stride_t = INT64_MAX, a.query.stride_h = 8; }},
      {"key", [](AttentionCall& a) { a.key.stride_b = 64, a.key.stride_t = INT64_MAX / 3, a.key.stride_h = 8; }},
      {"value",
       [](AttentionCall& a) { a.value.stride_b = 64, a.value.stride_t = 16, a.value.stride_h = INT64_MAX - 4; }},
      {"output",
       [](AttentionCall& a) { a.output.stride_b = INT64_MAX, a.output.stride_t = 16, a.output.stride_h = 8; }},
      {"weights",
       [](AttentionCall& a) {
         a.results.weights.stride_b = INT64_MAX, a.results.weights.stride_t = 4, a.results.weights.stride_h = 12;
       }},
      {"bool_mask",
       [&](AttentionCall& a) {
         a.masks.bool_mask = {&open, INT64_MAX, 1, 1};
       }},
      {"bool_mask",
       [&](AttentionCall& a) {
         a.masks.bool_mask = {&open, 0, 0, INT64_MAX / 2};
       }},
      {"add_mask", [&](AttentionCall& a) { a.masks.add_mask = {&add, MHA_F32, 0, 0, INT64_MAX, 1}; }},
      {"masks.bool_mask.stride_k",
       [&](AttentionCall& a) {
         a.masks.bool_mask = {&open, 0, 0, 0, INT64_MAX};
       }},
      {"masks.add_mask2", [&](AttentionCall& a) { a.masks.add_mask2 = {&add, MHA_F32, 0, 0, 0, 0, INT64_MAX / 4}; }},
      {"masks.bit_mask",
       [&](AttentionCall& a) {
         a.masks.bit_mask = {&open, 0, INT64_MAX, 0};
       }},
      {"score_mods.relative_left",
       [&](AttentionCall& a) { a.score_mods.relative_bias = &add, a.score_mods.relative_left = k62; }},
      {"positions.offset is 4611686018427387905",
       [](AttentionCall& a) { a.positions.align = MHA_ALIGN_OFFSET, a.positions.offset = k62 + 1; }},
      {"positions.offset is -9223372036854775808",
       [](AttentionCall& a) { a.positions.align = MHA_ALIGN_OFFSET, a.positions.offset = INT64_MIN; }},
  };
  for_each_target([&](const std::string&, const mha_context* context) {
    for (const Mistake& mistake : mistakes) {
      AttentionCall args = problem.args();
      args.output = mut_view(output.data());
      args.results.weights_mode = MHA_WEIGHTS_PER_HEAD;
      args.results.weights = mut_view(weights.data());
      mistake.make(args);
      mha_error error = {};
      INFO(mistake.name);
      CHECK(attention(context, args, &error) == MHA_ERR_OVERFLOW);
      CHECK(mentions(error, mistake.name));
      size_t bytes = 0;
      CHECK(attention_workspace_bytes(context, args, &bytes, nullptr) == MHA_ERR_OVERFLOW);
      CHECK(std::all_of(output.begin(), output.end(), is_poison));
      CHECK(std::all_of(weights.begin(), weights.end(), is_poison));
    }
  });
}

TEST_CASE("overflow: linear and layer", "[overflow][status]") {
  const mha_context* context = shared_context(supported_targets()[0], 2);
  const std::vector<float> weight(64);
  mha_error error = {};
  const std::pair<int64_t, int64_t> features[] = {{k33, k33}, {k31, k33},     {k62, 1},
                                                  {1, k62},   {INT64_MAX, 1}, {1, INT64_MAX}};
  for (const auto& [in, out] : features) {
    mha_linear* linear = nullptr;
    INFO("in " << in << " out " << out);
    mha_linear_config config = {};
    config.in_features = in, config.out_features = out, config.weight = view(weight.data());
    CHECK(mha_linear_create(context, &config, &linear, &error) == MHA_ERR_OVERFLOW);
    CHECK(linear == nullptr);
  }
  const LinearPtr linear = make_linear(context, 4, 3, weight.data(), nullptr);
  std::vector<float> output = poisoned(12);
  struct Rows {
    int64_t rows, input_stride, output_stride;
  };
  for (const Rows& r :
       {Rows{k62, 0, 0}, Rows{INT64_MAX, 0, 0}, Rows{4, k62, 0}, Rows{4, 0, k62}, Rows{3, INT64_MAX, 0}}) {
    mha_linear_args args = linear_args(r.rows, weight.data(), output.data());
    args.input.stride_t = r.input_stride, args.output.stride_t = r.output_stride;
    size_t bytes = 1;
    INFO("rows " << r.rows << " strides " << r.input_stride << " " << r.output_stride);
    CHECK(mha_linear_forward(context, linear.get(), &args, &error) == MHA_ERR_OVERFLOW);
    CHECK(mha_linear_workspace_bytes(context, linear.get(), &args, &bytes, &error) == MHA_ERR_OVERFLOW);
    CHECK(bytes == 1);
    CHECK(std::all_of(output.begin(), output.end(), is_poison));
  }

  mha_layer_weights weights = {};
  weights.query_weight = weights.key_weight = weights.value_weight = weights.output_weight = view(weight.data());
  for (const mha_layer_config& config :
       {mha_layer_config{k33, 1, 0, k33, 0, 0, 0, 0, 0}, mha_layer_config{k62, k62, 0, 0, 0, 0, 0, 0, 0},
        mha_layer_config{8, k33, 0, k33, 0, 0, 0, 0, 0}, mha_layer_config{8, k31, 0, 8, k33, 0, 0, 0, 0},
        mha_layer_config{8, 1, 0, 8, 8, k62, 0, 0, 0}, mha_layer_config{8, 1, 0, 8, 8, 0, 0, INT64_MAX, 0},
        mha_layer_config{INT64_MAX, 1, 0, 0, 0, 0, 0, 0, 0}}) {
    mha_layer* layer = nullptr;
    INFO("embed_dim " << config.embed_dim << " num_heads " << config.num_heads << " head_dim " << config.head_dim);
    CHECK(mha_layer_create(context, &config, &weights, &layer, &error) == MHA_ERR_OVERFLOW);
    CHECK(layer == nullptr);
  }

  const LayerProblem problem({8, 2, 0, 0, 0, 0, 0, 0, 0}, 1, 1, 1, Biases::kAll, 161000);
  const LayerPtr layer = problem.make(context);
  struct Sizes {
    int64_t B, Tq, Tk;
  };
  for (const Sizes& z : {Sizes{k33, k33, 1}, Sizes{k62, 1, 1}, Sizes{1, k62, 1}, Sizes{1, 1, k62}, Sizes{k31, 1, k31},
                         Sizes{INT64_MAX, 1, 1}, Sizes{1, INT64_MAX, 1}}) {
    LayerCall args = problem.args();
    args.batch = z.B, args.query_len = z.Tq, args.key_len = z.Tk;
    args.output = mut_view(output.data());
    size_t bytes = 1;
    INFO("B " << z.B << " Tq " << z.Tq << " Tk " << z.Tk);
    CHECK(layer_workspace_bytes(context, layer.get(), args, &bytes, &error) == MHA_ERR_OVERFLOW);
    CHECK(bytes == 1);
    CHECK(layer_forward(context, layer.get(), args, &error) == MHA_ERR_OVERFLOW);
    CHECK(std::all_of(output.begin(), output.end(), is_poison));
  }
}

TEST_CASE("overflow: rows, merges and caches", "[overflow][status]") {
  const mha_context* context = shared_context(supported_targets()[0], 2);
  const std::vector<float> input(64);
  std::vector<float> output = poisoned(64);
  mha_error error = {};
  struct Sizes {
    int64_t B, T, H, D;
  };
  for (const Sizes& z : {Sizes{k62, 1, 1, 1}, Sizes{1, k62, 1, 1}, Sizes{1, 1, k62, 1}, Sizes{1, 1, 1, k62},
                         Sizes{k31, k31, 1, 1}, Sizes{INT64_MAX, 1, 1, 1}, Sizes{k40, 1, k40, 1}}) {
    INFO("B " << z.B << " T " << z.T << " H " << z.H << " D " << z.D);
    mha_rows_args rows = {};
    rows.batch = z.B, rows.length = z.T, rows.num_heads = z.H, rows.head_dim = z.D;
    rows.input = view(input.data()), rows.output = mut_view(output.data());
    CHECK(mha_rows_prepare(context, &rows, &error) == MHA_ERR_OVERFLOW);
    mha_merge_partials_args partials = {};
    partials.batch = z.B, partials.query_len = z.T, partials.num_heads = z.H, partials.value_head_dim = z.D;
    partials.partials = input.data(), partials.num_chunks = 1, partials.output = mut_view(output.data());
    CHECK(mha_attention_merge_partials(context, &partials, &error) == MHA_ERR_OVERFLOW);
    mha_cache_config config = {};
    config.max_sequences = z.B, config.capacity = z.T, config.num_kv_heads = z.H, config.head_dim = z.D;
    size_t bytes = 1;
    CHECK(mha_cache_memory_bytes(&config, &bytes, &error) == MHA_ERR_OVERFLOW);
    CHECK(bytes == 1);
  }
  const float* parts[] = {input.data()};
  for (const auto& [rows, width] : {std::pair<int64_t, int64_t>{k62, 1}, {1, k62}, {k31, k31}, {INT64_MAX, 1}}) {
    mha_merge_args merge = {};
    merge.num_parts = 1, merge.rows = rows, merge.value_head_dim = width;
    merge.outputs = merge.log_sum_exps = parts, merge.output = output.data();
    CHECK(mha_attention_merge(context, &merge, &error) == MHA_ERR_OVERFLOW);
  }
  CHECK(std::all_of(output.begin(), output.end(), is_poison));
}

TEST_CASE("overflow: attention with element offsets beyond 2^31 in every tensor", "[overflow][virtual]") {
  const AttentionShape s = {2, 2, 2, 2, 3, 5, 7};
  AttentionProblem problem(s, MaskKind::kNone, 162000);
  problem.set_add_mask(1);
  problem.set_bool_mask(2);
  // Batch items, rows and heads each beyond 2^31 elements apart.
  const auto strides_of = [](const Extent& e) { return Strides{e.t * (k31 + 16) + 2 * k31, k31 + 16, 3 * k31 / 4}; };
  const auto size_of = [&](const Extent& e) {
    const Strides st = strides_of(e);
    return (e.b - 1) * st.b + (e.t - 1) * st.t + (e.h - 1) * st.h + e.d;
  };
  const Reserved query(size_of(s.query())), key(size_of(s.key())), value(size_of(s.value())),
      output(size_of(s.output()));
  copy(s.query(), strides_of(s.query()), query.floats(), problem.query.data(), false);
  copy(s.key(), strides_of(s.key()), key.floats(), problem.key.data(), false);
  copy(s.value(), strides_of(s.value()), value.floats(), problem.value.data(), false);
  // The masks too: one item's rows at the start, the other's 2^32 further on.
  const Reserved add(2 * k31 + 100), open(k31 + 100);
  std::copy_n(problem.add_mask.begin(), 6, add.floats());
  std::copy_n(problem.add_mask.begin() + 6, 6, add.floats() + 2 * k31);
  uint8_t* bytes = reinterpret_cast<uint8_t*>(open.floats());
  std::copy_n(problem.bool_mask.begin(), 12, bytes);
  std::copy_n(problem.bool_mask.begin() + 12, 12, bytes + 2 * k31);

  for_each_target([&](const std::string&, const mha_context* context) {
    const AttentionResult want = run_attention(context, problem.args());
    AttentionCall args = problem.args();
    args.query = view(query.floats(), strides_of(s.query()));
    args.key = view(key.floats(), strides_of(s.key()));
    args.value = view(value.floats(), strides_of(s.value()));
    args.masks.add_mask = {add.floats(), MHA_F32, 0, 2 * k31, 0, 3};
    args.masks.bool_mask = {bytes, 2 * k31, 6, 3};
    args.output = mut_view(output.floats(), strides_of(s.output()));
    mha_error error = {};
    require_ok(attention(context, args, &error), error);
    std::vector<float> got = poisoned(s.output().count());
    copy(s.output(), strides_of(s.output()), output.floats(), got.data(), true);
    check_same_bits("output", got, want.output);
  });
}

TEST_CASE("overflow: linear with rows beyond 2^31 elements apart", "[overflow][virtual]") {
  const int64_t M = 3, K = 9, N = 20, stride = k31 + 32;
  const std::vector<float> x = random_floats(M * K, 163000), w = random_floats(N * K, 163001);
  const Reserved input((M - 1) * stride + K), output((M - 1) * stride + N);
  for (int64_t m = 0; m < M; ++m) std::copy_n(x.begin() + m * K, K, input.floats() + m * stride);
  for_each_target([&](const std::string&, const mha_context* context) {
    const LinearPtr linear = make_linear(context, K, N, w.data(), nullptr);
    const std::vector<float> want = run_linear(context, linear.get(), x, M);
    mha_linear_args args = linear_args(M, input.floats(), output.floats());
    args.input.stride_t = args.output.stride_t = stride;
    mha_error error = {};
    require_ok(mha_linear_forward(context, linear.get(), &args, &error), error);
    for (int64_t m = 0; m < M; ++m)
      CHECK(first_bit_difference(output.floats() + m * stride, want.data() + m * N, static_cast<size_t>(N)) < 0);
  });
}
