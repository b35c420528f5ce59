// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// The binary cross entropy of one row, in nats: what NE, RCE and logloss are means of.
//
// Answers to torchrec/metrics/ne.py compute_cross_entropy and the-algorithm-ml's metrics/rce.py. Probabilities are kept away
// from 0 and 1, else one confident mistake would cost infinity; logits need no such clamp.  Include cost: tensor.

#include <algorithm>
#include <cmath>
#include <cstddef>

#include <rookery/metrics/samples.hpp>

namespace rookery {

/// The range that a probability is kept in, and what is added to it under the logarithm.
struct ProbabilityClamp {
  double low, high, offset = 0;
};

/// -y log p - (1 - y) log(1 - p).
inline double cross_entropy(double probability, double label, const ProbabilityClamp& clamp) {
  const double p = std::clamp(probability, clamp.low, clamp.high);
  return -label * std::log(p + clamp.offset) - (1 - label) * std::log(1 - p + clamp.offset);
}

/// The same from a logit z, exact for any finite one: max(z, 0) - z y + log(1 + e^-|z|).
inline double cross_entropy_of_logit(double logit, double label) {
  return std::max(logit, 0.0) - logit * label + std::log1p(std::exp(-std::abs(logit)));
}

/// Row i's cross entropy against `label`, from what its prediction is.
inline double cross_entropy(const Samples& samples, std::size_t i, double label, const ProbabilityClamp& clamp) {
  if (samples.kind() == PredictionKind::logit) return cross_entropy_of_logit(samples.predictions()[i], label);
  return cross_entropy(samples.probability(i), label, clamp);
}

/// The cross entropy of always predicting the labels' mean; 0 when there is one class only, and nothing to predict.
inline double entropy(double mean_label, const ProbabilityClamp& clamp) {
  return mean_label == 0 || mean_label == 1 ? 0 : cross_entropy(mean_label, mean_label, clamp);
}

}  // namespace rookery
