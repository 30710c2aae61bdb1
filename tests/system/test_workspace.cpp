// SPDX-License-Identifier: Apache-2.0
// The parts of a workspace: planned once, then moved apart, with a canary behind each. Whatever writes past its part
// changes a canary; whatever reads past it finds NaN, and the result has other bits. Of a layer the canaries are the
// bytes that fill up a part's last line. And every kind of call with no byte behind its workspace.
#include "core/base/context.h"
#include "core/call/validate.h"
#include "core/run/attention.h"
#include "simd/float_mode.h"
#include "tests/support/guard.h"
#include "tests/support/random_decode.h"

using namespace mha::test;

namespace {

constexpr int64_t kCanary = 4096;  // bytes behind each part
constexpr int64_t kLine = 64;

int64_t up_to_line(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

/// Bytes [begin, end) of a workspace that nobody may touch.
struct Gap {
  const char* behind;
  int64_t begin, end;
};

/// The same plan with its parts apart. Sizes are those of the comments in plan.h; of a thread's parts, whose sizes the
/// plan does not tell, up to the line on which the next begins.
class Apart {
 public:
  Apart(const mha::AttentionProblem& p, const mha::AttentionPlan& planned, bool partials_given) : plan_(planned) {
    const int64_t rows = p.heads * p.total_queries(), items = planned.uniform ? 0 : p.batch;
    const bool prepared = p.preparation.wanted();
    place("states", &plan_.states_offset, rows * static_cast<int64_t>(sizeof(mha::RowState)));
    place("sequences", &plan_.sequences_offset, items * static_cast<int64_t>(sizeof(mha::SequencePlan)));
    place("partials", &plan_.partials_offset, partials_given ? 0 : planned.partial_floats * 4);
    if (prepared) place("queries", &plan_.queries_offset, p.copies_queries ? rows * p.head_dim * 4 : 0);
    if (prepared) place("positions", &plan_.positions_offset, items * 2 * 8);
    place_slots(p, planned);
    plan_.bytes = end_;
  }

  const mha::AttentionPlan& plan() const { return plan_; }
  const std::vector<Gap>& gaps() const { return gaps_; }

 private:
  void place(const char* name, int64_t* offset, int64_t bytes) {
    *offset = end_;
    const int64_t next = up_to_line(end_ + bytes) + kCanary;
    gaps_.push_back({name, end_ + bytes, next});
    end_ = next;
  }
  void place_slots(const mha::AttentionProblem& p, const mha::AttentionPlan& was) {
    const int64_t after_rows = p.has_extras() ? was.slot_extras_offset : was.slot_states_offset;
    const int64_t begin = end_;
    plan_.slots_offset = begin;
    int64_t scratch = 0;
    end_ = 0;
    const size_t first = gaps_.size();
    place("scratch", &scratch, was.slot_rows_offset);
    place("rows", &plan_.slot_rows_offset, after_rows - was.slot_rows_offset);
    if (p.has_extras()) place("extras", &plan_.slot_extras_offset, was.slot_states_offset - was.slot_extras_offset);
    place("slot states", &plan_.slot_states_offset, was.slot_maxima_offset - was.slot_states_offset);
    place("maxima", &plan_.slot_maxima_offset, was.slot_bytes - was.slot_maxima_offset);
    plan_.slot_bytes = end_;
    const std::vector<Gap> of_one(gaps_.begin() + static_cast<std::ptrdiff_t>(first), gaps_.end());
    gaps_.resize(first);
    for (int64_t n = 0; n < plan_.threads; ++n) {
      const int64_t at = begin + n * plan_.slot_bytes;
      for (const Gap& gap : of_one) gaps_.push_back({gap.behind, at + gap.begin, at + gap.end});
    }
    end_ = begin + plan_.threads * plan_.slot_bytes;
  }

  mha::AttentionPlan plan_;
  std::vector<Gap> gaps_;
  int64_t end_ = 0;
};

/// Runs every thread's share on the calling thread, under the number of that thread: all slots are used.
void run_in_turn(void*, int64_t count, void (*task)(void*, int64_t), void* data) {
  for (int64_t n = 0; n < count; ++n) task(data, n);
}

const mha_context* context_in_turn(const std::string& target, int64_t threads) {
  static std::map<std::pair<std::string, int64_t>, ContextPtr> contexts;
  ContextPtr& context = contexts[{target, threads}];
  if (!context) {
    mha_context_options options = {};
    options.target = target.c_str(), options.num_threads = threads;
    options.parallel_for.run = run_in_turn;
    context = make_context(options);
  }
  return context.get();
}

/// Room for the results of a call, poison before it.
struct Results {
  AttentionResult result;

  Results(AttentionCall* args, int64_t longest_key) {
    const ResultSizes sizes(*args, longest_key);
    result = {poisoned(sizes.output), poisoned(sizes.weights), poisoned(sizes.log_sum_exp)};
    args->output = mut_view(result.output.data());
    if (args->results.weights_mode != MHA_WEIGHTS_NONE) args->results.weights = mut_view(result.weights.data());
    args->results.log_sum_exp = result.log_sum_exp.data();
  }
};

/// As mha_attention on so many threads whatever the work, or with `partials` as mha_attention_partial, parts apart.
void call_apart(const mha_context* context, AttentionCall args, std::vector<float>* partials) {
  const mha::FloatMode mode;
  mha_error error = {};
  mha::AttentionJob job = {};
  job.table = context->table;
  if (partials != nullptr) args.output = {}, args.results = {}, args.score_mods.sink_logits = nullptr;
  const mha::Check check = partials != nullptr ? mha::Check::kNoResults : mha::Check::kAll;
  const mha_attention_args raw = args.raw();
  require_ok(mha::validate_attention(&raw, check, &job.problem, &error), error);
  if (job.problem.nothing_to_do()) return;
  if (partials != nullptr) {
    job.given_partials = partials->data();
    job.problem.output = {reinterpret_cast<char*>(partials->data()), 0, 0, 0, mha::Element::kF32};
  }
  require_ok(
      mha::plan_attention(*context->table, context->num_threads, job.problem, partials != nullptr, &job.plan, &error),
      error);
  const Apart apart(job.problem, job.plan, partials != nullptr);
  job.plan = apart.plan();
  std::vector<uint32_t> memory(static_cast<size_t>(job.plan.bytes / 4 + 2 * kLine / 4), kPoisonBits);
  char* workspace = reinterpret_cast<char*>(memory.data());
  workspace += (kLine - reinterpret_cast<uintptr_t>(workspace) % kLine) % kLine;
  args.resources.workspace = workspace, args.resources.workspace_bytes = mha::workspace_bytes(job.plan.bytes);
  require_ok(mha::run_attention(*context, &args.resources, &job, &error), error);
  const std::vector<uint32_t> canary(static_cast<size_t>(kCanary + kLine) / 4, kPoisonBits);
  for (const Gap& gap : apart.gaps()) {
    // A part of whole floats begins on a line, so that the gap has whole ones, too.
    const bool intact =
        std::memcmp(workspace + gap.begin, canary.data(), static_cast<size_t>(gap.end - gap.begin)) == 0;
    if (!intact) FAIL_CHECK("written behind " << gap.behind << ", bytes [" << gap.begin << ", " << gap.end << ")");
  }
}

/// A plain call's results and those of one with the parts apart.
void check_apart(const std::string& target, const AttentionCall& given, int64_t longest_key) {
  AttentionCall args = given;
  const Results want(&args, longest_key);
  mha_error error = {};
  require_ok(attention(shared_context(target, 1), args, &error), error);
  for (const int64_t threads : {1, 3}) {
    INFO(target << " threads " << threads);
    args = given;
    const Results got(&args, longest_key);
    call_apart(context_in_turn(target, threads), args, nullptr);
    check_same_results("apart", got.result, want.result);
  }
}

/// Output and log-sum-exp of partial results.
AttentionResult merged(const std::string& target, const AttentionCall& a, const float* partials, int64_t count) {
  const int64_t rows = a.batch * a.num_heads * a.query_len;
  AttentionResult result = {poisoned(rows * a.value_head_dim), {}, poisoned(rows)};
  if (rows == 0) return result;
  mha_merge_partials_args args = {};
  args.batch = a.batch, args.num_heads = a.num_heads, args.query_len = a.query_len;
  args.value_head_dim = a.value_head_dim;
  args.num_chunks = count / (rows * (a.value_head_dim + 2));
  args.partials = partials;
  args.output = mut_view(result.output.data()), args.log_sum_exp = result.log_sum_exp.data();
  mha_error error = {};
  require_ok(mha_attention_merge_partials(shared_context(target, 1), &args, &error), error);
  return result;
}

/// Partial results of a call, from guarded memory and with the parts apart.
void check_partial_apart(const std::string& target, AttentionCall args) {
  args.results = {}, args.score_mods.sink_logits = nullptr;
  mha_error error = {};
  size_t bytes = 0, partial_bytes = 0;
  require_ok(attention_partial_bytes(shared_context(target, 1), args, &partial_bytes, &error), error);
  const int64_t count = static_cast<int64_t>(partial_bytes / sizeof(float));
  require_ok(attention_workspace_bytes(shared_context(target, 1), args, &bytes, &error), error);
  const GuardedBuffer workspace(bytes, Guard::kAfter);
  const GuardedFloats partials(poisoned(count), Guard::kAfter);
  std::memset(workspace.data(), 0xff, bytes);
  AttentionCall guarded = args;
  guarded.resources.workspace = workspace.data(), guarded.resources.workspace_bytes = bytes;
  require_ok(attention_partial(shared_context(target, 1), guarded, partials.floats(), partial_bytes, &error), error);
  CHECK(workspace.slack_intact());
  CHECK(partials.slack_intact());
  const AttentionResult want = merged(target, args, partials.floats(), count);
  for (const int64_t threads : {1, 3}) {
    INFO(target << " partial, threads " << threads);
    std::vector<float> got = poisoned(count);
    call_apart(context_in_turn(target, threads), args, &got);
    check_same_results("partial results apart", merged(target, args, got.data(), count), want);
  }
}

/// A call on tensors of its own.
struct RandomCall {
  AttentionShape shape;
  std::unique_ptr<AttentionProblem> problem;
  std::unique_ptr<RandomMasks> masks;
  std::vector<int64_t> rows;
  mha_rope rope = {};
  AttentionCall args;

  explicit RandomCall(Random& random) {
    shape.Hkv = between(random, 1, 2);
    shape.H = shape.Hkv * one_of<int64_t>(random, {1, 2, 4, 9});
    shape.B = between(random, 1, 3);
    shape.Tq = one_in(random, 2) ? between(random, 1, 20) : between(random, 20, 150);
    shape.Tk = one_in(random, 2) ? between(random, 1, 300) : between(random, 256, 1300);
    shape.D = between(random, 1, 70), shape.Dv = one_in(random, 2) ? shape.D : between(random, 1, 90);
    problem = std::make_unique<AttentionProblem>(shape, MaskKind::kNone, random.bits() >> 8);
    masks = std::make_unique<RandomMasks>(random, shape.B, shape.H, shape.Tq, shape.Tk);
    args = problem->args();
    masks->get().put_into(&args), args.score_mods = masks->mods();
    args.results.weights_mode = one_of(random, {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_PER_HEAD,
                                                MHA_WEIGHTS_AVERAGED, MHA_WEIGHTS_KEY_SUMS});
    for (int64_t i = 0; i < shape.Tq; i += between(random, 1, 9)) rows.push_back(i);
    if (one_in(random, 4) && args.results.weights_mode != MHA_WEIGHTS_NONE)
      choose_weights_rows(&args, rows.data(), static_cast<int64_t>(rows.size()));
    bool positive = true;  // positions, as rope wants them
    for (int64_t b = 0; b < shape.B; ++b) positive &= masks->get().first_position(b, shape.Tq, shape.Tk) >= 0;
    if (shape.D > 1 && positive && one_in(random, 3)) rope.dims = shape.D / 2 * 2, args.rope = &rope;
  }
  /// Items that differ in length or position have partial results one by one only.
  bool alike() const { return shape.B == 1 || (!args.items.key_lengths && !args.positions.offsets); }
  RandomCall(const RandomCall&) = delete;
  RandomCall& operator=(const RandomCall&) = delete;
};

}  // namespace

TEST_CASE("workspace: canaries between the parts of a call on tensors", "[memory][workspace]") {
  int64_t in_parts = 0;
  for (uint64_t seed = 410000; seed < 410120; ++seed) {
    Random random(seed);
    const RandomCall call(random);
    INFO("seed " << seed << ": " << describe(call.shape) << call.masks->describe() << " weights "
                 << call.args.results.weights_mode);
    for (const std::string& target : supported_targets()) {
      check_apart(target, call.args, call.shape.Tk);
      if (call.alike()) check_partial_apart(target, call.args);
    }
    in_parts += call.alike();
  }
  CHECK(in_parts > 60);
}

TEST_CASE("workspace: canaries between the parts of a call over a cache", "[memory][workspace][cache]") {
  int64_t run = 0, one = 0;
  for (uint64_t seed = 420000; seed < 420200; ++seed) {
    Random random(seed);
    const RandomDecode d(random);
    if (d.refused()) continue;
    INFO("seed " << seed << ": " << d.describe());
    ++run;
    for (const std::string& target : supported_targets()) check_apart(target, d.args(), d.longest_key);
    if (d.B > 1) continue;
    ++one;
    for (const std::string& target : supported_targets()) check_partial_apart(target, d.args());
  }
  CHECK(run > 100);
  CHECK(one > 10);
}

namespace {

/// A layer call whose sizes make no part of its workspace end on a line, if that can be.
void check_layer_gaps(const std::string& target, int64_t threads, Random& random) {
  mha_layer_config config = {};
  config.embed_dim = between(random, 1, 40);
  config.num_kv_heads = between(random, 1, 3), config.num_heads = config.num_kv_heads * between(random, 1, 3);
  config.head_dim = between(random, 1, 21), config.value_head_dim = between(random, 1, 21);
  config.out_dim = between(random, 1, 30);
  const int64_t B = between(random, 1, 3), Tq = between(random, 1, 40), Tk = between(random, 1, 300);
  const LayerProblem problem(config, B, Tq, Tk, Biases::kAll, random.bits() >> 8);
  const mha_context* context = shared_context(target, threads);
  const LayerPtr layer = problem.make(context);
  const RandomMasks masks(random, B, config.num_heads, Tq, Tk);
  mha_rope rope = {};
  rope.dims = config.head_dim / 2 * 2;
  mha_norm norm = {};
  norm.epsilon = 1e-5f;
  LayerCall args = problem.args();
  masks.get().put_into(&args), args.score_mods = masks.mods();
  args.results.weights_mode = one_of(random, {MHA_WEIGHTS_NONE, MHA_WEIGHTS_PER_HEAD, MHA_WEIGHTS_AVERAGED});
  if (one_in(random, 2)) args.query_norm = args.key_norm = &norm;
  bool positive = true;  // positions, as rope wants them
  for (int64_t b = 0; b < B; ++b) positive &= masks.get().first_position(b, Tq, Tk) >= 0;
  if (config.head_dim > 1 && positive && one_in(random, 2)) args.rope = &rope;
  std::vector<float> output = poisoned(B * Tq * config.out_dim);
  const int64_t heads = args.results.weights_mode == MHA_WEIGHTS_AVERAGED ? 1 : config.num_heads;
  std::vector<float> weights = poisoned(B * heads * Tq * Tk);
  args.output = mut_view(output.data());
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) args.results.weights = mut_view(weights.data());

