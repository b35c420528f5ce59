// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/calibration.hpp>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("metrics/calibration") {
  TEST_CASE("A44 calibration") { CHECK(value_of(Calibration{}, five_rows()) == doctest::Approx(.9172619).epsilon(1e-7)); }
  TEST_CASE("logits count as their probabilities") {
    const auto rows = five_rows();
    Calibration metric;
    metric.update_logits(column(logits_of(rows.predictions)), column(rows.labels), column(rows.weights));
    CHECK(metric.value() == doctest::Approx(.9172619).epsilon(1e-7));
  }
  TEST_CASE("without a positive there is no ratio") {
    CHECK(std::isnan(unweighted(Calibration{}, {.2, .3}, {0, 0})));
    CHECK(std::isnan(Calibration{}.value()));
  }
}

}  // namespace rookery
