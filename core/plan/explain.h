// SPDX-License-Identifier: Apache-2.0
// What a plan says, in words. For the mha_*_explain calls.
#pragma once

#include "core/base/context.h"
#include "core/base/fields.h"
#include "core/plan/plan.h"

namespace mha {

inline const char* name_of(Element element) { return dtype_name(static_cast<int>(element)); }

// Lines into a caller's buffer, cut at its end; counts what it would have taken.
class Text {
 public:
  Text(char* text, size_t capacity) : text_(text), capacity_(capacity) {}
  __attribute__((format(printf, 2, 3))) void line(const char* format, ...);
  void finish(size_t* needed);

 private:
  char* text_;
  size_t capacity_;
  size_t length_ = 0;
};

// threads_lost: this process was forked after the context's threads were made, which run/parallel.h knows.
void explain_context(const mha_context& context, bool threads_lost, int64_t threads, double work, Text* out);
void explain_linear_kernel(const LinearKernels& kernels, Text* out);
void explain_linear(const char* name, const LinearProblem& problem, const LinearPlan& plan, int64_t threads, Text* out);
void explain_attention(const AttentionProblem& problem, const AttentionPlan& plan, Text* out);
// A line of that name with the bytes, and what of them is for what.
void explain_attention_workspace(const char* name, size_t bytes, const AttentionPlan& plan, Text* out);

}  // namespace mha