  mha_error error = {};
  size_t bytes = 0;
  require_ok(layer_workspace_bytes(context, layer.get(), args, &bytes, &error), error);
  const GuardedBuffer workspace(bytes, Guard::kAfter);
  // The last 64-byte line ends at the page, so that the slack for alignment is all in front.
  std::memset(workspace.data(), 0xff, bytes);
  args.resources.workspace = workspace.data(), args.resources.workspace_bytes = bytes;
  require_ok(layer_forward(context, layer.get(), args, &error), error);
  CHECK(workspace.slack_intact());
  CHECK(none_poison(output));
  const char* base = static_cast<const char*>(workspace.data());
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
  const int64_t parts[] = {B * Tq * config.num_heads * config.head_dim, B * Tk * config.num_kv_heads * config.head_dim,
                           B * Tk * config.num_kv_heads * config.value_head_dim,
                           B * Tq * config.num_heads * config.value_head_dim, 2 * B * config.num_heads * Tq};
  const char* const names[] = {"behind q", "behind k", "behind v", "behind the heads' outputs", "behind the states"};
  for (int n = 0; n < 5; ++n) {
    untouched(names[n], at + parts[n] * 4, at + up_to_line(parts[n] * 4));
    at += up_to_line(parts[n] * 4);
  }
}

}  // namespace

TEST_CASE("workspace: a layer's parts, nothing behind them", "[memory][workspace]") {
  for (uint64_t seed = 430000; seed < 430150; ++seed) {
    INFO("seed " << seed);
    for (const std::string& target : supported_targets()) {
      for (const int64_t threads : {1, 3}) {
        Random random(seed);
        check_layer_gaps(target, threads, random);
      }
    }
  }
}
