// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/threshold.hpp>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("metrics/threshold") {
  TEST_CASE("A46 accuracy, precision and recall at .6") {
    auto rows = five_rows();
    rows.weights = {.3, .2, .5, .8, .7};
    CHECK(value_of(Accuracy{{.threshold = .6}}, rows) == doctest::Approx(.28));
    CHECK(value_of(Precision{{.threshold = .6}}, rows) == doctest::Approx(.5));
    CHECK(value_of(Recall{{.threshold = .6}}, rows) == doctest::Approx(.3888889).epsilon(1e-6));
  }
  TEST_CASE("A46 a positive at the threshold is found, and not missed too: 1 where upstream has .5") {
    CHECK(unweighted(Recall{}, {.5, .5}, {1, 0}) == 1);
    CHECK(unweighted(Precision{}, {.5, .5}, {1, 0}) == .5);
    CHECK(unweighted(Accuracy{}, {.5, .5}, {1, 0}) == .5);
  }
  TEST_CASE("labels in between count by share, logits by their probability") {
    CHECK(unweighted(Accuracy{}, {.9, .1}, {.75, .25}) == .75);
    CHECK(unweighted(Precision{}, {.9, .8, .1}, {.75, .25, 1}) == .5);
    CHECK(unweighted(Recall{}, {.9, .1}, {.75, .25}) == .75);
    Recall of_logits{{.threshold = .75}};
    of_logits.update_logits(column({1, 2}), column({1, 1}));
    CHECK(of_logits.value() == .5);
  }
  TEST_CASE("no row that counts, no value") {
    CHECK(std::isnan(unweighted(Precision{}, {.1, .2}, {1, 0})));
    CHECK(std::isnan(unweighted(Recall{}, {.9, .2}, {0, 0})));
    CHECK(std::isnan(Accuracy{}.value()));
  }
  TEST_CASE("a threshold that is no probability is refused") {
    CHECK_THROWS_WITH_AS(Recall({.threshold = 2}), "recall: threshold is 2; it lies in [0, 1]", ConfigError);
  }
}

}  // namespace rookery
