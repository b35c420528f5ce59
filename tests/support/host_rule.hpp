// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// HostRule: a rule for the host alone; its functions say double and StepContext.

#include <rookery/concepts/rule.hpp>

#include <array>
#include <string_view>

namespace rookery::cases {

struct HostRule {
  static constexpr std::string_view name = "host_rule";
  static constexpr std::array<StateSlot, 0> state{};
  static constexpr int row_sums = 0;
  template <class Number> void update(const Row<Number>& row, const StepContext&, const double*) const {
    if (row.gradient[0] > 0) row.weight[0] = 0;
  }
};

}  // namespace rookery::cases
