// SPDX-License-Identifier: Apache-2.0
// What the subcommands share: failures, handles of the library, the --target and --threads options, timing, progress.
#ifndef MHA_TOOLS_CLI_SUPPORT_H
#define MHA_TOOLS_CLI_SUPPORT_H

#include <mha/mha.hpp>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tools/io/result.h"

namespace mha::cli {

// Thrown for wrong arguments and bad files; main prints it as one line on stderr and exits with 2.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The value, or its message as a Failure.
template <class T>
T take(io::Result<T> result) {
  if (!result) throw Failure(result.message());
  return *std::move(result);
}
inline void take(const io::Result<void>& result) {
  if (!result) throw Failure(result.message());
}

// Throws a Failure with the library's message unless the call succeeded.
void check(const Status& status);
template <class T>
T take(Result<T> result) {
  check(result.status());
  return std::move(*result);
}

// --target and --threads.
struct ContextFlags {
  std::string target;  // empty: MHA_TARGET, else the best
  std::int64_t threads = 0;
};
void add_target_option(CLI::App& app, std::string& target);
void add_context_options(CLI::App& app, ContextFlags& flags);
Context make_context(const ContextFlags& flags);
Context make_context(const char* target, std::int64_t threads);

// Where the target of a context made from these flags came from, as a sentence.
std::string target_reason(const ContextFlags& flags);

// `--causal [bottom-right | top-left | offset N]`: whether a call is causal, and where its queries stand; --causal
// alone leaves that to the library.
struct Causal {
  int causal = 0;
  mha_positions positions{};
};
void add_causal_option(CLI::App& app, std::vector<std::string>& words);
Causal parse_causal(const CLI::App& app, const std::vector<std::string>& words);

// `--arithmetic f32|bf16|int8`, and for a layer `--attention-arithmetic`, whose default is that of the projections, but F32
// where theirs is INT8: keys that a layer projects are floats, which INT8 does not multiply.
void add_arithmetic_option(CLI::App& app, mha_arithmetic& arithmetic);
void add_attention_arithmetic_option(CLI::App& app, std::string& word);
mha_arithmetic parse_arithmetic(const std::string& option, const std::string& word);
mha_arithmetic attention_arithmetic(const std::string& word, mha_arithmetic projections);
const char* arithmetic_name(mha_arithmetic arithmetic);

// The value of `--weights-mode none|per-head|averaged|key-sums`.
void add_weights_mode_option(CLI::App& app, std::string& word, const std::string& help);
mha_weights_mode parse_weights_mode(const std::string& word);

// Shows "label: done of total, elapsed" on stderr, from the second second on and only on a terminal.
class Progress {
 public:
  Progress(std::string label, std::int64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void step() { ++done_; }

 private:
  void show();

  std::string label_;
  std::int64_t total_;
  std::atomic<std::int64_t> done_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  bool finished_ = false;
  std::thread thread_;
};

// Seconds that one call takes.
template <class Function>
double seconds_of(const Function& function) {
  const auto start = std::chrono::steady_clock::now();
  function();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The best of as many calls as fit in `budget` seconds, at least one.
template <class Function>
double best_seconds(double budget, const Function& function) {
  double best = seconds_of(function);
  for (double spent = best; spent < budget;) {
    const double once = seconds_of(function);
    best = std::min(best, once);
    spent += once;
  }
  return best;
}

// Whether the bytes are equal: unlike ==, it tells zeros of either sign apart, and a NaN equals itself.
bool same_bits(const std::vector<float>& a, const std::vector<float>& b);

// max |got - want|. Equal infinities differ by 0; a NaN on either side, or unequal sizes, give infinity.
template <class T>
double max_difference(const std::vector<float>& got, const std::vector<T>& want) {
  double worst = got.size() == want.size() ? 0.0 : std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
    const auto a = static_cast<double>(got[i]);
    const auto b = static_cast<double>(want[i]);
    const double difference = a == b ? 0.0 : std::fabs(a - b);
    worst = std::isnan(difference) ? std::numeric_limits<double>::infinity() : std::max(worst, difference);
  }
  return worst;
}

// "12.3 us", "4.56 ms", "1.23 s".
std::string time_text(double seconds);

// `count` values, uniform in [-1, 1) and the same on every machine.
std::vector<float> random_values(std::int64_t count, std::uint32_t seed);

}  // namespace mha::cli

#endif  // MHA_TOOLS_CLI_SUPPORT_H
