// SPDX-License-Identifier: Apache-2.0
// A case beside its plain twin, timed in turn with it: the same call on ordinary data, without the mask, or on another
// cache.
#ifndef MHA_BENCH_TWIN_H
#define MHA_BENCH_TWIN_H

#include <memory>
#include <string>
#include <utility>

#include "bench/case.h"

namespace mha::bench {

class TwinCase : public Case {
 public:
  /// `counter` gets the time of `work` / the time of `plain`.
  TwinCase(std::unique_ptr<Case> work, std::unique_ptr<Case> plain, const char* counter)
      : work_(std::move(work)), plain_(std::move(plain)), counter_(counter) {
    flops = work_->flops;
    bytes = work_->bytes;
    streamed = work_->streamed;
    is_integer = work_->is_integer;
    parts_streamed = plain_->streamed;
  }
  mha_status run() override { return work_->run(); }
  std::string check() override { return work_->check(); }
  /// Of the plain one: the naive loops are compared on ordinary calls.
  double naive_seconds(int threads) override { return plain_->naive_seconds(threads); }
  mha_status run_parts() override { return plain_->run(); }
  bool has_parts() const override { return true; }
  const char* ratio_counter() const override { return counter_; }

 private:
  std::unique_ptr<Case> work_, plain_;
  const char* counter_;
};

}  // namespace mha::bench

#endif  // MHA_BENCH_TWIN_H
