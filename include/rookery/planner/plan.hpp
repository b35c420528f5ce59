// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Plan: which rank holds which part of which table, as a list of shards.
//
// Sharding kinds only produce shards; exchange and step know shards, never kinds. Answers to torchrec's ShardingPlan and
// ParameterSharding.  Include cost: tensor.

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/core/mix.hpp>
#include <rookery/embedding/config.hpp>
#include <rookery/embedding/table_collection.hpp>
#include <rookery/planner/shards.hpp>

namespace rookery {

/// The shards of one table, or by hand the kind that they are to be of: rows and columns are cut when the plan meets the model.
struct TablePlan {
  std::string table;                 // full name, "user.embedding_bags.user_id", or the config's name where that is unique
  std::vector<Shard> shards{};
  std::optional<ShardingKind> kind{};   // of a table without shards
  std::vector<int> ranks{};          // that hold its shards, in turn; of kinds on nodes one, which names the node; empty: any
  std::int64_t min_partition = 0;    // columns of its shards at least, where columns are split; 0: as many shards as ranks or nodes
  bool hierarchical = false;         // sums of row shards are added up inside a node before they leave it, where a node has several

  friend bool operator==(const TablePlan&, const TablePlan&) = default;

  /// Whether it is planned for this table, by its full name or its config's.
  bool is_of(const TableDescription& described) const { return table == described.name || table == described.table; }
  /// Whether every rank of `world_size` holds a copy of the whole table.
  bool is_replicated(const TableDescription& described, int world_size) const {
    if (world_size == 1 || static_cast<int>(shards.size()) != world_size) return false;
    for (const auto& shard : shards)
      if (shard.rank != &shard - shards.data() || shard.box.rows() != described.num_embeddings ||
          shard.box.columns() != described.embedding_dim)
        return false;
    return true;
  }
};

/// The shards of a model's tables. An empty plan asks for the default placement.
///
///   Plan{.tables = {{.table = "user_id", .kind = ShardingKind::row_wise},
///                   {.table = "item_id", .kind = ShardingKind::table_wise, .ranks = {1}}}}
struct Plan {
  std::vector<TablePlan> tables{};

  /// What is planned for a table, by its full name, or its config's name. Errors: PlanError when nothing is.
  const TablePlan& of(const TableDescription& table) const {
    for (const auto& one : tables)
      if (one.is_of(table)) return one;
    fail<PlanError>("Plan: there is none for table '", table.name, "'");
  }

  /// One line a table: name, shape, dtype, rule, shards, bytes.
  std::string report() const;
  /// 64 bits that stand for the plan, the same on every machine and in whatever order the tables come; that of shards counts.
  std::uint64_t hash() const;

