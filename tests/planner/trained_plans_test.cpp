// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

// Plans made by cost go into ShardingOptions as they are, and train as one process does.

#include <rookery/planner/describe.hpp>

#include <rookery/planner/planner.hpp>

#include <string>
#include <vector>

#include "support/equivalence.hpp"
#include "support/test.hpp"

namespace rookery {
namespace {

cases::TrialModel declared(const cases::Trial& trial) {
  return {.bags = trial.bags,
          .weighted = {trial.weighted, {.is_weighted = true}},
          .sequences = cases::sequence_tables(trial.sequences),
          .over = {},
          .position = Parameter({8}, Uniform{1}, 0, trial.dtype)};
}

}  // namespace

TEST_SUITE("planner/describe") {
  TEST_CASE("a declared model's tables are those of the placed one") {
    const auto trial = cases::draw_trial(3, 2);
    auto model = declared(trial);
    const auto tables = describe_tables(model);
    CHECK(describe_tables(ModelAndLoss<cases::TrialModel, Bce, cases::TrialBatch>{declared(trial), {}}).size() == tables.size());
    model.over = Mlp(3 + 2 * model.bags.width() + model.weighted.width() + model.sequences.width(), {1});
    Local topology;
    const ShardingPolicy<Local> sharding(topology, {});
    auto placed = sharding.apply(ModelAndLoss<cases::TrialModel, Bce, cases::TrialBatch>{std::move(model), {}});
    const auto& expected = placed.plan().descriptions;
    REQUIRE(tables.size() == expected.size());
    for (std::size_t t = 0; t < tables.size(); ++t) {
      CHECK(tables[t].name == expected[t].name);
      CHECK(tables[t].settings == expected[t].settings);
      CHECK(tables[t].bytes() == expected[t].bytes());
      CHECK(tables[t].features == expected[t].features);
      CHECK(tables[t].is_weighted == (tables[t].name.find("weighted.") == 0));
    }
    CHECK(describe_tables(EmbeddingBagCollection<cases::AllRules>{trial.bags})[0].name == "embedding_bags." + trial.bags[0].name);
  }
}

TEST_SUITE("planner/planner") {
  TEST_CASE("sharded equals local under plans of every proposer, balanced by time and by memory") {
    using enum ShardingKind;
    const std::vector<ShardingKind> all_kinds{data_parallel,  table_wise,        column_wise, row_wise,
                                              table_row_wise, table_column_wise, grid_shard};
    std::vector<int> met(all_kinds.size());
    for (std::uint64_t seed = 1000; seed < 1018; ++seed) {
      auto trial = cases::draw_trial(seed);
      CAPTURE(seed);
      cases::Draw draw(seed);
      const auto tables = describe_tables(declared(trial));
      Constraints constraints;
      for (const auto& table : tables) {
        auto& asked = constraints[table.name];
        asked.min_partition = draw.integer(1, 4);
        for (const auto kind : all_kinds)
          if (draw.chance(.4)) asked.kinds.push_back(kind);
      }
      PlannerOptions options{.batch_size = trial.largest_batch};
      options.proposers = {draw.one_of<Proposer>({Proposer::grid_search, Proposer::greedy_by_longest, Proposer::greedy_by_sum,
                                                  Proposer::uniform, Proposer::dynamic_programming, Proposer::falling_limit})};
      options.memory_tolerance = draw.chance(.5) ? 0 : .5;
      const TopologyFacts facts{.world_size = trial.ranks, .local_world_size = trial.local_world_size};
      const auto planned = make_plan(tables, facts, constraints, options);
      for (const auto& one : planned.estimate.tables) ++met[static_cast<std::size_t>(one.kind)];
      trial.placement.plan = planned.plan;
      trial.placement.constraints.clear();
      CHECK(cases::check_equivalence(trial) == "");
    }
    for (std::size_t kind = 0; kind < met.size(); ++kind) {
      CAPTURE(sharding_kind_names[kind]);
      CHECK(met[kind] > 0);
    }
  }
}

}  // namespace rookery
