// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Real processes over Gloo: a test program starts itself again as several ranks that play a role of support/roles.hpp.

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <rookery/core/clock.hpp>
#include <rookery/core/error.hpp>
#include <rookery/topology/gloo.hpp>
#include <rookery/topology/process_environment.hpp>

#include "support/roles.hpp"

namespace rookery::cases {

/// How a group of processes ended, and what all of them wrote.
struct EndedProcesses {
  int status = 0;
  double seconds = 0;
  std::string said;
};

/// Runs `role` on `ranks` processes of this machine; `environment` as `NAME=value NAME=value`.
inline EndedProcesses run_processes(const std::string& role, int ranks, const std::string& environment = "") {
  const auto file = std::filesystem::temp_directory_path() / concat("rookery_", role, "_", ranks, "_", ::getpid());
  const Stopwatch clock;
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  const int status = std::system(concat("ROOKERY_TEST_ROLE=", role, " ", environment, " '", ROOKERY_SOURCE_DIR, "/examples/launch' ", ranks,
                                        " '", self, "' > '", file.string(), "' 2>&1")
                                     .c_str());
  EndedProcesses ended{WEXITSTATUS(status), clock.seconds(), {}};
  std::ifstream text(file);
  ended.said.assign(std::istreambuf_iterator<char>(text), {});
  std::filesystem::remove(file);
  return ended;
}

/// What a role does: joins the group and calls `fn(topology)`, which gives what is wrong, empty where nothing is.
template <class Fn> int play(Fn&& fn, int local_world_size = 0) {
  try {
    auto environment = ProcessEnvironment::read();
    if (local_world_size > 0) environment.local_world_size = local_world_size;
    auto topology = Gloo::join(environment);
    const std::string wrong = fn(topology);
    if (!wrong.empty()) std::fprintf(stderr, "rank %d: %s\n", topology.rank(), wrong.c_str());
    topology.leave();
    return wrong.empty() ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

}  // namespace rookery::cases
