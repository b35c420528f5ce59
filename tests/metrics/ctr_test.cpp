// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/ctr.hpp>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("metrics/ctr") {
  TEST_CASE("A44 CTR") { CHECK(value_of(Ctr{}, five_rows()) == doctest::Approx(.7058824).epsilon(1e-7)); }
  TEST_CASE("the predicted rate over the rate is the calibration of A44") {
    const double ratio = value_of(PredictedCtr{}, five_rows()) / value_of(Ctr{}, five_rows());
    CHECK(ratio == doctest::Approx(.9172619).epsilon(1e-7));
    PredictedCtr of_logits;
    of_logits.update_logits(column({0, 800}), column({0, 1}));
    CHECK(of_logits.value() == .75);
  }
  TEST_CASE("the count is that of positives, by weight") {
    CHECK(unweighted(PositiveCount{}, {.1, .2, .3}, {1, 0, 1}) == 2);
    CHECK(value_of(PositiveCount{}, five_rows()) == doctest::Approx(1.68));
    CHECK(PositiveCount{}.value() == 0);
  }
  TEST_CASE("no weight, no rate") {
    CHECK(std::isnan(Ctr{}.value()));
    CHECK(std::isnan(PredictedCtr{}.value()));
  }
}

}  // namespace rookery
