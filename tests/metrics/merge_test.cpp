// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/merge.hpp>

#include <rookery/metrics/auc.hpp>
#include <rookery/metrics/auprc.hpp>
#include <rookery/metrics/calibration.hpp>
#include <rookery/metrics/ctr.hpp>
#include <rookery/metrics/gauc.hpp>
#include <rookery/metrics/histogram_auc.hpp>
#include <rookery/metrics/log_loss.hpp>
#include <rookery/metrics/ndcg.hpp>
#include <rookery/metrics/normalized_entropy.hpp>
#include <rookery/metrics/nrce.hpp>
#include <rookery/metrics/per_group.hpp>
#include <rookery/metrics/rank_of_positives.hpp>
#include <rookery/metrics/rce.hpp>
#include <rookery/metrics/regression.hpp>
#include <rookery/metrics/regression_auc.hpp>
#include <rookery/metrics/suite.hpp>
#include <rookery/metrics/threshold.hpp>
#include <rookery/metrics/windowed.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

/// The parts of `rows` between neighbouring `cuts`, merged in order into an empty metric.
template <class Metric> Metric merged_parts(const Metric& empty, const Rows& rows, const std::vector<std::size_t>& cuts) {
  Metric whole = empty;
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    Metric part = empty;
    feed(part, rows.part(cuts[i], cuts[i + 1]));
    whole.merge(part.pack());
  }
  return whole;
}

const std::vector<std::vector<std::size_t>> splits{
    {0, 200}, {0, 100, 200}, {0, 1, 200}, {0, 0, 73, 73, 199, 200, 200}, {0, 50, 60, 130, 200}};

}  // namespace

