// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Sgd: w -= lr * g.  Answers to FBGEMM's EXACT_SGD and torch.optim.SGD without momentum.  Include cost: none.

#include <array>
#include <cstdint>
#include <string_view>

#include <rookery/concepts/rule.hpp>

namespace rookery {

/// Stochastic gradient descent, without state.
struct Sgd {
  double learning_rate = 0.01;

  static constexpr std::string_view name = "sgd";
  static constexpr std::array<StateSlot, 0> state{};
  static constexpr int row_sums = 0;

  template <class Number> void update(const Row<Number>& row, const StepContext& context, const double*) const {
    const auto rate = static_cast<Number>(context.rate * learning_rate);
    for (std::int64_t i = 0; i < row.dim; ++i) row.weight[i] -= rate * row.gradient[i];
  }
};

}  // namespace rookery
