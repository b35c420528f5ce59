// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// NoUpdate: a table that is looked up and never changed, chosen as data where its rule would be.
//
// Answers to FBGEMM's NONE; a table that is declared `frozen` is treated the same: its gradients are neither summed nor part of the
// gradient's norm.  Include cost: none.

#include <array>
#include <string_view>

#include <rookery/concepts/rule.hpp>

namespace rookery {

/// No update, no state.
struct NoUpdate {
  static constexpr std::string_view name = "none";
  static constexpr std::array<StateSlot, 0> state{};
  static constexpr int row_sums = 0;

  template <class Number> void update(const Row<Number>&, const StepContextOf<Number>&, const RealOf<Number>*) const {}
};

}  // namespace rookery
