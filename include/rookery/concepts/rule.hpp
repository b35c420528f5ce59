// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Rule: the update of one row, and the state that it keeps for that row.
//
// A rule is a plain struct of hyper-parameters with one function of math. How it is applied (fused or not, to a table, a
// shard or a dense parameter) is not its business. Duplicate ids are summed before it sees the row, and a row without ids is
// never shown to it. A number is a float or a double; on a device it is that of all rows of a step at once (DeviceNumber), which rules
// that are written for it can be given.  Answers to fbgemm_gpu/codegen/genscript/optimizers.py.  Include cost: none.

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace rookery {

/// Whether a slot of state holds one number a row or one a weight.
enum class StateShape { row, element };

/// One tensor of optimizer state: its name (part of the checkpoint's keys) and shape.
struct StateSlot {
  std::string_view name;
  StateShape shape;
};

/// What a rule is given of one row. `dim` columns are here; `full_dim` is the table's width, which differs under a column split.
template <class Number> struct Row {
  Number* weight;            // [dim]
  const Number* gradient;    // [dim]
  Number* const* state;      // per slot: [1] or [dim]
  std::int64_t dim;
  std::int64_t full_dim;
};

/// What a rule is given of the step.
struct StepContext {
  std::int64_t step = 1;     // optimizer steps so far, this one included
  double rate = 1;           // multiplies the rule's learning rate: where a schedule acts
};

namespace detail {

/// What goes with a number: what is computed with for a row as a whole, and what a step number is. DeviceNumber has its own.
template <class Number> struct NumberTraits {
  using Real = double;
  using Step = std::int64_t;
  using Context = StepContext;
};

}  // namespace detail

/// What a rule computes with for a row as a whole: double, or that of all rows of a step at once.
template <class Number> using RealOf = typename detail::NumberTraits<Number>::Real;
/// The number of a step, which under RowCounted is each row's own.
template <class Number> using StepOf = typename detail::NumberTraits<Number>::Step;
/// StepContext, with a StepOf.
template <class Number> using StepContextOf = typename detail::NumberTraits<Number>::Context;

/// A choice that differs from row to row on a device, where `if` and `?:` cannot be used. Both sides are computed.
template <class Value> Value select(bool condition, const Value& yes, const Value& no) { return condition ? yes : no; }
/// What a loop over a row's `dim` has added up, as one number a row: on a device its `dim` is 1 and stands for all columns.
inline double sum_of_columns(double sum) { return sum; }

namespace detail {

template <class R, class Number>
concept RuleOn =
    requires(const R& rule, const Row<Number>& row, const StepContextOf<Number>& context, const RealOf<Number>* sums) {
      rule.update(row, context, sums);
    };
template <class R, class Number>
concept SumsRowOn = requires(const R& rule, const Row<Number>& row, const StepContextOf<Number>& context, RealOf<Number>* sums) {
  rule.sum_row(row, context, sums);
};

}  // namespace detail

namespace concepts {

/// A rule names itself and its state, says how many sums over the whole row it needs, and updates a row.
/// With `row_sums > 0` it also computes them: `sum_row` adds up what it sees, shards of one row are added together, and
/// `update` gets the totals. So a rule that needs whole rows stays exact under a column split.
template <class R>
concept Rule = std::semiregular<R> && requires {
  { R::name } -> std::convertible_to<std::string_view>;
  { R::state[0] } -> std::convertible_to<StateSlot>;
  { R::state.size() } -> std::convertible_to<std::size_t>;
  { R::row_sums } -> std::convertible_to<int>;
} && detail::RuleOn<R, float> && detail::RuleOn<R, double> &&
    (R::row_sums == 0 || (detail::SumsRowOn<R, float> && detail::SumsRowOn<R, double>));

/// A rule that treats each weight by itself, so that dense parameters can follow it.
template <class R>
concept ElementwiseRule = Rule<R> && R::row_sums == 0 && std::all_of(R::state.begin(), R::state.end(), [](const StateSlot& slot) {
                            return slot.shape == StateShape::element;
                          });

}  // namespace concepts

/// What a slot of a rule's state starts at: the rule's own `initial_state(slot)`, or 0 where it has none.
template <class R> double initial_state(const R& rule, std::size_t slot) {
  if constexpr (requires { { rule.initial_state(slot) } -> std::convertible_to<double>; }) return rule.initial_state(slot);
  else return 0;
}

namespace detail {

/// A prefix and a rule's name: the name of a rule around that rule, as characters.
template <class Inner, std::size_t Size> constexpr auto prefixed_name(const char (&prefix)[Size]) {
  constexpr std::string_view inner = Inner::name;
  std::array<char, Size - 1 + inner.size()> text{};
  std::copy(inner.begin(), inner.end(), std::copy_n(prefix, Size - 1, text.begin()));
  return text;
}

}  // namespace detail

/// The least rule. It takes the place of one that Optimizer refuses, so that the one error stays the only one.
struct ArchetypeRule {
  static constexpr std::string_view name = "archetype";
  static constexpr std::array<StateSlot, 0> state{};
  static constexpr int row_sums = 0;
  template <class Number> void update(const Row<Number>&, const StepContext&, const double*) const {}
};

}  // namespace rookery
