// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// with_topology: the one place where a program chooses its topology at run time. Everything inside is compiled once for each
// topology that the program offers.  Include cost: that of the topologies.

#include <string>
#include <utility>

#include <rookery/core/error.hpp>
#include <rookery/topology/environment.hpp>

namespace rookery {

/// Runs `fn(topology)` on the offered topology that the environment names, on every rank that lives in this process.
/// Gives rank 0's result. Warns once on stderr where ranks share the process and their OpenMP threads spin: OMP_WAIT_POLICY is not set.
/// Errors: ConfigError that lists what the program offers, or for several ranks on a topology of one; whatever `fn` throws.
template <class... Topology, class Fn> int with_topology(const Environment& environment, Fn&& fn) {
  int result = 0;
  const auto try_one = [&]<class One>() {
    if (environment.topology != One::name) return false;
    if constexpr (requires { One::run(1, [](One) {}); }) {
      detail::warn_of_spinning_teams(environment.ranks);
      One::run(environment.ranks, [&](One topology) {
        const bool reports = topology.rank() == 0;
        const int status = fn(std::move(topology));
        if (reports) result = status;
      });
    } else {
      check<ConfigError>(environment.ranks == 1, "topology '", One::name, "' has one rank, not ", environment.ranks);
      result = fn(One{});
    }
    return true;
  };
  const bool ran = (try_one.template operator()<Topology>() || ...);
  std::string offered;
  ((offered += offered.empty() ? "" : ", ", offered += Topology::name), ...);
  check<ConfigError>(ran, "this program does not offer topology '", environment.topology, "'; it has: ", offered);
  return result;
}

}  // namespace rookery
