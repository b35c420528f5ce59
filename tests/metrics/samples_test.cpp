// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/samples.hpp>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using cases::column;
using cases::id_column;

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
  TEST_CASE("B8 a NaN, an infinity or a label outside [0, 1] is one sentence that names the row") {
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
  TEST_CASE("numbers come with labels of any size, and are no probabilities") {
    const Samples samples(column({-3, 7}), column({12, -1}), {}, PredictionKind::number);
    CHECK(samples.estimate(1) == 7);
    CHECK_THROWS_AS(samples.probability(0), ConfigError);
    const double nan = std::numeric_limits<double>::quiet_NaN();
    CHECK_THROWS_WITH_AS(Samples(column({1}), column({nan}), {}, PredictionKind::number), "Samples: labels[0] is nan; labels are finite",
                         DataError);
    CHECK(Samples(column({0}), column({1}), {}, PredictionKind::logit).estimate(0) == .5);
    CHECK_THROWS_AS(Samples(column({0}), column({1}), {}, PredictionKind::score).estimate(0), ConfigError);
  }
  TEST_CASE("groups are integers, one for each row") {
    const auto p = column({.5, .5}), y = column({1, 0});
    const Samples samples(p, y, {}, PredictionKind::probability, at::tensor({7, -7}, at::kInt).unsqueeze(1));
    CHECK(samples.groups()[1] == -7);
    CHECK_THROWS_AS(Samples(p, y).groups(), ConfigError);
    CHECK_THROWS_WITH_AS(Samples(p, y, {}, PredictionKind::probability, column({1, 2})),
                         "Samples: groups are Double; they are integers", DataError);
    CHECK_THROWS_WITH_AS(Samples(p, y, {}, PredictionKind::probability, id_column({1})),
                         "Samples: predictions has 2 rows, groups has 1", ShapeError);
  }
  TEST_CASE("parts and rows in the order of groups keep columns together") {
    const Samples samples(column({.1, .2, .3, .4}), column({1, 0, 1, 0}), column({1, 2, 3, 4}), PredictionKind::probability,
                          id_column({5, -2, 5, -2}));
    const auto sorted = samples.by_group();
    const auto same = [](const auto& column, const auto& expected) { return std::ranges::equal(column, expected); };
    CHECK(same(sorted.groups(), std::vector<std::int64_t>{-2, -2, 5, 5}));
    CHECK(same(sorted.predictions(), std::vector<double>{.2, .4, .1, .3}));
    CHECK(same(sorted.labels(), std::vector<double>{0, 0, 1, 1}));
    CHECK(same(sorted.weights(), std::vector<double>{2, 4, 1, 3}));
    const auto part = sorted.part(1, 3).part(1, 2);
    CHECK(part.size() == 1);
    CHECK(part.groups()[0] == 5);
    CHECK(part.predictions_tensor().equal(column({.1})));
    CHECK(part.labels_tensor().equal(column({1})));
    CHECK(part.weights_tensor().equal(column({1})));
    CHECK(sorted.by_group().predictions().data() == sorted.predictions().data());
    CHECK_THROWS_AS(sorted.part(3, 5), IndexError);
    CHECK_THROWS_AS(samples.part(0, 2).part(1, 3), IndexError);
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
