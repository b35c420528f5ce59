// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// LarsSgd: a = lr * eta * |w| / (|g| + wd * |w|) over the row, m = momentum * m + a * (g + wd * w), w -= m.
//
// You, Gitman and Ginsburg 2017. Answers to FBGEMM's LARS_SGD; differs: under a column split the norms are those of the whole row, and
// where |w| or the divisor is 0 the ratio of norms is 1, so that a row of zeros can start.  Include cost: none.

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

#include <rookery/concepts/rule.hpp>

namespace rookery {

/// Momentum SGD with a learning rate for each row, from the norms of its weights and gradient. One buffer a weight, from 0.
struct LarsSgd {
  double learning_rate = 0.01;
  double momentum = 0.9;
  double eta = 0.001;                            // trust coefficient
  double weight_decay = 0;

  static constexpr std::string_view name = "lars_sgd";
  static constexpr std::array state{StateSlot{"momentum1", StateShape::element}};
  static constexpr int row_sums = 2;

  /// Sums of w^2 and g^2.
  template <class Number> void sum_row(const Row<Number>& row, const StepContextOf<Number>&, RealOf<Number>* sums) const {
    using Real = RealOf<Number>;
    Real weights = 0, gradients = 0;
    for (std::int64_t i = 0; i < row.dim; ++i) {
      const auto weight = static_cast<Real>(row.weight[i]), gradient = static_cast<Real>(row.gradient[i]);
      weights += weight * weight;
      gradients += gradient * gradient;
    }
    sums[0] = sum_of_columns(weights);
    sums[1] = sum_of_columns(gradients);
  }
  template <class Number> void update(const Row<Number>& row, const StepContextOf<Number>& context, const RealOf<Number>* sums) const {
    using std::sqrt;
    using Real = RealOf<Number>;
    const Real norm = sqrt(sums[0]), divisor = sqrt(sums[1]) + weight_decay * norm;
    const Real ratio = select(norm > 0 && divisor > 0, norm / divisor, Real(1));
    const auto rate = static_cast<Number>(context.rate * learning_rate * eta * ratio);
    const auto decay = static_cast<Number>(weight_decay), kept = static_cast<Number>(momentum);
    Number* buffer = row.state[0];
    for (std::int64_t i = 0; i < row.dim; ++i) {
      buffer[i] = kept * buffer[i] + rate * (row.gradient[i] + decay * row.weight[i]);
      row.weight[i] -= buffer[i];
    }
  }
};

}  // namespace rookery
