// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Auc: the area under the ROC curve, exact and weighted: the chance that a positive scores above a negative, half a point for a tie
// (Mann and Whitney, 1947).
//
// Answers to metrics/auroc.py AUROCWithMWU and core/metrics.py Auc of the-algorithm-ml, and to torchrec/metrics/auc.py; differs:
// soft labels count by their class in the numerator too, ties are averaged whatever the sort order, sums are float64, and nothing
// is sampled. HistogramAuc needs no row.  Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>
#include <string>

#include <rookery/core/error.hpp>
#include <rookery/metrics/metric_value.hpp>
#include <rookery/metrics/scored_rows.hpp>

namespace rookery {

struct AucOptions {
  double one_class = std::numeric_limits<double>::quiet_NaN();   // the value while one class has no weight
  bool refuse_one_class = false;                                 // an error instead
  double tie = .5;                                               // what a tied pair counts: 0 is what strict sampling of pairs expects
};

/// Weighted AUC over every row seen: label > 0.5 is a positive; a score is a probability, a logit or any finite number.
///
/// The value depends on the rows alone, to the last bit: neither their order nor their split over batches and ranks changes it.
///
/// Errors: those of Samples; ConfigError for probabilities after logits and the like, and for a tie outside [0, 1]; DataError from
///         `value` of one class where that is refused; NonFiniteError for a packed NaN.
/// Cost:   keeps every row of non-zero weight: 8 bytes a row while score and weight are float32 numbers, else 16 (twice that at
///         worst while the list grows). `value` sorts a copy with as much scratch: O(N), .03 s for 1e6 rows; `pack` writes 16 bytes a row.
/// Ranks:  each sends all its rows.
class Auc : public SampleMetric<Auc, PredictionKind::score> {
 public:
  explicit Auc(AucOptions options = {}) : options_(options) {
    check<ConfigError>(options.tie >= 0 && options.tie <= 1, "Auc: tie is ", options.tie, "; it lies in [0, 1]");
  }

  static constexpr bool one_kind = true;

  /// auc, or auc_tie_0 where a tie does not count half.
  std::string name() const { return name_with("auc", "tie", options_.tie, AucOptions{}.tie); }
  std::int64_t size() const { return rows_.size(); }

  void reset() { rows_.clear(); }
  void check_rows(const Samples& samples) const { rows_.check_rows(samples); }
  void add(const Samples& samples) { rows_.add(samples); }

  double value() const {
    WonPairs pairs;
    rows_.for_each_score([&](double positives, double negatives) { pairs.add(positives, negatives, options_.tie); });
    if (!pairs.one_class()) return pairs.won / pairs.pairs();
    check<DataError>(!options_.refuse_one_class, "Auc: ", size(), " rows, positives of weight ", pairs.positives, ", negatives of weight ",
                     pairs.negatives, "; it takes both classes");
    return options_.one_class;
  }

  /// Every row as (score, weight), the weight of a negative below zero.
  at::Tensor pack() const { return rows_.pack(); }                                 // [2N]
  void merge(const at::Tensor& packed) { rows_.merge(packed, "Auc"); }

 private:
  AucOptions options_;
  ScoredRows rows_;
};

}  // namespace rookery
