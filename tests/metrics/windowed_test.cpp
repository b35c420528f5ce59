// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <rookery/metrics/windowed.hpp>

#include <rookery/metrics/auc.hpp>
#include <rookery/metrics/histogram_auc.hpp>
#include <rookery/metrics/log_loss.hpp>
#include <rookery/metrics/merge.hpp>
#include <rookery/metrics/per_group.hpp>
#include <rookery/metrics/suite.hpp>
#include <rookery/topology/threads.hpp>

#include "metrics/cases.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

TEST_SUITE("metrics/windowed") {
  TEST_CASE("A50 a window of 100 keeps 20 batches of 5, and their rows alone") {
    Windowed metric{Auc{}, {.window_size = 100}};
    const auto rows = random_rows(5 * 50, 4);
    for (std::size_t batch = 0; batch < 50; ++batch) {
      feed(metric, rows.part(5 * batch, 5 * batch + 5));
      CHECK(metric.batches() == std::min<std::int64_t>(static_cast<std::int64_t>(batch) + 1, 20));
    }
    CHECK(metric.rows() == 100);
    CHECK(metric.name() == "window_auc");
    CHECK(metric.value() == value_of(Auc{}, rows.part(150, 250)));
    CHECK(metric.window().size() == 100 - 14);   // one row in seven weighs nothing
  }
  TEST_CASE("A50 whole batches leave: those that do not fit together, and never the last") {
    Windowed metric{LogLoss{}, {.window_size = 10}};
    const auto rows = random_rows(40, 5);
    feed(metric, rows.part(0, 6));
    feed(metric, rows.part(6, 10));
    CHECK(metric.rows() == 10);
    feed(metric, rows.part(10, 11));
    CHECK(metric.rows() == 5);
    feed(metric, rows.part(11, 40));
    CHECK(metric.batches() == 1);
    CHECK(close(metric.value(), value_of(LogLoss{}, rows.part(11, 40)), 1e-13));
    feed(metric, rows.part(0, 0));
    CHECK(metric.rows() == 29);
    metric.reset();
    CHECK(metric.rows() == 0);
    CHECK(std::isnan(metric.value()));
  }
  TEST_CASE("A50 ranks share the window, rounded up") {
    Windowed metric{LogLoss{}, {.window_size = 10, .world_size = 3}};
    const auto rows = random_rows(30, 5);
    for (std::size_t i = 0; i < 30; ++i) feed(metric, rows.part(i, i + 1));
    CHECK(metric.rows() == 4);
  }
  TEST_CASE("a long window keeps a state for each slice of a hundredth, not for each batch") {
    Windowed metric{HistogramAuc{{.bins = 64}}};
    const auto rows = random_rows(256, 3);
    for (int batch = 0; batch < 4000; ++batch) feed(metric, rows);
    CHECK(metric.rows() == 4000 * 256);
    CHECK(metric.batches() == 4000);
    CHECK(metric.slices() == 11);   // 390 batches each
    CHECK(close(metric.value(), value_of(HistogramAuc{{.bins = 64}}, rows), 1e-12));
  }
  TEST_CASE("slices leave whole, and the window is the latest rows alone, short by less than a slice and a batch") {
    Windowed metric{Auc{}, {.window_size = 1000}};
    const auto rows = random_rows(3000, 8);
    for (std::size_t end = 3; end <= 3000; end += 3) {
      feed(metric, rows.part(end - 3, end));
      CHECK(metric.rows() <= 1000);
      CHECK(metric.rows() > (end < 1000 ? static_cast<std::int64_t>(end) - 1 : 1000 - 12));
    }
    CHECK(metric.slices() <= 112);   // of 9 rows
    CHECK(metric.value() == value_of(Auc{}, rows.part(3000 - static_cast<std::size_t>(metric.rows()), 3000)));
  }
  TEST_CASE("batches of more than half a slice are a slice each, and there are at most 202") {
    Windowed metric{LogLoss{}, {.window_size = 1000}};
    const auto rows = random_rows(6000, 8);
    for (std::size_t begin = 0; begin < 6000; begin += 6) feed(metric, rows.part(begin, begin + 6));
    CHECK(metric.slices() == 166);
    CHECK(metric.batches() == 166);
    Windowed uneven{LogLoss{}, {.window_size = 1000}};
    for (std::size_t begin = 0; begin < 6000; begin += 11) {
      feed(uneven, rows.part(begin, std::min<std::size_t>(begin + 1, 6000)));
      feed(uneven, rows.part(begin + 1, std::min<std::size_t>(begin + 11, 6000)));
    }
    CHECK(uneven.slices() <= 202);
  }
  TEST_CASE("two windows of one suite have two names") {
    const MetricSuite metrics{Windowed{LogLoss{}}, Windowed{LogLoss{}, {.window_size = 100, .name = "short"}},
                              Windowed{MetricSuite{Auc{}}, {.name = "w"}}};
    const auto values = metrics.values();
    CHECK(values[0].name == "window_logloss");
    CHECK(values[1].name == "short_logloss");
    CHECK(values[2].name == "w_auc");
  }
  TEST_CASE("probabilities and logits are not ranked together across slices, nor within groups of them") {
    const auto rows = five_rows();
    const auto logits = column(logits_of(rows.predictions)), labels = column(rows.labels), groups = id_column(rows.groups);
    Windowed metric{Auc{}, {.window_size = 5}};
    feed(metric, rows);
    CHECK_THROWS_AS(metric.update_logits(logits, labels), ConfigError);
    CHECK(metric.batches() == 1);
    Windowed grouped{PerGroup{Auc{}}};
    feed(grouped, rows);
    CHECK_THROWS_AS(grouped.update_logits(logits, labels, {}, groups.add(7)), ConfigError);
    metric.reset();
    metric.update_logits(logits, labels);
    CHECK(metric.rows() == 5);
    Windowed losses{LogLoss{}};
    feed(losses, rows);
    CHECK_NOTHROW(losses.update_logits(logits, labels));
  }
  TEST_CASE("over ranks it is the union of their windows, and a merged window goes on") {
    const auto rows = random_rows(60, 6);
    Auc expected;
    feed(expected, rows.part(20, 30));
    feed(expected, rows.part(50, 60));
    Threads::run(2, [&](Threads topology) {
      Windowed metric{Auc{}, {.window_size = 20, .world_size = 2}};
      const auto begin = static_cast<std::size_t>(30 * topology.rank());
      for (std::size_t batch = 0; batch < 6; ++batch) feed(metric, rows.part(begin + 5 * batch, begin + 5 * batch + 5));
      auto both = merged(metric, topology);
      CHECK(both.value() == expected.value());
      CHECK(both.rows() == 20);
      feed(both, rows.part(0, 5));
      CHECK(both.rows() == 5);
      CHECK(metric.rows() == 10);
    });
  }
  TEST_CASE("lifetime and window stand side by side, and a suite has a window as one") {
    MetricSuite metrics{LogLoss{}, Windowed{MetricSuite{LogLoss{}, Auc{}}, {.window_size = 5}}};
    const auto rows = random_rows(20, 7);
    feed(metrics, rows.part(0, 10));
    feed(metrics, rows.part(10, 20));
    const auto values = metrics.values();
    REQUIRE(values.size() == 3);
    CHECK(values[0].name == "logloss");
    CHECK(close(values[0].value, value_of(LogLoss{}, rows), 1e-13));
    CHECK(values[1].name == "window_logloss");
    CHECK(close(values[1].value, value_of(LogLoss{}, rows.part(10, 20)), 1e-13));
    CHECK(values[2].name == "window_auc");
    CHECK(values[2].value == value_of(Auc{}, rows.part(10, 20)));
  }
  TEST_CASE("sizes that mean nothing, and a state that cannot be one, are refused") {
    CHECK_THROWS_WITH_AS((Windowed{Auc{}, {.window_size = 0}}), "Windowed: window_size is 0; it is 1 or more", ConfigError);
    CHECK_THROWS_AS((Windowed{Auc{}, {.world_size = 0}}), ConfigError);
    Windowed metric{Auc{}};
    CHECK_THROWS_AS(metric.merge(column({2, 2, 0, 1, 1})), ShapeError);
    CHECK_THROWS_AS(metric.merge(column({1, 0})), ShapeError);
    for (const double count : {-1., 1e30, std::nan("")}) CHECK_THROWS_AS(metric.merge(column({2, 1, 0, count})), DataError);
  }
}

}  // namespace rookery
