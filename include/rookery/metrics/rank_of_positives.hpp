// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// MeanRank, ReciprocalRank and HitAtK: where a list puts its positives, from 1 on.
//
// Answers to core/metrics.py PosRanks, ReciprocalRank and HitAtK of the-algorithm-ml; differs: a list is a group and need not lie in one
// batch, rows of one score share the middle of their places, so that a constant model gains nothing.  Include cost: tensor.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <rookery/core/error.hpp>
#include <rookery/metrics/kept_rows.hpp>
#include <rookery/metrics/stable_mean.hpp>

namespace rookery {

namespace detail {

/// The weighted mean of Derived's `of_rank(rank)` over the positives of every list; NaN without a positive. The groups of rows are their
/// lists; the value depends on the rows alone, to the last bit. Rows of weight zero are in no list.
template <class Derived> class RankMetric : public RowMetric<Derived, PredictionKind::score, true> {
 public:
  double value() const {
    StableMean mean;
    this->for_each_session([&](std::span<const KeptRow> list) {
      std::size_t above = list.size();   // rows above the lowest of the tie, itself among them
      for_each_tie(list, [&](std::span<const KeptRow> tie) {
        const double rank = static_cast<double>(above) - (static_cast<double>(tie.size()) - 1) / 2;
        above -= tie.size();
        for (const auto& row : tie) {
          if (row.label > .5) mean.add(static_cast<const Derived&>(*this).of_rank(rank), row.weight);
        }
      });
    });
    return mean.mean();
  }
};

}  // namespace detail

/// The mean rank of positives.
///
/// Errors: those of Samples; ConfigError for rows without groups.
/// Cost:   keeps every row; `value` is O(N log N).
class MeanRank : public detail::RankMetric<MeanRank> {
 public:
  static constexpr std::string_view name() { return "mean_rank"; }
  static double of_rank(double rank) { return rank; }
};

/// The mean of 1 / rank of positives (MRR).
///
/// Errors: those of Samples; ConfigError for rows without groups.
/// Cost:   keeps every row; `value` is O(N log N).
class ReciprocalRank : public detail::RankMetric<ReciprocalRank> {
 public:
  static constexpr std::string_view name() { return "mrr"; }
  static double of_rank(double rank) { return 1 / rank; }
};

/// The share of positives among the first k.
///
/// Errors: those of Samples; ConfigError for rows without groups and a k below 1.
/// Cost:   keeps every row; `value` is O(N log N).
class HitAtK : public detail::RankMetric<HitAtK> {
 public:
  explicit HitAtK(std::int64_t k = 10) : k_(k) { check<ConfigError>(k >= 1, "HitAtK: k is ", k, "; it is 1 or more"); }

  std::string name() const { return "hit@" + std::to_string(k_); }
  double of_rank(double rank) const { return rank <= static_cast<double>(k_) ? 1 : 0; }

 private:
  std::int64_t k_;
};

}  // namespace rookery
