// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// diff: what is other in one plan than in another, for people: fields of tables, which parts move to other ranks, and how many bytes.
//
// What a plan by hand leaves open is compared as it comes out for the other plan's tables.  Include cost: tensor.

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/human.hpp>
#include <rookery/planner/estimate.hpp>
#include <rookery/planner/place.hpp>
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

/// "0-3, 6", in their order; of many runs the first eight.
inline std::string runs_of(const std::vector<int>& ranks) {
  std::string text;
  int runs = 0;
  for (std::size_t i = 0, end = 0; i < ranks.size(); i = end, ++runs) {
    if (runs == 8) return concat(text, ", .. of ", ranks.size());
    for (end = i + 1; end < ranks.size() && ranks[end] == ranks[end - 1] + 1;) ++end;
    text += concat(runs > 0 ? ", " : "", ranks[i], end > i + 1 ? concat("-", ranks[end - 1]) : "");
  }
  return text;
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

/// A table as one plan has it, in words.
struct TableWords {
  std::string rows, columns, data_type, rule, kind, ranks, shards, hierarchical;
};
inline TableWords words_of(const TablePlan& table, const TableDescription& described, int world_size, int local_world_size) {
  const TopologyFacts facts{.world_size = std::max(1, world_size), .local_world_size = local_world_size};
  auto ranks = table.ranks;
  for (const auto& shard : table.shards)
    if (std::find(ranks.begin(), ranks.end(), shard.rank) == ranks.end()) ranks.push_back(shard.rank);
  const auto kind = table.kind ? *table.kind
                               : kind_of(row_groups(table.shards, facts), table.is_replicated(described, world_size), facts);
  return {.rows = concat(described.num_embeddings),
          .columns = concat(described.embedding_dim),
          .data_type = c10::toString(described.data_type),
          .rule = described.rule,
          .kind = std::string(to_string(kind)),
          .ranks = ranks.empty() ? "any" : runs_of(ranks),
          .shards = concat(table.shards.size()),
          .hierarchical = concat(table.hierarchical)};
}

/// A plan as it comes out for its tables, or where it does not say what they are for those of the other: by full names, with shards. Tables
/// that are not described stay as they are. Errors: PlanError where the plan does not fit them.
inline Plan resolved(const Plan& plan, const Plan& other, int local_world_size) {
  const auto& described = plan.descriptions.empty() ? other.descriptions : plan.descriptions;
  const bool is_open = plan.descriptions.empty() ||
                       std::any_of(plan.tables.begin(), plan.tables.end(), [](const auto& table) { return table.kind.has_value(); });
  if (!is_open || described.empty()) return plan;
  const int ranks = plan.world_size > 0 ? plan.world_size : other.world_size;
  if (plan.tables.empty() && plan.world_size == 0) return place(described, ranks, {}, local_world_size);
  Plan known, unknown;
  std::vector<TableDescription> tables;
  for (const auto& table : plan.tables) {
    const auto found = std::find_if(described.begin(), described.end(), [&](const auto& one) { return table.is_of(one); });
    (found == described.end() ? unknown : known).tables.push_back(table);
    if (found != described.end()) tables.push_back(*found);
  }
  auto whole = complete(known, tables, ranks, local_world_size);
  for (std::size_t t = 0; t < tables.size() && local_world_size == 0; ++t) whole.tables[t].hierarchical = known.tables[t].hierarchical;
  whole.tables.insert(whole.tables.end(), unknown.tables.begin(), unknown.tables.end());
  return whole;
}

/// The lines about one table that is in both plans; none when nothing is other.
inline std::string table_diff(const Plan& before, const TablePlan& old, const Plan& after, const TablePlan& now, int local_world_size,
                              std::size_t most, std::int64_t& bytes) {
  const auto was = described_by(before, old), is = described_by(after, now);
  const auto from = words_of(old, was, before.world_size, local_world_size);
  const auto to = words_of(now, is, after.world_size, local_world_size);
  std::string fields;
  const auto field = [&](std::string_view name, const std::string& one, const std::string& other) {
    if (one != other) fields += concat(fields.empty() ? "" : ", ", name, " ", one, " -> ", other);
  };
  if (was.num_embeddings > 0 && is.num_embeddings > 0) {
    field("rows", from.rows, to.rows);
    field("columns", from.columns, to.columns);
  }
  if (!was.rule.empty() && !is.rule.empty()) {               // both plans say what the table is
    field("dtype", from.data_type, to.data_type);
    field("rule", from.rule, to.rule);
  }
  const bool same_table = fields.empty();
  field("kind", from.kind, to.kind);
  field("ranks", from.ranks, to.ranks);
  if (from.kind == to.kind && from.ranks == to.ranks) field("shards", from.shards, to.shards);
  field("hierarchical", from.hierarchical, to.hierarchical);
  if (fields.empty() && old.shards == now.shards) return "";
  auto text = concat("table ", now.table, ": ", fields.empty() ? "cut otherwise" : fields);
  if (!same_table || old.shards.empty() || now.shards.empty()) return text + "\n";
  const auto moved = moved_parts(old, old.is_replicated(was, before.world_size), now);
  std::int64_t of_table = 0;
  for (const auto& part : moved) of_table += is.bytes(part.box.rows(), part.box.columns());
  text += moved.empty() ? "; nothing moves\n" : concat("; ", human_bytes(of_table), " move\n");
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

/// A line for each table of a plan that the other does not have, of at most `most`.
inline std::string tables_only_in(const Plan& plan, const Plan& other, std::string_view which, int local_world_size, std::size_t most) {
  std::string text;
  std::size_t count = 0;
  for (const auto& table : plan.tables) {
    if (find_table(other, table.table) || ++count > most) continue;
    const auto words = words_of(table, described_by(plan, table), plan.world_size, local_world_size);
    text += concat("table ", table.table, ": ", which, ", ", words.kind, " on ranks ", words.ranks, "\n");
  }
  return count > most ? concat(text, "and ", count - most, " more tables: ", which, "\n") : text;
}

}  // namespace detail

/// What changes from one plan to the other: a line for each table with the fields that are other, and below it a line for each part that
/// moves, of at most `most`; then tables that are new or gone, as many. Tables are matched by name, whatever their order. Empty where
/// nothing is other. A plan by hand is compared as it comes out for the tables of the other, on nodes of `local_world_size` ranks (0: all
/// on one). Bytes are of weights and state, where a plan says what its tables are.
/// Errors: PlanError for a plan by hand that does not fit the other's tables.
inline std::string diff(const Plan& before, const Plan& after, std::size_t most = 8, int local_world_size = 0) {
  const auto old = detail::resolved(before, after, local_world_size), now = detail::resolved(after, before, local_world_size);
  std::string text;
  std::int64_t bytes = 0;
  if (old.world_size != now.world_size) text += concat("ranks: ", old.world_size, " -> ", now.world_size, "\n");
  for (const auto& table : now.tables)
    if (const auto* was = detail::find_table(old, table.table))
      text += detail::table_diff(old, *was, now, table, local_world_size, most, bytes);
  text += detail::tables_only_in(now, old, "new", local_world_size, most);
  text += detail::tables_only_in(old, now, "gone", local_world_size, most);
  if (bytes > 0) text += concat("moved in all: ", human_bytes(bytes), "\n");
  return text;
}

}  // namespace rookery
