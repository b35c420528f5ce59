// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// place: the default plan. Constraints come first; the other tables go whole, by falling bytes, to the rank that holds least.
// complete: a plan by hand, met with the tables that it is for.
//
// Include cost: tensor.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/kernels/cpu/transpose.hpp>
#include <rookery/planner/plan.hpp>

namespace rookery {

/// What a user asks of one table's placement, and says of its batches. The default placement takes the first kind and looks at no
/// batches; planning by cost (planner/planner.hpp) chooses among the kinds.
struct ParameterConstraints {
  std::vector<ShardingKind> kinds{};     // that are allowed; empty: table_wise, or by cost all but grid_shard
  std::vector<int> ranks{};              // that hold shards, in turn; of kinds on nodes the first names the node; empty: any
  std::int64_t min_partition = 0;        // columns of a shard at least, where columns are split; 0: as many shards as ranks or nodes,
                                         // or by cost 128
  std::vector<double> pooling_factors{}; // ids of a bag on average, for each feature or one for all; empty: 1
  std::vector<double> num_poolings{};    // bags of a sample, in the same way; empty: 1
  std::vector<std::int64_t> batch_sizes{};   // of a rank, in the same way; empty: that of the planner's options
  bool hierarchical = false;             // sums of row shards are added up inside a node before they leave it, where a node has several
};

/// Constraints by table: the full name, or the config's name where that is unique.
using Constraints = std::map<std::string, ParameterConstraints>;

namespace detail {

/// What is asked of a table; nothing where no constraint names it.
[[gnu::cold]] inline const ParameterConstraints& constraint_of(const Constraints& constraints, const TableDescription& table) {
  static const ParameterConstraints none;
  auto found = constraints.find(table.name);
  if (found == constraints.end()) found = constraints.find(table.table);
  return found == constraints.end() ? none : found->second;
}

/// The tables that a message can name: all of them, or the first eight and how many more there are.
[[gnu::cold]] inline std::string names_of(std::span<const TableDescription> tables) {
  constexpr std::size_t shown = 8;
  std::vector<std::string> names;
  for (const auto& table : tables.first(std::min(tables.size(), shown))) names.push_back(table.name);
  return concat(names, tables.size() > shown ? concat(" and ", tables.size() - shown, " more") : "");
}

/// Errors: PlanError for a constraint that names no table, several tables, or a rank that does not exist.
inline void check_constraints(std::span<const TableDescription> tables, const Constraints& constraints, int world_size) {
  for (const auto& one : constraints) {
    const auto& name = one.first;
    const auto named = std::count_if(tables.begin(), tables.end(), [&](const auto& t) { return t.name == name || t.table == name; });
    if (named == 0) fail<PlanError>("constraints: no table '", name, "' in the model; there are ", names_of(tables));
    check<PlanError>(named == 1, "constraints: '", name, "' names ", named, " tables of the model; it must name one");
    for (const auto rank : one.second.ranks)
      check<PlanError>(rank >= 0 && rank < world_size, "constraints: '", name, "' asks for rank ", rank, " of ", world_size);
    check<PlanError>(one.second.min_partition >= 0, "constraints: '", name, "' asks for shards of ", one.second.min_partition, " columns");
  }
}

/// In place of a number of ranks on each node: nodes have different ones.
inline constexpr int nodes_differ = -1;

/// Whether several shards on a node of `local_world_size` ranks have the same columns and some of the rows each.
[[gnu::cold]] inline bool adds_up_in_nodes(const std::vector<Shard>& shards, const TableDescription& table, int local_world_size) {
  for (std::size_t i = 0; i < shards.size(); ++i)
    for (std::size_t j = 0; j < i && shards[i].box.rows() < table.num_embeddings; ++j)
      if (shards[i].rank / local_world_size == shards[j].rank / local_world_size &&
          shards[i].box.column_begin == shards[j].box.column_begin && shards[i].box.column_end == shards[j].box.column_end)
        return true;
  return false;
}

/// Puts tables on ranks one after the other, each where least lies.
class Placer {
 public:
  Placer(std::span<const TableDescription> tables, int world_size, int local_world_size)
      : tables_(tables), local_(local_world_size), load_(static_cast<std::size_t>(world_size)), shards_(tables.size()),
        hierarchical_(tables.size()) {
    check<PlanError>(local_ == nodes_differ || (local_ > 0 && world_size % local_ == 0), "Plan: ", world_size, " ranks on nodes of ",
                     local_, "; every node must have as many");
  }

