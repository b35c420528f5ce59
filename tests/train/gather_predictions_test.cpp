// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

#include <rookery/train/gather_predictions.hpp>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <rookery/metrics/auc.hpp>
#include <rookery/metrics/log_loss.hpp>
#include <rookery/metrics/suite.hpp>
#include <rookery/sharding/sharding_policy.hpp>
#include <rookery/topology/local.hpp>
#include <rookery/topology/threads.hpp>
#include <rookery/train/evaluate.hpp>

#include "support/equivalence.hpp"
#include "support/processes.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

using cases::Round;
using cases::Trial;
using cases::TrialBatch;

/// What a trial's model predicts before any step.
struct Found {
  at::Tensor predictions, labels;                            // [N]
  double auc = 0, log_loss = 0;
};
template <class Topology> Found predict(Topology& topology, const Trial& trial, const std::vector<Round>& rounds) {
  cases::TrialModel declared{.bags = trial.bags,
                             .weighted = {trial.weighted, {.is_weighted = true}},
                             .sequences = cases::sequence_tables(trial.sequences),
                             .over = {},
                             .position = Parameter({8}, Uniform{1}, 0, trial.dtype),
                             .repeats = trial.repeats};
  const auto width = 2 * declared.bags.width() + declared.weighted.width() + declared.sequences.width();
  declared.over = Mlp(3 + width, {6, 1}, FinalActivation::none, trial.dtype);
  const auto placement = Topology::is_distributed ? trial.placement : ShardingOptions{.seed = trial.placement.seed};
  const ShardingPolicy<Topology> sharding(topology, placement);
  auto model = sharding.apply(ModelAndLoss<cases::TrialModel, Bce, TrialBatch>{std::move(declared), {}});
  std::vector<TrialBatch> own;
  std::vector<at::Tensor> labels;
  for (const auto& round : rounds) {
    const auto rank = static_cast<std::size_t>(topology.rank());
    own.push_back(Topology::is_distributed ? slice(round.batch, round.cuts[rank], round.cuts[rank + 1]) : round.batch);
    labels.push_back(own.back().labels);
  }
  const auto metrics = evaluate(model, own, MetricSuite{Auc{}, LogLoss{}});
  return {gather_predictions(model, own), gather_rows(topology, at::cat(labels)), metrics.template get<Auc>().value(),
          metrics.template get<LogLoss>().value()};
}

/// Where the rows of all ranks stand in the batches one behind the other, in the order in which they are gathered.
at::Tensor order_of(const std::vector<Round>& rounds, int ranks) {
  std::vector<at::Tensor> parts{at::empty({0}, at::kLong)};
  for (std::size_t rank = 0; rank < static_cast<std::size_t>(ranks); ++rank) {
    std::int64_t before = 0;
    for (const auto& round : rounds) {
      parts.push_back(at::arange(before + round.cuts[rank], before + round.cuts[rank + 1], at::kLong));
      before += round.batch.size();
    }
  }
  return at::cat(parts);                                                                     // [N]
}

/// What differs between a topology and one process; empty when nothing does.
template <class Topology> std::string check_predictions(Topology& topology, const Trial& trial) {
  const auto rounds = cases::draw_rounds(trial);
  Local local;
  const auto expected = predict(local, trial, rounds), found = predict(topology, trial, rounds);
  const auto order = order_of(rounds, topology.world_size());
  const auto allowed = cases::tolerance(trial.dtype);
  std::string wrong;
  if (!at::equal(found.labels, expected.labels.index_select(0, order))) wrong += "labels are in another order; ";
  if (const double gap = cases::difference(found.predictions, expected.predictions.index_select(0, order)); gap > allowed)
    wrong += concat("predictions differ by ", gap, "; ");
  if (!(std::abs(found.auc - expected.auc) <= allowed || (std::isnan(found.auc) && std::isnan(expected.auc))))
    wrong += concat("AUC is ", found.auc, ", not ", expected.auc, "; ");
  if (!(std::abs(found.log_loss - expected.log_loss) <= allowed * expected.log_loss)) wrong += "log loss differs; ";
  return wrong.empty() ? "" : concat(wrong, "seed ", trial.seed, " on ", trial.ranks, " ranks");
}

