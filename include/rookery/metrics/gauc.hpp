// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Gauc: AUC within each session, averaged over sessions: how well a model ranks what one user saw together.
//
// Zhu et al., "Optimized Cost per Click in Taobao Display Advertising" (2017), section 4. Answers to torchrec/metrics/gauc.py; differs:
// sessions are named by numbers and need not lie in one batch, weights count, ties within a session count half.
// Include cost: tensor.

#include <cstdint>
#include <limits>
#include <span>
#include <string_view>

#include <rookery/metrics/kept_rows.hpp>
#include <rookery/metrics/scored_rows.hpp>
#include <rookery/metrics/stable_mean.hpp>

namespace rookery {

struct GaucOptions {
  double no_session = std::numeric_limits<double>::quiet_NaN();   // the value while no session counts; upstream has .5
};

/// The mean over sessions of the weighted AUC within each. A session of one class, or of one prediction for all rows, does not count.
/// The groups of rows are their sessions; the value depends on the rows alone, to the last bit.
///
/// Errors: those of Samples; ConfigError for rows without sessions.
/// Cost:   keeps every row; `value` is O(N log N).
class Gauc : public RowMetric<Gauc, PredictionKind::score, true> {
 public:
  explicit Gauc(GaucOptions options = {}) : options_(options) {}

  static constexpr std::string_view name() { return "gauc"; }

  double value() const {
    const auto mean = over_sessions();
    return mean.weight() == 0 ? options_.no_session : mean.mean();
  }
  /// The number of sessions that count.
  std::int64_t sessions() const { return static_cast<std::int64_t>(over_sessions().weight()); }

 private:
  StableMean over_sessions() const {
    StableMean mean;
    for_each_session([&](std::span<const KeptRow> session) {
      WonPairs pairs;
      detail::for_each_tie(session, [&](std::span<const KeptRow> tie) {
        double positives = 0, negatives = 0;
        for (const auto& row : tie) (row.label > .5 ? positives : negatives) += row.weight;
        pairs.add(positives, negatives);
      });
      if (pairs.one_class() || session.front().prediction == session.back().prediction) return;
      mean.add(pairs.won / pairs.pairs());
    });
    return mean;
  }

  GaucOptions options_;
};

}  // namespace rookery
