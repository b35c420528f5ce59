// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/rce.hpp>

#include <limits>

#include <rookery/metrics/normalized_entropy.hpp>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("metrics/rce") {
  const std::vector<double> p{.1, .4, .35, .8}, y{0, 0, 1, 1};
  const auto near = [](double value) { return doctest::Approx(value).epsilon(1e-6); };

  TEST_CASE("A45 RCE") {
    const auto rows = five_rows();
    CHECK(value_of(Rce{}, rows) == doctest::Approx(-39.357729).epsilon(1e-7));
    CHECK(unweighted(Rce{}, rows.predictions, rows.labels) == doctest::Approx(-53.246013).epsilon(1e-7));
  }
  TEST_CASE("A45 RCE is 100 (1 - NE) apart from the clamp") {
    const auto rows = five_rows();
    CHECK(100 * (1 - value_of(NormalizedEntropy{}, rows)) == doctest::Approx(-39.357728).epsilon(1e-7));
    CHECK(value_of(Rce{}, rows) == near(100 * (1 - value_of(NormalizedEntropy{}, rows))));
  }
  TEST_CASE("4.2 RCE from probabilities, unweighted and weighted") {
    CHECK(unweighted(Rce{}, p, y) == near(31.863260));
    CHECK(value_of(Rce{}, four_rows()) == near(15.381330));
  }
  TEST_CASE("4.2 RCE from logits") {
    Rce metric;
    metric.update_logits(column(logits_of(p)), column(y));
    CHECK(metric.value() == doctest::Approx(31.863230).epsilon(1e-7));
  }
  TEST_CASE("4.2 RCE with label smoothing") { CHECK(unweighted(Rce{{.label_smoothing = .1}}, p, y) == near(25.786007)); }
  TEST_CASE("4.2 RCE after two updates, and of a batch alone") {
    Rce metric;
    metric.update(column({.1, .4}), column({0, 0}));
    metric.update(column({.35, .8}), column({1, 1}));
    CHECK(metric.value() == near(31.863255));
    CHECK(unweighted(Rce{}, {.1, .4}, {0, 1}) == near(26.303440));
  }
  TEST_CASE("4.2 RCE of perfect, constant, inverted and one-class predictions") {
    CHECK(unweighted(Rce{}, y, y) == near(100));
    CHECK(unweighted(Rce{}, {.5, .5, .5, .5}, y) == doctest::Approx(0));
    CHECK(unweighted(Rce{}, {1, 1, 0, 0}, y) == near(-2118.735));
    CHECK(unweighted(Rce{}, p, {0, 0, 0, 0}) == -std::numeric_limits<double>::infinity());
    CHECK(std::isnan(Rce{}.value()));
  }
  TEST_CASE("a smoothing that means nothing is refused") {
    CHECK_THROWS_WITH_AS(Rce({.label_smoothing = 2}), "Rce: label_smoothing is 2; it lies in [0, 1]", ConfigError);
  }
  TEST_CASE("options survive a reset") {
    Rce metric{{.label_smoothing = .1}};
    feed(metric, five_rows());
    metric.reset();
    CHECK(unweighted(metric, p, y) == near(25.786007));
  }
}

}  // namespace rookery
