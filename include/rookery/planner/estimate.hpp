// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// PlanEstimate: what a plan will cost, by rank and by table; of a plan that was made by hand as of one that was made by cost.
//
// Answers to torchrec/distributed/planner/stats.py; differs: all lookups of a step are one exchange here, so that the critical path is
// the slowest rank of each phase, not of each module.  Include cost: tensor.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/human.hpp>
#include <rookery/planner/cost.hpp>
#include <rookery/planner/enumerate.hpp>
#include <rookery/planner/imbalance.hpp>
#include <rookery/planner/place.hpp>
#include <rookery/planner/plan.hpp>
#include <rookery/planner/storage.hpp>
#include <rookery/topology/facts.hpp>

namespace rookery {

struct RankEstimate {
  StepCost cost;                         // seconds of a step
  std::int64_t table_bytes = 0;          // weights and state
  std::int64_t lookup_bytes = 0;         // of inputs and outputs

  std::int64_t bytes() const { return table_bytes + lookup_bytes; }
};

struct TableEstimate {
  std::string table;                     // full name
  ShardingKind kind = ShardingKind::table_wise;
  std::size_t shards = 0;
  StepCost cost;                         // of its slowest shard
  std::int64_t table_bytes = 0;          // of all its shards
  std::int64_t lookup_bytes = 0;
};

/// The predicted cost of a plan.
struct PlanEstimate {
  std::vector<RankEstimate> ranks;
  std::vector<TableEstimate> tables;
  std::int64_t memory = 0;               // bytes that each rank has
  std::int64_t reserved = 0;             // of which tables get none
  std::string constants{};               // facts of the GPU that are TorchRec's constants, in words

  std::int64_t capacity() const { return memory - reserved; }
  /// Whether every rank has the memory.
  bool fits() const {
    return std::all_of(ranks.begin(), ranks.end(), [&](const auto& rank) { return rank.bytes() <= capacity(); });
  }
  /// Seconds of a step on the slowest rank: what plans are compared by.
  double rating() const {
    double slowest = 0;
    for (const auto& rank : ranks) slowest = std::max(slowest, rank.cost.total());
    return slowest;
  }
  /// Seconds when ranks wait for each other after each phase.
  StepCost critical_path() const {
    StepCost path;
    for (const auto& rank : ranks) {
      path.forward_compute = std::max(path.forward_compute, rank.cost.forward_compute);
      path.forward_comms = std::max(path.forward_comms, rank.cost.forward_comms);
      path.backward_compute = std::max(path.backward_compute, rank.cost.backward_compute);
      path.backward_comms = std::max(path.backward_comms, rank.cost.backward_comms);
    }
    return path;
  }
  Imbalance imbalance_of_seconds() const;
  Imbalance imbalance_of_bytes() const;

