// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Mse, Rmse, Mae and RSquared: how far predictions lie from labels. Of probabilities, Mse is the Brier score.
//
// Answers to torchrec/metrics/mse.py and mae.py; differs: R squared comes from a running variance, where upstream subtracts two large
// sums, and is NaN while labels do not differ.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cmath>
#include <cstddef>
#include <limits>
#include <string_view>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/metrics/samples.hpp>
#include <rookery/metrics/stable_mean.hpp>

namespace rookery {

namespace detail {

/// A weighted mean of f(prediction - label); `finish` makes the value of it.
template <class Derived> class ErrorMetric : public MeanMetric<Derived, 1, PredictionKind::number> {
 public:
  void add(const Samples& samples) {
    const auto labels = samples.labels(), weights = samples.weights();
    for (std::size_t i = 0; i < labels.size(); ++i) this->add_row({Derived::cost(samples.estimate(i) - labels[i])}, weights[i]);
  }
  double value() const { return Derived::finish(this->mean(0)); }

  static double finish(double mean) { return mean; }
};

}  // namespace detail

/// Weighted mean squared error; NaN without weight. Labels are any numbers.
///
/// Errors: those of Samples; ConfigError of scores.
/// Cost:   two numbers of state.
class Mse : public detail::ErrorMetric<Mse> {
 public:
  static constexpr std::string_view name() { return "mse"; }
  static double cost(double error) { return error * error; }
};

/// The root of Mse.
///
/// Errors: those of Samples; ConfigError of scores.
/// Cost:   two numbers of state.
class Rmse : public detail::ErrorMetric<Rmse> {
 public:
  static constexpr std::string_view name() { return "rmse"; }
  static double cost(double error) { return error * error; }
  static double finish(double mean) { return std::sqrt(mean); }
};

/// Weighted mean absolute error; NaN without weight. Labels are any numbers.
///
/// Errors: those of Samples; ConfigError of scores.
/// Cost:   two numbers of state.
class Mae : public detail::ErrorMetric<Mae> {
 public:
  static constexpr std::string_view name() { return "mae"; }
  static double cost(double error) { return std::abs(error); }
};

/// 1 - (squared error) / (squared distance of labels from their mean), both weighted: 1 is perfect, 0 no better than the mean label; NaN
/// while labels do not differ.
///
/// Errors: those of Samples; ConfigError of scores.
/// Cost:   four numbers of state.
/// Ranks:  merged in rank order (Chan, Golub and LeVeque, 1979); the parts of a split give the whole up to rounding of float64.
class RSquared : public SampleMetric<RSquared, PredictionKind::number> {
 public:
  static constexpr std::string_view name() { return "r_squared"; }

  void reset() { *this = {}; }

  void add(const Samples& samples) {
    const auto labels = samples.labels(), weights = samples.weights();
    for (std::size_t i = 0; i < labels.size(); ++i) {
      const double error = samples.estimate(i) - labels[i];
      error_ += weights[i] * error * error;
      label_.add(labels[i], weights[i]);
    }
  }

  double value() const { return label_.squares() > 0 ? 1 - error_ / label_.squares() : std::numeric_limits<double>::quiet_NaN(); }

  at::Tensor pack() const {
    auto packed = ops::empty({4}, at::kDouble);                                    // [4]
    auto* to = packed.mutable_data_ptr<double>();
    for (const double number : {error_, label_.weight() == 0 ? 0 : label_.mean(), label_.weight(), label_.squares()}) *to++ = number;
    return packed;
  }
  void merge(const at::Tensor& packed) {
    const auto host = detail::host_column(packed, "RSquared: a packed state");                  // [4]
    const auto from = detail::numbers(host);
    check<ShapeError>(from.size() == 4, "RSquared: a packed state has ", from.size(), " numbers; it is made of 4");
    error_ += from[0];
    label_.add(from[1], from[2], from[3]);
  }

 private:
  double error_ = 0;    // weighted sum of squared errors
  StableSpread label_;
};

}  // namespace rookery
