// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// Sharding kinds as lists of shards: each kind is one function from a table's size and ranks to rectangles on ranks.
//
// Nothing else knows kinds: exchange and step know shards. Answers to torchrec/distributed/sharding_plan.py.  Include cost: tensor.

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/embedding/table_collection.hpp>

namespace rookery {

/// How a table is split, in TorchRec's words.
enum class ShardingKind { data_parallel, table_wise, column_wise, row_wise, table_row_wise, table_column_wise, grid_shard };

inline constexpr std::array<std::string_view, 7> sharding_kind_names{"data_parallel", "table_wise",     "column_wise",      "row_wise",
                                                                     "table_row_wise", "table_column_wise", "grid_shard"};

inline std::string_view to_string(ShardingKind kind) { return sharding_kind_names[static_cast<std::size_t>(kind)]; }

/// The kind of that name. Errors: ConfigError that lists the names there are.
inline ShardingKind sharding_kind(std::string_view name) {
  const auto found = std::find(sharding_kind_names.begin(), sharding_kind_names.end(), name);
  check<ConfigError>(found != sharding_kind_names.end(), "no sharding kind '", name, "'; there are ", sharding_kind_names);
  return static_cast<ShardingKind>(found - sharding_kind_names.begin());
}

inline bool splits_rows(ShardingKind kind) {
  return kind == ShardingKind::row_wise || kind == ShardingKind::table_row_wise || kind == ShardingKind::grid_shard;
}
inline bool splits_columns(ShardingKind kind) {
  return kind == ShardingKind::column_wise || kind == ShardingKind::table_column_wise || kind == ShardingKind::grid_shard;
}
/// Whether a kind takes all ranks of a node.
inline bool is_on_nodes(ShardingKind kind) {
  return kind == ShardingKind::table_row_wise || kind == ShardingKind::table_column_wise || kind == ShardingKind::grid_shard;
}

/// A rectangle of a table on one rank.
struct Shard {
  ShardBox box;
  int rank = 0;

  friend bool operator==(const Shard&, const Shard&) = default;
};

/// `count` ranks from `first` on.
inline std::vector<int> consecutive_ranks(int first, int count) {
  std::vector<int> ranks;
  for (int i = 0; i < count; ++i) ranks.push_back(first + i);
  return ranks;
}

/// A copy of the whole table on each of `ranks` ranks: a table whose shards are these is replicated.
inline std::vector<Shard> data_parallel_shards(std::int64_t rows, std::int64_t columns, int ranks) {
  std::vector<Shard> shards;
  for (int rank = 0; rank < ranks; ++rank) shards.push_back({{0, rows, 0, columns}, rank});
  return shards;
}

/// The whole table on one rank.
inline std::vector<Shard> table_wise_shards(std::int64_t rows, std::int64_t columns, int rank) { return {{{0, rows, 0, columns}, rank}}; }

/// Splits `box` by rows into blocks of ceil(rows / ranks) on `ranks` in turn; the last block may be smaller and later ranks hold none.
/// Where rows come in blocks of `row_block`, the first ranks take one block more than the others.
inline std::vector<Shard> row_wise_shards(const ShardBox& box, const std::vector<int>& ranks, std::int64_t row_block = 1) {
  std::vector<Shard> shards;
  const auto count = static_cast<std::int64_t>(ranks.size()), blocks = (box.rows() + row_block - 1) / row_block;
  std::int64_t next = box.row_begin;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto taken = row_block == 1 ? (blocks + count - 1) / count : blocks / count + (i < blocks % count);
    const auto end = std::min(box.row_end, next + taken * row_block);
    if (next < end) shards.push_back({{next, end, box.column_begin, box.column_end}, ranks[static_cast<std::size_t>(i)]});
    next = std::max(next, end);
  }
  return shards;
}
/// The same for a whole table on ranks 0, 1, ..
inline std::vector<Shard> row_wise_shards(std::int64_t rows, std::int64_t columns, int ranks, std::int64_t row_block = 1) {
  return row_wise_shards({0, rows, 0, columns}, consecutive_ranks(0, ranks), row_block);
}

/// Columns of each shard when a table of `columns` may be split into shards of at least `min_partition`: the smallest divisor that is
/// as large and a multiple of 4; else all.
inline std::int64_t column_partition(std::int64_t columns, std::int64_t min_partition) {
  for (std::int64_t size = (min_partition + 3) / 4 * 4; size > 0 && size < columns; size += 4)
    if (columns % size == 0) return size;
  return columns;
}
/// Columns of each shard when about `parts` are wanted: a multiple of 4, and the last may be smaller.
inline std::int64_t even_column_partition(std::int64_t columns, std::int64_t parts) {
  return std::min(columns, ((columns + parts - 1) / parts + 3) / 4 * 4);
}

namespace detail {
inline void check_partition(std::int64_t partition) {
  check<PlanError>(partition > 0, "column shards of ", partition, " columns; there must be one at least");
}
}  // namespace detail

/// All rows, in blocks of `partition` columns, on `ranks` in turn. Errors: PlanError without ranks, or columns in a block.
inline std::vector<Shard> column_wise_shards(std::int64_t rows, std::int64_t columns, std::int64_t partition,
                                             const std::vector<int>& ranks) {
  detail::check_partition(partition);
  check<PlanError>(!ranks.empty(), "column shards on no ranks");
  std::vector<Shard> shards;
  for (std::int64_t begin = 0; begin < columns; begin += partition)
    shards.push_back({{0, rows, begin, std::min(columns, begin + partition)}, ranks[shards.size() % ranks.size()]});
  return shards;
}

/// Blocks of `partition` columns on nodes of `local_world_size` ranks in turn, from node `first_node` of `nodes` on, each split by rows
/// over the node's ranks.
inline std::vector<Shard> grid_shards(std::int64_t rows, std::int64_t columns, std::int64_t partition, int nodes, int local_world_size,
                                      int first_node = 0, std::int64_t row_block = 1) {
  detail::check_partition(partition);
  std::vector<Shard> shards;
  int node = first_node;
  for (std::int64_t begin = 0; begin < columns; begin += partition, ++node) {
    const auto of_node = row_wise_shards({0, rows, begin, std::min(columns, begin + partition)},
                                         consecutive_ranks(node % nodes * local_world_size, local_world_size), row_block);
    shards.insert(shards.end(), of_node.begin(), of_node.end());
  }
  return shards;
}

}  // namespace rookery
