// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// PlanOption: one way to split one table, priced before it has ranks; all ways that a table's constraints allow.
//
// An option is blocks of columns; a block takes a rank, the ranks of a node or all ranks, and each of those a run of rows, so that a
// thousand tables on a thousand ranks are thousands of numbers, not millions of shards.
// Answers to torchrec/distributed/planner/enumerators.py.  Include cost: tensor.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/planner/cost.hpp>
#include <rookery/planner/place.hpp>
#include <rookery/planner/shards.hpp>
#include <rookery/planner/storage.hpp>

namespace rookery {

/// So many ranks, one after the other, and the bytes of each.
struct RankRun {
  std::int64_t ranks = 0, bytes = 0;
};

/// Columns of a table that are placed together.
struct OptionBlock {
  std::int64_t columns = 0;
  double seconds = 0;                    // of each of its shards
  std::vector<RankRun> runs;             // its shards
};

/// One way to split one table.
struct PlanOption {
  /// What each block is placed on.
  enum class Place { rank, node, all };

  std::size_t table = 0;
  ShardingKind kind = ShardingKind::table_wise;
  Place place = Place::rank;
  std::int64_t partition = 0;            // columns of a block; the last may have fewer
  std::vector<int> ranks;                // that constraints ask for
  std::vector<OptionBlock> blocks;
  double seconds = 0, longest = 0;       // of all shards, of one
  std::int64_t bytes = 0, largest = 0;   // the same
};

namespace detail {

/// How rows fall when they are split over so many ranks, in runs of ranks that hold as many.
inline std::vector<RankRun> row_runs(std::int64_t rows, int ranks, std::int64_t row_block) {
  std::vector<RankRun> runs;
  for (const auto& shard : row_wise_shards(rows, 1, ranks, row_block)) {
    if (runs.empty() || runs.back().bytes != shard.box.rows()) runs.push_back({0, shard.box.rows()});
    ++runs.back().ranks;
  }
  return runs;
}

inline std::int64_t ranks_of(const std::vector<RankRun>& runs) {
  std::int64_t ranks = 0;
  for (const auto& run : runs) ranks += run.ranks;
  return ranks;
}

/// How a block's shards are cut, when so many ranks share its rows.
inline ShardCut cut_of(std::int64_t columns, std::int64_t parts, bool in_one_node) {
  using Rows = ShardCut::Rows;
  return {columns, parts == 1 ? Rows::whole : in_one_node ? Rows::in_node : Rows::across, parts};
}

/// All that pricing a table takes.
struct Priced {
  const TableDescription& table;
  const ParameterConstraints& asked;
  const TableLoad& load;
  const TopologyFacts& facts;
  const PipelineStorage& storage;
};

/// Adds the price of `runs` ranks that hold so many rows each, of all columns from block to block.
inline PlanOption priced_option(const Priced& with, std::size_t table, ShardingKind kind, PlanOption::Place place, std::int64_t partition,
                                const std::vector<RankRun>& rows) {
  PlanOption option{.table = table, .kind = kind, .place = place, .partition = partition, .ranks = with.asked.ranks, .blocks = {}};
  const auto parts = ranks_of(rows);
  const bool replicated = kind == ShardingKind::data_parallel && with.facts.world_size > 1;
  const auto node_of = [&](int rank) { return rank / with.facts.ranks_per_node(); };
  bool in_one_node = parts <= with.facts.ranks_per_node();
  if (kind == ShardingKind::row_wise && !option.ranks.empty())
    in_one_node = std::all_of(option.ranks.begin(), option.ranks.begin() + parts,
                              [&](int rank) { return node_of(rank) == node_of(option.ranks.front()); });
  for (std::int64_t begin = 0; begin < with.table.embedding_dim; begin += partition) {
    OptionBlock block{.columns = std::min(partition, with.table.embedding_dim - begin), .runs = {}};
    const auto cut = replicated ? ShardCut{block.columns, ShardCut::Rows::replicated} : cut_of(block.columns, parts, in_one_node);
    block.seconds = shard_cost(with.table, with.load, with.facts, cut).total();
    const auto beside = lookup_bytes(with.table, with.load, with.facts, cut, with.storage);
    for (const auto& run : rows) {
      const auto bytes = with.table.bytes(run.bytes, block.columns) + beside;
      block.runs.push_back({run.ranks, bytes});
      std::int64_t of_run = 0;
      if (__builtin_mul_overflow(std::int64_t{run.ranks}, bytes, &of_run) || __builtin_add_overflow(option.bytes, of_run, &option.bytes))
        option.bytes = std::numeric_limits<std::int64_t>::max();                             // more than any memory
      option.largest = std::max(option.largest, bytes);
    }
    option.seconds += static_cast<double>(parts) * block.seconds;
    option.longest = std::max(option.longest, block.seconds);
    option.blocks.push_back(std::move(block));
  }
  return option;
}

/// Kinds that a table may be split by, each once.
inline std::vector<ShardingKind> allowed_kinds(const ParameterConstraints& asked, const TopologyFacts& facts) {
  using enum ShardingKind;
  if (!asked.kinds.empty()) {
    std::vector<ShardingKind> kinds;
    for (const auto kind : asked.kinds)
      if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
    return kinds;
  }
  if (!asked.ranks.empty() || facts.world_size == 1) return {table_wise};
  if (facts.nodes() == 1) return {data_parallel, table_wise, column_wise, row_wise};
  return {data_parallel, table_wise, column_wise, row_wise, table_row_wise, table_column_wise};
}

}  // namespace detail

/// All ways to split table number `index` that its constraints allow; kinds that come to the same for it are listed once.
/// Errors: PlanError when there are none.
inline std::vector<PlanOption> enumerate_options(const TableDescription& table, std::size_t index, const ParameterConstraints& asked,
                                                 const TableLoad& load, const TopologyFacts& facts, const PipelineStorage& storage) {
  using enum ShardingKind;
  using Place = PlanOption::Place;
  const detail::Priced with{table, asked, load, facts, storage};
  const auto kinds = detail::allowed_kinds(asked, facts);
  const auto allows = [&](ShardingKind kind) { return std::find(kinds.begin(), kinds.end(), kind) != kinds.end(); };
  const auto rows = table.num_embeddings, columns = table.embedding_dim, block = table.row_block();
  const auto partition = column_partition(columns, asked.min_partition > 0 ? asked.min_partition : 128);
  const std::vector<RankRun> whole{{1, rows}};
  std::vector<PlanOption> options;
  const auto add = [&](ShardingKind kind, Place place, std::int64_t width, const std::vector<RankRun>& runs) {
    options.push_back(detail::priced_option(with, index, kind, place, width, runs));
  };
  for (const auto kind : kinds) switch (kind) {
      case data_parallel:
        if (!table.managed_collision) add(kind, Place::all, columns, {{facts.world_size, rows}});
        break;
      case table_wise: add(kind, Place::rank, columns, whole); break;
      case column_wise:
        if (partition < columns || !allows(table_wise)) add(kind, Place::rank, partition, whole);
        break;
      case table_column_wise:
        if (partition < columns || !allows(table_wise)) add(kind, Place::node, partition, whole);
        break;
      case row_wise: {
        const auto ranks = asked.ranks.empty() ? facts.world_size : static_cast<int>(asked.ranks.size());
        const auto runs = detail::row_runs(rows, ranks, block);
        if (detail::ranks_of(runs) > 1 || !allows(table_wise)) add(kind, Place::all, columns, runs);
        break;
      }
      case table_row_wise: add(kind, Place::node, columns, detail::row_runs(rows, facts.ranks_per_node(), block)); break;
      case grid_shard:
        if (partition < columns || !allows(table_row_wise))
          add(kind, Place::node, partition, detail::row_runs(rows, facts.ranks_per_node(), block));
        break;
    }
  std::vector<std::string_view> names;
  for (const auto kind : kinds) names.push_back(to_string(kind));
  check<PlanError>(!options.empty(), "make_plan: table '", table.name,
                   "' has managed collision, whose ids need one place each, and may be ", names, " only");
  return options;
}

/// The shards of an option whose block number b lies on `places[b]`: a rank, or a node; of all ranks it says nothing.
inline std::vector<Shard> shards_of(const PlanOption& option, const int* places, const TableDescription& table,
                                    const TopologyFacts& facts) {
  using enum ShardingKind;
  const auto rows = table.num_embeddings, columns = table.embedding_dim;
  if (option.kind == data_parallel) return data_parallel_shards(rows, columns, facts.world_size);
  std::vector<Shard> shards;
  for (std::size_t b = 0; b < option.blocks.size(); ++b) {
    const auto begin = static_cast<std::int64_t>(b) * option.partition;
    const ShardBox box{0, rows, begin, begin + option.blocks[b].columns};
    if (option.kind == row_wise) {
      shards = row_wise_shards(box, option.ranks.empty() ? consecutive_ranks(0, facts.world_size) : option.ranks, table.row_block());
    } else if (option.kind == table_row_wise || option.kind == grid_shard) {
      const auto local = facts.ranks_per_node();
      const auto on_node = row_wise_shards(box, consecutive_ranks(places[b] * local, local), table.row_block());
      shards.insert(shards.end(), on_node.begin(), on_node.end());
    } else {
      shards.push_back({box, places[b]});
    }
  }
  return shards;
}

}  // namespace rookery
