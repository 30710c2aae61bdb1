// SPDX-License-Identifier: Apache-2.0
// The `mha` command as a process: what its subcommands print, and that wrong arguments give exit status 2 and exactly
// one line on stderr. `mha run` has a file of its own.
#include "tests/support/cli.h"
#include "tests/support/targets.h"
#include "tools/io/safetensors.h"

using namespace mha::test;

TEST_CASE("cli: info, as text and as JSON") {
  const Folder folder;
  const Json info = Json::parse(run_ok(folder, "info --json", "env -u MHA_TARGET"));
  CHECK(info["version"] == mha_version());
  REQUIRE(info["targets"].size() == static_cast<std::size_t>(mha_target_count()));
  for (std::size_t i = 0; i < info["targets"].size(); ++i) {
    CHECK(info["targets"][i]["name"] == mha_target_name(static_cast<int64_t>(i)));
    CHECK(info["targets"][i]["supported"].is_boolean());
  }
  CHECK(info["reason"] == "the best that this CPU supports");
  CHECK(info["threads"].get<int64_t>() >= 1);
  CHECK(info["caches"].is_array());
  CHECK_FALSE(info["compiler"].get<std::string>().empty());

  const std::string best = info["target"];
  const std::string text = run_ok(folder, "info");
  for (const std::string& part : {std::string(mha_version()), best, std::string("threads"), std::string("compiler")}) {
    CHECK(text.find(part) != std::string::npos);
  }
  for (const Json& target : info["targets"]) {
    if (!target["supported"].get<bool>()) continue;
    const std::string name = target["name"];
    const Json by_flag = Json::parse(run_ok(folder, "info --json --threads 1 --target " + name, "MHA_TARGET=nonsense"));
    CHECK(by_flag["target"] == name);
    CHECK(by_flag["reason"] == "asked for by --target");
    CHECK(by_flag["threads"] == 1);
    const Json by_variable = Json::parse(run_ok(folder, "info --json", "MHA_TARGET=" + name));
    CHECK(by_variable["target"] == name);
    CHECK(by_variable["reason"] == "asked for by MHA_TARGET");
  }
  CHECK(run(folder, "info", "MHA_TARGET=nonsense").status == 2);
  CHECK(run(folder, "info >/dev/full").status == 2);
}

TEST_CASE("cli: help and version") {
  const Folder folder;
  CHECK(run_ok(folder, "--version") == std::string(mha_version()) + "\n");
  const std::string overview = run_ok(folder, "--help");
  for (const std::string name : {"info", "run", "quantize", "bench", "verify", "notebook", "explain"}) {
    CHECK(overview.find(name) != std::string::npos);
    CHECK(run_ok(folder, name + " --help").find("Usage: mha " + name) != std::string::npos);
  }
}

TEST_CASE("cli: the notebook is within its bounds of the reference and of PyTorch") {
  const Folder folder;
  const Json report = Json::parse(run_ok(folder, "notebook --quick --json"));
  CHECK(report["ok"] == true);
  for (const char* meaning : {"standard", "literal"}) {
    CHECK(report[meaning]["difference_to_reference"].get<double>() <= 5e-7);
    CHECK(report[meaning]["difference_to_pytorch"].get<double>() <= 5e-7);
  }
  CHECK(report["standard"]["output"].size() == 20);
  CHECK(report["standard"]["weights"].size() == 4 * 10);
  CHECK(report["literal"]["output"].size() == 10 * 20);
  CHECK(report["literal"]["weights"].size() == 10 * 4 * 4);
  CHECK(report["notebook_size"]["naive_seconds"].get<double>() > 0);
  CHECK(report["notebook_size"]["seconds"].get<double>() > 0);

  const std::string text = run_ok(folder, "notebook --quick --data '" MHA_TEST_DATA "/notebook.safetensors'");
  CHECK(text.find("Standard attention") != std::string::npos);
  CHECK(text.find("position 1,") != std::string::npos);
  CHECK(text.find("position 9,") == std::string::npos);
  CHECK(run_ok(folder, "notebook --quick --full").find("position 9,") != std::string::npos);

  check_refused(folder, "notebook --data missing.safetensors", "missing.safetensors: No such file");
  REQUIRE(mha::io::write_safetensors(folder.file("other.safetensors"), {{"query", {{2, 10}, std::vector<float>(20)}}}));
  check_refused(folder, "notebook --data other.safetensors", "tensor 'query' has shape [2, 10], expected [1, 20]");
}

