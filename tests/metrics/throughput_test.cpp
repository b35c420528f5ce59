// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/throughput.hpp>

#include <cmath>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

namespace {

Clock::time_point at_second(double seconds) {
  return Clock::time_point(std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds)));
}

}  // namespace

TEST_SUITE("metrics/throughput") {
  TEST_CASE("samples a second, the warm-up left out") {
    Throughput metric{{.warmup_updates = 2}};
    metric.add(1000, at_second(50));
    metric.add(1000, at_second(90));
    CHECK(std::isnan(metric.value()));
    metric.add(30, at_second(91));
    CHECK(metric.value() == 30);
    metric.add(30, at_second(93));
    CHECK(metric.value() == 20);
    CHECK(metric.total_samples() == 2060);
  }
  TEST_CASE("without a warm-up the first update still only starts the clock") {
    Throughput metric{{.warmup_updates = 0}};
    metric.add(8, at_second(1));
    CHECK(std::isnan(metric.value()));
    metric.add(8, at_second(3));
    CHECK(metric.value() == 4);
  }
  TEST_CASE("only the window counts, and one update at least") {
    Throughput metric{{.warmup_updates = 1, .window_seconds = 10}};
    metric.add(1, at_second(0));
    for (int second = 1; second <= 40; ++second) metric.add(second <= 30 ? 5 : 7, at_second(second));
    CHECK(metric.value() == 7);
    metric.add(100, at_second(140));
    CHECK(metric.value() == 1);
  }
  TEST_CASE("a pause that is named does not count") {
    Throughput metric{{.warmup_updates = 1}};
    metric.add(10, at_second(0));
    metric.add(10, at_second(1));
    metric.resume(at_second(500));
    metric.add(10, at_second(501));
    CHECK(metric.value() == 10);
  }
  TEST_CASE("ranks add up, the slowest sets the time") {
    const auto rank = [](std::int64_t samples, double seconds) {
      Throughput metric{{.warmup_updates = 1}};
      metric.add(7, at_second(0));
      metric.add(samples, at_second(seconds));
      return metric;
    };
    Throughput whole;
    whole.merge(rank(100, 4).pack());
    whole.merge(rank(50, 5).pack());
    whole.merge(Throughput().pack());
    CHECK(whole.value() == 30);
    CHECK(whole.total_samples() == 164);
    whole.reset();
    CHECK(std::isnan(whole.value()));
    CHECK_THROWS_AS(whole.merge(cases::column({1})), ShapeError);
  }
  TEST_CASE("as a metric it counts rows on the real clock") {
    Throughput metric{{.warmup_updates = 0}};
    for (int i = 0; i < 3; ++i) metric.update(cases::column({.1, .2}), {});
    CHECK(metric.total_samples() == 6);
    CHECK(metric.value() > 0);
  }
  TEST_CASE("options that mean nothing are refused") {
    CHECK_THROWS_AS(Throughput({.warmup_updates = -1}), ConfigError);
    CHECK_THROWS_WITH_AS(Throughput({.window_seconds = 0}), "Throughput: window_seconds is 0; it is more than 0", ConfigError);
  }
}

}  // namespace rookery
