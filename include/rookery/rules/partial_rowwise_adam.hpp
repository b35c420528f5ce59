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

/// Moves the row's second moment on by the sum of g^2 over the whole row; what a corrected first moment is divided by.
template <class Rule, class Number>
RealOf<Number> partial_rowwise_root(const Rule& rule, const BiasCorrection<Number>& correction, const MomentDecay<Number>& decay,
                                    const Row<Number>& row, const RealOf<Number>& squares) {
  using std::sqrt;
  Number& second = row.state[1][0];
  second = decay.b2 * second + decay.rest2 * static_cast<Number>(squares / static_cast<double>(row.full_dim));
  return sqrt(static_cast<RealOf<Number>>(second)) * correction.root + rule.eps;
}

/// Moves the first moments on, and the weights along them: w = kept * w - step * m.
template <class Number>
void step_along_first(const Row<Number>& row, const MomentDecay<Number>& decay, const Number& step, const Number& kept) {
  Number* first = row.state[0];
  for (std::int64_t i = 0; i < row.dim; ++i) {
    first[i] = decay.b1 * first[i] + decay.rest1 * row.gradient[i];
    row.weight[i] = kept * row.weight[i] - step * first[i];
  }
}

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

  bool sums_squares() const { return true; }     // as RowwiseAdagrad
  template <class Number>
  [[gnu::always_inline]] void sum_row(const Row<Number>& row, const StepContextOf<Number>&, RealOf<Number>* sums) const {
    sums[0] = detail::sum_gradient_squares(row, 0);
  }
  template <class Number> void update(const Row<Number>& row, const StepContextOf<Number>& context, const RealOf<Number>* sums) const {
    const detail::BiasCorrection<Number> correction(*this, context);
    const detail::MomentDecay<Number> decay(*this);
    const double rate = context.rate * learning_rate;
    const RealOf<Number> step = rate * correction.first / detail::partial_rowwise_root(*this, correction, decay, row, sums[0]);
    detail::step_along_first(row, decay, static_cast<Number>(step), static_cast<Number>(1 - rate * weight_decay));
  }
};

}  // namespace rookery