  /// The prediction as text: tables and ranks (of more than `most` those that cost most), imbalance, critical path.
  std::string report(std::size_t most = 16) const;
};

namespace detail {

/// A column range of a table and the ranks that share its rows.
struct RowGroup {
  std::int64_t column_begin = 0, column_end = 0, parts = 0;
  int node = 0;                          // -1: several
};

inline std::vector<RowGroup> row_groups(const std::vector<Shard>& shards, const TopologyFacts& facts) {
  std::vector<RowGroup> groups;
  for (const auto& [box, rank] : shards) {
    const int node = rank / facts.ranks_per_node();
    const auto same = [&](const RowGroup& group) { return group.column_begin == box.column_begin && group.column_end == box.column_end; };
    auto found = !groups.empty() && same(groups.back()) ? groups.end() - 1 : std::find_if(groups.begin(), groups.end(), same);
    if (found == groups.end()) found = groups.insert(groups.end(), {box.column_begin, box.column_end, 0, node});
    ++found->parts;
    if (found->node != node) found->node = -1;
  }
  return groups;
}

/// The kind that makes such shards.
inline ShardingKind kind_of(const std::vector<RowGroup>& groups, bool replicated, const TopologyFacts& facts) {
  using enum ShardingKind;
  if (replicated) return data_parallel;
  const bool one_node = facts.nodes() > 1 && std::all_of(groups.begin(), groups.end(), [&](const auto& group) {
                          return group.node >= 0 && group.node == groups.front().node;
                        });
  const bool rows_whole = std::all_of(groups.begin(), groups.end(), [](const auto& group) { return group.parts == 1; });
  if (groups.size() == 1) return rows_whole ? table_wise : one_node ? table_row_wise : row_wise;
  return !rows_whole ? grid_shard : one_node ? table_column_wise : column_wise;
}

/// What a complete plan costs, whose tables come in the order of `tables`.
inline PlanEstimate estimate_complete(const Plan& plan, std::span<const TableDescription> tables, const TopologyFacts& facts,
                                  std::span<const TableLoad> loads, const PipelineStorage& storage, std::int64_t reserved) {
  PlanEstimate estimate{.ranks = std::vector<RankEstimate>(static_cast<std::size_t>(facts.world_size)),
                        .tables = {},
                        .memory = facts.memory(),
                        .reserved = reserved,
                        .constants = facts.constants};
  for (std::size_t t = 0; t < tables.size(); ++t) {
    const auto& table = tables[t];
    const auto& planned = plan.tables[t];
    const bool replicated = planned.is_replicated(table, facts.world_size);
    const auto groups = row_groups(planned.shards, facts);
    TableEstimate found{
        .table = table.name, .kind = kind_of(groups, replicated, facts), .shards = planned.shards.size(), .cost = {}};
    for (const auto& group : groups) {
      const auto columns = group.column_end - group.column_begin;
      const auto cut =
          replicated ? ShardCut{columns, ShardCut::Rows::replicated} : cut_of(columns, group.parts, group.node >= 0);
      const auto cost = shard_cost(table, loads[t], facts, cut);
      const auto beside = lookup_bytes(table, loads[t], facts, cut, storage);
      if (cost.total() >= found.cost.total()) found.cost = cost;
      for (const auto& [box, rank] : planned.shards) {
        if (box.column_begin != group.column_begin || box.column_end != group.column_end) continue;
        auto& on = estimate.ranks[static_cast<std::size_t>(rank)];
        const auto bytes = table.bytes(box.rows(), box.columns());
        on.cost += cost;
        on.table_bytes += bytes, found.table_bytes += bytes;
        on.lookup_bytes += beside, found.lookup_bytes += beside;
      }
    }
    estimate.tables.push_back(std::move(found));
  }
  return estimate;
}

}  // namespace detail

inline Imbalance PlanEstimate::imbalance_of_seconds() const {
  std::vector<double> loads;
  for (const auto& rank : ranks) loads.push_back(rank.cost.total());
  return imbalance_of(loads);
}
inline Imbalance PlanEstimate::imbalance_of_bytes() const {
  std::vector<double> loads;
  for (const auto& rank : ranks) loads.push_back(static_cast<double>(rank.bytes()));
  return imbalance_of(loads);
}

namespace detail {

inline std::string milliseconds(double seconds) { return human_number(seconds * 1000); }

/// The cells of a line: seconds by phase and in all.
inline void append_cost(std::vector<std::string>& cells, const StepCost& cost) {
  for (const double seconds : {cost.total(), cost.forward_compute, cost.forward_comms, cost.backward_compute, cost.backward_comms})
    cells.push_back(milliseconds(seconds));
}

/// The numbers of `count` things by what `key` gives, the largest first; at most `most` of them, and then in their own order.
template <class Key> std::vector<std::size_t> largest_of(std::size_t count, std::size_t most, Key&& key) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < count; ++i) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return key(a) > key(b); });
  order.resize(std::min(count, most));
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace detail

inline std::string PlanEstimate::report(std::size_t most) const {
  const auto left_out = [&](std::size_t count) { return count > most ? concat("  and ", count - most, " more that cost less\n") : ""; };
  std::vector<std::vector<std::string>> lines{
      {"table", "kind", "shards", "tables", "lookups", "ms", "forward", "exchange", "backward", "exchange"}};
  for (const auto t : detail::largest_of(tables.size(), most, [&](std::size_t i) { return tables[i].cost.total(); })) {
    const auto& one = tables[t];
    lines.push_back({one.table, std::string(to_string(one.kind)), concat(one.shards), human_bytes(one.table_bytes),
                     human_bytes(one.lookup_bytes)});
    detail::append_cost(lines.back(), one.cost);
  }
  auto text = concat(aligned(lines), left_out(tables.size()));
  lines = {{"rank", "tables", "lookups", "of memory", "ms", "forward", "exchange", "backward", "exchange"}};
  for (const auto r : detail::largest_of(ranks.size(), most, [&](std::size_t i) { return ranks[i].cost.total(); })) {
    const auto share = static_cast<double>(ranks[r].bytes()) / std::max(1., static_cast<double>(capacity()));
    lines.push_back({concat(r), human_bytes(ranks[r].table_bytes), human_bytes(ranks[r].lookup_bytes),
                     concat(human_number(share * 100, 3), "%")});
    detail::append_cost(lines.back(), ranks[r].cost);
  }
  text += concat("\n", aligned(lines), left_out(ranks.size()));
  text += concat("\nmemory of a rank ", human_bytes(memory), ", of which ", human_bytes(reserved), " reserved\n");
  if (!constants.empty()) text += concat("not known of the GPU here, so TorchRec's constants: ", constants, "\n");
  for (const bool of_time : {true, false}) {
    const auto found = of_time ? imbalance_of_seconds() : imbalance_of_bytes();
    text += concat("imbalance of ", of_time ? "time" : "memory", ": total variation ", human_number(found.total_variation),
                   ", total distance ", human_number(found.total_distance), ", chi-squared ", human_number(found.chi_squared),
                   ", KL of its largest ", human_number(found.normalized_kl), "\n");
  }
  const auto path = critical_path();
  text += concat("slowest rank ", detail::milliseconds(rating()), " ms; critical path ", detail::milliseconds(path.total()),
                 " ms: compute ", detail::milliseconds(path.forward_compute + path.backward_compute), ", exchange ",
                 detail::milliseconds(path.forward_comms + path.backward_comms));
  return text;
}

}  // namespace rookery
