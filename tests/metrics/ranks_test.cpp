// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Every metric that there is, merged over ranks, is one process's on all rows: on threads and on processes, however rows are spread.

#include <ATen/ops/stack.h>

#include <rookery/metrics/auc.hpp>
#include <rookery/metrics/auprc.hpp>
#include <rookery/metrics/calibration.hpp>
#include <rookery/metrics/ctr.hpp>
#include <rookery/metrics/gauc.hpp>
#include <rookery/metrics/histogram_auc.hpp>
#include <rookery/metrics/log_loss.hpp>
#include <rookery/metrics/merge.hpp>
#include <rookery/metrics/ndcg.hpp>
#include <rookery/metrics/normalized_entropy.hpp>
#include <rookery/metrics/nrce.hpp>
#include <rookery/metrics/per_group.hpp>
#include <rookery/metrics/per_task.hpp>
#include <rookery/metrics/rank_of_positives.hpp>
#include <rookery/metrics/rce.hpp>
#include <rookery/metrics/regression.hpp>
#include <rookery/metrics/regression_auc.hpp>
#include <rookery/metrics/suite.hpp>
#include <rookery/metrics/threshold.hpp>
#include <rookery/metrics/throughput.hpp>
#include <rookery/metrics/windowed.hpp>
#include <rookery/topology/gloo.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "metrics/cases.hpp"
#include "support/processes.hpp"
#include "support/test.hpp"

namespace rookery {

using namespace cases;

namespace {

/// All metrics, in groups and windows too. Not StreamingNrce, whose value depends on the order of rows, on one process as well.
auto every_metric() {
  return MetricSuite{
      Auc{}, Auprc{}, Calibration{}, Ctr{}, PredictedCtr{}, PositiveCount{}, Gauc{}, HistogramAuc{}, LogLoss{}, Ndcg{{.k = 5}},
      NormalizedEntropy{}, Nrce{}, MeanRank{}, ReciprocalRank{}, HitAtK{3}, Rce{{.label_smoothing = .1}}, Mse{}, Rmse{}, Mae{}, RSquared{},
      Rauc{}, Xauc{}, Accuracy{}, Precision{}, Recall{}, PerGroup{MetricSuite{Auc{}, LogLoss{}}}, GroupMean{Auc{}}, GroupMean{Mse{}},
      Windowed{Auc{}}, Windowed{MetricSuite{LogLoss{}, Mae{}}, {.name = "last"}}, Windowed{PerGroup{Calibration{}}, {.name = "now"}}};
}
using Every = decltype(every_metric());
auto both_tasks() { return PerTask{{"click", "like"}, every_metric()}; }

/// Rows of a seed, cut for ranks, of which about one in three has none.
struct Spread {
  Rows rows;
  std::vector<std::size_t> cuts;
};
Spread spread(std::uint64_t seed, int ranks) {
  std::mt19937_64 draw(seed);
  const auto below = [&](std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n)(draw); };
  Spread one{random_rows(40 + below(200), seed), {0}};
  for (int rank = 1; rank < ranks; ++rank) one.cuts.push_back(below(2) == 0 ? one.cuts.back() : below(one.rows.size()));
  std::sort(one.cuts.begin(), one.cuts.end());
  one.cuts.push_back(one.rows.size());
  return one;
}

/// Feeds rows [begin, end) in two batches, the first of probabilities or logits as `logits` says.
void feed_part(Every& metrics, const Rows& rows, std::size_t begin, std::size_t end, bool logits) {
  for (const auto& [from, to] : {std::pair{begin, (begin + end) / 2}, std::pair{(begin + end) / 2, end}}) {
    const auto part = rows.part(from, to);
    if (logits)
      metrics.update_logits(column(logits_of(part.predictions)).clamp(-30, 30), column(part.labels), column(part.weights),
                            id_column(part.groups));
    else feed(metrics, part);
  }
}
template <class Tasks> void feed_tasks(Tasks& tasks, const Rows& rows) {
  const auto predictions = column(rows.predictions), labels = column(rows.labels);
  tasks.update(at::stack({predictions, predictions.mul(.5)}, 1), at::stack({labels, 1 - labels}, 1), column(rows.weights),
               id_column(rows.groups));
}

/// What differs between values; empty when none does.
std::string differing(const std::vector<MetricValue>& found, const std::vector<MetricValue>& expected, double tolerance) {
  if (found.size() != expected.size()) return concat(found.size(), " values, not ", expected.size(), "; ");
  std::string wrong;
  for (std::size_t i = 0; i < found.size(); ++i)
    if (found[i].name != expected[i].name || !close(found[i].value, expected[i].value, tolerance))
      wrong += concat(found[i].name, " is ", found[i].value, ", not ", expected[i].value, "; ");
  return wrong;
}

/// What a topology's merged metrics differ in from one process's; empty when nothing does.
template <class Topology> std::string check_metrics(Topology& topology, std::uint64_t seed) {
  const auto [rows, cuts] = spread(seed, topology.world_size());
  const auto rank = static_cast<std::size_t>(topology.rank());
  const auto part = rows.part(cuts[rank], cuts[rank + 1]);
  std::string wrong;
  for (const bool logits : {false, true}) {
    auto whole = every_metric(), own = every_metric();
    feed_part(whole, rows, 0, rows.size(), logits);
    feed_part(own, rows, cuts[rank], cuts[rank + 1], logits);
    wrong += differing(merged(own, topology).values(), whole.values(), 1e-11);
  }
  auto whole = both_tasks(), own = both_tasks();
  feed_tasks(whole, rows);
  if (part.size() > 0) feed_tasks(own, part);
  wrong += differing(merged(own, topology).values(), whole.values(), 1e-11);
  Throughput counted;
  counted.update(column(part.predictions), {});
  if (merged(counted, topology).total_samples() != static_cast<std::int64_t>(rows.size())) wrong += "not all samples are counted; ";
  return wrong.empty() ? "" : concat(wrong, "seed ", seed, " on ", topology.world_size(), " ranks\n");
}

[[maybe_unused]] const bool listed = roles().emplace("metrics", +[] {
  return play([](Gloo& topology) {
    std::string wrong;
    for (std::uint64_t seed = 1; seed <= 10; ++seed) wrong += check_metrics(topology, seed);
    return wrong;
  });
}).second;

}  // namespace

