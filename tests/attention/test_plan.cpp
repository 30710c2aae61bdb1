// SPDX-License-Identifier: Apache-2.0
// How attention is cut for threads: enough work items, of which a fair share falls to each thread, keys packed no more
// often than must be, no thread woken in vain. A pure function of sizes: nothing is run and no time is taken.
#include "core/plan/plan.h"

#include <algorithm>
#include <functional>

#include "core/call/validate.h"
#include "core/plan/explain.h"
#include "simd/dispatch.h"
#include "tests/numerics/tables.h"
#include "tests/support/calls.h"
#include "tests/support/targets.h"

namespace {

struct Sizes {
  int64_t B, H, Hkv, Tq, Tk, D;
};

mha::AttentionProblem problem_of(const Sizes& z) {
  mha::AttentionCall args;
  args.batch = z.B, args.num_heads = z.H, args.num_kv_heads = z.Hkv, args.query_len = z.Tq, args.key_len = z.Tk;
  args.head_dim = z.D;
  const mha_attention_args raw = args.raw();
  mha::AttentionProblem problem = {};
  mha_error error = {};
  mha::test::require_ok(mha::validate_attention(&raw, mha::Check::kSizesOnly, &problem, &error), error);
  return problem;
}

mha::AttentionPlan plan_of(const mha::KernelTable& table, int64_t threads, const Sizes& z) {
  mha::AttentionPlan plan = {};
  mha_error error = {};
  mha::test::require_ok(mha::plan_call(table, threads, problem_of(z), false, &plan, &error), error);
  return plan;
}

/// Each work item's share of the call, in query rows x keys, in the order in which threads take them.
std::vector<double> loads_of(const mha::AttentionPlan& plan, const Sizes& z) {
  const mha::SequencePlan& s = plan.each;
  const int64_t rows = z.H / z.Hkv * z.Tq;
  std::vector<double> loads;
  for (int64_t b = 0; b < z.B; ++b)
    for (int64_t head = 0; head < z.Hkv; head += s.heads_per_item)
      for (int64_t row = 0; row < rows; row += s.block_rows) {
        const int64_t together = std::min(s.heads_per_item, z.Hkv - head) * std::min(s.block_rows, rows - row);
        const int64_t step = s.split ? mha::kChunk : z.Tk;
        for (int64_t key = 0; key < z.Tk; key += step)
          loads.push_back(static_cast<double>(together) * static_cast<double>(std::min(step, z.Tk - key)));
      }
  return loads;
}

/// How many times its fair share the busiest thread has where each takes the next item when it is done with one.
double busiest(const std::vector<double>& loads, int64_t threads) {
  std::vector<double> busy(static_cast<size_t>(threads));
  double total = 0;
  for (const double load : loads) *std::min_element(busy.begin(), busy.end()) += load, total += load;
  return *std::max_element(busy.begin(), busy.end()) * static_cast<double>(threads) / total;
}

void for_each_table(const std::function<void(const mha::KernelTable&)>& body) {
  for (const std::string& target : mha::test::supported_targets()) {
    INFO("target " << target);
    body(mha::test::table_of(target));
  }
}

/// Plans the call, of which the busiest of the threads gets so many times its share at most. Fewer threads may do for
/// that: four for eight heads instead of five.
mha::AttentionPlan check_shared(const mha::KernelTable& table, int64_t threads, const Sizes& z, double most) {
  const mha::AttentionPlan plan = plan_of(table, threads, z);
  const std::vector<double> loads = loads_of(plan, z);
  INFO("B " << z.B << " H " << z.H << "/" << z.Hkv << " Tq " << z.Tq << " Tk " << z.Tk << " D " << z.D << ", "
            << threads << " threads: " << plan.items << " items, split " << plan.each.split);
  CHECK(static_cast<int64_t>(loads.size()) == plan.items);
  CHECK(plan.items >= plan.threads);
  CHECK(busiest(loads, plan.threads) * static_cast<double>(threads) <= most * static_cast<double>(plan.threads));
  return plan;
}

}  // namespace

TEST_CASE("plan: one query of many heads is shared, heads side by side or not", "[plan]") {
  // 8 heads on 3 and 5 threads: 3 of 2.67 and 2 of 1.6 are the best that whole heads can do.
  for_each_table([](const mha::KernelTable& table) {
    for (int64_t keys : {128, 200, 256, 257, 300, 512, 513, 600, 768, 1000, 1024, 1280, 2000, 2048, 4096, 10000})
      check_shared(table, 2, {1, 32, 8, 1, keys, 128}, 1.15);
    for (int64_t threads : {2, 3, 5, 8}) {
      for (int64_t keys : {512, 513, 600, 1000, 2048, 4097, 10000})
        check_shared(table, threads, {1, 32, 8, 1, keys, 128}, 1.3);
      for (int64_t keys : {256, 257, 300, 700, 1024, 3000})
        check_shared(table, threads, {1, 32, 32, 1, keys, 128}, 1.3);
    }
  });
}

