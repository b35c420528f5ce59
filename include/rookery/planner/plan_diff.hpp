// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// diff: what is other in one plan than in another, for people: which parts of which tables are on other ranks, and how many bytes move.
//
// Include cost: tensor.

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/human.hpp>
#include <rookery/planner/plan.hpp>

namespace rookery {

namespace detail {

/// A part of a table that one rank has and another is to have.
struct MovedPart {
  ShardBox box;
  int from = 0, to = 0;
};

/// The parts of a table that a rank needs and did not have. Of copies, a rank's own serves it, else the first.
inline std::vector<MovedPart> moved_parts(const TablePlan& before, bool replicated, const TablePlan& after) {
  std::vector<MovedPart> moved;
  for (const auto& [wanted, to] : after.shards)
    for (const auto& [had, from] : before.shards) {
      const ShardBox both{std::max(wanted.row_begin, had.row_begin), std::min(wanted.row_end, had.row_end),
                          std::max(wanted.column_begin, had.column_begin), std::min(wanted.column_end, had.column_end)};
      if (both.rows() <= 0 || both.columns() <= 0) continue;
      const bool here = replicated ? to < static_cast<int>(before.shards.size()) : from == to;
      if (!here) moved.push_back({both, from, to});
      if (replicated) break;
    }
  return moved;
}

/// "rank 1", "a copy on every rank", "4 parts on ranks [0, 1, 2, 3]", or what was asked by kind.
inline std::string where(const TablePlan& table, const TableDescription& described, int world_size) {
  if (table.shards.empty() && table.kind)
    return concat(to_string(*table.kind), table.ranks.empty() ? "" : concat(" on ranks ", table.ranks),
                  table.min_partition > 0 ? concat(" by ", table.min_partition, " columns") : "");
  if (table.is_replicated(described, world_size)) return "a copy on every rank";
  std::vector<int> ranks;
  for (const auto& shard : table.shards)
    if (std::find(ranks.begin(), ranks.end(), shard.rank) == ranks.end()) ranks.push_back(shard.rank);
  if (table.shards.size() == 1) return concat("rank ", ranks.front());
  const auto shown = std::vector<int>(ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(ranks.size(), 8)));
  return concat(table.shards.size(), " parts on ", ranks.size() > 8 ? concat(ranks.size(), " ranks, from ") : "ranks ", shown,
                ranks.size() > 8 ? " on" : "");
}

/// "[10, 4] Float sgd"
inline std::string size_of_table(const TableDescription& table) {
  return concat("[", table.num_embeddings, ", ", table.embedding_dim, "] ", c10::toString(table.data_type), " ", table.rule);
}

/// What is known of a table where the plan does not say: its size is that of its shards.
inline TableDescription described_by(const Plan& plan, const TablePlan& table) {
  for (const auto& one : plan.descriptions)
    if (one.name == table.table) return one;
  TableDescription described;
  described.name = table.table;
  for (const auto& [box, rank] : table.shards) {
    described.num_embeddings = std::max(described.num_embeddings, box.row_end);
    described.embedding_dim = std::max(described.embedding_dim, box.column_end);
  }
  return described;
}
inline const TablePlan* find_table(const Plan& plan, const std::string& name) {
  const auto found = std::find_if(plan.tables.begin(), plan.tables.end(), [&](const auto& one) { return one.table == name; });
  return found == plan.tables.end() ? nullptr : &*found;
}

/// The lines about one table that is in both plans; none when nothing is other.
inline std::string table_diff(const Plan& before, const TablePlan& old, const Plan& after, const TablePlan& now, std::size_t most,
                              std::int64_t& bytes) {
  const auto was = described_by(before, old), is = described_by(after, now);
  if (was.num_embeddings > 0 && is.num_embeddings > 0 && size_of_table(was) != size_of_table(is))
    return concat(now.table, ": ", size_of_table(was), " -> ", size_of_table(is), "\n");
  const bool replicated = old.is_replicated(was, before.world_size);
  if (old == now && replicated == now.is_replicated(is, after.world_size)) return "";
  const auto from = where(old, was, before.world_size), to = where(now, is, after.world_size);
  auto text = concat(now.table, ": ", from, from != to ? concat(" -> ", to) : old.shards != now.shards ? ", cut otherwise" : "",
                     old.hierarchical == now.hierarchical ? "" : now.hierarchical ? ", now summed in each node first"
                                                                                  : ", no longer summed in each node first");
  const auto moved = moved_parts(old, replicated, now);
  std::int64_t of_table = 0;
  for (const auto& part : moved) of_table += is.bytes(part.box.rows(), part.box.columns());
  if (!old.shards.empty() && !now.shards.empty()) text += moved.empty() ? "; nothing moves" : concat("; ", human_bytes(of_table), " move");
  text += '\n';
  bytes += of_table;
  for (std::size_t i = 0; i < std::min(most, moved.size()); ++i) {
    const auto& [box, source, target] = moved[i];
    text += concat("  rows ", box.row_begin, "-", box.row_end - 1);
    if (box.columns() != is.embedding_dim) text += concat(" columns ", box.column_begin, "-", box.column_end - 1);
    text += concat(": rank ", source, " -> rank ", target, ", ", human_bytes(is.bytes(box.rows(), box.columns())), "\n");
  }
  if (moved.size() > most) text += concat("  and ", moved.size() - most, " more parts\n");
  return text;
}

}  // namespace detail

/// What changes from one plan to the other: a line for each table that is placed otherwise, of another size, new or gone, and below it a
/// line for each part that moves, of at most `most`. Tables are matched by name, whatever their order. Empty where nothing is other.
/// Bytes are of weights and state, where the plan says what its tables are.
inline std::string diff(const Plan& before, const Plan& after, std::size_t most = 8) {
  std::string text;
  std::int64_t bytes = 0;
  if (before.world_size != after.world_size) text += concat("ranks: ", before.world_size, " -> ", after.world_size, "\n");
  for (const auto& now : after.tables) {
    if (const auto* old = detail::find_table(before, now.table)) text += detail::table_diff(before, *old, after, now, most, bytes);
    else text += concat(now.table, ": new, ", detail::where(now, detail::described_by(after, now), after.world_size), "\n");
  }
  for (const auto& old : before.tables)
    if (!detail::find_table(after, old.table))
      text += concat(old.table, ": gone, was ", detail::where(old, detail::described_by(before, old), before.world_size), "\n");
  if (bytes > 0) text += concat("moved in all: ", human_bytes(bytes), "\n");
  return text;
}

}  // namespace rookery
