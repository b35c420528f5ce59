// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/stable_mean.hpp>

#include <cmath>

#include "support/test.hpp"

namespace rookery {

namespace {

StableMean mean_of(const std::vector<std::pair<double, double>>& values) {
  StableMean mean;
  for (const auto& [value, weight] : values) mean.add(value, weight);
  return mean;
}

}  // namespace

TEST_SUITE("metrics/stable_mean") {
  TEST_CASE("4.2 StableMean of values, of weighted values, and near the largest number") {
    CHECK(mean_of({{1, 1}, {2, 1}, {3, 1}}).mean() == 2);
    CHECK(mean_of({{1, 1}, {2, 2}, {3, 3}}).mean() == doctest::Approx(2.3333333));
    CHECK(mean_of({{3e38, 1}, {3e38, 1}, {3e38, 1}}).mean() == 3e38);
    CHECK(mean_of({{1.5e308, 1}, {1.5e308, 1}, {1.5e308, 1}}).mean() == 1.5e308);
    CHECK(std::isnan(mean_of({{4, 0}}).mean()));
    CHECK(std::isnan(StableMean().mean()));
  }
  TEST_CASE("4.2 StableMean merge") {
    auto merged = mean_of({{2, 3}});
    merged.merge(mean_of({{5, 1}}));
    CHECK(merged.mean() == 2.75);
    CHECK(merged.weight() == 4);
    StableMean first;
    first.merge(mean_of({{5, 1}}));
    CHECK(first.mean() == 5);
    CHECK(first.weight() == 1);
  }
  TEST_CASE("a weight of zero adds nothing, before and after others") {
    CHECK(mean_of({{7, 0}, {1, 2}, {9, 0}}).mean() == 1);
  }
  TEST_CASE("StableSpread is the squared distance from the mean, in parts or whole, far from zero too") {
    for (const double shift : {0., 1e8}) {
      StableSpread whole, left, right;
      for (const auto& [value, weight] : std::vector<std::pair<double, double>>{{1, 1}, {2, 2}, {4, 0}, {7, 1}}) {
        whole.add(value + shift, weight);
        (value < 3 ? left : right).add(value + shift, weight);
      }
      CHECK(whole.mean() == shift + 3);
      CHECK(whole.weight() == 4);
      CHECK(whole.squares() == doctest::Approx(22));   // 4 + 2 + 16
      left.add(right.mean(), right.weight(), right.squares());
      CHECK(left.squares() == doctest::Approx(22));
    }
    CHECK(StableSpread().squares() == 0);
  }
}

}  // namespace rookery
