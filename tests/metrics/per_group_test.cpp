// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/per_group.hpp>

#include <rookery/metrics/auc.hpp>
#include <rookery/metrics/auprc.hpp>
#include <rookery/metrics/ctr.hpp>
#include <rookery/metrics/ndcg.hpp>
#include <rookery/metrics/normalized_entropy.hpp>
#include <rookery/metrics/regression_auc.hpp>
#include <rookery/metrics/suite.hpp>

#include <limits>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

void check_values(const std::vector<MetricValue>& values, const std::vector<std::pair<std::string, double>>& expected) {
  REQUIRE(values.size() == expected.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    CHECK(values[i].name == expected[i].first);
    CHECK(values[i].value == doctest::Approx(expected[i].second).epsilon(1e-6));
  }
}

}  // namespace

TEST_SUITE("metrics/per_group") {
  TEST_CASE("A41 NE of groups") {
    PerGroup metric{NormalizedEntropy{}};
    feed(metric, five_rows());
    check_values(metric.values(), {{"group_0/ne", 3.1614680}, {"group_1/ne", 1.6003843}});
  }
  TEST_CASE("A41 NE of groups, second task") {
    auto rows = five_rows();
    rows.predictions = {.6, .2, .4, .8, .9};
    PerGroup metric{NormalizedEntropy{}};
    feed(metric, rows);
    check_values(metric.values(), {{"group_0/ne", 1.0034304}, {"group_1/ne", .4858565}});
  }
  TEST_CASE("A41 NE of one group, and of three with six samples") {
    auto rows = five_rows();
    rows.groups.assign(5, 0);
    PerGroup one{NormalizedEntropy{}};
    feed(one, rows);
    check_values(one.values(), {{"group_0/ne", 1.3935773}});
    rows.predictions.push_back(.4);
    rows.labels.push_back(0);
    rows.weights.push_back(.4);
    rows.groups = {0, 1, 0, 1, 2, 2};
    PerGroup three{NormalizedEntropy{}};
    feed(three, rows);
    check_values(three.values(), {{"group_0/ne", 3.1614680}, {"group_1/ne", 1.8311077}, {"group_2/ne", .3813581}});
  }
  TEST_CASE("A42 AUC, mean of groups") {
    GroupMean metric{Auc{}};
    feed(metric, five_rows());
    CHECK(metric.name() == "grouped_auc");
    CHECK(metric.value() == doctest::Approx(.2419355).epsilon(1e-6));
    CHECK(metric.groups() == 2);
    PerGroup each{Auc{}};
    feed(each, five_rows());
    check_values(each.values(), {{"group_0/auc", 0}, {"group_1/auc", .4838710}});
  }
  TEST_CASE("A43 AUPRC, mean of groups") {
    CHECK(value_of(GroupMean{Auprc{}}, five_rows()) == doctest::Approx(.5736815).epsilon(1e-6));
  }
  TEST_CASE("A49 RAUC, mean of groups") {
    CHECK(value_of(GroupMean{Rauc{}}, five_rows()) == doctest::Approx(.3333333).epsilon(1e-6));
  }
  TEST_CASE("a group without a value does not count, unless the metric has one for it") {
    const Rows rows{{.9, .1, .5}, {1, 0, 1}, {1, 1, 1}, {1, 1, 2}};
    CHECK(value_of(GroupMean{Auc{}}, rows) == 1);
    CHECK(value_of(GroupMean{Auc{{.one_class = .5}}}, rows) == .75);
    CHECK(value_of(GroupMean{NormalizedEntropy{}}, rows) == doctest::Approx(std::log(.9) / std::log(.5)));   // infinite in group 2
    CHECK(std::isnan(GroupMean{Auc{}}.value()));
  }
  TEST_CASE("groups are any integers, and travel exactly") {
    constexpr auto low = std::numeric_limits<std::int64_t>::min(), high = std::numeric_limits<std::int64_t>::max();
    PerGroup metric{Ctr{}}, merged{Ctr{}};
    feed(metric, {{.1, .2, .3, .4}, {1, 0, 1, 1}, {1, 1, 1, 1}, {high, low, -1, high - 1}});
    merged.merge(metric.pack());
    std::vector<std::int64_t> groups;
    for (const auto& [group, ctr] : merged.groups()) groups.push_back(group);
    CHECK(groups == std::vector<std::int64_t>{low, -1, high - 1, high});
  }
  TEST_CASE("a stratum keeps its rows alone, and is there before they are") {
    PerGroup metric{Ctr{}, {.name = "country", .only = {7, 1}}};
    CHECK(metric.values().size() == 2);
    CHECK(std::isnan(metric.values()[0].value));
    feed(metric, five_rows());
    auto other = metric;
    other.merge(PerGroup{Ctr{}}.pack());
    PerGroup all{Ctr{}};
    feed(all, five_rows());
    other.merge(all.pack());
    CHECK(other.groups().size() == 2);
    CHECK(metric.values()[0].name == "country_1/ctr");
    CHECK(metric.values()[0].value == doctest::Approx(1.55 / 1.75));
    CHECK(std::isnan(metric.values()[1].value));
    metric.reset();
    CHECK(metric.values().size() == 2);
    CHECK(std::isnan(metric.values()[0].value));
  }
  TEST_CASE("a suite for each group, over a split") {
    const auto rows = random_rows(300, 8);
    const PerGroup empty{MetricSuite{Auc{}, NormalizedEntropy{}}};
    auto whole = empty, merged = empty;
    feed(whole, rows);
    for (const std::size_t begin : {0, 50, 200}) {
      auto part = empty;
      feed(part, rows.part(begin, begin == 0 ? 50 : begin == 50 ? 200 : 300));
      merged.merge(part.pack());
    }
    const auto expected = whole.values(), values = merged.values();
    REQUIRE(values.size() == 12);
    for (std::size_t i = 0; i < values.size(); ++i) {
      CHECK(values[i].name == expected[i].name);
      CHECK(close(values[i].value, expected[i].value, 1e-12));
    }
  }
  TEST_CASE("a metric that is given with rows in it is emptied") {
    Auc full;
    feed(full, five_rows());
    PerGroup metric{full};
    feed(metric, five_rows());
    CHECK(metric.groups().at(0).size() == 2);
  }
  TEST_CASE("a batch that one group's metric refuses is in no group") {
    PerGroup metric{Ndcg{}};
    feed(metric, {{1, 2}, {1, 2}, {1, 1}, {1, 1}});
    CHECK_THROWS_AS(feed(metric, {{1, 2}, {1, -1}, {1, 1}, {1, 2}}), DataError);
    CHECK(metric.groups().size() == 1);
    CHECK(metric.groups().at(1).size() == 2);
  }
  TEST_CASE("rows without groups, and a state that cannot be one, are refused") {
    PerGroup metric{Ctr{}};
    CHECK_THROWS_AS(metric.update(column({.5}), column({1})), ConfigError);
    CHECK_THROWS_WITH_AS(metric.merge(column({1, 1, 5})),
                         "PerGroup: a packed state has 1 parts; it has its groups' numbers, and one for each group", ShapeError);
    CHECK_THROWS_AS(metric.merge(column({2, 2, 3, 0, 1, 1, 1, 1})), ShapeError);
    CHECK_THROWS_AS(metric.merge(column({2, 2, 2, std::nan(""), 1, .5, 1})), DataError);
  }
}

}  // namespace rookery
