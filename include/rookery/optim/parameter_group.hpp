// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Parameter groups: learning rates and schedules of their own for parameters and tables, chosen by name.
//
//   {.groups = {{.pattern = "item.*", .schedule = RampSchedule{.steps = 1000}}, {.pattern = "*.bias", .learning_rate_factor = 2}}}
//
// Answers to param_groups of torch.optim and per-table learning rates of torchrec. The schedules are in optim/schedule.hpp.
// Include cost: none.

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/pattern.hpp>

namespace rookery {

/// A schedule of any type that has `double factor(std::int64_t step) const`, as a value; 1 at every step when empty.
/// Only the types that a program uses are compiled.
class Schedule {
 public:
  Schedule() = default;
  /// Errors: ConfigError where the schedule's own `validate()` says so.
  template <class S>
    requires(!std::same_as<S, Schedule>) && requires(const S& schedule, std::int64_t step) {
      { schedule.factor(step) } -> std::convertible_to<double>;
    }
  Schedule(S schedule)
      : schedule_(std::make_shared<const S>(std::move(schedule))),
        factor_([](const void* one, std::int64_t step) -> double { return static_cast<const S*>(one)->factor(step); }) {
    if constexpr (requires(const S& one) { one.validate(); }) static_cast<const S*>(schedule_.get())->validate();
  }

  /// What multiplies the learning rate after `step` steps.
  double factor(std::int64_t step) const { return schedule_ ? factor_(schedule_.get(), step) : 1; }

 private:
  std::shared_ptr<const void> schedule_;
  double (*factor_)(const void*, std::int64_t) = nullptr;
};

/// What multiplies the learning rate of the parameters and tables whose full names match: "over.layers.0.bias",
/// "item.embedding_bags.item_id.weight". Each `*` of the pattern stands for any text. The first group that matches counts.
struct ParameterGroup {
  std::string pattern = "*";
  double learning_rate_factor = 1;
  Schedule schedule{};
};

namespace detail {

/// The number of the first group that matches each name, from 1 on; 0 for a name that none matches.
/// Errors: ConfigError for a group that decides nothing, and for a factor that is negative or not finite.
inline std::vector<std::size_t> group_numbers(std::span<const ParameterGroup> groups, std::span<const std::string> names) {
  std::vector<std::size_t> numbers(names.size());
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const auto factor = groups[g].learning_rate_factor;
    check<ConfigError>(std::isfinite(factor) && factor >= 0, "Optimizer: group '", groups[g].pattern, "' has learning_rate_factor ", factor,
                       "; it must be finite and not negative");
    bool matches = false, decides = false;
    for (std::size_t n = 0; n < names.size(); ++n) {
      if (!matches_pattern(groups[g].pattern, names[n])) continue;
      matches = true;
      if (numbers[n] != 0) continue;
      numbers[n] = g + 1;
      decides = true;
    }
    check<ConfigError>(matches, "Optimizer: group '", groups[g].pattern, "' matches no parameter and no table; there are ", names);
    check<ConfigError>(decides, "Optimizer: group '", groups[g].pattern, "' matches only what groups before it have");
  }
  return numbers;
}

/// What multiplies learning rates after `step` steps: `all` alone, then with each group's factor and schedule.
/// Errors: ConfigError when one is negative or not finite.
inline std::vector<double> group_rates(std::span<const ParameterGroup> groups, double all, std::int64_t step) {
  std::vector<double> rates{all};
  for (const auto& group : groups) {
    rates.push_back(all * group.learning_rate_factor * group.schedule.factor(step));
    check<ConfigError>(std::isfinite(rates.back()) && rates.back() >= 0, "Optimizer: group '", group.pattern,
                       "' multiplies its learning rate by ", rates.back(), " after step ", step, "; it must be finite and not negative");
  }
  return rates;
}

/// These rates in words, line by line.
inline std::string rate_lines(std::span<const ParameterGroup> groups, std::span<const double> rates) {
  auto lines = concat("learning rate factor ", rates[0]);
  for (std::size_t g = 0; g < groups.size(); ++g)
    lines += concat("\nlearning rate factor ", rates[g + 1], " of group '", groups[g].pattern, "'");
  return lines;
}

}  // namespace detail
}  // namespace rookery
