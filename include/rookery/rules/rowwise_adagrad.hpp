// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// RowwiseAdagrad: m += mean(g^2) over the row, w -= lr * g / (sqrt(m) + eps). One number of state a row.
//
// Answers to FBGEMM's EXACT_ROWWISE_ADAGRAD with its weight-decay modes; differs: under a column split the mean is that of the whole row.
// FBGEMM's counter mode is rules/rowwise_adagrad_with_counter.hpp, its max_norm rules/max_norm.hpp.  Include cost: none.

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include <rookery/concepts/rule.hpp>
#include <rookery/core/squares.hpp>

namespace rookery {

/// Where weight decay acts. l2: wd * w is added to the gradient; decouple: w is multiplied by 1 - lr * wd instead.
enum class WeightDecayMode { l2, decouple };

/// A step that is the same for the whole row: w = of_weight * w - of_gradient * g.
template <class Real> struct LinearStepOf {
  Real of_weight = 1, of_gradient = 0;

  template <class Number> void apply(const Row<Number>& row) const {
    const auto keep = static_cast<Number>(of_weight), rate = static_cast<Number>(of_gradient);
    for (std::int64_t i = 0; i < row.dim; ++i) row.weight[i] = keep * row.weight[i] - rate * row.gradient[i];
  }
};
using LinearStep = LinearStepOf<double>;

namespace detail {

/// The sum of value(i)^2 for i < count, in four partial sums, so that additions need not wait for one another.
template <class Real, class Fn> Real sum_squares(std::int64_t count, Fn&& value) {
  std::array<Real, 4> sums{};
  const std::int64_t whole = count - count % 4;
  for (std::int64_t i = 0; i < whole; i += 4)
    for (std::int64_t lane = 0; lane < 4; ++lane) sums[static_cast<std::size_t>(lane)] += value(i + lane) * value(i + lane);
  for (std::int64_t i = whole; i < count; ++i) sums[0] += value(i) * value(i);
  return sum_of_columns((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

/// The sum over a row of (g + coupled * w)^2.
template <class Number> [[gnu::always_inline]] inline RealOf<Number> sum_gradient_squares(const Row<Number>& row, double coupled) {
  using Real = RealOf<Number>;
  const auto *gradient = row.gradient, *weight = row.weight;
  if constexpr (std::is_arithmetic_v<Number>)
    if (coupled == 0) return squared_norm<Number>(gradient, row.dim);
  return sum_squares<Real>(row.dim,
                           [=](std::int64_t i) { return static_cast<Real>(gradient[i]) + coupled * static_cast<Real>(weight[i]); });
}

}  // namespace detail

/// Adagrad with one accumulator a row.
struct RowwiseAdagrad {
  double learning_rate = 0.01;
  double eps = 1e-8;
  double weight_decay = 0;
  WeightDecayMode weight_decay_mode = WeightDecayMode::l2;
  double initial_accumulator_value = 0;

  static constexpr std::string_view name = "rowwise_adagrad";
  static constexpr std::array state{StateSlot{"momentum1", StateShape::row}};
  static constexpr int row_sums = 1;

  double initial_state(std::size_t) const { return initial_accumulator_value; }
  /// Whether the sum of a row is that of its gradient's squares alone: whoever has it already need not sum again.
  bool sums_squares() const { return weight_decay == 0 || weight_decay_mode != WeightDecayMode::l2; }
  template <class Number>
  [[gnu::always_inline]] void sum_row(const Row<Number>& row, const StepContextOf<Number>&, RealOf<Number>* sums) const {
    sums[0] = detail::sum_gradient_squares(row, weight_decay_mode == WeightDecayMode::l2 ? weight_decay : 0);
  }
  /// Moves the state on, and gives the step that the weights are to take.
  template <class Number>
  LinearStepOf<RealOf<Number>> advance(const Row<Number>& row, const StepContextOf<Number>& context, const RealOf<Number>* sums) const {
    using std::sqrt;
    Number& sum = row.state[0][0];
    sum += static_cast<Number>(sums[0] / static_cast<double>(row.full_dim));
    const RealOf<Number> rate = context.rate * learning_rate, step = rate / (sqrt(static_cast<RealOf<Number>>(sum)) + eps);
    return {1 - weight_decay * (weight_decay_mode == WeightDecayMode::l2 ? step : rate), step};
  }
  template <class Number> void update(const Row<Number>& row, const StepContextOf<Number>& context, const RealOf<Number>* sums) const {
    advance(row, context, sums).apply(row);
  }
};

}  // namespace rookery
