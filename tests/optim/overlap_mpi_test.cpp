// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// optim/overlap on processes over MPI; built where Meson found one.

#include <rookery/optim/overlap.hpp>
#include <rookery/topology/mpi.hpp>
#include <rookery/topology/with_topology.hpp>

#include <cstdio>
#include <exception>
#include <string>

#include "optim/overlap_cases.hpp"
#include "support/roles.hpp"
#include "support/run_processes.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

int play_overlap() {
  try {
    return with_topology<Mpi>(Environment::read(), [](Mpi& topology) {
      const std::string wrong = cases::overlap::differs(topology);
      if (!wrong.empty()) std::fprintf(stderr, "rank %d: %s\n", topology.rank(), wrong.c_str());
      return wrong.empty() ? 0 : 1;
    });
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
[[maybe_unused]] const bool listed = cases::roles().emplace("mpi_overlap", &play_overlap).second;

}  // namespace

TEST_SUITE("optim/overlap") {
  TEST_CASE("processes over MPI: with overlap every bit is as without") {
    for (const int ranks : {2, 3}) {
      const auto ended = cases::run_processes("mpi_overlap", ranks, "", "mpirun");
      CHECK(ended.said == "");
      CHECK(ended.status == 0);
    }
  }
}

}  // namespace rookery
