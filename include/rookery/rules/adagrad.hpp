// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Adagrad: m += g^2, w -= lr * g / (sqrt(m) + eps), per weight.
//
// Duchi, Hazan and Singer 2011. Answers to FBGEMM's EXACT_ADAGRAD and torch.optim.Adagrad.  Include cost: none.

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

#include <rookery/concepts/rule.hpp>

namespace rookery {

/// Adagrad with one accumulator a weight, from 0.
struct Adagrad {
  double learning_rate = 0.01;
  double eps = 1e-8;

  static constexpr std::string_view name = "adagrad";
  static constexpr std::array state{StateSlot{"momentum1", StateShape::element}};
  static constexpr int row_sums = 0;

  template <class Number> void update(const Row<Number>& row, const StepContext& context, const double*) const {
    const auto rate = static_cast<Number>(context.rate * learning_rate), epsilon = static_cast<Number>(eps);
    Number* sum = row.state[0];
    for (std::int64_t i = 0; i < row.dim; ++i) {
      sum[i] += row.gradient[i] * row.gradient[i];
      row.weight[i] -= rate * row.gradient[i] / (std::sqrt(sum[i]) + epsilon);
    }
  }
};

}  // namespace rookery
