// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Schedules: what multiplies a learning rate at each step, as plain values.
//
// `factor(step)` is that of the step after `step` steps, so the first step of a run takes factor(0). `validate()` refuses what makes no
// sense. A struct of your own with `factor` is a schedule too. Answers to the-algorithm-ml's compute_lr and torchrec/optim/warmup.py.
// Include cost: none.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numbers>
#include <string_view>
#include <vector>

#include <rookery/core/error.hpp>

namespace rookery {

namespace detail {

/// Errors: ConfigError for a number that would make a learning rate negative or no number.
inline void check_factor(std::string_view what, double factor) {
  check<ConfigError>(std::isfinite(factor) && factor >= 0, what, " is ", factor, "; it must be finite and not negative");
}

}  // namespace detail

/// The same factor at every step.
struct ConstantSchedule {
  double value = 1;

  double factor(std::int64_t) const { return value; }
  void validate() const { detail::check_factor("ConstantSchedule: value", value); }
};

/// From `from` to 1 in a straight line over `steps` steps, then 1. The first step of a ramp from 0 moves nothing.
struct RampSchedule {
  double from = 0;
  std::int64_t steps = 1;

  double factor(std::int64_t step) const {
    return step >= steps ? 1 : from + (1 - from) * static_cast<double>(step) / static_cast<double>(steps);
  }
  void validate() const {
    check<ConfigError>(steps > 0, "RampSchedule: steps is ", steps, "; it must be positive");
    detail::check_factor("RampSchedule: from", from);
  }
};

/// A ramp from 0 to 1 over `ramp_steps`, then half a cosine from 1 to `final` that ends at step `end`.
struct CosineSchedule {
  std::int64_t ramp_steps = 0;
  std::int64_t end = 1;
  double final = 0;

  double factor(std::int64_t step) const {
    if (step < ramp_steps) return static_cast<double>(step) / static_cast<double>(ramp_steps);
    if (step >= end) return final;
    const double part = static_cast<double>(step - ramp_steps) / static_cast<double>(end - ramp_steps);
    return final + (1 - final) * (1 + std::cos(std::numbers::pi * part)) / 2;
  }
  void validate() const {
    check<ConfigError>(ramp_steps >= 0 && end > ramp_steps, "CosineSchedule: ramp_steps is ", ramp_steps, " and end ", end,
                       "; the ramp must not be negative and the end must come after it");
    detail::check_factor("CosineSchedule: final", final);
  }
};

/// values[i] from step boundaries[i - 1] on, up to boundaries[i]: one value more than boundaries.
struct PiecewiseSchedule {
  std::vector<std::int64_t> boundaries{};
  std::vector<double> values{1};

  double factor(std::int64_t step) const {
    return values[static_cast<std::size_t>(std::upper_bound(boundaries.begin(), boundaries.end(), step) - boundaries.begin())];
  }
  void validate() const {
    check<ConfigError>(values.size() == boundaries.size() + 1, "PiecewiseSchedule: ", values.size(), " values for ", boundaries.size(),
                       " boundaries; there must be one more");
    check<ConfigError>(std::is_sorted(boundaries.begin(), boundaries.end(), std::less_equal<>()),
                       "PiecewiseSchedule: boundaries ", boundaries, " do not ascend");
    for (const auto value : values) detail::check_factor("PiecewiseSchedule: a value", value);
  }
};

/// How a stage of a warm-up goes; i counts steps from the start of the run, not of the stage.
enum class WarmupPolicy {
  none,                                          // 1
  linear,                                        // value + (1 - value) * i / max_iters
  constant,                                      // value
  poly,                                          // (1 - i / decay_iters) ^ value, 0 after
  step,                                          // value ^ floor(i / decay_iters)
  inv_sqrt,                                      // 1 / sqrt(i), 1 at the start
  cosine_annealing_warm_restarts                 // from 1 to value in half a cosine, again every sgdr_period steps
};

/// A stage lasts up to and with step `max_iters` of the run.
struct WarmupStage {
  WarmupPolicy policy = WarmupPolicy::linear;
  std::int64_t max_iters = 1;
  double value = 1;
  double lr_scale = 1;                           // multiplies what the policy gives
  std::int64_t decay_iters = -1;                 // not positive: 1 for step, else max_iters
  std::int64_t sgdr_period = 1;

  double factor(std::int64_t i) const {
    const auto now = static_cast<double>(i);
    const auto decay = decay_iters > 0 ? decay_iters : policy == WarmupPolicy::step ? 1 : max_iters;
    switch (policy) {
      case WarmupPolicy::none: return lr_scale;
      case WarmupPolicy::linear: return lr_scale * (value + (1 - value) * now / static_cast<double>(max_iters));
      case WarmupPolicy::constant: return lr_scale * value;
      case WarmupPolicy::poly: return lr_scale * std::pow(std::max(0.0, 1 - now / static_cast<double>(decay)), value);
      case WarmupPolicy::step: return lr_scale * std::pow(value, static_cast<double>(i / decay));
      case WarmupPolicy::inv_sqrt: return lr_scale / std::sqrt(std::max(now, 1.0));
      case WarmupPolicy::cosine_annealing_warm_restarts: {
        const double part = static_cast<double>(i % sgdr_period) / static_cast<double>(sgdr_period);
        return lr_scale * (value + (1 - value) * (1 + std::cos(std::numbers::pi * part)) / 2);
      }
    }
    return lr_scale;
  }
};

/// Stages one after the other, each as long as its `max_iters` says; after the last the factor is 1.
struct WarmupSchedule {
  std::vector<WarmupStage> stages{};

  double factor(std::int64_t step) const {
    const auto stage = std::find_if(stages.begin(), stages.end(), [&](const WarmupStage& one) { return step <= one.max_iters; });
    return stage == stages.end() ? 1 : stage->factor(step);
  }
  void validate() const {
    std::int64_t before = 0;
    for (const auto& stage : stages) {
      check<ConfigError>(stage.max_iters > before, "WarmupSchedule: a stage ends at step ", stage.max_iters, "; it must end after step ",
                         before);
      check<ConfigError>(stage.sgdr_period > 0, "WarmupSchedule: sgdr_period is ", stage.sgdr_period, "; it must be positive");
      detail::check_factor("WarmupSchedule: value of a stage", stage.value);
      detail::check_factor("WarmupSchedule: lr_scale of a stage", stage.lr_scale);
      before = stage.max_iters;
    }
  }
};

}  // namespace rookery
