// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/log_loss.hpp>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("metrics/log_loss") {
  TEST_CASE("A44 logloss, in bits") {
    const LogLoss metric{{.base = LogBase::two}};
    CHECK(metric.name() == "logloss_base2");
    CHECK(value_of(metric, five_rows()) == doctest::Approx(1.2179601).epsilon(1e-7));
  }
  TEST_CASE("the default is in nats, as a BCE loss is") {
    CHECK(LogLoss{}.name() == "logloss");
    CHECK(value_of(LogLoss{}, five_rows()) == doctest::Approx(1.2179601 * std::log(2.)).epsilon(1e-7));
  }
  TEST_CASE("the value is the formula's in float64") {
    const auto rows = random_rows(2000, 5, true);
    double ce = 0, total = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const double p = std::clamp(rows.predictions[i], 1e-12, 1 - 1e-12), y = rows.labels[i], w = rows.weights[i];
      ce -= w * (y * std::log(p) + (1 - y) * std::log(1 - p));
      total += w;
    }
    CHECK(close(value_of(LogLoss{}, rows), ce / total, 1e-13));
  }
  TEST_CASE("from logits it is BCE with logits") {
    LogLoss metric;
    metric.update_logits(column({0, 50, -50}), column({1, 0, 0}));
    CHECK(metric.value() == doctest::Approx((std::log(2.) + 50) / 3).epsilon(1e-14));
  }
  TEST_CASE("no weight, no value") { CHECK(std::isnan(LogLoss{}.value())); }
}

}  // namespace rookery
