// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// probe: a rule's hyper-parameters as text, seen by what the rule does; check_rule: refuses those that mean nothing.
//
// A rule is a plain struct that need not list its members, so two of them are compared by the rows that they make of the same
// rows. Reports and the check that all ranks have the same rule use it.  Include cost: none.

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include <rookery/concepts/rule.hpp>
#include <rookery/core/error.hpp>

namespace rookery {

namespace detail {

/// What a rule makes of a row at a step: "[w, w] of [w, w], slot [s, s], ..".
template <class Rule> std::string probe_row(const Rule& rule, std::array<double, 2> weights, double first_state, std::int64_t step) {
  constexpr std::size_t slots = Rule::state.size();
  const auto before = weights;
  const std::array<double, 2> gradients{.5, .25};
  std::array<std::array<double, 2>, slots + 1> values{};
  std::array<double*, slots + 1> state{};
  for (std::size_t slot = 0; slot < slots; ++slot) {
    values[slot] = {first_state, .125};
    state[slot] = values[slot].data();
  }
  const Row<double> row{weights.data(), gradients.data(), state.data(), 2, 2};
  const StepContext context{.step = step, .rate = 1};
  std::array<double, static_cast<std::size_t>(Rule::row_sums) + 1> sums{};
  if constexpr (Rule::row_sums > 0) rule.sum_row(row, context, sums.data());
  rule.update(row, context, sums.data());
  auto text = concat(weights, " of ", before);
  for (std::size_t slot = 0; slot < slots; ++slot) {
    text += concat(", ", Rule::state[slot].name, " ", values[slot]);
    if (const double start = initial_state(rule, slot); start != 0) text += concat(" from ", start);
  }
  return text;
}

}  // namespace detail

/// The rule's name and what it makes of a fixed row: weights and state in their shortest exact digits. A rule that looks at whole rows
/// is shown a row of large weights too, where a bound on a norm or on a count is seen.
template <concepts::Rule Rule> std::string probe(const Rule& rule) {
  auto text = concat(Rule::name, " that makes ", detail::probe_row(rule, {1, -2}, .25, 3));
  if constexpr (Rule::row_sums > 0) text += concat(", and ", detail::probe_row(rule, {1e12, -2e12}, 1e6, 1'000'000'000));
  return text;
}

/// Errors: ConfigError for a learning rate, eps or weight decay that is negative or not finite, and for betas and a momentum outside
/// [0, 1), where the rule, or the one that it is around, has members of these names.
template <class Rule> void check_rule(const Rule& rule, std::string_view owner) {
  const auto check_one = [&](std::string_view what, double value, double below) {
    check<ConfigError>(std::isfinite(value) && value >= 0 && value < below, owner, ": ", Rule::name, " has ", what, " ", value,
                       below <= 1 ? "; it must lie in [0, 1)" : "; it must be finite and not negative");
  };
  constexpr double any = std::numeric_limits<double>::infinity();
  if constexpr (requires { rule.learning_rate; }) check_one("learning_rate", rule.learning_rate, any);
  if constexpr (requires { rule.eps; }) check_one("eps", rule.eps, any);
  if constexpr (requires { rule.weight_decay; }) check_one("weight_decay", rule.weight_decay, any);
  if constexpr (requires { rule.beta1; }) check_one("beta1", rule.beta1, 1);
  if constexpr (requires { rule.beta2; }) check_one("beta2", rule.beta2, 1);
  if constexpr (requires { rule.momentum; }) check_one("momentum", rule.momentum, 1);
  if constexpr (requires { rule.rule.update; }) check_rule(rule.rule, owner);
}

}  // namespace rookery
