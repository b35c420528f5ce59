// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// PartialRowwiseAdam: Adam whose second moment is one number a row, of mean(g^2).
//
// Answers to FBGEMM's PARTIAL_ROWWISE_ADAM; differs: under a column split the mean is that of the whole row. Weight decay is decoupled,
// as there: w -= lr * (m / (sqrt(v) + eps) + wd * w).  Include cost: none.

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

#include <rookery/concepts/rule.hpp>
#include <rookery/rules/adam.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>

namespace rookery {

namespace detail {

inline constexpr std::array partial_rowwise_state{StateSlot{"exp_avg", StateShape::element}, StateSlot{"exp_avg_sq", StateShape::row}};

}  // namespace detail

/// Adam with a first moment a weight and a second moment a row, from 0.
struct PartialRowwiseAdam {
  double learning_rate = 0.001;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;

  static constexpr std::string_view name = "partial_rowwise_adam";
  static constexpr auto state = detail::partial_rowwise_state;
  static constexpr int row_sums = 1;

  template <class Number> void sum_row(const Row<Number>& row, const StepContext&, double* sums) const {
    sums[0] = detail::sum_gradient_squares(row, 0);
  }
  template <class Number> void update(const Row<Number>& row, const StepContext& context, const double* sums) const {
    const auto correction = detail::bias_correction(*this, context);
    const detail::MomentDecay<Number> decay(*this);
    Number *first = row.state[0], &second = row.state[1][0];
    second = decay.b2 * second + decay.rest2 * static_cast<Number>(sums[0] / static_cast<double>(row.full_dim));
    const double rate = context.rate * learning_rate;
    const auto step = static_cast<Number>(rate * correction.first / (std::sqrt(static_cast<double>(second)) * correction.root + eps));
    const auto kept = static_cast<Number>(1 - rate * weight_decay);
    for (std::int64_t i = 0; i < row.dim; ++i) {
      first[i] = decay.b1 * first[i] + decay.rest1 * row.gradient[i];
      row.weight[i] = kept * row.weight[i] - step * first[i];
    }
  }
};

}  // namespace rookery
