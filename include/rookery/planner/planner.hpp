// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// make_plan: a plan by predicted cost, for a machine that need not exist. Nothing is allocated; every rank finds the same plan.
//
//   auto tables = rk::describe_tables(model);
//   auto planned = rk::make_plan(tables, {.world_size = 16, .local_world_size = 8, .device = at::kCUDA}, constraints);
//   std::cout << planned.report();
//   rk::ShardingPolicy sharding{topology, {.plan = planned.plan}};
//
// Answers to torchrec/distributed/planner/planners.py (EmbeddingShardingPlanner).  Include cost: tensor.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/human.hpp>
#include <rookery/planner/describe.hpp>
#include <rookery/planner/enumerate.hpp>
#include <rookery/planner/estimate.hpp>
#include <rookery/planner/place.hpp>
#include <rookery/planner/plan.hpp>
#include <rookery/planner/propose.hpp>
#include <rookery/planner/storage.hpp>
#include <rookery/topology/facts.hpp>

namespace rookery {

struct PlannerOptions {
  std::int64_t batch_size = 512;                             // of each rank
  PipelineStorage storage{};
  StorageReservation reservation{};
  std::vector<Proposer> proposers{Proposer::grid_search,       Proposer::uniform,       Proposer::falling_limit,
                                  Proposer::greedy_by_longest, Proposer::greedy_by_sum, Proposer::dynamic_programming};
  std::int64_t max_proposals = 10'000;                       // of each proposer
  std::int64_t max_steps = 500'000'000;                      // of each proposer: placing blocks of tables, some nanoseconds each
  int memory_bins = 100;                                     // of each rank, for dynamic programming; 4 million in all
  double memory_tolerance = 0;                               // a share of the time that may be given up for memory that is more even

  /// Errors: PlanError for a batch without a row, no bins, and a tolerance that is no share.
  void validate() const {
    check<PlanError>(batch_size >= 1, "PlannerOptions: batch_size is ", batch_size, "; each rank has at least 1 row");
    check<PlanError>(memory_bins >= 1, "PlannerOptions: memory_bins is ", memory_bins, "; there must be at least 1");
    check<PlanError>(memory_tolerance >= 0 && std::isfinite(memory_tolerance), "PlannerOptions: memory_tolerance is ", memory_tolerance,
                     "; it must be a share of the time, 0 or more");
  }
};

/// A plan and what it is predicted to cost.
struct PlannerResult {
  Plan plan;
  PlanEstimate estimate;
  std::int64_t proposals = 0;                                // that were looked at

