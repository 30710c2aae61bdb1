// SPDX-License-Identifier: Apache-2.0
// The `mha` command as a process (MHA_CLI is its path): a folder to run it in, its status and output.
#ifndef MHA_TESTS_SUPPORT_CLI_H
#define MHA_TESTS_SUPPORT_CLI_H

#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "tests/support/catch.h"

namespace mha::test {

using Json = nlohmann::json;

struct Finished {
  int status = -1;
  std::string out, err;
};

/// A folder of its own for each test case, which is the command's working directory.
class Folder {
 public:
  Folder() { REQUIRE(mkdtemp(path_.data()) != nullptr); }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_ = (std::filesystem::temp_directory_path() / "mha_test_cli_XXXXXX").string();
};

inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

inline void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string shell_output(const std::string& command, int* status) {
  std::FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string out;
  std::array<char, 4096> chunk;
  for (std::size_t got; (got = fread(chunk.data(), 1, chunk.size(), pipe)) > 0;) out.append(chunk.data(), got);
  const int ended = pclose(pipe);
  if (status != nullptr) *status = WIFEXITED(ended) ? WEXITSTATUS(ended) : -1;
  return out;
}

/// How the shell starts the command. Where this test itself runs under user-mode emulation of another CPU, the shell is
/// the host's and needs the emulator in front.
inline const std::string& command_line() {
  static const std::string line = [] {
    utsname name = {};
    uname(&name);
    const std::string machine = name.machine;
    const std::string host = shell_output("uname -m", nullptr);
    const std::string cli = "'" MHA_CLI "'";
    return host == machine + "\n" ? cli : "qemu-" + machine + " -L /usr/" + machine + "-linux-gnu " + cli;
  }();
  return line;
}

inline Finished run(const Folder& folder, const std::string& arguments, const std::string& environment = "") {
  const std::string errors = folder.file("stderr");
  Finished result;
  result.out = shell_output(
      "cd '" + folder.path() + "' && " + environment + " " + command_line() + " " + arguments + " 2>" + errors,
      &result.status);
  result.err = read_text(errors);
  return result;
}

inline std::string run_ok(const Folder& folder, const std::string& arguments, const std::string& environment = "") {
  const Finished result = run(folder, arguments, environment);
  INFO("mha " << arguments << "\n" << result.err);
  REQUIRE(result.status == 0);
  CHECK(result.err.empty());
  return result.out;
}

/// Status 2, nothing on stdout, one line on stderr with `part` in it.
inline void check_refused(const Folder& folder, const std::string& arguments, const std::string& part) {
  const Finished result = run(folder, arguments);
  INFO("mha " << arguments << "\n" << result.err);
  CHECK(result.status == 2);
  CHECK(result.out.empty());
  CHECK(result.err.substr(0, 5) == "mha: ");
  CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  CHECK((!result.err.empty() && result.err.back() == '\n'));
  CHECK(result.err.find(part) != std::string::npos);
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_CLI_H
