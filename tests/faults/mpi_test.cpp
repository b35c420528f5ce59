// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/topology/mpi.hpp>

#include "faults/played.hpp"
#include "support/roles.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

[[maybe_unused]] const bool listed = cases::roles().emplace("faults", &cases::play_faults<Mpi, 1>).second &&
                                     cases::roles().emplace("fault_rank", &cases::play_fault_rank<Mpi>).second;

/// One run of a fault on 2 and on 3 ranks.
void check_runs(const std::string& fault) { cases::check_runs(fault, "23", 2); }

}  // namespace

TEST_SUITE("faults/mpi") {
  TEST_CASE("F1 over MPI a killed rank ends the others within two seconds, each with one line that says who died") { check_runs("F1"); }
  TEST_CASE("F2 over MPI a stopped rank ends the others at their deadline, each with one line that says who does not answer") {
    check_runs("F2");
  }
  TEST_CASE("F3 over MPI a rank that throws ends the others within two seconds, each with one line that ends with the first cause") {
    check_runs("F3");
  }
  TEST_CASE("F4 over MPI a rank that returns or exits with status 0 before the others ends them within two seconds, each with one line") {
    check_runs("F4");
  }
  TEST_CASE("over MPI a rank that is stopped and goes on before the deadline changes nothing") {
    const auto said = cases::played("paused");
    INFO(said);
    CHECK(said == "runs 3, failed 0\n");
  }
}

}  // namespace rookery