  [[gnu::cold]] void put(std::size_t t, ShardingKind kind, const ParameterConstraints& asked) {
    const auto& table = tables_[t];
    hierarchical_[t] = asked.hierarchical;
    check<PlanError>(local_ > 0 || !is_on_nodes(kind), "Plan: table '", table.name, "' is ", to_string(kind),
                     ", which is for nodes of as many ranks each; those of this topology differ");
    const auto rows = table.num_embeddings, columns = table.embedding_dim;
    const auto ranks = static_cast<int>(load_.size());
    const auto partition = [&](int parts) {
      return asked.min_partition > 0 ? column_partition(columns, asked.min_partition) : even_column_partition(columns, parts);
    };
    const auto among = [&](int first, int count) { return asked.ranks.empty() ? consecutive_ranks(first, count) : asked.ranks; };
    switch (kind) {
      case ShardingKind::data_parallel: return keep(t, data_parallel_shards(rows, columns, ranks));
      case ShardingKind::table_wise: return keep(t, least_loaded(table_wise_shards(rows, columns, 0), among(0, ranks), table));
      case ShardingKind::column_wise: return keep(t, columns_on(table, partition(ranks), asked.ranks, 0, ranks));
      case ShardingKind::row_wise: return keep(t, row_wise_shards({0, rows, 0, columns}, among(0, ranks), table.row_block()));
      case ShardingKind::table_row_wise:
        return keep(t, grid_shards(rows, columns, columns, nodes(), local_, node_of(asked), table.row_block()));
      case ShardingKind::table_column_wise: return keep(t, columns_on(table, partition(local_), {}, node_of(asked) * local_, local_));
      case ShardingKind::grid_shard:
        return keep(t, grid_shards(rows, columns, partition(nodes()), nodes(), local_, node_of(asked), table.row_block()));
    }
  }
  [[gnu::cold]] void put(std::size_t t, std::vector<Shard> shards, bool hierarchical) {
    hierarchical_[t] = hierarchical;
    keep(t, std::move(shards));
  }
  /// What has been put, by the tables' full names.
  Plan plan() {
    Plan plan;
    plan.world_size = static_cast<int>(load_.size());
    plan.descriptions.assign(tables_.begin(), tables_.end());
    for (std::size_t t = 0; t < tables_.size(); ++t) {
      const bool hierarchical = hierarchical_[t] && sums_in_nodes(t);
      plan.tables.push_back({.table = tables_[t].name, .shards = std::move(shards_[t]), .hierarchical = hierarchical});
    }
    return plan;
  }

 private:
  [[gnu::cold]] void keep(std::size_t t, std::vector<Shard> shards) {
    for (const auto& shard : shards)
      load_[static_cast<std::size_t>(shard.rank)] += tables_[t].bytes(shard.box.rows(), shard.box.columns());
    shards_[t] = std::move(shards);
  }
  /// Whether a node has several shards of the same columns, whose sums can be added up before they leave it.
  [[gnu::cold]] bool sums_in_nodes(std::size_t t) const {
    check<PlanError>(local_ > 0, "Plan: table '", tables_[t].name,
                     "' is hierarchical, which is for nodes of as many ranks each; those of this topology differ");
    return nodes() > 1 && adds_up_in_nodes(shards_[t], tables_[t], local_);
  }
  int nodes() const { return static_cast<int>(load_.size()) / local_; }
  /// The node of the first rank asked for, or the one that holds least.
  [[gnu::cold]] int node_of(const ParameterConstraints& asked) const {
    if (!asked.ranks.empty()) return asked.ranks.front() / local_;
    int least = 0;
    for (int node = 1; node < nodes(); ++node)
      if (load_of_node(node) < load_of_node(least)) least = node;
    return least;
  }
  [[gnu::cold]] std::int64_t load_of_node(int node) const {
    std::int64_t load = 0;
    for (int rank = node * local_; rank < (node + 1) * local_; ++rank) load += load_[static_cast<std::size_t>(rank)];
    return load;
  }
  /// Column shards on `asked` in turn, or each where least lies of `count` ranks.
  [[gnu::cold]] std::vector<Shard> columns_on(const TableDescription& table, std::int64_t partition, const std::vector<int>& asked,
                                              int first, int count) {
    auto shards = column_wise_shards(table.num_embeddings, table.embedding_dim, partition, asked.empty() ? std::vector{first} : asked);
    return asked.empty() ? least_loaded(std::move(shards), consecutive_ranks(first, count), table) : shards;
  }
  /// Gives each shard to the rank that holds least; of ranks that hold the same, to the first.
  [[gnu::cold]] std::vector<Shard> least_loaded(std::vector<Shard> shards, const std::vector<int>& ranks,
                                                const TableDescription& table) const {
    auto load = load_;
    for (auto& shard : shards) {
      shard.rank = ranks.front();
      for (const int rank : ranks)
        if (load[static_cast<std::size_t>(rank)] < load[static_cast<std::size_t>(shard.rank)]) shard.rank = rank;
      load[static_cast<std::size_t>(shard.rank)] += table.bytes(shard.box.rows(), shard.box.columns());
    }
    return shards;
  }

