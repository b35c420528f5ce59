// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/gauc.hpp>

#include <limits>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("metrics/gauc") {
  const std::vector<double> p{.3, .9, .1, .8, .2, .8, .7, .6, .5, .5}, y{1, 1, 1, 0, 0, 1, 0, 1, 1, 0}, ones(10, 1.);
  const std::vector<std::int64_t> sessions{4, 4, 2, 2, 2, 9, 9, 9, 7, 7};
  const auto gauc = [](const Rows& rows) {
    Gauc metric{{.no_session = .5}};
    feed(metric, rows);
    return std::pair{metric.value(), metric.sessions()};
  };

  TEST_CASE("A47 GAUC of two sessions") {
    CHECK(gauc({{.9, .8, .7, .6, .5}, {1, 0, 1, 1, 0}, {1, 1, 1, 1, 1}, {0, 0, 0, 1, 1}}) == std::pair{.75, std::int64_t{2}});
  }
  TEST_CASE("A47 GAUC leaves out sessions of one class and of one prediction") {
    CHECK(gauc({p, y, ones, sessions}) == std::pair{.25, std::int64_t{2}});
  }
  TEST_CASE("A47 GAUC leaves out rows of weight zero") {
    CHECK(gauc({p, y, {1, 1, 1, 0, 1, 1, 1, 0, 1, 1}, sessions}) == std::pair{.5, std::int64_t{2}});
  }
  TEST_CASE("A47 GAUC of equal labels") {
    CHECK(gauc({p, ones, ones, sessions}) == std::pair{.5, std::int64_t{0}});
    CHECK(gauc({p, std::vector<double>(10, 0.), ones, sessions}) == std::pair{.5, std::int64_t{0}});
    CHECK(std::isnan(value_of(Gauc{}, {p, ones, ones, sessions})));
  }
  TEST_CASE("pairs count by weight, ties half") {
    CHECK(value_of(Gauc{}, {{.9, .5, .5, .1}, {0, 1, 0, 0}, {1, 7, 2, 3}, {1, 1, 1, 1}}) == doctest::Approx((3 + .5 * 2) / 6));
  }
  TEST_CASE("sessions may be spread over batches, and have any number for a name") {
    constexpr auto far = std::numeric_limits<std::int64_t>::min(), near = far + 1;
    Gauc metric;
    feed(metric, {{.9, .7}, {1, 0}, {1, 1}, {far, near}});
    feed(metric, {{.8, .8}, {0, 1}, {1, 1}, {far, near}});
    CHECK(metric.value() == 1);
    CHECK(metric.sessions() == 2);
    Gauc merged;
    merged.merge(metric.pack());
    CHECK(merged.sessions() == 2);
  }
  TEST_CASE("rows without sessions are refused") {
    CHECK_THROWS_WITH_AS(unweighted(Gauc{}, {.5}, {1}),
                         "Samples: a metric of groups or sessions is fed without them; update(predictions, labels, weights, groups) takes "
                         "one integer a row",
                         ConfigError);
    Gauc metric;
    CHECK_THROWS_WITH_AS(metric.merge(column({1, 2, 3})), "RowMetric: a packed state has 3 numbers; rows have 5 each", ShapeError);
  }
}

}  // namespace rookery