TEST_SUITE("metrics/ranks") {
  TEST_CASE("law: every metric merged over threads is one process's on all rows, ranks without rows included") {
    for (const int ranks : {1, 2, 3, 4, 8})
      for (std::uint64_t seed = 1; seed <= 6; ++seed) {
        std::vector<std::string> wrong(static_cast<std::size_t>(ranks));
        Threads::run(ranks, [&](Threads topology) { wrong[static_cast<std::size_t>(topology.rank())] = check_metrics(topology, seed); });
        for (const auto& one : wrong) CHECK(one == "");
      }
  }

  TEST_CASE("law: so it is merged over processes on Gloo") {
    for (const int ranks : {2, 3}) {
      const auto ended = run_processes("metrics", ranks);
      CHECK_MESSAGE(ended.status == 0, ended.said);
    }
  }

  TEST_CASE("no rows on any rank give NaN as on one process, and zero where things are counted") {
    auto empty = every_metric();
    Threads::run(3, [&](Threads topology) { CHECK(differing(merged(every_metric(), topology).values(), empty.values(), 0) == ""); });
  }

  TEST_CASE("all ranks have the same bits") {
    const auto [rows, cuts] = spread(3, 4);
    std::vector<std::vector<MetricValue>> found(4);
    Threads::run(4, [&, &rows = rows, &cuts = cuts](Threads topology) {
      const auto rank = static_cast<std::size_t>(topology.rank());
      auto own = every_metric();
      feed_part(own, rows, cuts[rank], cuts[rank + 1], false);
      found[rank] = merged(own, topology).values();
    });
    for (const auto& one : found) CHECK(differing(one, found[0], 0) == "");
    const auto finite = std::count_if(found[0].begin(), found[0].end(), [](const MetricValue& one) { return std::isfinite(one.value); });
    CHECK(finite > 35);                                      // it is numbers that agree
  }

  TEST_CASE("the streaming NRCE of one rank's rows is one process's; spread over ranks it is scaled by each rank's own means") {
    const auto rows = random_rows(60, 5);
    StreamingNrce whole;
    feed(whole, rows);
    Threads::run(2, [&](Threads topology) {
      StreamingNrce own;
      if (topology.rank() == 1) feed(own, rows);
      CHECK(close(merged(own, topology).value(), whole.value(), 1e-13));
    });
  }
}

}  // namespace rookery
