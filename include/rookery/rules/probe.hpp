// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// probe and describe: a rule's hyper-parameters as text, by what the rule does and by name; check_rule: refuses those that mean
// nothing.
//
// A rule is a plain struct that need not list its members, so two of them are compared by the rows that they make of the same
// rows. The check that all ranks have the same rule uses it.  Include cost: none.

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

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

namespace detail {

/// Calls `fn(name, value)` for the well-known hyper-parameters of a rule, and of the one that it is around: members of these names.
template <class Rule, class Fn> void for_each_hyper_parameter(const Rule& rule, Fn&& fn) {
  if constexpr (requires { rule.learning_rate; }) fn("learning_rate", rule.learning_rate);
  if constexpr (requires { rule.beta; }) fn("beta", rule.beta);
  if constexpr (requires { rule.beta1; }) fn("beta1", rule.beta1);
  if constexpr (requires { rule.beta2; }) fn("beta2", rule.beta2);
  if constexpr (requires { rule.momentum; }) fn("momentum", rule.momentum);
  if constexpr (requires { rule.eps; }) fn("eps", rule.eps);
  if constexpr (requires { rule.weight_decay; }) fn("weight_decay", rule.weight_decay);
  if constexpr (requires { rule.max_norm; }) fn("max_norm", rule.max_norm);
  if constexpr (requires { rule.eta; }) fn("eta", rule.eta);
  if constexpr (requires { rule.adjustment_ub; }) fn("adjustment_ub", rule.adjustment_ub);
  if constexpr (requires { rule.max_counter; }) fn("max_counter", rule.max_counter);
  if constexpr (requires { rule.tail_id_threshold; }) fn("tail_id_threshold", rule.tail_id_threshold);
  if constexpr (requires { rule.initial_accumulator_value; }) fn("initial_accumulator_value", rule.initial_accumulator_value);
  if constexpr (requires { requires concepts::Rule<std::remove_cvref_t<decltype(rule.rule)>>; }) for_each_hyper_parameter(rule.rule, fn);
}

}  // namespace detail

/// What two ranks must have in common of a rule: "adam with learning_rate 0.001, .., weight_decay 0; adam that makes ..". Members without
/// a well-known name show in what the rule makes.
template <concepts::Rule Rule> std::string describe(const Rule& rule) {
  std::string text(Rule::name), separator = " with ";
  detail::for_each_hyper_parameter(rule, [&](std::string_view name, double value) {
    text += concat(separator, name, " ", value);
    separator = ", ";
  });
  return concat(text, "; ", probe(rule));
}

/// Errors: ConfigError for betas and a momentum outside [0, 1); for an eps that is no positive float32, for the first gradient of a weight
///         may be zero, and 0 / (0 + eps) must be 0 in float32 too; for any other well-known number that is negative or not finite. All of
///         it where the rule, or the one that it is around, has members of these names.
template <class Rule> void check_rule(const Rule& rule, std::string_view owner) {
  detail::for_each_hyper_parameter(rule, [&](std::string_view name, double value) {
    const bool decays = name.starts_with("beta") || name == "momentum", divides = name == "eps";
    const double least = divides ? 0x1p-126 : 0;                 // the smallest float32 that is not denormal
    check<ConfigError>(std::isfinite(value) && value >= least && (!decays || value < 1), owner, ": ", Rule::name, " has ", name, " ", value,
                       decays ? "; it must lie in [0, 1)"
                       : divides ? "; it must be finite and positive in float32, 2^-126 or more"
                                 : "; it must be finite and not negative");
  });
}

}  // namespace rookery