  std::span<const TableDescription> tables_;
  int local_;
  std::vector<std::int64_t> load_;       // bytes by rank
  std::vector<std::vector<Shard>> shards_;
  std::vector<char> hierarchical_;
};

/// Errors: PlanError where a plan says of a table that it has another size or dtype.
[[gnu::cold]] inline void check_described(const Plan& plan, std::string_view name, const TableDescription& table) {
  for (const auto& one : plan.descriptions) {
    if (one.name != name) continue;
    const bool same = one.num_embeddings == table.num_embeddings && one.embedding_dim == table.embedding_dim &&
                      one.data_type == table.data_type;
    check<PlanError>(same, "Plan: it is for a table '", name, "' of [", one.num_embeddings, ", ", one.embedding_dim, "] ",
                     c10::toString(one.data_type), ", and the model's is [", table.num_embeddings, ", ", table.embedding_dim, "] ",
                     c10::toString(table.data_type));
    return;
  }
}

}  // namespace detail

/// A plan for `tables` on `world_size` ranks, `local_world_size` of them on each node (0: all on one, detail::nodes_differ: not as many on
/// each); the same on every rank, whoever computes it.
/// Errors: PlanError for a constraint that names no table, several tables, or a rank that does not exist, and for kinds on nodes where
///         nodes are of unlike size.
inline Plan place(std::span<const TableDescription> tables, int world_size, const Constraints& constraints = {}, int local_world_size = 0) {
  if (local_world_size == 0) local_world_size = world_size;
  detail::check_constraints(tables, constraints, world_size);
  detail::check_bytes(tables);
  detail::Placer placer(tables, world_size, local_world_size);
  std::vector<std::size_t> free;
  for (std::size_t t = 0; t < tables.size(); ++t) {
    const auto& asked = detail::constraint_of(constraints, tables[t]);
    if (asked.kinds.empty() && asked.ranks.empty()) free.push_back(t);
    else placer.put(t, asked.kinds.empty() ? ShardingKind::table_wise : asked.kinds.front(), asked);
  }
  std::vector<std::int64_t> smallness;                       // falling bytes are rising distances from the most
  for (const auto t : free) smallness.push_back(std::numeric_limits<std::int64_t>::max() - tables[t].bytes());
  for (const auto i : kernels::transpose(smallness).order) placer.put(free[static_cast<std::size_t>(i)], ShardingKind::table_wise, {});
  return placer.plan();
}

/// A plan for all of `tables`, by their full names and in their order, out of one that was made elsewhere or by hand; what it asks by kind
/// has shards then. The same on every rank, whoever computes it. validate() says whether it covers the tables.
/// Errors: PlanError for a plan of other tables, sizes, dtypes or another number of ranks, for shards that lie outside, for fields that do
///         not go together, and for kinds on nodes where nodes are of unlike size; ConfigError for tables of more than 2^63 bytes.
inline Plan complete(const Plan& given, std::span<const TableDescription> tables, int world_size, int local_world_size = 0) {
  if (local_world_size == 0) local_world_size = world_size;
  check<PlanError>(given.world_size == 0 || given.world_size == world_size, "Plan: it is for ", given.world_size, " ranks and there are ",
                   world_size);
  detail::check_planned_tables(given, tables);
  detail::check_bytes(tables);
  detail::Placer placer(tables, world_size, local_world_size);
  std::vector<std::size_t> by_kind;
  for (std::size_t t = 0; t < tables.size(); ++t) {
    const auto& planned = given.of(tables[t]);
    detail::check_described(given, planned.table, tables[t]);
    if (const auto* mistake = detail::mistake_of_fields(tables[t], planned))
      fail<PlanError>("Plan: table '", tables[t].name, "' has kind ", planned.kind ? to_string(*planned.kind) : "none", ", ",
                      planned.shards.size(), " shards, ranks ", planned.ranks, ", min_partition ", planned.min_partition,
                      ", hierarchical ", planned.hierarchical, "; ", mistake);
    for (const int rank : planned.ranks) detail::check_rank(tables[t], rank, world_size);
    for (const auto& shard : planned.shards) detail::check_shard(tables[t], shard, world_size);
    check<PlanError>(planned.min_partition >= 0 && planned.min_partition < std::int64_t{1} << 40, "Plan: table '", tables[t].name,
                     "' asks for shards of ", planned.min_partition, " columns");
    if (planned.kind) by_kind.push_back(t);
    else placer.put(t, planned.shards, planned.hierarchical);
  }
  for (const auto t : by_kind) {
    const auto& planned = given.of(tables[t]);
    placer.put(t, *planned.kind,
               {.kinds = {}, .ranks = planned.ranks, .min_partition = planned.min_partition, .hierarchical = planned.hierarchical});
  }
  return placer.plan();
}

}  // namespace rookery
