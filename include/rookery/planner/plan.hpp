// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Plan: which rank holds which part of which table, as a list of shards.
//
// Sharding kinds only produce shards; exchange and step know shards, never kinds. Answers to torchrec's ShardingPlan and
// ParameterSharding.  Include cost: tensor.

#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/embedding/config.hpp>
#include <rookery/embedding/table_collection.hpp>

namespace rookery {

/// How a table is split, in TorchRec's words.
enum class ShardingKind { table_wise, row_wise };

inline std::string_view to_string(ShardingKind kind) { return kind == ShardingKind::table_wise ? "table_wise" : "row_wise"; }

/// A rectangle of a table on one rank.
struct Shard {
  ShardBox box;
  int rank = 0;
};

/// Blocks of ceil(rows / ranks) rows on ranks 0, 1, ..; the last block may be smaller and later ranks hold none. Blocks are a multiple
/// of `row_block` rows.
inline std::vector<Shard> row_wise_shards(std::int64_t rows, std::int64_t columns, int ranks, std::int64_t row_block = 1) {
  std::vector<Shard> shards;
  const std::int64_t block = ((rows + row_block - 1) / row_block + ranks - 1) / ranks * row_block;
  for (int rank = 0; rank < ranks; ++rank) {
    const std::int64_t begin = std::min(rows, rank * block), end = std::min(rows, begin + block);
    if (begin < end) shards.push_back({{begin, end, 0, columns}, rank});
  }
  return shards;
}

/// The whole table on one rank.
inline std::vector<Shard> table_wise_shards(std::int64_t rows, std::int64_t columns, int rank) { return {{{0, rows, 0, columns}, rank}}; }

/// The shards of one table.
struct TablePlan {
  std::string table;                 // full name, "user.embedding_bags.user_id", or the config's name where that is unique
  std::vector<Shard> shards;
};

/// The shards of a model's tables. An empty plan asks for the default placement.
struct Plan {
  std::vector<TablePlan> tables{};

  /// The shards of a table by its full name, or its config's name. Errors: PlanError when the plan has none.
  const std::vector<Shard>& of(const TableDescription& table) const {
    for (const auto& one : tables)
      if (one.table == table.name || one.table == table.table) return one.shards;
    fail<PlanError>("Plan: table '", table.name, "' has no shards");
  }

  /// One line a table: name, shape, dtype, rule, shards, bytes.
  std::string report() const;

  std::vector<TableDescription> descriptions{};   // of the tables planned, for report()
  int world_size = 1;
};

/// Checks that the plan covers every table exactly, on ranks that exist, and names no other table.
/// Errors: PlanError with the table and the numbers; ConfigError for tables of more than 2^63 bytes.
inline void validate(const Plan& plan, std::span<const TableDescription> tables, int world_size) {
  for (const auto& one : plan.tables) {
    const auto named =
        std::count_if(tables.begin(), tables.end(), [&](const auto& t) { return one.table == t.name || one.table == t.table; });
    check<PlanError>(named > 0, "Plan: table '", one.table, "' is not in the model");
    check<PlanError>(named == 1, "Plan: '", one.table, "' names ", named, " tables; give the full name");
  }
  std::int64_t total = 0;
  for (const auto& table : tables) {
    const auto number = static_cast<std::int64_t>(c10::elementSize(compute_dtype(table.data_type)));
    std::int64_t bytes = 0;
    check<ConfigError>(!__builtin_add_overflow(table.embedding_dim, table.state_numbers_per_row, &bytes) &&
                           !__builtin_mul_overflow(bytes, number, &bytes) && !__builtin_mul_overflow(table.num_embeddings, bytes, &bytes) &&
                           !__builtin_add_overflow(total, bytes, &total),
                       "Plan: table '", table.name, "' is [", table.num_embeddings, ", ", table.embedding_dim, "] of ",
                       c10::toString(table.data_type), "; with the tables before it, it needs more than 2^63 bytes");
    const auto times = std::count_if(plan.tables.begin(), plan.tables.end(),
                                     [&](const auto& one) { return one.table == table.name || one.table == table.table; });
    check<PlanError>(times < 2, "Plan: table '", table.name, "' is planned ", times, " times");
    const auto& shards = plan.of(table);
    std::int64_t area = 0;
    for (std::size_t i = 0; i < shards.size(); ++i) {
      const auto& [box, rank] = shards[i];
      check<PlanError>(rank >= 0 && rank < world_size, "Plan: table '", table.name, "' has a shard on rank ", rank, " of ", world_size);
      check<PlanError>(0 <= box.row_begin && box.row_begin < box.row_end && box.row_end <= table.num_embeddings && 0 <= box.column_begin &&
                           box.column_begin < box.column_end && box.column_end <= table.embedding_dim,
                       "Plan: table '", table.name, "' of [", table.num_embeddings, ", ", table.embedding_dim, "] has a shard of rows ",
                       box.row_begin, " to ", box.row_end, " and columns ", box.column_begin, " to ", box.column_end);
      check<PlanError>(
          box.row_begin % table.row_block() == 0 && (box.row_end == table.num_embeddings || box.row_end % table.row_block() == 0),
          "Plan: table '", table.name, "' has a shard of rows ", box.row_begin, " to ", box.row_end,
          "; its buckets of managed collision have ", table.row_block(), " rows and none may be cut");
      for (std::size_t j = 0; j < i; ++j) {
        const auto& other = shards[j].box;
        const bool apart = box.row_end <= other.row_begin || other.row_end <= box.row_begin || box.column_end <= other.column_begin ||
                           other.column_end <= box.column_begin;
        check<PlanError>(apart, "Plan: table '", table.name, "' has shards ", j, " and ", i, " that overlap");
      }
      area += box.rows() * box.columns();
    }
    check<PlanError>(area == table.num_embeddings * table.embedding_dim, "Plan: table '", table.name, "' has ",
                     table.num_embeddings * table.embedding_dim, " weights and its shards cover ", area);
  }
}

inline std::string Plan::report() const {
  std::string text = concat("plan: ", descriptions.size(), descriptions.size() == 1 ? " table" : " tables", " on ", world_size,
                            world_size == 1 ? " rank\n" : " ranks\n");
  std::size_t width = 0;
  for (const auto& table : descriptions) width = std::max(width, table.name.size());
  std::vector<std::int64_t> bytes(static_cast<std::size_t>(world_size));
  for (const auto& table : descriptions) {
    const auto& shards = of(table);
    text += concat("  ", table.name, std::string(width - table.name.size(), ' '), "  [", table.num_embeddings, ", ", table.embedding_dim,
                   "] ", c10::toString(table.data_type), " ", table.rule, "  ", table.bytes(), " bytes  on ");
    std::string_view separator = "";
    for (const auto& [box, rank] : shards) {
      text += concat(separator, "rank ", rank);
      if (shards.size() > 1) text += concat(" rows ", box.row_begin, "-", box.row_end - 1);
      if (box.columns() != table.embedding_dim) text += concat(" columns ", box.column_begin, "-", box.column_end - 1);
      separator = ", ";
      bytes[static_cast<std::size_t>(rank)] += table.bytes(box.rows(), box.columns());
    }
    text += '\n';
  }
  text += concat("  bytes by rank ", bytes);
  return text;
}

}  // namespace rookery
