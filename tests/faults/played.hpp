// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Faults in a test: a test program has threads and cannot fork, so it starts itself again in the role `faults`, which plays those that
// ROOKERY_TEST_FAULT names on the numbers of ranks that ROOKERY_TEST_RANKS holds.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "faults/faults.hpp"
#include "support/test.hpp"

namespace rookery::cases {

/// Ranks that are stopped for a moment and go on: every one ends well and silently, with the weights that it has without that.
template <class Topology> int pause_ranks() {
  int failed = 0;
  const auto healthy = play<Topology>({.ranks = 3}).sums;
  for (int victim = 0; victim < 3; ++victim) {
    const auto outcome = play<Topology>({.kind = FaultKind::stopped, .ranks = 3, .victim = victim,
                                         .moment = {victim + 1, victim, victim == 1}, .continued_after = .4});
    bool good = outcome.sums == healthy && outcome.struck_step > 0;
    for (const auto& end : outcome.ranks) good = good && end.has_ended && end.status == 0 && end.said.empty();
    failed += !good;
  }
  std::printf("runs 3, failed %d\n", failed);
  return failed;
}
/// The role.
template <class Topology, int runs> int play_faults() {
  const std::string id = std::getenv("ROOKERY_TEST_FAULT");
  if (id == "paused") return pause_ranks<Topology>();
  std::vector<int> worlds;
  for (const char digit : std::string(std::getenv("ROOKERY_TEST_RANKS"))) worlds.push_back(digit - '0');
  const auto kind = std::find(fault_ids.begin(), fault_ids.end(), id) - fault_ids.begin();
  return run_faults<Topology>({static_cast<FaultKind>(kind)}, worlds, runs, 1);
}

/// What such a process prints; `ranks` has a digit for each number of ranks.
inline std::string played(const std::string& id, const std::string& ranks = "3") {
  const auto self = std::filesystem::read_symlink("/proc/self/exe").string();
  std::FILE* output = ::popen(concat("ROOKERY_TEST_ROLE=faults ROOKERY_TEST_FAULT=", id, " ROOKERY_TEST_RANKS=", ranks,
                                     " OMP_NUM_THREADS=1 '", self, "' 2>&1").c_str(), "r");
  std::string said;
  for (int c = std::fgetc(output); c != EOF; c = std::fgetc(output)) said += static_cast<char>(c);
  ::pclose(output);
  return said;
}
/// Faults of a kind on those numbers of ranks, all `runs` of which are to end as they should.
inline void check_runs(const std::string& id, const std::string& ranks, int runs) {
  const auto said = played(id, ranks);
  INFO(said);
  CHECK(said.ends_with(concat("runs ", runs, ", failed 0\n")));
}

}  // namespace rookery::cases
