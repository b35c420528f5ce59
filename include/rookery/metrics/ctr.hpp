// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Ctr, PredictedCtr and PositiveCount: the share of positives, the share that the model predicts, and how many there were.
//
// Answers to torchrec/metrics/ctr.py and to core/metrics.py Ctr, Pctr and Count of the-algorithm-ml; differs from the latter: weights
// count. Its stratifier is PerGroup.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <string_view>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/metrics/samples.hpp>
#include <rookery/metrics/stable_mean.hpp>

namespace rookery {

/// Weighted mean label; NaN without weight.
///
/// Errors: those of Samples.
/// Cost:   two numbers of state.
class Ctr : public MeanMetric<Ctr, 1> {
 public:
  static constexpr std::string_view name() { return "ctr"; }

  void add(const Samples& samples) {
    const auto labels = samples.labels(), weights = samples.weights();
    for (std::size_t i = 0; i < labels.size(); ++i) add_row({labels[i]}, weights[i]);
  }
  double value() const { return mean(0); }
};

/// Weighted mean probability; NaN without weight.
///
/// Errors: those of Samples.
/// Cost:   two numbers of state.
class PredictedCtr : public MeanMetric<PredictedCtr, 1> {
 public:
  static constexpr std::string_view name() { return "pctr"; }

  void add(const Samples& samples) {
    const auto weights = samples.weights();
    for (std::size_t i = 0; i < weights.size(); ++i) add_row({samples.probability(i)}, weights[i]);
  }
  double value() const { return mean(0); }
};

/// Weighted sum of labels: the number of positives, where rows have no weights.
///
/// Errors: those of Samples.
/// Cost:   one number of state.
class PositiveCount : public SampleMetric<PositiveCount> {
 public:
  static constexpr std::string_view name() { return "count"; }

  void reset() { count_ = 0; }
  void add(const Samples& samples) {
    const auto labels = samples.labels(), weights = samples.weights();
    for (std::size_t i = 0; i < labels.size(); ++i) count_ += weights[i] * labels[i];
  }
  double value() const { return count_; }

  at::Tensor pack() const { return ops::full({1}, count_, at::kDouble); }          // [1]
  void merge(const at::Tensor& packed) {
    const auto host = detail::host_column(packed, "PositiveCount: a packed state");             // [1]
    check<ShapeError>(host.numel() == 1, "PositiveCount: a packed state has ", host.numel(), " numbers; it is one");
    count_ += detail::numbers(host)[0];
  }

 private:
  double count_ = 0;
};

}  // namespace rookery
