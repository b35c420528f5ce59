// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/per_task.hpp>

#include <rookery/metrics/auc.hpp>
#include <rookery/metrics/ctr.hpp>
#include <rookery/metrics/gauc.hpp>
#include <rookery/metrics/merge.hpp>
#include <rookery/metrics/ndcg.hpp>
#include <rookery/metrics/normalized_entropy.hpp>
#include <rookery/metrics/packed_states.hpp>
#include <rookery/metrics/per_group.hpp>
#include <rookery/metrics/regression.hpp>
#include <rookery/metrics/suite.hpp>
#include <rookery/metrics/windowed.hpp>
#include <rookery/topology/threads.hpp>

#include <ATen/ops/stack.h>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("metrics/per_task") {
  const auto rows = five_rows();
  const std::vector<double> second{.6, .2, .4, .8, .9};
  const auto predictions = at::stack({column(rows.predictions), column(second)}, 1);             // [5, 2]
  const auto labels = at::stack({column(rows.labels), column(rows.labels)}, 1);                  // [5, 2]
  const auto weights = column(rows.weights);                                                     // [5]

  TEST_CASE("A41 NE of two tasks and two groups at once") {
    PerTask metrics{{"first", "second"}, PerGroup{NormalizedEntropy{}}};
    metrics.update(predictions, labels, weights, id_column(rows.groups));
    const std::vector<std::pair<std::string, double>> expected{{"first/group_0/ne", 3.1614680},
                                                               {"first/group_1/ne", 1.6003843},
                                                               {"second/group_0/ne", 1.0034304},
                                                               {"second/group_1/ne", .4858565}};
    const auto values = metrics.values();
    REQUIRE(values.size() == expected.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      CHECK(values[i].name == expected[i].first);
      CHECK(values[i].value == doctest::Approx(expected[i].second).epsilon(1e-6));
    }
  }
  TEST_CASE("each task is its column alone, from probabilities and from logits, with weights for all or for each") {
    PerTask metrics{{"click", "like"}, MetricSuite{Auc{}, Windowed{NormalizedEntropy{}}}}, of_logits = metrics;
    const auto each = at::stack({weights, column({1, 2, 0, 1, 3})}, 1);                          // [5, 2]
    metrics.update(predictions, labels, each);
    of_logits.update_logits(predictions.logit(), labels, each);
    CHECK(metrics.task("click").get<Auc>().value() == value_of(Auc{}, rows));
    CHECK(metrics.values()[2].name == "like/auc");
    CHECK(metrics.values()[2].value == value_of(Auc{}, {second, rows.labels, {1, 2, 0, 1, 3}}));
    CHECK(metrics.values()[3].name == "like/window_ne");
    for (std::size_t i = 0; i < 4; ++i) CHECK(close(of_logits.values()[i].value, metrics.values()[i].value, 1e-12));
    metrics.reset();
    CHECK(std::isnan(metrics.values()[0].value));
  }
  TEST_CASE("merged over ranks, each task is the whole's") {
    PerTask whole{{"click", "like"}, MetricSuite{Auc{}, Mse{}}};
    const auto empty = whole;
    whole.update(predictions, labels, weights);
    Threads::run(2, [&](Threads topology) {
      auto part = empty;
      const std::int64_t begin = topology.rank() == 0 ? 0 : 2, length = topology.rank() == 0 ? 2 : 3;
      part.update(predictions.narrow(0, begin, length), labels.narrow(0, begin, length), weights.narrow(0, begin, length));
      const auto values = merged(part, topology).values();
      for (std::size_t i = 0; i < 4; ++i) CHECK(close(values[i].value, whole.values()[i].value, 1e-13));
    });
  }
  TEST_CASE("tasks that cannot be, and columns that do not fit them, are refused, and no task has the batch") {
    CHECK_THROWS_WITH_AS(PerTask<Auc>{{}}, "PerTask: there is no task", ConfigError);
    CHECK_THROWS_WITH_AS((PerTask<Auc>{{"a", "b", "a"}}), "PerTask: task 'a' is named twice", ConfigError);
    PerTask<Auc> metrics{{"a", "b"}};
    CHECK_THROWS_WITH_AS(metrics.update(weights, labels), "PerTask: predictions has shape [5]; 2 tasks take [N, 2]", ShapeError);
    CHECK_THROWS_AS(metrics.update(predictions, at::Tensor()), ShapeError);
    CHECK_THROWS_AS(metrics.update(predictions, labels, labels.narrow(1, 0, 1)), ShapeError);
    auto bad = labels.clone();
    bad.select(1, 1).fill_(2);
    CHECK_THROWS_AS(metrics.update(predictions, bad), DataError);
    CHECK(metrics.task("a").size() == 0);
    CHECK_THROWS_WITH_AS(metrics.task("c"), "PerTask: 'c' is none of its 2 tasks", IndexError);
  }
  TEST_CASE("states packed together come apart again, and others are refused in words") {
    const std::vector<at::Tensor> states{column({1, 2}), column({}), column({3})};
    const auto packed = detail::pack_states(states);
    CHECK(packed.equal(column({3, 2, 0, 1, 1, 2, 3})));
    const auto again = detail::unpack_states(packed, 3, "Suite");
    for (std::size_t i = 0; i < 3; ++i) CHECK(again[i].equal(states[i]));
    CHECK(detail::unpack_states(column({0}), "Suite").empty());
    CHECK_THROWS_WITH_AS(detail::unpack_states(packed, 2, "Suite"), "Suite: a packed state has 3 parts; there are 2", ShapeError);
    CHECK_THROWS_WITH_AS(detail::unpack_states(column({1, 5, 0}), "Suite"),
                         "Suite: a packed state of 3 numbers has 5 in place 1, where a length of at most 1 stands", ShapeError);
    CHECK_THROWS_WITH_AS(detail::unpack_states(column({1, 1, 0, 0}), "Suite"), "Suite: a packed state has 4 numbers; its parts are 3",
                         ShapeError);
    for (const double count : {-1., 9., .5, std::numeric_limits<double>::quiet_NaN()}) {
      CHECK_THROWS_AS(detail::unpack_states(column({count, 1, 0}), "Suite"), ShapeError);
    }
    CHECK_THROWS_AS(detail::unpack_states(column({}), "Suite"), ShapeError);
  }
  TEST_CASE("what the second task refuses is not in the first") {
    PerTask metrics{{"a", "b"}, Ndcg{}};
    const auto grades = at::stack({column({1, 2}), column({1, -1})}, 1);                         // [2, 2]
    CHECK_THROWS_AS(metrics.update(grades, grades, {}, id_column({1, 1})), DataError);
    CHECK(metrics.task("a").size() == 0);
    PerTask sessions{{"a", "b"}, MetricSuite{PositiveCount{}, Gauc{}}};
    CHECK_THROWS_AS(sessions.update(predictions, labels), ConfigError);
    CHECK(sessions.task("a").get<PositiveCount>().value() == 0);
  }
}

}  // namespace rookery
