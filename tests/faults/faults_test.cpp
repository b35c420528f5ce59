// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/topology/gloo.hpp>

#include "faults/played.hpp"
#include "support/roles.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

[[maybe_unused]] const bool listed = cases::roles().emplace("faults", &cases::play_faults<Gloo, 3>).second;

/// Three runs of a fault on 2, 3 and 4 ranks each.
void check_runs(const std::string& fault) { cases::check_runs(fault, "234", 9); }

}  // namespace

TEST_SUITE("faults/processes") {
  TEST_CASE("F1 a killed rank ends the others within two seconds, whatever the deadline, each with one line that says who died") {
    check_runs("F1");
  }
  TEST_CASE("F2 a stopped rank ends the others at their deadline, each with one line that says who does not answer") {
    check_runs("F2");
  }
  TEST_CASE("F3 a rank that throws ends the others within two seconds, each with one line that ends with the first cause") {
    check_runs("F3");
  }
  TEST_CASE("F4 a rank that returns or exits with status 0 before the others ends them within two seconds, each with one line") {
    check_runs("F4");
  }
  TEST_CASE("a rank that is stopped and goes on before the deadline changes nothing") {
    const auto said = cases::played("paused");
    INFO(said);
    CHECK(said == "runs 3, failed 0\n");
  }
}

}  // namespace rookery
