// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Environment: what a program was started as, read once from environment variables.  Include cost: none.

#include <cstdio>
#include <cstdlib>
#include <optional>
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
  int node_size = 0;                             // ranks on each pretended node of Threads; 0: all on one
  std::string device{};                          // "cpu", "cuda" or "cuda:1" for Local, "cuda" for Nccl; empty: as the topology has it

  /// ROOKERY_TOPOLOGY, ROOKERY_RANKS and ROOKERY_DEVICE. Without the first: in one of several processes "mpi", or "gloo" in a program
  /// without it, where mpirun or another launcher of MPI's started them, and "gloo" where torchrun or any other did; "threads" where only a
  /// number of ranks above one is given. Processes with a GPU each are asked for by ROOKERY_TOPOLOGY=nccl.
  /// ROOKERY_NODE_SIZE lets ranks that are threads act as if so many were on each node: plans that know of nodes are tried on one machine.
  /// Errors: ConfigError for a number of ranks, or of those on a node, that is none.
  static Environment read() {
    Environment environment;
    environment.node_size = positive("ROOKERY_NODE_SIZE").value_or(0);
    if (const auto ranks = positive("ROOKERY_RANKS")) {
      environment.ranks = *ranks;
      if (environment.ranks > 1) environment.topology = "threads";
    } else if (ProcessEnvironment::is_launched()) {
      environment.ranks = ProcessEnvironment::read(false).world_size;
      if (environment.ranks > 1) environment.topology = environment.otherwise = "gloo";
      if (environment.ranks > 1 && ProcessEnvironment::is_launched_for_mpi()) environment.topology = "mpi";
    }
    if (const char* topology = std::getenv("ROOKERY_TOPOLOGY")) {
      environment.topology = topology;
      environment.otherwise.clear();                         // who names one gets no other
    }
    if (const char* device = std::getenv("ROOKERY_DEVICE")) environment.device = device;
    return environment;
  }

 private:
  static std::optional<int> positive(const char* name) {
    const char* text = std::getenv(name);
    if (!text) return {};
    const auto value = detail::whole_number(text);
    check<ConfigError>(value.value_or(0) > 0, name, " is '", text, "'; it must be a positive number");
    return value;
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
