// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/samples.hpp>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <limits>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using cases::column;

TEST_SUITE("metrics/samples") {
  TEST_CASE("rows come as float64 whatever the dtype, layout and shape") {
    const auto p = column({.25, 9, .5, 9}).reshape({2, 2}).select(1, 0);             // [2], stride 2
    const Samples samples(p.to(at::kFloat).unsqueeze(1), column({1, 0}).to(at::kBool), column({2, 3}).to(at::kLong));
    CHECK(samples.size() == 2);
    CHECK(samples.predictions()[0] == .25);
    CHECK(samples.predictions()[1] == .5);
    CHECK(samples.labels()[0] == 1);
    CHECK(samples.weights()[1] == 3);
    CHECK(Samples(p, column({1, 0})).predictions()[1] == .5);
  }
  TEST_CASE("rows without weights weigh one, and no rows are no error") {
    CHECK(Samples(column({.25}), column({1})).weights()[0] == 1);
    CHECK(Samples(at::empty({0}), at::empty({0})).size() == 0);
  }
  TEST_CASE("a tensor that still requires grad is read, not recorded") {
    const auto p = column({.25}).requires_grad_();
    CHECK_FALSE(Samples(p, column({1})).predictions_tensor().requires_grad());
  }
  TEST_CASE("a logit's probability is right at both ends") {
    const Samples samples(column({-800, 0, 40, 800}), column({0, 0, 0, 0}), {}, PredictionKind::logit);
    CHECK(samples.probability(0) == 0);
    CHECK(samples.probability(1) == .5);
    CHECK(samples.probability(2) == doctest::Approx(1).epsilon(1e-15));
    CHECK(samples.probability(3) == 1);
    CHECK(samples.predictions_tensor().const_data_ptr<double>()[1] == .5);
    CHECK(sigmoid(-700) > 0);
  }
  TEST_CASE("a mistake is one sentence that names the row") {
    const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
    const auto rows = [](double p, double y, double w, PredictionKind kind = PredictionKind::probability) {
      return Samples(column({.5, p}), column({1, y}), column({1, w}), kind);
    };
    CHECK_THROWS_WITH_AS(rows(nan, 0, 1), "Samples: predictions[1] is nan; a metric takes finite predictions only", NonFiniteError);
    CHECK_THROWS_AS(rows(nan, 0, 0), NonFiniteError);
    CHECK_THROWS_AS(rows(-infinity, 0, 1, PredictionKind::score), NonFiniteError);
    CHECK_THROWS_WITH_AS(rows(1.5, 0, 1), "Samples: predictions[1] is 1.5; probabilities lie in [0, 1], logits go to update_logits",
                         DataError);
    CHECK_THROWS_AS(rows(-.5, 0, 1), DataError);
    CHECK_NOTHROW(rows(1.5, 0, 1, PredictionKind::logit));
    CHECK_THROWS_WITH_AS(rows(.5, 2, 1), "Samples: labels[1] is 2; labels lie in [0, 1]", DataError);
    CHECK_THROWS_AS(rows(.5, -1, 1), DataError);
    CHECK_THROWS_AS(rows(.5, nan, 1), DataError);
    CHECK_THROWS_WITH_AS(rows(.5, 0, -2), "Samples: weights[1] is -2; weights are finite and not negative", DataError);
    CHECK_THROWS_AS(rows(.5, 0, nan), DataError);
    CHECK_THROWS_AS(rows(.5, 0, infinity), DataError);
    CHECK_THROWS_AS(rows(.5, 0, 1, PredictionKind::score).probability(0), ConfigError);
  }
  TEST_CASE("columns that do not fit together are refused") {
    const auto p = column({.5, .5});
    CHECK_THROWS_WITH_AS(Samples(p, column({1})), "Samples: predictions has 2 rows, labels has 1", ShapeError);
    CHECK_THROWS_WITH_AS(Samples(p, column({1, 0}), column({1})), "Samples: predictions has 2 rows, weights has 1", ShapeError);
    CHECK_THROWS_WITH_AS(Samples(p, {}), "Samples: labels is an undefined tensor", ShapeError);
    CHECK_THROWS_WITH_AS(Samples(at::zeros({2, 3}), p), "Samples: predictions has shape [2, 3]; a metric takes [N] or [N, 1]", ShapeError);
    CHECK_THROWS_AS(Samples(at::zeros({}), at::zeros({})), ShapeError);
  }
}

}  // namespace rookery