[[maybe_unused]] const bool listed = cases::roles().emplace("predictions", +[] {
  return cases::play([](Gloo& topology) {
    std::string wrong;
    for (std::uint64_t seed = 1; seed <= 8; ++seed) wrong += check_predictions(topology, cases::draw_trial(seed, topology.world_size()));
    return wrong;
  });
}).second;

/// A model without lookups: predictions of another form, and no exchange in a pass.
struct Columns {
  at::Tensor predictions;                                    // [B, 2]
};
struct Rows {
  at::Tensor values;                                         // [B, 2]
  std::int64_t size() const { return values.size(0); }
};
struct Echo {
  static constexpr auto members() { return rookery::members(); }
  Columns forward(const Rows& batch) { return {batch.values}; }
};
struct Nothing {
  static constexpr bool divides = false;
  at::Tensor operator()(const Columns&, const Rows&) const { return at::zeros({}); }
};

}  // namespace

TEST_SUITE("train/gather_predictions") {
  TEST_CASE("law: predictions of all ranks are one process's in rank order, and so are metrics, under random plans with empty batches") {
    for (std::uint64_t seed = 1; seed <= 25; ++seed) {
      const auto trial = cases::draw_trial(seed, 0);
      std::vector<std::string> wrong(static_cast<std::size_t>(trial.ranks));
      Threads::run(trial.ranks, [&](Threads topology) {
        wrong[static_cast<std::size_t>(topology.rank())] = check_predictions(topology, trial);
      }, {.local_world_size = trial.local_world_size});
      for (const auto& one : wrong) CHECK(one == "");
    }
  }

  TEST_CASE("law: so they are on processes over Gloo") {
    for (const int ranks : {2, 3}) {
      const auto ended = cases::run_processes("predictions", ranks);
      CHECK_MESSAGE(ended.status == 0, ended.said);
    }
  }

  TEST_CASE("a rank without any batch takes part, whatever the form of the predictions; a batch a rank") {
    for (const int without : {0, 1, 2})
      Threads::run(3, [&](Threads topology) {
        auto model = maybe_shard_model(ModelAndLoss<Echo, Nothing, Rows>{{}, {}}, topology);
        std::vector<Rows> batches;
        for (int b = 0; b < topology.rank() + 1 && topology.rank() != without; ++b)
          batches.push_back({at::full({b, 2}, 10. * topology.rank() + b)});
        const auto all = gather_predictions(model, batches);                                 // [N, 2]
        std::vector<double> expected;                                                        // of rank 0 a batch without rows
        if (without != 1) expected.insert(expected.end(), {11});
        if (without != 2) expected.insert(expected.end(), {21, 22, 22});
        REQUIRE(all.sizes() == at::IntArrayRef({static_cast<std::int64_t>(expected.size()), 2}));
        for (std::size_t i = 0; i < expected.size(); ++i) CHECK(all[static_cast<std::int64_t>(i)][1].item<double>() == expected[i]);
      });
  }

  TEST_CASE("no rows anywhere, one process, and integers") {
    Threads::run(2, [](Threads topology) {
      CHECK(gather_rows(topology, at::Tensor{}).numel() == 0);
      const auto ids = gather_rows(topology, at::full({1}, topology.rank() + (std::int64_t{1} << 60), at::kLong));
      CHECK(ids[1].item<std::int64_t>() == (std::int64_t{1} << 60) + 1);
    });
    Local local;
    CHECK(at::equal(gather_rows(local, at::arange(3)), at::arange(3)));
    CHECK(gather_rows(local, at::Tensor{}).numel() == 0);
  }

  TEST_CASE("rows that differ between ranks are refused with both of them") {
    const auto gather = [](auto rows) { Threads::run(2, [&](Threads topology) { gather_rows(topology, rows(topology.rank())); }); };
    CHECK_THROWS_WITH_AS(gather([](int rank) { return at::zeros({0, rank + 2}); }),
                         doctest::Contains("gather_rows: rows of ranks 0 and 1 are Float [2] and Float [3]"), ShapeError);
    CHECK_THROWS_WITH_AS(gather([](int rank) { return at::zeros({4}, rank == 0 ? at::kFloat : at::kDouble); }),
                         doctest::Contains("gather_rows: rows of ranks 0 and 1 are Float [] and Double []"), ShapeError);
    CHECK_THROWS_WITH_AS(gather([](int) { return at::zeros({}); }),
                         doctest::Contains("gather_rows: a tensor of no dimension has no rows"), ShapeError);
  }
}

}  // namespace rookery
