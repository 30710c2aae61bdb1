// SPDX-License-Identifier: Apache-2.0
// The parts of a workspace: planned once, then moved apart, with a canary behind each. Whatever writes past its part
// changes a canary; whatever reads past it finds NaN, and the result has other bits. Tensors are of any types. And every
// kind of call with no byte behind its workspace.
#include "core/base/context.h"
#include "core/call/validate.h"
#include "core/run/attention.h"
#include "simd/float_mode.h"
#include "tests/support/codes.h"
#include "tests/support/guard.h"
#include "tests/support/random_typed.h"
#include "tests/support/seeds.h"

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
    const bool prepared = p.norm_rope.wanted();
    place("states", &plan_.states_offset, rows * static_cast<int64_t>(sizeof(mha::RowState)));
    place("sequences", &plan_.sequences_offset, items * static_cast<int64_t>(sizeof(mha::SequencePlan)));
    place("partials", &plan_.partials_offset, partials_given ? 0 : planned.partial_floats * 4);
    if (prepared) place("queries", &plan_.queries_offset, p.copies_queries ? rows * p.head_dim * 4 : 0);
    if (prepared) place("positions", &plan_.positions_offset, items * 2 * 8);
    if (p.copies_output()) place("attended", &plan_.attended_offset, rows * p.value_head_dim * 4);
    place_slots(p, planned);
    plan_.bytes = end_;
  }

  const mha::AttentionPlan& plan() const { return plan_; }
  const std::vector<Gap>& gaps() const { return gaps_; }

 private:
  void place(const char* name, int64_t* offset, int64_t bytes) {
    if (*offset < planned_end_) FAIL_CHECK("planned inside the part before: " << name);
    planned_end_ = *offset + bytes;
    *offset = end_;
    const int64_t next = up_to_line(end_ + bytes) + kCanary;
    gaps_.push_back({name, end_ + bytes, next});
    end_ = next;
  }
  void place_slots(const mha::AttentionProblem& p, const mha::AttentionPlan& was) {
    const int64_t after_rows = p.has_extras() ? was.slot_extras_offset : was.slot_states_offset;
    const int64_t begin = end_;
    if (was.slots_offset < planned_end_) FAIL_CHECK("planned inside the part before: slots");
    plan_.slots_offset = begin;
    int64_t scratch = 0;
    end_ = planned_end_ = 0;
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
  int64_t planned_end_ = 0;  // of the part before, where the plan has it
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
    job.problem.attended = job.problem.output;
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

/// As run_typed, parts apart.
TypedResult run_apart(const mha_context* context, AttentionCall args, Typed output, int64_t longest_key) {
  const ResultSizes sizes(args, longest_key);
  TypedResult result = {Elements(), poisoned(sizes.weights), poisoned(sizes.log_sum_exp)};
  args.output = output.mut_view();
  if (args.results.weights_mode != MHA_WEIGHTS_NONE) args.results.weights = mut_view(result.weights.data());
  args.results.log_sum_exp = result.log_sum_exp.data();
  call_apart(context, args, nullptr);
  result.output = output.dense();
  return result;
}

/// A plain call's results and those of one with the parts apart.
void check_apart(const std::string& target, const AttentionCall& args, const Typed& output, int64_t longest_key) {
  const TypedResult want = run_typed(shared_context(target, 1), args, output, longest_key);
  for (const int64_t threads : {1, 3}) {
    INFO(target << " threads " << threads);
    const TypedResult got = run_apart(context_in_turn(target, threads), args, output, longest_key);
    check_rounded("output apart", got.output, want.output.widened());
    check_same_bits("weights apart", got.weights, want.weights);
    check_same_bits("log-sum-exp apart", got.log_sum_exp, want.log_sum_exp);
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

}  // namespace

TEST_CASE("workspace: canaries between the parts of a call on tensors", "[memory][workspace]") {
  const std::vector<uint64_t> problems = seeds(410000, 150);
  size_t in_parts = 0;
  for (const uint64_t seed : problems) {
    Random random(seed);
    const TypedCall call(random);
    INFO("seed " << seed << ": " << call.describe());
    const bool parts = call.alike() && call.shape.B > 0;
    for (const std::string& target : supported_targets()) {
      check_apart(target, call.stored, call.output(), call.longest_key);
      if (parts) check_partial_apart(target, call.stored);
    }
    in_parts += parts;
  }
  CHECK(in_parts > problems.size() / 3);
}

TEST_CASE("workspace: canaries behind the scratch of many rows that read keys in place", "[memory][workspace][codes]") {
  // Narrow heads, of which an item takes so many that their rows decide how large the scratch is.
  for (const int64_t D : {4, 20}) {
    for (const int64_t Dv : {4, 20, 40}) {
      const AttentionShape s = {2, 16, 4, 4, 40, D, Dv};
      const AttentionProblem p(s, MaskKind::kCausal, 425000);
      for (const mha_dtype dtype : {MHA_F32, MHA_BF16}) {
        const Elements key(dtype, p.key), value(dtype, p.value);
        AttentionCall args = p.args();
        args.key = key.view(), args.value = value.view();
        INFO(describe(s) << " " << dtype_name(dtype));
        const Typed output(dtype, s.output(), dense_bthd(s.output()));
        for (const std::string& target : supported_targets()) check_apart(target, args, output, s.Tk);
      }
      Random random(425001);
      const CodeTensor key(random, kCodeTypes[2], s.key()), value(random, kCodeTypes[2], s.value());  // widened first
      AttentionCall args = p.args();
      args.key = key.view(), args.value = value.view();
      INFO(describe(s) << " " << key.describe());
      const Typed output(MHA_F32, s.output(), dense_bthd(s.output()));
      for (const std::string& target : supported_targets()) check_apart(target, args, output, s.Tk);
    }
  }
}

TEST_CASE("workspace: canaries between the parts of a call over a cache", "[memory][workspace][cache][codes]") {
  const std::vector<uint64_t> problems = seeds(420000, 200);
  size_t run = 0, one = 0;
  for (const uint64_t seed : problems) {
    Random random(seed), types(seed);
    const RandomStorage storage = {random_dtype(types), random_dtype(types), seed, false, seed % 2 ? seed : 0, true};
    const RandomDecode d(random, storage);
    if (d.refused()) continue;
    INFO("seed " << seed << ": " << d.describe());
    ++run;
    AttentionCall args = d.args();
    const Extent e = {args.items.query_offsets ? 1 : args.batch, args.query_len, d.H, args.value_head_dim};
    const float* given = static_cast<const float*>(args.query.data);
    const Elements query(random_dtype(types), std::vector<float>(given, given + e.b * e.t * e.h * args.head_dim));
    args.query = query.view();
    const Typed output(random_dtype(types), e, dense_bthd(e));
    for (const std::string& target : supported_targets()) check_apart(target, args, output, d.longest_key);
    if (d.B > 1) continue;
    ++one;
    for (const std::string& target : supported_targets()) check_partial_apart(target, args);
  }
  CHECK(run > problems.size() / 3);
  CHECK(one > problems.size() / 20);
}