  std::vector<TableDescription> descriptions{};   // of the tables planned, for report()
  int world_size = 0;                // ranks that it is for; 0: not said
};

namespace detail {

/// A number as 16 hexadecimal digits.
inline std::string hexadecimal(std::uint64_t number) {
  std::string digits(16, '0');
  for (auto digit = digits.rbegin(); digit != digits.rend(); ++digit, number >>= 4) *digit = "0123456789abcdef"[number & 15];
  return digits;
}

/// Errors: PlanError for a plan that names another table than these, or one of them twice, in words that fit several or not at all.
inline void check_planned_tables(const Plan& plan, std::span<const TableDescription> tables) {
  std::vector<std::int64_t> times(tables.size());            // that each is planned
  for (const auto& one : plan.tables) {
    std::int64_t named = 0;
    for (std::size_t t = 0; t < tables.size(); ++t) {
      if (!one.is_of(tables[t])) continue;
      ++named;
      ++times[t];
    }
    check<PlanError>(named > 0, "Plan: table '", one.table, "' is not in the model");
    check<PlanError>(named == 1, "Plan: '", one.table, "' names ", named, " tables; give the full name");
  }
  for (std::size_t t = 0; t < tables.size(); ++t)
    check<PlanError>(times[t] < 2, "Plan: table '", tables[t].name, "' is planned ", times[t], " times");
}

[[gnu::cold]] inline void check_rank(const TableDescription& table, int rank, int world_size) {
  check<PlanError>(rank >= 0 && rank < world_size, "Plan: table '", table.name, "' has a shard on rank ", rank, " of ", world_size);
}

/// Why the fields of a table's plan do not go together; null where they do.
[[gnu::cold]] inline const char* mistake_of_fields(const TableDescription& table, const TablePlan& planned) {
  bool splits = false;
  for (const auto& shard : planned.shards) splits |= shard.box.rows() < table.num_embeddings;
  if (!planned.kind && planned.shards.empty()) return "it needs a kind or shards";
  if (planned.kind && !planned.shards.empty()) return "it may have a kind or shards, not both";
  if (!planned.kind && (!planned.ranks.empty() || planned.min_partition != 0)) return "ranks and min_partition go with a kind";
  if (planned.hierarchical && !(planned.kind ? splits_rows(*planned.kind) : splits))
    return "where shards have all rows there are no sums to add up";
  if (!planned.kind) return nullptr;
  if (planned.min_partition != 0 && !splits_columns(*planned.kind)) return "this kind splits no columns";
  if (*planned.kind == ShardingKind::data_parallel && !planned.ranks.empty()) return "every rank has a copy";
  if (*planned.kind == ShardingKind::table_wise && planned.ranks.size() > 1) return "the table is whole, on one rank";
  if (is_on_nodes(*planned.kind) && planned.ranks.size() > 1) return "one rank names the node, all of whose ranks are taken";
  return nullptr;
}

/// Errors: PlanError for a shard on no rank, or not of the table.
[[gnu::cold]] inline void check_shard(const TableDescription& table, const Shard& shard, int world_size) {
  const auto& [box, rank] = shard;
  check_rank(table, rank, world_size);
  check<PlanError>(0 <= box.row_begin && box.row_begin < box.row_end && box.row_end <= table.num_embeddings && 0 <= box.column_begin &&
                       box.column_begin < box.column_end && box.column_end <= table.embedding_dim,
                   "Plan: table '", table.name, "' of [", table.num_embeddings, ", ", table.embedding_dim, "] has a shard of rows ",
                   box.row_begin, " to ", box.row_end, " and columns ", box.column_begin, " to ", box.column_end);
  check<PlanError>(
      box.row_begin % table.row_block() == 0 && (box.row_end == table.num_embeddings || box.row_end % table.row_block() == 0),
      "Plan: table '", table.name, "' has a shard of rows ", box.row_begin, " to ", box.row_end,
      "; its buckets of managed collision have ", table.row_block(), " rows and none may be cut");
}

/// Errors: ConfigError for tables of more than 2^63 bytes.
inline void check_bytes(std::span<const TableDescription> tables) {
  std::int64_t total = 0;
  for (const auto& table : tables) {
    const auto number = static_cast<std::int64_t>(c10::elementSize(compute_dtype(table.data_type)));
    std::int64_t bytes = 0;
    check<ConfigError>(!__builtin_add_overflow(table.embedding_dim, table.state_numbers_per_row, &bytes) &&
                           !__builtin_mul_overflow(bytes, number, &bytes) && !__builtin_mul_overflow(table.num_embeddings, bytes, &bytes) &&
                           !__builtin_add_overflow(total, bytes, &total),
                       "Plan: table '", table.name, "' is [", table.num_embeddings, ", ", table.embedding_dim, "] of ",
                       c10::toString(table.data_type), "; with the tables before it, it needs more than 2^63 bytes");
  }
}

}  // namespace detail

namespace detail {

/// Errors: PlanError for shards that do not cover a table exactly.
[[gnu::cold]] inline void check_cover(const TableDescription& table, const TablePlan& planned, int world_size) {
  const auto& shards = planned.shards;
  const bool replicated = planned.is_replicated(table, world_size);
  check<PlanError>(!replicated || !table.managed_collision, "Plan: table '", table.name,
                   "' has a copy on every rank; the vocabulary of managed collision needs one place for each id");
  std::int64_t area = 0, row_end = 0, column_end = 0;        // of the shards so far
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const auto& box = shards[i].box;
    check_shard(table, shards[i], world_size);
    const bool behind_all = box.row_begin >= row_end || box.column_begin >= column_end;      // so are most of thousands
    for (std::size_t j = 0; j < i && !replicated && !behind_all; ++j) {
      const auto& other = shards[j].box;
      const bool apart = box.row_end <= other.row_begin || other.row_end <= box.row_begin || box.column_end <= other.column_begin ||
                         other.column_end <= box.column_begin;
      check<PlanError>(apart, "Plan: table '", table.name, "' has shards ", j, " and ", i, " that overlap");
    }
    row_end = std::max(row_end, box.row_end), column_end = std::max(column_end, box.column_end);
    if (!replicated || i == 0) area += box.rows() * box.columns();
  }
  check<PlanError>(area == table.num_embeddings * table.embedding_dim, "Plan: table '", table.name, "' has ",
                   table.num_embeddings * table.embedding_dim, " weights and its shards cover ", area);
}

}  // namespace detail

