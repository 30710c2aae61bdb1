// SPDX-License-Identifier: Apache-2.0
// Norm and rotation of tokens. A work item is a run of tokens, each with all its heads, whose angles are computed once.
#include "core/run/norm_rope.h"

#include "core/call/items.h"
#include "core/plan/plan.h"

namespace mha {
namespace {

// An item computes the frequencies anew, which costs as much as a token or two.
constexpr int64_t kLeastTokens = 16;

// What the sine and cosine of a pair cost, in multiply-adds of a vector kernel.
constexpr double kWorkOfAngle = 500;

int64_t items(const PrepareJob& job) { return divide_up(job.tokens(), job.block_tokens); }

struct Token {
  int64_t batch, index;  // in its item
};

Token token_at(const PrepareJob& job, int64_t token) {
  if (job.offsets == nullptr) return {token / job.length, token % job.length};
  int64_t low = 0, high = job.batch;  // offsets[low] <= token < offsets[high]
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (job.offsets[middle] <= token ? low : high) = middle;
  }
  return {low, token - job.offsets[low]};
}

int64_t position_of(const PrepareJob& job, int64_t token, const Token& at) {
  if (job.positions != nullptr) return job.positions[token];
  return (job.first_positions != nullptr ? job.first_positions[at.batch] : job.first_position) + at.index;
}

// Where a token goes, which is token t of item b where there are no slots; null: nowhere.
float* output_row(const PrepareJob& job, int64_t token, int64_t b, int64_t t) {
  if (job.slots != nullptr) {
    const int64_t slot = job.slots[token];
    if (slot < 0) return nullptr;
    b = slot / job.page_size, t = slot % job.page_size;
  }
  return job.output.data + b * job.output.stride_b + t * job.output.stride_t;
}

void run_prepare(const void* data, int64_t item, int64_t) {
  const PrepareJob* job = static_cast<const PreparePhase*>(data)->jobs;
  for (; item >= items(*job); ++job) item -= items(*job);
  TokenPreparer prepare(*job->table, job->rope, job->epsilon, job->weight, job->heads, job->width);
  const int64_t begin = item * job->block_tokens, end = least(begin + job->block_tokens, job->tokens());
  for (int64_t token = begin; token < end; ++token) {
    const Token at = token_at(*job, token);
    const int64_t b = job->offsets != nullptr ? 0 : at.batch, t = job->offsets != nullptr ? token : at.index;
    float* output = output_row(*job, token, b, t);
    if (output == nullptr) continue;
    prepare.run(position_of(*job, token, at), job->input.data + b * job->input.stride_b + t * job->input.stride_t,
                job->input.stride_h, output, job->output.stride_h);
  }
}

}  // namespace

mha_status check_given_positions(const mha_rope& rope, const char* name, const int64_t* positions, int64_t count,
                                 mha_error* error) {
  for (int64_t i = 0; i < count; ++i) MHA_TRY(check_position(rope, name, i, positions[i], error));
  return MHA_OK;
}

mha_status check_counted_positions(const mha_rope& rope, const char* name, int64_t first, int64_t count,
                                   mha_error* error) {
  MHA_TRY(check_position(rope, name, -1, first, error));
  return check_position(rope, "the last position", -1, first + (count - 1), error);
}

double PrepareJob::work() const {
  const double rows = static_cast<double>(tokens()) * static_cast<double>(heads);
  return work_of(static_cast<double>(tokens()) * static_cast<double>(rope.dims) / 2 * kWorkOfAngle,
                 rows * static_cast<double>(width) * 2 * sizeof(float));
}

TokenPreparer::TokenPreparer(const KernelTable& table, const mha_rope& rope, float epsilon, const float* weight,
                             int64_t heads, int64_t width)
    : table_(table), angles_(table, rope), args_() {
  args_.count = heads, args_.width = width;
  args_.norm = epsilon > 0, args_.epsilon = epsilon, args_.weight = weight;
  args_.dims = rope.dims, args_.interleaved = rope.style == MHA_ROPE_INTERLEAVED;
  args_.cos = angles_.cosines(), args_.sin = angles_.sines();
}

void TokenPreparer::run(int64_t position, const float* input, int64_t input_stride, float* output,
                        int64_t output_stride) {
  if (args_.dims > 0) angles_.turn_to(position);
  args_.input = input, args_.input_stride = input_stride;
  args_.output = output, args_.output_stride = output_stride;
  table_.prepare_rows(&args_);
}

int64_t plan_prepare(const PrepareJob& job, int64_t threads) {
  const int64_t share = divide_up(job.tokens(), threads > 1 ? threads * kItemsPerThread : 1);
  return most(share, kLeastTokens);
}

