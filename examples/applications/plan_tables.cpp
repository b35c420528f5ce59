// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Says whether embedding tables fit on so many ranks, where they would go and what a step would cost, without any of the ranks and before
// anything is allocated. The status is 0 where they fit and 1 where they do not, with what would be enough.
//
//   plan_tables tables.toml --ranks 8 --memory 80GB --device cuda --output plan.json
//   plan_tables tables.toml --ranks 16 --local-ranks 8 --memory 80GB --device cuda --diff plan.json
//   plan_tables tables.toml --ranks 2 --device cpu --calibrate

#include <cstdio>
#include <string>
#include <vector>

#include "plan_tables.hpp"

int main(int argc, char** argv) {
  const auto said = examples::plan_tables(std::vector<std::string>(argv + 1, argv + argc));
  std::fputs(said.out.c_str(), stdout);
  std::fputs(said.error.c_str(), stderr);
  return said.status;
}
