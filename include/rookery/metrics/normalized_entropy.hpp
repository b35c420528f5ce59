// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// NormalizedEntropy (NE): the predictions' cross entropy over that of always predicting the mean label. Below 1 is better than
// the mean; the base of the logarithm cancels.
//
// He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook" (2014), section 3. Answers to torchrec/metrics/ne.py,
// with its clamp of 1e-12; differs: one class gives infinity, where upstream divides by the clamp.  Include cost: tensor.

#include <cstddef>
#include <string_view>

#include <rookery/metrics/cross_entropy.hpp>
#include <rookery/metrics/stable_mean.hpp>

namespace rookery {

/// Weighted normalised entropy; +inf with one class of labels, NaN without weight.
///
/// Errors: those of Samples.
/// Cost:   two logarithms a row; four numbers of state.
class NormalizedEntropy : public MeanMetric<NormalizedEntropy, 2> {
 public:
  static constexpr std::string_view name() { return "ne"; }

  void add(const Samples& samples) {
    const auto labels = samples.labels(), weights = samples.weights();
    for (std::size_t i = 0; i < labels.size(); ++i) add_row({cross_entropy(samples, i, labels[i], clamp), labels[i]}, weights[i]);
  }

  double value() const { return mean(0) / entropy(mean(1), clamp); }

 private:
  static constexpr ProbabilityClamp clamp{.low = 1e-12, .high = 1 - 1e-12};
};

}  // namespace rookery
