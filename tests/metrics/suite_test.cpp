// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/suite.hpp>

#include <rookery/metrics/auc.hpp>
#include <rookery/metrics/calibration.hpp>
#include <rookery/metrics/ctr.hpp>
#include <rookery/metrics/gauc.hpp>
#include <rookery/metrics/histogram_auc.hpp>
#include <rookery/metrics/log_loss.hpp>
#include <rookery/metrics/metric_value.hpp>
#include <rookery/metrics/ndcg.hpp>
#include <rookery/metrics/normalized_entropy.hpp>
#include <rookery/metrics/nrce.hpp>
#include <rookery/metrics/per_group.hpp>
#include <rookery/metrics/rce.hpp>
#include <rookery/metrics/regression.hpp>
#include <rookery/metrics/threshold.hpp>
#include <rookery/metrics/windowed.hpp>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

/// A metric of a user's own: the weighted number of positives, from tensors alone.
struct PositiveWeight {
  double total = 0, largest_prediction = 0;

  static constexpr std::string_view name() { return "positive_weight"; }
  void update(const at::Tensor& predictions, const at::Tensor& labels, const at::Tensor& weights) {
    total += labels.mul(weights).sum().item<double>();
    largest_prediction = std::max(largest_prediction, predictions.max().item<double>());
  }
  double value() const { return total; }
  void reset() { total = 0; }
  at::Tensor pack() const { return column({total}); }
  void merge(const at::Tensor& packed) { total += packed.item<double>(); }
};

/// One that refuses rows of more than two.
struct Pairs : PositiveWeight {
  void check_rows(const Samples& samples) const { check<DataError>(samples.size() <= 2, "Pairs: ", samples.size(), " rows"); }
};

}  // namespace