Phase prepare_phase(const PreparePhase& work) {
  int64_t count = 0;
  for (int i = 0; i < work.count; ++i) count += items(work.jobs[i]);
  return {run_prepare, &work, count};
}

namespace {

mha_status check_query_positions(const AttentionProblem& p, mha_error* error) {
  const Preparation& r = p.preparation;
  if (r.positions != nullptr) {
    return check_given_positions(r.rope, "positions.query", r.positions, p.total_queries(), error);
  }
  for (int64_t b = 0; b < p.batch; ++b) {
    if (query_len_of(p, b) == 0) continue;
    MHA_TRY(check_counted_positions(r.rope, "position of the first query (p(0), since positions.query is NULL)",
                                    position_of(p, b, 0), query_len_of(p, b), error));
    if (p.uniform()) break;
  }
  return MHA_OK;
}

mha_status check_one_norm(const char* name, const mha_norm& norm, float* epsilon, const float** weight,
                          mha_error* error) {
  *epsilon = norm.epsilon, *weight = norm.weight;
  return check_norm(name, norm, error);
}

}  // namespace

mha_status check_preparation(const Groups& groups, Check check, AttentionProblem* p, mha_error* error) {
  const mha_positions& positions = given_or_default(groups.positions);
  Preparation& r = p->preparation;
  r.norm = groups.query_norm != nullptr || groups.key_norm != nullptr, r.rotate = groups.rope != nullptr;
  r.positions = positions.query;
  r.key_positions = groups.keys_are_queries ? positions.query : positions.key;
  if (groups.rope != nullptr) MHA_TRY(validate_rope(groups.rope, p->head_dim, &r.rope, error));
  if (groups.query_norm != nullptr) {
    MHA_TRY(check_one_norm("query_norm", *groups.query_norm, &r.query_epsilon, &r.query_weight, error));
  }
  if (groups.key_norm != nullptr) {
    MHA_TRY(check_one_norm("key_norm", *groups.key_norm, &r.key_epsilon, &r.key_weight, error));
  }
  if (check == Check::kSizesOnly || !r.rotate || p->nothing_to_do()) return MHA_OK;
  MHA_TRY(check_query_positions(*p, error));
  if (!groups.prepares_keys || p->longest_key_len == 0) return MHA_OK;
  if (r.key_positions == nullptr) {
    return check_counted_positions(r.rope, "position of key 0", 0, p->longest_key_len, error);
  }
  if (groups.keys_are_queries) return MHA_OK;
  const int64_t keys = p->key_offsets != nullptr ? p->key_len : p->batch * p->key_len;
  return check_given_positions(r.rope, "positions.key", r.key_positions, keys, error);
}

PrepareJob query_job(const KernelTable& table, const AttentionProblem& p, int64_t threads, const Tensor& output,
                     int64_t* first_positions) {
  const Preparation& r = p.preparation;
  PrepareJob job = {};
  job.table = &table, job.input = p.query, job.output = output;
  job.batch = p.batch, job.length = p.query_len, job.offsets = p.query_offsets;
  job.heads = p.heads, job.width = p.head_dim;
  job.rope = r.rope, job.epsilon = r.query_epsilon, job.weight = r.query_weight, job.positions = r.positions;
  if (p.uniform()) {
    job.first_position = position_of(p, 0, 0);
  } else {
    for (int64_t b = 0; b < p.batch; ++b) first_positions[b] = position_of(p, b, 0);
    job.first_positions = first_positions;
  }
  job.block_tokens = plan_prepare(job, threads);
  return job;
}

PrepareJob key_job(const KernelTable& table, const AttentionProblem& p, int64_t threads, const Tensor& keys,
                   int64_t* first_positions) {
  const Preparation& r = p.preparation;
  PrepareJob job = {};
  job.table = &table, job.input = {keys.data, keys.stride_b, keys.stride_t, keys.stride_h}, job.output = keys;
  job.batch = p.batch, job.length = p.key_len - p.tail, job.offsets = p.key_offsets;
  job.heads = p.kv_heads, job.width = p.head_dim;
  job.rope = r.rope, job.epsilon = r.key_epsilon, job.weight = r.key_weight, job.positions = r.key_positions;
  if (p.cache != nullptr) {  // the new tokens, which follow those that are there
    job.length = p.query_len, job.offsets = p.query_offsets;
    for (int64_t b = 0; b < p.batch; ++b) first_positions[b] = key_len_of(p, b) - query_len_of(p, b);
    job.first_positions = first_positions;
  }
  job.block_tokens = plan_prepare(job, threads);
  return job;
}

}  // namespace mha
