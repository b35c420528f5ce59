// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/normalized_entropy.hpp>

#include <limits>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("metrics/normalized_entropy") {
  TEST_CASE("A41 normalized entropy, ungrouped") {
    CHECK(value_of(NormalizedEntropy{}, five_rows()) == doctest::Approx(1.3935773).epsilon(1e-7));
  }
  TEST_CASE("the value is the formula's in float64, labels in between included") {
    for (const bool soft : {false, true}) {
      const auto rows = random_rows(2000, soft ? 3 : 2, soft);
      double ce = 0, positives = 0, negatives = 0;
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const double p = std::clamp(rows.predictions[i], 1e-12, 1 - 1e-12), y = rows.labels[i], w = rows.weights[i];
        ce -= w * (y * std::log2(p) + (1 - y) * std::log2(1 - p));
        positives += w * y;
        negatives += w * (1 - y);
      }
      const double mean = positives / (positives + negatives);
      const double base = -positives * std::log2(mean) - negatives * std::log2(1 - mean);
      CHECK(close(value_of(NormalizedEntropy{}, rows), ce / base, 1e-13));
    }
  }
  TEST_CASE("logits give what their probabilities give, and stay right where those end") {
    const auto rows = five_rows();
    NormalizedEntropy metric;
    metric.update_logits(column(logits_of(rows.predictions)), column(rows.labels), column(rows.weights));
    CHECK(metric.value() == doctest::Approx(1.3935773).epsilon(1e-7));
    NormalizedEntropy extreme;
    extreme.update_logits(column({-100, 100}), column({1, 0}));
    CHECK(extreme.value() == doctest::Approx(100 / std::log(2.)));
  }
  TEST_CASE("one class has nothing to normalise by, and no weight no value") {
    CHECK(unweighted(NormalizedEntropy{}, {.2, .3}, {0, 0}) == std::numeric_limits<double>::infinity());
    CHECK(unweighted(NormalizedEntropy{}, {.2, .3}, {1, 1}) == std::numeric_limits<double>::infinity());
    CHECK(std::isnan(NormalizedEntropy{}.value()));
    CHECK(std::isnan(value_of(NormalizedEntropy{}, {{.2, .3}, {0, 1}, {0, 0}})));
  }
  TEST_CASE("a refused batch leaves no row behind") {
    NormalizedEntropy metric;
    feed(metric, five_rows());
    const double before = metric.value();
    CHECK_THROWS_AS(metric.update(column({.5, 7}), column({0, 1})), DataError);
    CHECK(metric.value() == before);
  }
}

}  // namespace rookery
