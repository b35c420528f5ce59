// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Environment: what a program was started as, read once from environment variables.  Include cost: none.

#include <cstdio>
#include <cstdlib>
#include <string>

#include <rookery/core/error.hpp>
#include <rookery/core/parallel.hpp>
#include <rookery/topology/process_environment.hpp>

namespace rookery {

/// Which topology to run on, and with how many ranks.
struct Environment {
  std::string topology = "local";
  int ranks = 1;
  std::string otherwise{};                       // the topology of a program that does not offer that one; empty: none

  /// ROOKERY_TOPOLOGY and ROOKERY_RANKS; in one of several processes "mpi", or "gloo" in a program without it, where mpirun or another
  /// launcher of MPI's started them, and "gloo" where torchrun or any other did; "threads" where only a number of ranks above one is given.
  /// Errors: ConfigError for a number of ranks that is none.
  static Environment read() {
    Environment environment;
    const char* ranks = std::getenv("ROOKERY_RANKS");
    if (ranks) {
      environment.ranks = detail::whole_number(ranks).value_or(0);
      check<ConfigError>(environment.ranks > 0, "ROOKERY_RANKS is '", ranks, "'; it must be a positive number");
      if (environment.ranks > 1) environment.topology = "threads";
    } else if (ProcessEnvironment::is_launched()) {
      environment.ranks = ProcessEnvironment::read(false).world_size;
      if (environment.ranks > 1) environment.topology = environment.otherwise = "gloo";
      if (environment.ranks > 1 && ProcessEnvironment::is_launched_for_mpi()) environment.topology = "mpi";
    }
    if (const char* topology = std::getenv("ROOKERY_TOPOLOGY")) environment.topology = topology;
    return environment;
  }
};

namespace detail {

/// Says so once on stderr when `ranks` share this process, each with a team of threads, and those spin while they wait: OpenMP's default,
/// which takes milliseconds from whom they wait for.
inline void warn_of_spinning_teams(int ranks) {
  const auto& runtime = OpenMp::loaded();
  if (ranks < 2 || std::getenv("OMP_WAIT_POLICY") || !runtime.parallel || runtime.max_threads() / ranks < 2) return;
  [[maybe_unused]] static const int once = std::fputs(
      "rookery: warning: ranks share this process and their threads spin while they wait; set OMP_WAIT_POLICY=passive\n", stderr);
}

}  // namespace detail
}  // namespace rookery