TEST_SUITE("metrics/suite") {
  TEST_CASE("one update feeds all, in the order given") {
    MetricSuite metrics{Auc{}, NormalizedEntropy{}, LogLoss{{.base = LogBase::two}}, Calibration{}, Rce{}, PositiveWeight{}};
    feed(metrics, five_rows());
    const auto values = metrics.values();
    const std::vector<std::pair<std::string, double>> expected{{"auc", .4464286},         {"ne", 1.3935773},   {"logloss_base2", 1.2179601},
                                                               {"calibration", .9172619}, {"rce", -39.357729}, {"positive_weight", 1.68}};
    REQUIRE(values.size() == expected.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      CHECK(values[i].name == expected[i].first);
      CHECK(values[i].value == doctest::Approx(expected[i].second).epsilon(1e-7));
    }
    CHECK(metrics.get<Auc>().size() == 5);
  }
  TEST_CASE("logits reach each metric in the form it takes") {
    const auto rows = five_rows();
    MetricSuite metrics{Auc{}, NormalizedEntropy{}, PositiveWeight{}};
    metrics.update_logits(column(logits_of(rows.predictions)), column(rows.labels), column(rows.weights));
    CHECK(metrics.values()[0].value == doctest::Approx(.4464286).epsilon(1e-7));
    CHECK(metrics.values()[1].value == doctest::Approx(1.3935773).epsilon(1e-7));
    CHECK(metrics.get<PositiveWeight>().largest_prediction == doctest::Approx(.9));
  }
  TEST_CASE("a refused batch is in no metric") {
    MetricSuite metrics{Auc{}, Calibration{}};
    CHECK_THROWS_AS(metrics.update(column({.5, 3}), column({0, 1})), DataError);
    CHECK(metrics.get<Auc>().size() == 0);
  }
  TEST_CASE("rows without groups are refused before the first metric has them, however deep the one that needs them") {
    const auto refuses = [](auto metrics) {
      CHECK_THROWS_AS(metrics.update(column({.5, .5}), column({1, 0})), ConfigError);
      CHECK(metrics.template get<PositiveCount>().value() == 0);
    };
    refuses(MetricSuite{PositiveCount{}, Gauc{}});
    refuses(MetricSuite{PositiveCount{}, PerGroup{Mse{}}});
    refuses(MetricSuite{PositiveCount{}, GroupMean{Auc{}}});
    refuses(MetricSuite{PositiveCount{}, Windowed{MetricSuite{Mse{}, Gauc{}}}});
    static_assert(needs_groups_of<Windowed<MetricSuite<Mse, Gauc>>>() && !needs_groups_of<MetricSuite<Mse, Auc, PositiveWeight>>());
  }
  TEST_CASE("a label, a scale or rows that one metric refuses are in none of them") {
    MetricSuite metrics{Mse{}, Windowed{Ndcg{}}, PerGroup{Ndcg{}}, Ndcg{}};
    CHECK_THROWS_WITH_AS(metrics.update(column({1, 2}), column({1, -1}), {}, id_column({1, 2})),
                         "Ndcg: a label is -1; grades are 0 or more", DataError);
    CHECK(std::isnan(metrics.get<Mse>().value()));
    CHECK(metrics.get<PerGroup<Ndcg>>().groups().empty());
    MetricSuite mixed{PositiveCount{}, Auc{}, PerGroup{Auc{}}};
    mixed.update(column({.2, .3}), column({0, 1}), {}, id_column({1, 2}));
    CHECK_THROWS_AS(mixed.update_logits(column({.2, .3}), column({0, 1}), {}, id_column({1, 3})), ConfigError);
    CHECK(mixed.get<PositiveCount>().value() == 1);
    CHECK(mixed.get<PerGroup<Auc>>().groups().size() == 2);
    MetricSuite own{PositiveCount{}, Pairs{}};
    CHECK_THROWS_WITH_AS(own.update(column({.2, .3, .4}), column({0, 1, 1})), "Pairs: 3 rows", DataError);
    CHECK(own.get<PositiveCount>().value() == 0);
  }
  TEST_CASE("metrics of one type with different options have different names") {
    const MetricSuite metrics{Recall{},
                              Recall{{.threshold = .7}},
                              Precision{{.threshold = .25}},
                              Accuracy{{.threshold = 1}},
                              Auc{},
                              Auc{{.tie = 0}},
                              Rce{{.label_smoothing = .1}},
                              Nrce{{.label_smoothing = .1}},
                              StreamingNrce{{.label_smoothing = .1}},
                              HistogramAuc{},
                              HistogramAuc{{.bins = 1000, .largest_logit = 8}},
                              Ndcg{{.k = 5, .gain = NdcgGain::exponential, .single_rows = false}}};
    std::vector<std::string> names;
    for (const auto& [name, value] : metrics.values()) names.push_back(name);
    CHECK(names == std::vector<std::string>{"recall", "recall_threshold_0.7", "precision_threshold_0.25", "accuracy_threshold_1", "auc",
                                            "auc_tie_0", "rce_label_smoothing_0.1", "nrce_label_smoothing_0.1",
                                            "nrce_streaming_label_smoothing_0.1", "auc_histogram",
                                            "auc_histogram_bins_1000_largest_logit_8", "ndcg_exponential_of_several@5"});
  }
  TEST_CASE("B8 NE and AUC of one class and of no weight") {
    MetricSuite metrics{NormalizedEntropy{}, Auc{}, Auc{{.one_class = .5}}};
    metrics.update(column({.2, .3}), column({1, 0}), column({0, 0}));
    CHECK(std::isnan(metrics.values()[0].value));
    CHECK(std::isnan(metrics.values()[1].value));
    metrics.update(column({.2, .3}), column({1, 1}));
    CHECK(std::isinf(metrics.values()[0].value));
    CHECK(std::isnan(metrics.values()[1].value));
    CHECK(metrics.values()[2].value == .5);
    metrics.update(column({.1}), column({0}));
    CHECK(std::isfinite(metrics.values()[0].value));
    CHECK(metrics.values()[1].value == 1);
  }
  TEST_CASE("packed states of all metrics travel as one and come apart again") {
    const auto rows = random_rows(100, 12);
    MetricSuite whole{Auc{}, Rce{}, Calibration{}, PositiveWeight{}};
    auto first = whole, second = whole, merged = whole;
    feed(whole, rows);
    feed(first, rows.part(0, 37));
    feed(second, rows.part(37, 100));
    for (const auto& part : {first, second}) merged.merge(part.pack());
    for (std::size_t i = 0; i < 4; ++i) CHECK(close(merged.values()[i].value, whole.values()[i].value, 1e-13));
    merged.reset();
    CHECK(std::isnan(merged.values()[0].value));
  }
  TEST_CASE("a packed state of other metrics is refused") {
    MetricSuite<LogLoss, Calibration> metrics{LogLoss{}, Calibration{}};
    CHECK_THROWS_WITH_AS(metrics.merge(column({1, 2, 3, 4})), "MetricSuite: a packed state has 1 parts; there are 2", ShapeError);
    CHECK_THROWS_AS(metrics.merge(column({2, 4, 2, 0, 0, 0, 0, 0, 0})), ShapeError);
    CHECK_THROWS_AS(metrics.merge(column({2, 2, 3, 0, 0, 0, 0, 0})), ShapeError);
  }
  TEST_CASE("a suite takes predictions for what all its metrics take them") {
    MetricSuite numbers{Mse{}, Mae{}};
    numbers.update(column({3, 5}), column({1, 5}));
    CHECK(numbers.values()[0].value == 2);
    CHECK(numbers.values()[1].value == 1);
    MetricSuite mixed{Mse{}, LogLoss{}};
    CHECK_THROWS_AS(mixed.update(column({3, 5}), column({1, 5})), DataError);
  }
  TEST_CASE("suites and wrappers among the metrics give all their values") {
    MetricSuite metrics{LogLoss{}, MetricSuite{Mse{}, Mae{}}, PerGroup{Mse{}, {.name = "country"}}, Windowed{Mae{}}};
    feed(metrics, five_rows());
    std::vector<std::string> names;
    for (const auto& [name, value] : metrics.values()) names.push_back(name);
    CHECK(names == std::vector<std::string>{"logloss", "mse", "mae", "country_0/mse", "country_1/mse", "window_mae"});
    auto merged = metrics;
    merged.reset();
    merged.merge(metrics.pack());
    for (std::size_t i = 0; i < names.size(); ++i) CHECK(close(merged.values()[i].value, metrics.values()[i].value, 1e-13));
  }
  TEST_CASE("metrics without options need not be spelt out twice") {
    MetricSuite<Auc, LogLoss> metrics;
    feed(metrics, five_rows());
    CHECK(metrics.get<Auc>().value() == metrics.values()[0].value);
  }
  TEST_CASE("it costs what its metrics cost") {
    CHECK(sizeof(MetricSuite<LogLoss>) == sizeof(LogLoss));
    CHECK(sizeof(MetricSuite<LogLoss, Calibration>) == sizeof(LogLoss) + sizeof(Calibration));
    CHECK_FALSE(std::is_polymorphic_v<MetricSuite<LogLoss>>);
  }
}

}  // namespace rookery
