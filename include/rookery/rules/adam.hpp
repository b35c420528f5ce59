// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Adam: bias-corrected first and second moments per weight.
//
// Kingma and Ba 2015. Answers to FBGEMM's ADAM and torch.optim.Adam without weight decay; the bias correction counts
// optimizer steps, never forward passes. A row without ids in a step keeps its moments.  Include cost: none.

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

#include <rookery/concepts/rule.hpp>

namespace rookery {

/// Adam with two moments a weight, from 0.
struct Adam {
  double learning_rate = 0.001;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;

  static constexpr std::string_view name = "adam";
  static constexpr std::array state{StateSlot{"exp_avg", StateShape::element}, StateSlot{"exp_avg_sq", StateShape::element}};
  static constexpr int row_sums = 0;

  template <class Number> void update(const Row<Number>& row, const StepContext& context, const double*) const {
    const auto step = static_cast<double>(context.step);
    const auto b1 = static_cast<Number>(beta1), b2 = static_cast<Number>(beta2), epsilon = static_cast<Number>(eps);
    const auto rest1 = static_cast<Number>(1 - beta1), rest2 = static_cast<Number>(1 - beta2);   // before rounding to Number
    const auto rate = static_cast<Number>(context.rate * learning_rate / (1 - std::pow(beta1, step)));
    const auto root = static_cast<Number>(1 / std::sqrt(1 - std::pow(beta2, step)));
    Number *first = row.state[0], *second = row.state[1];
    for (std::int64_t i = 0; i < row.dim; ++i) {
      const Number gradient = row.gradient[i];
      first[i] = b1 * first[i] + rest1 * gradient;
      second[i] = b2 * second[i] + rest2 * gradient * gradient;
      row.weight[i] -= rate * first[i] / (std::sqrt(second[i]) * root + epsilon);
    }
  }
};

}  // namespace rookery