TEST_CASE("plan: heads that stay together are as many as there can be", "[plan]") {
  for_each_table([](const mha::KernelTable& table) {
    // One thread reads tokens whole; two share them in halves where chunks would not come out even.
    CHECK(plan_of(table, 1, {1, 32, 8, 1, 257, 128}).each.heads_per_item == 8);
    const mha::AttentionPlan halves = plan_of(table, 2, {1, 32, 8, 1, 257, 128});
    CHECK(halves.each.heads_per_item == 4);
    CHECK_FALSE(halves.each.split);
    // Many chunks: these are shared, and tokens stay whole.
    const mha::AttentionPlan chunks = plan_of(table, 2, {1, 32, 8, 1, 8192, 128});
    CHECK(chunks.each.heads_per_item == 8);
    CHECK(chunks.each.split);
  });
}

TEST_CASE("plan: few rows over many keys are shared without packing the keys again", "[plan]") {
  for_each_table([](const mha::KernelTable& table) {
    for (int64_t threads : {2, 3, 5, 8}) {
      for (int64_t head_dim : {64, 128}) {
        const mha::AttentionPlan plan = check_shared(table, threads, {1, 1, 1, 128, 4096, head_dim}, 1.15);
        CHECK(plan.each.split);
        CHECK(plan.each.blocks == (threads == 5 ? 2 : 1));  // each chunk of keys is packed once; 16 for 5: twice
        CHECK(plan.slot_bytes <= 512 * 1024);
      }
      // More rows: blocks of them, none so small that packing is a large part, and no partial results.
      const Sizes tall = {1, 1, 1, 512 * threads, 4096, 128};
      const mha::AttentionPlan blocks = check_shared(table, threads, tall, 1.3);
      CHECK_FALSE(blocks.each.split);
      CHECK(blocks.each.block_rows >= 96);
    }
  });
}

TEST_CASE("plan: no thread is woken that would find nothing to do", "[plan]") {
  for_each_table([](const mha::KernelTable& table) {
    // One head's single chunk is one work item, whatever the work; a chunk of one key beside it is none worth sharing.
    for (int64_t keys : {200, 256, 257}) {
      INFO("keys " << keys);
      CHECK(plan_of(table, 8, {1, 16, 1, 1, keys, 256}).threads == 1);
      CHECK(plan_of(table, 8, {1, 16, 1, 1, keys, 256}).items == 1);
    }
    CHECK(plan_of(table, 8, {3, 16, 1, 1, 256, 256}).threads == 3);
    // What is on the whole too little for two.
    CHECK(plan_of(table, 8, {1, 8, 8, 1, 16, 64}).threads == 1);
  });
}

TEST_CASE("plan: explain prints the plan that it is given, and plans nothing anew", "[plan]") {
  const mha::KernelTable& table = *mha::target_table(0);
  const Sizes z = {1, 8, 2, 512, 1024, 64};
  const auto text_of = [](const std::function<void(mha::Text*)>& say) {
    char text[4096];
    mha::Text out(text, sizeof(text));
    say(&out);
    out.finish(nullptr);
    return std::string(text);
  };
  const auto attention = [&](const mha::AttentionPlan& plan) {
    return text_of([&](mha::Text* out) { mha::explain_attention(problem_of(z), plan, out); });
  };
  const mha::AttentionPlan plan = plan_of(table, 2, z);
  const std::vector<std::function<void(mha::AttentionPlan*)>> changes = {
      [](mha::AttentionPlan* p) { p->each.in_place = !p->each.in_place; },
      [](mha::AttentionPlan* p) { p->split = p->split > 0 ? 0 : p->batch; },
      [](mha::AttentionPlan* p) { p->each.block_rows += 1; },
      [](mha::AttentionPlan* p) { p->each.chunks += 1; },
      [](mha::AttentionPlan* p) { p->items += 1; },
      [](mha::AttentionPlan* p) { p->few_keys = true; }};
  for (size_t n = 0; n < changes.size(); ++n) {
    INFO("change " << n);
    mha::AttentionPlan other = plan;
    changes[n](&other);
    CHECK(attention(other) != attention(plan));
  }

  mha::LinearProblem product = {};
  product.batch = 1, product.rows = 300, product.in_features = product.out_features = 512;
  const auto linear = [&](const mha::LinearPlan& p) {
    return text_of([&](mha::Text* out) { mha::explain_linear("product", product, p, 2, out); });
  };
  const mha::LinearPlan cut =
      mha::plan_linear(mha::linear_kernels_of(table, product.arithmetic, mha::Element::kF32), 2, product);
  for (int64_t mha::LinearPlan::*field :
       {&mha::LinearPlan::block_rows, &mha::LinearPlan::block_columns, &mha::LinearPlan::items}) {
    mha::LinearPlan other = cut;
    other.*field += 1;
    CHECK(linear(other) != linear(cut));
  }
}
