// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "faults/faults.hpp"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "support/roles.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

/// Ranks that are stopped for a moment and go on: every one ends well and silently, with the weights that it has without that.
int pause_ranks() {
  int failed = 0;
  const auto healthy = cases::play({.id = "none", .ranks = 3}).sums;
  for (int victim = 0; victim < 3; ++victim) {
    const auto outcome = cases::play({.id = "F2", .ranks = 3, .victim = victim, .moment = {victim + 1, victim, victim == 1}, .continued_after = .4});
    bool good = outcome.sums == healthy && outcome.struck_step > 0;
    for (const auto& end : outcome.ranks) good = good && end.has_ended && end.status == 0 && end.said.empty();
    failed += !good;
  }
  std::printf("runs 3, failed %d\n", failed);
  return failed;
}
/// What a process without threads does: plays the faults that the environment names.
int play_faults() {
  const std::string id = std::getenv("ROOKERY_TEST_FAULT");
  return id == "paused" ? pause_ranks() : cases::run_faults({id}, {2, 3, 4}, 3, 1);
}
[[maybe_unused]] const bool listed = cases::roles().emplace("faults", &play_faults).second;

/// What such a process prints.
std::string played(const std::string& id) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  std::FILE* output = ::popen(concat("ROOKERY_TEST_ROLE=faults ROOKERY_TEST_FAULT=", id, " OMP_NUM_THREADS=1 '", self, "' 2>&1").c_str(), "r");
  std::string said;
  for (int c = std::fgetc(output); c != EOF; c = std::fgetc(output)) said += static_cast<char>(c);
  ::pclose(output);
  return said;
}

/// Three runs of a fault on 2, 3 and 4 ranks each.
void check_runs(const std::string& fault) {
  const auto said = played(fault);
  INFO(said);
  CHECK(said.ends_with("runs 9, failed 0\n"));
}

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
    const auto said = played("paused");
    INFO(said);
    CHECK(said == "runs 3, failed 0\n");
  }
}

}  // namespace rookery
