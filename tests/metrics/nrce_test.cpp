// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/nrce.hpp>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("metrics/nrce") {
  const std::vector<double> p{.1, .4, .35, .8}, half{.05, .2, .175, .4}, y{0, 0, 1, 1};
  const auto near = [](double value) { return doctest::Approx(value).epsilon(1e-6); };

  TEST_CASE("4.2 NRCE in one update, and of predictions scaled by a half") {
    CHECK(unweighted(Nrce{}, p, y) == near(39.380558));
    CHECK(unweighted(Nrce{}, half, y) == near(39.380558));
    CHECK(unweighted(Rce{}, half, y) == doctest::Approx(-5.810750).epsilon(1e-5));   // of float32
    CHECK(unweighted(StreamingNrce{}, p, y) == near(39.380558));
    CHECK(unweighted(StreamingNrce{}, half, y) == near(39.380558));
  }
  TEST_CASE("4.2 NRCE in two updates, the exact one the same, the streaming one as upstream") {
    const auto twice = [](auto metric, const Rows& first, const Rows& second) {
      feed(metric, first);
      feed(metric, second);
      return metric.value();
    };
    const Rows low{{.1, .4}, {0, 0}, {1, 1}}, high{{.35, .8}, {1, 1}, {1, 1}};
    const Rows even{{.1, .35}, {0, 1}, {1, 1}}, odd{{.4, .8}, {0, 1}, {1, 1}};
    CHECK(twice(StreamingNrce{}, low, high) == near(67.964172));
    CHECK(twice(StreamingNrce{}, even, odd) == near(56.838371));
    CHECK(twice(Nrce{}, low, high) == near(39.380558));
    CHECK(twice(Nrce{}, even, odd) == near(39.380558));
  }
  TEST_CASE("of calibrated predictions it is RCE") {
    const std::vector<double> calibrated{.2, .4, .6, .8};
    CHECK(unweighted(Nrce{}, calibrated, y) == near(unweighted(Rce{}, calibrated, y)));
    CHECK(unweighted(Nrce{{.label_smoothing = .1}}, calibrated, y) == near(unweighted(Rce{{.label_smoothing = .1}}, calibrated, y)));
  }
  TEST_CASE("nothing to say without weight, and of one class what RCE says") {
    CHECK(std::isnan(Nrce{}.value()));
    CHECK(std::isnan(StreamingNrce{}.value()));
    CHECK(unweighted(Nrce{}, p, {1, 1, 1, 1}) == -std::numeric_limits<double>::infinity());
    CHECK_THROWS_WITH_AS(Nrce({.label_smoothing = 2}), "Nrce: label_smoothing is 2; it lies in [0, 1]", ConfigError);
    CHECK_THROWS_AS(StreamingNrce({.label_smoothing = -1}), ConfigError);
  }
}

}  // namespace rookery
