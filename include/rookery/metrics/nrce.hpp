// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Nrce and StreamingNrce: relative cross entropy after the predictions are scaled to the labels' mean, so that only what calibration
// cannot give is left.
//
// Answers to metrics/rce.py NRCE of the-algorithm-ml, which scales by means that still run: its value depends on the order of batches,
// and it exchanges the means in every update. Nrce scales by the means of all rows; StreamingNrce is upstream's, without the exchange.
// Include cost: tensor.

#include <cstddef>
#include <string>

#include <rookery/metrics/cross_entropy.hpp>
#include <rookery/metrics/kept_rows.hpp>
#include <rookery/metrics/rce.hpp>
#include <rookery/metrics/stable_mean.hpp>

namespace rookery {

/// RCE of p ybar / pbar, with the weighted means of labels and predictions over every row. Not changed when all predictions are scaled
/// by one factor, unless one of them meets the clamp.
///
/// Errors: those of Samples; ConfigError for a smoothing outside [0, 1].
/// Cost:   two passes in `value`; keeps every row.
class Nrce : public RowMetric<Nrce, PredictionKind::probability> {
 public:
  explicit Nrce(RceOptions options = {}) : options_(options) { options.check_for("Nrce"); }

  /// nrce, or nrce_label_smoothing_0.1.
  std::string name() const { return options_.name("nrce"); }

  void add(const Samples& samples) {
    const auto labels = samples.labels(), weights = samples.weights();
    for (std::size_t i = 0; i < labels.size(); ++i) keep({0, samples.probability(i), options_.smoothed(labels[i]), weights[i]});
  }

  double value() const {
    const auto rows = sorted_rows();
    StableMean label, prediction, loss;
    for (const auto& row : rows) {
      label.add(row.label, row.weight);
      prediction.add(row.prediction, row.weight);
    }
    const double scale = label.mean() / prediction.mean();
    for (const auto& row : rows) loss.add(cross_entropy(row.prediction * scale, row.label, rce_clamp), row.weight);
    return 100 * (1 - loss.mean() / entropy(label.mean(), rce_clamp));
  }

 private:
  RceOptions options_;
};

/// RCE of p ybar / pbar, with the means of the rows of this rank up to and including p's batch. It depends on the order of rows and on
/// how they are cut into batches: 39, 57 or 68 for the same four rows. For comparison with logs of upstream.
///
/// Errors: those of Samples; ConfigError for a smoothing outside [0, 1].
/// Cost:   two logarithms a row; six numbers of state.
/// Ranks:  losses merge as they are, each scaled by the means of its own rank.
class StreamingNrce : public MeanMetric<StreamingNrce, 3> {
 public:
  explicit StreamingNrce(RceOptions options = {}) : options_(options) { options.check_for("StreamingNrce"); }

  /// nrce_streaming, or nrce_streaming_label_smoothing_0.1.
  std::string name() const { return options_.name("nrce_streaming"); }

  void add(const Samples& samples) {
    const auto labels = samples.labels(), weights = samples.weights();
    for (std::size_t i = 0; i < labels.size(); ++i) {
      add_to(1, options_.smoothed(labels[i]), weights[i]);
      add_to(2, samples.probability(i), weights[i]);
    }
    const double scale = mean(1) / mean(2);
    for (std::size_t i = 0; i < labels.size(); ++i) {
      add_to(0, cross_entropy(samples.probability(i) * scale, options_.smoothed(labels[i]), rce_clamp), weights[i]);
    }
  }

  double value() const { return 100 * (1 - mean(0) / entropy(mean(1), rce_clamp)); }

 private:
  RceOptions options_;
};

}  // namespace rookery
