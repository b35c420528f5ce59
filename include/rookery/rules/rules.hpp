// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Rules<...>: the closed set of table optimizers of a collection, fixed at compile time because each one instantiates
// kernels. Which table takes which rule, with which hyper-parameters, is run-time data: a RuleChoice.
//
// Source: torchrec's apply_optimizer_in_backward per table.  Include cost: none.

#include <concepts>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include <rookery/concepts/rule.hpp>

namespace rookery {

/// The rules that the tables of a collection may pick from; the first is the default.
template <class... Rule> struct Rules {
  static_assert(sizeof...(Rule) > 0, "rookery::Rules: name at least one rule, as in Rules<RowwiseAdagrad>; see docs/concepts.md#rule");
  static constexpr bool complete = (concepts::Rule<Rule> && ...);
  static_assert(
      complete,
      "rookery::Rules: a rule needs `name`, `state`, `row_sums` and `update(const Row<Number>&, const StepContext&, const double*)`; "
      "see docs/concepts.md#rule");
};

/// One rule out of a set, with its hyper-parameters.
template <class Set> class RuleChoice;

template <class... Rule> class RuleChoice<Rules<Rule...>> {
 public:
  RuleChoice() noexcept : rule_() {}
  /// From a rule of the set; any other is one error that says what to write.
  template <class R>
    requires(!std::same_as<std::remove_cvref_t<R>, RuleChoice>)
  RuleChoice(R&& rule) noexcept : rule_(admit(std::forward<R>(rule))) {
    static_assert(
        in_set<R>,
        "rookery::RuleChoice: this rule is not in the collection's set; add it to Rules<...> of the collection; see docs/concepts.md#rule");
  }

  std::string_view name() const {
    return visit([](const auto& rule) { return std::remove_cvref_t<decltype(rule)>::name; });
  }
  /// Calls `fn(rule)` with the rule picked: one switch.
  template <class Fn> decltype(auto) visit(Fn&& fn) const { return std::visit(std::forward<Fn>(fn), rule_); }

 private:
  template <class R> static constexpr bool in_set = (std::same_as<std::remove_cvref_t<R>, Rule> || ...);
  template <class R> static std::variant<Rule...> admit(R&& rule) {
    if constexpr (in_set<R>) return std::forward<R>(rule);
    else return {};
  }

  std::variant<Rule...> rule_;
};

}  // namespace rookery
