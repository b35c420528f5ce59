// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Rauc and Xauc: how often predictions put two rows in the order of their labels, for labels that are any numbers.
//
// Answers to torchrec/metrics/rauc.py and xauc.py; differs: Xauc compares the pairs of all rows, in O(N log N), where upstream forms all
// pairs of each batch and none across.  Include cost: tensor.

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

#include <rookery/metrics/kept_rows.hpp>

namespace rookery {

namespace detail {

/// Pairs of rows by weight: w_i w_j each.
struct PairWeights {
  double all = 0, concordant = 0, discordant = 0;   // ordered strictly by both, alike and against
  double equal = 0;                                 // the same prediction and the same label
};

/// Sums over ranks below a bound, while weights at ranks are added (Fenwick, 1994).
class PrefixSums {
 public:
  explicit PrefixSums(std::size_t ranks) : sums_(ranks + 1) {}

  void add(std::size_t rank, double weight) {
    for (std::size_t i = rank + 1; i < sums_.size(); i += i & (~i + 1)) sums_[i] += weight;
  }
  /// Of the ranks [0, end).
  double below(std::size_t end) const {
    double sum = 0;
    for (std::size_t i = end; i > 0; i -= i & (~i + 1)) sum += sums_[i];
    return sum;
  }

 private:
  std::vector<double> sums_;
};

/// Of rows sorted by prediction, then label.
inline PairWeights count_pairs(std::span<const KeptRow> rows) {
  std::vector<double> labels(rows.size());
  std::transform(rows.begin(), rows.end(), labels.begin(), [](const KeptRow& row) { return row.label; });
  std::sort(labels.begin(), labels.end());
  labels.erase(std::unique(labels.begin(), labels.end()), labels.end());
  PrefixSums lower(labels.size()), higher(labels.size());   // rows of smaller predictions, labels going up and going down
  const auto rank = [&](const KeptRow& row) {
    return static_cast<std::size_t>(std::lower_bound(labels.begin(), labels.end(), row.label) - labels.begin());
  };
  const auto opposite = [&](std::size_t at) { return labels.size() - 1 - at; };

  PairWeights pairs;
  double seen = 0;
  for_each_tie(rows, [&](std::span<const KeptRow> tie) {
    double same = 0;   // weight of the rows before with the same prediction and label
    for (std::size_t i = 0; i < tie.size(); ++i) {
      if (i > 0 && tie[i].label != tie[i - 1].label) same = 0;
      const auto at = rank(tie[i]);
      pairs.all += tie[i].weight * seen;
      pairs.equal += tie[i].weight * same;
      pairs.concordant += tie[i].weight * lower.below(at);
      pairs.discordant += tie[i].weight * higher.below(opposite(at));
      seen += tie[i].weight;
      same += tie[i].weight;
    }
    for (const auto& row : tie) {
      lower.add(rank(row), row.weight);
      higher.add(opposite(rank(row)), row.weight);
    }
  });
  return pairs;
}

}  // namespace detail

/// One less the share of pairs of rows that predictions order against their labels; a tie in either is not against. Weights only say
/// whether a row counts. NaN with less than two rows.
///
/// Errors: those of Samples.
/// Cost:   keeps every row; `value` is O(N log N).
class Rauc : public RowMetric<Rauc, PredictionKind::number> {
 public:
  static constexpr std::string_view name() { return "rauc"; }

  void add(const Samples& samples) {
    admit(samples);
    const auto predictions = samples.predictions(), labels = samples.labels(), weights = samples.weights();
    for (std::size_t i = 0; i < labels.size(); ++i) keep({0, predictions[i], labels[i], weights[i] > 0 ? 1. : 0.});
  }

  double value() const {
    const auto pairs = detail::count_pairs(sorted_rows());
    return pairs.all > 0 ? 1 - pairs.discordant / pairs.all : std::numeric_limits<double>::quiet_NaN();
  }
};

/// The share of pairs of rows, weighted by the product of their weights, that predictions and labels order alike; a tie in both is alike, a
/// tie in one of them is not. NaN with less than two rows.
///
/// Errors: those of Samples.
/// Cost:   keeps every row; `value` is O(N log N).
class Xauc : public RowMetric<Xauc, PredictionKind::number> {
 public:
  static constexpr std::string_view name() { return "xauc"; }

  double value() const {
    const auto pairs = detail::count_pairs(sorted_rows());
    return pairs.all > 0 ? (pairs.concordant + pairs.equal) / pairs.all : std::numeric_limits<double>::quiet_NaN();
  }
};

}  // namespace rookery
