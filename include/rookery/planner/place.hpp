// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

// place: the default plan. Constraints come first; the other tables go whole, by falling bytes, to the rank that holds least.
//
// Include cost: tensor.

#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <rookery/core/error.hpp>
#include <rookery/planner/plan.hpp>

namespace rookery {

/// What a user asks of one table's placement.
struct ParameterConstraints {
  std::vector<ShardingKind> kinds{};     // the first is taken; empty: table_wise
  std::vector<int> ranks{};              // where a table_wise table goes; empty: the least loaded rank
};

/// Constraints by table: the full name, or the config's name where that is unique.
using Constraints = std::map<std::string, ParameterConstraints>;

namespace detail {

/// The tables that a message can name: all of them, or the first eight and how many more there are.
inline std::string names_of(std::span<const TableDescription> tables) {
  constexpr std::size_t shown = 8;
  std::vector<std::string> names;
  for (const auto& table : tables.first(std::min(tables.size(), shown))) names.push_back(table.name);
  return concat(names, tables.size() > shown ? concat(" and ", tables.size() - shown, " more") : "");
}

}  // namespace detail

/// A plan for `tables` on `world_size` ranks; the same on every rank, whoever computes it.
/// Errors: PlanError for a constraint that names no table, several tables, or a rank that does not exist.
inline Plan place(std::span<const TableDescription> tables, int world_size, const Constraints& constraints = {}) {
  for (const auto& one : constraints) {
    const auto& name = one.first;
    const auto named = std::count_if(tables.begin(), tables.end(), [&](const auto& t) { return t.name == name || t.table == name; });
    if (named == 0) fail<PlanError>("constraints: no table '", name, "' in the model; there are ", detail::names_of(tables));
    check<PlanError>(named == 1, "constraints: '", name, "' names ", named, " tables of the model; it must name one");
    for (const auto rank : one.second.ranks)
      check<PlanError>(rank >= 0 && rank < world_size, "constraints: '", name, "' asks for rank ", rank, " of ", world_size);
  }
  const auto constraint_of = [&](const TableDescription& table) -> const ParameterConstraints* {
    auto found = constraints.find(table.name);
    if (found == constraints.end()) found = constraints.find(table.table);
    return found == constraints.end() ? nullptr : &found->second;
  };
  Plan plan;
  plan.world_size = world_size;
  plan.descriptions.assign(tables.begin(), tables.end());
  plan.tables.resize(tables.size());
  std::vector<std::int64_t> load(static_cast<std::size_t>(world_size));
  const auto put = [&](std::size_t t, std::vector<Shard> shards) {
    for (const auto& shard : shards)
      load[static_cast<std::size_t>(shard.rank)] += tables[t].bytes(shard.box.rows(), shard.box.columns());
    plan.tables[t] = {tables[t].name, std::move(shards)};
  };
  std::vector<std::size_t> free;
  for (std::size_t t = 0; t < tables.size(); ++t) {
    const auto* constraint = constraint_of(tables[t]);
    const bool split = constraint && !constraint->kinds.empty() && constraint->kinds.front() == ShardingKind::row_wise;
    if (split) put(t, row_wise_shards(tables[t].num_embeddings, tables[t].embedding_dim, world_size, tables[t].row_block()));
    else if (constraint && !constraint->ranks.empty())
      put(t, table_wise_shards(tables[t].num_embeddings, tables[t].embedding_dim, constraint->ranks.front()));
    else free.push_back(t);
  }
  std::sort(free.begin(), free.end(), [&](std::size_t a, std::size_t b) {
    return tables[a].bytes() != tables[b].bytes() ? tables[a].bytes() > tables[b].bytes() : a < b;
  });
  for (const auto t : free) {
    const auto least = std::min_element(load.begin(), load.end()) - load.begin();
    put(t, table_wise_shards(tables[t].num_embeddings, tables[t].embedding_dim, static_cast<int>(least)));
  }
  return plan;
}

}  // namespace rookery
