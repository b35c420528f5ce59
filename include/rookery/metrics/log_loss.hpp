// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// LogLoss: the weighted mean of the binary cross entropy.
//
// In nats by default, as scikit-learn's log_loss and a BCE loss have it; torchrec's logloss is in bits (`.base = LogBase::two`)
// and goes by another name here, so that the two are never compared.  Answers to torchrec/metrics/ne.py (its logloss).
// Include cost: tensor.

#include <cstddef>
#include <numbers>
#include <string_view>

#include <rookery/metrics/cross_entropy.hpp>
#include <rookery/metrics/stable_mean.hpp>

namespace rookery {

enum class LogBase { natural, two };

struct LogLossOptions {
  LogBase base = LogBase::natural;
};

/// Weighted mean cross entropy, `logloss` in nats or `logloss_base2` in bits; NaN without weight.
///
/// Errors: those of Samples.
/// Cost:   two logarithms a row; two numbers of state.
class LogLoss : public MeanMetric<LogLoss, 1> {
 public:
  explicit LogLoss(LogLossOptions options = {}) : options_(options) {}

  std::string_view name() const { return options_.base == LogBase::natural ? "logloss" : "logloss_base2"; }

  void add(const Samples& samples) {
    const auto labels = samples.labels(), weights = samples.weights();
    for (std::size_t i = 0; i < labels.size(); ++i) add_row({cross_entropy(samples, i, labels[i], clamp)}, weights[i]);
  }

  double value() const { return options_.base == LogBase::natural ? mean(0) : mean(0) / std::numbers::ln2; }

 private:
  static constexpr ProbabilityClamp clamp{.low = 1e-12, .high = 1 - 1e-12};

  LogLossOptions options_;
};

}  // namespace rookery
