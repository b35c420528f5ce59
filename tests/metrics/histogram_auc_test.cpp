// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/histogram_auc.hpp>

#include <rookery/metrics/auc.hpp>

#include <algorithm>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("metrics/histogram_auc") {
  TEST_CASE("the exact AUC lies within the bound, however coarse the bins") {
    for (const std::int64_t bins : {2, 7, 64, 1000, 16384}) {
      for (std::uint64_t seed = 0; seed < 20; ++seed) {
        const auto rows = random_rows(50 + 100 * seed, seed, seed % 2 == 1);
        HistogramAuc metric{{.bins = bins, .largest_logit = seed % 3 == 0 ? 1. : 16.}};
        feed(metric, rows);
        CHECK(metric.bound() <= .5);
        CHECK(std::abs(metric.value() - value_of(Auc{}, rows)) <= metric.bound() + 1e-14);
      }
    }
  }
  TEST_CASE("of click-through rates, probabilities or logits, the bound is below 5e-4 and the error below 1e-5") {
    std::mt19937_64 draw(6);
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform;
    std::vector<double> logits(200000), labels(logits.size()), probabilities(logits.size());
    for (std::size_t i = 0; i < logits.size(); ++i) {
      logits[i] = 1.2 * normal(draw) - 4;
      probabilities[i] = sigmoid(logits[i]);
      labels[i] = uniform(draw) < probabilities[i] ? 1 : 0;
    }
    HistogramAuc metric, of_logits;
    metric.update(column(probabilities), column(labels));
    of_logits.update_logits(column(logits), column(labels));
    const double exact = unweighted(Auc{}, probabilities, labels);
    CHECK(metric.bound() < 5e-4);
    CHECK(std::abs(metric.value() - exact) <= metric.bound());
    CHECK(std::abs(metric.value() - exact) < 1e-5);
    CHECK(std::abs(of_logits.value() - exact) < 1e-5);
    MESSAGE("error ", metric.value() - exact, ", bound ", metric.bound());
  }
  TEST_CASE("predictions of 0 and 1, and logits beyond the range, lie in the outer bins") {
    HistogramAuc metric{{.bins = 10}};
    metric.update(column({0, 1, 0, 1}), column({0, 1, 1, 0}), column({1, 1, .5, .5}));
    metric.update_logits(column({-700, 700}), column({0, 1}));
    CHECK(metric.value() == doctest::Approx((2 * 2 + .5 * (2 * .5 + .5 * 2)) / (2.5 * 2.5)));
    CHECK(metric.bound() == doctest::Approx(.5 * (2 * .5 + .5 * 2) / (2.5 * 2.5)));
  }
  TEST_CASE("memory does not grow with the rows") {
    HistogramAuc metric{{.bins = 100}};
    for (std::uint64_t seed = 0; seed < 20; ++seed) feed(metric, random_rows(500, seed));
    CHECK(metric.pack().numel() == 200);
  }
  TEST_CASE("one class has no value and no bound") {
    HistogramAuc metric;
    CHECK(std::isnan(metric.value()));
    CHECK(std::isnan(metric.bound()));
    CHECK(unweighted(HistogramAuc{{.one_class = .5}}, {.5, .6}, {0, 0}) == .5);
  }
  TEST_CASE("options that mean nothing are refused, and states of other bins") {
    CHECK_THROWS_WITH_AS(HistogramAuc({.bins = 1}), "HistogramAuc: bins is 1; it is 2 or more", ConfigError);
    CHECK_THROWS_WITH_AS(HistogramAuc({.bins = std::int64_t{1} << 62}),
                         "HistogramAuc: bins is 4611686018427387904; at 16 bytes each it is 67108864 (1 GB) or less", ConfigError);
    CHECK_THROWS_AS(HistogramAuc({.largest_logit = 0}), ConfigError);
    HistogramAuc metric{{.bins = 4}};
    CHECK_THROWS_WITH_AS(metric.merge(HistogramAuc({.bins = 3}).pack()), "HistogramAuc: a packed state has 6 numbers; 4 bins have 8",
                         ShapeError);
    CHECK_THROWS_AS(metric.add(Samples(column({3}), column({1}), {}, PredictionKind::score)), ConfigError);
  }
}

}  // namespace rookery
