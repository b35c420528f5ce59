// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect-error: a rule needs `name`, `state`, `row_sums` and `update

#include "compile_fail/pieces.hpp"

struct Rule {
  double learning_rate = .1;
  static constexpr std::string_view name = "mine";
  static constexpr std::array<rk::StateSlot, 0> state{};
  static constexpr int row_sums = 0;
#ifndef EXPECT_FAIL
  template <class Number> void update(const rk::Row<Number>&, const rk::StepContext&, const double*) const {}
#endif
};
int main() { (void)rk::Rules<Rule>{}; }
