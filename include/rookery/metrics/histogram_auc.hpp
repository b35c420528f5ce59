// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// HistogramAuc: AUC in memory that does not grow with the rows, with a bound on its error: predictions are counted in bins of
// log-odds, and only pairs within one bin are in doubt.
//
// Answers to torchrec/metrics/auc.py, whose state is the window's rows, and to its binned AUPRC; differs: the error is known.
// Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/operators.hpp>
#include <rookery/metrics/metric_value.hpp>
#include <rookery/metrics/samples.hpp>
#include <rookery/metrics/scored_rows.hpp>

namespace rookery {

struct HistogramAucOptions {
  std::int64_t bins = 16384;
  double largest_logit = 16;                                     // the bins share [-largest, largest]; the outer two hold what lies beyond
  double one_class = std::numeric_limits<double>::quiet_NaN();   // the value while one class has no weight
};

/// Weighted AUC of probabilities or logits from fixed bins. The exact AUC lies within `value() - bound()` and `value() + bound()`: a pair
/// within a bin counts half, and `bound()` is half the share of such pairs, at worst .5. It is below 5e-4 for predictions whose
/// log-odds spread over a few units.
///
/// Errors: those of Samples; ConfigError for scores and numbers, for fewer than two bins or more than 2^26, and for a largest logit that is
///         not positive.
/// Cost:   16 bytes a bin, 256 KB; a logarithm a row.
/// Ranks:  each sends its bins; weights add up in float64.
class HistogramAuc : public SampleMetric<HistogramAuc> {
 public:
  explicit HistogramAuc(HistogramAucOptions options = {}) : options_(options) {
    check<ConfigError>(options.bins >= 2, "HistogramAuc: bins is ", options.bins, "; it is 2 or more");
    check<ConfigError>(options.bins <= most_bins, "HistogramAuc: bins is ", options.bins, "; at 16 bytes each it is ", most_bins,
                       " (1 GB) or less");
    check<ConfigError>(options.largest_logit > 0 && std::isfinite(options.largest_logit), "HistogramAuc: largest_logit is ",
                       options.largest_logit, "; it is positive and finite");
    bins_.resize(static_cast<std::size_t>(options.bins));
  }

  /// auc_histogram, with the bins and the largest logit where they are not the usual ones: auc_histogram_bins_1000.
  std::string name() const {
    constexpr HistogramAucOptions usual;
    const auto name = name_with("auc_histogram", "bins", static_cast<double>(options_.bins), static_cast<double>(usual.bins));
    return name_with(name, "largest_logit", options_.largest_logit, usual.largest_logit);
  }

  void reset() { bins_.assign(bins_.size(), Bin{}); }

  void add(const Samples& samples) {
    const auto labels = samples.labels(), weights = samples.weights();
    for (std::size_t i = 0; i < labels.size(); ++i) {
      auto& bin = bins_[bin_of(log_odds(samples, i))];
      (labels[i] > .5 ? bin.positives : bin.negatives) += weights[i];
    }
  }

  double value() const {
    const auto pairs = count();
    return pairs.one_class() ? options_.one_class : pairs.won / pairs.pairs();
  }

  /// How far the exact AUC may lie from the value; NaN while one class has no weight.
  double bound() const {
    const auto pairs = count();
    double doubtful = 0;   // weight of the pairs within a bin
    for (const auto& bin : bins_) doubtful += bin.positives * bin.negatives;
    return pairs.one_class() ? std::numeric_limits<double>::quiet_NaN() : doubtful / 2 / pairs.pairs();
  }

  /// Weight of positives and of negatives, bin by bin.
  at::Tensor pack() const {
    auto packed = ops::empty({2 * options_.bins}, at::kDouble);                    // [2 bins]
    auto* to = packed.mutable_data_ptr<double>();
    for (const auto& bin : bins_) {
      *to++ = bin.positives;
      *to++ = bin.negatives;
    }
    return packed;
  }

  void merge(const at::Tensor& packed) {
    const auto host = detail::host_column(packed, "HistogramAuc: a packed state");              // [2 bins]
    const auto from = detail::numbers(host);
    check<ShapeError>(from.size() == 2 * bins_.size(), "HistogramAuc: a packed state has ", from.size(), " numbers; ", bins_.size(),
                      " bins have ", 2 * bins_.size());
    for (std::size_t i = 0; i < bins_.size(); ++i) {
      bins_[i].positives += from[2 * i];
      bins_[i].negatives += from[2 * i + 1];
    }
  }

 private:
  static constexpr std::int64_t most_bins = std::int64_t{1} << 26;

  struct Bin {
    double positives = 0, negatives = 0;
  };

  static double log_odds(const Samples& samples, std::size_t i) {
    if (samples.kind() == PredictionKind::logit) return samples.predictions()[i];
    const double p = samples.probability(i);
    return std::log(p / (1 - p));
  }

  std::size_t bin_of(double logit) const {
    const double place = std::clamp((logit / options_.largest_logit + 1) / 2, 0.0, 1.0);
    return std::min(static_cast<std::size_t>(place * static_cast<double>(bins_.size())), bins_.size() - 1);
  }

  WonPairs count() const {
    WonPairs pairs;
    for (const auto& bin : bins_) pairs.add(bin.positives, bin.negatives);
    return pairs;
  }

  HistogramAucOptions options_;
  std::vector<Bin> bins_;
};

}  // namespace rookery
