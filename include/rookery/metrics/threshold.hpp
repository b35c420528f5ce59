// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Accuracy, Precision and Recall: of predictions that say yes from a threshold on.
//
// Answers to torchrec/metrics/accuracy.py, precision.py and recall.py, and to the Precision and Recall of the-algorithm-ml, which cannot
// be built; differs: a positive at the threshold is found, where upstream's recall also counts it as missed. Labels in between
// count by share.  Include cost: tensor.

#include <cstddef>
#include <string>
#include <string_view>

#include <rookery/core/error.hpp>
#include <rookery/metrics/metric_value.hpp>
#include <rookery/metrics/samples.hpp>
#include <rookery/metrics/stable_mean.hpp>

namespace rookery {

struct ThresholdOptions {
  double threshold = .5;   // a probability of this much says yes
};

namespace detail {

/// A weighted mean over rows that say yes or no; Derived writes `add_answer(yes, label, weight)`.
template <class Derived> class ThresholdMetric : public MeanMetric<Derived, 1> {
 public:
  explicit ThresholdMetric(ThresholdOptions options = {}) : options_(options) {
    check<ConfigError>(options.threshold >= 0 && options.threshold <= 1, Derived::usual_name, ": threshold is ", options.threshold,
                       "; it lies in [0, 1]");
  }

  /// recall, or recall_threshold_0.7 for another than .5.
  std::string name() const { return name_with(Derived::usual_name, "threshold", options_.threshold, ThresholdOptions{}.threshold); }

  void add(const Samples& samples) {
    const auto labels = samples.labels(), weights = samples.weights();
    for (std::size_t i = 0; i < labels.size(); ++i) {
      static_cast<Derived&>(*this).add_answer(samples.probability(i) >= options_.threshold, labels[i], weights[i]);
    }
  }
  double value() const { return this->mean(0); }

 private:
  ThresholdOptions options_;
};

}  // namespace detail

/// The weighted share of rows whose answer is the label's; NaN without weight.
///
/// Errors: those of Samples; ConfigError for a threshold outside [0, 1].
/// Cost:   two numbers of state.
class Accuracy : public detail::ThresholdMetric<Accuracy> {
 public:
  using ThresholdMetric::ThresholdMetric;
  static constexpr std::string_view usual_name = "accuracy";

 private:
  friend ThresholdMetric;
  void add_answer(bool yes, double label, double weight) { add_row({yes ? label : 1 - label}, weight); }
};

/// The weighted share of positives among the rows that say yes; NaN while none does.
///
/// Errors: those of Samples; ConfigError for a threshold outside [0, 1].
/// Cost:   two numbers of state.
class Precision : public detail::ThresholdMetric<Precision> {
 public:
  using ThresholdMetric::ThresholdMetric;
  static constexpr std::string_view usual_name = "precision";

 private:
  friend ThresholdMetric;
  void add_answer(bool yes, double label, double weight) {
    if (yes) add_row({label}, weight);
  }
};

/// The weighted share of positives that say yes; NaN while there is no positive.
///
/// Errors: those of Samples; ConfigError for a threshold outside [0, 1].
/// Cost:   two numbers of state.
class Recall : public detail::ThresholdMetric<Recall> {
 public:
  using ThresholdMetric::ThresholdMetric;
  static constexpr std::string_view usual_name = "recall";

 private:
  friend ThresholdMetric;
  void add_answer(bool yes, double label, double weight) { add_row({yes ? 1. : 0.}, weight * label); }
};

}  // namespace rookery
