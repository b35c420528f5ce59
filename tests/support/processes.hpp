// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Real processes over Gloo, which play roles of support/roles.hpp.

#include <cstdio>
#include <exception>
#include <string>

#include <rookery/topology/gloo.hpp>
#include <rookery/topology/process_environment.hpp>

#include "support/roles.hpp"
#include "support/run_processes.hpp"

namespace rookery::cases {

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
