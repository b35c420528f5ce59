// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Real processes: a test program starts itself again as several ranks that play a role of support/roles.hpp.

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <rookery/core/clock.hpp>
#include <rookery/core/error.hpp>

namespace rookery::cases {

/// How a group of processes ended, and what all of them wrote.
struct EndedProcesses {
  int status = 0;
  double seconds = 0;
  std::string said;
};

/// Runs `role` on `ranks` processes of this machine; `environment` as `NAME=value NAME=value`, `launcher` a script of examples/.
inline EndedProcesses run_processes(const std::string& role, int ranks, const std::string& environment = "",
                                    const std::string& launcher = "launch") {
  check<Error>(std::getenv("ROOKERY_TEST_ROLE") == nullptr, "a process with the role '", role, "' would start others without end");
  const auto file = std::filesystem::temp_directory_path() / concat("rookery_", role, "_", ranks, "_", ::getpid());
  const Stopwatch clock;
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  const int status = std::system(concat("ROOKERY_TEST_ROLE=", role, " ", environment, " '", ROOKERY_SOURCE_DIR, "/examples/", launcher, "' ",
                                        ranks, " '", self, "' > '", file.string(), "' 2>&1")
                                     .c_str());
  EndedProcesses ended{WEXITSTATUS(status), clock.seconds(), {}};
  std::ifstream text(file);
  ended.said.assign(std::istreambuf_iterator<char>(text), {});
  std::filesystem::remove(file);
  return ended;
}

}  // namespace rookery::cases
