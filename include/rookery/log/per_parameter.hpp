// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// PerParameter: which reducer for which parameter, by patterns that are part of the type.
//
//   using Norms = PerParameter<For<"*.bias", MaxAbs>, For<"over.*", L2Norm>, For<"*", MeanRowNorm>>;
//
// Answers to the-algorithm-ml's how_to_log, a dict from full names to functions.  Include cost: tensor.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <rookery/concepts/reducer.hpp>
#include <rookery/core/error.hpp>
#include <rookery/core/key.hpp>
#include <rookery/core/pattern.hpp>

namespace rookery {

/// `Reducer` for the parameters whose names match: a full name, where each `*` stands for any text, dots included.
template <detail::FixedString Pattern, class Reducer> struct For {
  static constexpr std::string_view pattern{Pattern.text, sizeof Pattern.text - 1};
  using reducer = Reducer;
};

/// The first rule that matches a parameter counts; a parameter that none matches is left out.
template <class... Rules> struct PerParameter {};

namespace detail {

/// Refuses a pattern other than `*` that none of the parameters' names matches. Errors: IndexError with names that there are.
inline void check_patterns(std::span<const std::string_view> patterns, std::vector<std::string> names) {
  constexpr std::size_t shown = 8;
  for (const auto pattern : patterns) {
    bool used = pattern == "*";
    for (const auto& name : names) used = used || matches_pattern(pattern, name);
    if (used) continue;
    const auto more = names.size() > shown ? concat(" and ", names.size() - shown, " more") : std::string();
    if (names.size() > shown) names.resize(shown);
    fail<IndexError>("WeightLogger: pattern '", pattern, "' matches no parameter; there are ", names, more);
  }
}

/// The first thing that a reducer lacks.
enum class MissingOfReducer { nothing, no_data, name, input, partial, merge, finish };

template <class R> consteval MissingOfReducer missing_of_reducer() {
  if constexpr (!concepts::HasReducerName<R>) return MissingOfReducer::name;
  else if constexpr (!concepts::HasReducerInput<R>) return MissingOfReducer::input;
  else if constexpr (!concepts::HasPartial<R>) return MissingOfReducer::partial;
  else if constexpr (!concepts::HasReducerMerge<R>) return MissingOfReducer::merge;
  else if constexpr (!concepts::HasFinish<R>) return MissingOfReducer::finish;
  else if constexpr (!concepts::Reducer<R>) return MissingOfReducer::no_data;
  else return MissingOfReducer::nothing;
}

/// A reducer as a value, so that what works with reducers is compiled once for all of them.
struct ReducerFunctions {
  std::string_view name;
  ReducerInput input = ReducerInput::elements;
  std::int64_t partial_size = 0;
  at::Tensor (*partial)(const at::Tensor& chunk) = nullptr;
  at::Tensor (*merge)(const at::Tensor& partials) = nullptr;
  double (*finish)(std::span<const double> partial, std::int64_t count) = nullptr;
};
template <concepts::Reducer R>
inline constexpr ReducerFunctions functions_of{.name = R::name,
                                               .input = R::input,
                                               .partial_size = R::partial_size,
                                               .partial = [](const at::Tensor& chunk) { return R{}.partial(chunk); },
                                               .merge = [](const at::Tensor& partials) { return R{}.merge(partials); },
                                               .finish = [](std::span<const double> partial, std::int64_t count) {
                                                 return R{}.finish(partial, count);
                                               }};

/// A reducer for all parameters, or a PerParameter, as a numbered list of rules.
template <class How> struct LogRules : LogRules<PerParameter<For<"*", How>>> {};

template <class... Rules> struct LogRules<PerParameter<Rules...>> {
  static constexpr std::size_t none = sizeof...(Rules);
  static constexpr std::array<std::string_view, sizeof...(Rules)> patterns{Rules::pattern...};

  /// What the first incomplete reducer lacks.
  static consteval MissingOfReducer missing() {
    auto first = MissingOfReducer::nothing;
    ((first = first == MissingOfReducer::nothing ? missing_of_reducer<typename Rules::reducer>() : first), ...);
    return first;
  }

  /// Number of the first rule that matches, or `none`.
  static constexpr std::size_t match(std::string_view name) {
    std::size_t rule = 0;
    while (rule < none && !matches_pattern(patterns[rule], name)) ++rule;
    return rule;
  }

  /// The reducer of each rule.
  static constexpr std::array<const ReducerFunctions*, sizeof...(Rules)> reducers() { return {&functions_of<typename Rules::reducer>...}; }
};

}  // namespace detail
}  // namespace rookery