TEST_CASE("cli: verify passes, a line for each target and arithmetic and for its storage, then the code of the bits") {
  const Folder folder;
  const std::string text = run_ok(folder, "verify --quick");
  std::istringstream lines(text);
  const std::pair<const char*, mha_arithmetic> arithmetics[] = {
      {"F32", MHA_ARITHMETIC_F32}, {"BF16", MHA_ARITHMETIC_BF16}, {"INT8", MHA_ARITHMETIC_INT8}};
  for (const auto& [arithmetic, number] : arithmetics) {
    for (const std::string& target : mha::test::all_targets()) {
      if (!mha::test::has_arithmetic(target, number)) continue;
      std::string line;
      REQUIRE(std::getline(lines, line));
      CHECK(line.substr(0, target.size() + 1) == target + " ");
      CHECK(line.find(std::string(" ") + arithmetic + " ") != std::string::npos);
      CHECK(line.find("PASS") != std::string::npos);
    }
  }
  for (const std::string& target : mha::test::all_targets()) {
    std::string line;
    REQUIRE(std::getline(lines, line));
    CHECK(line.substr(0, target.size() + 1) == target + " ");
    CHECK(line.find(" storage PASS ") != std::string::npos);
    CHECK(line.find(" with the bits of the widened floats: f16, bf16") != std::string::npos);
    const bool codes = mha::test::has_arithmetic(target, MHA_ARITHMETIC_INT8);
    for (const char* format : {", i8", ", u8", ", i4", ", u4", ", q8_0", ", q4_0"}) {
      CHECK((line.find(format) != std::string::npos) == codes);
    }
    // Nothing is missing but what the target or the build does not have.
    if (codes && mha::test::has_arithmetic(target, MHA_ARITHMETIC_BF16)) continue;
    REQUIRE(std::getline(lines, line));
    CHECK(line.find("combinations are not there, the first: ") != std::string::npos);
  }
  std::string code, more;
  REQUIRE(std::getline(lines, code));
  // Of these inputs, on every machine: F32 and BF16 with fused multiply-add, INT8 without it, too.
  const bool bf16 = !mha::test::targets_of(MHA_ARITHMETIC_BF16).empty();
  if (!mha::test::fma_targets().empty()) CHECK(code.find("F32 V7E3-VN9J, ") != std::string::npos);
  CHECK(code.find(bf16 ? "BF16 T779-EMVF, " : "BF16 none, ") != std::string::npos);
  const bool int8 = !mha::test::targets_of(MHA_ARITHMETIC_INT8).empty();
  if (int8) CHECK(code.find("INT8 H6B3-5M8B (") != std::string::npos);
  CHECK_FALSE(std::getline(lines, more));
  check_refused(folder, "verify --target nonsense", "nonsense");
}

