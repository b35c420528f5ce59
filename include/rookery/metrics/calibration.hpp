// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Calibration: how many positives the predictions expect for each one that came. Above 1 predicts too much.
//
// Answers to torchrec/metrics/calibration.py; differs: without a positive label the value is NaN, where upstream says 0.
// Include cost: tensor.

#include <cstddef>
#include <limits>
#include <string_view>

#include <rookery/metrics/stable_mean.hpp>

namespace rookery {

/// Weighted sum of probabilities over the weighted sum of labels; NaN without a positive label.
///
/// Errors: those of Samples.
/// Cost:   four numbers of state.
class Calibration : public MeanMetric<Calibration, 2> {
 public:
  static constexpr std::string_view name() { return "calibration"; }

  void add(const Samples& samples) {
    const auto labels = samples.labels(), weights = samples.weights();
    for (std::size_t i = 0; i < labels.size(); ++i) add_row({samples.probability(i), labels[i]}, weights[i]);
  }

  double value() const { return mean(1) == 0 ? std::numeric_limits<double>::quiet_NaN() : mean(0) / mean(1); }
};

}  // namespace rookery
