// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// RowCounted: a rule whose step number is, for each row, the number of steps that have reached that row.
//
//   .optimizer = RowCounted{Adam{.learning_rate = 1e-3}}
//
// With Adam's family the bias correction then fits a row that is seldom looked up. Answers to FBGEMM's use_rowwise_bias_correction, which
// ADAM alone has there; here any rule with steps in its math can take it.  Include cost: none.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <rookery/concepts/rule.hpp>

namespace rookery {

/// `Inner` with a counter a row. In float32 a counter stops at 2^24, where no correction is left.
template <concepts::Rule Inner> struct RowCounted {
  Inner rule{};

  static constexpr auto text = detail::prefixed_name<Inner>("row_counted_");
  static constexpr std::string_view name{text.data(), text.size()};
  static constexpr std::size_t counter = Inner::state.size();
  static_assert(std::none_of(Inner::state.begin(), Inner::state.end(), [](const StateSlot& slot) { return slot.name == "row_steps"; }),
                "rookery::RowCounted: this rule counts its rows' steps already; see docs/concepts.md#rule");
  static constexpr auto state = [] {
    std::array<StateSlot, counter + 1> slots{};
    for (std::size_t slot = 0; slot < counter; ++slot) slots[slot] = Inner::state[slot];
    slots[counter] = {"row_steps", StateShape::row};
    return slots;
  }();
  static constexpr int row_sums = Inner::row_sums;

  double initial_state(std::size_t slot) const { return slot < counter ? rookery::initial_state(rule, slot) : 0; }
  template <class Number>
    requires detail::RuleOn<Inner, Number>
  void sum_row(const Row<Number>& row, const StepContextOf<Number>& context, RealOf<Number>* sums) const {
    if constexpr (row_sums > 0) rule.sum_row(row, {.step = steps(row), .rate = context.rate}, sums);
  }
  template <class Number>
    requires detail::RuleOn<Inner, Number>
  void update(const Row<Number>& row, const StepContextOf<Number>& context, const RealOf<Number>* sums) const {
    const auto step = steps(row);
    rule.update(row, {.step = step, .rate = context.rate}, sums);
    row.state[counter][0] = static_cast<Number>(step);
  }

 private:
  /// Of this row, this one included.
  template <class Number> static StepOf<Number> steps(const Row<Number>& row) {
    return static_cast<StepOf<Number>>(row.state[counter][0]) + 1;
  }
};

template <class Inner> RowCounted(Inner) -> RowCounted<Inner>;

}  // namespace rookery
