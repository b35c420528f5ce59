// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// probe: a rule's hyper-parameters as text, seen by what the rule does.
//
// A rule is a plain struct that need not list its members, so two of them are compared by the row that they make of the same
// row. Reports and the check that all ranks have the same rule use it.  Include cost: none.

#include <array>
#include <cstddef>
#include <string>

#include <rookery/concepts/rule.hpp>
#include <rookery/core/error.hpp>

namespace rookery {

/// The rule's name and what it makes of a fixed row: weights and state in their shortest exact digits.
template <concepts::Rule Rule> std::string probe(const Rule& rule) {
  constexpr std::size_t slots = Rule::state.size();
  std::array<double, 2> weights{1, -2};
  const std::array<double, 2> gradients{.5, .25};
  std::array<std::array<double, 2>, slots + 1> values{};
  std::array<double*, slots + 1> state{};
  for (std::size_t slot = 0; slot < slots; ++slot) {
    values[slot] = {.25, .125};
    state[slot] = values[slot].data();
  }
  const Row<double> row{weights.data(), gradients.data(), state.data(), 2, 2};
  const StepContext context{.step = 3, .rate = 1};
  std::array<double, static_cast<std::size_t>(Rule::row_sums) + 1> sums{};
  if constexpr (Rule::row_sums > 0) rule.sum_row(row, context, sums.data());
  rule.update(row, context, sums.data());
  auto text = concat(Rule::name, " that makes ", weights, " of [1, -2]");
  for (std::size_t slot = 0; slot < slots; ++slot) text += concat(", ", Rule::state[slot].name, " ", values[slot]);
  return text;
}

}  // namespace rookery
