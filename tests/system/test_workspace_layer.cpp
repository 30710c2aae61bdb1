// SPDX-License-Identifier: Apache-2.0
// The workspace of layers and linears of any types: of a layer the canaries are the bytes that fill up a part's last
// line, before and between the blocks that its projections and a linear keep as floats whole canaries. And no byte
// behind it.
#include "core/base/context.h"
#include "core/call/layer.h"
#include "core/call/linear.h"
#include "core/run/layer_forward.h"
#include "core/run/project.h"
#include "simd/float_mode.h"
#include "tests/support/guard.h"
#include "tests/support/random_typed.h"
#include "tests/support/seeds.h"

using namespace mha::test;

namespace {

constexpr int64_t kCanary = 1024;  // floats
constexpr int64_t kLine = 64;

int64_t up_to_line(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

/// Runs every thread's share on the calling thread, under the number of that thread: all slots are used.
void run_in_turn(void*, int64_t count, void (*task)(void*, int64_t), void* data) {
  for (int64_t n = 0; n < count; ++n) task(data, n);
}

/// A workspace of poison, aligned to a line.
struct Poisoned {
  std::vector<uint32_t> memory;
  char* data;

  explicit Poisoned(int64_t bytes) : memory(static_cast<size_t>(bytes + 2 * kLine) / 4, kPoisonBits) {
    data = reinterpret_cast<char*>(memory.data());
    data += (kLine - reinterpret_cast<uintptr_t>(data) % kLine) % kLine;
  }
  /// Nobody wrote to these bytes.
  void check_intact(const char* what, int64_t begin, int64_t bytes) const {
    const std::vector<uint32_t> canary(static_cast<size_t>(bytes) / 4, kPoisonBits);
    if (std::memcmp(data + begin, canary.data(), static_cast<size_t>(bytes)) != 0) FAIL_CHECK("written " << what);
  }
};

/// A layer of weights of any types, and a call of it over tensors of any types. Sizes make no part of its workspace end
/// on a line, if that can be.
struct TypedLayerCall {
  mha_layer_config config = {};
  int64_t B, Tq, Tk;
  std::unique_ptr<LayerProblem> problem;
  std::unique_ptr<RandomMasks> masks;
  std::vector<Elements> held;
  mha_layer_weights weights;
  mha_rope rope = {};
  mha_norm norm = {};
  mha_dtype output_dtype;
  LayerCall args;

  explicit TypedLayerCall(Random& random)
      : B(between(random, 1, 3)), Tq(between(random, 1, 40)), Tk(between(random, 1, 300)) {
    config.embed_dim = between(random, 1, 40);
    config.num_kv_heads = between(random, 1, 3), config.num_heads = config.num_kv_heads * between(random, 1, 3);
    config.head_dim = between(random, 1, 21), config.value_head_dim = between(random, 1, 21);
    config.out_dim = between(random, 1, 30);
    problem = std::make_unique<LayerProblem>(config, B, Tq, Tk, Biases::kAll, random.bits() >> 8);
    masks = std::make_unique<RandomMasks>(random, B, config.num_heads, Tq, Tk);
    const LayerProblem& p = *problem;
    args = p.args(), weights = p.separate_weights();
    bool floats = one_in(random, 4);  // but the output projection, maybe
    const auto type = [&](const std::vector<float>& values, mha_view* view) {
      held.emplace_back(floats ? MHA_F32 : random_dtype(random), values);
      *view = held.back().view();
    };
    type(p.query, &args.query), type(p.key, &args.key), type(p.value, &args.value);
    type(p.query_weight, &weights.query_weight), type(p.key_weight, &weights.key_weight);
    type(p.value_weight, &weights.value_weight);
    if (one_in(random, 2)) floats = false;
    type(p.output_weight, &weights.output_weight);
    output_dtype = floats ? MHA_F32 : random_dtype(random);
    masks->get().put_into(&args), args.score_mods = masks->mods();
    args.results.weights_mode = one_of(random, {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED});
    rope.dims = config.head_dim / 2 * 2, norm.epsilon = 1e-5f;
    if (one_in(random, 2)) args.query_norm = args.key_norm = &norm;
    bool positive = true;  // positions, as rope wants them
    for (int64_t b = 0; b < B; ++b) positive &= masks->get().first_position(b, Tq, Tk) >= 0;
    if (config.head_dim > 1 && positive && one_in(random, 2)) args.rope = &rope;
  }
  TypedLayerCall(const TypedLayerCall&) = delete;
  TypedLayerCall& operator=(const TypedLayerCall&) = delete;

  LayerPtr make(const mha_context* context) const { return problem->make_from(context, weights); }
  int64_t weights_count() const {
    const mha_weights_mode mode = args.results.weights_mode;
    return mode == MHA_WEIGHTS_NONE ? 0 : B * (mode == MHA_WEIGHTS_AVERAGED ? 1 : config.num_heads) * Tq * Tk;
  }
};

/// The results of a layer call, poison before it.
struct LayerResults {
  Elements output;
  std::vector<float> weights;

  LayerResults(const TypedLayerCall& call, LayerCall* args)
      : output(call.output_dtype, call.B * call.Tq * call.config.out_dim), weights(poisoned(call.weights_count())) {
    args->output = output.mut_view();
    if (!weights.empty()) args->results.weights = mut_view(weights.data());
  }
};

/// Nothing is written between the parts of a call, nor behind them.
LayerResults check_gaps(const mha_context* context, const mha_layer* layer, const TypedLayerCall& call) {
  LayerCall args = call.args;
  LayerResults results(call, &args);
  std::unique_ptr<GuardedBuffer> workspace;
  // The last 64-byte line ends at the page, so that the slack for alignment is all in front.
  guarded_workspace(&workspace, &args, [&](size_t* bytes, mha_error* error) {
    return layer_workspace_bytes(context, layer, args, bytes, error);
  });
  mha_error error = {};
  require_ok(layer_forward(context, layer, args, &error), error);
  CHECK(workspace->slack_intact());
  const char* base = static_cast<const char*>(workspace->data());
  const int64_t slack = (kLine - static_cast<int64_t>(reinterpret_cast<uintptr_t>(base) % kLine)) % kLine;
  CHECK(slack == kLine - 1);
  const auto untouched = [&](const char* what, int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      if (base[n] == '\xff') continue;
      FAIL_CHECK(what << ": byte " << n << " of the workspace was written");
      return;
    }
  };
  untouched("before the first part", 0, slack);
  int64_t at = slack;
  const mha_layer_config& c = call.config;
  const int64_t parts[] = {call.B * call.Tq * c.num_heads * c.head_dim, call.B * call.Tk * c.num_kv_heads * c.head_dim,
                           call.B * call.Tk * c.num_kv_heads * c.value_head_dim,
                           call.B * call.Tq * c.num_heads * c.value_head_dim, 2 * call.B * c.num_heads * call.Tq};
  const char* const names[] = {"behind q", "behind k", "behind v", "behind the heads' outputs", "behind the states"};
  for (int n = 0; n < 5; ++n) {
    untouched(names[n], at + parts[n] * 4, at + up_to_line(parts[n] * 4));
    at += up_to_line(parts[n] * 4);
  }
  return results;
}

/// The same call with the projections' floats moved away from attention's workspace, and those of each thread apart.
void check_projections_apart(const mha_context* context, const mha_layer* layer, const TypedLayerCall& call,
                             const LayerResults& want) {
  const mha::FloatMode mode;
  LayerCall args = call.args;
  LayerResults got(call, &args);
  const mha_layer_args raw = args.raw();
  mha::Forward f;
  mha_error error = {};
  f.layer = layer;
  require_ok(mha::validate_forward(layer->config, &raw, mha::Check::kAll, &f.views, &f.attention.problem, &error),
             error);
  require_ok(mha::plan_forward(*context, mha::PlanFor::kCall, &f, &error), error);
  if (f.plan.linear_scratch == 0) return;  // all floats
  const int64_t scratch = f.plan.linear_scratch * 4, end = f.plan.linear_offset, threads = f.plan.threads;
  f.plan.linear_offset += kCanary * 4, f.plan.linear_scratch += kCanary;
  const int64_t step = f.plan.linear_scratch * 4;
  const Poisoned workspace(f.plan.linear_offset + threads * step);
  require_ok(mha::run_forward(*context, f, workspace.data, &error), error);
  workspace.check_intact("before the projections' floats", end, kCanary * 4);
  for (int64_t n = 0; n < threads; ++n)
    workspace.check_intact("behind a thread's floats", f.plan.linear_offset + n * step + scratch, kCanary * 4);
  CHECK(got.output.bytes() == want.output.bytes());
  check_same_bits("weights", got.weights, want.weights);
}

}  // namespace

