// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// RowwiseAdagradWithCounter: rowwise Adagrad that counts how often a row appears, and decays or speeds up rare rows more.
//
// Answers to FBGEMM's rowwise_adagrad_with_counter, weight_decay_mode COUNTER, with the fields of its
// CounterBasedRegularizationDefinition; differs: steps are optimizer steps, a count without half-life leaves the decay as it is instead of
// turning its sign, and sums are those of the whole row under a column split. Its lazy AdagradW and cow-clip are not here.
// Include cost: none.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <rookery/concepts/rule.hpp>
#include <rookery/rules/rowwise_adagrad.hpp>

namespace rookery {

/// What the count does to the learning rate of rows whose count is above the threshold.
enum class CounterLearningRateMode {
  none,
  tail_id_lr_increase,                           // times (max_counter / (count + 1)) ^ adjustment_ub, from 1 to 10
  tail_id_lr_decrease,                           // times ((count + 1) / max_counter) ^ adjustment_ub, from .1 to 1
  counter_sgd                                    // divided by sqrt(adjustment_ub * count) instead of the accumulator's root
};

/// Rowwise Adagrad with a count of appearances a row.
struct RowwiseAdagradWithCounter {
  double learning_rate = 0.01;
  double eps = 1e-8;
  double weight_decay = 0;                       // times counter_halflife / count, when there is a half-life
  WeightDecayMode weight_decay_mode = WeightDecayMode::l2;
  std::int64_t counter_halflife = -1;            // in steps; 0: every count is 1; below 0: appearances are counted without decay
  std::int64_t adjustment_iter = -1;             // decay and learning rate are adjusted after that many steps
  CounterLearningRateMode learning_rate_mode = CounterLearningRateMode::none;
  double adjustment_ub = 1;
  double max_counter = 1;
  double tail_id_threshold = 0;
  double initial_accumulator_value = 0;

  static constexpr std::string_view name = "rowwise_adagrad_with_counter";
  static constexpr std::array state{StateSlot{"momentum1", StateShape::row}, StateSlot{"prev_iter", StateShape::row},
                                    StateSlot{"row_counter", StateShape::row}};
  static constexpr int row_sums = 1;

  double initial_state(std::size_t slot) const { return slot == 0 ? initial_accumulator_value : 0; }
  bool sums_squares() const { return weight_decay == 0 || weight_decay_mode != WeightDecayMode::l2; }   // as RowwiseAdagrad
  template <class Number>
  [[gnu::always_inline]] void sum_row(const Row<Number>& row, const StepContextOf<Number>&, RealOf<Number>* sums) const {
    sums[0] = detail::sum_gradient_squares(row, weight_decay_mode == WeightDecayMode::l2 ? weight_decay : 0);
  }
  /// Moves the state on, and gives the step that the weights are to take.
  template <class Number>
  LinearStepOf<RealOf<Number>> advance(const Row<Number>& row, const StepContextOf<Number>& context, const RealOf<Number>* sums) const {
    using std::exp2, std::sqrt;
    using Real = RealOf<Number>;
    Number &sum = row.state[0][0], &last = row.state[1][0], &stored_count = row.state[2][0];
    const auto step_number = static_cast<Real>(context.step);
    const Real elapsed = select(last == 0, Real(1), step_number - static_cast<Real>(last));
    auto count = static_cast<Real>(stored_count);
    if (counter_halflife > 0) count = 1 + exp2(-elapsed / static_cast<double>(counter_halflife)) * count;
    else count = counter_halflife == 0 ? Real(1) : count + 1;
    stored_count = static_cast<Number>(count);
    last = static_cast<Number>(step_number);
    sum += static_cast<Number>(sums[0] / static_cast<double>(row.full_dim));

    const Real rate = context.rate * learning_rate, plain = rate / (sqrt(static_cast<Real>(sum)) + eps);
    const auto adjusts = adjustment_iter <= 0 || context.step > adjustment_iter;
    const Real decay = weight_decay * (counter_halflife > 0 ? static_cast<double>(counter_halflife) / count : Real(1));
    return {select(adjusts, 1 - decay * (weight_decay_mode == WeightDecayMode::l2 ? plain : rate), Real(1)),
            select(adjusts && count > tail_id_threshold, adjusted(plain, rate, count), plain)};
  }
  template <class Number> void update(const Row<Number>& row, const StepContextOf<Number>& context, const RealOf<Number>* sums) const {
    advance(row, context, sums).apply(row);
  }

 private:
  template <class Real> Real adjusted(const Real& plain, const Real& rate, const Real& count) const {
    using std::clamp, std::pow, std::sqrt;
    switch (learning_rate_mode) {
      case CounterLearningRateMode::none: return plain;
      case CounterLearningRateMode::tail_id_lr_increase:
        return plain * clamp(pow(max_counter / (count + 1), adjustment_ub), 1.0, 10.0);
      case CounterLearningRateMode::tail_id_lr_decrease:
        return plain * clamp(pow((count + 1) / max_counter, adjustment_ub), .1, 1.0);
      case CounterLearningRateMode::counter_sgd: return rate / (sqrt(adjustment_ub * count) + eps);
    }
    return plain;
  }
};

}  // namespace rookery