TEST_CASE("cli: explain is the library's own text") {
  const Folder folder;
  const std::string attention =
      run_ok(folder, "explain attention --query-len 7 --key-len 300 --num-heads 4 --head-dim 20 --causal offset -2");
  CHECK(attention.find("target: ") != std::string::npos);
  CHECK(attention.find("arithmetic: ") == std::string::npos);
  if (!mha::test::targets_of(MHA_ARITHMETIC_BF16).empty()) {
    for (const std::string call : {"attention --query-len 7 --key-len 300 --num-heads 4 --head-dim 20",
                                   "linear --rows 3 --in-features 4 --out-features 5"}) {
      CHECK(run_ok(folder, "explain " + call + " --arithmetic bf16").find(": BF16: operands") != std::string::npos);
    }
  }
  CHECK(attention.find("workspace: ") != std::string::npos);
  const std::string cached =
      run_ok(folder,
             "explain attention --batch 3 --query-len 1 --key-len 300 --num-heads 4 --head-dim 20 --cache paged "
             "--page-size 48 --window-left 100 --sink-tokens 4 --softcap 30 --rope --qk-norm");
  for (const std::string part : {"sequences: 3, of 1 to 1 queries and 300 to 300 keys",
                                 "in a paged cache, pages of 48 tokens", "masks: window left, sink tokens;",
                                 "score changes: softcap;", "queries RMS-normed and rotated", "fallback: none"}) {
    INFO(cached);
    CHECK(cached.find(part) != std::string::npos);
  }
  const std::string ring =
      run_ok(folder,
             "explain layer --query-len 7 --key-len 5000 --num-heads 4 --embed-dim 20 --cache ring --window-left 50 "
             "--causal --threads 1");
  CHECK(ring.find("in a ring cache of the last 57 tokens and the first 0; those of this call are appended") !=
        std::string::npos);
  const std::string all =
      run_ok(folder,
             "explain attention --batch 3 --query-len 5 --key-len 400 --num-heads 4 --num-kv-heads 2 --head-dim 64 "
             "--causal --bool-mask --add-mask --key-lengths --window-left 20 --window-right 3 --sink-tokens 2 "
             "--softcap 3 --rope --qk-norm --weights-mode averaged");
  for (const std::string part : {"sequences: 3, of 5 to 5 queries and 400 to 400 keys", "in a padded tensor",
                                 "masks: causal, key lengths, window left, window right, sink tokens, bool, additive;",
                                 "score changes: softcap;", "weights: averaged", "queries RMS-normed and rotated"}) {
    INFO(part << " in " << all);
    CHECK(all.find(part) != std::string::npos);
  }
  check_refused(folder,
                "explain attention --query-len 1 --key-len 9 --num-heads 1 --head-dim 1 --cache contiguous "
                "--page-size 4",
                "page_size is 4");
  check_refused(folder,
                "explain attention --query-len 1 --key-len 9 --num-heads 1 --head-dim 1 --cache contiguous "
                "--key-lengths",
                "key_lengths");
  check_refused(folder, "explain attention --query-len 1 --key-len 1 --num-heads 1 --head-dim 1 --cache x", "'x'");
  check_refused(folder, "explain layer --query-len 3 --key-len 2 --num-heads 1 --embed-dim 4 --cache paged",
                "--key-len >= --query-len");
  check_refused(folder,
                "explain attention --query-len 1 --key-len 99999999 --num-heads 64 --head-dim 128 --cache paged",
                "limit of 1 GiB");
  const std::string layer =
      run_ok(folder,
             "explain layer --query-len 7 --key-len 300 --num-heads 4 --embed-dim 20 --kdim 9 --weights-mode averaged");
  CHECK(layer.find("9 -> 20") != std::string::npos);
  const std::string linear = run_ok(folder, "explain linear --rows 7 --in-features 30 --out-features 40");
  CHECK(linear.find("7 rows, 30 -> 40 features") != std::string::npos);
  CHECK(linear.find("workspace: 0 bytes") != std::string::npos);
  check_refused(folder, "explain linear --rows -1 --in-features 1 --out-features 1", "rows is -1");
  check_refused(folder, "explain linear --rows 1 --in-features 0 --out-features 1", "--in-features");
  check_refused(folder, "explain linear --rows 1 --in-features 99999999 --out-features 99", "limit");
  check_refused(folder, "explain attention --query-len -1 --key-len 1 --num-heads 1 --head-dim 1", "query_len is -1");
  check_refused(folder, "explain layer --query-len 1 --key-len 1 --num-heads 3 --embed-dim 20", "num_heads (3)");
  check_refused(folder, "explain layer --query-len 1 --key-len 1 --num-heads 1 --embed-dim 99999999", "limit");
  check_refused(folder, "explain layer --query-len 1 --key-len 1 --num-heads 1 --embed-dim 9000000000000000000",
                "63 bits");
}

TEST_CASE("cli: wrong arguments") {
  const Folder folder;
  check_refused(folder, "",
                "a command is required: info, run, quantize, bench, verify, notebook, explain (usage: mha COMMAND "
                "[OPTIONS]; mha --help");
  check_refused(folder, "nonsense", "unknown command or option 'nonsense'");
  check_refused(folder, "explain nonsense", "'nonsense'");
  check_refused(folder, "info --nonsense", "--nonsense");
  check_refused(folder, "info nonsense", "nonsense");
  check_refused(folder, "info --threads many", "many");
  check_refused(folder, "info --threads -1", "num_threads is -1");
  check_refused(folder, "info --threads 1025", "num_threads is 1025");
  check_refused(folder, "info --target", "--target");
  check_refused(folder, "run", "required");
  check_refused(folder, "\"$(printf 'two\\nlines')\"", "two\\x0alines");
}
