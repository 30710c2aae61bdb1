// SPDX-License-Identifier: Apache-2.0
// A test's child process.
#ifndef MHA_TESTS_SUPPORT_CHILD_H
#define MHA_TESTS_SUPPORT_CHILD_H

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

namespace mha::test {

/// Runs `body` in a child; its exit status, -1 if it does not end in 20 seconds. They are counted in naps, so that a
/// process that is stopped for a while goes on where it was.
template <class Body>
int in_child(Body&& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  for (int n = 0; child > 0 && n < 20000; ++n) {
    const pid_t ended = waitpid(child, &status, WNOHANG);
    if (ended != 0) return ended == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  kill(child, SIGKILL);
  waitpid(child, &status, 0);
  return -1;
}

}  // namespace mha::test

#endif  // MHA_TESTS_SUPPORT_CHILD_H
