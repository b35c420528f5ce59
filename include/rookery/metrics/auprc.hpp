// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Auprc: the area under the precision-recall curve, exact and weighted, as average precision: the precision at each score times the
// recall won there, with no interpolation between scores (Davis and Goadrich, 2006, on why not).
//
// Answers to torchrec/metrics/auprc.py; differs: sums are float64, and without a positive label the value is NaN.
// Include cost: tensor.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>
#include <ranges>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/metrics/scored_rows.hpp>

namespace rookery {

struct AuprcOptions {
  double no_positive = std::numeric_limits<double>::quiet_NaN();   // the value while positives have no weight
};

/// Weighted average precision over every row seen, rows of one score counted together: label > 0.5 is a positive; a score is any
/// finite number. The value depends on the rows alone, to the last bit.
///
/// Errors: those of Samples; ConfigError for probabilities after logits and the like; NonFiniteError for a packed NaN.
/// Cost:   that of Auc, and 16 bytes a score while `value` runs.
/// Ranks:  each sends all its rows.
class Auprc : public SampleMetric<Auprc, PredictionKind::score> {
 public:
  explicit Auprc(AuprcOptions options = {}) : options_(options) {}

  static constexpr bool one_kind = true;

  static constexpr std::string_view name() { return "auprc"; }
  std::int64_t size() const { return rows_.size(); }

  void reset() { rows_.clear(); }
  void check_rows(const Samples& samples) const { rows_.check_rows(samples); }
  void add(const Samples& samples) { rows_.add(samples); }

  double value() const {
    std::vector<std::pair<double, double>> scores;   // weight of positives and of negatives, scores going up
    rows_.for_each_score([&](double positives, double negatives) { scores.emplace_back(positives, negatives); });
    double found = 0, all = 0, area = 0;
    for (const auto& [positives, negatives] : std::views::reverse(scores)) {
      found += positives;
      all += positives + negatives;
      area += positives * (found / all);
    }
    return found == 0 ? options_.no_positive : area / found;
  }

  /// Every row as (score, weight), the weight of a negative below zero.
  at::Tensor pack() const { return rows_.pack(); }                                 // [2N]
  void merge(const at::Tensor& packed) { rows_.merge(packed, "Auprc"); }

 private:
  AuprcOptions options_;
  ScoredRows rows_;
};

}  // namespace rookery
