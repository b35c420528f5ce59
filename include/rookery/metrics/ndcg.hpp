// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Ndcg: the discounted gain of each session's ranking over that of the best ranking, averaged over sessions.
//
// Jarvelin and Kekalainen, "Cumulated gain-based evaluation of IR techniques" (2002). Answers to torchrec/metrics/ndcg.py, whose number
// is a loss under the name of ndcg: here `value()` is NDCG, 1 the best, and `loss()` is upstream's number. Differs: sessions need not
// lie in one batch, rows of one prediction share the places they take.  Include cost: tensor.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/metrics/kept_rows.hpp>
#include <rookery/metrics/stable_mean.hpp>

namespace rookery {

/// What a row of label y is worth: y, or 2^y - 1.
enum class NdcgGain { linear, exponential };

struct NdcgOptions {
  std::int64_t k = 0;          // places that count; 0: all
  NdcgGain gain = NdcgGain::linear;
  bool single_rows = true;     // whether sessions of one row count, which no ranking can get wrong
};

/// The mean of NDCG over sessions, each weighted by the largest weight of its rows; a session without a positive label has NDCG 0. The
/// groups of rows are their sessions; the value depends on the rows alone, to the last bit. NaN without sessions.
///
/// Errors: those of Samples; ConfigError for rows without sessions and a negative k; DataError for a label below 0.
/// Cost:   keeps every row; `value` is O(N log N).
class Ndcg : public RowMetric<Ndcg, PredictionKind::number, true> {
 public:
  explicit Ndcg(NdcgOptions options = {}) : options_(options) {
    check<ConfigError>(options.k >= 0, "Ndcg: k is ", options.k, "; it is 0 for all places, or more");
  }

  /// ndcg, ndcg_exponential, ndcg_of_several where sessions of one row do not count, and @k where k places do.
  std::string name() const {
    std::string name = options_.gain == NdcgGain::linear ? "ndcg" : "ndcg_exponential";
    if (!options_.single_rows) name += "_of_several";
    return options_.k == 0 ? name : concat(name, "@", options_.k);
  }

  void check_rows(const Samples& samples) const {
    for (const double label : samples.labels()) check<DataError>(label >= 0, "Ndcg: a label is ", label, "; grades are 0 or more");
    RowMetric::check_rows(samples);
  }

  double value() const { return over_sessions().ndcg.mean(); }
  /// The mean over sessions of (1 - NDCG) times the session's weight.
  double loss() const { return over_sessions().loss.mean(); }
  /// The number of sessions that count.
  std::int64_t sessions() const { return static_cast<std::int64_t>(over_sessions().loss.weight()); }

 private:
  struct Means {
    StableMean ndcg, loss;
  };

  Means over_sessions() const {
    Means means;
    std::vector<double> discounts{0};   // of the first n places together
    for_each_session([&](std::span<const KeptRow> session) {
      if (session.size() == 1 && !options_.single_rows) return;
      while (discounts.size() <= session.size()) {
        const auto place = discounts.size();   // from 1
        const bool counts = options_.k == 0 || static_cast<std::int64_t>(place) <= options_.k;
        discounts.push_back(discounts.back() + (counts ? 1 / std::log2(static_cast<double>(place) + 1) : 0));
      }
      double weight = 0;
      for (const auto& row : session) weight = std::max(weight, row.weight);
      const double value = ndcg(session, discounts);
      means.ndcg.add(value, weight);
      means.loss.add((1 - value) * weight);
    });
    return means;
  }

  double ndcg(std::span<const KeptRow> session, const std::vector<double>& discounts) const {
    constexpr double least_gain = 1e-6;   // divides where there is nothing to gain
    std::vector<double> gains;
    double gain = 0, best = 0;
    std::size_t place = session.size();
    detail::for_each_tie(session, [&](std::span<const KeptRow> tie) {   // the last places first
      double of_tie = 0;
      for (const auto& row : tie) {
        gains.push_back(options_.gain == NdcgGain::exponential ? std::exp2(row.label) - 1 : row.label);
        of_tie += gains.back();
      }
      const double shared = (discounts[place] - discounts[place - tie.size()]) / static_cast<double>(tie.size());
      gain += of_tie * shared;
      place -= tie.size();
    });
    std::sort(gains.begin(), gains.end(), std::greater{});
    for (std::size_t i = 0; i < gains.size(); ++i) best += gains[i] * (discounts[i + 1] - discounts[i]);
    return gain / std::max(best, least_gain);
  }

  NdcgOptions options_;
};

}  // namespace rookery
