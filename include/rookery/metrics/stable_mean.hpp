// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// StableMean: a weighted mean that never holds a sum; StableSpread: the squared distances from it; and the base of metrics that are made of
// such means.
//
// Answers to metrics/aggregation.py StableMean of the-algorithm-ml; differs: float64, and a weight of zero adds nothing, where
// upstream's state turns NaN for good.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/metrics/samples.hpp>

namespace rookery {

/// A weighted mean (Welford's update, so three values near the largest number do not overflow). Merging another mean is adding it
/// as a value that carries its weight.
class StableMean {
 public:
  void add(double value, double weight = 1) {
    if (weight == 0) return;
    weight_ += weight;
    mean_ += weight / weight_ * (value - mean_);
  }
  void merge(const StableMean& other) { add(other.mean_, other.weight_); }

  /// NaN while the weight is zero.
  double mean() const { return weight_ == 0 ? std::numeric_limits<double>::quiet_NaN() : mean_; }
  double weight() const { return weight_; }

 private:
  double mean_ = 0, weight_ = 0;
};

/// A weighted mean and the weighted sum of squared distances from it (Chan, Golub and LeVeque, 1979). Merging another is adding its mean as
/// a value that carries its weight and its squares.
class StableSpread {
 public:
  void add(double value, double weight = 1, double squares = 0) {
    if (weight == 0) return;
    if (mean_.weight() > 0) {
      const double apart = value - mean_.mean();
      squares += apart * apart * weight * (mean_.weight() / (mean_.weight() + weight));
    }
    squares_ += squares;
    mean_.add(value, weight);
  }

  /// NaN while the weight is zero.
  double mean() const { return mean_.mean(); }
  double weight() const { return mean_.weight(); }
  double squares() const { return squares_; }

 private:
  StableMean mean_;
  double squares_ = 0;
};

/// A metric whose state is N weighted means over the same rows: packed as N means and their weights.
///
/// Cost:  2N numbers of state, exchanged as they are.
/// Ranks: merged in rank order; the parts of a split give the whole up to rounding of float64.
template <class Derived, std::size_t N, PredictionKind kind = PredictionKind::probability>
class MeanMetric : public SampleMetric<Derived, kind> {
 public:
  void reset() { means_ = {}; }
  at::Tensor pack() const {
    auto packed = ops::empty({2 * static_cast<std::int64_t>(N)}, at::kDouble);     // [2N]
    auto* to = packed.template mutable_data_ptr<double>();
    for (const auto& mean : means_) {
      *to++ = mean.weight() == 0 ? 0 : mean.mean();
      *to++ = mean.weight();
    }
    return packed;
  }
  void merge(const at::Tensor& packed) {
    const auto host = detail::host_column(packed, "MeanMetric: a packed state");                // [2N]
    const auto from = detail::numbers(host);
    check<ShapeError>(from.size() == 2 * N, "MeanMetric: a packed state has ", from.size(), " numbers; ", N, " means have ", 2 * N);
    for (std::size_t i = 0; i < N; ++i) means_[i].add(from[2 * i], from[2 * i + 1]);
  }

 protected:
  void add_row(const std::array<double, N>& values, double weight) {
    for (std::size_t i = 0; i < N; ++i) means_[i].add(values[i], weight);
  }
  void add_to(std::size_t i, double value, double weight) { means_[i].add(value, weight); }
  double mean(std::size_t i) const { return means_[i].mean(); }

 private:
  std::array<StableMean, N> means_;
};

}  // namespace rookery
