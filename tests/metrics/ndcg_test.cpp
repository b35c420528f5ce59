// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/ndcg.hpp>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("metrics/ndcg") {
  const Rows one{{.1, .2, .3, .4, .5}, {0, 1, 0, 0, 2}, {1, 1, 1, 1, 2}, {1, 1, 1, 1, 1}};
  const Rows two{{.1, .2, .3, .4, .5, .1, .2, .3}, {0, 1, 0, 0, 2, 2, 1, 0}, {1, 1, 1, 1, 2, 1, 1, 3}, {1, 1, 1, 1, 1, 2, 2, 2}};
  const Rows binary{{.1, .5, .3, .4, .2, .1}, {1, 0, 1, 1, 0, 1}, {1, 1, 1, 1, 1, 1}, {1, 1, 1, 2, 2, 2}};
  const auto loss = [](NdcgOptions options, const Rows& rows) {
    Ndcg metric{options};
    feed(metric, rows);
    return metric.loss();
  };
  const auto near = [](double value) { return doctest::Approx(value).epsilon(1e-6); };

  TEST_CASE("A48 NDCG of one session, exponential and linear gain") {
    CHECK(loss({.gain = NdcgGain::exponential}, one) == near(.1103041));
    CHECK(loss({}, one) == near(.1522300));
  }
  TEST_CASE("A48 NDCG of two sessions, exponential and linear gain") {
    CHECK(loss({.gain = NdcgGain::exponential}, two) == near(.6748280));
    CHECK(loss({}, two) == near(.6462556));
  }
  TEST_CASE("A48 NDCG without a positive label") {
    auto rows = two;
    rows.labels.assign(rows.size(), 0);
    CHECK(loss({}, rows) == 2.5);
    CHECK(loss({.gain = NdcgGain::exponential}, rows) == 2.5);
    CHECK(value_of(Ndcg{}, rows) == 0);
  }
  TEST_CASE("A48 NDCG at k") {
    CHECK(loss({}, binary) == near(.1934264));
    CHECK(loss({.k = 1}, binary) == near(.5));
    CHECK(loss({.k = 2}, binary) == near(.5));
    CHECK(loss({.k = 3}, binary) == near(.1934264));
    CHECK(loss({.k = 100}, binary) == near(.1934264));
  }
  TEST_CASE("A48 NDCG without sessions of one row") {
    auto rows = binary;
    rows.groups = {1, 1, 1, 2, 3, 4};
    CHECK(loss({.single_rows = false}, rows) == near(.3065736));
    Ndcg metric{{.single_rows = false}};
    feed(metric, rows);
    CHECK(metric.sessions() == 1);
  }
  TEST_CASE("the value is NDCG, weighted by session") {
    CHECK(value_of(Ndcg{}, {{.9, .5, .1}, {2, 1, 0}, {1, 1, 1}, {3, 3, 3}}) == 1);
    CHECK(value_of(Ndcg{}, one) == near(1 - .1522300 / 2));
    CHECK(value_of(Ndcg{}, two) == near(1 - 2 * .6462556 / (2 + 3)));
  }
  TEST_CASE("rows of one prediction share their places, whatever order they came in") {
    const double expected = (1 + 1 / std::log2(3.)) / 2;
    CHECK(value_of(Ndcg{}, {{.5, .5}, {1, 0}, {1, 1}, {3, 3}}) == near(expected));
    CHECK(value_of(Ndcg{}, {{.5, .5}, {0, 1}, {1, 1}, {3, 3}}) == near(expected));
    CHECK(value_of(Ndcg{{.k = 1}}, {{.5, .5}, {0, 1}, {1, 1}, {3, 3}}) == .5);
  }
  TEST_CASE("the name says at which place it is cut") {
    CHECK(Ndcg{}.name() == "ndcg");
    CHECK(Ndcg({.k = 10}).name() == "ndcg@10");
  }
  TEST_CASE("grades below zero and a negative k are refused, and nothing has no value") {
    Ndcg metric;
    CHECK_THROWS_WITH_AS(feed(metric, {{1, 2}, {1, -1}, {1, 1}, {0, 0}}), "Ndcg: a label is -1; grades are 0 or more", DataError);
    CHECK(metric.size() == 0);
    CHECK_THROWS_AS(Ndcg({.k = -1}), ConfigError);
    CHECK(std::isnan(metric.value()));
    CHECK(std::isnan(metric.loss()));
  }
}

}  // namespace rookery
