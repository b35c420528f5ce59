// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Histogram: how numbers are spread, in buckets that grow by a tenth each, as TensorFlow's and TensorBoard's are.
//
// Source: tensorflow/core/lib/histogram/histogram.cc.  Include cost: none.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <vector>

#include <rookery/core/error.hpp>

namespace rookery {

namespace detail {

/// Upper bounds: -max, ..., -1.1e-12, -1e-12, 0, 1e-12, 1.1e-12, ..., max.
inline const std::vector<double>& histogram_limits() {
  static const auto limits = [] {
    std::vector<double> positive;
    for (double bound = 1e-12; bound < 1e20; bound *= 1.1) positive.push_back(bound);
    positive.push_back(std::numeric_limits<double>::max());
    std::vector<double> all(positive.size());
    std::transform(positive.rbegin(), positive.rend(), all.begin(), [](double bound) { return -bound; });
    all.push_back(0);
    all.insert(all.end(), positive.begin(), positive.end());
    return all;
  }();
  return limits;
}

}  // namespace detail

/// Counts of numbers by size, with their extremes and sums. NaN and infinities are counted apart and are in nothing else.
class Histogram {
 public:
  void add(double value) {
    if (!std::isfinite(value)) return void(++non_finite_);
    const auto& limits = detail::histogram_limits();
    // a bucket holds what is below its bound and not below the bound before, as TensorFlow's
    const auto at = std::min<std::ptrdiff_t>(std::ranges::upper_bound(limits, value) - limits.begin(), std::ssize(limits) - 1);
    ++counts_[static_cast<std::size_t>(at)];
    min_ = std::min(min_, value);
    max_ = std::max(max_, value);
    sum_ += value;
    sum_squares_ += value * value;
    ++count_;
  }

  std::int64_t count() const { return count_; }
  std::int64_t non_finite() const { return non_finite_; }
  /// Smallest and largest number; infinities of the wrong sign when there is none.
  double min() const { return min_; }
  double max() const { return max_; }
  double sum() const { return sum_; }
  double sum_squares() const { return sum_squares_; }

  struct Buckets {
    std::vector<double> limits, counts;                         // upper bounds, ascending, and how many numbers lie below each
  };
  /// The buckets from the first to the last that hold a number, after an empty one that bounds the first; a row of empty ones between
  /// them is one bucket.
  Buckets buckets() const {
    const auto& limits = detail::histogram_limits();
    Buckets all;
    const auto append = [&](double limit, std::int64_t count) {
      all.limits.push_back(limit);
      all.counts.push_back(static_cast<double>(count));
    };
    std::size_t next = 0;
    for (const auto& [at, count] : counts_) {
      if (at > next) append(limits[at - 1], 0);
      append(limits[at], count);
      next = at + 1;
    }
    return all;
  }

 private:
  std::map<std::size_t, std::int64_t> counts_;                  // by bucket, those that hold a number
  std::int64_t count_ = 0, non_finite_ = 0;
  double min_ = std::numeric_limits<double>::infinity(), max_ = -std::numeric_limits<double>::infinity();
  double sum_ = 0, sum_squares_ = 0;
};

/// The histogram of a range of numbers.
template <class Range> Histogram histogram_of(const Range& numbers) {
  Histogram histogram;
  for (const auto& number : numbers) histogram.add(static_cast<double>(number));
  return histogram;
}

}  // namespace rookery
