// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// RowwiseAdagrad: m += mean(g^2) over the row, w -= lr * g / (sqrt(m) + eps). One number of state a row.
//
// Answers to FBGEMM's EXACT_ROWWISE_ADAGRAD; differs: under a column split the mean is that of the whole row.
// Include cost: none.

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

#include <rookery/concepts/rule.hpp>

namespace rookery {

/// Adagrad with one accumulator a row, from 0.
struct RowwiseAdagrad {
  double learning_rate = 0.01;
  double eps = 1e-8;

  static constexpr std::string_view name = "rowwise_adagrad";
  static constexpr std::array state{StateSlot{"momentum1", StateShape::row}};
  static constexpr int row_sums = 1;

  template <class Number> void sum_row(const Row<Number>& row, const StepContext&, double* sums) const {
    double squares = 0;
    for (std::int64_t i = 0; i < row.dim; ++i) squares += static_cast<double>(row.gradient[i]) * static_cast<double>(row.gradient[i]);
    sums[0] = squares;
  }
  template <class Number> void update(const Row<Number>& row, const StepContext& context, const double* sums) const {
    Number& sum = row.state[0][0];
    sum += static_cast<Number>(sums[0] / static_cast<double>(row.full_dim));
    const auto rate = static_cast<Number>(context.rate * learning_rate / (std::sqrt(static_cast<double>(sum)) + eps));
    for (std::int64_t i = 0; i < row.dim; ++i) row.weight[i] -= rate * row.gradient[i];
  }
};

}  // namespace rookery