/// Checks that the plan covers every table exactly, on ranks that exist, and names no other table.
/// Errors: PlanError with the table and the numbers; ConfigError for tables of more than 2^63 bytes.
inline void validate(const Plan& plan, std::span<const TableDescription> tables, int world_size) {
  detail::check_planned_tables(plan, tables);
  detail::check_bytes(tables);
  for (const auto& table : tables) detail::check_cover(table, plan.of(table), world_size);
}

inline std::string Plan::report() const {
  std::string text = concat("plan: ", descriptions.size(), descriptions.size() == 1 ? " table" : " tables", " on ", world_size,
                            world_size == 1 ? " rank\n" : " ranks\n");
  std::size_t width = 0;
  for (const auto& table : descriptions) width = std::max(width, table.name.size());
  std::vector<std::int64_t> bytes(static_cast<std::size_t>(world_size));
  for (const auto& table : descriptions) {
    const auto& shards = of(table).shards;
    const bool replicated = of(table).is_replicated(table, world_size);
    text += concat("  ", table.name, std::string(width - table.name.size(), ' '), "  [", table.num_embeddings, ", ", table.embedding_dim,
                   "] ", c10::toString(table.data_type), " ", table.rule, "  ", table.bytes(),
                   replicated ? " bytes  on every rank" : " bytes  on ");
    std::string_view separator = "";
    for (const auto& [box, rank] : shards) {
      if (!replicated) text += concat(separator, "rank ", rank);
      if (shards.size() > 1 && !replicated) text += concat(" rows ", box.row_begin, "-", box.row_end - 1);
      if (box.columns() != table.embedding_dim) text += concat(" columns ", box.column_begin, "-", box.column_end - 1);
      separator = ", ";
      bytes[static_cast<std::size_t>(rank)] += table.bytes(box.rows(), box.columns());
    }
    text += of(table).hierarchical ? "  summed in each node first\n" : "\n";
  }
  text += concat("  bytes by rank ", bytes, "\n  hash ", detail::hexadecimal(hash()));
  return text;
}

inline std::uint64_t Plan::hash() const {
  auto sum = mix64(static_cast<std::uint64_t>(world_size));
  for (const auto& table : tables) {
    auto text = concat("t ", table.table, table.hierarchical ? " hierarchical\n" : "\n");
    if (table.kind && table.shards.empty()) text += concat(to_string(*table.kind), " ", table.ranks, " ", table.min_partition);
    for (const auto& [box, rank] : table.shards)
      text += concat(rank, " ", box.row_begin, " ", box.row_end, " ", box.column_begin, " ", box.column_end, "\n");
    sum += mix64(hash_bytes(text));
  }
  for (const auto& table : descriptions)
    sum += mix64(hash_bytes(concat("d ", table.name, "\n", table.num_embeddings, " ", table.embedding_dim, " ",
                                   c10::toString(table.data_type), " ", table.rule, " ", table.state_numbers_per_row)));
  return sum;
}

}  // namespace rookery
