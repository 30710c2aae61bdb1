// SPDX-License-Identifier: Apache-2.0
// Shared parts of the subcommands; see support.h.
#include "tools/cli/support.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

namespace mha::cli {

void check(const Status& status) {
  if (!status) throw Failure(std::string(status.message()) + " (" + mha_status_string(status.code()) + ")");
}

void add_target_option(CLI::App& app, std::string& target) {
  app.add_option("--target", target, "Instruction set to run on (default: MHA_TARGET, else the best supported)");
}

void add_context_options(CLI::App& app, ContextFlags& flags) {
  add_target_option(app, flags.target);
  app.add_option("--threads", flags.threads, "Threads to use (default 0: as many as this process may run on)");
}

Context make_context(const char* target, std::int64_t threads) {
  mha_context_options options{};
  options.num_threads = threads;
  options.target = target;
  return take(Context::create(options));
}

Context make_context(const ContextFlags& flags) {
  return make_context(flags.target.empty() ? nullptr : flags.target.c_str(), flags.threads);
}

std::string target_reason(const ContextFlags& flags) {
  if (!flags.target.empty()) return "asked for by --target";
  const char* variable = std::getenv("MHA_TARGET");
  if (variable != nullptr && *variable != '\0') return "asked for by MHA_TARGET";
  return "the best that this CPU supports";
}

void add_arithmetic_option(CLI::App& app, mha_arithmetic& arithmetic) {
  app.add_option_function<std::string>(
         "--arithmetic", [&](const std::string& word) { arithmetic = parse_arithmetic("--arithmetic", word); },
         "How products are computed: f32 (default), bf16 or int8")
      ->type_name("NAME");
}

void add_attention_arithmetic_option(CLI::App& app, std::string& word) {
  app.add_option("--attention-arithmetic", word,
                 "The same of attention alone (default: as --arithmetic, f32 where that is int8)")
      ->type_name("NAME");
}

mha_arithmetic parse_arithmetic(const std::string& option, const std::string& word) {
  if (word == "f32") return MHA_ARITHMETIC_F32;
  if (word == "bf16") return MHA_ARITHMETIC_BF16;
  if (word == "int8") return MHA_ARITHMETIC_INT8;
  throw Failure(option + " is '" + word + "', must be f32, bf16 or int8");
}

mha_arithmetic attention_arithmetic(const std::string& word, mha_arithmetic projections) {
  if (!word.empty()) return parse_arithmetic("--attention-arithmetic", word);
  return projections == MHA_ARITHMETIC_INT8 ? MHA_ARITHMETIC_F32 : projections;
}

const char* arithmetic_name(mha_arithmetic arithmetic) {
  switch (arithmetic) {
    case MHA_ARITHMETIC_F32:
      return "f32";
    case MHA_ARITHMETIC_BF16:
      return "bf16";
    case MHA_ARITHMETIC_INT8:
      return "int8";
  }
  return "unknown";
}

void add_causal_option(CLI::App& app, std::vector<std::string>& words) {
  app.add_option("--causal", words,
                 "Query i sees keys j <= i + Tk - Tq (bottom-right, the default; Tk as key lengths say), j <= i "
                 "(top-left) or j <= "
                 "i + N (offset N)")
      ->expected(0, 2)
      ->type_name("[bottom-right | top-left | offset N]");
}

Causal parse_causal(const CLI::App& app, const std::vector<std::string>& words) {
  Causal made;
  if (app.get_option("--causal")->count() == 0) return made;
  made.causal = 1;
  const std::string kind = words.empty() ? "" : words[0];
  if (words.size() == 2 && kind == "offset") {
    made.positions.align = MHA_ALIGN_OFFSET;
    if (!CLI::detail::lexical_cast(words[1], made.positions.offset)) {
      throw Failure("--causal offset: '" + words[1] + "' is not an integer");
    }
  } else if (words.size() == 1 && kind == "bottom-right") {
    made.positions.align = MHA_ALIGN_END;
  } else if (words.size() == 1 && kind == "top-left") {
    made.positions.align = MHA_ALIGN_START;
  } else if (words.size() > 1 || !kind.empty()) {  // nothing comes as one empty word
    throw Failure("--causal takes nothing, 'bottom-right', 'top-left' or 'offset N', not '" + kind +
                  (words.size() == 2 ? " " + words[1] : "") + "'");
  }
  return made;
}

void add_weights_mode_option(CLI::App& app, std::string& word, const std::string& help) {
  app.add_option("--weights-mode", word, help)->type_name("NAME");
}

mha_weights_mode parse_weights_mode(const std::string& word) {
  if (word == "none") return MHA_WEIGHTS_NONE;
  if (word == "per-head") return MHA_WEIGHTS_PER_HEAD;
  if (word == "averaged") return MHA_WEIGHTS_AVERAGED;
  if (word == "key-sums") return MHA_WEIGHTS_KEY_SUMS;
  throw Failure("--weights-mode is '" + word + "', must be none, per-head, averaged or key-sums");
}

Progress::Progress(std::string label, std::int64_t total) : label_(std::move(label)), total_(total) {
  if (isatty(STDERR_FILENO) != 0) thread_ = std::thread([this] { show(); });
}

Progress::~Progress() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    finished_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Progress::show() {
  std::unique_lock<std::mutex> lock(mutex_);
  int seconds = 0;
  while (!wake_.wait_for(lock, std::chrono::seconds(1), [this] { return finished_; })) {
    ++seconds;
    if (total_ > 1) {
      std::fprintf(stderr, "\r\x1b[K%s: %lld of %lld, %d s", label_.c_str(), static_cast<long long>(done_.load()),
                   static_cast<long long>(total_), seconds);
    } else {
      std::fprintf(stderr, "\r\x1b[K%s: %d s", label_.c_str(), seconds);
    }
  }
  if (seconds > 0) std::fprintf(stderr, "\r\x1b[K");  // leave the line as it was
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

std::string time_text(double seconds) {
  char text[32];
  if (seconds < 1e-3) {
    std::snprintf(text, sizeof text, "%.3g us", seconds * 1e6);
  } else if (seconds < 1) {
    std::snprintf(text, sizeof text, "%.3g ms", seconds * 1e3);
  } else {
    std::snprintf(text, sizeof text, "%.3g s", seconds);
  }
  return text;
}

std::vector<float> random_values(std::int64_t count, std::uint32_t seed) {
  std::mt19937 engine(seed);  // its sequence is fixed by the standard; the distributions of <random> are not
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = static_cast<float>(engine() >> 8) * 0x1p-23F - 1.0F;
  return values;
}

}  // namespace mha::cli
