// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Rce: relative cross entropy, the per cent by which predictions beat always predicting the mean label: 100 (1 - NE), apart from
// the clamp.
//
// Answers to metrics/rce.py RCE of the-algorithm-ml, clamp and label smoothing included; accumulates in float64.
// Include cost: tensor.

#include <cstddef>
#include <string>
#include <string_view>

#include <rookery/metrics/cross_entropy.hpp>
#include <rookery/metrics/metric_value.hpp>
#include <rookery/metrics/stable_mean.hpp>

namespace rookery {

/// Upstream clamps in float32, where 1 - 1e-7 is 1 - 2^-23: a prediction of 1 for a negative costs 15.33 nats, not 15.42.
inline constexpr ProbabilityClamp rce_clamp{.low = 1e-7, .high = 1 - 0x1p-23, .offset = 1e-7};

struct RceOptions {
  double label_smoothing = 0;   // label y counts as y (1 - s) + s / 2

  double smoothed(double label) const { return label * (1 - label_smoothing) + label_smoothing / 2; }
  /// A metric's name with the smoothing, if there is any.
  std::string name(std::string_view metric) const { return name_with(metric, "label_smoothing", label_smoothing, 0); }
  /// Errors: ConfigError, in the name of `metric`, for a smoothing outside [0, 1].
  void check_for(std::string_view metric) const {
    check<ConfigError>(label_smoothing >= 0 && label_smoothing <= 1, metric, ": label_smoothing is ", label_smoothing,
                       "; it lies in [0, 1]");
  }
};

/// Weighted relative cross entropy: 100 is perfect, 0 no better than the mean label, -inf with one class, NaN without weight.
///
/// Errors: those of Samples; ConfigError for a smoothing outside [0, 1].
/// Cost:   two logarithms a row; four numbers of state.
class Rce : public MeanMetric<Rce, 2> {
 public:
  explicit Rce(RceOptions options = {}) : options_(options) { options.check_for("Rce"); }

  /// rce, or rce_label_smoothing_0.1.
  std::string name() const { return options_.name("rce"); }

  void add(const Samples& samples) {
    const auto labels = samples.labels(), weights = samples.weights();
    for (std::size_t i = 0; i < labels.size(); ++i) {
      const double label = options_.smoothed(labels[i]);
      add_row({cross_entropy(samples, i, label, rce_clamp), label}, weights[i]);
    }
  }

  double value() const { return 100 * (1 - mean(0) / entropy(mean(1), rce_clamp)); }

 private:
  RceOptions options_;
};

}  // namespace rookery