  std::string report(std::size_t most = 16) const { return estimate.report(most); }
};

namespace detail {

inline std::vector<TableLoad> loads_of(std::span<const TableDescription> tables, const Constraints& constraints, std::int64_t batch_size) {
  std::vector<TableLoad> loads;
  for (const auto& table : tables) loads.push_back(load_of(table, constraint_of(constraints, table), batch_size));
  return loads;
}

/// The options of each table; none may take more than `capacity` of a rank.
inline std::vector<std::vector<PlanOption>> plan_space(std::span<const TableDescription> tables, std::span<const TableLoad> loads,
                                                       const TopologyFacts& facts, const Constraints& constraints,
                                                       const PlannerOptions& options, std::int64_t capacity) {
  std::vector<std::vector<PlanOption>> space;
  for (std::size_t t = 0; t < tables.size(); ++t) {
    space.push_back(enumerate_options(tables[t], t, constraint_of(constraints, tables[t]), loads[t], facts, options.storage));
    std::erase_if(space.back(), [&](const PlanOption& option) { return option.largest > capacity; });
  }
  return space;
}

/// Looks for a plan with all proposers, and last for the least memory; the search has none where none was found.
inline void propose(PlanSearch& search, const PlannerOptions& options) {
  for (const auto proposer : options.proposers) {
    search.allow(options.max_steps);
    switch (proposer) {
      case Proposer::grid_search: propose_all(search, options.max_proposals); break;
      case Proposer::greedy_by_longest: propose_greedily(search, false, options.max_proposals); break;
      case Proposer::greedy_by_sum: propose_greedily(search, true, options.max_proposals); break;
      case Proposer::uniform: propose_uniformly(search); break;
      case Proposer::falling_limit: propose_with_falling_limit(search); break;
      case Proposer::dynamic_programming: {
        const auto bins = static_cast<std::size_t>(options.memory_bins) * static_cast<std::size_t>(search.facts().world_size);
        propose_by_dynamic_programming(search, std::min(bins, std::size_t{4'000'000} / std::max<std::size_t>(1, search.space().size())),
                                       options.max_proposals);
        break;
      }
    }
  }
  search.allow(options.max_steps);
  propose_least_memory(search, [] { return false; });
}

/// Whether there is a plan, by the least memory alone.
inline bool would_fit(std::span<const TableDescription> tables, std::span<const TableLoad> loads, const TopologyFacts& facts,
                      const Constraints& constraints, const PlannerOptions& options, std::int64_t capacity) {
  const auto space = plan_space(tables, loads, facts, constraints, options, capacity);
  if (std::any_of(space.begin(), space.end(), [](const auto& one) { return one.empty(); })) return false;
  PlanSearch search(space, facts, capacity);
  propose_least_memory(search, [&] { return search.best().has_value(); });
  return search.best().has_value();
}

/// The next number of bytes that `human_bytes` says exactly.
inline std::int64_t rounded_up(std::int64_t bytes) {
  double unit = 1;
  while (static_cast<double>(bytes) >= 1024 * unit) unit *= 1024;
  const double share = static_cast<double>(bytes) / unit, step = unit / (share >= 100 ? 1 : share >= 10 ? 10 : 100);
  return static_cast<std::int64_t>(std::ceil(std::ceil(static_cast<double>(bytes) / step) * step));
}

/// What is too large, and what would be enough.
[[noreturn]] inline void fail_with_advice(std::span<const TableDescription> tables, std::span<const TableLoad> loads,
                                          const TopologyFacts& facts, const Constraints& constraints, const PlannerOptions& options,
                                          std::int64_t reserved) {
  const auto capacity = facts.memory() - reserved;
  std::int64_t total = 0;
  for (const auto& table : tables) total += table.bytes();
  const auto& largest =
      *std::max_element(tables.begin(), tables.end(), [](const auto& a, const auto& b) { return a.bytes() < b.bytes(); });
  std::vector<std::string_view> kinds;
  for (const auto kind : allowed_kinds(constraint_of(constraints, largest), facts)) kinds.push_back(to_string(kind));
  // Memory: doubled until it is enough, then halved between.
  std::int64_t enough = std::max<std::int64_t>(capacity, 1);
  while (enough < std::int64_t{1} << 60 && !would_fit(tables, loads, facts, constraints, options, enough)) enough *= 2;
  BinarySearch too_little{0, enough};
  too_little.tolerance = std::max<std::int64_t>(1, enough / 256);
  while (!too_little.done()) {
    const auto less = enough - too_little.probe();
    too_little.tell(would_fit(tables, loads, facts, constraints, options, less));
  }
  const double fraction = options.reservation.fraction;      // of the memory there would be, too; then bytes for rounding
  const double kept = static_cast<double>(reserved) - fraction * static_cast<double>(facts.memory());
  const double wanted = (static_cast<double>(enough - too_little.low + 1) + kept) / std::max(1e-6, 1 - fraction) + (fraction > 0 ? 2 : 0);
  const auto bytes = rounded_up(static_cast<std::int64_t>(std::min(std::ceil(wanted), 0x1p61)));
  // Ranks: more nodes of the same size, or more ranks on the one node.
  std::string ranks = "more ranks alone would not be enough";
  auto larger = facts;
  const int unit = facts.nodes() > 1 ? facts.ranks_per_node() : 1;
  const auto with_ranks = [&](std::int64_t units) {
    larger.world_size = static_cast<int>(units * unit);
    if (facts.nodes() == 1) larger.local_world_size = 0;
    return would_fit(tables, loads, larger, constraints, options, capacity);
  };
  const std::int64_t now = facts.world_size / unit;
  for (std::int64_t more = 2 * now; more <= 16 * now && more * unit <= 1 << 16; more *= 2) {
    if (!with_ranks(more)) continue;
    BinarySearch too_few{more / 2, more - 1, more / 64};
    while (!too_few.done()) too_few.tell(!with_ranks(too_few.probe()));
    ranks = concat((too_few.high + 1) * unit, " ranks would be enough");
    break;
  }
  const bool one = tables.size() == 1;
  fail<PlanError>("make_plan: ", tables.size(), one ? " table of " : " tables of ", human_bytes(total),
                  one ? " does not fit on " : " do not fit on ", facts.world_size,
                  facts.world_size == 1 ? " rank of " : " ranks of ", human_bytes(facts.memory()), " less ",
                  human_bytes(reserved), " reserved; the largest is '", largest.name, "' of ", human_bytes(largest.bytes()),
                  ", which may be ", kinds, "; ", human_bytes(bytes), " a rank would be enough; ", ranks);
}

}  // namespace detail

/// What a plan costs on a machine, whoever made it; `constraints` say how tables are looked up.
/// Errors: PlanError, ConfigError as complete and make_plan.
inline PlanEstimate estimate_plan(const Plan& plan, std::span<const TableDescription> tables, const TopologyFacts& facts,
                                  const Constraints& constraints = {}, const PlannerOptions& options = {}) {
  facts.validate();
  options.validate();
  detail::check_constraints(tables, constraints, facts.world_size);
  const auto loads = detail::loads_of(tables, constraints, options.batch_size);
  const auto whole = complete(plan, tables, facts.world_size, facts.ranks_per_node());
  validate(whole, tables, facts.world_size);
  return detail::estimate_complete(whole, tables, facts, loads, options.storage, reserved_bytes(options.reservation, facts, loads));
}

/// The fastest plan that was found for `tables`, of those that fit into every rank's memory.
/// Errors: PlanError when none fits, with the largest table and what would be enough; for constraints that name no table, several, or a
///         rank that does not exist; for a table that its constraints leave no kind for. ConfigError for facts of no machine.
/// Cost: 1,000 tables on 1,024 ranks: see docs/measurements.md.
inline PlannerResult make_plan(std::span<const TableDescription> tables, const TopologyFacts& facts, const Constraints& constraints = {},
                               const PlannerOptions& options = {}) {
  facts.validate();
  options.validate();
  detail::check_constraints(tables, constraints, facts.world_size);
  detail::check_bytes(tables);
  const auto loads = detail::loads_of(tables, constraints, options.batch_size);
  const auto reserved = reserved_bytes(options.reservation, facts, loads);
  const auto capacity = facts.memory() - reserved;
  const auto space = detail::plan_space(tables, loads, facts, constraints, options, capacity);
  if (std::any_of(space.begin(), space.end(), [](const auto& one) { return one.empty(); }))
    detail::fail_with_advice(tables, loads, facts, constraints, options, reserved);
  PlanSearch search(space, facts, capacity);
  detail::propose(search, options);
  if (!search.best()) detail::fail_with_advice(tables, loads, facts, constraints, options, reserved);
  if (options.memory_tolerance > 0) search.balance_memory(options.memory_tolerance);
  PlannerResult result;
  result.proposals = search.proposals();
  result.plan.world_size = facts.world_size;
  result.plan.descriptions.assign(tables.begin(), tables.end());
  const auto* places = search.best()->places.data();
  for (std::size_t t = 0; t < tables.size(); ++t) {
    const auto& option = space[t][search.choice()[t]];
    auto shards = shards_of(option, places, tables[t], facts);
    // Rows of one node are priced as summed there before they leave.
    const bool in_node = option.kind == ShardingKind::table_row_wise || option.kind == ShardingKind::grid_shard;
    const bool hierarchical = (in_node || detail::constraint_of(constraints, tables[t]).hierarchical) && facts.nodes() > 1 &&
                              detail::adds_up_in_nodes(shards, tables[t], facts.ranks_per_node());
    result.plan.tables.push_back({.table = tables[t].name, .shards = std::move(shards), .hierarchical = hierarchical});
    places += option.blocks.size();
  }
  result.estimate = detail::estimate_complete(result.plan, tables, facts, loads, options.storage, reserved);
  for (std::size_t t = 0; t < tables.size(); ++t) result.estimate.tables[t].kind = space[t][search.choice()[t]].kind;
  return result;
}

}  // namespace rookery
