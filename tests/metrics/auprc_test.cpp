// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/auprc.hpp>

#include <algorithm>
#include <set>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

/// The definition: the precision of each threshold times the recall that it adds.
double by_threshold(const Rows& rows) {
  const std::set<double, std::greater<>> thresholds(rows.predictions.begin(), rows.predictions.end());
  double positives = 0, area = 0, recall = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) positives += rows.labels[i] > .5 ? rows.weights[i] : 0;
  for (const double threshold : thresholds) {
    double found = 0, all = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows.predictions[i] < threshold) continue;
      all += rows.weights[i];
      found += rows.labels[i] > .5 ? rows.weights[i] : 0;
    }
    if (all > 0) area += (found / positives - recall) * (found / all);
    recall = found / positives;
  }
  return area;
}

}  // namespace

TEST_SUITE("metrics/auprc") {
  TEST_CASE("A43 AUPRC") { CHECK(value_of(Auprc{}, five_rows()) == doctest::Approx(.8290927).epsilon(1e-7)); }
  TEST_CASE("the value is the definition's on random weighted rows with ties") {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      const auto rows = random_rows(20 + 25 * seed, seed, seed % 2 == 1);
      CHECK(close(value_of(Auprc{}, rows), by_threshold(rows), 1e-12));
    }
  }
  TEST_CASE("perfect is 1, a constant is the share of positives, the order of rows does not matter") {
    CHECK(unweighted(Auprc{}, {.9, .8, .1, 0}, {1, 1, 0, 0}) == 1);
    CHECK(unweighted(Auprc{}, {.5, .5, .5, .5}, {1, 0, 0, 0}) == .25);
    CHECK(unweighted(Auprc{}, {.5, .7, .5, .5}, {0, 0, 0, 1}) == unweighted(Auprc{}, {.5, .5, .5, .7}, {1, 0, 0, 0}));
  }
  TEST_CASE("without a positive there is no value, or the one of the options") {
    CHECK(std::isnan(unweighted(Auprc{}, {.5, .6}, {0, 0})));
    CHECK(unweighted(Auprc{{.no_positive = 0}}, {.5, .6}, {0, 0}) == 0);
    CHECK(unweighted(Auprc{}, {.5, .6}, {1, 1}) == 1);
  }
}

}  // namespace rookery