TEST_SUITE("metrics/merge") {
  TEST_CASE_TEMPLATE("the parts of any split merge to the whole, empty parts too", Metric, NormalizedEntropy, Rce, LogLoss, Calibration,
                     Mse, Rmse, Mae, RSquared, Ctr, PredictedCtr, PositiveCount, Accuracy, Precision, Recall, HistogramAuc,
                     GroupMean<NormalizedEntropy>) {
    const auto rows = random_rows(200, 21);
    const double whole = value_of(Metric{}, rows);
    for (const auto& cuts : splits) CHECK(close(merged_parts(Metric{}, rows, cuts).value(), whole, 1e-13));
  }
  TEST_CASE_TEMPLATE("what keeps rows is the whole's to the last bit for any split", Metric, Auc, Auprc, Nrce, Rauc, Xauc, Gauc, Ndcg,
                     MeanRank, ReciprocalRank, HitAtK, GroupMean<Auc>, GroupMean<Auprc>, GroupMean<Rauc>) {
    const auto rows = random_rows(200, 22);
    const double whole = value_of(Metric{}, rows);
    CHECK(std::isfinite(whole));
    for (const auto& cuts : splits) CHECK(merged_parts(Metric{}, rows, cuts).value() == whole);
  }
  TEST_CASE_TEMPLATE("merging nothing changes nothing", Metric, Auc, NormalizedEntropy, Rce, LogLoss, Calibration, Mse, Rmse, Mae, RSquared,
                     Ctr, PredictedCtr, Accuracy, Precision, Recall, HistogramAuc, Auprc, Nrce, StreamingNrce, Rauc, Xauc, Gauc, Ndcg,
                     MeanRank, ReciprocalRank, HitAtK, GroupMean<Auc>, GroupMean<Mse>, Windowed<Auc>, Windowed<Mse>) {
    Metric metric;
    metric.merge(Metric{}.pack());
    CHECK(std::isnan(metric.value()));
    feed(metric, five_rows());
    const double before = metric.value();
    metric.merge(Metric{}.pack());
    CHECK(metric.value() == before);
    CHECK_THROWS_AS(metric.merge(column({1, 2, 3, 4, 5, 6, 7})), ShapeError);
    CHECK_THROWS_AS(metric.merge(at::Tensor()), ShapeError);
  }
  TEST_CASE("merged on one process is the metric itself") {
    Local topology;
    Auc metric;
    feed(metric, five_rows());
    CHECK(merged(metric, topology).value() == metric.value());
  }
  TEST_CASE("merged over ranks is the whole on every rank, an empty first rank included, and counting goes on") {
    const auto rows = random_rows(200, 23);
    const MetricSuite empty{Auc{},      NormalizedEntropy{}, Rce{{.label_smoothing = .1}}, LogLoss{}, Calibration{}, Auprc{},
                            RSquared{}, Gauc{},              Ndcg{{.k = 5}},               Xauc{},    MeanRank{},    GroupMean{Auc{}}};
    auto whole = empty;
    feed(whole, rows);
    const auto expected = whole.values();
    for (const int ranks : {2, 3, 4}) {
      std::vector<std::vector<MetricValue>> results(static_cast<std::size_t>(ranks));
      Threads::run(ranks, [&](Threads topology) {
        const auto rank = static_cast<std::size_t>(topology.rank());
        const auto begin = rank == 0 ? 0 : 30 * (rank - 1), end = rank == 0 ? 0 : rank + 1 == results.size() ? 200 : begin + 30;
        auto metrics = empty;
        feed(metrics, rows.part(begin, (begin + end) / 2));
        merged(metrics, topology);
        feed(metrics, rows.part((begin + end) / 2, end));
        results[rank] = merged(metrics, topology).values();
      });
      for (const auto& values : results) {
        for (std::size_t i = 0; i < expected.size(); ++i) {
          CHECK(close(values[i].value, expected[i].value, 1e-13));
          CHECK(values[i].value == results[0][i].value);
        }
        CHECK(values[0].value == expected[0].value);
      }
    }
  }
  TEST_CASE_TEMPLATE("a packed NaN or infinity is refused by what keeps rows, and nothing of it is kept", Metric, Auc, Auprc, Gauc, Ndcg,
                     Rauc, Xauc, Nrce, MeanRank) {
    for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
      for (const std::int64_t from_end : {1, 2}) {
        Metric metric, other;
        feed(other, five_rows());
        auto packed = other.pack();                                                  // [n]
        packed[packed.numel() - from_end] = bad;
        CHECK_THROWS_AS(metric.merge(packed), NonFiniteError);
        CHECK(metric.size() == 0);
      }
    }
  }
  TEST_CASE("a packed state with a NaN is refused by the place it has") {
    CHECK_THROWS_WITH_AS(Auc{}.merge(column({.5, 1, std::nan(""), 1})),
                         "Auc: a packed state has nan in place 2; rows are finite numbers", NonFiniteError);
    CHECK_THROWS_WITH_AS(Gauc{}.merge(column({1e300, 1, .5, 1, 1})),
                         "a packed state has a group of the halves 1e+300 and 1; they are integers of 32 bits", DataError);
  }
  TEST_CASE_TEMPLATE("probabilities and logits, or scores and logits, are not ranked together", Metric, Auc, Auprc, Gauc, Ndcg, Rauc, Xauc,
                     MeanRank, ReciprocalRank, HitAtK, GroupMean<Auc>) {
    const auto rows = five_rows();
    const auto logits = column(logits_of(rows.predictions)), labels = column(rows.labels), groups = id_column(rows.groups);
    Metric metric;
    metric.update_logits(column({}), column({}), {}, id_column({}));
    feed(metric, rows);
    const double before = metric.value();
    CHECK_THROWS_AS(metric.update_logits(logits, labels, {}, groups), ConfigError);
    metric.update_logits(column({}), column({}), {}, id_column({}));
    feed(metric, rows);
    metric.reset();
    metric.update_logits(logits, labels, column(rows.weights), groups);
    CHECK(metric.value() == doctest::Approx(before));
    CHECK_THROWS_AS(feed(metric, rows), ConfigError);
    CHECK(metric.value() == doctest::Approx(before));
  }
  TEST_CASE("the sentence says what to do") {
    Auc metric;
    metric.update(column({.5}), column({1}));
    CHECK_THROWS_WITH_AS(metric.update_logits(column({0}), column({1})),
                         "Samples: a metric that compares predictions was fed scores and is now fed logits, which are on another scale; use "
                         "update or update_logits alone, or reset it in between",
                         ConfigError);
  }
  TEST_CASE_TEMPLATE("what turns logits into probabilities, or reads the labels alone, takes both", Metric, NormalizedEntropy, LogLoss,
                     Rce, Nrce, Calibration, Mse, RSquared, HistogramAuc, PositiveCount, Recall) {
    const auto rows = five_rows();
    Metric metric;
    feed(metric, rows);
    const double before = metric.value();
    metric.update_logits(column(logits_of(rows.predictions)), column(rows.labels), column(rows.weights));
    CHECK(close(metric.value(), std::is_same_v<Metric, PositiveCount> ? 2 * before : before, 1e-5));   // RCE clamps probabilities
  }
}

}  // namespace rookery