TEST_CASE("workspace: a layer's parts, nothing behind them", "[memory][workspace]") {
  for (const uint64_t seed : seeds(430000, 150)) {
    Random random(seed);
    const TypedLayerCall call(random);
    INFO("seed " << seed);
    for (const std::string& target : supported_targets()) {
      for (const int64_t threads : {1, 3}) {
        const mha_context* context = shared_context(target, threads);
        const LayerPtr layer = call.make(context);
        const LayerResults results = check_gaps(context, layer.get(), call);
        check_projections_apart(context, layer.get(), call, results);
      }
    }
  }
}

namespace {

/// Three threads' blocks of floats, run in turn under the numbers of the threads, with a canary behind each.
void check_linear_apart(Random& random, const std::string& target) {
  const int64_t M = between(random, 1, 70), N = between(random, 1, 300), K = between(random, 1, 700), threads = 3;
  const Elements input(random_dtype(random), random_floats(M * K, random.bits() >> 8));
  const Elements weight(random_dtype(random), random_floats(N * K, random.bits() >> 8));
  Elements want(random_dtype(random), M * N), got = want;
  mha_linear_config config = {};
  config.in_features = K, config.out_features = N, config.weight = weight.view();
  mha_linear* made = nullptr;
  mha_error error = {};
  require_ok(mha_linear_create(shared_context(target, 1), &config, &made, &error), error);
  const LinearPtr linear(made);
  mha_linear_args args = {};
  args.rows = M, args.input = input.view(), args.output = want.mut_view();
  require_ok(mha_linear_forward(shared_context(target, 1), linear.get(), &args, &error), error);

  mha_context_options options = {};
  options.target = target.c_str(), options.num_threads = threads, options.parallel_for.run = run_in_turn;
  const ContextPtr context = make_context(options);
  args.output = got.mut_view();
  const mha::FloatMode mode;
  mha::LinearProblem problem = {};
  require_ok(mha::linear_problem(*linear.get(), args, mha::Check::kAll, &problem, &error), error);
  mha::LinearJob job = mha::make_linear_job(*context.get()->table, threads, problem);
  const int64_t floats = job.plan.scratch_floats;
  job.scratch_step = floats + kCanary;
  const Poisoned workspace(threads * job.scratch_step * 4);
  job.scratch = reinterpret_cast<float*>(workspace.data);
  mha::LinearPhase work = {};
  work.jobs[work.count++] = &job;
  const mha::Phase phase = mha::linear_phase(work);
  mha::run_phases(*context.get(), threads, &phase, 1);
  for (int64_t n = 0; n < threads; ++n)
    workspace.check_intact("behind a thread's floats", (n * job.scratch_step + floats) * 4, kCanary * 4);
  CHECK(got.bytes() == want.bytes());
}

}  // namespace

TEST_CASE("workspace: canaries behind the floats of a linear's threads", "[memory][workspace]") {
  for (const uint64_t seed : seeds(440000, 200)) {
    INFO("seed " << seed);
    for (const std::string& target : supported_targets()) {
      Random random(seed);
      check_linear_apart(random, target);
    }
  }
}
