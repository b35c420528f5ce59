// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/regression.hpp>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("metrics/regression") {
  TEST_CASE("A44 MSE, RMSE and MAE") {
    CHECK(value_of(Mse{}, five_rows()) == doctest::Approx(.3238235).epsilon(2e-7));
    CHECK(value_of(Rmse{}, five_rows()) == doctest::Approx(.5690549).epsilon(2e-7));
    CHECK(value_of(Mae{}, five_rows()) == doctest::Approx(.4953782).epsilon(2e-7));
  }
  TEST_CASE("labels and predictions are any numbers, logits their probabilities") {
    CHECK(unweighted(Mse{}, {-3, 10}, {1, 7}) == 12.5);
    CHECK(unweighted(Mae{}, {-3, 10}, {1, 7}) == 3.5);
    Mse of_logits;
    of_logits.update_logits(column({0, 0}), column({0, 1}));
    CHECK(of_logits.value() == .25);
    CHECK_THROWS_AS(of_logits.add(Samples(column({0}), column({1}), {}, PredictionKind::score)), ConfigError);
  }
  TEST_CASE("R squared is 1 - SSE / SST in float64, and stays so far from zero") {
    for (const double shift : {0., 1e6}) {
      auto rows = random_rows(500, 9);
      for (auto& label : rows.labels) label = 3 * label + shift;
      for (auto& prediction : rows.predictions) prediction += shift;
      double weight = 0, mean = 0, error = 0, spread = 0;
      for (std::size_t i = 0; i < rows.size(); ++i) weight += rows.weights[i];
      for (std::size_t i = 0; i < rows.size(); ++i) mean += rows.weights[i] / weight * rows.labels[i];
      for (std::size_t i = 0; i < rows.size(); ++i) {
        error += rows.weights[i] * (rows.predictions[i] - rows.labels[i]) * (rows.predictions[i] - rows.labels[i]);
        spread += rows.weights[i] * (rows.labels[i] - mean) * (rows.labels[i] - mean);
      }
      CHECK(close(value_of(RSquared{}, rows), 1 - error / spread, shift == 0 ? 1e-12 : 1e-8));
    }
  }
  TEST_CASE("R squared of perfect, of the mean, and of labels that do not differ") {
    CHECK(unweighted(RSquared{}, {1, 2, 3}, {1, 2, 3}) == 1);
    CHECK(unweighted(RSquared{}, {2, 2, 2}, {1, 2, 3}) == doctest::Approx(0));
    CHECK(std::isnan(unweighted(RSquared{}, {2, 2, 2}, {3, 3, 3})));
    CHECK(std::isnan(RSquared{}.value()));
  }
  TEST_CASE("a row that weighs nothing adds nothing to R squared, however far it lies") {
    RSquared metric;
    metric.update(column({1, 2, 1e300}), column({1, 3, 0}), column({1, 1, 0}));
    CHECK(metric.value() == .5);
  }
  TEST_CASE("no weight, no value") { CHECK(std::isnan(Rmse{}.value())); }
}

}  // namespace rookery
